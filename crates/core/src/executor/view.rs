//! What an executor looks like, and how it is steered.

use std::sync::{Weak, atomic::Ordering};

use futures_util::{FutureExt, future::BoxFuture};

use super::{Executor, ExecutorPool};
use crate::{
    event::{Event, Phase},
    task::LaneKind,
    watch::{Command, Detail, Events, Handle, Steer, Unsupported, View, ViewKind},
};

impl Executor {
    /// Returns what it looks like now: one part for each engine, which is each lane that was used
    /// and each isolated function.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn view(&self) -> View {
        look(self.0.parts(), self.0.frame()).await
    }

    /// Listens to what happens from now on; keeps at most `capacity` events that are not read. A
    /// call's number is its lane's own.
    pub fn events(&self, capacity: usize) -> Events<Event> {
        self.0.events.listen(Detail::Tasks, capacity)
    }

    /// Steers and asks it, for as long as it lives: a handle does not keep it.
    pub fn handle(&self) -> Handle {
        Handle::new(std::sync::Arc::new(OfPool(std::sync::Arc::downgrade(&self.0))))
    }
}

/// An engine of a pool, as far as a view needs it.
type Asked = (LaneKind, BoxFuture<'static, Option<View>>);

impl ExecutorPool {
    fn parts(&self) -> Vec<Asked> {
        self.each(|part| {
            let (lane, engine) = (part.lane(), part.engine().clone());
            (lane, async move { Some(engine.snapshot().await?.into_view(ViewKind::Lane, lane.as_str())) }.boxed())
        })
    }

    /// Returns the view without its parts.
    fn frame(&self) -> View {
        let mut view = View::new(ViewKind::Executor, "");
        view.age = self.began.elapsed();
        view.phase = if self.is_closed() { Phase::Draining } else { Phase::Running };
        view.counts = self.tally.counts();
        view.events_missed = self.events.missed();
        view
    }
}

async fn look(parts: Vec<Asked>, mut view: View) -> View {
    for (_, part) in parts {
        // An engine that has ended says nothing more; its calls are in the counts.
        let Some(part) = part.await else { continue };
        // Isolated functions have an engine each, on one lane.
        for lane in &part.lanes {
            match view.lanes.iter_mut().find(|known| known.lane == lane.lane) {
                Some(known) => {
                    known.slots += lane.slots;
                    known.running += lane.running;
                    known.waiting += lane.waiting;
                }
                None => view.lanes.push(*lane),
            }
        }
        view.waiting.extend(part.waiting.iter().cloned());
        view.running_more += part.running_more;
        view.running.extend(part.running.iter().cloned());
        if part.stalled.times > 0 {
            view.stalled = part.stalled.clone();
        }
        if part.phase == Phase::Paused {
            view.phase = Phase::Paused;
        }
        view.parts.push(part);
    }
    view.running.sort_by_key(|task| std::cmp::Reverse(task.age));
    view.cut_running(crate::watch::MOST_RUNNING);
    view
}

struct OfPool(Weak<ExecutorPool>);

impl Steer for OfPool {
    fn steer(&self, command: Command) -> Result<(), Unsupported> {
        let Some(pool) = self.0.upgrade() else { return Ok(()) };
        match command {
            Command::Concurrency { lane: Some(lane), most } => {
                pool.set[lane as usize].store(most.max(1), Ordering::Relaxed);
                pool.tally.lent_again();
                pool.each(|part| {
                    // The blocking lane has more while threads wait for calls; it was told with
                    // those.
                    if part.lane() == lane && lane != LaneKind::Blocking {
                        part.engine().set_concurrency(Some(lane), most.max(1));
                    }
                });
            }
            Command::Concurrency { lane: None, .. } => {
                return Err(Unsupported::new(&command, "an executor has a number for each lane, and none over all"));
            }
            Command::Rate { .. } => return Err(Unsupported::new(&command, "an executor has no rate")),
            Command::Timeout { .. } => return Err(Unsupported::new(&command, "an executor's limit is set when it is made")),
            Command::Drain => {
                pool.close();
                pool.each(|part| part.engine().drain());
            }
            Command::Stop { .. } => pool.cancel(),
            command @ (Command::Pause | Command::Resume) => {
                pool.each(|part| part.engine().obey(command.clone()));
            }
        }
        Ok(())
    }

    fn view(&self) -> BoxFuture<'static, Option<View>> {
        let asked = self.0.upgrade().map(|pool| (pool.parts(), pool.frame()));
        async move {
            let (parts, frame) = asked?;
            Some(look(parts, frame).await)
        }
        .boxed()
    }
}

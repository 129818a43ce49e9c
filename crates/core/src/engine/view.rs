//! From what an engine says of itself to the view that all that runs has.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    handle::{Handle, Snapshot},
    stats::RunningTask,
};
use crate::{
    gate::Reason,
    task::LaneKind,
    watch::{self, Command, LaneView, Refused, RunningView, Stall, Stalled, Steer, Unsupported, View, ViewKind, Waited, Waiting},
};

impl Snapshot {
    /// Returns this as a view of something of this kind and name. Products add what only they know.
    #[must_use]
    pub fn into_view(self, kind: ViewKind, name: impl Into<String>) -> View {
        self.into_view_named(kind, name, |_| Named::default())
    }

    /// As [`into_view`](Snapshot::into_view); `named` says what others call a task that runs.
    #[must_use]
    pub fn into_view_named(self, kind: ViewKind, name: impl Into<String>, named: impl Fn(&RunningTask) -> Named) -> View {
        let summary = self.summary;
        let mut view = View::new(kind, name);
        view.age = summary.wall;
        view.phase = self.phase;
        let parked =
            |lane: LaneKind| self.waiting.iter().filter(|(reason, _)| *reason == Reason::Lane { lane }).map(|(_, tasks)| tasks).sum();
        let running = |lane: LaneKind| self.running.iter().filter(|task| task.lane == lane).count();
        let lane = |lane: LaneKind| LaneView::new(lane, self.lanes[lane as usize], running(lane), parked(lane));
        view.lanes = LaneKind::ALL.into_iter().map(lane).filter(|lane| lane.slots + lane.running > 0).collect();
        view.concurrency = self.concurrency;
        view.rate = self.rate;
        view.retrying = self.retrying;
        view.refusal = (self.refusal.reason != Reason::Empty).then(|| Refused::new(self.refusal.reason, self.until_in));
        view.waited = summary.waited.into_iter().map(|(reason, time)| Waited::new(reason, time)).collect();
        view.running_more = self.running.len().saturating_sub(watch::MOST_RUNNING);
        view.stalled = Stalled::new(
            summary.stalled,
            self.stall.map(|stall| {
                let task = self.running.iter().find(|task| task.id == stall.id);
                let name = task.map(|task| named(task).name).unwrap_or_default();
                Stall::new(stall.id, name, before(view.at, stall.ago), stall.holds)
            }),
        );
        view.running = self
            .running
            .iter()
            .take(watch::MOST_RUNNING)
            .map(|task| {
                let Named { name, label } = named(task);
                let RunningTask { id, attempt, lane, slot, age, .. } = *task;
                let mut running = RunningView::default();
                (running.id, running.name, running.label, running.lane, running.slot) = (id, name, label, lane, slot);
                (running.attempt, running.age) = (attempt, age);
                running
            })
            .collect();
        view.waiting = self.waiting.into_iter().map(|(reason, tasks)| Waiting::new(reason, tasks)).collect();
        view.counts = summary.counts;
        (view.run, view.wait) = (self.run, self.wait);
        view.labels = self.labels;
        view.events_missed = summary.events_dropped;
        view.error = summary.error;
        view
    }
}

/// Name that others have for a task, and what it is.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// A message's id, a record's place.
    pub name: String,
    /// A task's name, a command.
    pub label: String,
}

fn before(at: SystemTime, time: Duration) -> SystemTime {
    at.checked_sub(time).unwrap_or(at)
}

impl Handle {
    /// Returns the handle that all that runs has, on an engine that is the whole of something of
    /// this kind and name.
    #[must_use]
    pub fn watch(&self, kind: ViewKind, name: impl Into<Arc<str>>) -> watch::Handle {
        watch::Handle::new(Arc::new(EngineSteer { engine: self.clone(), kind, name: name.into() }))
    }

    /// Does what it is told: an engine can do all of it.
    pub fn obey(&self, command: Command) {
        match command {
            Command::Pause => self.pause(),
            Command::Resume => self.resume(),
            Command::Concurrency { lane, most } => self.set_concurrency(lane, most),
            Command::Rate { rate } => self.set_rate(rate),
            Command::Timeout { timeout } => self.set_timeout(timeout),
            Command::Drain => self.drain(),
            Command::Stop { how } => self.stop(how),
        }
    }
}

/// An engine that is the whole of something.
struct EngineSteer {
    engine: Handle,
    kind: ViewKind,
    name: Arc<str>,
}

impl Steer for EngineSteer {
    fn steer(&self, command: Command) -> Result<(), Unsupported> {
        self.engine.obey(command);
        Ok(())
    }

    fn view(&self) -> BoxFuture<'static, Option<View>> {
        let (engine, kind, name) = (self.engine.clone(), self.kind, self.name.clone());
        async move { Some(engine.snapshot().await?.into_view(kind, &*name)) }.boxed()
    }
}

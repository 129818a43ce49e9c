//! The lane of children that are talked to: a thread for each child takes tasks from one queue, as
//! many at once as its child may have.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use longshore_sys::poll::set_nonblocking;

use super::{
    ChildLimits, Waited, WorkQueue,
    link::{ChildKind, ChildLink as _},
    seat::{ChildAnswer, ChildSeat, Errand, Feed, SeatKind},
};
use crate::{
    cancel::{CancelToken, Stop},
    clock::Clock,
    error::TaskError,
    lane::{Context, Lane, Outbox, caught, child::Children},
    outcome::Outcome,
    task::{Attempt, Finished},
};

/// Handler of tasks by children: what a child is told of a task, and what its answer means.
pub struct ChildHandler<T, R> {
    /// The work, as the child reads it. Runs again where another child gets the task.
    pub work: Box<dyn Fn(&Context, &T) -> Result<Vec<u8>, TaskError> + Send + Sync>,
    /// The outcome that an answer stands for.
    pub answer: Box<dyn Fn(&Context, T, ChildAnswer) -> Outcome<R> + Send + Sync>,
    /// After this time the child is asked to end the task.
    pub soft: fn(&T) -> Option<Duration>,
    /// Returns true if nobody wants the result any more: the child is killed then. `None` where
    /// that cannot be.
    pub called_off: Option<fn(&T) -> bool>,
}

/// The lane of children that are talked to.
pub struct ChildLane<T, R, K: ChildKind>(Arc<ChildCrew<T, R, K>>);

/// State that the threads of the children share.
struct ChildCrew<T, R, K> {
    kind: K,
    handler: ChildHandler<T, R>,
    limits: ChildLimits,
    children: Children,
    outbox: Outbox<T, R>,
    clock: Clock,
    /// Attempts that wait, and whether the errand is doubtful.
    queue: WorkQueue<(Attempt<T>, bool)>,
    /// Tasks that children have.
    flying: AtomicUsize,
    bells: Mutex<Vec<Arc<Bell>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Wakes a thread that waits for its child and has room for another task.
struct Bell {
    is_awaited: AtomicBool,
    ring: PipeWriter,
}

impl<T, R, K> ChildLane<T, R, K>
where
    T: Send + 'static,
    R: Send + 'static,
    K: ChildKind + 'static,
{
    /// Makes a lane of this many children at most, which start when there is work. They are entered
    /// in `children`, in the slots from 0.
    pub fn new(
        kind: K,
        handler: ChildHandler<T, R>,
        size: usize,
        limits: ChildLimits,
        children: Children,
        outbox: Outbox<T, R>,
        clock: Clock,
    ) -> Self {
        let (queue, flying, bells, threads) = (WorkQueue::new(size), AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Self(Arc::new(ChildCrew { kind, handler, limits, children, outbox, clock, queue, flying, bells, threads }))
    }

    /// Ends all children, side by side: their input ends, and whoever has not ended after the
    /// farewell gets SIGTERM, then SIGKILL. To be called when nothing runs any more. Blocks until
    /// they have gone.
    pub fn end(&self) {
        self.0.queue.close();
        for thread in std::mem::take(&mut *lock(&self.0.threads)) {
            let _ = thread.join();
        }
    }
}

impl<T, R, K> Lane<T, R> for ChildLane<T, R, K>
where
    T: Send + 'static,
    R: Send + 'static,
    K: ChildKind + 'static,
{
    fn start(&self, batch: &mut Vec<Attempt<T>>) {
        let crew = &self.0;
        if let Err((lost, error)) = crew.queue.add(batch.drain(..).map(|attempt| (attempt, false)), |slot| crew.spawn(slot)) {
            crew.give_up(lost, &Outcome::Lost(format!("no thread for the process lane: {error}")));
        }
        for bell in lock(&crew.bells).iter().filter(|bell| bell.is_awaited.swap(false, Ordering::SeqCst)) {
            // A bell that rings already is heard.
            let _ = (&bell.ring).write(&[0]);
        }
    }

    fn stop(&self, how: Stop) {
        self.0.give_up(self.0.queue.stop(how), &Outcome::Cancelled);
        self.0.children.stop(how);
    }
}

impl<T, R, K: ChildKind> Drop for ChildLane<T, R, K> {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

impl<T, R, K> ChildCrew<T, R, K> {
    fn give_up(&self, attempts: Vec<(Attempt<T>, bool)>, outcome: &Outcome<Infallible>) {
        let ended = attempts.into_iter().map(|(attempt, _)| attempt.unstarted(outcome.clone().map(|never| match never {})));
        self.outbox.finish(&mut ended.collect());
    }
}

impl<T, R, K> ChildCrew<T, R, K>
where
    T: Send + 'static,
    R: Send + 'static,
    K: ChildKind + 'static,
{
    /// Starts the thread of a child.
    fn spawn(self: &Arc<Self>, slot: u32) -> io::Result<()> {
        let (listen, ring) = io::pipe()?;
        set_nonblocking(&listen)?;
        set_nonblocking(&ring)?;
        let bell = Arc::new(Bell { is_awaited: AtomicBool::new(false), ring });
        let feed = LaneFeed { crew: self.clone(), slot, bell: bell.clone(), listen, held: HashMap::new(), next: 0 };
        let thread = thread::Builder::new().name(format!("child-{slot}")).spawn(move || feed.serve())?;
        lock(&self.threads).push(thread);
        lock(&self.bells).push(bell);
        Ok(())
    }
}

/// A child's share of the lane's work.
struct LaneFeed<T, R, K> {
    crew: Arc<ChildCrew<T, R, K>>,
    slot: u32,
    bell: Arc<Bell>,
    listen: PipeReader,
    /// The tasks that the child has, by the numbers that it knows them by.
    held: HashMap<u64, (Attempt<T>, Context)>,
    next: u64,
}

impl<T, R, K> LaneFeed<T, R, K>
where
    T: Send + 'static,
    R: Send + 'static,
    K: ChildKind + 'static,
{
    fn serve(mut self) {
        let crew = self.crew.clone();
        let own = SeatKind { kind: &crew.kind, limits: &crew.limits, children: &crew.children };
        let mut seat = ChildSeat::<K>::new(self.slot);
        loop {
            match crew.queue.wait(crew.limits.max_idle.filter(|_| seat.has_child())) {
                Waited::Work(state) => drop(state),
                Waited::Idle => {
                    seat.take().into_iter().for_each(|link| link.retire(&crew.limits));
                    continue;
                }
                Waited::Closed => break,
            }
            seat.run(own, &mut self);
        }
        seat.take().into_iter().for_each(|link| link.retire(&crew.limits));
    }

    /// Ends a task that no child had.
    fn unstarted(&self, attempt: Attempt<T>, outcome: Outcome<R>) {
        self.crew.outbox.finish_one(attempt.unstarted(outcome));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns how many tasks a child may have at most when so many wait and so many are with children:
/// no more than a fair share, for what one holds the others cannot begin.
fn fair_share(waiting: usize, flying: usize, children: usize) -> usize {
    (waiting + flying).div_ceil(children.max(1)).max(1)
}

impl<T, R, K> Feed for LaneFeed<T, R, K>
where
    T: Send + 'static,
    R: Send + 'static,
    K: ChildKind + 'static,
{
    fn next(&mut self) -> Option<Errand> {
        // Before the look at the queue, so that what comes after it rings.
        self.bell.is_awaited.store(true, Ordering::SeqCst);
        loop {
            let (attempt, is_doubtful) = {
                let mut state = self.crew.queue.look()?;
                let flying = self.crew.flying.load(Ordering::Relaxed);
                // None holds more than its fair share, or the last tasks would wait behind it while
                // other children have nothing to do.
                if self.held.len() >= fair_share(state.waiting.len(), flying, self.crew.queue.size) {
                    return None;
                }
                state.waiting.pop_front()?
            };
            let task = &attempt.task;
            let context = Context {
                id: task.id,
                attempt: task.attempt,
                lane: task.lane,
                slot: task.slot,
                timeout: attempt.limit(),
                cancel: CancelToken::new(),
            };
            let mut work = Vec::new();
            let made = caught(|| match (self.crew.handler.work)(&context, &attempt.payload) {
                Ok(bytes) => {
                    work = bytes;
                    Outcome::Ok(())
                }
                Err(error) => Outcome::Failed(error),
            });
            if !made.is_ok() {
                self.unstarted(attempt, made.map(|()| unreachable!("it is no success")));
                continue;
            }
            let (id, soft, hard) = (self.next, (self.crew.handler.soft)(&attempt.payload), attempt.limit());
            self.next += 1;
            self.crew.flying.fetch_add(1, Ordering::Relaxed);
            self.held.insert(id, (attempt, context));
            return Some(Errand { id, work, soft, hard, is_doubtful });
        }
    }

    fn may_begin(&mut self, id: u64) -> bool {
        !self.is_called_off(id)
    }

    fn again(&mut self, errand: Errand) {
        let Some((attempt, _)) = self.held.remove(&errand.id) else { return };
        self.crew.flying.fetch_sub(1, Ordering::Relaxed);
        let ended = self.crew.queue.put_back(std::iter::once((attempt, errand.is_doubtful)), |slot| self.crew.spawn(slot));
        self.crew.give_up(ended, &Outcome::Cancelled);
    }

    fn ended(&mut self, id: u64, since: Option<Instant>, answer: ChildAnswer) {
        let Some((Attempt { task, payload, admitted, .. }, context)) = self.held.remove(&id) else { return };
        self.crew.flying.fetch_sub(1, Ordering::Relaxed);
        let outcome = caught(|| (self.crew.handler.answer)(&context, payload, answer));
        let started = since.map_or(admitted, Into::into);
        self.crew.outbox.finish_one(Finished { slot: task.slot, task, outcome, started, ended: self.crew.clock.now().into(), cpu: None });
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listen.as_fd())
    }

    fn hear_bell(&mut self) {
        while matches!((&self.listen).read(&mut [0; 64]), Ok(64)) {}
    }

    fn is_called_off(&self, id: u64) -> bool {
        let called_off = self.crew.handler.called_off;
        called_off.is_some_and(|called_off| self.held.get(&id).is_some_and(|(attempt, _)| called_off(&attempt.payload)))
    }

    fn may_call_off(&self) -> bool {
        self.crew.handler.called_off.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_its_share_of_what_there_is_and_no_more() {
        for (waiting, flying, children, share) in [(1, 0, 4, 1), (4, 0, 2, 2), (2, 2, 2, 2), (5, 0, 2, 3), (100, 4, 1, 104), (0, 0, 3, 1)] {
            assert_eq!(fair_share(waiting, flying, children), share, "{waiting} {flying} {children}");
        }
    }
}

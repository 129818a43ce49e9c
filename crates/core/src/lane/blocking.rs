//! The blocking lane: a thread for each running attempt, for calls that block.
//!
//! There are never more threads than attempts were in hand at once, so the gate's slots bound their
//! number. The thread that was idle last is called first: its memory is still near, and those that
//! are not needed idle for long and end. A thread cannot be ended from outside: an attempt that
//! passes its timeout gets its outcome at once, its token is cancelled, and its thread is left to
//! itself and replaced.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crate::{
    cancel::CancelToken,
    clock::Clock,
    lane::{Context, Lane, Outbox, Stop, SyncHandler, called},
    outcome::Outcome,
    stamp::Span,
    task::{Attempt, EngineTask, Finished},
};

/// Threads that may be left behind with an attempt that did not end in time, as a multiple of the
/// most that ever ran; beyond, the lane gets smaller.
const ABANDONED: usize = 4;
/// Time after which an idle thread ends.
const IDLE: Duration = Duration::from_secs(10);

/// The blocking lane.
pub struct BlockingLane<T, R>(Arc<BlockingPool<T, R>>);

/// Work of a thread with an attempt: returns the outcome and, where it was measured, the CPU time.
pub(crate) type BlockingWork<T, R> = Box<dyn Fn(&Context, T) -> (Outcome<R>, Option<Duration>) + Send + Sync>;

/// A pool of threads, each with one attempt at a time. The process lane stands on it too.
pub(crate) struct BlockingPool<T, R> {
    name: &'static str,
    work: BlockingWork<T, R>,
    outbox: Outbox<T, R>,
    clock: Clock,
    /// True if the pool ends attempts that pass their timeout. The process lane does that itself,
    /// by killing the child.
    abandons: bool,
    /// An idle thread ends after this time.
    idle: Duration,
    state: Mutex<BlockingState<T>>,
    tick: Condvar,
}

struct BlockingState<T> {
    queue: VecDeque<Attempt<T>>,
    seats: Vec<Option<BusySeat<T>>>,
    /// Attempts that run and have no outcome yet.
    running: usize,
    /// Threads that wait to be called, the last to come last. Whoever calls one takes it out.
    idle: Vec<Thread>,
    /// All but the abandoned.
    threads: usize,
    abandoned: usize,
    most: usize,
    keeper: bool,
    stop: Option<Stop>,
    closed: bool,
}

/// An attempt that a thread is running.
struct BusySeat<T> {
    /// Taken by whoever ends the attempt: its thread, or the keeper of the timeouts.
    task: Option<EngineTask<T>>,
    started: Instant,
    deadline: Option<Instant>,
    token: CancelToken,
}

impl<T> BlockingState<T> {
    /// Returns true if there are fewer threads than attempts in hand.
    fn is_short(&self) -> bool {
        self.threads < self.queue.len() + self.running
    }

    /// Notes that `count` running attempts were given their outcomes, and that their threads are
    /// left to themselves.
    fn abandon(&mut self, count: usize) {
        self.running -= count;
        self.threads -= count;
        self.abandoned += count;
    }
}

impl<T: Send + 'static, R: Send + 'static> BlockingLane<T, R> {
    /// Makes a lane that runs this handler.
    pub fn new(handler: SyncHandler<T, R>, outbox: Outbox<T, R>, clock: Clock) -> Self {
        Self::with(handler, outbox, clock, true)
    }

    /// Makes a lane that runs a handler which keeps to the timeout of its context itself, so that
    /// no thread is ever left behind.
    pub fn patient(handler: SyncHandler<T, R>, outbox: Outbox<T, R>, clock: Clock) -> Self {
        Self::with(handler, outbox, clock, false)
    }

    fn with(handler: SyncHandler<T, R>, outbox: Outbox<T, R>, clock: Clock, abandons: bool) -> Self {
        let work: BlockingWork<T, R> = Box::new(move |context, payload| {
            let before = longshore_sys::clock::thread_cpu_time();
            let outcome = called(&handler, context, payload);
            (outcome, Some(longshore_sys::clock::thread_cpu_time().saturating_sub(before)))
        });
        Self(BlockingPool::new("blocking", work, outbox, clock, abandons))
    }
}

impl<T: Send + 'static, R: Send + 'static> Lane<T, R> for BlockingLane<T, R> {
    fn start(&self, batch: &mut Vec<Attempt<T>>) {
        self.0.start(batch);
    }

    fn stop(&self, how: Stop) {
        self.0.stop(how);
    }
}

impl<T, R> Drop for BlockingLane<T, R> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T, R> BlockingPool<T, R> {
    fn lock(&self) -> MutexGuard<'_, BlockingState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Threads end when the queue is empty.
    pub(crate) fn close(&self) {
        let idle = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        idle.iter().for_each(Thread::unpark);
        self.tick.notify_all();
    }
}

impl<T: Send + 'static, R: Send + 'static> BlockingPool<T, R> {
    pub(crate) fn new(name: &'static str, work: BlockingWork<T, R>, outbox: Outbox<T, R>, clock: Clock, abandons: bool) -> Arc<Self> {
        Arc::new(Self {
            name,
            work,
            outbox,
            clock,
            abandons,
            idle: IDLE,
            state: Mutex::new(BlockingState {
                queue: VecDeque::new(),
                seats: Vec::new(),
                running: 0,
                idle: Vec::new(),
                threads: 0,
                abandoned: 0,
                most: 0,
                keeper: false,
                stop: None,
                closed: false,
            }),
            tick: Condvar::new(),
        })
    }

    pub(crate) fn start(self: &Arc<Self>, batch: &mut Vec<Attempt<T>>) {
        let mut state = self.lock();
        let called = state.idle.len().saturating_sub(batch.len());
        let called = state.idle.split_off(called);
        state.queue.extend(batch.drain(..));
        self.staff(&mut state);
        if state.threads == 0 && !state.queue.is_empty() {
            // All threads hang, and there may be no more of them: what waits here ends at its
            // timeout all the same.
            self.wake_keeper(&mut state);
        }
        drop(state);
        called.iter().for_each(Thread::unpark);
    }

    /// Starts threads until each attempt in hand has one. A thread that is on its way, newly
    /// started or back from an attempt that has its outcome, counts: it finds the queue.
    fn staff(self: &Arc<Self>, state: &mut BlockingState<T>) {
        while state.is_short() && self.grow(state) {}
    }

    /// Starts one more thread. If the system has none left, the queue waits for those that there
    /// are; if there are none at all, its attempts fail.
    fn grow(self: &Arc<Self>, state: &mut BlockingState<T>) -> bool {
        if state.abandoned > 0 && state.abandoned >= ABANDONED * state.most.max(1) {
            return false;
        }
        let seat = state.seats.iter().position(Option::is_none).unwrap_or(state.seats.len());
        let pool = self.clone();
        let spawned = thread::Builder::new().name(format!("{}-{seat}", self.name)).stack_size(STACK).spawn(move || pool.serve());
        match spawned {
            Ok(_) => {
                state.threads += 1;
                state.most = state.most.max(state.threads);
                true
            }
            Err(error) => {
                if state.threads == 0 {
                    let why = format!("no thread for the {} lane: {error}", self.name);
                    let mut lost = state.queue.drain(..).map(|attempt| attempt.unstarted(Outcome::Lost(why.clone()))).collect();
                    self.outbox.finish(&mut lost);
                }
                false
            }
        }
    }

    pub(crate) fn stop(&self, how: Stop) {
        let mut state = self.lock();
        state.stop = state.stop.max(Some(how));
        let mut ended: Vec<_> = state.queue.drain(..).map(|attempt| attempt.unstarted(Outcome::Cancelled)).collect();
        let now = self.clock.now();
        let mut left = 0;
        for seat in state.seats.iter_mut().flatten() {
            seat.token.cancel();
            if how == Stop::Hard
                && self.abandons
                && let Some(task) = seat.task.take()
            {
                left += 1;
                ended.push(Finished {
                    slot: task.slot,
                    task,
                    outcome: Outcome::Cancelled,
                    started: seat.started.into(),
                    ended: now.into(),
                    cpu: None,
                });
            }
        }
        state.abandon(left);
        drop(state);
        self.outbox.finish(&mut ended);
    }

    /// Serves the queue on the current thread, until that is needed no more.
    fn serve(self: Arc<Self>) {
        let me = thread::current();
        let mut state = self.lock();
        loop {
            let Some(attempt) = state.queue.pop_front() else {
                if state.closed {
                    break;
                }
                state.idle.push(me.clone());
                drop(state);
                let since = Instant::now();
                thread::park_timeout(self.idle);
                state = self.lock();
                // Still in its place: nobody called it.
                if let Some(place) = state.idle.iter().position(|idle| idle.id() == me.id()) {
                    state.idle.remove(place);
                    if since.elapsed() >= self.idle && state.queue.is_empty() {
                        break;
                    }
                }
                continue;
            };
            let timeout = attempt.limit();
            let seat = self.sit_down(&mut state, timeout);
            let Attempt { task, payload, .. } = attempt;
            let context = Context { id: task.id, attempt: task.attempt, lane: task.lane, slot: task.slot, timeout, cancel: seat.1 };
            let started = seat.2;
            if let Some(place) = state.seats[seat.0].as_mut() {
                place.task = Some(task);
            }
            state.running += 1;
            drop(state);
            let (outcome, cpu) = (self.work)(&context, payload);
            let ended = self.clock.now();
            state = self.lock();
            let task = state.seats[seat.0].take().and_then(|seat| seat.task);
            let Some(task) = task else {
                // Somebody else gave this attempt its outcome and let another thread take our
                // place, if one could be had.
                state.abandoned -= 1;
                if state.is_short() {
                    state.threads += 1;
                    continue;
                }
                return;
            };
            // From here on the thread counts as free: the outcome makes room for the next attempt,
            // which is not to start another thread.
            state.running -= 1;
            drop(state);
            self.outbox.finish_one(Finished {
                slot: task.slot,
                task,
                outcome,
                started: started.into(),
                ended: ended.into(),
                cpu: cpu.map(Span::from),
            });
            state = self.lock();
        }
        state.threads -= 1;
    }

    fn sit_down(self: &Arc<Self>, state: &mut BlockingState<T>, timeout: Option<Duration>) -> (usize, CancelToken, Instant) {
        let started = self.clock.now();
        let deadline = timeout.filter(|_| self.abandons).and_then(|timeout| started.checked_add(timeout));
        let token = CancelToken::new();
        if state.stop.is_some() {
            token.cancel();
        }
        let place = state.seats.iter().position(Option::is_none).unwrap_or_else(|| {
            state.seats.push(None);
            state.seats.len() - 1
        });
        state.seats[place] = Some(BusySeat { task: None, started, deadline, token: token.clone() });
        if deadline.is_some() {
            self.wake_keeper(state);
        }
        (place, token, started)
    }

    fn wake_keeper(self: &Arc<Self>, state: &mut BlockingState<T>) {
        if !state.keeper {
            let pool = self.clone();
            state.keeper = thread::Builder::new().name("longshore-timeouts".to_owned()).spawn(move || pool.keep_time()).is_ok();
        }
        self.tick.notify_one();
    }

    /// Ends attempts that pass their timeout. Runs on a thread of its own, as long as there are
    /// timeouts.
    fn keep_time(self: Arc<Self>) {
        let mut state = self.lock();
        loop {
            let now = self.clock.now();
            let mut earliest: Option<Instant> = None;
            let mut ended = Vec::new();
            for seat in state.seats.iter_mut().flatten() {
                let (Some(deadline), true) = (seat.deadline, seat.task.is_some()) else { continue };
                if deadline > now {
                    earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                } else if let Some(task) = seat.task.take() {
                    seat.token.cancel();
                    let limit = deadline.duration_since(seat.started);
                    ended.push(Finished {
                        slot: task.slot,
                        task,
                        outcome: Outcome::TimedOut { limit },
                        started: seat.started.into(),
                        ended: now.into(),
                        cpu: None,
                    });
                }
            }
            state.abandon(ended.len());
            if state.threads == 0 && self.abandons {
                // Nobody is left to start what waits, unless one of the abandoned threads comes
                // back in time, or there may be a new one: that is tried below before anything more
                // ends here.
                for attempt in std::mem::take(&mut state.queue) {
                    let limit = attempt.limit();
                    let deadline = limit.and_then(|limit| Instant::from(attempt.admitted).checked_add(limit));
                    match (deadline, limit) {
                        (Some(deadline), Some(limit)) if deadline <= now && ended.is_empty() => {
                            ended.push(attempt.unstarted(Outcome::TimedOut { limit }));
                        }
                        (deadline, _) => {
                            earliest = [earliest, deadline].into_iter().flatten().min();
                            state.queue.push_back(attempt);
                        }
                    }
                }
            }
            if !ended.is_empty() {
                // Work that waits for one of these threads gets a new one.
                self.staff(&mut state);
                drop(state);
                self.outbox.finish(&mut ended);
                state = self.lock();
                continue;
            }
            if state.closed && state.threads == 0 {
                return;
            }
            let rest = earliest.map_or(IDLE, |earliest| earliest.saturating_duration_since(now));
            let (back, _) = self.tick.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner);
            state = back;
            let stuck = state.threads == 0 && !state.queue.is_empty();
            if earliest.is_none() && !stuck && state.seats.iter().flatten().all(|seat| seat.deadline.is_none()) {
                state.keeper = false;
                return;
            }
        }
    }
}

/// Handlers may recurse, as on std's own threads.
const STACK: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::Mail,
        mailbox::Mailbox,
        task::{LaneKind, Receipt},
    };

    /// A pool, and its engine: what has ended makes room for the next.
    struct Bench {
        pool: Arc<BlockingPool<u64, ()>>,
        mailbox: Arc<Mailbox<Mail<u64, ()>>>,
        mail: Mail<u64, ()>,
    }

    impl Bench {
        fn new(idle: Duration) -> Self {
            let mailbox = Arc::new(Mailbox::new());
            let outbox = Outbox { mailbox: mailbox.clone(), crew: Arc::default() };
            let mut pool = BlockingPool::new("test", Box::new(|_, _| (Outcome::Ok(()), None)), outbox, Clock::SYSTEM, false);
            Arc::get_mut(&mut pool).expect("nobody has it yet").idle = idle;
            Self { pool, mailbox, mail: Mail::default() }
        }

        fn attempt(&self, id: u64) -> Attempt<u64> {
            let now = self.pool.clock.now().into();
            let task = EngineTask {
                id,
                receipt: Receipt(id),
                attempt: 1,
                lane: LaneKind::Blocking,
                slot: 0,
                queued: now,
                payload: None,
                options: None,
                key: None,
                holds_key: false,
            };
            Attempt { task, payload: id, admitted: now, timeout: None }
        }

        /// Runs so many attempts, and always has as many in hand as there are slots. The most
        /// threads that there were.
        fn run(&mut self, count: usize, slots: usize) -> usize {
            let (mut begun, mut ended, mut most) = (0, 0, 0);
            while ended < count {
                let until = count.min(ended + slots);
                let mut batch: Vec<_> = (begun..until).map(|n| self.attempt(n as u64)).collect();
                begun = until;
                self.pool.start(&mut batch);
                most = most.max(self.pool.lock().threads);
                while !self.mailbox.try_take(&mut self.mail, true) {
                    thread::yield_now();
                }
                ended += self.mail.finished.drain(..).count();
            }
            most
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.pool.close();
        }
    }

    #[test]
    fn there_are_never_more_threads_than_attempts_in_hand() {
        for slots in [1, 2, 75] {
            let most = Bench::new(IDLE).run(20_000, slots);
            assert!(most <= slots, "{most} threads with {slots} slots");
        }
    }

    #[test]
    fn threads_that_are_not_needed_end_although_there_is_always_something_to_do() {
        let mut bench = Bench::new(Duration::from_millis(200));
        bench.run(20_000, 40);
        let begun = Instant::now();
        while bench.pool.lock().threads > 10 {
            assert!(begun.elapsed() < Duration::from_secs(20), "threads that nobody needs stay");
            bench.run(1, 1);
        }
    }
}

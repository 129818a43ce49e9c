//! The async lane: long-lived loops on the runtime, each polling many attempts.
//!
//! An attempt is the handler's future, in a box that one attempt after the other uses. It is polled
//! where it arrives; only what is still pending is kept, in a place of the loop (`pending.rs`). So
//! an attempt costs no allocation. There is no spawn per task and no timer per attempt: deadlines
//! are looked at when the earliest of a loop has come.
//!
//! All loops draw from one queue. While one loop is enough it is the one that stays awake, because
//! waking another thread costs more than a no-op task; the others are woken when work piles up or
//! when a loop is held up by a handler that computes or blocks.

mod attempt;
pub(crate) mod pending;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use tokio::{runtime::Handle, time::Sleep};

use crate::{
    cancel::CancelToken,
    clock::{Clock, Stopwatch},
    lane::{AsyncHandler, Context, FutureBox, Lane, Outbox, Stop, watchdog},
    outcome::Outcome,
    stamp::Stamp,
    sync::{AtomicWaker, Mutex},
    task::{Attempt, Finished, LaneKind},
    trace::{AttemptName, AttemptSpan},
};
use attempt::{End, Fresh, RunningAttempt, SpareBoxes, clear, poll_attempt};
use pending::Pending;
use queue::Chunks;

/// Attempts that a loop starts in one turn, and that it polls.
const TAKE: usize = 64;
/// Attempts that wait in the queue before a second loop is woken for them.
const SPREAD: usize = 120;
/// Time after which a turn counts as held up; new work then goes to another loop.
const LONG_TURN: Duration = Duration::from_micros(50);
/// Turns in one poll, and the time, after which a loop lets other tasks of its thread go on. (For
/// that the runtime wakes another thread, if one sleeps: not too often.)
const TURNS: usize = 64;
const POLL: Duration = Duration::from_micros(200);
/// Stands for a task while a loop does the work of others in passing.
pub(crate) const IN_PASSING: u64 = u64::MAX;
/// Number of attempts of which one has its on-CPU time measured, and of the first [`RARELY`]. (Two
/// system calls, as much as ten no-ops.)
const SAMPLE: u64 = 256;
const RARELY: u64 = 4096;

/// The async lane.
pub struct AsyncLane<T, R> {
    shared: Arc<LoopShared<T, R>>,
    watchdog: Option<watchdog::Watchdog>,
}

struct LoopShared<T, R> {
    queue: Mutex<Queue<T>>,
    loops: Vec<LoopSeat>,
    epoch: Stamp,
    outbox: Outbox<T, R>,
}

struct Queue<T> {
    attempts: Chunks<T>,
    stop: Option<Stop>,
    closed: bool,
    /// Loops that sleep, by index.
    idle: Vec<bool>,
}

/// A loop, as far as others may know it.
struct LoopSeat {
    waker: AtomicWaker,
    state: Arc<LoopState>,
}

/// State of a loop that the watchdog looks at.
#[derive(Default)]
pub(crate) struct LoopState {
    /// The task that is being polled; 0 between polls.
    pub(crate) task: AtomicU64,
    /// Polls of attempts so far.
    pub(crate) polls: AtomicU64,
    /// Beginning of the current turn, in nanoseconds since the lane's epoch.
    turn: AtomicU64,
    /// The loop ended while it should not have.
    gone: AtomicBool,
}

impl LoopState {
    #[inline]
    fn enter(&self, id: u64) {
        // One writer, so a load and a store do.
        self.polls.store(self.polls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.task.store(id, Ordering::Relaxed);
    }

    #[inline]
    fn leave(&self) {
        self.task.store(0, Ordering::Relaxed);
    }
}

impl<T: Send + 'static, R: Send + 'static> AsyncLane<T, R> {
    /// Starts the lane on this runtime, with a loop for each of its threads.
    pub fn new(handler: AsyncHandler<T, R>, outbox: Outbox<T, R>, clock: Clock, runtime: &Handle) -> Self {
        let loops = runtime.metrics().num_workers().max(1);
        let shared = Arc::new(LoopShared {
            queue: Mutex::new(Queue { attempts: Chunks::new(), stop: None, closed: false, idle: vec![false; loops] }),
            loops: (0..loops).map(|_| LoopSeat { waker: AtomicWaker::new(), state: Arc::default() }).collect(),
            epoch: clock.now().into(),
            outbox,
        });
        for index in 0..loops {
            runtime.spawn(Loop {
                index,
                state: shared.loops[index].state.clone(),
                shared: shared.clone(),
                boxes: SpareBoxes::new(handler.clone()),
                watch: Stopwatch::new(clock),
                fresh: Vec::new(),
                pending: Pending::new(),
                done: Vec::with_capacity(TAKE),
                earliest: None,
                sleep: None,
                stopped: None,
            });
        }
        let states = shared.loops.iter().map(|seat| seat.state.clone()).collect();
        let (outbox, nudge) = (shared.outbox.clone(), Arc::downgrade(&shared));
        let watch = || {
            watchdog::Watchdog::start(
                states,
                move |id, held| outbox.stalled(id, held),
                move || {
                    if let Some(shared) = nudge.upgrade() {
                        shared.wake_idle();
                    }
                },
            )
        };
        // On a clock that can be paused nobody knows how long a loop is held.
        let watchdog = if clock.is_steady() { watch() } else { None };
        Self { shared, watchdog }
    }
}

impl<T, R> LoopShared<T, R> {
    /// Wakes a sleeping loop if work lies in the queue: the awake ones may be held up.
    fn wake_idle(&self) {
        let mut queue = self.queue.lock();
        if !queue.attempts.is_empty()
            && let Some(index) = queue.idle.iter().position(|idle| *idle)
        {
            queue.idle[index] = false;
            drop(queue);
            self.loops[index].waker.wake();
        }
    }

    fn wake_all(&self) {
        for seat in &self.loops {
            seat.waker.wake();
        }
    }

    /// Moves waiting attempts to a loop. `false`: there are none, and the loop may sleep (its waker
    /// is registered).
    fn take(&self, index: usize, into: &mut Vec<Attempt<T>>, cx: &TaskContext<'_>) -> Taken {
        let mut queue = self.queue.lock();
        let stop = queue.stop;
        if queue.attempts.is_empty() {
            if queue.closed {
                return Taken { stop, any: false, closed: true };
            }
            // Registered under the lock: whoever adds work takes it first, and then sees that we
            // sleep.
            self.loops[index].waker.register(cx.waker());
            queue.idle[index] = true;
            return Taken { stop, any: false, closed: false };
        }
        queue.idle[index] = false;
        queue.attempts.pop(into);
        let other = (queue.attempts.len() >= SPREAD).then(|| queue.idle.iter().position(|idle| *idle)).flatten();
        if let Some(other) = other {
            queue.idle[other] = false;
        }
        drop(queue);
        if let Some(other) = other {
            self.loops[other].waker.wake();
        }
        Taken { stop, any: true, closed: false }
    }
}

struct Taken {
    stop: Option<Stop>,
    any: bool,
    closed: bool,
}

impl<T: Send + 'static, R: Send + 'static> Lane<T, R> for AsyncLane<T, R> {
    fn start(&self, batch: &mut Vec<Attempt<T>>) {
        self.start_all(std::slice::from_mut(batch));
    }

    fn start_all(&self, batches: &mut [Vec<Attempt<T>>]) {
        let Some(first) = batches.first().and_then(|batch| batch.first()) else { return };
        let now = first.admitted.nanos_since(self.shared.epoch);
        let mut queue = self.shared.queue.lock();
        batches.iter_mut().for_each(|batch| queue.attempts.push(batch));
        // A loop that is awake looks here before it sleeps. Another one is woken only if none is,
        // or if all of them are held up.
        let free = |index: usize| {
            let turn = self.shared.loops[index].state.turn.load(Ordering::Relaxed);
            now.saturating_sub(turn) < LONG_TURN.as_nanos() as u64
        };
        let awake = queue.idle.iter().enumerate().any(|(index, idle)| !idle && free(index));
        let wake = if awake { None } else { queue.idle.iter().position(|idle| *idle) };
        if let Some(index) = wake {
            queue.idle[index] = false;
        }
        drop(queue);
        if let Some(index) = wake {
            self.shared.loops[index].waker.wake();
        }
    }

    fn stop(&self, how: Stop) {
        let mut queue = self.shared.queue.lock();
        queue.stop = queue.stop.max(Some(how));
        queue.idle.fill(false);
        drop(queue);
        self.shared.wake_all();
    }
}

impl<T, R> Drop for AsyncLane<T, R> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.idle.fill(false);
        drop(queue);
        self.shared.wake_all();
        self.watchdog.take();
    }
}

/// One loop of the lane.
struct Loop<T, R> {
    index: usize,
    state: Arc<LoopState>,
    shared: Arc<LoopShared<T, R>>,
    boxes: SpareBoxes<T, R>,
    watch: Stopwatch,
    fresh: Vec<Attempt<T>>,
    pending: Pending<RunningAttempt<T, R>>,
    done: Vec<Finished<T, R>>,
    /// No pending attempt has a deadline before this.
    earliest: Option<Stamp>,
    sleep: Option<Pin<Box<Sleep>>>,
    stopped: Option<Stop>,
}

impl<T, R> Unpin for Loop<T, R> {}

impl<T: Send + 'static, R: Send + 'static> Future for Loop<T, R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        let _near = this.pending.near();
        let mut began = None;
        for _ in 0..TURNS {
            let taken = this.shared.take(this.index, &mut this.fresh, cx);
            let mut now = this.watch.read_clock();
            let began = *began.get_or_insert(now);
            this.state.turn.store(now.nanos_since(this.shared.epoch), Ordering::Relaxed);
            if taken.stop > this.stopped {
                this.stopped = taken.stop;
                this.end_pending(taken.stop);
            }
            let mut started = 0;
            while !this.fresh.is_empty() {
                started += this.fresh.len();
                this.start_fresh(&mut now);
                if started < TAKE {
                    this.shared.take(this.index, &mut this.fresh, cx);
                }
            }
            let polled = this.poll_pending();
            this.look_at_deadlines(cx);
            this.state.turn.store(now.nanos_since(this.shared.epoch), Ordering::Relaxed);
            // User code may be done in passing only while nothing of ours waits to be polled; what
            // is in the queue others take, if it lasts.
            this.state.enter(IN_PASSING);
            this.shared.outbox.finish_in_passing(&mut this.done, this.pending.is_empty());
            this.state.leave();
            if !taken.any && polled == 0 {
                if taken.closed && this.pending.is_empty() {
                    return Poll::Ready(());
                }
                if this.pending.sleep(cx) {
                    return Poll::Pending;
                }
            }
            // Without budget what tokio has for the attempts stays pending, and is woken again and
            // again.
            if now.since(began) > POLL || !tokio::task::coop::has_budget_remaining() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: Send + 'static, R: Send + 'static> Loop<T, R> {
    fn start_fresh(&mut self, now: &mut Stamp) {
        let mut place = self.boxes.take();
        for attempt in self.fresh.drain(..) {
            if self.stopped.is_some() {
                self.done.push(attempt.unstarted(Outcome::Cancelled));
                continue;
            }
            let Attempt { task, payload, timeout, .. } = attempt;
            self.state.enter(task.id);
            let vacant = self.pending.vacant();
            let started = *now;
            let (id, attempt, slot) = (task.id, task.attempt, task.slot);
            let lane = LaneKind::Async;
            let span = AttemptSpan::of(&AttemptName { id, attempt, lane, slot });
            let context = || Context { id, attempt, lane, slot, timeout: timeout.map(Duration::from), cancel: CancelToken::new() };
            let mut cpu = id.is_multiple_of(if id < RARELY { SAMPLE } else { RARELY }).then_some(Duration::ZERO);
            let mut fresh = Fresh { waiting: Some(task), started, now: &mut *now, watch: &mut self.watch, done: &mut self.done };
            let mut cx = TaskContext::from_waker(self.pending.waker(vacant));
            let begin = |place: &mut FutureBox<T, R>| span.within(|| place.as_mut().begin(&context, payload, &mut cx));
            poll_attempt(&mut place, &mut cpu, begin, &mut fresh);
            // One that has ended at its first poll never takes the place.
            if let Some(task) = fresh.waiting {
                let place = std::mem::replace(&mut place, self.boxes.take());
                let running = RunningAttempt { place, task, limit: timeout, started, end: None, cpu, span };
                if let Some(deadline) = running.deadline() {
                    self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                }
                self.pending.put(vacant, running);
            }
        }
        self.boxes.give(place);
    }

    /// Polls what was woken. Returns how many were polled.
    fn poll_pending(&mut self) -> usize {
        let Self { pending, state, done, watch, boxes, .. } = self;
        pending.poll_woken(
            TAKE,
            |running, cx| {
                state.enter(running.task.id);
                running.poll(cx)
            },
            |running, outcome| {
                let (finished, place) = running.finish(outcome, watch.now());
                done.push(finished);
                boxes.give(place);
            },
        )
    }

    /// Ends attempts whose deadline has passed, if the earliest one has, and sleeps until the next.
    fn look_at_deadlines(&mut self, cx: &mut TaskContext<'_>) {
        while let Some(earliest) = self.earliest {
            if self.pending.is_empty() {
                (self.earliest, self.sleep) = (None, None);
                return;
            }
            let at = tokio::time::Instant::from_std(earliest.into());
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if sleep.deadline() != at {
                sleep.as_mut().reset(at);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            let now = self.watch.read_clock();
            let mut next: Option<Stamp> = None;
            self.pending.look(|running| {
                let Some(deadline) = running.deadline() else { return false };
                if deadline > now {
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                    return false;
                }
                if let Some(token) = running.place.token() {
                    token.cancel();
                }
                running.end = Some(End::TimedOut);
                true
            });
            self.earliest = next;
        }
    }

    fn end_pending(&mut self, how: Option<Stop>) {
        self.pending.look(|running| {
            if let Some(token) = running.place.token() {
                token.cancel();
                if how == Some(Stop::Soft) {
                    return false;
                }
            }
            running.end = Some(End::Cancelled);
            true
        });
    }
}

/// A loop that is dropped (its runtime ends) still owes an outcome for everything that it holds.
impl<T, R> Drop for Loop<T, R> {
    fn drop(&mut self) {
        self.state.gone.store(true, Ordering::Relaxed);
        let lost = || Outcome::Lost("the async runtime ended".to_owned());
        let mut owed = std::mem::take(&mut self.done);
        owed.extend(self.fresh.drain(..).map(|attempt| attempt.unstarted(lost())));
        for mut running in self.pending.drain() {
            let _ = clear(&mut running.place);
            let ended = running.started;
            owed.push(running.finish(lost(), ended).0);
        }
        let last = self.shared.loops.iter().all(|seat| seat.state.gone.load(Ordering::Relaxed));
        if last {
            let mut queue = self.shared.queue.lock();
            owed.extend(queue.attempts.drain().map(|attempt| attempt.unstarted(lost())));
        }
        self.shared.outbox.finish(&mut owed);
    }
}

//! The async lane: long-lived loops on the runtime, each polling many attempts.
//!
//! An attempt is one struct around the handler's boxed future, polled where it arrives; only what is still pending enters `FuturesUnordered`, so an
//! attempt that ends at once costs one allocation, the handler's own. There is no spawn per task, no second box and no timer per attempt: deadlines
//! are looked at when the earliest of a loop has come.
//!
//! All loops draw from one queue. While one loop is enough it is the one that stays awake, because waking another thread costs more than a no-op task;
//! the others are woken when work piles up or when a loop is held up by a handler that computes or blocks.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{runtime::Handle, time::Sleep};

use crate::{
    cancel::CancelToken,
    clock::Clock,
    lane::{AsyncHandler, Context, Lane, Outbox, Stop, panic_text, watchdog},
    outcome::Outcome,
    sync::{AtomicWaker, Mutex},
    task::{Attempt, Finished, LaneKind, Task},
};

/// Attempts that a loop takes from the queue at once.
const TAKE: usize = 64;
/// Attempts that wait behind a full take before a second loop is woken for them.
const SPREAD: usize = 64;
/// A turn that lasts longer is held up; new work goes to another loop.
const LONG_TURN: Duration = Duration::from_micros(50);
/// Turns in one poll before a loop lets other tasks of its thread go on.
const TURNS: usize = 8;
/// One attempt in so many has its on-CPU time measured.
const SAMPLE: u64 = 256;

/// The async lane.
pub struct AsyncLane<T, R> {
    shared: Arc<Shared<T, R>>,
    watchdog: Option<watchdog::Watchdog>,
}

struct Shared<T, R> {
    queue: Mutex<Queue<T>>,
    loops: Vec<Seat>,
    epoch: Instant,
    outbox: Outbox<T, R>,
}

struct Queue<T> {
    attempts: VecDeque<Attempt<T>>,
    stop: Option<Stop>,
    closed: bool,
    /// Loops that sleep, by index.
    idle: Vec<bool>,
}

/// What others may know of a loop.
struct Seat {
    waker: AtomicWaker,
    state: Arc<LoopState>,
}

/// What the watchdog sees of a loop.
#[derive(Default)]
pub(crate) struct LoopState {
    /// The task that is being polled; 0 between polls.
    pub(crate) task: AtomicU64,
    /// Polls of attempts so far.
    pub(crate) polls: AtomicU64,
    /// When the current turn began, in nanoseconds since the lane's epoch.
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

thread_local! {
    /// The loop that polls on this thread, for attempts that are polled inside of `FuturesUnordered`.
    static POLLING: RefCell<Option<Arc<LoopState>>> = const { RefCell::new(None) };
}

impl<T: Send + 'static, R: Send + 'static> AsyncLane<T, R> {
    /// Starts the lane on this runtime, with a loop for each of its threads.
    pub fn new(handler: AsyncHandler<T, R>, outbox: Outbox<T, R>, clock: Clock, runtime: &Handle) -> Self {
        let loops = runtime.metrics().num_workers().max(1);
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { attempts: VecDeque::new(), stop: None, closed: false, idle: vec![false; loops] }),
            loops: (0..loops).map(|_| Seat { waker: AtomicWaker::new(), state: Arc::default() }).collect(),
            epoch: clock.now(),
            outbox,
        });
        for index in 0..loops {
            runtime.spawn(Loop {
                index,
                state: shared.loops[index].state.clone(),
                shared: shared.clone(),
                handler: handler.clone(),
                clock,
                fresh: Vec::with_capacity(TAKE),
                pending: FuturesUnordered::new(),
                done: Vec::with_capacity(TAKE),
                earliest: None,
                sleep: None,
                stopped: None,
            });
        }
        let states = shared.loops.iter().map(|seat| seat.state.clone()).collect();
        let (outbox, nudge) = (shared.outbox.clone(), Arc::downgrade(&shared));
        let watchdog = watchdog::Watchdog::start(
            states,
            move |id, held| outbox.stalled(id, held),
            move || {
                if let Some(shared) = nudge.upgrade() {
                    shared.wake_idle();
                }
            },
        );
        Self { shared, watchdog }
    }
}

impl<T, R> Shared<T, R> {
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

    /// Moves waiting attempts to a loop. `false`: there are none, and the loop may sleep (its waker is registered).
    fn take(&self, index: usize, into: &mut Vec<Attempt<T>>, cx: &TaskContext<'_>) -> Taken {
        let mut queue = self.queue.lock();
        let stop = queue.stop;
        if queue.attempts.is_empty() {
            if queue.closed {
                return Taken { stop, any: false, closed: true };
            }
            // Registered under the lock: whoever adds work takes it first, and then sees that we sleep.
            self.loops[index].waker.register(cx.waker());
            queue.idle[index] = true;
            return Taken { stop, any: false, closed: false };
        }
        queue.idle[index] = false;
        let count = queue.attempts.len().min(TAKE);
        into.extend(queue.attempts.drain(..count));
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
        let Some(first) = batch.first() else { return };
        let now = first.task.admitted.saturating_duration_since(self.shared.epoch).as_nanos() as u64;
        let mut queue = self.shared.queue.lock();
        queue.attempts.extend(batch.drain(..));
        // A loop that is awake looks here before it sleeps. Another one is woken only if none is, or if all of them are held up.
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

/// One attempt that is being polled.
struct Running<T, R> {
    future: Option<BoxFuture<'static, Outcome<R>>>,
    task: Option<Task<T>>,
    started: Instant,
    deadline: Option<Instant>,
    /// Set from outside to end the attempt.
    verdict: Option<Outcome<R>>,
    /// Wakes this attempt inside of its `FuturesUnordered`.
    waker: Option<Waker>,
    token: Option<CancelToken>,
    /// On-CPU time so far, for the few attempts where it is measured.
    cpu: Option<Duration>,
    clock: Clock,
}

// Nothing in here is ever pinned: the handler's future is behind its own box.
impl<T, R> Unpin for Running<T, R> {}

impl<T, R> Running<T, R> {
    #[inline]
    fn poll_once(&mut self, cx: &mut TaskContext<'_>) -> Option<Outcome<R>> {
        if let Some(verdict) = self.verdict.take() {
            let future = self.future.take();
            return Some(match catch_unwind(AssertUnwindSafe(|| drop(future))) {
                Ok(()) => verdict,
                Err(panic) => Outcome::Panicked(panic_text(&*panic)),
            });
        }
        let before = self.cpu.map(|_| longshore_sys::clock::thread_cpu_time());
        let place = &mut self.future;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let polled = match place {
                Some(future) => future.as_mut().poll(cx),
                None => Poll::Ready(Outcome::Lost("polled after its end".to_owned())),
            };
            if polled.is_ready() {
                // Dropped in here, so that a panicking destructor is this task's outcome too.
                *place = None;
            }
            polled
        }));
        if let (Some(cpu), Some(before)) = (&mut self.cpu, before) {
            *cpu += longshore_sys::clock::thread_cpu_time().saturating_sub(before);
        }
        match polled {
            Ok(Poll::Pending) => None,
            Ok(Poll::Ready(outcome)) => Some(outcome),
            Err(panic) => {
                let future = self.future.take();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
                Some(Outcome::Panicked(panic_text(&*panic)))
            }
        }
    }

    #[inline]
    fn finish(&mut self, outcome: Outcome<R>, ended: Instant) -> Option<Finished<T, R>> {
        let task = self.task.take()?;
        Some(Finished { slot: task.slot, task, outcome, started: self.started, ended, cpu: self.cpu })
    }

    /// Ends the attempt from outside, at its next poll.
    fn end(&mut self, verdict: Outcome<R>) {
        self.verdict = Some(verdict);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl<T, R> Future for Running<T, R> {
    type Output = Option<Finished<T, R>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if self.waker.is_none() {
            self.waker = Some(cx.waker().clone());
        }
        let id = self.task.as_ref().map_or(0, |task| task.id);
        POLLING.with_borrow(|state| {
            if let Some(state) = state {
                state.enter(id);
            }
        });
        match self.poll_once(cx) {
            Some(outcome) => {
                let ended = self.clock.now();
                Poll::Ready(self.finish(outcome, ended))
            }
            None => Poll::Pending,
        }
    }
}

/// One loop of the lane.
struct Loop<T, R> {
    index: usize,
    state: Arc<LoopState>,
    shared: Arc<Shared<T, R>>,
    handler: AsyncHandler<T, R>,
    clock: Clock,
    fresh: Vec<Attempt<T>>,
    pending: FuturesUnordered<Running<T, R>>,
    done: Vec<Finished<T, R>>,
    /// No pending attempt has a deadline before this.
    earliest: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    stopped: Option<Stop>,
}

impl<T, R> Unpin for Loop<T, R> {}

impl<T: Send + 'static, R: Send + 'static> Future for Loop<T, R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        let outer = POLLING.replace(Some(this.state.clone()));
        let polled = this.turns(cx);
        POLLING.set(outer);
        polled
    }
}

impl<T: Send + 'static, R: Send + 'static> Loop<T, R> {
    fn turns(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        for _ in 0..TURNS {
            let taken = self.shared.take(self.index, &mut self.fresh, cx);
            let mut now = self.clock.now();
            self.state.turn.store(now.saturating_duration_since(self.shared.epoch).as_nanos() as u64, Ordering::Relaxed);
            if taken.stop > self.stopped {
                self.stopped = taken.stop;
                self.end_pending(taken.stop);
            }
            self.start_fresh(&mut now, cx);
            let went_on = self.poll_pending(cx);
            self.look_at_deadlines(cx);
            self.state.leave();
            self.shared.outbox.finish(&mut self.done);
            if !taken.any && !went_on {
                return if taken.closed && self.pending.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn start_fresh(&mut self, now: &mut Instant, cx: &mut TaskContext<'_>) {
        for attempt in self.fresh.drain(..) {
            if self.stopped.is_some() {
                self.done.push(attempt.unstarted(Outcome::Cancelled));
                continue;
            }
            let Attempt { task, payload } = attempt;
            self.state.enter(task.id);
            let mut token = None;
            let future = catch_unwind(AssertUnwindSafe(|| match &self.handler {
                AsyncHandler::Plain(handler) => handler(payload),
                AsyncHandler::WithContext(handler) => {
                    let cancel = CancelToken::new();
                    token = Some(cancel.clone());
                    let (id, attempt, slot, timeout) = (task.id, task.attempt, task.slot, task.timeout);
                    handler(Context { id, attempt, lane: LaneKind::Async, slot, timeout, cancel }, payload)
                }
            }));
            let (future, verdict) = match future {
                Ok(future) => (Some(future), None),
                Err(panic) => (None, Some(Outcome::Panicked(panic_text(&*panic)))),
            };
            let mut running = Running {
                future,
                started: *now,
                deadline: task.timeout.and_then(|timeout| now.checked_add(timeout)),
                verdict,
                waker: None,
                token,
                cpu: task.id.is_multiple_of(SAMPLE).then_some(Duration::ZERO),
                clock: self.clock,
                task: Some(task),
            };
            match running.poll_once(cx) {
                Some(outcome) => {
                    *now = self.clock.now();
                    self.done.extend(running.finish(outcome, *now));
                }
                None => {
                    if let Some(deadline) = running.deadline {
                        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                    }
                    self.pending.push(running);
                }
            }
        }
    }

    /// Polls what was woken. Returns whether anything ended.
    fn poll_pending(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let before = self.done.len();
        while self.done.len() < before + TAKE {
            match self.pending.poll_next_unpin(cx) {
                Poll::Ready(Some(finished)) => self.done.extend(finished),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        self.done.len() > before
    }

    /// Ends attempts whose deadline has passed, if the earliest one has, and sleeps until the next.
    fn look_at_deadlines(&mut self, cx: &mut TaskContext<'_>) {
        while let Some(earliest) = self.earliest {
            if self.pending.is_empty() {
                (self.earliest, self.sleep) = (None, None);
                return;
            }
            let at = tokio::time::Instant::from_std(earliest);
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if sleep.deadline() != at {
                sleep.as_mut().reset(at);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            let now = self.clock.now();
            self.earliest = None;
            for running in self.pending.iter_mut() {
                let Some(deadline) = running.deadline else { continue };
                if deadline <= now {
                    let limit = deadline.duration_since(running.started);
                    running.deadline = None;
                    if let Some(token) = &running.token {
                        token.cancel();
                    }
                    running.end(Outcome::TimedOut { limit });
                } else {
                    self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                }
            }
            self.poll_pending(cx);
        }
    }

    fn end_pending(&mut self, how: Option<Stop>) {
        for running in self.pending.iter_mut() {
            if let Some(token) = &running.token {
                token.cancel();
                if how == Some(Stop::Soft) {
                    continue;
                }
            }
            running.end(Outcome::Cancelled);
        }
    }
}

/// A loop that is dropped (its runtime ends) still owes an outcome for everything that it holds.
impl<T, R> Drop for Loop<T, R> {
    fn drop(&mut self) {
        self.state.gone.store(true, Ordering::Relaxed);
        let lost = || Outcome::Lost("the async runtime ended".to_owned());
        let mut owed = std::mem::take(&mut self.done);
        owed.extend(self.fresh.drain(..).map(|attempt| attempt.unstarted(lost())));
        for mut running in std::mem::take(&mut self.pending) {
            let future = running.future.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
            let ended = running.started;
            owed.extend(running.finish(lost(), ended));
        }
        let last = self.shared.loops.iter().all(|seat| seat.state.gone.load(Ordering::Relaxed));
        if last {
            let mut queue = self.shared.queue.lock();
            owed.extend(queue.attempts.drain(..).map(|attempt| attempt.unstarted(lost())));
        }
        self.shared.outbox.finish(&mut owed);
    }
}

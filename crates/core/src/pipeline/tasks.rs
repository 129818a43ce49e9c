//! The workers of a stage on the async lane: one task on the runtime that polls all futures of the
//! stage.
//!
//! A future is polled where its item arrives; only what is pending is kept, at most as many as
//! there are workers, in boxes that are used again and again. So an item whose future is ready at
//! once costs no allocation, and no item costs a spawn.

mod line;
mod polls;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::time::Sleep;

use crate::{
    gate::pace::Pace,
    lane::{IntoOutcome, async_::pending::Pending},
    outcome::Outcome,
    pipeline::{
        crew::turn_began,
        exit::{Door, Exit},
        meter::StageTimes,
        post::{Guard, Post, Tried},
        queue::{Ask, Given, ItemBatch, TakenItems},
        run::{Halt, PipelinePart},
        stage::Setup,
        threads::Grip,
    },
};
use line::OutputLine;
use polls::{conclude, drop_future, drop_in_place, poll_new, poll_on, settle};

/// Turns in one poll before the loop lets other tasks of its thread go on.
const TURNS: usize = 8;
/// A batch of so many items is worth a look at the clock.
const TIMED: u32 = 16;
/// Of smaller ones, one in so many.
const SAMPLE: u32 = 8;
/// Times that are worth telling before the next batch.
const WORTH: Duration = Duration::from_millis(1);
/// Futures polled in one turn.
const POLLS: usize = 64;

/// Starts the loop of a stage.
pub(super) fn start<T, V, F, Fut, A>(setup: Setup<T>, door: &Door<V>, function: F)
where
    T: Send + 'static,
    V: Send + 'static,
    F: Fn(T) -> Fut + Send + 'static,
    Fut: Future<Output = A> + Send + 'static,
    A: IntoOutcome<V> + 'static,
{
    let Setup { post, loops, workers, ordered, rate, .. } = setup;
    let now = post.clock.now();
    let work = StageLoop {
        exit: Some(door(&post.meter)),
        bell: post.run.add_bell(),
        guard: post.guard(),
        part: Some(post.run.part()),
        grip: Grip::new(post.meter.queue),
        line: ordered.then(OutputLine::default),
        window: (workers + post.meter.queue) as u64,
        pace: rate.map(Pace::new),
        rng: fastrand::Rng::with_seed(post.seed),
        post,
        function,
        workers,
        pending: Pending::new(),
        running: 0,
        resting: 0,
        ok: 0,
        fresh: VecDeque::new(),
        next: 0,
        ready: VecDeque::new(),
        held: false,
        spare: Vec::new(),
        idle: Idle::Waiting,
        turns: 0,
        counted: now,
        times: StageTimes::default(),
        sleep: None,
        closed: false,
        answer: std::marker::PhantomData,
    };
    loops.lock().push(Box::pin(work));
}

/// Reason why workers have nothing to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Waiting,
    Blocked,
    Paused,
}

/// One item that is being worked on.
struct RunningItem<T, Fut> {
    /// `None` inside while it waits for its next attempt.
    future: Pin<Box<Option<Fut>>>,
    index: u64,
    tried: Tried<T>,
    taken: Instant,
    started: Instant,
    /// Its timeout, or the time of its next attempt.
    due: Option<Instant>,
    resting: bool,
}

struct StageLoop<T, V, F, Fut, A> {
    post: Arc<Post<T>>,
    function: F,
    workers: usize,
    guard: Guard,
    exit: Option<Box<dyn Exit<V>>>,
    bell: Arc<AtomicWaker>,
    grip: Grip,
    /// The line in which order is kept, where it is.
    line: Option<OutputLine<V>>,
    /// Number of items that may be started whose outputs are not next in line.
    window: u64,
    pace: Option<Pace>,
    rng: fastrand::Rng,
    pending: Pending<RunningItem<T, Fut>>,
    running: usize,
    /// Of those, how many wait for their next attempt.
    resting: usize,
    /// Items that ended well and are not counted yet.
    ok: u64,
    /// Taken and not started.
    fresh: ItemBatch<T>,
    /// The index of the next one to start.
    next: u64,
    /// To be handed on.
    ready: ItemBatch<V>,
    /// The exit holds more than there is room for.
    held: bool,
    spare: Vec<Pin<Box<Option<Fut>>>>,
    /// Batches that were started.
    turns: u32,
    idle: Idle,
    /// Up to here the workers' time has been counted.
    counted: Instant,
    /// Counted and not told yet.
    times: StageTimes,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Nothing more will be taken.
    closed: bool,
    part: Option<PipelinePart>,
    answer: std::marker::PhantomData<fn() -> A>,
}

impl<T, V, F, Fut, A> Unpin for StageLoop<T, V, F, Fut, A> {}

impl<T, V, F, Fut, A> Future for StageLoop<T, V, F, Fut, A>
where
    T: Send + 'static,
    V: Send + 'static,
    F: Fn(T) -> Fut + Send + 'static,
    Fut: Future<Output = A> + Send + 'static,
    A: IntoOutcome<V> + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut now = turn_began(this.post.clock);
        for turn in 0..TURNS {
            if turn > 0 && this.running > 0 {
                now = this.post.clock.now();
            }
            this.count(now);
            if this.post.run.halt() != Halt::No {
                this.halt();
            }
            let mut moved = this.poll_pending(now);
            moved |= this.start_fresh(&mut now, cx);
            moved |= this.hand_on(cx);
            if moved {
                continue;
            }
            if this.closed && this.running == 0 && this.fresh.is_empty() && this.ready.is_empty() && !this.held {
                this.times.flush(&mut this.post.meter.tally.lock().times);
                this.guard.done();
                this.exit = None;
                this.part = None;
                return Poll::Ready(());
            }
            this.bell.register(cx.waker());
            // A stop that came before the bell was there rang for nobody.
            if this.post.run.halt() != Halt::No && !this.closed {
                continue;
            }
            if this.wait_for_due(now, cx) && this.pending.sleep(cx) {
                if this.times.sum() > WORTH {
                    this.times.flush(&mut this.post.meter.tally.lock().times);
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T, V, F, Fut, A> StageLoop<T, V, F, Fut, A>
where
    T: Send + 'static,
    V: Send + 'static,
    F: Fn(T) -> Fut + Send + 'static,
    Fut: Future<Output = A> + Send + 'static,
    A: IntoOutcome<V> + 'static,
{
    /// Adds up what the workers' time went into since the last look.
    fn count(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.counted);
        if time.is_zero() {
            return;
        }
        self.counted = now;
        let idle = time * (self.workers - self.running.min(self.workers)) as u32;
        if self.running > 0 {
            self.times.busy += time * (self.running - self.resting) as u32;
            self.times.paused += time * self.resting as u32;
        }
        match self.idle {
            Idle::Waiting => self.times.waiting += idle,
            Idle::Blocked => self.times.blocked += idle,
            Idle::Paused => self.times.paused += idle,
        }
    }

    /// The pipeline stops: nothing more is started; by force, what is pending is dropped.
    fn halt(&mut self) {
        self.closed = true;
        if !self.fresh.is_empty() {
            self.post.meter.tally.lock().taken -= self.fresh.len() as u64;
            self.post.input.put_back(self.fresh.len());
            self.fresh.clear();
        }
        if self.post.run.halt() == Halt::Hard && self.running > 0 {
            let dropped: Vec<_> = self.pending.drain().collect();
            for running in dropped {
                self.post.cancelled();
                drop_future(running.future);
            }
            self.post.meter.tally.lock().running = 0;
            (self.running, self.resting) = (0, 0);
            // What waited for its turn has lost it; the next queue counts it.
            if let Some(line) = &mut self.line {
                self.ready.extend(line.slots.drain(..).flatten().flatten());
            }
        } else if self.resting > 0 {
            // Their next attempts would start something new.
            self.pending.look(|running| running.resting);
        }
    }

    /// Polls what was woken. Returns whether something ended.
    fn poll_pending(&mut self, now: Instant) -> bool {
        if self.running == 0 {
            return false;
        }
        let Self { pending, post, function, rng, grip, resting, spare, line, ready, ok, pace, running: count, .. } = self;
        let mut ended = 0;
        pending.poll_woken(
            POLLS,
            |running, cx| {
                if running.resting {
                    if post.run.halt() != Halt::No {
                        *resting -= 1;
                        return Some(Outcome::Cancelled);
                    }
                    if running.due.is_some_and(|due| due > now) {
                        return None;
                    }
                    if let Some(pace) = pace.as_mut() {
                        let slot = pace.slot(now);
                        if slot > now {
                            pace.wait();
                            running.due = Some(slot);
                            return None;
                        }
                        pace.take(now);
                    }
                    let item = post.rules.copy.zip(running.tried.copy.as_ref()).map(|(copy, item)| copy(item));
                    let Some(item) = item else { return Some(Outcome::Lost("no copy is left".to_owned())) };
                    (running.resting, running.started) = (false, now);
                    *resting -= 1;
                    running.tried.attempts += 1;
                    running.due = post.rules.timeout.and_then(|limit| now.checked_add(limit));
                    let polled = poll_new(&mut running.future, function, item, cx);
                    return settle(running, polled?, post, grip, rng, resting, now);
                }
                let late = running.due.is_some_and(|due| due <= now);
                let polled = poll_on(&mut running.future, cx);
                let outcome = match (polled, late) {
                    (Some(outcome), _) => outcome,
                    (None, false) => return None,
                    (None, true) => match drop_in_place(&mut running.future) {
                        Ok(()) => Outcome::TimedOut { limit: post.rules.timeout.unwrap_or_default() },
                        Err(panic) => Outcome::Panicked(panic),
                    },
                };
                settle(running, outcome, post, grip, rng, resting, post.clock.now())
            },
            |running, outcome| {
                ended += 1;
                let RunningItem { future, index, tried, .. } = running;
                spare.push(future);
                let output = conclude(post, tried, outcome, ok);
                match line {
                    Some(line) => line.put(index, output, ready),
                    None => ready.extend(output),
                }
            },
        );
        if ended > 0 {
            *count -= ended;
            let mut tally = post.meter.tally.lock();
            tally.running -= ended;
            tally.counts.ok += std::mem::take(ok);
        }
        ended > 0
    }

    /// Starts what may start. Returns whether something did.
    fn start_fresh(&mut self, now: &mut Instant, cx: &mut Context<'_>) -> bool {
        let blocked = self.held || !self.ready.is_empty();
        if self.closed || blocked {
            self.idle = if blocked { Idle::Blocked } else { Idle::Waiting };
            return false;
        }
        let began = *now;
        let tiny = self.grip.is_tiny();
        let plain = tiny && self.pace.is_none() && self.post.rules.copy.is_none();
        let (mut taken, mut started) = (0, 0_u32);
        while self.running < self.workers {
            if self.line.as_ref().is_some_and(|line| self.next - line.base >= self.window) {
                self.idle = Idle::Blocked;
                break;
            }
            if self.fresh.is_empty() {
                // One look at the queue for each turn.
                if started > 0 || !self.take(cx) {
                    break;
                }
                taken = self.fresh.len() as u64;
            }
            if let Some(pace) = &mut self.pace {
                if pace.slot(began) > began {
                    pace.wait();
                    self.idle = Idle::Paused;
                    break;
                }
                pace.take(began);
            }
            if plain && self.running == 0 {
                started += self.start_plain(*now);
            } else if let Some((number, item)) = self.fresh.pop_front() {
                started += 1;
                self.start_one(number, item, *now);
            }
            if !tiny {
                *now = self.post.clock.now();
            }
            if self.post.run.halt() != Halt::No {
                break;
            }
        }
        if started == 0 && taken == 0 {
            return false;
        }
        // The clock costs as much as a tiny item: of small batches only some are timed, the others
        // count as what such items took before.
        self.turns = self.turns.wrapping_add(1);
        let timed = started >= TIMED || self.turns.is_multiple_of(SAMPLE);
        if tiny {
            *now = if timed { self.post.clock.now() } else { began + self.grip.estimate(started as usize) };
        }
        let time = now.saturating_duration_since(began);
        let mut tally = self.post.meter.tally.lock();
        tally.taken += taken;
        if started > 0 {
            self.times.busy += time;
            tally.most = tally.most.max(self.running.max(1));
            if tiny && timed {
                // Those that were ready at once share the time of all.
                self.grip.learn(time, started as usize);
                tally.run.add_many(time / started, started);
            }
        }
        tally.counts.ok += std::mem::take(&mut self.ok);
        self.times.flush(&mut tally.times);
        drop(tally);
        // What ran while they were started is counted with the rest, for the others.
        self.counted = self.counted.max(*now);
        started > 0
    }

    /// Starts fresh items that nothing is to be kept of, as long as their futures are ready at
    /// once. Returns how many it started.
    fn start_plain(&mut self, now: Instant) -> u32 {
        let place = self.pending.vacant();
        let mut future = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        let mut started = 0;
        let mut other = None;
        {
            let mut cx = Context::from_waker(self.pending.waker(place));
            while let Some((number, item)) = self.fresh.pop_front() {
                started += 1;
                match poll_new(&mut future, &self.function, item, &mut cx) {
                    Some(Outcome::Ok(output)) => {
                        self.ok += 1;
                        self.next += 1;
                        match &mut self.line {
                            // Nothing is pending: it is the next in line.
                            Some(line) => {
                                line.base += 1;
                                self.ready.push_back((number, output));
                            }
                            None => self.ready.push_back((number, output)),
                        }
                    }
                    polled => {
                        other = Some((number, polled));
                        break;
                    }
                }
            }
        }
        match other {
            None => self.spare.push(future),
            Some((number, polled)) => self.started(place, Tried { number, attempts: 1, copy: None }, future, polled, now),
        }
        started
    }

    /// Takes items from the queue. `false`: there are none for now.
    fn take(&mut self, cx: &mut Context<'_>) -> bool {
        let free = self.workers - self.running;
        let most = match &self.pace {
            Some(_) => 1,
            None if self.grip.is_tiny() => self.grip.count().max(free),
            None => free,
        };
        let ask = Ask { most, sharers: 1, eager: self.grip.is_long() };
        match self.post.input.take(0, ask, &mut self.fresh, cx.waker()) {
            TakenItems::Items(first) => {
                debug_assert_eq!(first, self.next, "items were taken by somebody else");
                return true;
            }
            TakenItems::Empty => self.idle = Idle::Waiting,
            TakenItems::Ahead => self.idle = Idle::Blocked,
            TakenItems::End | TakenItems::Stopped => self.closed = true,
        }
        false
    }

    fn start_one(&mut self, number: u64, item: T, now: Instant) {
        let place = self.pending.vacant();
        let copy = self.post.rules.copy.map(|copy| copy(&item));
        let mut future = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        let waker = self.pending.waker(place);
        let polled = poll_new(&mut future, &self.function, item, &mut Context::from_waker(waker));
        self.started(place, Tried { number, attempts: 1, copy }, future, polled, now);
    }

    /// The first poll of an item is over: it has ended, or it is pending.
    fn started(&mut self, place: u32, tried: Tried<T>, future: Pin<Box<Option<Fut>>>, polled: Option<Outcome<V>>, now: Instant) {
        let index = self.next;
        self.next += 1;
        let due = self.post.rules.timeout.and_then(|limit| now.checked_add(limit));
        let mut running = RunningItem { future, index, tried, taken: now, started: now, due, resting: false };
        let Self { post, grip, rng, resting, .. } = self;
        let ended = polled.and_then(|outcome| {
            if outcome.is_ok() && grip.is_tiny() {
                // It shares the time of its batch.
                return Some(outcome);
            }
            settle(&mut running, outcome, post, grip, rng, resting, post.clock.now())
        });
        if let Some(outcome) = ended {
            self.spare.push(running.future);
            let output = conclude(&self.post, running.tried, outcome, &mut self.ok);
            self.put(index, output);
            return;
        }
        self.pending.put(place, running);
        self.running += 1;
        self.post.meter.tally.lock().begin(1);
    }

    fn put(&mut self, index: u64, output: Option<(u64, V)>) {
        match &mut self.line {
            Some(line) => line.put(index, output, &mut self.ready),
            None => self.ready.extend(output),
        }
    }

    /// Hands on what is ready. Returns whether everything went.
    fn hand_on(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(exit) = &mut self.exit else { return false };
        if self.ready.is_empty() && !self.held {
            return false;
        }
        let given = exit.give(&mut self.ready, cx.waker());
        // An output that is being taken apart is in neither place.
        self.held = given == Given::Full;
        if self.held {
            self.idle = Idle::Blocked;
        }
        !self.held
    }

    /// Sets the timer for the next thing that is due. `false`: something is due already.
    fn wait_for_due(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut earliest: Option<Instant> = None;
        let mut add = |due: Instant| earliest = Some(earliest.map_or(due, |earliest| earliest.min(due)));
        let mut overdue = false;
        if self.running > 0 && (self.resting > 0 || self.post.rules.timeout.is_some()) {
            self.pending.look(|running| {
                let Some(due) = running.due else { return false };
                if due <= now {
                    overdue = true;
                    return true;
                }
                add(due);
                false
            });
        }
        if overdue {
            return false;
        }
        if let Some(pace) = &self.pace
            && !self.fresh.is_empty()
            && self.running < self.workers
            && self.ready.is_empty()
        {
            add(pace.slot(now));
        }
        let Some(due) = earliest else { return true };
        let due = tokio::time::Instant::from_std(due);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx).is_pending()
    }
}

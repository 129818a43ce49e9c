//! The workers of a stage on the blocking or the cpu lane: threads, each with a loop of its own.
//!
//! A worker takes as many items at once as make up some microseconds of measured work, runs them,
//! and hands their outputs on together, so that tiny items pay no hand-over each. From about 10 µs
//! an item on it takes one at a time.

mod outlet;
mod runner;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::Waker,
    thread,
    time::{Duration, Instant},
};

use crate::{
    block_on::thread_waker,
    cancel::CancelToken,
    gate::pace::Pace,
    lane::{Context, SyncHandler, caught, cpu::NICE},
    outcome::Outcome,
    pipeline::{
        exit::{Door, Exit},
        post::{Guard, Post, Tried},
        queue::{Ask, Given, ItemBatch, TakenItems},
        run::{Halt, PipelinePart},
        stage::Setup,
    },
    sync::Mutex,
    task::LaneKind,
};
use outlet::Outlet;
use runner::Runners;

/// The work that a worker takes at once, when its items are tiny.
const CHUNK: Duration = Duration::from_micros(20);
/// The most items in such a chunk.
const MOST: usize = 64;
/// Items that take longer are timed one by one; shorter ones share what their chunk took.
const TINY: Duration = Duration::from_micros(2);
/// Items that take longer are worth a wake-up of the stage before for each free place.
const LONG: Duration = Duration::from_micros(100);

/// Number of items that a worker takes at once, from what the last ones took: quick to believe in
/// longer items, slow to believe in shorter ones, because an item that is taken along with a long
/// one waits for it.
pub(super) struct Grip {
    /// A mean of what an item takes, in nanoseconds.
    each: f64,
    most: usize,
}

impl Grip {
    pub(super) fn new(queue: usize) -> Self {
        Self { each: CHUNK.as_nanos() as f64, most: MOST.min(queue) }
    }

    pub(super) fn count(&self) -> usize {
        ((CHUNK.as_nanos() as f64 / self.each) as usize).clamp(1, self.most)
    }

    pub(super) fn is_tiny(&self) -> bool {
        self.each < TINY.as_nanos() as f64
    }

    pub(super) fn is_long(&self) -> bool {
        self.each > LONG.as_nanos() as f64
    }

    /// Returns what so many items probably take.
    pub(super) fn estimate(&self, count: usize) -> Duration {
        Duration::from_nanos((self.each * count as f64) as u64)
    }

    /// `count` items took this long together.
    #[inline]
    pub(super) fn learn(&mut self, time: Duration, count: usize) {
        let each = (time.as_nanos() as f64 / count.max(1) as f64).max(1.0);
        self.each = if each > self.each { each } else { self.each * 0.875 + each * 0.125 };
    }
}

/// Starts the workers of a stage.
pub(super) fn start<T: Send + 'static, V: Send + 'static>(setup: Setup<T>, door: &Door<V>, handler: &SyncHandler<T, V>) {
    let Setup { post, lane, workers, ordered, rate, .. } = setup;
    let pace = rate.map(|rate| Arc::new(Mutex::new(Pace::new(rate))));
    let outlet = (ordered && workers > 1).then(|| Arc::new(Outlet::new(door(&post.meter))));
    let runners = (lane == LaneKind::Blocking && post.rules.timeout.is_some()).then(|| Runners::new(handler.clone(), workers));
    for who in 0..workers {
        let part = post.run.part();
        let (post, handler, pace) = (post.clone(), handler.clone(), pace.clone());
        let way = match &outlet {
            Some(outlet) => Way::Ordered(outlet.clone()),
            None => Way::Own(door(&post.meter)),
        };
        let runner = runners.as_ref().map(|runners| runners.seat());
        let name = post.meter.name.clone();
        let own = post.clone();
        let work = move || {
            if lane == LaneKind::Cpu {
                // Without the right to be nicer (there is none in some sandboxes) the stage works
                // all the same.
                let _ = longshore_sys::priority::set_thread_background(NICE);
            }
            let grip = Grip::new(own.meter.queue);
            let context =
                Context { id: 0, attempt: 1, lane, slot: who as u32, timeout: own.rules.timeout, cancel: own.run.cancelled.clone() };
            let seed = own.seed.wrapping_add(who as u64);
            let mut worker = Worker {
                guard: own.guard(),
                post: own,
                handler,
                who,
                workers,
                waker: thread_waker(),
                way,
                pace,
                rng: fastrand::Rng::with_seed(seed),
                grip,
                context,
                runner,
                chunk: VecDeque::new(),
                out: VecDeque::new(),
                _part: part,
            };
            worker.serve();
            worker.guard.done();
        };
        // The kernel shows fifteen bytes of a thread's name; a name with a zero in it is none.
        let name = if name.contains('\0') { "stage".to_owned() } else { name };
        if let Err(error) = thread::Builder::new().name(name).spawn(work) {
            post.broken("lost", format!("no thread for its worker: {error}"));
        }
    }
}

/// Way out for a worker's outputs.
enum Way<V> {
    /// Into the next queue, as they come.
    Own(Box<dyn Exit<V>>),
    /// Through the line that puts them in order.
    Ordered(Arc<Outlet<V>>),
}

struct Worker<T: Send + 'static, V: Send + 'static> {
    post: Arc<Post<T>>,
    handler: SyncHandler<T, V>,
    who: usize,
    workers: usize,
    waker: Waker,
    way: Way<V>,
    pace: Option<Arc<Mutex<Pace>>>,
    rng: fastrand::Rng,
    grip: Grip,
    context: Context,
    runner: Option<runner::SecondThread<T, V>>,
    chunk: ItemBatch<T>,
    out: ItemBatch<V>,
    guard: Guard,
    /// Dropped last: after it the pipeline may have ended.
    _part: PipelinePart,
}

impl<T: Send + 'static, V: Send + 'static> Worker<T, V> {
    fn serve(&mut self) {
        while let Some(first) = self.take() {
            let count = self.chunk.len();
            {
                let mut tally = self.post.meter.tally.lock();
                tally.taken += count as u64;
                tally.begin(1);
            }
            let began = self.post.clock.now();
            let mut ran = Ran::default();
            if self.post.rules.copy.is_none() && self.post.rules.timeout.is_none() && self.pace.is_none() {
                self.run_plain(began, &mut ran);
            } else {
                self.run_with_care(&mut ran);
            }
            {
                let mut tally = self.post.meter.tally.lock();
                tally.running -= 1;
                tally.counts.ok += ran.ok;
                tally.times.busy += ran.busy;
                tally.times.paused += ran.paused;
                if let Some((each, count)) = ran.each {
                    tally.run.add_many(each, count);
                }
                // Those of a stopped pipeline were never tried.
                tally.taken -= self.chunk.len() as u64;
            }
            if !self.chunk.is_empty() {
                self.post.input.put_back(self.chunk.len());
                self.chunk.clear();
            }
            self.hand_on(first, count as u64);
            // A stop is known here before the queues have heard of it. To take more now would let
            // later items pass those that were just put back.
            if self.post.run.halt() != Halt::No {
                break;
            }
        }
    }

    /// Waits for items. `None`: there will be no more.
    fn take(&mut self) -> Option<u64> {
        let mut waited: Option<(Instant, TakenItems)> = None;
        let mut patience = StagePatience::new(self.grip.is_tiny());
        let careful = self.pace.is_some() || self.post.rules.timeout.is_some();
        let most = if careful { 1 } else { self.grip.count() };
        let ask = Ask { most, sharers: self.workers, eager: self.grip.is_long() };
        let first = loop {
            match self.post.input.take(self.who, ask, &mut self.chunk, &self.waker) {
                TakenItems::Items(first) => break Some(first),
                TakenItems::End | TakenItems::Stopped => break None,
                why @ (TakenItems::Empty | TakenItems::Ahead) => {
                    self.count_wait(&mut waited, Some(why));
                    patience.wait();
                }
            }
        };
        self.count_wait(&mut waited, None);
        first
    }

    /// Adds up the time that was waited, and notes why it is waited now.
    fn count_wait(&self, waited: &mut Option<(Instant, TakenItems)>, why: Option<TakenItems>) {
        if waited.is_none() && why.is_none() {
            return;
        }
        let now = self.post.clock.now();
        if let Some((since, why)) = *waited {
            let time = now.saturating_duration_since(since);
            let mut tally = self.post.meter.tally.lock();
            match why {
                TakenItems::Ahead => tally.times.blocked += time,
                _ => tally.times.waiting += time,
            }
        }
        *waited = why.map(|why| (now, why));
    }

    /// Runs the chunk: nothing is kept, nothing is waited for.
    fn run_plain(&mut self, began: Instant, ran: &mut Ran) {
        let tiny = self.grip.is_tiny();
        let count = self.chunk.len();
        let mut now = began;
        while let Some((number, item)) = self.chunk.pop_front() {
            self.context.id = number;
            match caught(|| (self.handler)(&self.context, item)) {
                Outcome::Ok(output) => {
                    ran.ok += 1;
                    self.out.push_back((number, output));
                }
                other => self.post.failed(&other, Tried { number, attempts: 1, copy: None }),
            }
            if !tiny {
                let ended = self.post.clock.now();
                self.took(ended.saturating_duration_since(now), ran);
                now = ended;
            }
            if !self.chunk.is_empty() && self.post.run.halt() != Halt::No {
                break;
            }
        }
        if tiny {
            let done = count - self.chunk.len();
            let time = self.post.clock.now().saturating_duration_since(began);
            self.grip.learn(time, done);
            ran.busy += time;
            ran.each = Some((time / done.max(1) as u32, done as u32));
        }
    }

    /// One attempt took this long.
    fn took(&mut self, time: Duration, ran: &mut Ran) {
        self.grip.learn(time, 1);
        ran.busy += time;
        self.post.meter.tally.lock().run.add(time);
    }

    /// Runs the chunk with all that a stage may be told: pace, timeout, further attempts.
    fn run_with_care(&mut self, ran: &mut Ran) {
        let taken = self.post.clock.now();
        while let Some((number, item)) = self.chunk.pop_front() {
            let copy = self.post.rules.copy.map(|copy| copy(&item));
            let mut tried = Tried { number, attempts: 0, copy };
            let mut item = Some(item);
            while let Some(payload) = item.take() {
                if !self.wait_for_slot(ran) {
                    self.post.cancelled();
                    break;
                }
                tried.attempts += 1;
                let outcome = self.attempt(&tried, payload, ran);
                let age = self.post.clock.now().saturating_duration_since(taken);
                match outcome {
                    Outcome::Ok(output) => {
                        ran.ok += 1;
                        self.out.push_back((number, output));
                        break;
                    }
                    other => match self.post.again(&other, &tried, age, self.rng.f64()) {
                        Some(after) => {
                            self.post.meter.tally.lock().counts.retries += 1;
                            if !self.rest(after, ran) {
                                self.post.cancelled();
                                break;
                            }
                            item = tried.copy.as_ref().and_then(|item| self.post.rules.copy.map(|copy| copy(item)));
                        }
                        None => {
                            self.post.failed(&other, tried);
                            break;
                        }
                    },
                }
            }
            if self.post.run.halt() != Halt::No {
                break;
            }
        }
    }

    fn attempt(&mut self, tried: &Tried<T>, item: T, ran: &mut Ran) -> Outcome<V> {
        let began = self.post.clock.now();
        (self.context.id, self.context.attempt) = (tried.number, tried.attempts);
        let limit = self.post.rules.timeout;
        let outcome = match (&mut self.runner, limit) {
            (Some(runner), Some(limit)) => {
                self.context.cancel = CancelToken::new();
                runner.run(&self.context, item, limit, &self.post.run)
            }
            _ => caught(|| (self.handler)(&self.context, item)),
        };
        let time = self.post.clock.now().saturating_duration_since(began);
        self.took(time, ran);
        match limit {
            // It could not be ended, but it was not on time either.
            Some(limit) if time > limit && self.runner.is_none() => Outcome::TimedOut { limit },
            _ => outcome,
        }
    }

    /// Waits for a slot of the stage's pace. `false`: the pipeline has stopped.
    fn wait_for_slot(&mut self, ran: &mut Ran) -> bool {
        let Some(pace) = self.pace.clone() else { return self.post.run.halt() == Halt::No };
        loop {
            let now = self.post.clock.now();
            let rest = {
                let mut pace = pace.lock();
                let slot = pace.slot(now);
                if slot <= now {
                    pace.take(now);
                    return self.post.run.halt() == Halt::No;
                }
                pace.wait();
                slot.saturating_duration_since(now)
            };
            if !self.rest(rest, ran) {
                return false;
            }
        }
    }

    fn rest(&self, time: Duration, ran: &mut Ran) -> bool {
        let began = self.post.clock.now();
        let slept = self.post.run.sleep(time);
        ran.paused += self.post.clock.now().saturating_duration_since(began);
        slept
    }

    /// Hands the outputs on: those of items `first..first + count` of the queue.
    fn hand_on(&mut self, first: u64, count: u64) {
        let patience = StagePatience::new(self.grip.is_tiny());
        let blocked = match &mut self.way {
            Way::Own(exit) => give(&mut **exit, &mut self.out, &self.waker, patience, &self.post),
            Way::Ordered(outlet) => outlet.hand_on(first, count, &mut self.out, &self.waker, patience, &self.post),
        };
        if !blocked.is_zero() {
            self.post.meter.tally.lock().times.blocked += blocked;
        }
    }
}

/// Way of a thread to wait until it is called: where items are tiny it first lets others go on a
/// few times, because what it waits for is about to come, and going to sleep and being woken costs
/// more than a batch of such items.
#[derive(Clone, Copy)]
struct StagePatience(u32);

/// Times that others go first.
const YIELDS: u32 = 4;

impl StagePatience {
    fn new(tiny: bool) -> Self {
        Self(if tiny { YIELDS } else { 0 })
    }

    fn wait(&mut self) {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                thread::yield_now();
            }
            None => thread::park(),
        }
    }
}

/// Result of a chunk.
#[derive(Default)]
struct Ran {
    ok: u64,
    busy: Duration,
    paused: Duration,
    /// Time that each of so many items took on average.
    each: Option<(Duration, u32)>,
}

/// Gives a whole batch, blocking this thread while there is no room. Returns for how long there was
/// none.
fn give<T, V>(exit: &mut dyn Exit<V>, batch: &mut ItemBatch<V>, waker: &Waker, mut patience: StagePatience, post: &Post<T>) -> Duration {
    let mut since = None;
    while exit.give(batch, waker) == Given::Full {
        since.get_or_insert_with(|| post.clock.now());
        patience.wait();
    }
    since.map_or(Duration::ZERO, |since| post.clock.now().saturating_duration_since(since))
}

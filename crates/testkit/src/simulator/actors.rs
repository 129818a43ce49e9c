//! Who takes part in a run: a source, lanes and a sink that do at random whatever their contracts
//! allow.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::{BoxFuture, FutureExt};
use longshore_core::{
    Again, Attempt, CancelToken, Clock, Delivery, Finished, LaneKind, Options, Outcome, SinkError, Skip, SourceError, Stop, TaskError,
    lane::{Lane, Outbox},
    sink::{Room, Sink},
    source::{Fetched, Settlement, Source},
};

use super::{
    Invariant, Sabotage,
    plan::{Fail, Plan},
    world::World,
};

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rng(seed: u64, who: u64) -> Rng {
    Rng::with_seed(seed.wrapping_mul(0x9e37_79b9).wrapping_add(who))
}

/// A panic without a message on the screen.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("at random"))
}

/// Sleeps up to so many milliseconds, half of the time not at all.
async fn dawdle(most: u64, draw: u64) {
    if most > 0 && draw.is_multiple_of(2) {
        tokio::time::sleep(Duration::from_micros(draw % (most * 1000))).await;
    }
}

pub(super) struct SimSource {
    world: Arc<World>,
    plan: SourcePlan,
    rng: Mutex<Rng>,
    state: Mutex<SourceState>,
    closed: CancelToken,
    sabotage: Sabotage,
}

type DrawOptions = dyn Fn(&mut Rng) -> Option<Options> + Send + Sync;

struct SourcePlan {
    tasks: Option<u64>,
    fetch_ms: u64,
    settle_ms: u64,
    fetch_fails: Option<(u64, Fail)>,
    settle_fails: Option<(u64, Fail)>,
    options: Box<DrawOptions>,
}

#[derive(Default)]
struct SourceState {
    fetches: u64,
    settlements: u64,
    lent: u64,
}

impl SimSource {
    pub(super) fn new(world: Arc<World>, plan: &Plan, sabotage: Sabotage) -> Self {
        let options_of = Plan { controls: Vec::new(), limits: plan.limits.clone(), retry: plan.retry.clone(), ..*plan };
        Self {
            world,
            plan: SourcePlan {
                tasks: plan.tasks,
                fetch_ms: plan.fetch_ms,
                settle_ms: plan.settle_ms,
                fetch_fails: plan.fetch_fails,
                settle_fails: plan.settle_fails,
                options: Box::new(move |rng| options_of.options(rng)),
            },
            rng: Mutex::new(rng(plan.seed, 1)),
            state: Mutex::default(),
            closed: CancelToken::new(),
            sabotage,
        }
    }

    fn lend(&self, into: &mut Vec<Delivery<u64>>) {
        let options = (self.plan.options)(&mut lock(&self.rng));
        let id = self.world.lock().lend(options.clone());
        lock(&self.state).lent += 1;
        let options = options.map(|mut options| {
            match self.sabotage {
                Sabotage::KeysAreHidden => options.key = None,
                Sabotage::ValuesAreHidden => options.limits.clear(),
                _ => {}
            }
            Box::new(options)
        });
        if !(self.sabotage == Sabotage::SourceSwallowsTask && id == 3) {
            into.push(Delivery { options, ..Delivery::new(id, id) });
        }
    }

    async fn fetch_some(&self, room: usize, into: &mut Vec<Delivery<u64>>, fail: Option<Fail>) -> Result<Fetched, SourceError> {
        let draw = lock(&self.rng).u64(..);
        let mut wait = if draw.is_multiple_of(2) { self.plan.fetch_ms * 1000 } else { 0 };
        if self.plan.tasks.is_none() {
            // What has no end must let time pass.
            wait += 1000;
        }
        if wait > 0 {
            let sleep = tokio::time::sleep(Duration::from_micros(1 + draw % wait.max(1)).max(Duration::from_millis(1)));
            let closed = self.closed.cancelled();
            futures_util::future::select(std::pin::pin!(sleep), std::pin::pin!(closed)).await;
        }
        match fail {
            Some(Fail::Panic) => panic_quietly(),
            Some(_) => return Err(SourceError::fatal("the source fails at random")),
            None => {}
        }
        let left = self.plan.tasks.map_or(u64::MAX, |tasks| tasks - lock(&self.state).lent);
        let closed = self.closed.is_cancelled();
        let some = lock(&self.rng).usize(1..=room);
        let count = if closed { lock(&self.rng).usize(..=1) } else { some }.min(usize::try_from(left).unwrap_or(usize::MAX));
        for _ in 0..count {
            self.lend(into);
        }
        // The end may come with the last task, or on its own.
        let end = closed || left == 0 || (left == count as u64 && lock(&self.rng).bool());
        Ok(if end { Fetched::End } else { Fetched::More })
    }
}

/// Blames whoever drops a fetch before its end.
struct FetchGuard<'a> {
    world: &'a World,
    over: bool,
}

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        if !self.over && !std::thread::panicking() {
            self.world.blame(Invariant::Fetches, || "a fetch is cancelled".to_owned());
        }
    }
}

impl Source<u64> for SimSource {
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<u64>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        self.world.lock().fetch_begins(room);
        let nth = {
            let mut state = lock(&self.state);
            state.fetches += 1;
            state.fetches - 1
        };
        let fail = self.plan.fetch_fails.filter(|(at, _)| *at == nth).map(|(_, fail)| fail);
        if fail == Some(Fail::PanicAtOnce) {
            self.world.lock().fetch_ends(true, true);
            panic_quietly();
        }
        async move {
            let mut guard = FetchGuard { world: &self.world, over: false };
            if fail == Some(Fail::Panic) {
                guard.over = true;
                self.world.lock().fetch_ends(true, true);
            }
            let fetched = self.fetch_some(room, into, fail).await;
            guard.over = true;
            self.world.lock().fetch_ends(matches!(fetched, Ok(Fetched::End)), fetched.is_err());
            fetched
        }
        .boxed()
    }

    fn settle<'a>(&'a self, batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
        let nth = {
            let mut state = lock(&self.state);
            state.settlements += 1;
            state.settlements - 1
        };
        let fail = self.plan.settle_fails.filter(|(at, _)| *at == nth).map(|(_, fail)| fail);
        if fail.is_some() {
            self.world.lock().settle_fails(batch.iter().map(|settlement| settlement.receipt));
        }
        if fail == Some(Fail::PanicAtOnce) {
            panic_quietly();
        }
        async move {
            let draw = lock(&self.rng).u64(..);
            dawdle(self.plan.settle_ms, draw).await;
            match fail {
                Some(Fail::Panic) => panic_quietly(),
                Some(_) => return Err(SourceError::fatal("the settlement fails at random")),
                None => {}
            }
            for settlement in batch {
                let mut ledger = self.world.lock();
                ledger.settle(settlement.receipt, settlement.verdict);
                if self.sabotage == Sabotage::SourceSettlesTwice && settlement.receipt.0 == 3 {
                    ledger.settle(settlement.receipt, settlement.verdict);
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn close(&self) {
        self.world.lock().closed = true;
        self.closed.cancel();
    }
}

pub(super) struct SimLane(Arc<LaneState>);

struct LaneState {
    lane: usize,
    world: Arc<World>,
    outbox: Outbox<u64, u64>,
    rng: Mutex<Rng>,
    failing: u8,
    attempt_ms: u64,
    capacity: Option<usize>,
    soft: CancelToken,
    hard: CancelToken,
    sabotage: Sabotage,
    /// An attempt whose outcome is reported for another one.
    kept: Mutex<Option<Attempt<u64>>>,
}

impl SimLane {
    pub(super) fn new(lane: usize, world: Arc<World>, outbox: Outbox<u64, u64>, plan: &Plan, sabotage: Sabotage) -> Self {
        let capacity = (plan.capacity && lane == LaneKind::Cpu as usize).then(|| plan.sizes[lane] * 2);
        Self(Arc::new(LaneState {
            lane,
            world,
            outbox,
            rng: Mutex::new(rng(plan.seed, 10 + lane as u64)),
            failing: plan.failing,
            attempt_ms: plan.attempt_ms,
            capacity,
            soft: CancelToken::new(),
            hard: CancelToken::new(),
            sabotage,
            kept: Mutex::default(),
        }))
    }
}

impl LaneState {
    fn draw_outcome(&self, id: u64) -> Outcome<u64> {
        let mut rng = lock(&self.rng);
        if rng.u8(..100) >= self.failing {
            return Outcome::Ok(id);
        }
        let error = |again| TaskError::new("status", "at random").with_again(again);
        match rng.u8(..12) {
            0 => Outcome::Retry { after: None, why: error(Again::ByPolicy) },
            1 => Outcome::Retry { after: Some(Duration::from_millis(rng.u64(..30))), why: error(Again::ByPolicy) },
            2 => Outcome::Failed(error(Again::After(Duration::from_millis(rng.u64(..30))))),
            3 => Outcome::Failed(TaskError::invalid("at random")),
            4 => Outcome::Panicked("at random".to_owned()),
            5 => Outcome::Killed { signal: 9 },
            6 => Outcome::Lost("at random".to_owned()),
            7 => Outcome::Skipped(Skip::Expired),
            8 => Outcome::Failed(TaskError::new("other", "at random")),
            _ => Outcome::Failed(error(Again::ByPolicy)),
        }
    }

    /// Reports the end of an attempt.
    fn report(&self, attempt: Attempt<u64>, outcome: Outcome<u64>) {
        let id = attempt.task.id;
        if self.sabotage == Sabotage::LaneDropsAttempt && id == 5 {
            return;
        }
        self.world.lock().end(&attempt, &outcome);
        let outcome = match outcome {
            Outcome::Ok(_) if self.sabotage == Sabotage::LaneLies && id == 5 => Outcome::Skipped(Skip::Duplicate),
            outcome => outcome,
        };
        if self.sabotage == Sabotage::LaneReportsTwice {
            // A task cannot be copied: to speak twice for one, a lane must take another one's
            // place.
            let kept = lock(&self.kept).take();
            match kept {
                None if id.is_multiple_of(3) => {
                    *lock(&self.kept) = Some(attempt);
                    return;
                }
                None => {}
                Some(mut other) => {
                    (other.task.id, other.task.receipt, other.task.attempt) = (id, attempt.task.receipt, attempt.task.attempt);
                    self.outbox.finish_one(other.unstarted(Outcome::Ok(id)));
                }
            }
        }
        let now = Clock::TOKIO.now();
        let started = attempt.admitted;
        self.outbox.finish_one(Finished { slot: attempt.task.slot, task: attempt.task, outcome, started, ended: now.into(), cpu: None });
    }

    async fn run(self: Arc<Self>, attempt: Attempt<u64>, mut time: Duration) {
        let mut outcome = self.draw_outcome(attempt.task.id);
        if let Some(limit) = attempt.limit().filter(|limit| *limit < time) {
            (time, outcome) = (limit, Outcome::TimedOut { limit });
        }
        let until = tokio::time::Instant::now() + time;
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => return self.report(attempt, outcome),
            () = self.soft.cancelled() => {}
            () = self.hard.cancelled() => {}
        }
        // Asked to end: it may go on to its own end, take its time, or end at once.
        let (choice, more) = {
            let mut rng = lock(&self.rng);
            (rng.u8(..3), Duration::from_millis(rng.u64(..20)))
        };
        let linger = match choice {
            0 => until,
            1 => tokio::time::Instant::now() + more,
            _ => tokio::time::Instant::now(),
        };
        let forced = tokio::select! {
            biased;
            () = self.hard.cancelled() => true,
            () = tokio::time::sleep_until(linger) => false,
        };
        self.report(attempt, if choice == 0 && !forced { outcome } else { Outcome::Cancelled });
    }
}

impl Lane<u64, u64> for SimLane {
    fn start(&self, batch: &mut Vec<Attempt<u64>>) {
        let lane = &self.0;
        for attempt in batch.drain(..) {
            lane.world.lane_starts(&attempt, lane.lane);
            let draw = lock(&lane.rng).u64(..);
            let time = if lane.attempt_ms == 0 || draw.is_multiple_of(4) { 0 } else { (draw >> 8) % (lane.attempt_ms * 1000) };
            if time == 0 && draw.is_multiple_of(3) {
                // Some end before `start` returns.
                let outcome = lane.draw_outcome(attempt.task.id);
                lane.report(attempt, outcome);
            } else {
                tokio::spawn(lane.clone().run(attempt, Duration::from_micros(time)));
            }
        }
    }

    fn capacity(&self) -> Option<usize> {
        let most = self.0.capacity?;
        let now = lock(&self.0.rng).usize(1..=most);
        self.0.world.lock().capacity(now);
        Some(now)
    }

    fn stop(&self, how: Stop) {
        match how {
            Stop::Soft => self.0.soft.cancel(),
            Stop::Hard => self.0.hard.cancel(),
        }
    }
}

pub(super) struct SimSink {
    world: Arc<World>,
    rng: Rng,
    accept_ms: u64,
    release_ms: Option<u64>,
    accept_fails: Option<(u64, Fail)>,
    close_fails: Option<Fail>,
    accepts: u64,
    sabotage: Sabotage,
}

impl SimSink {
    pub(super) fn new(world: Arc<World>, plan: &Plan, sabotage: Sabotage) -> Self {
        Self {
            world,
            rng: rng(plan.seed, 2),
            accept_ms: plan.accept_ms,
            release_ms: plan.release_ms,
            accept_fails: plan.accept_fails,
            close_fails: plan.close_fails,
            accepts: 0,
            sabotage,
        }
    }
}

impl Sink<u64, u64> for SimSink {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<u64, u64>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        let nth = self.accepts;
        self.accepts += 1;
        let fail = self.accept_fails.filter(|(at, _)| *at == nth).map(|(_, fail)| fail);
        if fail.is_some() {
            self.world.lock().sink_fails(batch.iter().map(|one| (one.id(), one.outcome.word())));
        }
        if fail == Some(Fail::PanicAtOnce) {
            panic_quietly();
        }
        let draw = self.rng.u64(..);
        async move {
            dawdle(self.accept_ms, draw).await;
            match fail {
                Some(Fail::Panic) => panic_quietly(),
                Some(_) => return Err(SinkError::fatal("the sink fails at random")),
                None => {}
            }
            for one in batch.drain(..) {
                self.world.lock().accept(one.id(), one.task.attempt, one.outcome.word(), one.task.payload);
                if self.sabotage == Sabotage::SinkKeepsRoom {
                    continue;
                }
                match self.release_ms {
                    None => {
                        self.world.lock().release(1);
                        room.release(1);
                    }
                    Some(ms) => {
                        let (world, room) = (self.world.clone(), room.clone());
                        let later = Duration::from_millis(self.rng.u64(..=ms));
                        tokio::spawn(async move {
                            tokio::time::sleep(later).await;
                            world.lock().release(1);
                            room.release(1);
                        });
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        if self.close_fails.is_some() {
            self.world.lock().sink_fails_to_close();
        }
        if self.close_fails == Some(Fail::PanicAtOnce) {
            panic_quietly();
        }
        async move {
            match self.close_fails {
                None => Ok(()),
                Some(Fail::Panic) => panic_quietly(),
                Some(_) => Err(SinkError::fatal("the sink fails to close")),
            }
        }
        .boxed()
    }
}

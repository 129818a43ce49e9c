//! The circumstances of a run, drawn from its seed.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use longshore_core::{Backoff, ErrorClass, LaneKind, Limit, Options, Rate, RetryOn, RetryPolicy, Stop, TaskError, engine::Handle};

use super::{Sabotage, world::World};

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// `None`: without end.
    pub(super) tasks: Option<u64>,
    pub(super) lanes: [bool; 4],
    pub(super) sizes: [usize; 4],
    pub(super) lane: LaneKind,
    pub(super) concurrency: Option<usize>,
    pub(super) queue: usize,
    pub(super) results: usize,
    pub(super) parking: usize,
    pub(super) rate: Option<Rate>,
    pub(super) limits: Vec<Limit>,
    pub(super) keys: u64,
    pub(super) retry: Arc<RetryPolicy>,
    pub(super) timeout: Option<Duration>,
    pub(super) keep_payloads: bool,
    /// In how many of a hundred tasks each of these happens.
    pub(super) own_options: u8,
    pub(super) refused: u8,
    pub(super) failing: u8,
    /// The longest attempt, fetch, settlement and acceptance, in milliseconds.
    pub(super) attempt_ms: u64,
    pub(super) fetch_ms: u64,
    pub(super) settle_ms: u64,
    pub(super) accept_ms: u64,
    /// Results leave the result queue this much later, in milliseconds; `None`: when they are
    /// accepted.
    pub(super) release_ms: Option<u64>,
    /// The number of the fetch, the settlement and the acceptance that fail, if it comes to that.
    pub(super) fetch_fails: Option<(u64, Fail)>,
    pub(super) settle_fails: Option<(u64, Fail)>,
    pub(super) accept_fails: Option<(u64, Fail)>,
    pub(super) close_fails: Option<Fail>,
    /// The cpu lane says itself how much it wants to hold.
    pub(super) capacity: bool,
    pub(super) controls: Vec<(When, Do)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fail {
    Error,
    Panic,
    /// Panics before there is a future.
    PanicAtOnce,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    /// After this time.
    After(Duration),
    /// When so many attempts have started, or at last after a second.
    Starts(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Do {
    Drain,
    Stop(Stop),
    Pause,
    Resume,
    Concurrency(Option<LaneKind>, usize),
    Rate(Option<Rate>),
    Timeout(Option<Duration>),
    Snapshot,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn some<V>(rng: &mut Rng, percent: u8, draw: impl FnOnce(&mut Rng) -> V) -> Option<V> {
    (rng.u8(..100) < percent).then(|| draw(rng))
}

fn fail(rng: &mut Rng) -> Fail {
    [Fail::Error, Fail::Error, Fail::Panic, Fail::PanicAtOnce][rng.usize(..4)]
}

fn rate(rng: &mut Rng) -> Rate {
    let count = [3.0, 50.0, 333.0, 1000.0, 2500.0][rng.usize(..5)];
    let rate = Rate::per_second(count).burst(rng.u32(1..=5));
    if rng.u8(..4) == 0 { rate.burst(1) } else { rate }
}

pub(super) fn three_times(rate: Rate) -> Rate {
    Rate { count: rate.count * 3.0, burst: rate.burst * 3, ..rate }
}

fn policy(rng: &mut Rng) -> RetryPolicy {
    let backoff = match rng.u8(..4) {
        0 => Backoff::Exponential { base: ms(2), cap: ms(40) },
        1 => Backoff::List(vec![ms(1), ms(7), ms(20)]),
        _ => Backoff::Fixed(ms(rng.u64(0..20))),
    };
    let sure = !matches!(backoff, Backoff::Exponential { .. });
    let on = if rng.u8(..4) == 0 { RetryOn::Only(vec![ErrorClass::kind("status"), ErrorClass::kind("lost")]) } else { RetryOn::default() };
    let give_up_after = if sure { some(rng, 20, |rng| ms(rng.u64(1..100))) } else { None };
    let mut policy = RetryPolicy::times(rng.u32(0..4)).backoff(backoff).on(on);
    policy.give_up_after = give_up_after;
    policy
}

impl Plan {
    pub(super) fn draw(seed: u64, sabotage: Sabotage) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x006c_6f6e_6773_686f);
        let rng = &mut rng;
        let lane = LaneKind::ALL[rng.usize(..4)];
        let mut lanes = [0; 4].map(|_: u8| rng.u8(..3) == 0);
        lanes[lane as usize] = true;
        let mut sizes = [0; 4].map(|_: u8| 1 + rng.usize(..6));
        for (size, lane) in sizes.iter_mut().zip(lanes) {
            *size = if lane { *size } else { 0 };
        }
        let infinite = rng.u8(..8) == 0;
        let limits = (0..rng.usize(..3))
            .map(|nth| {
                let mut limit = Limit::named(format!("limit{nth}"));
                limit.concurrency = some(rng, 60, |rng| 1 + rng.usize(..3));
                limit.rate = some(rng, 40, rate);
                limit
            })
            .collect();
        let disturbed = sabotage == Sabotage::StopIsIgnored || infinite || rng.u8(..2) == 0;
        let mut plan = Self {
            seed,
            tasks: (!infinite).then(|| if rng.u8(..10) == 0 { rng.u64(..300) } else { rng.u64(..70) }),
            lanes,
            sizes,
            lane,
            concurrency: some(rng, 40, |rng| 1 + rng.usize(..8)),
            queue: rng.usize(..12),
            results: rng.usize(..12),
            parking: if rng.u8(..2) == 0 { 1000 } else { 1 + rng.usize(..8) },
            rate: some(rng, 40, rate),
            limits,
            keys: if rng.u8(..2) == 0 { 0 } else { rng.u64(1..8) },
            retry: Arc::new(policy(rng)),
            timeout: some(rng, 30, |rng| ms(rng.u64(1..30))),
            keep_payloads: rng.bool(),
            own_options: if rng.bool() { rng.u8(..100) } else { 0 },
            refused: if rng.u8(..4) == 0 { 20 } else { 0 },
            failing: [0, 10, 50, 100][rng.usize(..4)],
            attempt_ms: [0, 5, 30, 2000][rng.usize(..4)],
            fetch_ms: [0, 0, 3, 50][rng.usize(..4)],
            settle_ms: [0, 0, 3, 50][rng.usize(..4)],
            accept_ms: [0, 0, 3, 50][rng.usize(..4)],
            release_ms: some(rng, 40, |rng| [1, 20, 500][rng.usize(..3)]),
            fetch_fails: some(rng, 5, |rng| (rng.u64(..20), fail(rng))),
            settle_fails: some(rng, 5, |rng| (rng.u64(..20), fail(rng))),
            accept_fails: some(rng, 5, |rng| (rng.u64(..20), fail(rng))),
            close_fails: some(rng, 3, fail),
            capacity: rng.u8(..4) == 0,
            controls: Vec::new(),
        };
        if disturbed {
            for _ in 0..rng.usize(..6) {
                let act = plan.disturbance(rng);
                let pause = matches!(act, Do::Pause);
                plan.controls.push((plan.when(rng), act));
                if pause {
                    plan.controls.push((When::After(ms(rng.u64(..50))), Do::Resume));
                }
            }
            if infinite || sabotage == Sabotage::StopIsIgnored || rng.bool() {
                let stop = [Do::Drain, Do::Stop(Stop::Soft), Do::Stop(Stop::Hard)][rng.usize(..3)].clone();
                if infinite {
                    plan.controls.push((When::After(ms(rng.u64(..40))), stop));
                } else {
                    plan.controls.push((plan.when(rng), stop));
                }
                if rng.u8(..3) == 0 {
                    plan.controls.push((When::After(ms(rng.u64(..20))), Do::Stop(Stop::Hard)));
                }
            }
        }
        plan
    }

    fn when(&self, rng: &mut Rng) -> When {
        if rng.bool() { When::After(ms(rng.u64(..60))) } else { When::Starts(rng.u64(..60)) }
    }

    fn disturbance(&self, rng: &mut Rng) -> Do {
        let lanes: Vec<_> =
            LaneKind::ALL.into_iter().filter(|lane| self.lanes[*lane as usize] && !(self.capacity && *lane == LaneKind::Cpu)).collect();
        match rng.u8(..7) {
            0 => Do::Pause,
            1 => Do::Concurrency(None, 1 + rng.usize(..8)),
            2 if !lanes.is_empty() => Do::Concurrency(Some(lanes[rng.usize(..lanes.len())]), 1 + rng.usize(..8)),
            3 => Do::Rate(some(rng, 80, rate)),
            4 => Do::Timeout(some(rng, 50, |rng| ms(rng.u64(1..30)))),
            _ => Do::Snapshot,
        }
    }

    /// What the task with this number wants differently.
    pub(super) fn options(&self, rng: &mut Rng) -> Option<Options> {
        let keyed = self.keys > 0 && rng.u8(..10) < 8;
        let own = rng.u8(..100) < self.own_options;
        let limited = !self.limits.is_empty() && rng.u8(..10) < 8;
        let refused = rng.u8(..100) < self.refused;
        if !(keyed || own || limited || refused) {
            return None;
        }
        let mut options = Options::default();
        if keyed {
            options.key = Some(format!("k{}", rng.u64(..self.keys)).into());
        }
        if own {
            options.lane = some(rng, 70, |rng| LaneKind::ALL[rng.usize(..4)]);
            options.timeout = some(rng, 30, |rng| ms(rng.u64(1..20)));
            options.retry = some(rng, 40, |rng| Arc::new(policy(rng)));
            options.attempts_made = if rng.u8(..5) == 0 { rng.u32(..3) } else { 0 };
        }
        if limited {
            for rule in 0..self.limits.len() {
                if rng.u8(..10) < 7 {
                    options.limits.push((rule, format!("v{}", rng.u8(..3)).into()));
                }
            }
        }
        if refused {
            options.refused = Some(TaskError::invalid("refused at random"));
        }
        Some(options)
    }
}

/// Disturbs the run.
pub(super) async fn control(controls: Vec<(When, Do)>, handle: Handle, world: Arc<World>, sabotage: Sabotage) {
    for (when, act) in controls {
        match when {
            When::After(time) => tokio::time::sleep(time).await,
            When::Starts(count) => {
                let _ = tokio::time::timeout(Duration::from_secs(1), world.starts_reach(count)).await;
            }
        }
        world.note(&act);
        match act {
            Do::Drain | Do::Stop(_) if sabotage == Sabotage::StopIsIgnored => {
                tokio::time::sleep(ms(20)).await;
                handle.drain();
            }
            Do::Drain => handle.drain(),
            Do::Stop(how) => handle.stop(how),
            Do::Pause => handle.pause(),
            Do::Resume => handle.resume(),
            Do::Concurrency(lane, most) => handle.set_concurrency(lane, most),
            Do::Rate(rate) => handle.set_rate(rate),
            Do::Timeout(timeout) => handle.set_timeout(timeout),
            Do::Snapshot => {
                if let Some(snapshot) = handle.snapshot().await {
                    world.check_snapshot(&snapshot);
                }
            }
        }
    }
}

//! Decision from measurements to advice: a pure function.
//!
//! What is known is what one item takes, alone: its wall time, the part of it on a CPU, what the
//! machine kept it waiting; and how many items a second went through a lane at some numbers of
//! workers. Of every way that was measured, and of those that follow from the item alone, the time
//! of the whole job is reckoned; the simplest of the fastest ones is advised.

pub(crate) mod model;
mod reasons;

use std::time::Duration;

use longshore_core::LaneKind;

pub use model::{Plan, chunk_for, plans};

use crate::{Advice, Bound, Place, SpeedUp};

/// Kind of work, by how it can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain function: the blocking or the cpu lane.
    Plain,
    /// An async function: the async lane.
    Async,
    /// A command: the process lane.
    Command,
}

/// Means of what one item takes when it has the machine for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Time from its start to its end.
    pub wall: Duration,
    /// Time on a CPU.
    pub cpu: Duration,
    /// Time ready to run, while other programs had the CPU. Part of `wall`, and no property of the
    /// item.
    pub queued: Duration,
    /// Spread of the items: half the distance of the outer quarters of their wall times, as a share
    /// of the median.
    pub spread: f64,
    /// Number of times that it gave up the CPU to wait.
    pub voluntary: f64,
    /// Number of times that the CPU was taken from it.
    pub forced: f64,
    /// Number of items that were timed.
    pub timed: u64,
}

impl Item {
    /// Returns what it would take if nobody else wanted the CPU, in seconds; never 0.
    pub fn alone(&self) -> f64 {
        self.wall.saturating_sub(self.queued).max(self.cpu).as_secs_f64().max(1e-9)
    }

    /// The share of that time that it is on a CPU, from 0 to 1.
    pub fn share(&self) -> f64 {
        (self.cpu.as_secs_f64() / self.alone()).min(1.0)
    }
}

/// Time that a lane takes for itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overhead {
    /// The lane.
    pub lane: LaneKind,
    /// Time to start a job and to end it.
    pub start: Duration,
    /// Time for each task, in wall time with all workers busy.
    pub each: Duration,
}

/// Timed runs with one number of workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The lane.
    pub lane: LaneKind,
    /// Number of workers.
    pub workers: usize,
    /// Items that travelled together.
    pub chunk: usize,
    /// Items a second, of each run.
    pub rates: Vec<f64>,
    /// Time of the slowest of a hundred tasks, in the median run.
    pub p99: Duration,
}

/// Memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that one item at once adds to the most that is held.
    pub growth: u64,
    /// Bytes that the machine has to spare.
    pub free: u64,
}

/// All that was measured, and what was said beforehand.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Kind of the work.
    pub kind: Kind,
    /// Cores of the machine.
    pub cores: usize,
    /// Number of items that the job will have; `None` for many.
    pub count: Option<u64>,
    /// The most workers that may be advised.
    pub most: usize,
    /// Bytes of an item's data.
    pub payload: u64,
    /// One item.
    pub item: Item,
    /// Memory, where the system tells it.
    pub memory: Option<Memory>,
    /// The lanes' own costs.
    pub overheads: Vec<Overhead>,
    /// Items a second one after another, timed in turns with the runs on lanes; empty where only
    /// the single item was timed.
    pub sequential: Vec<f64>,
    /// Runs on lanes, in the order of their workers.
    pub runs: Vec<Run>,
    /// The share of the machine's CPU time that others had meanwhile, from 0 to 1.
    pub others: f64,
}

/// Factor by which a way may be slower than the fastest and be taken because it is simpler.
const SAME: f64 = 1.03;
/// Speed-up that more workers than cores must bring where nothing waits: less can only have been
/// luck.
const LUCK: f64 = 1.15;
/// Speed-up below which a lane is not worth it.
const WORTH_IT: f64 = 1.1;
/// Most bytes of data that may wait in a work queue.
const QUEUED_DATA: u64 = 64 << 20;

/// The advice that follows from what was measured. No clock, no I/O: equal measurements give equal
/// advice.
///
/// ```
/// use std::time::Duration;
/// use longshore_advise::{Place, decide::{Item, Kind, Measured, Run, decide}};
/// use longshore_core::LaneKind;
///
/// let ms = Duration::from_millis;
/// let run = |workers, rate| Run { lane: LaneKind::Blocking, workers, chunk: 1, rates: vec![rate], p99: ms(10) };
/// let advice = decide(&Measured {
///     kind: Kind::Plain,
///     cores: 2,
///     count: Some(1_000),
///     most: 64,
///     payload: 8,
///     item: Item { wall: ms(10), cpu: ms(0), queued: ms(0), spread: 0.0, voluntary: 1.0, forced: 0.0, timed: 20 },
///     memory: None,
///     overheads: Vec::new(),
///     sequential: Vec::new(),
///     // The other side takes 800 a second, whoever asks.
///     runs: vec![run(1, 99.0), run(2, 199.0), run(4, 398.0), run(8, 790.0), run(16, 800.0)],
///     others: 0.0,
/// });
/// assert_eq!((advice.place, advice.workers), (Place::Lane(LaneKind::Blocking), 8));
/// assert!((7.0..8.0).contains(&advice.speed_up.likely));
/// ```
pub fn decide(measured: &Measured) -> Advice {
    let plans = plans(measured);
    let cost = |plan: &Plan| plan.cost(measured);
    let sequential = plans.iter().find(|plan| plan.place == Place::Sequential);
    let computes = measured.item.share() >= model::COMPUTES;
    let weighed = |plan: &Plan| cost(plan) * if computes && plan.workers > measured.cores { LUCK } else { 1.0 };
    let best = plans.iter().map(weighed).fold(f64::INFINITY, f64::min);
    let stay = sequential.filter(|plan| weighed(plan) <= best * WORTH_IT);
    let simplest = || {
        let fast = plans.iter().filter(|plan| plan.place != Place::Sequential && weighed(plan) <= best * SAME);
        // The cpu lane leaves the others their time; it goes before an equally fast crowd of
        // threads.
        fast.min_by_key(|plan| (plan.place != Place::Lane(LaneKind::Cpu), plan.workers))
    };
    let Some(chosen) = stay.or_else(simplest).or(sequential) else { unreachable!("one after another is always a plan") };
    let alone = sequential.map_or(cost(chosen), cost);
    let speed_up = if chosen.place == Place::Sequential { SpeedUp::NONE } else { speed_up(measured, chosen, alone) };
    let whole = |seconds: f64| measured.count.and_then(|_| Duration::try_from_secs_f64(seconds).ok());
    Advice {
        place: chosen.place,
        workers: chosen.workers,
        chunk: chosen.chunk,
        queue_capacity: queue_capacity(measured, chosen),
        bound: Bound::of_share(measured.item.share()),
        speed_up,
        sequential: whole(alone),
        predicted: whole(cost(chosen)),
        reasons: reasons::reasons(measured, &plans, chosen),
    }
}

/// Derives it from the slowest and the fastest run, and from how far items differ.
fn speed_up(measured: &Measured, plan: &Plan, alone: f64) -> SpeedUp {
    let likely = alone / plan.cost(measured);
    // Means of many items are surer than a single item.
    let differ = (measured.item.spread / (measured.item.timed.max(1) as f64).sqrt()).min(0.5);
    let of = |rate: f64| alone / Plan { rate, ..plan.clone() }.cost(measured);
    SpeedUp { low: (of(plan.low) * (1.0 - differ)).min(likely), likely, high: (of(plan.high) * (1.0 + differ)).max(likely) }
}

/// Twice the workers, unless that would be too much data.
fn queue_capacity(measured: &Measured, plan: &Plan) -> usize {
    let task = measured.payload.saturating_mul(plan.chunk as u64).max(1);
    let most = usize::try_from(QUEUED_DATA / task).unwrap_or(usize::MAX);
    (2 * plan.workers).min(most).max(1)
}

#[cfg(test)]
mod tests;

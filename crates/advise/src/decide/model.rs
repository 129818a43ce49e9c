//! The ways to run a job, and what each would take.

use std::time::Duration;

use longshore_core::LaneKind;

use super::{Kind, Measured};
use crate::Place;

/// Largest share of a chunk's work that its own cost may have.
const OWN: f64 = 0.05;
/// The least work of a chunk, in seconds, where items are so small that they travel together.
const CHUNK: f64 = 100e-6;
/// Fewest chunks of each worker, so that the last ones keep all workers busy.
const CHUNKS_A_WORKER: u64 = 4;
/// Share by which a rate that was not measured can be off.
const UNMEASURED: f64 = 0.5;
/// Share by which a rate that was measured once can be off.
const ONCE: f64 = 0.1;
/// Share of time on a CPU from which on more threads than cores gain nothing.
pub(super) const COMPUTES: f64 = 0.95;
/// Share of the machine that others may have before it counts as busy.
const BUSY: f64 = 0.15;
/// Waves of tasks below which they are counted one by one, because the last takes as long as a full
/// one.
const FEW: u64 = 8;
/// Part of the free memory that one job may take: one in so many.
const OF_MEMORY: u64 = 2;

/// One way to run the job.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Place where it runs.
    pub place: Place,
    /// Number of workers.
    pub workers: usize,
    /// Items that travel together.
    pub chunk: usize,
    /// Items a second, once it runs.
    pub rate: f64,
    /// Hardly less than this.
    pub low: f64,
    /// Hardly more than this.
    pub high: f64,
    /// Time to start and end, in seconds.
    pub start: f64,
    /// True where the rate was measured; else it follows from a single item.
    pub measured: bool,
}

impl Plan {
    /// Returns what the whole job takes this way, in seconds; an item's share of the time where
    /// their number is not known.
    pub fn cost(&self, measured: &Measured) -> f64 {
        let Some(count) = measured.count else { return 1.0 / self.rate };
        let tasks = count.div_ceil(self.chunk as u64);
        let waves = tasks.div_ceil(self.workers as u64);
        // The last wave takes as long as a full one, which matters where there are few of them.
        let last = if waves < FEW { waves as f64 * self.chunk.min(count as usize) as f64 * measured.item.alone() } else { 0.0 };
        self.start + last.max(count as f64 / self.rate)
    }
}

/// Returns how many items should travel together on a lane that takes `each` for a task, so that
/// its own cost is small beside the work, and the last chunks still keep `workers` busy. 1 where an
/// item is large enough to travel alone.
/// ```
/// use std::time::Duration;
/// use longshore_advise::decide::chunk_for;
///
/// let (micro, milli) = (Duration::from_micros(1), Duration::from_millis(1));
/// assert_eq!(chunk_for(milli, micro, 2, None), 1);
/// assert_eq!(chunk_for(micro, micro, 2, None), 100);
/// assert_eq!(chunk_for(micro, micro, 2, Some(80)), 10);
/// ```
pub fn chunk_for(item: Duration, each: Duration, workers: usize, count: Option<u64>) -> usize {
    let (item, each) = (item.as_secs_f64().max(1e-9), each.as_secs_f64());
    if each <= OWN * item {
        return 1;
    }
    // What is a whole number but for the rounding of floats stays one.
    let wanted = ((each / (OWN * item)).max(CHUNK / item) - 1e-6).ceil() as u64;
    let most = count.map_or(u64::MAX, |count| count / (CHUNKS_A_WORKER * workers.max(1) as u64));
    usize::try_from(wanted.min(most).max(1)).unwrap_or(usize::MAX)
}

/// Every way that was measured, those that follow from the item alone where nothing was, and one
/// after another, which comes first.
pub fn plans(measured: &Measured) -> Vec<Plan> {
    let (low, rate, high) = one_after_another(measured);
    let mut plans = vec![Plan { place: Place::Sequential, workers: 1, chunk: 1, rate, low, high, start: 0.0, measured: true }];
    let most = most_workers(measured);
    let trusted = |lane: LaneKind| !(lane == LaneKind::Cpu && reckoned(measured));
    plans.extend(measured.runs.iter().filter(|run| run.workers <= most && trusted(run.lane)).filter_map(|run| {
        let (low, rate, high) = quantiles(&run.rates)?;
        let (low, high) = if run.rates.len() < 3 { (low * (1.0 - ONCE), high * (1.0 + ONCE)) } else { (low, high) };
        let start = start_of(measured, run.lane);
        Some(Plan { place: Place::Lane(run.lane), workers: run.workers, chunk: run.chunk, rate, low, high, start, measured: true })
    }));
    plans.extend(
        lanes(measured)
            .filter(|lane| !trusted(*lane) || measured.runs.iter().all(|run| run.lane != *lane))
            .map(|lane| modelled(measured, lane, most)),
    );
    plans
}

/// Returns the items a second one after another: as they went in turns with the lanes, whom others
/// disturbed as much. Where the lanes are reckoned, so is this.
fn one_after_another(measured: &Measured) -> (f64, f64, f64) {
    let rate = 1.0 / measured.item.alone();
    quantiles(&measured.sequential).filter(|_| !reckoned(measured)).unwrap_or((rate, rate, rate))
}

/// Returns whether what the cpu lane did says little, because others had the machine: its threads
/// stand behind all others, and would not on a free one. Only for work that does nothing but
/// compute: what that takes on a free machine can be reckoned.
pub(crate) fn reckoned(measured: &Measured) -> bool {
    busy(measured) && measured.item.share() >= COMPUTES
}

/// Returns whether others had so much of the machine that measuring again is better.
pub(crate) fn busy(measured: &Measured) -> bool {
    measured.others > BUSY
}

/// The least, the median and the most.
pub(crate) fn quantiles(rates: &[f64]) -> Option<(f64, f64, f64)> {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    Some((*rates.first()?, rates[rates.len() / 2], *rates.last()?))
}

/// The lanes on which work of this kind can be run, and is worth being tried.
pub(crate) fn lanes(measured: &Measured) -> impl Iterator<Item = LaneKind> + use<> {
    let share = measured.item.share();
    let lanes = match measured.kind {
        Kind::Async => [Some(LaneKind::Async), None],
        Kind::Command => [Some(LaneKind::Process), None],
        // Work that waits for half of its time leaves half of the cpu lane's threads idle; work
        // that hardly waits gains nothing by more threads.
        Kind::Plain => [(share >= 0.5).then_some(LaneKind::Cpu), (share < COMPUTES).then_some(LaneKind::Blocking)],
    };
    lanes.into_iter().flatten()
}

/// No more than were asked for, than there are items, and than there is memory for.
pub(crate) fn most_workers(measured: &Measured) -> usize {
    let items = measured.count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    measured.most.min(items).min(by_memory(measured)).max(1)
}

/// Returns how many items there is memory for.
pub(crate) fn by_memory(measured: &Measured) -> usize {
    let fits = measured.memory.map(|memory| memory.free / OF_MEMORY / memory.growth.max(1));
    fits.map_or(usize::MAX, |fits| usize::try_from(fits).unwrap_or(usize::MAX).max(1))
}

/// Returns the workers that keep all cores busy, with twice as many as that takes if all waited
/// evenly; what a lane begins with where nothing computes.
pub(crate) fn expected_workers(measured: &Measured, lane: LaneKind) -> usize {
    let share = measured.item.share();
    if lane == LaneKind::Cpu || share >= COMPUTES {
        return measured.cores;
    }
    let busy = (2.0 * measured.cores as f64 / share).ceil();
    // A float that is too large saturates in the cast.
    (busy as usize).min(default_workers(measured, lane)).max(measured.cores)
}

/// The number of workers that is expected to be best; the most where nothing computes.
pub(crate) fn target(measured: &Measured, lane: LaneKind) -> usize {
    let share = measured.item.share();
    if lane == LaneKind::Cpu || share >= COMPUTES {
        return measured.cores;
    }
    // A float that is too large saturates in the cast.
    ((2.0 * measured.cores as f64 / share.max(1e-6)) as usize).next_power_of_two()
}

fn default_workers(measured: &Measured, lane: LaneKind) -> usize {
    match lane {
        LaneKind::Async => 50,
        LaneKind::Blocking | LaneKind::Process => 4 * measured.cores,
        LaneKind::Cpu => measured.cores,
    }
}

fn start_of(measured: &Measured, lane: LaneKind) -> f64 {
    measured.overheads.iter().find(|overhead| overhead.lane == lane).map_or(0.0, |overhead| overhead.start.as_secs_f64())
}

/// Items that should travel together on a lane.
pub(crate) fn chunk_on(measured: &Measured, lane: LaneKind, workers: usize) -> usize {
    if matches!(lane, LaneKind::Async | LaneKind::Process) {
        return 1;
    }
    let each = measured.overheads.iter().find(|overhead| overhead.lane == lane).map_or(Duration::ZERO, |overhead| overhead.each);
    // Work that computes has a core for each worker, and what the lane takes is taken from all of
    // them.
    let shared = if lane == LaneKind::Cpu { u32::try_from(measured.cores).unwrap_or(u32::MAX) } else { 1 };
    chunk_for(Duration::from_secs_f64(measured.item.alone()), each.saturating_mul(shared), workers, measured.count)
}

fn modelled(measured: &Measured, lane: LaneKind, most: usize) -> Plan {
    let workers = expected_workers(measured, lane).min(most);
    let each = measured.overheads.iter().find(|overhead| overhead.lane == lane).map_or(Duration::ZERO, |overhead| overhead.each);
    let chunk = chunk_on(measured, lane, workers);
    let (alone, each) = (measured.item.alone(), each.as_secs_f64() / chunk as f64);
    let by_workers = workers as f64 / (alone + each);
    // What a lane takes for itself is on the same cores.
    let by_cores = 1.0 / (measured.item.cpu.as_secs_f64() / measured.cores as f64 + each).max(1e-9);
    let rate = by_workers.min(by_cores);
    Plan {
        place: Place::Lane(lane),
        workers,
        chunk,
        rate,
        low: rate * UNMEASURED,
        high: rate,
        start: start_of(measured, lane),
        measured: false,
    }
}

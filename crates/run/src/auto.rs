//! `-j auto`: how many at once, found while the job runs.
//!
//! The job itself is the sample: it begins with as many as there are cores and doubles as long as
//! that brings more tasks a second. What was seen at each number then goes to
//! `longshore_advise::decide`, a pure function, and what it says stays for the rest of the job.

use std::{
    fmt,
    time::{Duration, Instant},
};

use longshore_advise::{
    Place,
    decide::{Item, Kind, Measured, Run, decide},
};
use longshore_core::{LaneKind, engine::Summary};

use crate::units;

/// More throughput than this is worth trying still more.
const RISES: f64 = 1.05;
/// Numbers in a row that brought nothing more, after which the search ends: one alone may be noise.
const FLAT: u32 = 2;
/// A number is tried for this long at least, in which as many tasks end as run at once, twice.
const LEVEL: Duration = Duration::from_millis(200);
/// Work that is on a CPU for this share of its time gains nothing by more than cores.
const COMPUTES: f64 = 0.9;

/// Sums of a run up to one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    at: Instant,
    done: u64,
    /// Time that tasks ran, in sum.
    ran: Duration,
    /// On a CPU, in sum, of so many.
    on_cpu: (Duration, u64),
}

impl Seen {
    /// From the engine's summary so far.
    pub(crate) fn of(summary: &Summary, at: Instant) -> Self {
        let ran = summary.slots.iter().map(|slot| slot.busy).sum();
        Self { at, done: summary.done(), ran, on_cpu: (summary.on_cpu, summary.on_cpu_of) }
    }
}

/// Next step of the search.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Look again later.
    Wait,
    /// Run this many at once.
    Try(usize),
    /// Run this many at once, to the end.
    Settle(BestWidth),
}

/// Number of workers that the search found best, and the measurements behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct BestWidth {
    /// Number of tasks that run at once.
    pub workers: usize,
    /// The share of its time that a task is on a CPU, where that is known.
    share: Option<f64>,
    /// Tasks a second with so many.
    rate: f64,
    /// Time that the remaining tasks should take, where it is known how many remain.
    rest: Option<Duration>,
    at: Instant,
}

impl BestWidth {
    /// Returns a sentence with the time that the rest was expected to take and the time that it
    /// took, where one was expected.
    pub fn outcome(&self, now: Instant) -> Option<String> {
        let rest = self.rest?;
        let took = now.saturating_duration_since(self.at);
        Some(format!(
            "-j auto: {} at once; the rest was expected to take {} and took {}",
            self.workers,
            units::show_duration(rest),
            units::show_duration(took)
        ))
    }
}

impl fmt::Display for BestWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.share {
            Some(share) => write!(f, "on a CPU for {:.0} % of its time", share * 100.0)?,
            None => f.write_str("time on a CPU unknown")?,
        }
        write!(f, " → {} at once, {:.1}/s", self.workers, self.rate)?;
        match self.rest {
            Some(rest) => write!(f, ", {} to go", units::show_duration(rest)),
            None => Ok(()),
        }
    }
}

/// The search. See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Auto {
    cores: usize,
    most: usize,
    lane: LaneKind,
    workers: usize,
    from: Option<Seen>,
    item: Option<Item>,
    known_cpu: bool,
    runs: Vec<Run>,
    flat: u32,
    found: Option<BestWidth>,
}

impl Auto {
    /// Returns the most that are tried: children cost memory, requests little.
    pub(crate) fn most(http: bool) -> usize {
        if http { 256 } else { 64 }
    }

    /// A search that begins with as many as there are cores.
    pub(crate) fn new(cores: usize, most: usize, lane: LaneKind) -> Self {
        Self {
            cores,
            most,
            lane,
            workers: cores.min(most).max(1),
            from: None,
            item: None,
            known_cpu: false,
            runs: Vec::new(),
            flat: 0,
            found: None,
        }
    }

    /// Returns the number of tasks that run at once in the beginning.
    pub(crate) fn start(&self) -> usize {
        self.workers
    }

    /// Returns the best number of workers, once it is found.
    pub(crate) fn found(&self) -> Option<&BestWidth> {
        self.found.as_ref()
    }

    /// Takes in what has happened; `left` tasks are left, if that is known.
    pub(crate) fn look(&mut self, seen: &Seen, left: Option<u64>) -> Step {
        if self.found.is_some() {
            return Step::Wait;
        }
        let from = *self.from.get_or_insert(*seen);
        let (done, took) = (seen.done - from.done, seen.at.saturating_duration_since(from.at));
        if done < 2 * self.workers as u64 || took < LEVEL {
            return Step::Wait;
        }
        let item = self.item.get_or_insert_with(|| {
            let wall = (seen.ran - from.ran) / u32::try_from(done).unwrap_or(u32::MAX);
            let known = u32::try_from(seen.on_cpu.1 - from.on_cpu.1).unwrap_or(u32::MAX);
            // Of requests there are samples, and of a child behind a pipe only what our own thread
            // did.
            self.known_cpu = known > 0 && self.lane == LaneKind::Process;
            let cpu = (seen.on_cpu.0 - from.on_cpu.0).checked_div(known).unwrap_or_default().min(wall);
            Item { wall, cpu, queued: Duration::ZERO, spread: 0.0, voluntary: 0.0, forced: 0.0, timed: done }
        });
        let rate = done as f64 / took.as_secs_f64();
        let best = self.runs.iter().map(|run| run.rates[0]).fold(0.0, f64::max);
        self.flat = if rate > best * RISES { 0 } else { self.flat + 1 };
        let lane = if self.lane == LaneKind::Async { LaneKind::Async } else { LaneKind::Process };
        self.runs.push(Run { lane, workers: self.workers, chunk: 1, rates: vec![rate], p99: Duration::ZERO });
        let computes = self.known_cpu && item.share() >= COMPUTES && self.workers >= self.cores;
        if computes || self.flat >= FLAT || self.workers >= self.most {
            let found = self.settle(seen.at, left);
            self.found = Some(found.clone());
            return Step::Settle(found);
        }
        self.workers = (2 * self.workers).min(self.most);
        self.from = Some(*seen);
        Step::Try(self.workers)
    }

    fn settle(&self, at: Instant, left: Option<u64>) -> BestWidth {
        let item = self.item.clone();
        let share = item.as_ref().filter(|_| self.known_cpu).map(Item::share);
        let advice = item.map(|item| {
            decide(&Measured {
                kind: if self.lane == LaneKind::Async { Kind::Async } else { Kind::Command },
                cores: self.cores,
                count: None,
                most: self.most,
                payload: 0,
                item,
                memory: None,
                overheads: Vec::new(),
                sequential: Vec::new(),
                runs: self.runs.clone(),
                others: 0.0,
            })
        });
        let workers = advice.filter(|advice| advice.place != Place::Sequential).map_or(1, |advice| advice.workers);
        let rate = self.runs.iter().filter(|run| run.workers <= workers).map(|run| run.rates[0]).fold(0.0, f64::max);
        // Nothing was tried with fewer than there were at the start; then the start's rate is the
        // nearest that is known.
        let rate = if rate > 0.0 { rate } else { self.runs.first().map_or(0.0, |run| run.rates[0]) };
        let rest = left.filter(|_| rate > 0.0).and_then(|left| Duration::try_from_secs_f64(left as f64 / rate).ok());
        BestWidth { workers, share, rate, rest, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search against work whose throughput with `n` at once is `rate(n)`; the numbers
    /// tried, and what was settled on.
    fn search(cores: usize, most: usize, cpu: f64, rate: impl Fn(usize) -> f64) -> (Vec<usize>, BestWidth) {
        let mut auto = Auto::new(cores, most, LaneKind::Process);
        let began = Instant::now();
        let (mut workers, mut tried) = (auto.start(), vec![auto.start()]);
        let (mut done, mut ran) = (0.0, 0.0);
        for tick in 0..10_000u32 {
            let each = workers as f64 / rate(workers);
            let seen = Seen {
                at: began + Duration::from_millis(100) * tick,
                done: done as u64,
                ran: Duration::from_secs_f64(ran),
                on_cpu: (Duration::from_secs_f64(ran * cpu), done as u64),
            };
            match auto.look(&seen, Some(1_000)) {
                Step::Wait => {}
                Step::Try(next) => {
                    workers = next;
                    tried.push(next);
                }
                Step::Settle(found) => return (tried, found),
            }
            done += rate(workers) * 0.1;
            ran += rate(workers) * 0.1 * each;
        }
        panic!("it never settles");
    }

    #[test]
    fn work_that_waits_gets_as_many_as_bring_something() {
        // The other side takes 400 a second, each task waits 50 ms.
        let (tried, found) = search(2, 64, 0.02, |n| (n as f64 / 0.05).min(400.0));
        assert_eq!(tried, [2, 4, 8, 16, 32, 64]);
        assert!((16..=32).contains(&found.workers), "{found:?}");
        assert_eq!(found.rest.map(|rest| rest.as_secs_f64().round()), Some(3.0), "1000 tasks at 400/s, or a little less");
        let (_, found) = search(2, 64, 0.02, |n| (n as f64 / 0.05).min(80.0));
        assert_eq!(found.workers, 4);
    }

    #[test]
    fn work_that_computes_gets_the_cores_at_once() {
        let (tried, found) = search(4, 64, 0.98, |n| n.min(4) as f64 / 0.05);
        assert_eq!((tried, found.workers), (vec![4], 4));
        assert!(found.to_string().starts_with("on a CPU for 98 % of its time → 4 at once, "), "{found}");
    }

    #[test]
    fn work_that_gains_nothing_is_done_one_after_another() {
        let (_, found) = search(2, 64, 0.1, |_| 20.0);
        assert!(found.workers <= 2, "{found:?}");
    }

    #[test]
    fn the_outcome_stands_beside_what_was_expected() {
        let (_, found) = search(2, 8, 0.0, |n| n as f64 * 20.0);
        let later = found.at + Duration::from_secs(7);
        assert_eq!(found.outcome(later).unwrap(), "-j auto: 8 at once; the rest was expected to take 6.3s and took 7s");
    }
}

//! Choice of the runs for the time that there is: one after another and 1, 2 and 4 workers on each
//! lane in turns, then on each lane twice as many again and again, until more bring nothing.

use std::time::Instant;

use longshore_core::LaneKind;

pub(crate) use super::runs::Ran;
use crate::{
    MeasureError, Place,
    decide::{Measured, Run, model},
};

/// Least seconds that one run of tiny items should take.
const RUN: f64 = 0.015;
/// Runs with each number of workers, where there is time.
const ROUNDS: usize = 3;
/// Factor of throughput below which more workers have brought nothing.
const RISES: f64 = 1.05;
/// Slowing of slow tasks from which on the throughput must rise by [`WORTH`] to go on: about twice.
const SLOWER: f64 = 1.8;
const WORTH: f64 = 1.3;
/// Number of ways that are measured in turns, so that a busy moment of the machine does not hit one
/// of them alone.
const SCALING: usize = 4;

/// Part of the time left that is planned for beforehand; the rest is for runs that take longer.
const MARGIN: f64 = 0.8;

pub(crate) type RunFn<'a> = dyn FnMut(Place, usize, usize, usize) -> Result<Ran, MeasureError> + 'a;

/// The time, as an input.
pub(crate) type Now<'a> = &'a dyn Fn() -> Instant;

pub(crate) struct Ladder<'a> {
    pub(crate) now: Now<'a>,
    /// Items that may run at once without meeting themselves.
    pub(crate) sample: usize,
    /// Time at which all should be over.
    pub(crate) until: Instant,
}

impl Ladder<'_> {
    /// Makes the runs and adds them to what was measured.
    pub(crate) fn climb(&self, measured: &mut Measured, run: &mut RunFn<'_>) -> Result<(), MeasureError> {
        if !worth_a_run(measured) {
            return Ok(());
        }
        let lanes: Vec<LaneKind> = model::lanes(measured).collect();
        let share = self.left() / lanes.len() as f64;
        let mut climbs: Vec<Climb<'_>> = lanes.iter().map(|lane| Climb::new(measured, *lane, self.sample, share)).collect();
        let (mut sequential, mut runs) = (Vec::new(), Vec::new());
        // In turns, so that a busy moment of the machine hits all of them.
        for round in 0..ROUNDS {
            if climbs.iter().any(|climb| climb.rounds == ROUNDS) {
                sequential.push(self.alone(&climbs[0], run)?);
            }
            for climb in climbs.iter_mut().filter(|climb| round < climb.rounds) {
                for level in climb.small.clone() {
                    climb.measure(level, self.now, run)?;
                }
            }
        }
        for at in 0..climbs.len() {
            let share = self.left() / (climbs.len() - at) as f64;
            climbs[at].go_on(share, self.now, run)?;
        }
        for mut climb in climbs {
            climb.runs.sort_by_key(|run| run.workers);
            runs.append(&mut climb.runs);
        }
        measured.runs.append(&mut runs);
        measured.sequential.append(&mut sequential);
        Ok(())
    }

    /// Returns how many items a second go through one after another.
    fn alone(&self, climb: &Climb<'_>, run: &mut RunFn<'_>) -> Result<f64, MeasureError> {
        let items = climb.items(1, 1);
        let ran = run(Place::Sequential, 1, 1, items)?;
        Ok(items as f64 / ran.wall.as_secs_f64().max(1e-9))
    }

    fn left(&self) -> f64 {
        self.until.saturating_duration_since((self.now)()).as_secs_f64()
    }
}

/// Returns whether a lane could help at all: not if starting one takes as long as the whole job, or
/// there is one item.
fn worth_a_run(measured: &Measured) -> bool {
    let Some(count) = measured.count else { return true };
    let start = measured.overheads.iter().map(|overhead| overhead.start).min().unwrap_or_default();
    count > 1 && measured.item.alone() * count as f64 > start.as_secs_f64()
}

/// The runs on one lane.
struct Climb<'a> {
    measured: &'a Measured,
    lane: LaneKind,
    /// Seconds that it has.
    left: f64,
    /// Numbers of workers that are measured in turns with other ways, and the turns; none where
    /// there is no time to climb.
    small: Vec<usize>,
    rounds: usize,
    /// Numbers of workers that follow.
    large: Vec<usize>,
    runs: Vec<Run>,
}

impl<'a> Climb<'a> {
    fn new(measured: &'a Measured, lane: LaneKind, sample: usize, left: f64) -> Self {
        let mut climb = Climb { measured, lane, left, small: Vec::new(), rounds: 0, large: Vec::new(), runs: Vec::new() };
        let levels = levels(measured, lane, sample);
        let mut kept = climb.that_fit(&levels);
        if kept.len() < levels.len() {
            // No time to climb: the number that is expected to be best goes first, and the others
            // follow while time is left.
            climb.large = kept;
            return climb;
        }
        kept.sort_unstable();
        (climb.small, climb.large) = kept.iter().partition(|level| **level <= SCALING || lane == LaneKind::Cpu);
        let long: f64 = climb.small.iter().map(|level| climb.seconds(*level)).sum();
        climb.rounds = if long * ROUNDS as f64 <= left / 2.0 { ROUNDS } else { 1 };
        climb
    }

    /// Measures what follows the turns, in so many seconds.
    fn go_on(&mut self, left: f64, now: Now<'_>, run: &mut RunFn<'_>) -> Result<(), MeasureError> {
        self.left = left;
        let large = std::mem::take(&mut self.large);
        if self.rounds == 0 {
            for level in large {
                if self.seconds(level) <= self.left {
                    self.measure(level, now, run)?;
                }
            }
            return Ok(());
        }
        let mut nothing = 0;
        for level in large {
            if self.seconds(level) > self.left && !self.runs.is_empty() {
                break;
            }
            let before = self.runs.iter().map(median).fold(0.0, f64::max);
            let slow = self.runs.last().map(|run| run.p99);
            let rounds = if self.seconds(level) * ROUNDS as f64 <= self.left / 3.0 { ROUNDS } else { 1 };
            for _ in 0..rounds {
                self.measure(level, now, run)?;
            }
            let Some(last) = self.runs.last() else { break };
            let gain = median(last) / before;
            let slower = slow.is_some_and(|slow| last.p99.as_secs_f64() > SLOWER * slow.as_secs_f64());
            nothing = if gain > RISES { 0 } else { nothing + 1 };
            // One that brings nothing may be an accident; two are a knee.
            if nothing >= 2 || slower && gain < WORTH {
                break;
            }
        }
        Ok(())
    }

    fn measure(&mut self, workers: usize, now: Now<'_>, run: &mut RunFn<'_>) -> Result<(), MeasureError> {
        let chunk = model::chunk_on(self.measured, self.lane, workers);
        let items = self.items(workers, chunk);
        let began = now();
        let ran = run(Place::Lane(self.lane), workers, chunk, items)?;
        self.left = (self.left - now().saturating_duration_since(began).as_secs_f64()).max(0.0);
        let rate = items as f64 / ran.wall.as_secs_f64().max(1e-9);
        match self.runs.iter_mut().find(|run| run.workers == workers) {
            Some(known) => {
                known.rates.push(rate);
                // Of three the middle one would be right; the least is what no accident of the
                // machine has made larger.
                known.p99 = known.p99.min(ran.p99);
            }
            None => self.runs.push(Run { lane: self.lane, workers, chunk, rates: vec![rate], p99: ran.p99 }),
        }
        Ok(())
    }

    /// Two waves, or as many items as take a while; one wave where that takes long; never more than
    /// the job will have.
    fn items(&self, workers: usize, chunk: usize) -> usize {
        let wave = workers * chunk;
        let rate = self.rate(workers);
        let two = (2 * wave).max((rate * RUN) as usize);
        let items = if two as f64 / rate > self.left / 4.0 { wave } else { two };
        items.min(self.measured.count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX))).max(1)
    }

    /// Returns the best rate of this many workers.
    fn rate(&self, workers: usize) -> f64 {
        let item = &self.measured.item;
        (workers as f64 / item.alone()).min(self.measured.cores as f64 / item.cpu.as_secs_f64().max(1e-9))
    }

    fn seconds(&self, workers: usize) -> f64 {
        let chunk = model::chunk_on(self.measured, self.lane, workers);
        self.items(workers, chunk) as f64 / self.rate(workers)
    }

    /// All levels, if one wave of each can be run in the time; else those nearest to the one that
    /// is expected to be best, that one first.
    fn that_fit(&self, levels: &[usize]) -> Vec<usize> {
        let target = model::target(self.measured, self.lane).min(levels.last().copied().unwrap_or(1));
        let wave = |level: usize| level as f64 / self.rate(level);
        // Runs take longer than they should; those with the most workers come last, and must not be
        // the ones that no time is left for.
        let mut left = self.left * MARGIN;
        let far = |level: usize| (level as f64 / target as f64).log2().abs();
        let mut nearest = levels.to_vec();
        nearest.sort_by(|a, b| far(*a).total_cmp(&far(*b)));
        nearest
            .into_iter()
            .take_while(|level| {
                left -= wave(*level);
                left >= 0.0
            })
            .collect()
    }
}

fn median(run: &Run) -> f64 {
    model::quantiles(&run.rates).map_or(0.0, |(_, median, _)| median)
}

/// The numbers of workers that are worth being tried on a lane, the smallest first.
fn levels(measured: &Measured, lane: LaneKind, sample: usize) -> Vec<usize> {
    let most = model::most_workers(measured);
    let most = if lane == LaneKind::Cpu { most.min(measured.cores.max(SCALING)) } else { most.min(sample) };
    let mut levels: Vec<usize> = std::iter::successors(Some(1), |level| Some(level * 2)).take_while(|level| *level <= most).collect();
    levels.push(most);
    if measured.cores <= most {
        levels.push(measured.cores);
    }
    levels.sort_unstable();
    levels.dedup();
    levels
}

#[cfg(test)]
mod tests;

//! Choice of the runs for the time that there is: 1, 2 and 4 workers in turns, then twice as many
//! again and again, until more bring nothing.

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
        for (at, lane) in lanes.iter().enumerate() {
            let left = self.until.saturating_duration_since((self.now)()) / (lanes.len() - at) as u32;
            let mut climb =
                Climb { measured, lane: *lane, now: self.now, until: (self.now)() + left, runs: Vec::new(), sequential: Vec::new() };
            climb.all(self.sample, run)?;
            let (mut runs, mut sequential) = (climb.runs, climb.sequential);
            runs.sort_by_key(|run| run.workers);
            measured.runs.append(&mut runs);
            measured.sequential.append(&mut sequential);
        }
        Ok(())
    }
}

/// Returns whether a lane could help at all: not if starting one takes as long as the whole job, or
/// there is one item.
fn worth_a_run(measured: &Measured) -> bool {
    let Some(count) = measured.count else { return true };
    let start = measured.overheads.iter().map(|overhead| overhead.start).min().unwrap_or_default();
    count > 1 && measured.item.alone() * count as f64 > start.as_secs_f64()
}

struct Climb<'a> {
    measured: &'a Measured,
    lane: LaneKind,
    now: Now<'a>,
    until: Instant,
    runs: Vec<Run>,
    /// One after another, timed in turns with the runs, so that a busy machine is busy for both.
    sequential: Vec<f64>,
}

impl Climb<'_> {
    fn all(&mut self, sample: usize, run: &mut RunFn<'_>) -> Result<(), MeasureError> {
        let levels = levels(self.measured, self.lane, sample);
        let mut kept = self.that_fit(&levels);
        if kept.len() < levels.len() {
            // No time to climb: the number that is expected to be best goes first, and the others
            // follow while time is left.
            for level in kept {
                if self.seconds(level) <= self.left() {
                    self.measure(level, run)?;
                }
            }
            return Ok(());
        }
        kept.sort_unstable();
        let (small, large): (Vec<usize>, Vec<usize>) = kept.iter().partition(|level| **level <= SCALING || self.lane == LaneKind::Cpu);
        let long: f64 = small.iter().map(|level| self.seconds(*level)).sum();
        let rounds = if long * ROUNDS as f64 <= self.left() / 2.0 { ROUNDS } else { 1 };
        for _ in 0..rounds {
            if rounds == ROUNDS {
                self.alone(run)?;
            }
            for level in &small {
                self.measure(*level, run)?;
            }
        }
        let mut nothing = 0;
        for level in large {
            if self.seconds(level) > self.left() && !self.runs.is_empty() {
                break;
            }
            let before = self.runs.iter().map(median).fold(0.0, f64::max);
            let slow = self.runs.last().map(|run| run.p99);
            let rounds = if self.seconds(level) * ROUNDS as f64 <= self.left() / 3.0 { ROUNDS } else { 1 };
            for _ in 0..rounds {
                self.measure(level, run)?;
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

    fn alone(&mut self, run: &mut RunFn<'_>) -> Result<(), MeasureError> {
        let items = self.items(1, 1);
        let ran = run(Place::Sequential, 1, 1, items)?;
        self.sequential.push(items as f64 / ran.wall.as_secs_f64().max(1e-9));
        Ok(())
    }

    fn measure(&mut self, workers: usize, run: &mut RunFn<'_>) -> Result<(), MeasureError> {
        let chunk = model::chunk_on(self.measured, self.lane, workers);
        let items = self.items(workers, chunk);
        let ran = run(Place::Lane(self.lane), workers, chunk, items)?;
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

    fn left(&self) -> f64 {
        self.until.saturating_duration_since((self.now)()).as_secs_f64()
    }

    /// Two waves, or as many items as take a while; one wave where that takes long; never more than
    /// the job will have.
    fn items(&self, workers: usize, chunk: usize) -> usize {
        let wave = workers * chunk;
        let rate = self.rate(workers);
        let two = (2 * wave).max((rate * RUN) as usize);
        let items = if two as f64 / rate > self.left() / 4.0 { wave } else { two };
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
        let mut left = self.left() * MARGIN;
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

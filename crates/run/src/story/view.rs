//! A story as plain data, for whoever draws it.

use longshore_core::Word;
use serde::Serialize;

use super::{Story, heat::StoryHeat};

/// Most of the slowest attempts that are kept.
const SLOWEST: usize = 20;

/// Course of a run so far, as plain data of bounded size. Times are seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StoryView {
    /// The program, for people; without secrets.
    pub what: String,
    /// From the start to the last end that is known.
    pub seconds: f64,
    /// Length of a stretch, of which the next three have one value each; the last reaches to the
    /// end.
    pub stretch: f64,
    /// Tasks that ended well, a second.
    pub ok_per_s: Vec<f64>,
    /// Tasks that failed, a second.
    pub failed_per_s: Vec<f64>,
    /// Attempts that ran at once, on average.
    pub running: Vec<f64>,
    /// Run times over time.
    pub heat: StoryHeat,
    /// Median of the run times of last attempts, within 2 %.
    pub p50: f64,
    /// 90th percentile of them.
    pub p90: f64,
    /// 99th percentile of them.
    pub p99: f64,
    /// The longest of them.
    pub longest: f64,
    /// The slowest of the last attempts, the slowest first.
    pub slowest: Vec<SlowEnd>,
    /// Failures by kind, the most frequent first.
    pub failures: Vec<StoryFailure>,
}

/// An attempt that ran for long.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SlowEnd {
    /// Its place in the input.
    pub seq: u64,
    /// Its record, without secrets; cut where it is long.
    pub record: String,
    /// Seconds that it ran.
    pub run: f64,
    /// Its outcome, in a word.
    #[serde(serialize_with = "in_a_word")]
    pub outcome: Word,
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StoryFailure {
    /// The kind: `status 503`.
    pub error: String,
    /// Number of tasks that failed so.
    pub count: u64,
    /// A few of them.
    pub samples: Vec<StorySample>,
}

/// One failure, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StorySample {
    /// Its place in the input.
    pub seq: u64,
    /// Its record, without secrets; cut where it is long.
    pub record: String,
    /// Its error, with the last that it wrote.
    pub message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it serialises so")]
fn in_a_word<S: serde::Serializer>(word: &Word, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(word.as_str())
}

/// Returns whether one that ran so long stands among the slowest.
pub(super) fn is_slow(slowest: &[SlowEnd], run: f64) -> bool {
    slowest.len() < SLOWEST || slowest.last().is_some_and(|last| last.run < run)
}

/// Puts one among the slowest, in its place.
pub(super) fn keep_slow(slowest: &mut Vec<SlowEnd>, end: SlowEnd) {
    let place = slowest.partition_point(|known| known.run >= end.run);
    slowest.insert(place, end);
    slowest.truncate(SLOWEST);
}

impl Story {
    /// Returns it as plain data.
    #[must_use]
    pub fn view(&self) -> StoryView {
        let stretches = self.stretches();
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| self.quantile(share).as_secs_f64());
        let kinds = self.kinds().into_iter();
        StoryView {
            what: self.what.clone(),
            seconds: self.span().as_secs_f64(),
            stretch: stretches.seconds,
            ok_per_s: stretches.ok_per_s,
            failed_per_s: stretches.failed_per_s,
            running: stretches.running,
            heat: self.heat.shown(),
            p50,
            p90,
            p99,
            longest: self.longest().as_secs_f64(),
            slowest: self.slowest.clone(),
            failures: kinds
                .map(|(error, kind)| StoryFailure { error: error.to_owned(), count: kind.count, samples: kind.samples.clone() })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_twenty_are_kept_in_their_order_whatever_order_they_came_in() {
        let mut slowest = Vec::new();
        for task in 0..1_000_u64 {
            let run = (task * 7_919 % 1_000) as f64;
            if is_slow(&slowest, run) {
                keep_slow(&mut slowest, SlowEnd { seq: task, record: String::new(), run, outcome: Word::Ok });
            }
        }
        let runs: Vec<f64> = slowest.iter().map(|slow| slow.run).collect();
        let want: Vec<f64> = (980..1_000).rev().map(f64::from).collect();
        assert_eq!(runs, want);
    }
}

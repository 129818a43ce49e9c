//! Which finished jobs go, when room is made.

use std::time::Duration;

/// Rules by which finished jobs go: one that breaks any of them does. Jobs that run or have
/// something left to do never go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneRules {
    /// Those go that were last written to longer ago.
    pub older_than: Option<Duration>,
    /// Number of the latest that stay.
    pub keep: Option<usize>,
    /// Most bytes that all jobs may take, unfinished ones too; the oldest finished ones go until
    /// that is so.
    pub max_size: Option<u64>,
}

/// Jobs that went, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// Their ids, the latest first.
    pub jobs: Vec<String>,
    /// Bytes that they took.
    pub freed: u64,
    /// Bytes that all others take.
    pub left: u64,
}

/// A finished job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) age: Duration,
    pub(super) bytes: u64,
}

impl PruneRules {
    /// Returns which go of finished jobs that stand from the latest to the oldest; others take
    /// `other` bytes.
    pub(super) fn doomed(&self, finished: &[Finished], other: u64) -> Vec<bool> {
        let mut goes: Vec<bool> = (finished.iter().enumerate())
            .map(|(place, job)| self.older_than.is_some_and(|most| job.age > most) || self.keep.is_some_and(|keep| place >= keep))
            .collect();
        let mut sum = other + finished.iter().zip(&goes).filter(|(_, goes)| !**goes).map(|(job, _)| job.bytes).sum::<u64>();
        for (job, goes) in finished.iter().zip(&mut goes).rev() {
            if !*goes && self.max_size.is_some_and(|most| sum > most) {
                *goes = true;
                sum -= job.bytes;
            }
        }
        goes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_by_age_by_number_or_by_size() {
        let hours = |count: u64| Duration::from_secs(count * 3_600);
        // Ages 1 to 4 hours, 10 to 40 bytes.
        let jobs: Vec<_> = (1..=4).map(|job| Finished { age: hours(job), bytes: job * 10 }).collect();
        let rules = |older_than, keep, max_size| PruneRules { older_than, keep, max_size };
        for (rules, other, want) in [
            (rules(None, None, None), 0, "...."),
            (rules(Some(hours(2)), None, None), 0, "..xx"),
            (rules(None, Some(3), None), 0, "...x"),
            (rules(None, Some(0), None), 0, "xxxx"),
            (rules(None, None, Some(100)), 0, "...."),
            (rules(None, None, Some(99)), 0, "...x"),
            (rules(None, None, Some(60)), 30, "..xx"),
            (rules(None, None, Some(0)), 30, "xxxx"),
            (rules(Some(hours(3)), Some(3), Some(30)), 0, "..xx"),
            (rules(Some(hours(1)), None, Some(1_000)), 0, ".xxx"),
        ] {
            let got: String = rules.doomed(&jobs, other).into_iter().map(|goes| if goes { 'x' } else { '.' }).collect();
            assert_eq!(got, want, "{rules:?}");
        }
    }
}

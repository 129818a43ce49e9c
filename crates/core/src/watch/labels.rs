//! Counts and times by label: a queue, a task's name, a topic.
//!
//! They are kept beside the results, outside of any engine's loop: whoever hands ended tasks to a
//! sink adds to them.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    counts::Counts,
    histogram::{Buckets, Histogram},
};
use crate::{outcome::Word, task::EngineTask};

/// Most labels of one kind. Further ones count together, as [`OTHER`].
pub const MOST_LABELS: usize = 200;

/// The value under which counts what is beyond [`MOST_LABELS`].
pub const OTHER: &str = "other";

/// Counts and times of the tasks with one label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Labelled {
    /// Its kind: `queue`, `task`, `topic`.
    pub kind: String,
    /// Its value; [`OTHER`] for all that had no place.
    pub value: String,
    /// The tasks.
    pub counts: Counts,
    /// For how long their last attempts ran.
    pub run: Histogram,
    /// For how long they waited before that.
    pub wait: Histogram,
}

/// Tells the labels of an engine's tasks. Asked by the reporter for each task that has ended,
/// outside of the loop.
pub struct LabelsOf<T> {
    pub(crate) kinds: Vec<&'static str>,
    pub(crate) of: LabelOf<T>,
}

/// Returns a task's label of the kind at this place; none: it is not counted by this kind.
pub(crate) type LabelOf<T> = Arc<dyn for<'a> Fn(&'a EngineTask<T>, usize) -> Option<&'a str> + Send + Sync>;

impl<T> LabelsOf<T> {
    /// Counts by labels of these kinds. `of` returns a task's label of the kind at this place;
    /// none: it is not counted by this kind.
    pub fn new(
        kinds: impl Into<Vec<&'static str>>,
        of: impl for<'a> Fn(&'a EngineTask<T>, usize) -> Option<&'a str> + Send + Sync + 'static,
    ) -> Self {
        Self { kinds: kinds.into(), of: Arc::new(of) }
    }
}

impl<T> Clone for LabelsOf<T> {
    fn clone(&self) -> Self {
        Self { kinds: self.kinds.clone(), of: self.of.clone() }
    }
}

#[derive(Default)]
struct Sums {
    counts: Counts,
    run: Buckets,
    wait: Buckets,
}

/// Counts and times of the labels of one kind.
struct OfKind {
    kind: &'static str,
    places: HashMap<Arc<str>, usize>,
    sums: Vec<(Arc<str>, Sums)>,
    /// The label that was last asked for: tasks of one kind come one after the other.
    last: usize,
}

impl OfKind {
    fn sums(&mut self, value: &str) -> &mut Sums {
        if self.sums.get(self.last).is_none_or(|(known, _)| **known != *value) {
            self.last = match self.places.get(value) {
                Some(place) => *place,
                None => self.place(value),
            };
        }
        &mut self.sums[self.last].1
    }

    /// Returns the place of a value that is not known yet.
    #[cold]
    fn place(&mut self, value: &str) -> usize {
        let value = if self.sums.len() < MOST_LABELS { value } else { OTHER };
        if let Some(place) = self.places.get(value) {
            return *place;
        }
        let (value, place): (Arc<str>, _) = (value.into(), self.sums.len());
        self.sums.push((value.clone(), Sums::default()));
        self.places.insert(value, place);
        place
    }
}

/// Collects counts and times by label; bounded, whatever the labels are.
///
/// ```
/// use longshore_core::{Word, watch::Labels};
/// use std::time::Duration;
///
/// let mut labels = Labels::new(&["queue", "task"]);
/// labels.add(0, "mail", Word::Ok, Duration::from_millis(20), Duration::ZERO);
/// labels.add(1, "send", Word::Ok, Duration::from_millis(20), Duration::ZERO);
/// let seen = labels.labelled();
/// let mail = &seen[0];
/// assert_eq!((mail.kind.as_str(), mail.value.as_str(), mail.counts.ok), ("queue", "mail", 1));
/// ```
#[derive(Default)]
pub struct Labels(Vec<OfKind>);

impl Labels {
    /// Returns empty counts of labels of these kinds.
    #[must_use]
    pub fn new(kinds: &[&'static str]) -> Self {
        let empty = |kind: &&'static str| OfKind { kind, places: HashMap::new(), sums: Vec::new(), last: 0 };
        Self(kinds.iter().map(empty).collect())
    }

    /// Adds a task that ended, to its label of the kind at this place.
    #[inline]
    pub fn add(&mut self, kind: usize, value: &str, word: Word, run: std::time::Duration, wait: std::time::Duration) {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.add_nanos(kind, value, word, nanos(run), nanos(wait));
    }

    #[inline]
    pub(crate) fn add_nanos(&mut self, kind: usize, value: &str, word: Word, run: u64, wait: u64) {
        let Some(kind) = self.0.get_mut(kind) else { return };
        let sums = kind.sums(value);
        sums.counts.add(word, 1);
        sums.run.add(run);
        sums.wait.add(wait);
    }

    /// Adds the times of a task that ended, to its label of the kind at this place.
    pub fn time(&mut self, kind: usize, value: &str, run: std::time::Duration, wait: std::time::Duration) {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(kind) = self.0.get_mut(kind) {
            let sums = kind.sums(value);
            sums.run.add(nanos(run));
            sums.wait.add(nanos(wait));
        }
    }

    /// Changes what is counted of a label beside ended tasks: retries, what went back.
    pub fn count(&mut self, kind: usize, value: &str, change: impl FnOnce(&mut Counts)) {
        if let Some(kind) = self.0.get_mut(kind) {
            change(&mut kind.sums(value).counts);
        }
    }

    /// Returns what is known, by kind, in the order in which labels came.
    #[must_use]
    pub fn labelled(&self) -> Vec<Labelled> {
        let labelled = |kind: &'static str, value: &str, sums: &Sums| Labelled {
            kind: kind.to_owned(),
            value: value.to_owned(),
            counts: sums.counts,
            run: sums.run.histogram(),
            wait: sums.wait.histogram(),
        };
        self.0.iter().flat_map(|kind| kind.sums.iter().map(move |(value, sums)| labelled(kind.kind, value, sums))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn labels_are_bounded_and_nothing_is_left_out_of_the_sum() {
        let mut labels = Labels::new(&["task"]);
        for round in 0..2 {
            for n in 0..2 * MOST_LABELS {
                labels.add(0, &format!("t{n}"), if round == 0 { Word::Ok } else { Word::Failed }, Duration::from_millis(1), Duration::ZERO);
            }
        }
        let seen = labels.labelled();
        assert_eq!(seen.len(), MOST_LABELS + 1);
        assert_eq!((seen[0].value.as_str(), seen[0].counts.ok, seen[0].counts.failed), ("t0", 1, 1));
        let other = seen.last().expect("there are some");
        assert_eq!((other.value.as_str(), other.counts.done()), (OTHER, 2 * MOST_LABELS as u64));
        assert_eq!(seen.iter().map(|label| label.run.count).sum::<u64>(), 4 * MOST_LABELS as u64);
        labels.add(7, "no such kind", Word::Ok, Duration::ZERO, Duration::ZERO);
    }
}

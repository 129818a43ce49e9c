//! How tasks of each name ended, and how long they ran.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::Serialize;

use super::{
    state::PastState,
    traffic::{ChartSpan, POINTS, class_of, quantile},
};

/// Most names that are answered with, those with the most tasks first, and most that are counted.
const MOST_NAMES: usize = 200;
const MOST_COUNTED: usize = 10_000;

/// Ends and running times of the tasks of one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct NameTimes {
    pub(crate) task: String,
    /// Number of tasks that ended, and of those that failed.
    pub(crate) ended: i64,
    pub(crate) failed: i64,
    /// Number of tasks that were started more than once, or wait for another attempt.
    pub(crate) retried: i64,
    /// Running times in seconds that so many percent did not exceed, within 8 %.
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// Tasks with news in a span of time, by their name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct TimesTable {
    /// The span, in seconds, and how much of it the history knows.
    pub(crate) span_seconds: i64,
    pub(crate) known_seconds: f64,
    /// Those with the most tasks first.
    pub(crate) names: Vec<NameTimes>,
    /// Names that were left out.
    pub(crate) more: usize,
}

/// Counts of one name, while rows are read.
#[derive(Default)]
struct NameSums {
    tasks: i64,
    ended: i64,
    failed: i64,
    retried: i64,
    /// Number of tasks in each class of run times.
    took: BTreeMap<i64, i64>,
}

impl NameSums {
    fn add(&mut self, state: PastState, took: Option<f64>, attempts: i64) {
        self.tasks += 1;
        self.retried += i64::from(attempts > 1 || state == PastState::Retry);
        if !state.is_end() {
            return;
        }
        self.ended += 1;
        self.failed += i64::from(state == PastState::Failure);
        if let Some(took) = took.filter(|took| took.is_finite()) {
            *self.took.entry(class_of(took)).or_default() += 1;
        }
    }

    fn told(self, task: String) -> NameTimes {
        let classes: Vec<(i64, i64)> = self.took.into_iter().collect();
        let part = |part: f64| quantile(&classes, part);
        NameTimes { task, ended: self.ended, failed: self.failed, retried: self.retried, p50: part(0.5), p90: part(0.9), p99: part(0.99) }
    }
}

/// Reads how the tasks of a span ended.
pub(super) fn read(conn: &Connection, span: ChartSpan, now: i64) -> rusqlite::Result<TimesTable> {
    let span_seconds = span.seconds() * POINTS;
    let mut find = conn.prepare_cached("SELECT name, state, took, attempts FROM tasks WHERE heard >= ?1 AND name IS NOT NULL")?;
    let mut rows = find.query([now - span_seconds * 1_000])?;
    let (mut names, mut uncounted) = (BTreeMap::<String, NameSums>::new(), 0);
    while let Some(row) = rows.next()? {
        let (state, took, attempts) = (PastState::of_number(row.get(1)?), row.get(2)?, row.get(3)?);
        let name = row.get_ref(0)?.as_str()?;
        if let Some(sums) = names.get_mut(name) {
            sums.add(state, took, attempts);
        } else if names.len() < MOST_COUNTED {
            names.entry(name.to_owned()).or_default().add(state, took, attempts);
        } else {
            uncounted = 1;
        }
    }
    let mut names: Vec<(String, NameSums)> = names.into_iter().collect();
    names.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.tasks));
    let more = names.len().saturating_sub(MOST_NAMES) + uncounted;
    names.truncate(MOST_NAMES);
    // The ring may reach back for less than the span.
    let oldest: Option<i64> =
        conn.query_row("SELECT min(heard) FROM (SELECT heard FROM tasks ORDER BY n LIMIT 1)", [], |row| row.get(0))?;
    let known = oldest.map_or(0.0, |oldest| (now - oldest).max(0) as f64 / 1e3);
    Ok(TimesTable {
        span_seconds,
        known_seconds: known.min(span_seconds as f64),
        names: names.into_iter().map(|(task, sums)| sums.told(task)).collect(),
        more,
    })
}

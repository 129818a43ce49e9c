//! Settings of the gate.

use std::sync::Arc;

use super::pace::Rate;

/// A limit by value: at most so many tasks of one value at once, and a pace for each value.
/// ```
/// use longshore_core::{Job, Limit, Options};
///
/// // At most two at a time of each host; the other hosts go on.
/// let per_host = Limit::named("host").concurrency(2);
/// let report = Job::new(|url: &'static str| async move { Ok::<_, String>(url.len()) })
///     .limits(vec![per_host])
///     .options_of(|url| Options::default().limit(0, url.split('/').next().unwrap_or("")))
///     .params(["a.example/1", "a.example/2", "a.example/3", "b.example/1"])
///     .run();
/// assert_eq!(report.ok(), 4);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limit {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Most tasks of one value running at once.
    pub concurrency: Option<usize>,
    /// One leaky bucket for each value.
    pub rate: Option<Rate>,
}

impl Limit {
    /// Returns a limit with this name that limits nothing yet.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), concurrency: None, rate: None }
    }

    /// Sets [`concurrency`](Self::concurrency).
    #[must_use]
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = Some(most);
        self
    }

    /// Sets [`rate`](Self::rate).
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }
}

/// Settings of the gate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GateConfig {
    /// Most running over all lanes.
    pub concurrency: Option<usize>,
    /// The slots of each lane, by `lane as usize`.
    pub lanes: [usize; 4],
    /// The pace of all starts.
    pub rate: Option<Rate>,
    /// Limits by value.
    pub limits: Vec<Limit>,
    /// Most tasks in the line of one busy lane, key or value.
    pub parking: usize,
    /// Results that may wait for their handler beyond those whose worker waits with them.
    pub results: usize,
}

impl GateConfig {
    /// Returns a gate of these slots, by `lane as usize`, with nothing else to hold tasks up: 1 000
    /// in a line, and room for twice as many results as there are slots.
    pub fn new(lanes: [usize; 4]) -> Self {
        let results = lanes.iter().sum::<usize>().saturating_mul(2);
        Self { concurrency: None, lanes, rate: None, limits: Vec::new(), parking: 1_000, results }
    }

    /// Sets [`results`](Self::results).
    #[must_use]
    pub fn results(mut self, results: usize) -> Self {
        self.results = results;
        self
    }

    /// Sets [`parking`](Self::parking).
    #[must_use]
    pub fn parking(mut self, parking: usize) -> Self {
        self.parking = parking;
        self
    }
}

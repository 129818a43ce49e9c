//! What reaches the loop, and what waits in it for its next attempt.

use std::{
    cmp::Ordering,
    time::{Duration, Instant},
};

use super::handle::Control;
use crate::{
    error::{SinkError, SourceError},
    task::{Attempt, Delivery, Finished},
};

/// Everything that reaches the loop.
pub(crate) struct Mail<T, R> {
    pub(crate) fetched: Vec<Delivery<T>>,
    /// The pump will fetch no more.
    pub(crate) ended: Option<Result<(), SourceError>>,
    pub(crate) finished: Vec<Finished<T, R>>,
    /// Results that left the result queue.
    pub(crate) released: usize,
    /// Deliveries that were settled.
    pub(crate) settled: usize,
    pub(crate) broken: Option<Broken>,
    /// Tasks that hold a loop, and for how long; without a time, those that do no more.
    pub(crate) stalled: Vec<(u64, Option<Duration>)>,
    pub(crate) controls: Vec<Control>,
    /// The loop has ended: nobody obeys any more.
    pub(crate) over: bool,
}

/// Break that keeps a job from going on.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    Sink(SinkError),
    Source(SourceError),
}

impl<T, R> Default for Mail<T, R> {
    fn default() -> Self {
        Self {
            fetched: Vec::new(),
            ended: None,
            finished: Vec::new(),
            released: 0,
            settled: 0,
            broken: None,
            stalled: Vec::new(),
            controls: Vec::new(),
            over: false,
        }
    }
}

/// The error that ended a job early, if one did, as text.
impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Sink(error) => write!(f, "{error}"),
            Broken::Source(error) => write!(f, "{error}"),
        }
    }
}

/// A task that waits for its next attempt.
pub(super) struct RetryDue<T> {
    pub(super) at: Instant,
    pub(super) attempt: Attempt<T>,
}

// Reversed: the heap's greatest is the earliest. Equal times go by number, so that a simulation
// repeats.
impl<T> Ord for RetryDue<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at).then_with(|| other.attempt.task.id.cmp(&self.attempt.task.id))
    }
}
impl<T> PartialOrd for RetryDue<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> PartialEq for RetryDue<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for RetryDue<T> {}

//! The post of a stage: what its workers share, and what becomes of an attempt that ended.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::Clock,
    decide::{Verdict, decide},
    error::TaskError,
    lane::panic_text,
    outcome::Outcome,
    pipeline::{
        meter::Meter,
        queue::StageQueue,
        run::{Failure, Halt, PipelineRun},
        stage::{DeadLetter, OnError},
    },
    retry::RetryPolicy,
};

/// Rules that a stage was given for its items.
pub(super) struct Rules<T> {
    pub(super) retry: RetryPolicy,
    pub(super) timeout: Option<Duration>,
    pub(super) on_error: OnError,
    pub(super) dead_letter: Option<Arc<dyn Fn(DeadLetter<T>) + Send + Sync>>,
    /// Copies an item that may be needed after its attempt.
    pub(super) copy: Option<fn(&T) -> T>,
}

/// State that the workers of a stage share.
pub(super) struct Post<T> {
    pub(super) run: Arc<PipelineRun>,
    pub(super) meter: Arc<Meter>,
    pub(super) input: Arc<StageQueue<T>>,
    pub(super) rules: Rules<T>,
    pub(super) clock: Clock,
    pub(super) seed: u64,
}

/// An item that was tried, and how often.
pub(super) struct Tried<T> {
    pub(super) number: u64,
    pub(super) attempts: u32,
    /// A copy, where one is kept.
    pub(super) copy: Option<T>,
}

impl<T> Post<T> {
    /// Returns whether an attempt that ended so is followed by another one, and after which time.
    pub(super) fn again<V>(&self, outcome: &Outcome<V>, tried: &Tried<T>, age: Duration, draw: f64) -> Option<Duration> {
        // Without a copy there is nothing to try again with.
        tried.copy.as_ref()?;
        match decide(outcome, &self.rules.retry, tried.attempts, age, draw) {
            Verdict::Requeue { after } if self.run.halt() == Halt::No => Some(after),
            _ => None,
        }
    }

    /// An item has failed for good.
    pub(super) fn failed<V>(&self, outcome: &Outcome<V>, tried: Tried<T>) {
        let Some(error) = outcome.error() else { return };
        let failure = Failure { stage: self.meter.name.clone(), number: tried.number, attempts: tried.attempts, error };
        let stops = {
            let mut tally = self.meter.tally.lock();
            tally.counts.failed += 1;
            let stops = self.rules.dead_letter.is_none() && self.rules.on_error == OnError::Stop;
            if !stops && tally.first.is_none() {
                tally.first = Some(failure.clone());
            }
            stops
        };
        if stops {
            self.run.fail(failure);
        } else if let Some(callback) = &self.rules.dead_letter {
            let Failure { stage, number, attempts, error } = failure;
            let letter = DeadLetter { item: tried.copy, stage, number, attempts, error };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(letter))) {
                let error = TaskError::new("panicked", format!("the callback for dead letters: {}", panic_text(&*panic)));
                self.run.fail(Failure { stage: self.meter.name.clone(), number, attempts, error });
            }
        }
    }

    /// An item was given up because the pipeline stops.
    pub(super) fn cancelled(&self) {
        self.meter.tally.lock().counts.cancelled += 1;
    }

    pub(super) fn guard(&self) -> Guard {
        Guard { run: self.run.clone(), meter: self.meter.clone(), done: false }
    }

    /// A failure that is no item's.
    pub(super) fn broken(&self, kind: &'static str, message: String) {
        self.run.fail(Failure { stage: self.meter.name.clone(), number: 0, attempts: 0, error: TaskError::new(kind, message) });
    }
}

/// Stops the pipeline if a worker ends without having come to its end: its runtime is shut down
/// under it, say.
pub(super) struct Guard {
    run: Arc<PipelineRun>,
    meter: Arc<Meter>,
    done: bool,
}

impl Guard {
    /// The worker has come to its end.
    pub(super) fn done(&mut self) {
        self.done = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done {
            let error = TaskError::new("lost", "a worker ended before its end, perhaps with its runtime");
            self.run.fail(Failure { stage: self.meter.name.clone(), number: 0, attempts: 0, error });
        }
    }
}

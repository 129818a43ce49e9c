//! What commands wrote that were ended by a timeout or a signal.
//!
//! Such an outcome has no place for output, and people want to see how far the command came. So the
//! output waits here, from the end of the attempt until its task's result is written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use longshore_core::{
    Outcome, RetryPolicy,
    decide::{Verdict, decide},
    lane::child::Output,
};

/// Outputs of attempts whose outcome cannot carry them, by task.
#[derive(Debug)]
pub(crate) struct LastOutputs {
    retry: RetryPolicy,
    outputs: Mutex<HashMap<u64, Arc<Output>>>,
}

impl LastOutputs {
    /// Makes an empty table for a run with this retry policy.
    pub(crate) fn new(retry: RetryPolicy) -> Self {
        Self { retry, outputs: Mutex::default() }
    }

    /// Keeps what an attempt wrote that ended so, unless another attempt follows.
    pub(crate) fn put<R>(&self, task: u64, attempt: u32, outcome: &Outcome<R>, output: Output) {
        if !matches!(outcome, Outcome::TimedOut { .. } | Outcome::Killed { .. }) {
            return;
        }
        // Age is the engine's to know. Without a limit of it the attempt's number alone decides.
        let last = self.retry.give_up_after.is_some() || decide(outcome, &self.retry, attempt, Duration::ZERO, 0.0) == Verdict::Ack;
        if last {
            self.lock().insert(task, Arc::new(output));
        }
    }

    /// Returns what the last attempt of a task wrote, and forgets it.
    pub(crate) fn take(&self, task: u64) -> Option<Arc<Output>> {
        self.lock().remove(&task)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Output>>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

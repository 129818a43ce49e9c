//! A job that runs, and what it came to.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
};

use crate::{
    engine::{self, Summary},
    error::TaskError,
    event::Event,
    job::producers::Failures,
    lane::panic_text,
    outcome::Outcome,
    sink::callbacks::Panics,
    watch::{Detail, Events, Handle, View, ViewKind},
};

pub(super) type OnJobComplete = Box<dyn FnOnce(&Report) + Send>;

/// A job that runs.
pub struct RunningJob {
    pub(super) running: engine::Running,
    pub(super) failures: Failures,
    pub(super) panics: Arc<Panics>,
    pub(super) on_job_complete: Option<OnJobComplete>,
}

impl RunningJob {
    /// The engine alone, for whoever has no use for callbacks and reports.
    pub(crate) fn into_running(self) -> engine::Running {
        self.running
    }

    /// Steers and asks the running job.
    pub fn handle(&self) -> Handle {
        self.running.handle().watch(ViewKind::Job, "")
    }

    /// Returns what it looks like now; `None` when it is over.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn view(&self) -> Option<View> {
        self.handle().view().await
    }

    /// Listens to what happens from now on; keeps at most `capacity` events that are not read.
    pub fn events(&self, capacity: usize) -> Events<Event> {
        self.running.events(Detail::Tasks, capacity)
    }

    /// Waits for the end of the job, calls `on_job_complete` and returns the report. Dropping this
    /// future leaves the job running.
    pub async fn join(self) -> Report {
        let summary = self.running.join().await;
        let mut report = Report {
            summary,
            failed_producers: std::mem::take(&mut *self.failures.0.lock().unwrap_or_else(PoisonError::into_inner)),
            callback_panics: self.panics.count(),
            first_callback_panic: self.panics.first(),
        };
        if let Some(callback) = self.on_job_complete {
            let called = std::panic::catch_unwind(AssertUnwindSafe(|| callback(&report)));
            if let Err(panic) = called {
                report.callback_panics += 1;
                report.first_callback_panic.get_or_insert(panic_text(&*panic));
            }
        }
        report
    }
}

/// Report of a job: the engine's summary, and what went wrong around it.
/// ```
/// let report = longshore_core::Job::blocking(|n: u32| if n == 3 { Err("three") } else { Ok(n) }).params(0..10).run();
/// assert_eq!((report.ok(), report.failed(), report.done()), (9, 1, 10));
/// assert!(!report.is_clean());
/// println!("{:.0} tasks/s; run p50 {:?} p99 {:?}; waited p50 {:?}", report.throughput(), report.run.p50, report.run.p99, report.wait.p50);
/// for (reason, time) in &report.waited {
///     println!("nothing started for {time:?}: {reason}");
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Counts by outcome, wall time, quantiles of run and wait, slots, where the time went.
    pub summary: Summary,
    /// Words of producers that failed or panicked.
    pub failed_producers: Vec<String>,
    /// Callbacks that panicked.
    pub callback_panics: u64,
    /// Text of the first of them.
    pub first_callback_panic: Option<String>,
}

impl Report {
    /// Tasks that ended well.
    pub fn ok(&self) -> u64 {
        self.summary.counts.ok
    }

    /// Tasks that ended in any other way.
    pub fn failed(&self) -> u64 {
        self.summary.failed()
    }

    /// Returns true if every task ended well, every producer finished and no callback panicked.
    pub fn is_clean(&self) -> bool {
        self.failed() == 0 && self.failed_producers.is_empty() && self.callback_panics == 0 && self.summary.error.is_none()
    }
}

/// In one line for people: counts, time, and what went wrong around the tasks.
/// ```
/// let report = longshore_core::Job::blocking(|n: u32| if n == 3 { Err("three") } else { Ok(n) }).params(0..10).run();
/// assert!(report.to_string().starts_with("9 ok, 1 failed in "), "{report}");
/// ```
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.summary.counts;
        write!(f, "{} ok", counts.ok)?;
        let others = [
            (counts.failed, "failed"),
            (counts.timeout, "timed out"),
            (counts.panicked, "panicked"),
            (counts.killed, "killed"),
            (counts.lost, "lost"),
            (counts.cancelled, "cancelled"),
            (counts.skipped, "skipped"),
            (counts.retries, "retries"),
        ];
        for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        write!(f, " in {:.2?}", self.summary.wall)?;
        for producer in &self.failed_producers {
            write!(f, "; a producer failed: {producer}")?;
        }
        if self.callback_panics > 0 {
            write!(f, "; {} callbacks panicked", self.callback_panics)?;
            self.first_callback_panic.as_ref().map_or(Ok(()), |first| write!(f, ", the first with: {first}"))?;
        }
        self.summary.error.as_ref().map_or(Ok(()), |error| write!(f, "; ended early: {error}"))
    }
}

impl std::ops::Deref for Report {
    type Target = Summary;

    fn deref(&self) -> &Summary {
        &self.summary
    }
}

/// Every outcome, in the order of the parameters, and the report.
#[derive(Debug)]
pub struct Collected<R> {
    /// The outcomes.
    pub outcomes: Vec<Outcome<R>>,
    /// The report.
    pub report: Report,
}

impl<R> Collected<R> {
    /// All results, if every task ended well.
    ///
    /// # Errors
    /// The place (from 0) and the error of the first task that did not.
    pub fn results(self) -> Result<Vec<R>, (usize, TaskError)> {
        self.outcomes
            .into_iter()
            .enumerate()
            .map(|(place, outcome)| match outcome {
                Outcome::Ok(result) => Ok(result),
                other => Err((place, other.error().unwrap_or_else(|| TaskError::new("lost", "no outcome")))),
            })
            .collect()
    }
}

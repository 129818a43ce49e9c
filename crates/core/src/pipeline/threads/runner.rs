//! Attempts that end on time although their function does not: each worker of a blocking stage with
//! a timeout has a second thread that runs the function. When the time is over, that thread is left
//! to itself, and the worker gets another one.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    lane::{Context, SyncHandler, caught},
    outcome::Outcome,
    pipeline::run::{Halt, PipelineRun},
};

/// Threads that may be left to themselves, for each worker.
const ABANDONED: usize = 4;
/// Looks at the pipeline's halt while an attempt runs.
const LOOK: Duration = Duration::from_millis(50);

/// The second threads of a stage.
pub(super) struct Runners<T, V> {
    handler: SyncHandler<T, V>,
    abandoned: Arc<AtomicUsize>,
    most: usize,
}

impl<T: Send + 'static, V: Send + 'static> Runners<T, V> {
    pub(super) fn new(handler: SyncHandler<T, V>, workers: usize) -> Self {
        Self { handler, abandoned: Arc::default(), most: ABANDONED * workers }
    }

    /// The place of one worker. Its thread starts with the first attempt.
    pub(super) fn seat(&self) -> SecondThread<T, V> {
        SecondThread { handler: self.handler.clone(), abandoned: self.abandoned.clone(), most: self.most, desk: None }
    }
}

/// One worker's second thread.
pub(super) struct SecondThread<T, V> {
    handler: SyncHandler<T, V>,
    abandoned: Arc<AtomicUsize>,
    most: usize,
    desk: Option<Arc<Desk<T, V>>>,
}

struct Desk<T, V> {
    work: Mutex<RunnerWork<T, V>>,
    changed: Condvar,
}

enum RunnerWork<T, V> {
    Idle,
    Attempt(Context, T),
    Running,
    Done(Outcome<V>),
    /// The worker went on without this thread.
    Abandoned,
    Closed,
}

impl<T: Send + 'static, V: Send + 'static> SecondThread<T, V> {
    /// Runs an attempt; returns when it ends, or when its time is over.
    pub(super) fn run(&mut self, context: &Context, item: T, limit: Duration, run: &PipelineRun) -> Outcome<V> {
        let desk = match self.desk() {
            Ok(desk) => desk,
            Err(error) => return Outcome::Lost(format!("no thread for an attempt: {error}")),
        };
        let began = Instant::now();
        let mut work = desk.lock();
        *work = RunnerWork::Attempt(context.clone(), item);
        desk.changed.notify_all();
        loop {
            if let RunnerWork::Done(_) = *work
                && let RunnerWork::Done(outcome) = std::mem::replace(&mut *work, RunnerWork::Idle)
            {
                return outcome;
            }
            if run.halt() == Halt::Hard {
                context.cancel.cancel();
            }
            let rest = limit.checked_sub(began.elapsed()).filter(|rest| !rest.is_zero());
            let late = rest.is_none();
            if late {
                context.cancel.cancel();
                let reserved = self.abandoned.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < self.most).then_some(n + 1));
                if reserved.is_ok() {
                    *work = RunnerWork::Abandoned;
                    self.desk = None;
                    return Outcome::TimedOut { limit };
                }
            }
            // Where too many threads are left to themselves already, this one is waited for.
            work = desk.changed.wait_timeout(work, rest.unwrap_or(LOOK).min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
            if late && matches!(*work, RunnerWork::Done(_)) {
                *work = RunnerWork::Idle;
                return Outcome::TimedOut { limit };
            }
        }
    }

    fn desk(&mut self) -> std::io::Result<Arc<Desk<T, V>>> {
        if let Some(desk) = &self.desk {
            return Ok(desk.clone());
        }
        let desk = Arc::new(Desk { work: Mutex::new(RunnerWork::Idle), changed: Condvar::new() });
        let (own, handler, abandoned) = (desk.clone(), self.handler.clone(), self.abandoned.clone());
        thread::Builder::new().name("stage-attempt".to_owned()).spawn(move || own.serve(&handler, &abandoned))?;
        self.desk = Some(desk.clone());
        Ok(desk)
    }
}

impl<T, V> Drop for SecondThread<T, V> {
    fn drop(&mut self) {
        if let Some(desk) = self.desk.take() {
            *desk.lock() = RunnerWork::Closed;
            desk.changed.notify_all();
        }
    }
}

impl<T, V> Desk<T, V> {
    fn lock(&self) -> std::sync::MutexGuard<'_, RunnerWork<T, V>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, handler: &SyncHandler<T, V>, abandoned: &AtomicUsize) {
        let mut work = self.lock();
        loop {
            match std::mem::replace(&mut *work, RunnerWork::Running) {
                RunnerWork::Attempt(context, item) => {
                    drop(work);
                    let outcome = caught(|| handler(&context, item));
                    work = self.lock();
                    if matches!(*work, RunnerWork::Abandoned) {
                        abandoned.fetch_sub(1, Ordering::AcqRel);
                        return;
                    }
                    *work = RunnerWork::Done(outcome);
                    self.changed.notify_all();
                }
                RunnerWork::Closed => return,
                RunnerWork::Abandoned => {
                    abandoned.fetch_sub(1, Ordering::AcqRel);
                    return;
                }
                other => {
                    *work = other;
                    work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

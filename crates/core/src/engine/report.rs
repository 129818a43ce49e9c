//! Hands finished tasks to the sink, and settles with the source what the sink has accepted:
//! results before acknowledgements.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;

use crate::{
    decide::Verdict,
    engine::{Broken, Mail, stats::Times},
    error::{SinkError, SourceError},
    mailbox::{Mailbox, append},
    outcome::{Outcome, panic_text},
    sink::{Room, Sink},
    source::{Settlement, Source},
    sync::{Mutex, MutexGuard},
    task::Finished,
    watch::LabelsOf,
};

/// The loop's side of the reporter.
pub(super) struct Reports<T, R> {
    mailbox: Mailbox<Pile<T, R>>,
    /// Of the tasks that were handed over.
    times: Mutex<Times>,
    labels: Option<LabelsOf<T>>,
}

struct Pile<T, R> {
    done: Vec<Finished<T, R>>,
    back: Vec<Settlement>,
    closed: bool,
}

impl<T, R> Default for Pile<T, R> {
    fn default() -> Self {
        Self { done: Vec::new(), back: Vec::new(), closed: false }
    }
}

impl<T, R> Reports<T, R> {
    pub(super) fn new(labels: Option<LabelsOf<T>>) -> Self {
        let kinds = labels.as_ref().map_or(&[][..], |labels| &labels.kinds);
        let times = Mutex::new(Times::new(kinds));
        Self { mailbox: Mailbox::new(), times, labels }
    }

    /// Counts finished tasks. The user's function for labels runs here, outside of the loop; one
    /// that panics ends nothing.
    fn count(&self, done: &[Finished<T, R>]) {
        let mut times = self.times();
        times.add(done);
        if let Some(labels) = &self.labels {
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| times.label(done, labels)));
        }
    }

    /// Takes finished tasks for the sink, and settlements of what goes back unfinished. Both are
    /// drained.
    pub(super) fn post(&self, done: &mut Vec<Finished<T, R>>, back: &mut Vec<Settlement>) {
        self.mailbox.post(|pile| {
            append(&mut pile.done, done);
            append(&mut pile.back, back);
        });
    }

    pub(super) fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock()
    }

    pub(super) fn close(&self) {
        self.mailbox.post(|pile| pile.closed = true);
    }
}

/// The reporter's task. Ends when the loop has closed it and the sink has dealt with everything.
pub(super) async fn run<T: Send + 'static, R: Send + 'static>(
    reports: Arc<Reports<T, R>>,
    source: Arc<dyn Source<T>>,
    mut sink: Box<dyn Sink<T, R>>,
    mailbox: Arc<Mailbox<Mail<T, R>>>,
    room: Room,
) -> Result<(), SinkError> {
    let mut pile = Pile::default();
    let mut settlements: Vec<Settlement> = Vec::new();
    let mut broken: Option<SinkError> = None;
    let is_told = source.is_told();
    loop {
        std::future::poll_fn(|cx| reports.mailbox.poll_take(&mut pile, true, cx)).await;
        let mut unsettled = pile.back.len();
        settlements.append(&mut pile.back);
        let count = pile.done.len();
        if count > 0 {
            reports.count(&pile.done);
            let first = settlements.len();
            unsettled += count;
            if is_told {
                settlements.extend(pile.done.iter().map(settlement));
            }
            let accepted = match &broken {
                Some(error) => Err(error.clone()),
                None => guarded(async { sink.accept(&mut pile.done, &room).await }).await,
            };
            if let Err(error) = accepted {
                // Nobody answers for these results: the deliveries stay with the source, as if
                // their tasks had not run.
                pile.done.clear();
                settlements.truncate(first);
                unsettled -= count;
                let tell = broken.is_none();
                broken.get_or_insert_with(|| error.clone());
                mailbox.post(|mail| {
                    mail.released += count;
                    mail.settled += count;
                    if tell {
                        mail.broken = Some(Broken::Sink(error));
                    }
                });
            }
        }
        if unsettled > 0 {
            let settled = if is_told { settle(&*source, &settlements).await } else { Ok(()) };
            settlements.clear();
            match settled {
                Ok(()) => mailbox.post_quietly(|mail| mail.settled += unsettled),
                Err(error) => mailbox.post(|mail| {
                    mail.settled += unsettled;
                    mail.broken = Some(Broken::Source(error));
                }),
            }
        }
        if pile.closed {
            break;
        }
    }
    let closed = guarded(async { sink.close().await }).await;
    match broken {
        Some(error) => Err(error),
        None => closed,
    }
}

async fn settle<T>(source: &dyn Source<T>, settlements: &[Settlement]) -> Result<(), SourceError> {
    AssertUnwindSafe(async { source.settle(settlements).await })
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(SourceError::fatal(format!("the source panicked: {}", panic_text(&*panic)))))
}

fn settlement<T, R>(finished: &Finished<T, R>) -> Settlement {
    let verdict = match finished.outcome {
        Outcome::Skipped(_) => Verdict::Reject,
        _ => Verdict::Ack,
    };
    Settlement { receipt: finished.task.receipt, verdict }
}

/// A sink that panics is a sink that failed. `work` makes its call inside: that may panic, too,
/// before there is a future.
async fn guarded(work: impl Future<Output = Result<(), SinkError>>) -> Result<(), SinkError> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(SinkError::fatal(format!("the sink panicked: {}", panic_text(&*panic)))))
}

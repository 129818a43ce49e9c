//! Between the client's thread and the engine: records go one way, settlements the other, each
//! batch under one lock.
//!
//! The client's thread is woken only when it has said that so many settlements would let it go on.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    task::Poll,
    thread::Thread,
};

use futures_util::{FutureExt, future::BoxFuture, task::AtomicWaker};
use longshore_core::{
    Delivery, Receipt, SourceError, TaskError,
    source::{Fetched, Settlement, Source},
};
use rdkafka::{TopicPartitionList, error::RDKafkaErrorCode as Code};
use tokio::sync::oneshot;

use crate::{
    exactly_once::{Output, StagedOutput},
    intake::Limits,
    record::Record,
    trouble::TroubleBoard,
    view::View,
};

/// State that the client's thread and the engine share.
#[derive(Default)]
pub(crate) struct Exchange {
    ready: Mutex<OfferedWork>,
    fetcher: AtomicWaker,
    back: Mutex<ReturnedWork>,
    thread: OnceLock<Thread>,
    /// Troubles, and counts of what has been done so far.
    pub(crate) board: TroubleBoard,
}

/// On the way to the engine.
#[derive(Default)]
struct OfferedWork {
    records: VecDeque<Delivery<Record>>,
    end: Option<Result<(), SourceError>>,
    closed: bool,
}

/// On the way to the client's thread.
#[derive(Default)]
pub(crate) struct ReturnedWork {
    pub(crate) settled: Vec<Settlement>,
    /// Records that failed for good; told before they are settled.
    pub(crate) failed: Vec<Failed>,
    /// Outputs that handlers returned, to be written in a transaction; told before their records
    /// are settled.
    pub(crate) outputs: Vec<(Receipt, Vec<Output>)>,
    pub(crate) away: Vec<(Receipt, bool)>,
    pub(crate) commands: Vec<Command>,
    /// The thread is to be woken when so many are settled.
    wake_at: usize,
}

/// A record whose last attempt failed.
pub(crate) struct Failed {
    pub(crate) receipt: Receipt,
    pub(crate) record: Record,
    pub(crate) error: TaskError,
    pub(crate) attempts: u32,
}

/// Request to the client's thread.
pub(crate) enum Command {
    Limits(Limits),
    View(oneshot::Sender<Partial>),
    /// The records of these receipts, as far as they are still lent.
    Records(Vec<Receipt>, oneshot::Sender<Vec<Option<Record>>>),
    /// Answer of the broker to a commit.
    Committed(Result<(), Refusal>, CommitWork),
    /// The engine has ended: commit, leave the group, end.
    Finish,
}

/// A commit on its way, with the outputs that belong to it, if it is a transaction.
pub(crate) struct CommitWork {
    pub(crate) list: TopicPartitionList,
    pub(crate) outputs: Vec<StagedOutput>,
}

/// Reason why a commit was not accepted.
pub(crate) struct Refusal {
    pub(crate) code: Option<Code>,
    pub(crate) text: String,
    /// No later one will be either.
    pub(crate) fatal: bool,
}

/// The client's part of a [`View`].
pub(crate) type Partial = Box<dyn FnOnce(longshore_core::engine::Snapshot, usize) -> View + Send>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    /// Notes the thread that is to be woken.
    pub(crate) fn served_by(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Hands records to the engine; the batch is drained.
    pub(crate) fn lend(&self, batch: &mut Vec<Delivery<Record>>) {
        lock(&self.ready).records.extend(batch.drain(..));
        self.fetcher.wake();
    }

    /// Says that there will be no more.
    pub(crate) fn end(&self, end: Result<(), SourceError>) {
        lock(&self.ready).end.get_or_insert(end);
        self.fetcher.wake();
    }

    /// Returns true if the engine wants no more, or has been told that there is no more.
    pub(crate) fn is_closed(&self) -> bool {
        let ready = lock(&self.ready);
        ready.closed || ready.end.is_some()
    }

    /// Takes back records that the engine has not fetched.
    pub(crate) fn call_back(&self, unwanted: impl Fn(&Record) -> bool) {
        lock(&self.ready).records.retain(|delivery| !unwanted(&delivery.payload));
    }

    /// Exchanges what has come back with an emptied `into`, and says when to be woken for more.
    pub(crate) fn take_back(&self, into: &mut ReturnedWork, wake_at: usize) {
        let mut back = lock(&self.back);
        std::mem::swap(&mut *back, into);
        back.wake_at = wake_at;
    }

    /// Wakes the thread when so many are settled. `false`: they are already.
    pub(crate) fn sleep_until(&self, wake_at: usize) -> bool {
        let mut back = lock(&self.back);
        back.wake_at = wake_at;
        back.settled.len() < wake_at && back.commands.is_empty()
    }

    pub(crate) fn command(&self, command: Command) {
        lock(&self.back).commands.push(command);
        self.wake();
    }

    /// Tells of records that failed for good, and of outputs, before they are settled.
    pub(crate) fn tell(&self, failed: &mut Vec<Failed>, outputs: &mut Vec<(Receipt, Vec<Output>)>) {
        if !failed.is_empty() || !outputs.is_empty() {
            let mut back = lock(&self.back);
            back.failed.append(failed);
            back.outputs.append(outputs);
        }
    }
}

impl ReturnedWork {
    pub(crate) fn clear(&mut self) {
        self.settled.clear();
        self.failed.clear();
        self.outputs.clear();
        self.away.clear();
        self.commands.clear();
    }
}

/// Records of Kafka as deliveries.
impl Source<Record> for Exchange {
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<Record>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        std::future::poll_fn(move |cx| {
            for registered in [false, true] {
                let mut ready = lock(&self.ready);
                if ready.closed {
                    return Poll::Ready(Ok(Fetched::End));
                }
                let count = ready.records.len().min(room);
                if count > 0 {
                    into.extend(ready.records.drain(..count));
                    return Poll::Ready(Ok(Fetched::More));
                }
                if let Some(end) = &ready.end {
                    return Poll::Ready(end.clone().map(|()| Fetched::End));
                }
                drop(ready);
                if !registered {
                    self.fetcher.register(cx.waker());
                }
            }
            Poll::Pending
        })
        .boxed()
    }

    fn settle<'a>(&'a self, batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
        let mut back = lock(&self.back);
        back.settled.extend_from_slice(batch);
        let wake = back.settled.len() >= back.wake_at;
        if wake {
            back.wake_at = usize::MAX;
        }
        drop(back);
        if wake {
            self.wake();
        }
        std::future::ready(Ok(())).boxed()
    }

    fn backing_off(&self, receipt: Receipt, record: &Record, away: bool) {
        if away {
            // Here, where nothing of it can run: what the client's thread reads of `away` may be
            // old by then.
            record.rest();
        }
        lock(&self.back).away.push((receipt, away));
    }

    fn close(&self) {
        lock(&self.ready).closed = true;
        self.fetcher.wake();
    }
}

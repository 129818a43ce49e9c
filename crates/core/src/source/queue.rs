//! A bounded queue in memory, with any number of producers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use futures_util::{
    future::{BoxFuture, FutureExt},
    task::AtomicWaker,
};
use tokio::sync::{Notify, Semaphore};

use crate::{
    error::SourceError,
    source::{Fetched, Settlement, Source, iter::OptionsOf},
    task::{Delivery, Options},
};

/// Makes a queue: the side that producers send to, and the source that an engine draws from.
///
/// The queue ends when all senders are dropped and everything sent has been lent. `capacity` counts
/// what has been sent and not yet fetched.
///
/// # Panics
/// If `capacity` is 0 or more than `usize::MAX >> 3`.
pub fn queue<T>(capacity: usize) -> (Sender<T>, QueueSource<T>) {
    assert!(capacity > 0, "a queue needs a capacity of at least 1");
    let shared = Arc::new(SharedQueue {
        state: Mutex::new(WaitingTasks {
            items: VecDeque::new(),
            senders: 1,
            closed: false,
            gone: false,
            over: 0,
            next: 1,
            settled: Watermark::default(),
            counts: QueueCounts::default(),
        }),
        space: Semaphore::new(capacity),
        fetcher: AtomicWaker::new(),
        settled: Notify::new(),
    });
    (Sender { shared: shared.clone() }, QueueSource { shared, options: None })
}

struct SharedQueue<T> {
    state: Mutex<WaitingTasks<T>>,
    /// Free places. First come, first served.
    space: Semaphore,
    fetcher: AtomicWaker,
    settled: Notify,
}

struct WaitingTasks<T> {
    items: VecDeque<(T, Option<Box<Options>>)>,
    senders: usize,
    /// The source takes no more.
    closed: bool,
    /// There is no source any more: what it has lent will not be settled.
    gone: bool,
    /// Tasks for which there was no free place when they were sent; the next places that become
    /// free are theirs.
    over: usize,
    next: u64,
    settled: Watermark,
    counts: QueueCounts,
}

/// Up to where everything is settled, though settlements come in any order. Memory goes with what
/// is lent at once.
#[derive(Default)]
struct Watermark {
    /// Everything up to this receipt.
    upto: u64,
    /// And which of those after it.
    beyond: VecDeque<bool>,
}

impl Watermark {
    fn add(&mut self, receipt: u64) {
        let Some(place) = receipt.checked_sub(self.upto + 1).and_then(|place| usize::try_from(place).ok()) else { return };
        if place >= self.beyond.len() {
            self.beyond.resize(place + 1, false);
        }
        self.beyond[place] = true;
        while self.beyond.front() == Some(&true) {
            self.beyond.pop_front();
            self.upto += 1;
        }
    }
}

/// Counts of what went through a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Tasks that were accepted.
    pub sent: u64,
    /// Tasks that were given back because the queue was full.
    pub refused: u64,
    /// Accepted tasks that gave way to a newer one.
    pub displaced: u64,
    /// Tasks that are settled: done, or handed back unfinished.
    pub settled: u64,
}

impl QueueCounts {
    fn outstanding(&self) -> u64 {
        self.sent - self.displaced - self.settled
    }
}

/// A task that was not accepted, given back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// The queue is full.
    Full(T),
    /// The job has stopped; nobody will run this.
    Closed(T),
}

impl<T> SendError<T> {
    /// The task.
    pub fn into_inner(self) -> T {
        match self {
            SendError::Full(task) | SendError::Closed(task) => task,
        }
    }
}

impl<T> std::fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => "the queue is full",
            SendError::Closed(_) => "the job takes no more tasks",
        })
    }
}

impl<T: std::fmt::Debug> std::error::Error for SendError<T> {}

impl<T> From<SendError<T>> for crate::error::TaskError {
    /// Kind `closed` or `full`, so that a producer may pass it on with `?`.
    fn from(error: SendError<T>) -> Self {
        let kind = match error {
            SendError::Full(_) => "full",
            SendError::Closed(_) => "closed",
        };
        Self::new(kind, error.to_string())
    }
}

/// The job ended before everything that was sent was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job ended with {0} tasks unsettled")]
pub struct Unsettled(pub u64);

/// Sends tasks to a job. Clones are further producers; the queue ends when the last one is dropped.
/// Four ways to send when the queue is full: wait, be refused, wait for a while, or displace the
/// oldest.
///
/// ```
/// use longshore_core::{Job, SendError};
///
/// let (sender, job) = Job::blocking(|n: u32| Ok::<_, String>(n)).sender(2);
/// sender.blocking_send(1).unwrap();
/// sender.try_send(2).unwrap();
/// assert_eq!(sender.try_send(3), Err(SendError::Full(3)));
/// assert_eq!(sender.send_displacing(4), Ok(Some(1)));
/// let counts = sender.counts();
/// assert_eq!((counts.sent, counts.refused, counts.displaced), (3, 1, 1));
///
/// drop(sender); // the last producer is gone: the job ends when what it sent is done
/// assert_eq!(job.collect().results().unwrap(), [2, 4]);
/// ```
pub struct Sender<T> {
    shared: Arc<SharedQueue<T>>,
}

impl<T> Sender<T> {
    /// Sends a task, waiting for room if the queue is full. Waiting senders are served in their
    /// order.
    ///
    /// Cancel safe: a cancelled send has sent nothing (and its task is dropped; to keep it use
    /// [`try_send`](Sender::try_send)).
    ///
    /// # Errors
    /// [`SendError::Closed`] with the task, if the job has stopped.
    pub async fn send(&self, task: T) -> Result<(), SendError<T>> {
        self.send_with(task, None).await
    }

    /// Sends a task that wants something differently from its job.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub async fn send_with(&self, task: T, options: Option<Options>) -> Result<(), SendError<T>> {
        match self.shared.space.acquire().await {
            Ok(place) => {
                place.forget();
                self.shared.push(task, options)
            }
            Err(_) => Err(SendError::Closed(task)),
        }
    }

    /// Sends a task if there is room now.
    ///
    /// # Errors
    /// The task, given back.
    pub fn try_send(&self, task: T) -> Result<(), SendError<T>> {
        match self.shared.space.try_acquire() {
            Ok(place) => {
                place.forget();
                self.shared.push(task, None)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                self.shared.lock().counts.refused += 1;
                Err(SendError::Full(task))
            }
            Err(tokio::sync::TryAcquireError::Closed) => Err(SendError::Closed(task)),
        }
    }

    /// Sends a task, waiting for room no longer than this.
    ///
    /// # Errors
    /// The task, given back.
    pub async fn send_timeout(&self, task: T, limit: Duration) -> Result<(), SendError<T>> {
        match tokio::time::timeout(limit, self.shared.space.acquire()).await {
            Ok(Ok(place)) => {
                place.forget();
                self.shared.push(task, None)
            }
            Ok(Err(_)) => Err(SendError::Closed(task)),
            Err(_) => {
                self.shared.lock().counts.refused += 1;
                Err(SendError::Full(task))
            }
        }
    }

    /// Sends a task from a thread, blocking it until there is room. Not for threads of an async
    /// runtime.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub fn blocking_send(&self, task: T) -> Result<(), SendError<T>> {
        crate::block_on::block_on(self.send(task))
    }

    /// Sends a task in any case: if the queue is full, its oldest task gives way and is given back.
    ///
    /// # Errors
    /// [`SendError::Closed`] with the task, if the job has stopped.
    pub fn send_displacing(&self, task: T) -> Result<Option<T>, SendError<T>> {
        match self.try_acquire_quietly() {
            Ok(()) => return self.shared.push(task, None).map(|()| None),
            Err(true) => return Err(SendError::Closed(task)),
            Err(false) => {}
        }
        let mut state = self.shared.lock();
        if state.closed {
            return Err(SendError::Closed(task));
        }
        let oldest = state.items.pop_front().map(|(oldest, _)| oldest);
        match oldest {
            // The newcomer takes the place of the oldest; no permit changes hands.
            Some(_) => state.counts.displaced += 1,
            // All places are promised to senders that are about to fill them, perhaps on this very
            // thread: to wait here could be for ever. For a moment the queue holds one more.
            None => state.over += 1,
        }
        drop(state);
        self.shared.push(task, None).map(|()| oldest)
    }

    /// `Err(true)`: closed; `Err(false)`: full.
    fn try_acquire_quietly(&self) -> Result<(), bool> {
        match self.shared.space.try_acquire() {
            Ok(place) => {
                place.forget();
                Ok(())
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(false),
            Err(tokio::sync::TryAcquireError::Closed) => Err(true),
        }
    }

    /// Resolves when everything sent so far, by all senders, is settled: done well or badly (a
    /// handler that panicked included). Cancel safe.
    ///
    /// # Errors
    /// [`Unsettled`] if the job ends before that.
    pub async fn drained(&self) -> Result<(), Unsettled> {
        // What is in the queue now gets the next receipts (or fewer of them, if some of it is
        // displaced).
        let last = {
            let state = self.shared.lock();
            state.next - 1 + state.items.len() as u64
        };
        loop {
            let settled = self.shared.settled.notified();
            {
                let state = self.shared.lock();
                let outstanding = state.counts.outstanding();
                if outstanding == 0 || state.settled.upto >= last {
                    return Ok(());
                }
                if state.gone || (state.closed && outstanding <= state.items.len() as u64) {
                    return Err(Unsettled(outstanding));
                }
            }
            settled.await;
        }
    }

    /// Returns what went through the queue so far.
    pub fn counts(&self) -> QueueCounts {
        self.shared.lock().counts
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        if state.senders == 0 {
            drop(state);
            self.shared.fetcher.wake();
        }
    }
}

impl<T> SharedQueue<T> {
    fn lock(&self) -> MutexGuard<'_, WaitingTasks<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task; its place has been taken from `space`.
    fn push(&self, task: T, options: Option<Options>) -> Result<(), SendError<T>> {
        let mut state = self.lock();
        if state.closed {
            return Err(SendError::Closed(task));
        }
        let first = state.items.is_empty();
        state.items.push_back((task, options.map(Box::new)));
        state.counts.sent += 1;
        drop(state);
        if first {
            self.fetcher.wake();
        }
        Ok(())
    }
}

/// The source side of a [`queue`].
pub struct QueueSource<T> {
    shared: Arc<SharedQueue<T>>,
    options: Option<OptionsOf<T>>,
}

impl<T> QueueSource<T> {
    /// A further sender.
    pub(crate) fn sender(&self) -> Sender<T> {
        self.shared.lock().senders += 1;
        Sender { shared: self.shared.clone() }
    }

    /// Tells the options of tasks that were sent without any.
    #[must_use]
    pub fn with_options(mut self, options: Option<OptionsOf<T>>) -> Self {
        self.options = options;
        self
    }
}

impl<T: Send + 'static> Source<T> for QueueSource<T> {
    fn fetch<'a>(&'a self, room: usize, into: &'a mut Vec<Delivery<T>>) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        std::future::poll_fn(move |cx| {
            self.shared.fetcher.register(cx.waker());
            let mut state = self.shared.lock();
            if state.closed {
                return Poll::Ready(Ok(Fetched::End));
            }
            let count = room.min(state.items.len());
            if count == 0 {
                return if state.senders == 0 { Poll::Ready(Ok(Fetched::End)) } else { Poll::Pending };
            }
            let first = into.len();
            for _ in 0..count {
                let Some((item, options)) = state.items.pop_front() else { break };
                into.push(Delivery { options, ..Delivery::new(state.next, item) });
                state.next += 1;
            }
            let owed = state.over.min(count);
            state.over -= owed;
            drop(state);
            self.shared.space.add_permits(count - owed);
            if let Some(tell) = &self.options {
                // User code: should it panic, nothing is lent without its options.
                let mut silent = into.split_off(first);
                for delivery in &mut silent {
                    if delivery.options.is_none() {
                        delivery.options = tell(&delivery.payload);
                    }
                }
                into.append(&mut silent);
            }
            Poll::Ready(Ok(Fetched::More))
        })
        .boxed()
    }

    fn settle<'a>(&'a self, batch: &'a [Settlement]) -> BoxFuture<'a, Result<(), SourceError>> {
        let mut state = self.shared.lock();
        state.counts.settled += batch.len() as u64;
        for settlement in batch {
            state.settled.add(settlement.receipt.0);
        }
        drop(state);
        self.shared.settled.notify_waiters();
        std::future::ready(Ok(())).boxed()
    }

    fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.space.close();
        self.shared.fetcher.wake();
        self.shared.settled.notify_waiters();
    }
}

/// An engine that is dropped settles nothing more; whoever waits is told.
impl<T> Drop for QueueSource<T> {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            (state.closed, state.gone) = (true, true);
        }
        self.shared.space.close();
        self.shared.settled.notify_waiters();
    }
}

//! The consumer as people use it.
//!
//! It is an engine whose source is a group's partitions: `client.rs` is the thread that owns the
//! client, `source.rs` what lies between the two.

mod face;
mod start;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use longshore_core::{
    Finished, LaneKind, Outcome, Rate, Receipt, RetryPolicy, SinkError, Stop, TaskError,
    engine::{Handle, Running, RunningTask, Summary},
    sink::{Room, Sink},
};
use tokio::{runtime::Handle as Runtime, sync::oneshot};

pub use crate::options::{DeadLetter, Order, Start};
use crate::{
    exactly_once::Output,
    handler::{Handler, OnEnd},
    intake::Limits,
    record::Record,
    settings::Settings,
    source::{Command, Exchange, Failed},
    trouble::Trouble,
    view::{RecordCounts, View},
};
use longshore_brokers::BrokerError;

/// A member of a consumer group: records of topics are handled by a bounded crowd of workers, in
/// order where that is asked for, and committed when they are done.
///
/// Every record is processed at least once. What is done beyond the committed offset travels in the
/// commit's metadata, in the format of Confluent's Parallel Consumer, so that a restart or a
/// rebalance repeats nothing that was finished before the last commit.
///
/// ```no_run
/// use longshore_kafka::{Consumer, Handler, Record, Settings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let summary = Consumer::new(Settings::parse("127.0.0.1:9092")?, "demo", ["orders"]).max_threads(75).until_end().run(Handler::new(
///     |record: Record| async move {
///         println!("{record}: {}", record.text()?);
///         Ok::<_, longshore_core::TaskError>(())
///     },
/// ))?;
/// println!("{} done", summary.counts.done);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a consumer does nothing until it is started"]
pub struct Consumer {
    settings: Settings,
    group: String,
    topics: Vec<String>,
    member: Option<String>,
    order: Order,
    start: Start,
    until_end: bool,
    max_threads: usize,
    max_in_flight: Option<usize>,
    max_parked: usize,
    resume_at: f64,
    pause_interval: Duration,
    rate: Option<Rate>,
    retry: RetryPolicy,
    timeout: Option<Duration>,
    dead_letter: DeadLetter,
    commit_every: Duration,
    drain: Duration,
    grace: Duration,
    buffers: usize,
    without_permission: Duration,
}

impl Consumer {
    /// Makes a member of a group that reads these topics.
    pub fn new(settings: Settings, group: impl Into<String>, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            settings,
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            member: None,
            order: Order::default(),
            start: Start::default(),
            until_end: false,
            max_threads: 75,
            max_in_flight: None,
            max_parked: 10_000,
            resume_at: 0.75,
            pause_interval: Duration::from_millis(100),
            rate: None,
            retry: RetryPolicy::times(4),
            timeout: None,
            dead_letter: DeadLetter::default(),
            commit_every: Duration::from_secs(1),
            drain: Duration::from_secs(5),
            grace: Duration::from_secs(30),
            buffers: 32 << 20,
            without_permission: Duration::from_secs(60),
        }
    }

    /// Gives the member a name that stays the same over restarts (`group.instance.id`): a short
    /// absence then moves no partitions.
    ///
    /// Without one, a member that heard nothing of its group for a session (45 s unless
    /// `session.timeout.ms` says otherwise), because the broker was away, joins as somebody new,
    /// and waits until the session of its former self has ended: the broker, back again, gives that
    /// one another 45 s. librdkafka alone does the same. A member with a name takes its own place
    /// at once, as one of the newer protocol of groups does (`group.protocol=consumer`, Kafka 4).
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.member = Some(name.into());
        self
    }

    /// Sets which records wait for each other. Default: those of one key.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Sets where a new group starts. Default: with the oldest record.
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Ends when the ends of all partitions assigned to us are reached and everything is done.
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// Most records that are in work at once. Default 75. [`ConsumerHandle::set_max_threads`]
    /// changes it while it runs.
    pub fn max_threads(mut self, most: usize) -> Self {
        self.max_threads = most.max(1);
        self
    }

    /// Most records that are in work or wait for it; at this number the gate closes, and nothing
    /// more is read. Default: twice as many as are in work at once, ten times as many with order by
    /// key, which needs to look ahead. Of one key at most a quarter stands in line; a partition
    /// that brings more of it waits.
    pub fn max_in_flight(mut self, most: usize) -> Self {
        self.max_in_flight = Some(most.max(1));
        self
    }

    /// Most records that back off after a failure, or stand in line behind one that does; beyond,
    /// the gate closes. They do not count as in flight. Default 10 000.
    pub fn max_parked(mut self, most: usize) -> Self {
        self.max_parked = most.max(1);
        self
    }

    /// Sets the part of `max_in_flight` at which a closed gate reopens. Default 0.75.
    pub fn resume_at(mut self, part: f64) -> Self {
        self.resume_at = part.clamp(0.0, 1.0);
        self
    }

    /// The longest time between two looks at the gate; it is opened and closed by what happens, so
    /// this matters only where nothing does. Default 100 ms, and no longer than that.
    pub fn pause_interval(mut self, interval: Duration) -> Self {
        self.pause_interval = interval;
        self
    }

    /// Sets the pace of starts: a leaky bucket. Default: none.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Sets when a record that failed is tried again. It holds up its key, or its partition,
    /// whichever is kept in order. Default: 4 times,
    /// [`Backoff::DEFAULT`](longshore_core::Backoff::DEFAULT) between them.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets the limit of one attempt. Default: none.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets what becomes of a record whose last attempt failed. Default: it goes to `<topic>-dlt`,
    /// which is created at the start if it is missing.
    pub fn dead_letter(mut self, what: DeadLetter) -> Self {
        self.dead_letter = what;
        self
    }

    /// Sets how often what is done is committed. Default: each second. A member that dies repeats
    /// no more than was finished since, and what was in work.
    pub fn commit_every(mut self, interval: Duration) -> Self {
        self.commit_every = interval.max(Duration::from_millis(1));
        self
    }

    /// Longest time that records in work may take when their partition is taken from us; beyond,
    /// they are abandoned uncommitted, and whoever has the partition then does them again. Default
    /// 5 s; half of the session's timeout at most.
    pub fn drain(mut self, most: Duration) -> Self {
        self.drain = most;
        self
    }

    /// Longest time that records in work may take after [`ConsumerHandle::stop`]. Default 30 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Bytes of records that may be in memory: half of them held ready by the client, over all
    /// partitions, the other half read and not done, whatever their number may be. A record that is
    /// larger than that is read alone. Default 32 MiB.
    pub fn buffers(mut self, bytes: usize) -> Self {
        self.buffers = bytes.max(128 << 10);
        self
    }

    /// Sets how long a permission that was there may be missing: to read a topic, or as a member of
    /// the group. Then the consumer ends with the reason, and nothing is lost; until then it waits
    /// for the permission to come back. Default one minute.
    pub fn without_permission(mut self, most: Duration) -> Self {
        self.without_permission = most;
        self
    }

    pub(crate) fn most(&self) -> usize {
        self.max_threads
    }

    /// Returns its group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Returns its topics.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    fn limits(&self, max_threads: usize) -> Limits {
        Limits { in_flight: self.in_flight(max_threads), reopen: self.resume_at, parked: self.max_parked, bytes: self.buffers / 2 }
    }

    fn in_flight(&self, max_threads: usize) -> usize {
        self.max_in_flight.unwrap_or(max_threads * if self.order == Order::Key { 10 } else { 2 })
    }

    /// Runs until its end, and blocks until then. Callable from anywhere; in async code prefer
    /// [`start`](Consumer::start).
    ///
    /// # Errors
    /// As of `start`.
    pub fn run<R: Send + 'static>(self, handler: Handler<R>) -> Result<ConsumerSummary, BrokerError> {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("longshore").build();
            let runtime = runtime.map_err(|error| BrokerError {
                kind: longshore_core::ErrorKind::Fatal,
                message: format!("no threads for an async runtime: {error}"),
            })?;
            let summary = runtime.block_on(async move { Ok(self.start(handler).await?.join().await) });
            runtime.shutdown_background();
            summary
        };
        // Tokio refuses to block a thread of a runtime.
        std::thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

/// A consumer that runs. Dropping it leaves it running.
pub struct RunningConsumer {
    handle: ConsumerHandle,
    running: Running,
    client: oneshot::Receiver<RecordCounts>,
}

/// Result of a consumer: what it has done, and why it ended.
#[derive(Clone, Debug)]
pub struct ConsumerSummary {
    /// The engine's: outcomes, times, where nothing could start and why.
    pub engine: Summary,
    /// Counts of records and commits.
    pub counts: RecordCounts,
    /// All that was wrong, each place once; what has no end still was at the end.
    pub troubles: Vec<Trouble>,
    /// Reason why it ended, if not because it was told to.
    pub error: Option<String>,
}

/// The group is left, and the client closed, within this time.
const CLOSE: Duration = Duration::from_secs(30);

impl RunningConsumer {
    /// Changes, asks and stops it.
    pub fn handle(&self) -> ConsumerHandle {
        self.handle.clone()
    }

    /// Waits for its end: nothing is in work any more, what is done is committed, the group is
    /// left.
    pub async fn join(self) -> ConsumerSummary {
        let engine = self.running.join().await;
        let closed = tokio::time::timeout(CLOSE, self.client).await;
        let board = &self.handle.exchange.board;
        let (counts, left) = match closed {
            Ok(Ok(counts)) => (counts, None),
            Ok(Err(_)) => (board.counts(), Some("the thread of Kafka's client ended".to_owned())),
            Err(_) => (board.counts(), Some(format!("Kafka's client did not close within {CLOSE:?}"))),
        };
        ConsumerSummary { error: engine.error.clone().or(left), engine, counts, troubles: board.all() }
    }
}

/// Changes, asks and stops a running consumer. Clones are one handle; nothing here blocks.
#[derive(Clone)]
pub struct ConsumerHandle {
    consumer: Arc<Consumer>,
    lane: LaneKind,
    engine: Handle,
    exchange: Arc<Exchange>,
    runtime: Runtime,
    max_threads: Arc<AtomicUsize>,
    /// 0: it follows the threads.
    max_in_flight: Arc<AtomicUsize>,
}

/// Longest time that work asked to end may take before it is dropped, and that the client's thread
/// may take to answer a question.
const LAST: Duration = Duration::from_secs(5);

impl ConsumerHandle {
    /// Returns what it was started as; what was changed since stands in its
    /// [view](ConsumerHandle::snapshot).
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Returns its name among clients, as [`Admin::group`](crate::Admin::group) has it: with the
    /// machine and the process, unless another was set.
    pub fn client_id(&self) -> String {
        self.consumer.client_id()
    }

    /// Returns the engine: pause, pace, timeout.
    pub fn engine(&self) -> &Handle {
        &self.engine
    }

    /// Changes the most records in work; the limit of those in flight follows, unless it was set.
    pub fn set_max_threads(&self, most: usize) {
        let most = most.max(1);
        self.max_threads.store(most, Ordering::Relaxed);
        self.engine.set_concurrency(Some(self.lane), most);
        self.send_limits();
    }

    /// Changes the most records in flight.
    pub fn set_max_in_flight(&self, most: usize) {
        self.max_in_flight.store(most.max(1), Ordering::Relaxed);
        self.send_limits();
    }

    fn send_limits(&self) {
        let threads = self.max_threads.load(Ordering::Relaxed);
        let mut limits = self.consumer.limits(threads);
        let set = self.max_in_flight.load(Ordering::Relaxed);
        if set > 0 {
            limits.in_flight = set;
        }
        self.exchange.command(Command::Limits(limits));
    }

    /// Reads and starts no more; what is in work may end, within the grace period. Then everything
    /// that is done is committed and the group left.
    pub fn stop(&self) {
        self.engine.drain();
        let (own, grace) = (self.clone(), self.consumer.grace);
        self.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            own.stop_now();
        });
    }

    /// Stops as [`stop`](ConsumerHandle::stop) does, and asks what is in work to end now; five
    /// seconds later it is dropped. It is not done, and comes again.
    pub fn stop_now(&self) {
        self.engine.stop(Stop::Soft);
        let engine = self.engine.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(LAST).await;
            engine.stop(Stop::Hard);
        });
    }

    /// Returns what has gone wrong, or right again, since the last call: each trouble once when it
    /// begins, and once when it has ended. Answers whatever the client waits for.
    pub fn news(&self) -> Vec<Trouble> {
        self.exchange.board.news()
    }

    /// Returns what is wrong now. Answers whatever the client waits for.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.exchange.board.current()
    }

    /// Returns what has been done so far. Answers whatever the client waits for; it is then as old
    /// as that wait.
    pub fn counts(&self) -> RecordCounts {
        self.exchange.board.counts()
    }

    /// Returns what the client said last of a connection: why there is none, as far as it knows.
    pub fn complaint(&self) -> Option<String> {
        self.exchange.board.complaint()
    }

    /// Returns what runs now with its records, the oldest first, as far as these have not ended
    /// meanwhile; at most `most` tasks. `None` when it is over.
    pub async fn running(&self, most: usize) -> Option<Vec<(RunningTask, Option<Record>)>> {
        let mut running = self.engine.snapshot().await?.running;
        running.truncate(most);
        let (answer, records) = oneshot::channel();
        self.exchange.command(Command::Records(running.iter().map(|task| task.receipt).collect(), answer));
        let records = tokio::time::timeout(LAST, records).await.ok()?.ok()?;
        Some(running.into_iter().zip(records).collect())
    }

    /// Returns what the consumer looks like now. `None` when it is over.
    pub async fn snapshot(&self) -> Option<View> {
        let (answer, partial) = oneshot::channel();
        self.exchange.command(Command::View(answer));
        let engine = self.engine.snapshot().await?;
        let partial = tokio::time::timeout(LAST, partial).await.ok()?.ok()?;
        Some(partial(engine, self.max_threads.load(Ordering::Relaxed)))
    }
}

/// Tells the client's thread of what failed for good. That this is dropped is the engine's end.
struct OutcomeSink<R> {
    exchange: Arc<Exchange>,
    failed: Vec<Failed>,
    outputs: Vec<(Receipt, Vec<Output>)>,
    on_end: Option<OnEnd<R>>,
    /// Takes from a handler's result the outputs that the transaction writes.
    take: Option<fn(R) -> Vec<Output>>,
}

impl<R: Send + 'static> Sink<Record, R> for OutcomeSink<R> {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<Record, R>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        room.release(batch.len());
        for finished in batch.drain(..) {
            if let Some(on_end) = &self.on_end {
                on_end(&finished);
            }
            let outcome = match finished.outcome {
                Outcome::Ok(result) => {
                    if let Some(take) = self.take {
                        self.outputs.push((finished.task.receipt, take(result)));
                    }
                    continue;
                }
                Outcome::Skipped(_) => continue,
                other => other,
            };
            let error = outcome.error().unwrap_or_else(|| TaskError::new("lost", "it ended without an outcome"));
            if let Some(record) = finished.task.payload {
                self.failed.push(Failed { receipt: finished.task.receipt, record, error, attempts: finished.task.attempt });
            }
        }
        self.exchange.tell(&mut self.failed, &mut self.outputs);
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl<R> Drop for OutcomeSink<R> {
    fn drop(&mut self) {
        self.exchange.command(Command::Finish);
    }
}

/// Settings by the names of the command line, for messages and views.
impl Consumer {
    /// Returns what it is set to, as names and values.
    pub fn describe(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("group", self.group.clone()),
            ("topics", self.topics.join(" ")),
            ("order", format!("{:?}", self.order).to_lowercase()),
            ("max-threads", self.max_threads.to_string()),
            ("max-in-flight", self.in_flight(self.max_threads).to_string()),
            ("retries", self.retry.retries.to_string()),
        ])
    }
}

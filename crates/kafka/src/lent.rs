//! Records lent one by one, for whoever has a loop, a job, a pipeline or a task queue of their own:
//! each is done when they say so.

use std::{
    ops::Deref,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use longshore_core::{Outcome, TaskError};
use tokio::sync::{mpsc, oneshot};

use crate::{
    consumer::{Consumer, RunningConsumer},
    handler::Handler,
    record::Record,
};
use longshore_brokers::BrokerError;

/// A record that is ours until we say what became of it. Dropped without a word it has failed: it
/// is tried again as the consumer's retries say.
#[derive(Debug)]
pub struct Lent {
    record: Record,
    answer: oneshot::Sender<Outcome<()>>,
}

impl Lent {
    /// Says that it is done, and may be committed.
    pub fn done(self) {
        let _ = self.answer.send(Outcome::Ok(()));
    }

    /// Says that it has failed: it is tried again, and at last buried.
    pub fn failed(self, error: impl Into<TaskError>) {
        let _ = self.answer.send(Outcome::Failed(error.into()));
    }

    /// Returns the record itself; clones of it outlive this.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

impl Deref for Lent {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

/// Records as they may be begun: at most [`max_threads`](Consumer::max_threads) of them are out at
/// once, in the order that the consumer keeps. Ends with the consumer.
#[derive(Debug)]
pub struct Records(mpsc::Receiver<Lent>);

impl Records {
    /// Returns the next one. Cancel safe. `None`: the consumer has ended.
    pub async fn next(&mut self) -> Option<Lent> {
        self.0.recv().await
    }

    /// Returns the next one, for threads outside of any async runtime.
    pub fn blocking_next(&mut self) -> Option<Lent> {
        self.0.blocking_recv()
    }
}

impl Stream for Records {
    type Item = Lent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Lent>> {
        self.0.poll_recv(cx)
    }
}

impl Consumer {
    /// Starts, and lends records one by one in place of running a handler: as the stream of a
    /// [`Job`](longshore_core::Job::stream) or of a
    /// [`Pipeline`](longshore_core::Pipeline::from_stream), or to send them on as tasks of a task
    /// queue, each done when that has been acknowledged.
    ///
    /// ```no_run
    /// use longshore_kafka::{Consumer, Lent, Settings};
    /// use longshore_core::Job;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let consumer = Consumer::new(Settings::parse("127.0.0.1:9092")?, "demo", ["orders"]).max_threads(100).until_end();
    /// let (records, running) = consumer.lend().await?;
    /// let report = Job::blocking(|order: Lent| {
    ///     let length = order.text()?.len();
    ///     order.done();
    ///     Ok::<_, longshore_core::TaskError>(length)
    /// })
    /// .stream(records)
    /// .start();
    /// report.join().await;
    /// running.join().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As of [`start`](Consumer::start).
    pub async fn lend(self) -> Result<(Records, RunningConsumer), BrokerError> {
        let (lend, records) = mpsc::channel(self.most().max(1));
        let handler = Handler::of_async(longshore_core::lane::AsyncHandler::new(move |record: Record| {
            let lend = lend.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                if lend.send(Lent { record, answer }).await.is_err() {
                    return Outcome::Failed(TaskError::new("lost", "nobody reads the records that are lent"));
                }
                answered.await.unwrap_or_else(|_| Outcome::Failed(TaskError::new("dropped", "nobody said what became of it")))
            }
        }));
        let running = self.start(handler).await?;
        Ok((Records(records), running))
    }
}

//! The engine's sink: ended attempts become results, follow-ups and acknowledgements.

use std::sync::{Arc, atomic::Ordering};

use futures_util::future::BoxFuture;
use longshore_brokers::{End, Ended, Finish};
use longshore_core::{
    Finished, SinkError,
    sink::{Room, Sink},
};
use tokio::sync::mpsc;

use super::{
    close::{Closer, Closing},
    conclude,
    shared::Shared,
    work::{AttemptResult, ClaimedTask, TaskTicket},
};

/// The engine's sink.
pub(crate) struct ResultSink {
    shared: Arc<Shared>,
    closer: Arc<Closer>,
}

impl ResultSink {
    pub(crate) fn new(shared: Arc<Shared>, closer: Arc<Closer>) -> Self {
        Self { shared, closer }
    }
}

impl Sink<TaskTicket, AttemptResult> for ResultSink {
    fn accept<'a>(
        &'a mut self,
        batch: &'a mut Vec<Finished<TaskTicket, AttemptResult>>,
        room: &'a Room,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let count = batch.len();
            batch.iter().for_each(|finished| self.shared.load.add(finished.task.lane, -1));
            let closings: Vec<Closing> = batch.drain(..).filter_map(|finished| conclude::ended(&self.shared, finished)).collect();
            let closed = self.closer.close(closings).await;
            // Of what was not accepted the engine has its own count.
            if closed.is_ok() {
                room.release(count);
            }
            closed.map_err(|error| SinkError { kind: error.kind, message: error.message })
        })
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        self.shared.stopping.cancel();
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Acknowledges, as they start, the messages of tasks that are acknowledged early. Ends when the
/// worker has.
pub(crate) async fn acknowledge_early(shared: Arc<Shared>, mut started: mpsc::UnboundedReceiver<Arc<ClaimedTask>>) {
    let mut works = Vec::new();
    while started.recv_many(&mut works, 100).await > 0 {
        let finishes: Vec<Finish> = works
            .iter()
            .map(|work| Finish { receipt: work.receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Ack })
            .collect();
        // A consumer that is at its end says so to the engine, too.
        if let Ok(ends) = shared.consumer.finish(&finishes).await {
            // What is refused is another's by now, or still in the broker: not gone.
            let done = works.iter().zip(ends).filter(|(_, end)| matches!(end, Ended::Done));
            done.for_each(|(work, _)| work.gone.store(true, Ordering::Release));
        }
        works.clear();
    }
}

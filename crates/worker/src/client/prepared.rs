//! Tasks that are written out before they are sent: their id and queue are known by then, and
//! sending one again does no harm.

use longshore_brokers::Outgoing;

use super::{Client, place};
use crate::{error::ClientError, signature::Signature, spans::SendSpans};

/// A task that is written out for its queue, and not sent yet. See [`Client::prepare`].
#[derive(Clone, Debug)]
pub struct PreparedTask {
    id: String,
    outgoing: Outgoing,
    /// Its span, which begins with it.
    spans: SendSpans,
}

impl PreparedTask {
    /// Returns the task's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the queue that it goes to.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.outgoing.queue
    }
}

impl Client {
    /// Writes a task out for its queue, and sends nothing.
    ///
    /// # Errors
    /// It cannot be written, its queue can have no such name, or it is a canvas of several.
    pub fn prepare<R>(&self, signature: Signature<R>) -> Result<PreparedTask, ClientError> {
        let wire = signature.into_wire()?;
        let mut plan = self.plan(&wire, None)?;
        let id = place(&plan)?.id;
        match plan.sends.pop() {
            Some(send) if plan.sends.is_empty() && plan.starts.is_empty() && send.before.is_empty() => {
                let mut spans = SendSpans::default();
                let outgoing = self.outgoing(send, &mut spans);
                Ok(PreparedTask { id, outgoing, spans })
            }
            _ => Err(ClientError::Signature(format!("{}: it is not one task", wire.task))),
        }
    }

    /// Sends tasks that were prepared, in order, all or none. When this resolves the broker has
    /// them.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As `send`.
    pub async fn send_prepared(&self, tasks: &[PreparedTask]) -> Result<(), ClientError> {
        if let [task] = tasks {
            return Ok(self.put(std::slice::from_ref(&task.outgoing), task.spans.clone()).await?);
        }
        let batch: Vec<Outgoing> = tasks.iter().map(|task| task.outgoing.clone()).collect();
        let mut spans = SendSpans::default();
        tasks.iter().for_each(|task| spans.append(task.spans.clone()));
        Ok(self.put(&batch, spans).await?)
    }

    /// Sends a task that was prepared, by whoever may ask again with the same id: where the broker
    /// can tell (it remembers for an hour), it is sent once.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// Cancel safe where the broker can tell; else as `send`.
    pub async fn send_prepared_once(&self, task: &PreparedTask) -> Result<(), ClientError> {
        self.listen().await?;
        let (at, batch) = (self.environment().wall(), std::slice::from_ref(&task.outgoing));
        let published = self.broker().publish_once(&task.id, batch).await;
        self.ended(task.spans.clone(), &published);
        if published.is_ok() {
            self.tell_sent(at, batch).await;
        }
        Ok(published?)
    }
}

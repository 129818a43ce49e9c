//! Many at once, no faster than the broker keeps up.

use std::{collections::VecDeque, pin::Pin, task::Poll};

use futures_util::{Stream, StreamExt, future::poll_fn, stream::Fuse};
use longshore_celery::canvas::Plan;
use longshore_core::ErrorKind;

use super::{Client, ClientError, place};
use crate::{answer::Answer, signature::Signature};

/// The most that go to the broker in one call.
const BATCH: usize = 256;

/// Sends what a stream gives, in order. See [`Client::send_all`].
#[must_use = "nothing is sent until the answers are asked for: `next` or `finish`"]
pub struct SendAll<S, R> {
    client: Client,
    signatures: Fuse<S>,
    /// How many were taken from the stream.
    taken: u64,
    sent: VecDeque<(u64, Result<Answer<R>, Refused<R>>)>,
}

/// One that was not sent, or (an error that is transient) of which that is unknown.
#[derive(Debug)]
pub struct Refused<R> {
    /// What was to be sent, as it was.
    pub signature: Signature<R>,
    /// Why.
    pub error: ClientError,
}

/// What came of sending many.
#[derive(Debug)]
pub struct Sent<R> {
    /// How many were sent.
    pub sent: u64,
    /// Those that were not, with their places in the stream (from 0).
    pub refused: Vec<(u64, Refused<R>)>,
}

struct Planned<R> {
    place: u64,
    signature: Signature<R>,
    answer: Answer<R>,
    plan: Plan,
}

impl<R, S: Stream<Item = Signature<R>> + Unpin> SendAll<S, R> {
    pub(super) fn new(client: Client, signatures: S) -> Self {
        Self { client, signatures: signatures.fuse(), taken: 0, sent: VecDeque::new() }
    }

    /// The next one that was sent or refused, with its place in the stream (from 0); `None` when all have been. In order.
    ///
    /// Not cancel safe: of what was on its way when the future was dropped, nobody is told.
    pub async fn next(&mut self) -> Option<(u64, Result<Answer<R>, Refused<R>>)> {
        if self.sent.is_empty() {
            let batch = self.batch().await;
            self.send(batch).await;
        }
        self.sent.pop_front()
    }

    /// Sends all. Takes nothing more from the stream once the broker cannot be reached: what was sent and what was not is in the report all the same.
    pub async fn finish(&mut self) -> Sent<R> {
        let mut report = Sent { sent: 0, refused: Vec::new() };
        let mut goes_on = true;
        while goes_on || !self.sent.is_empty() {
            match self.next().await {
                None => break,
                Some((_, Ok(_))) => report.sent += 1,
                Some((place, Err(refused))) => {
                    goes_on &= !matches!(&refused.error, ClientError::Broker(error) if error.kind != ErrorKind::Refused);
                    report.refused.push((place, refused));
                }
            }
        }
        report
    }

    /// What the stream has ready, one at least unless it has ended.
    async fn batch(&mut self) -> Vec<Signature<R>> {
        let mut batch: Vec<Signature<R>> = self.signatures.next().await.into_iter().collect();
        poll_fn(|context| {
            while !batch.is_empty() && batch.len() < BATCH {
                match Pin::new(&mut self.signatures).poll_next(context) {
                    Poll::Ready(Some(signature)) => batch.push(signature),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
        batch
    }

    async fn send(&mut self, batch: Vec<Signature<R>>) {
        let mut group: Vec<Planned<R>> = Vec::with_capacity(batch.len());
        for signature in batch {
            let place = self.taken;
            self.taken += 1;
            match self.plan(&signature) {
                Ok((answer, plan)) => group.push(Planned { place, signature, answer, plan }),
                Err(error) => {
                    // Answers come in order: what stands before it goes first.
                    self.publish(std::mem::take(&mut group)).await;
                    self.sent.push_back((place, Err(Refused { signature, error })));
                }
            }
        }
        self.publish(group).await;
    }

    fn plan(&self, signature: &Signature<R>) -> Result<(Answer<R>, Plan), ClientError> {
        let wire = signature.clone().into_wire().map_err(ClientError::Signature)?;
        let plan = self.client.plan(&wire, None)?;
        Ok((Answer::new(self.client.clone(), place(&plan)?), plan))
    }

    /// All in one call; if the broker refuses that, one after the other, so that one bad one does not hold up the others.
    async fn publish(&mut self, group: Vec<Planned<R>>) {
        if group.is_empty() {
            return;
        }
        let mut whole = Plan::default();
        for planned in &group {
            whole.sends.extend(planned.plan.sends.iter().cloned());
            whole.starts.extend(planned.plan.starts.iter().cloned());
        }
        let refused = match self.client.publish(whole).await {
            Ok(()) => None,
            Err(error) if error.kind == ErrorKind::Refused && group.len() > 1 => {
                for planned in group {
                    let outcome = self.client.publish(planned.plan).await;
                    self.sent.push_back(match outcome {
                        Ok(()) => (planned.place, Ok(planned.answer)),
                        Err(error) => (planned.place, Err(Refused { signature: planned.signature, error: error.into() })),
                    });
                }
                return;
            }
            Err(error) => Some(error),
        };
        for planned in group {
            let outcome = match &refused {
                None => Ok(planned.answer),
                Some(error) => Err(Refused { signature: planned.signature, error: error.clone().into() }),
            };
            self.sent.push_back((planned.place, outcome));
        }
    }
}

//! Many at once, no faster than the broker keeps up.

use std::{collections::VecDeque, pin::Pin, task::Poll};

use futures_util::{
    Stream, StreamExt,
    future::{join, poll_fn},
    stream::Fuse,
};
use longshore_brokers::{BrokerError, Outgoing};
use longshore_celery::canvas::Plan;
use longshore_core::ErrorKind;

use super::{Client, place};
use crate::{answer::Answer, error::ClientError, signature::Signature, spans::SendSpans};

/// Most messages that go to the broker in one call.
const BATCH: usize = 128;

/// Sends what a stream gives, in order. See [`Client::send_all`].
#[must_use = "nothing is sent until the answers are asked for: `next` or `finish`"]
pub struct SendAll<S, R> {
    client: Client,
    signatures: Fuse<S>,
    /// Number of signatures that were taken from the stream.
    taken: u64,
    /// Signatures that were written out while those before were on their way.
    ahead: Vec<PlannedSignature<R>>,
    sent: VecDeque<(u64, Result<Answer<R>, Refused<R>>)>,
}

/// A signature that was not sent, or (after a transient error) of which that is unknown.
#[derive(Debug)]
pub struct Refused<R> {
    /// The signature that was to be sent, as it was.
    pub signature: Signature<R>,
    /// Error that the sending met.
    pub error: ClientError,
}

/// Result of sending many.
#[derive(Debug)]
pub struct Sent<R> {
    /// Number of signatures that were sent.
    pub sent: u64,
    /// Signatures that were not sent, with their places in the stream (from 0).
    pub refused: Vec<(u64, Refused<R>)>,
}

/// A signature, planned.
struct PlannedSignature<R> {
    place: u64,
    signature: Signature<R>,
    plan: Result<(Answer<R>, SendWay), ClientError>,
}

/// Way to the broker.
enum SendWay {
    /// As these messages, with others.
    Messages(Vec<Outgoing>, SendSpans),
    /// With chords that are to be begun between its messages: by itself.
    Chords(Box<Plan>),
}

impl<R, S: Stream<Item = Signature<R>> + Unpin> SendAll<S, R> {
    pub(super) fn new(client: Client, signatures: S) -> Self {
        Self { client, signatures: signatures.fuse(), taken: 0, ahead: Vec::new(), sent: VecDeque::new() }
    }

    /// Returns the next one that was sent or refused, with its place in the stream (from 0), in
    /// order; `None` when all have been.
    ///
    /// # Cancel safety
    /// Not cancel safe: nobody is told of what was on its way when the future was dropped.
    pub async fn next(&mut self) -> Option<(u64, Result<Answer<R>, Refused<R>>)> {
        if self.sent.is_empty() {
            let batch = match std::mem::take(&mut self.ahead) {
                ahead if ahead.is_empty() => self.some().await,
                ahead => ahead,
            };
            let client = self.client.clone();
            // The next ones are written out while the broker takes these.
            let (sent, ahead) = join(send(&client, batch), self.ready()).await;
            self.ahead = ahead;
            self.sent = sent;
            if let Some((_, Err(Refused { error: ClientError::Broker(error), .. }))) = self.sent.back()
                && error.kind != ErrorKind::Refused
            {
                let error = error.clone();
                self.sent.extend(std::mem::take(&mut self.ahead).into_iter().map(|planned| planned.refused(error.clone().into())));
            }
        }
        self.sent.pop_front()
    }

    /// Sends all. Takes nothing more from the stream once the broker cannot be reached: what was
    /// sent and what was not is in the report all the same.
    ///
    /// # Cancel safety
    /// Not cancel safe: the report is lost, and nobody is told of what was on its way.
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

    /// Takes what the stream has ready, one at least unless it has ended.
    async fn some(&mut self) -> Vec<PlannedSignature<R>> {
        let Some(first) = self.signatures.next().await else { return Vec::new() };
        let mut batch = vec![self.plan(first)];
        self.fill(&mut batch).await;
        batch
    }

    /// Takes what the stream has ready.
    async fn ready(&mut self) -> Vec<PlannedSignature<R>> {
        let mut batch = Vec::new();
        self.fill(&mut batch).await;
        batch
    }

    async fn fill(&mut self, batch: &mut Vec<PlannedSignature<R>>) {
        poll_fn(|context| {
            while batch.len() < BATCH {
                match Pin::new(&mut self.signatures).poll_next(context) {
                    Poll::Ready(Some(signature)) => batch.push(self.plan(signature)),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    fn plan(&mut self, signature: Signature<R>) -> PlannedSignature<R> {
        let place = self.taken;
        self.taken += 1;
        let plan = self.way(&signature);
        PlannedSignature { place, signature, plan }
    }

    fn way(&self, signature: &Signature<R>) -> Result<(Answer<R>, SendWay), ClientError> {
        let wire = signature.clone().into_wire()?;
        let plan = self.client.plan(&wire, None)?;
        let answer = self.client.answer(place(&plan)?);
        let begins = plan.grown.is_some() || !plan.starts.is_empty() || plan.sends.iter().any(|send| !send.before.is_empty());
        if begins {
            return Ok((answer, SendWay::Chords(Box::new(plan))));
        }
        let mut spans = SendSpans::default();
        let messages: Vec<Outgoing> = plan.sends.into_iter().map(|send| self.client.outgoing(send, &mut spans)).collect();
        let queue = messages.first().map(|message| message.queue.clone());
        Ok((answer.sent_to(queue), SendWay::Messages(messages, spans)))
    }
}

type Outcomes<R> = VecDeque<(u64, Result<Answer<R>, Refused<R>>)>;

impl<R> PlannedSignature<R> {
    fn refused(self, error: ClientError) -> (u64, Result<Answer<R>, Refused<R>>) {
        (self.place, Err(Refused { signature: self.signature, error }))
    }
}

/// A signature whose messages go with others.
struct BatchedSend<R> {
    place: u64,
    signature: Signature<R>,
    answer: Answer<R>,
    messages: usize,
    spans: SendSpans,
}

impl<R> BatchedSend<R> {
    fn ended(self, client: &Client, sent: Result<(), BrokerError>) -> (u64, Result<Answer<R>, Refused<R>>) {
        let Self { place, signature, answer, spans, .. } = self;
        client.ended(spans, &sent);
        (place, sent.map(|()| answer).map_err(|error| Refused { signature, error: error.into() }))
    }
}

/// Sends them in order, in as few calls as may be.
async fn send<R>(client: &Client, batch: Vec<PlannedSignature<R>>) -> Outcomes<R> {
    let mut outcomes = VecDeque::with_capacity(batch.len());
    let (mut going, mut messages) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for PlannedSignature { place, signature, plan } in batch {
        match plan {
            Ok((answer, SendWay::Messages(some, spans))) => {
                going.push(BatchedSend { place, signature, answer, messages: some.len(), spans });
                messages.extend(some);
                continue;
            }
            // Answers come in order: what stands before it goes first.
            Ok((answer, SendWay::Chords(plan))) => {
                publish(client, &mut going, &mut messages, &mut outcomes).await;
                let alone = BatchedSend { place, signature, answer, messages: 0, spans: SendSpans::default() };
                outcomes.push_back(alone.ended(client, client.publish(*plan).await.map(drop)));
            }
            Err(error) => {
                publish(client, &mut going, &mut messages, &mut outcomes).await;
                outcomes.push_back((place, Err(Refused { signature, error })));
            }
        }
    }
    publish(client, &mut going, &mut messages, &mut outcomes).await;
    outcomes
}

/// Publishes all in one call; if the broker refuses that, one after the other, so that one bad one
/// does not hold up the others.
async fn publish<R>(client: &Client, going: &mut Vec<BatchedSend<R>>, messages: &mut Vec<Outgoing>, outcomes: &mut Outcomes<R>) {
    if going.is_empty() {
        return;
    }
    match client.put_unended(messages).await {
        Err(error) if error.kind == ErrorKind::Refused && going.len() > 1 => {
            let mut rest = messages.as_slice();
            for one in going.drain(..) {
                let (its, others) = rest.split_at(one.messages);
                let sent = client.put_unended(its).await;
                outcomes.push_back(one.ended(client, sent));
                rest = others;
            }
        }
        sent => outcomes.extend(going.drain(..).map(|one| one.ended(client, sent.clone()))),
    }
    messages.clear();
}

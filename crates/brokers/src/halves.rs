//! The optional halves of a message system: the bus, the view into queues, dead letters, and what
//! all who use it share. A broker that lacks one says nothing of it; the store of the results may
//! have it ([`Connected`](crate::Connected)).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_core::Rate;
use tokio::sync::mpsc;

use crate::{error::BrokerError, rates::Slot};

/// Time for which an id that was [revoked](SharedState::revoke) is remembered, as by Celery's
/// workers.
pub const REVOKED_FOR: Duration = Duration::from_secs(3 * 3600);
/// The most revoked ids that a store remembers; beyond, the oldest are forgotten.
pub const MOST_REVOKED: usize = 50_000;

/// Broadcasts to whoever listens now, and replies: remote control and events. Cheap to share; all
/// methods may be called at once.
pub trait Bus: Send + Sync {
    /// Sends to whoever listens now on a fanout or topic exchange (`celery.pidbox`, `celeryev`).
    ///
    /// # Errors
    /// As `publish`.
    fn broadcast<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Sends as [`broadcast`](Self::broadcast) does. Returns how many listen to the exchange, where
    /// that is known: a request need not be waited for any longer when so many have replied.
    ///
    /// # Errors
    /// As `publish`.
    fn broadcast_counted<'a>(
        &'a self,
        exchange: &'a str,
        routing_key: &'a str,
        raw: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<u64>, BrokerError>> {
        Box::pin(async move { self.broadcast(exchange, routing_key, raw).await.map(|()| None) })
    }

    /// Listens to an exchange: all whose routing key matches the pattern (`#` is everything,
    /// `worker.#` what begins so). Ends when it is dropped.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn subscribe<'a>(&'a self, exchange: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>>;

    /// Answers a remote-control request: to the queue that is bound to `reply.celery.pidbox` by
    /// this routing key.
    ///
    /// # Errors
    /// As `publish`.
    fn reply<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Takes replies as they come, for a client with this id. Binds its reply queue first; unbinds
    /// when it is dropped.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn replies<'a>(&'a self, oid: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>>;

    /// Returns whether workers may listen to remote control that are not ours, and do not ask this
    /// broker what was [revoked](SharedState::revoke).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn has_strangers(&self) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

/// Messages of an exchange, or replies, as they come. Dropping it ends it.
pub struct Subscription {
    /// Routing key and message.
    pub messages: mpsc::Receiver<(String, Vec<u8>)>,
    /// Guard that ends the subscription when it is dropped.
    pub guard: Box<dyn Send + Sync>,
}

/// Looks into queues, and moves what lies in them, where the broker lets anybody but a consumer see
/// its messages.
pub trait Inspect: Send + Sync {
    /// Returns up to `most` waiting messages, the next one first, without taking them.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>>;

    /// Returns whether one of these words stands near the beginning or the end of one of the next
    /// `most` messages. Takes none of them and brings none here; where they are large, fewer are
    /// looked at. A broker that cannot look says no: then Celery's own tasks wait for their turn.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn look_ahead<'a>(&'a self, queue: &'a str, most: usize, words: &'static [&'static [u8]]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let _ = (queue, most, words);
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Returns up to `most` messages of these queues that the broker itself holds back until their
    /// time, the soonest first. None where workers hold them (Redis).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn later<'a>(&'a self, queues: &'a [Arc<str>], most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let _ = (queues, most);
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Moves what waits in a queue to another, in order, nothing being in neither; how many.
    /// Messages keep their bytes.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn transfer<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>>;

    /// Pauses or resumes a queue for longshore's workers, with who did it; they take nothing from
    /// it while it is paused.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn pause<'a>(&'a self, queue: &'a str, by: Option<&'a str>) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Finds the tasks with this id: waiting (the place in its queue), held, dead. Looks through
    /// the queues, so it costs their length.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>>;

    /// Lists what lies in a queue, or in all: what is lent, what waits (the next one first), what
    /// is held back (the first to come first), up to `most` of each in each queue. Dead letters are
    /// told by [`dead`](DeadLetters::dead).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn list<'a>(&'a self, queue: Option<&'a str>, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>>;
}

/// A task that was found in a broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its queue.
    pub queue: String,
    /// State of the task there.
    pub doing: Doing,
    /// The message.
    pub raw: Vec<u8>,
}

/// State of a task in a broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Doing {
    /// It waits: its place (from 1), and how many wait there.
    Waiting {
        /// Its place, from 1.
        place: u64,
        /// Number of messages that wait there.
        of: u64,
        /// Since when, where the broker can say.
        since: Option<SystemTime>,
    },
    /// The broker holds it back until then.
    Later {
        /// When.
        due: SystemTime,
    },
    /// It is lent to a worker; its node name, if it is one of ours.
    Held {
        /// The worker.
        by: Option<String>,
        /// Since when, or until when it is looked after, where the broker can say.
        since: Option<SystemTime>,
    },
    /// It is a dead letter.
    Dead {
        /// Why.
        reason: String,
    },
}

/// Keeps messages that are run no more.
pub trait DeadLetters: Send + Sync {
    /// Returns the dead letters of a queue, or of all, the latest first, with the
    /// [junk](crate::End::Junk).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn dead<'a>(&'a self, queue: Option<&'a str>) -> BoxFuture<'a, Result<Vec<DeadLetter>, BrokerError>>;

    /// Puts dead letters back into their queues (with their crashes forgotten), or throws them
    /// away; how many there were.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn bury<'a>(&'a self, letters: &'a [DeadLetter], retry: bool) -> BoxFuture<'a, Result<u64, BrokerError>>;
}

/// A message that is run no more.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Names it in its queue.
    pub key: String,
    /// Its queue.
    pub queue: String,
    /// Moment at which it died.
    pub at: SystemTime,
    /// Why.
    pub reason: String,
    /// Number of workers that died of it.
    pub crashes: u32,
    /// The message.
    pub raw: Vec<u8>,
}

/// Keeps what all who use one store share: rates, and ids that were revoked.
pub trait SharedState: Send + Sync {
    /// Asks for the next `count` slots of the leaky bucket of this name, which all who use this
    /// broker share: one answer for each, the soonest first. In any window no more than burst +
    /// rate × window slots are given out, to all together; evenly spaced where the burst is 1; what
    /// nobody asked for is not saved up. Nothing is reserved further than [`AHEAD`](crate::AHEAD)
    /// ahead: a slot beyond is to be asked for again. A rate that was changed holds from the next
    /// call on, behind what is reserved. A slot that is not used passes. A rate that was
    /// [set](SharedState::set_limit) for the limit holds in place of this one; buckets of one limit
    /// are told apart by what stands behind [`BUCKET`](crate::BUCKET) in their names.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Slots may have been reserved that pass unused.
    fn reserve<'a>(&'a self, limit: &'a str, rate: Rate, count: usize) -> BoxFuture<'a, Result<Vec<Slot>, BrokerError>>;

    /// Sets the rate of a limit for all who share it, in place of what they ask with, from their
    /// next call on; with `None` theirs holds again.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn set_limit<'a>(&'a self, limit: &'a str, rate: Option<Rate>) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Returns the limits that somebody uses now, or that have a rate set, in the order of their
    /// names.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn limits(&self) -> BoxFuture<'_, Result<Vec<LimitState>, BrokerError>>;

    /// Remembers ids of tasks that must not run any more, for workers that are not there yet:
    /// [so long](REVOKED_FOR), and [so many](MOST_REVOKED).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Calling again does no harm.
    fn revoke<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Returns the ids that were revoked, the oldest first.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn revoked(&self) -> BoxFuture<'_, Result<Vec<String>, BrokerError>>;
}

/// State of one bucket of a limit that is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitState {
    /// The limit, and behind [`BUCKET`](crate::BUCKET) which of its buckets.
    pub name: String,
    /// The rate that was [set](SharedState::set_limit) for all.
    pub set: Option<Rate>,
    /// Time for which its slots are reserved already: whoever asks now would wait so long.
    pub ahead: Duration,
}

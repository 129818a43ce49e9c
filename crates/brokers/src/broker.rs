//! A system that holds queues, and a consumer of some of them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_core::{Rate, Receipt, source::Fetched};
use tokio::sync::mpsc;

use crate::{
    lease::Lease,
    names,
    rates::Slot,
    results::{ChordPart, PartState, Stored},
};

/// How long a broker remembers an id that was [revoked](Broker::revoke), as Celery's workers do.
pub const REVOKED_FOR: Duration = Duration::from_secs(3 * 3600);
/// The most revoked ids that a broker remembers; beyond, the oldest are forgotten.
pub const MOST_REVOKED: usize = 50_000;

/// Why a broker or a result backend could not do what it was asked. Its text says what, where, and
/// what to do; never a password.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BrokerError {
    /// How bad it is. Adapters wait out what is transient by themselves (with backoff and jitter,
    /// and they say so) wherever waiting cannot double anything; a transient error that reaches the
    /// caller means: unknown whether it was done.
    pub kind: longshore_core::ErrorKind,
    /// What happened, for people.
    pub message: String,
}

/// A message on its way into a queue. Routing is done: the queue is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The queue.
    pub queue: Arc<str>,
    /// 0 to 9; 0 is served first.
    pub priority: u8,
    /// Not to be started before this time. Brokers that can hold it back do; the others lend it
    /// early, and the worker holds it.
    pub due: Option<SystemTime>,
    /// The message, encoded.
    pub raw: Vec<u8>,
}

/// A message lent to a consumer until it is finished or handed back.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// Its name at this consumer.
    pub receipt: Receipt,
    /// The queue that it came from.
    pub queue: Arc<str>,
    /// The message, as it stood in the queue.
    pub raw: Vec<u8>,
    /// How many workers, and children of workers, died while it ran (or may have run) with them: as
    /// the broker counts or as the message says, whichever is more. From 1 it is a suspect, which
    /// starts alone and is [accused](Consumer::accuse) first.
    pub crashes: u32,
    /// Whether it was lent before.
    pub redelivered: bool,
    /// Given, not lent ([`OpenOptions::early`]): the broker has forgotten it, nothing has to be
    /// said at its end, and it cannot be finished or loaded unless it is [held](Consumer::hold).
    pub given: bool,
}

/// What becomes of a claimed message. One step: either all of it, or nothing but a prefix that
/// repeats harmlessly. The order is: is it still ours? → `publish` → `results` → `part` → `end`.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The message.
    pub receipt: Receipt,
    /// What is sent on: callbacks, the next link of a chain, the next attempt.
    pub publish: Vec<Outgoing>,
    /// What is stored. Only where the result backend is [this broker's store](Broker::is_store_of).
    pub results: Vec<Stored>,
    /// The chord that it is a part of. Only where the result backend is this broker's store. When
    /// the chord is complete through this part, the message stays claimed ([`Ended::Complete`]), so
    /// that the chord's body is sent before it is finished.
    pub part: Option<ChordPart>,
    /// What becomes of the message itself.
    pub end: End,
}

impl Finish {
    /// The size of the largest value that it sends or stores.
    #[cfg(any(feature = "redis", feature = "sqlite"))]
    pub(crate) fn largest(&self) -> usize {
        let (messages, documents) =
            (self.publish.iter().map(|message| message.raw.len()), self.results.iter().map(|stored| stored.doc.len()));
        messages.chain(documents).chain(self.part.as_ref().map(|part| part.member.len())).max().unwrap_or(0)
    }
}

/// How a claimed message ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// It is done.
    Ack,
    /// It goes back, to be run by anybody: to the front of its queue, marked redelivered, or to the
    /// back.
    Back {
        /// To the front.
        front: bool,
    },
    /// It goes to the dead letters.
    Dead {
        /// Why, for people.
        reason: String,
    },
    /// It goes to the junk, which is kept apart from the other dead letters: nobody could have run
    /// it, since it cannot be read or nobody knows its task. However much junk comes, it pushes no
    /// dead letter out.
    Junk {
        /// Why, for people.
        reason: String,
    },
    /// It stays claimed.
    Keep,
}

/// What came of a [`Finish`].
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// All of it was done.
    Done,
    /// All of it was done but for the end: with this part the chord is complete, and its body is
    /// ours to send. The message is still claimed.
    Complete(PartState),
    /// Nothing was done: the message is not ours any more (it was rescued from us), so the result
    /// comes too late.
    Refused,
    /// Nothing was done: the store refuses what this end asks for, and would refuse it always,
    /// while it takes the ends of others. The message is still claimed.
    Impossible {
        /// Why, for people.
        reason: String,
    },
}

/// What a consumer is opened for.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The queues.
    pub queues: Vec<Arc<str>>,
    /// How long what we hold stays ours without a sign of life. Renewed every third of it from a
    /// thread of its own.
    pub lease: Duration,
    /// After this time Celery's own workers take what nobody acknowledged (Redis): at most the
    /// shortest of any Celery on the database.
    pub visibility_timeout: Duration,
    /// The worker's node name (`name@host`), for people.
    pub node: String,
    /// Messages are acknowledged as they are claimed, so that each runs at most once: a broker that
    /// can (Redis) [gives](Claimed::given) them, which costs less than half of what lending does;
    /// the others lend them as ever. A consumer that dies loses what it was given and did not hold.
    pub early: bool,
}

/// A system that holds queues. Cheap to share; all methods may be called at once.
pub trait Broker: Send + Sync {
    /// Its URL, with `***` in place of the password.
    fn url(&self) -> &str;

    /// Connects if need be; its name and version (`redis 7.0.15`), and the time of one round trip.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>>;

    /// Whether this is the store of that result backend too (the same server and database, the same
    /// file), so that results travel in [`Finish`].
    fn is_store_of(&self, results_url: &str) -> bool;

    /// Says why it has no queue of this name; `None` if it may have one.
    fn refused_queue(&self, name: &str) -> Option<String> {
        names::refused_queue(name)
    }

    /// Opens a consumer. Queues come into being by being named.
    ///
    /// # Errors
    /// It cannot be reached (after the patience that the URL gives it), or it refuses us.
    fn open(&self, options: OpenOptions) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>>;

    /// Puts messages into their queues, in order, all or none of a call. Safe to await at once from
    /// many callers: what comes together is sent together.
    ///
    /// # Errors
    /// Refused: nothing was sent. Transient: unknown whether it was.
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// The same for whoever asks again when the answer is transient, with the same token: it is
    /// sent once. A token is remembered for an hour. A broker whose answers are not lost needs
    /// none.
    ///
    /// # Errors
    /// As `publish`.
    fn publish_once<'a>(&'a self, token: &'a str, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let _ = token;
        self.publish(batch)
    }

    /// Sends to whoever listens now on a fanout or topic exchange (`celery.pidbox`, `celeryev`).
    ///
    /// # Errors
    /// As `publish`.
    fn broadcast<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>>;

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

    /// The state of these queues, or of all that are known.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>>;

    /// Up to `most` waiting messages, the next one first, without taking them.
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

    /// Up to `most` messages of these queues that the broker itself holds back until their time,
    /// the soonest first. None where workers hold them (Redis).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn later<'a>(&'a self, queues: &'a [Arc<str>], most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let _ = (queues, most);
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Throws away what waits in a queue; how many.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>>;

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

    /// Where tasks with this id are: waiting (the place in its queue), held, dead. Looks through
    /// the queues, so it costs their length.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>>;

    /// What lies in a queue, or in all: what is lent, what waits (the next one first), what is held
    /// back (the first to come first), up to `most` of each in each queue. Dead letters are told by
    /// [`dead`](Broker::dead).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn list<'a>(&'a self, queue: Option<&'a str>, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>>;

    /// The dead letters of a queue, or of all, the latest first, with the [junk](End::Junk).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn dead<'a>(&'a self, queue: Option<&'a str>) -> BoxFuture<'a, Result<Vec<DeadLetter>, BrokerError>>;

    /// Returns whether workers may listen to remote control that are not ours, and do not ask this
    /// broker what was [revoked](Broker::revoke).
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn has_strangers(&self) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Puts dead letters back into their queues (with their crashes forgotten), or throws them
    /// away; how many there were.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn bury<'a>(&'a self, letters: &'a [DeadLetter], retry: bool) -> BoxFuture<'a, Result<u64, BrokerError>>;

    /// Asks for the next `count` slots of the leaky bucket of this name, which all who use this
    /// broker share: one answer for each, the soonest first. In any window no more than burst +
    /// rate × window slots are given out, to all together; evenly spaced where the burst is 1; what
    /// nobody asked for is not saved up. Nothing is reserved further than [`AHEAD`](crate::AHEAD)
    /// ahead: a slot beyond is to be asked for again. A rate that was changed holds from the next
    /// call on, behind what is reserved. A slot that is not used passes. A rate that was
    /// [set](Broker::set_limit) for the limit holds in place of this one; buckets of one limit are
    /// told apart by what stands behind [`BUCKET`](crate::BUCKET) in their names.
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

    /// The limits that somebody uses now, or that have a rate set, in the order of their names.
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

    /// The ids that were revoked, the oldest first.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn revoked(&self) -> BoxFuture<'_, Result<Vec<String>, BrokerError>>;

    /// Ends its connections, when nothing more is to be done with it; whatever is tried afterwards
    /// may fail. A file is left tidy so, also where clones of the handle are not dropped before the
    /// process ends.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Takes messages from queues for one worker.
pub trait Consumer: Send + Sync {
    /// Waits for messages and appends at least one and at most `room`, or says that there will be
    /// no more (after [`close`](Consumer::close)). Never cancelled by its caller. A broker that
    /// goes away is waited for.
    ///
    /// # Errors
    /// Nothing more can come of this consumer.
    fn claim<'a>(&'a self, room: usize, into: &'a mut Vec<Claimed>) -> BoxFuture<'a, Result<Fetched, BrokerError>>;

    /// How long the way to the broker and back took for the last claim, with what it does there and
    /// without the wait for something to come. `None` where there is no way to speak of.
    fn trip(&self) -> Option<Duration> {
        None
    }

    /// Returns its lease; `None` where what it holds stays its own while it lives. What was claimed
    /// before a [term](Lease::term) of it began may be somebody else's.
    fn lease(&self) -> Option<Arc<Lease>> {
        None
    }

    /// Wakes an idle claim, which returns at once with what it has; nothing is claimed afterwards.
    fn close(&self);

    /// The messages of these receipts once more (an ETA is due: its bytes were not kept in memory).
    /// `None` for one that is not ours any more.
    ///
    /// # Errors
    /// Transient: try again.
    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>>;

    /// Ends messages, in order; one step for each message, one round trip for all. Waits for a
    /// broker that goes away, and then finds out what was done; and for one that can take nothing
    /// now (no memory, a full disk). What it refuses of one message alone is [`Ended::Impossible`],
    /// and no concern of the others.
    ///
    /// # Errors
    /// Nothing more can come of this consumer.
    fn finish<'a>(&'a self, batch: &'a [Finish]) -> BoxFuture<'a, Result<Vec<Ended>, BrokerError>>;

    /// Takes back what was [given](Claimed::given): from now on these messages are lent like
    /// others, under the same receipts. Harmless when it is done twice, and for what is lent
    /// already. Waits for a broker that goes away.
    ///
    /// # Errors
    /// Nothing more can come of this consumer.
    fn hold<'a>(&'a self, given: &'a [Claimed]) -> BoxFuture<'a, Result<(), BrokerError>> {
        // A broker that gives nothing has nothing to take back.
        let _ = given;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Records the suspects that run, one that is about to start among them: should this worker die
    /// now, it is these whose crashes count goes up. Whoever was accused before and is not any more
    /// has ended.
    ///
    /// # Errors
    /// Nothing more can come of this consumer.
    fn accuse<'a>(&'a self, running: &'a [Receipt]) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Takes another queue into service, or (with `false`) one out of it.
    fn serve(&self, queue: &str, on: bool);

    /// Which queues are in service.
    fn serving(&self) -> Vec<Arc<str>>;

    /// Returns whether this is one of a few that answer where all are asked the same. At least one
    /// of those that live is, within seconds.
    fn stands_for_all(&self) -> bool {
        true
    }

    /// After the last finish: gives up the lease, and hands back what is still held, to the front.
    /// A consumer that is dropped without it looks dead to the others, which is what it is.
    ///
    /// # Errors
    /// It could not be said; the others will take what was held when the lease is over.
    fn leave(&self) -> BoxFuture<'_, Result<(), BrokerError>>;
}

/// Messages of an exchange, or replies, as they come. Dropping it ends it.
pub struct Subscription {
    /// Routing key and message.
    pub messages: mpsc::Receiver<(String, Vec<u8>)>,
    /// What ends the subscription when it is dropped.
    pub guard: Box<dyn Send + Sync>,
}

/// What is known of a queue.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Waiting messages, by priority step where there are several.
    pub waiting: u64,
    /// Lent and not finished, ETA tasks that a worker holds included.
    pub held: u64,
    /// Those of the held ones whose time (ETA) is still to come.
    pub held_for_later: u64,
    /// Held back by the broker itself until their time.
    pub later: u64,
    /// Dead letters, with the [junk](End::Junk).
    pub dead: u64,
    /// Dead letters that were dropped since there were none, the oldest first: a server keeps ten
    /// thousand of a queue, and as much junk.
    pub dead_dropped: u64,
    /// How old the oldest waiting message is, where the broker can say.
    pub oldest: Option<Duration>,
    /// It may be older: nobody has noted when it was sent, and so long ago somebody looked and it
    /// was there.
    pub oldest_at_least: bool,
    /// Who paused it.
    pub paused: Option<String>,
    /// When it was paused.
    pub paused_since: Option<SystemTime>,
}

/// What is known of a bucket of a limit that is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitState {
    /// The limit, and behind [`BUCKET`](crate::BUCKET) which of its buckets.
    pub name: String,
    /// The rate that was [set](Broker::set_limit) for all.
    pub set: Option<Rate>,
    /// So far ahead its slots are reserved: how long whoever asks now would wait.
    pub ahead: Duration,
}

/// Where a task is.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its queue.
    pub queue: String,
    /// What it does there.
    pub doing: Doing,
    /// The message.
    pub raw: Vec<u8>,
}

/// What a task does in a broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Doing {
    /// It waits: its place (from 1), and how many wait there.
    Waiting {
        /// Its place, from 1.
        place: u64,
        /// How many wait.
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

/// A message that is run no more.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Names it in its queue.
    pub key: String,
    /// Its queue.
    pub queue: String,
    /// When it died.
    pub at: SystemTime,
    /// Why.
    pub reason: String,
    /// How many workers died of it.
    pub crashes: u32,
    /// The message.
    pub raw: Vec<u8>,
}

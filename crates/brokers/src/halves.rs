//! The optional halves of a message system: the bus, the view into queues, dead letters, what all
//! who use it share, and schedules. A broker that lacks one says nothing of it; the store of the
//! results may have it ([`Connected`](crate::Connected)).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_core::{ErrorKind, Rate};
use tokio::sync::mpsc;

use crate::{
    error::BrokerError,
    message::Outgoing,
    rates::Slot,
    send_notes::{NotedEnd, NotedSend, SendNote},
};

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
    /// Count of the messages that were left out, because nobody took those before them.
    pub left_out: LeftOut,
    /// Guard that ends the subscription when it is dropped.
    pub guard: Box<dyn Send + Sync>,
}

/// Count of messages that found no room.
#[derive(Clone, Debug, Default)]
pub struct LeftOut(Arc<AtomicU64>);

impl LeftOut {
    /// Returns how many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes one more if there was no room for it.
    pub fn note<T, E>(&self, sent: Result<T, E>) {
        if sent.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
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

    /// Returns up to `most` messages of a queue that are lent, in no order that holds. Where very
    /// many are lent of all queues together, some may not be looked at.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn held<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        Box::pin(async move {
            let mut found = self.list(Some(queue), most).await?;
            found.retain(|found| matches!(found.doing, Doing::Held { .. }));
            Ok(found)
        })
    }
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

    /// Notes that a worker runs the tasks of these ids, for so long unless it says so again, where
    /// the broker may [lend a message to another](crate::Consumer::lends_again) meanwhile. Returns
    /// for each whether the note is that worker's: not where another's still holds. A note for no
    /// time is none, and says only that.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Calling again does no harm.
    fn note_runs<'a>(&'a self, worker: &'a str, ids: &'a [String], time: Duration) -> BoxFuture<'a, Result<Vec<bool>, BrokerError>>;

    /// Takes these notes back, as far as they are that worker's.
    ///
    /// # Errors
    /// As [`note_runs`](SharedState::note_runs).
    fn forget_runs<'a>(&'a self, worker: &'a str, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Notes that a task is to be sent once under a key, or returns what was noted before.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us, or it keeps no such notes.
    fn note_send<'a>(&'a self, note: &'a SendNote) -> BoxFuture<'a, Result<NotedSend, BrokerError>> {
        let message = format!("this store keeps no notes of what was sent, not of {} either", note.id);
        Box::pin(std::future::ready(Err(BrokerError { kind: ErrorKind::Refused, message })))
    }

    /// Says how the sending that was noted has ended. Only that it was sent is believed of others
    /// than its sender.
    ///
    /// # Errors
    /// As [`note_send`](SharedState::note_send). Calling again does no harm.
    fn end_send<'a>(&'a self, note: &'a SendNote, ending: NotedEnd) -> BoxFuture<'a, Result<(), BrokerError>> {
        let _ = ending;
        Box::pin(async move { self.note_send(note).await.map(drop) })
    }
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

/// Keeps schedules, and which of several schedulers sends what is due. Times are held to the
/// millisecond. What a schedule says is not read here.
pub trait Schedules: Send + Sync {
    /// Returns the URL of the store that keeps them, as [`Broker::is_store_of`] reads it: where it
    /// is another than the broker's, [`fire`](Self::fire) takes no messages.
    ///
    /// [`Broker::is_store_of`]: crate::Broker::is_store_of
    fn store(&self) -> &str;

    /// Keeps a schedule under this name. One that says something else than before begins anew `at`
    /// that time; its last due time, and whether it is paused, stay. Returns whether anything has
    /// changed.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Calling again does no harm.
    fn put<'a>(&'a self, name: &'a str, spec: &'a [u8], at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>>;

    /// Changes what a schedule says, where it still says `before`: it goes on as it was begun. A
    /// due time that is being fired meanwhile may be sent as it was said before. Returns whether it
    /// was changed.
    ///
    /// # Errors
    /// As [`put`](Self::put). Calling again does no harm.
    fn amend<'a>(&'a self, name: &'a str, before: &'a [u8], spec: &'a [u8]) -> BoxFuture<'a, Result<bool, BrokerError>>;

    /// Forgets a schedule. Returns whether there was one.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Calling again does no harm.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>>;

    /// Pauses a schedule, with who did it, or resumes it. One that is resumed begins anew `at` that
    /// time: what was due meanwhile is not missed, and a last due time that lies ahead of a clock
    /// that was put back is forgotten. Returns whether there is such a schedule.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Calling again does no harm.
    fn pause_schedule<'a>(&'a self, name: &'a str, by: Option<&'a str>, at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>>;

    /// Returns all schedules in the order of their names, and the scheduler that leads.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn schedules(&self) -> BoxFuture<'_, Result<ScheduleBook, BrokerError>>;

    /// Takes the lead, or keeps it, for this term; nobody else has it meanwhile. Costs no write
    /// where somebody else has it.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Calling again does no harm.
    fn lead<'a>(&'a self, scheduler: &'a SchedulerName, term: Duration) -> BoxFuture<'a, Result<Leading, BrokerError>>;

    /// Gives the lead back, if it is this scheduler's, so that another need not wait for the end of
    /// its term.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us. Calling again does no harm.
    fn resign<'a>(&'a self, scheduler: &'a SchedulerName) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// In one step: looks whether this scheduler leads and the due time is behind the last one,
    /// puts the message into its queue, and notes the due time.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses the message: nothing was noted then. An error may leave
    /// open whether it was done; asking again with the same due time does no harm.
    fn fire<'a>(&'a self, firing: &'a Firing) -> BoxFuture<'a, Result<Fired, BrokerError>>;
}

/// One scheduler of those that share a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerName {
    /// Its own word, which no other has; without spaces.
    pub token: String,
    /// Name for people.
    pub node: String,
}

/// Answer to who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leading {
    /// Whoever has asked.
    Ours {
        /// Number that is another one after each change of the schedules.
        version: u64,
    },
    /// Somebody else.
    Theirs {
        /// Name for people.
        node: String,
    },
}

/// A due time that is to be fired.
#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    /// Who fires it.
    pub scheduler: SchedulerName,
    /// The schedule.
    pub name: String,
    /// When the schedule began, as the scheduler knows it: another one is another schedule.
    pub since: SystemTime,
    /// The due time.
    pub due: SystemTime,
    /// Now.
    pub at: SystemTime,
    /// What is to be sent; `None` where it was sent already, or cannot be.
    pub message: Option<Outgoing>,
}

/// Answer to a [`Firing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// It is sent and noted.
    Done,
    /// It was noted before.
    Already,
    /// The schedule is paused, has changed or is gone: nothing was done.
    Changed,
    /// Somebody else leads, or nobody: nothing was done.
    NotLeading,
}

/// All schedules of a store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduleBook {
    /// Scheduler that leads, for people.
    pub leader: Option<String>,
    /// Schedules in the order of their names.
    pub rows: Vec<ScheduleRow>,
}

/// State of one schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// What it says, as it was given.
    pub spec: Vec<u8>,
    /// When it began: it is due after that.
    pub since: SystemTime,
    /// Last due time that was fired.
    pub last: Option<SystemTime>,
    /// When that was sent.
    pub sent: Option<SystemTime>,
    /// Number of due times that were fired.
    pub fired: u64,
    /// Who paused it, and when.
    pub paused: Option<(String, SystemTime)>,
}

//! A system that holds queues, and a consumer of some of them.
//!
//! The contract: what was published is lent to one consumer at a time until it is finished, and
//! comes again if that consumer dies or loses its connection, never before. Whoever finishes what
//! is not its own any more is refused. An answer that is lost is never assumed: it is looked up, or
//! what was done repeats harmlessly. One message harms none but itself.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_core::{Receipt, source::Fetched};

use crate::{
    error::BrokerError,
    lease::Lease,
    message::{Claimed, Ended, Finish, Outgoing},
    names,
    queue_spec::QueueSpec,
};

/// Settings of a consumer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The queues.
    pub queues: Vec<Arc<str>>,
    /// Time for which what we hold stays ours without a sign of life. Renewed every third of it
    /// from a thread of its own.
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
    /// Order in which the queues are served.
    pub order: QueueOrder,
    /// Clients that do not look for it find what holds messages back for these queues until their
    /// time (RabbitMQ: Celery's delay queues, which its workers make for quorum queues).
    pub takes_delayed: bool,
}

/// Order in which a consumer serves its queues. A broker that cannot keep it serves them in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueOrder {
    /// In turn: of queues that have messages of equal priority the one that was just served goes
    /// last.
    #[default]
    InTurn,
    /// So that of the claims each has a share by its weight, while all have messages of equal
    /// priority. A queue that is not named has weight 1; none starves.
    Weighted(Vec<(Arc<str>, u32)>),
    /// As they are named: one is served when those before it have nothing that waits, whatever its
    /// priority.
    Strict,
}

impl OpenOptions {
    /// Makes those of a worker of this name: a lease of 5 s, a visibility timeout of one hour,
    /// messages that are lent.
    pub fn new(node: impl Into<String>, queues: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        let queues = queues.into_iter().map(Into::into).collect();
        let (lease, visibility_timeout) = (Duration::from_secs(5), Duration::from_secs(3600));
        Self { queues, lease, visibility_timeout, node: node.into(), early: false, order: QueueOrder::InTurn, takes_delayed: false }
    }
}

/// A system that holds queues: what every message system can. What only some can is in the optional
/// [halves](crate::halves). Cheap to share; all methods may be called at once.
pub trait Broker: Send + Sync {
    /// Returns its URL, with `***` in place of the password.
    fn url(&self) -> &str;

    /// Connects if need be; its name and version (`redis 7.0.15`), and the time of one round trip.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>>;

    /// Returns whether this is the store of that result backend too (the same server and database,
    /// the same file), so that results travel in [`Finish`]. A broker that keeps no results says
    /// no.
    fn is_store_of(&self, results_url: &str) -> bool {
        let _ = results_url;
        false
    }

    /// Says why it has no queue of this name; `None` if it may have one.
    fn refused_queue(&self, name: &str) -> Option<String> {
        names::refused_queue(name)
    }

    /// Takes how queues are declared that are more than their names. Returns for people what of it
    /// means nothing here; `None` where all of it does.
    fn declare_as(&self, queues: &[QueueSpec]) -> Option<String> {
        let names: Vec<&str> = queues.iter().map(|spec| &*spec.name).collect();
        (!names.is_empty()).then(|| {
            format!(
                "{}: queues have a name and nothing else here; what is said of {} (type, arguments, exchange) holds on RabbitMQ alone",
                self.url(),
                names.join(", ")
            )
        })
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

    /// Returns how many commands a server is sent for the state of so many queues, about: whoever
    /// looks again and again looks less often then. 0: there is no server.
    fn look_cost(&self, queues: usize) -> usize {
        let _ = queues;
        0
    }

    /// Returns the state of these queues, or of all that are known.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>>;

    /// Says why it cannot name all of its queues, and how it could, in a sentence; `None` where it
    /// can.
    fn unlisted(&self) -> Option<String> {
        None
    }

    /// Throws away what waits in a queue; how many.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses us.
    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>>;

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

    /// Returns how long the way to the broker and back took for the last claim, with what it does
    /// there and without the wait for something to come. `None` where there is no way to speak of.
    fn trip(&self) -> Option<Duration> {
        None
    }

    /// Returns whether its queues may have more although the last claim brought less than it asked
    /// for: a server that sends by itself has sent all that it may send now.
    fn may_have_more(&self) -> bool {
        false
    }

    /// Returns its lease; `None` where what it holds stays its own while it lives. What was claimed
    /// before a [term](Lease::term) of it began may be somebody else's.
    fn lease(&self) -> Option<Arc<Lease>> {
        None
    }

    /// Wakes an idle claim, which returns at once with what it has; nothing is claimed afterwards.
    fn close(&self);

    /// Returns the messages of these receipts once more (an ETA is due: its bytes were not kept in
    /// memory). `None` for one that is not ours any more.
    ///
    /// # Errors
    /// Transient: try again.
    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>>;

    /// Ends messages, in order; one step for each message, one round trip for all. Waits for a
    /// broker that goes away, and then finds out what was done; and for one that can take nothing
    /// now (no memory, a full disk). What it refuses of one message alone is [`Ended::Impossible`],
    /// and no concern of the others. What a broker takes of all but one message may count as
    /// [`Ended::Done`] for that one, too, while it still waits beside the others: it stays claimed
    /// until what follows it is there, and a few may wait so.
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

    /// Notes the suspects that run, one that is about to start among them: should this worker die
    /// now, it is these whose crashes count goes up. Whoever was accused before and is not any more
    /// has ended.
    ///
    /// # Errors
    /// Nothing more can come of this consumer.
    fn accuse<'a>(&'a self, running: &'a [Receipt]) -> BoxFuture<'a, Result<(), BrokerError>> {
        // A broker that counts by itself counts for all that were lent.
        let _ = running;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns whether messages may be lent to another while this consumer lives and holds them: a
    /// server that waits for nobody for ever (RabbitMQ's `consumer_timeout`), or that takes a lost
    /// connection for a death.
    fn lends_again(&self) -> bool {
        false
    }

    /// Takes another queue into service, or (with `false`) one out of it.
    fn serve(&self, queue: &str, on: bool);

    /// Returns the queues that are in service.
    fn serving(&self) -> Vec<Arc<str>>;

    /// Returns whether this is one of a few that answer where all are asked the same. At least one
    /// of those that live is, within seconds.
    fn stands_for_all(&self) -> bool {
        true
    }

    /// Gives up the lease after the last finish, and hands back what is still held, to the front. A
    /// consumer that is dropped without it looks dead to the others, which is what it is.
    ///
    /// # Errors
    /// It could not be said; the others will take what was held when the lease is over.
    fn leave(&self) -> BoxFuture<'_, Result<(), BrokerError>>;
}

/// State of a queue, as far as the broker can say.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Waiting messages, by priority step where there are several.
    pub waiting: u64,
    /// Lent and not finished, ETA tasks that a worker holds included.
    pub held: u64,
    /// Consumers, where the broker counts them.
    pub consumers: Option<u64>,
    /// Those of the held ones whose time (ETA) is still to come.
    pub held_for_later: u64,
    /// Held back by the broker itself until their time.
    pub later: u64,
    /// Dead letters, with the [junk](crate::End::Junk).
    pub dead: u64,
    /// Dead letters that were dropped since there were none, the oldest first: a server keeps ten
    /// thousand of a queue, and as much junk.
    pub dead_dropped: u64,
    /// Age of the oldest waiting message, where the broker can say.
    pub oldest: Option<Duration>,
    /// It may be older: nobody has noted when it was sent, and so long ago somebody looked and it
    /// was there.
    pub oldest_at_least: bool,
    /// Name of whoever paused it; `None` while it is not paused.
    pub paused: Option<String>,
    /// Moment at which it was paused.
    pub paused_since: Option<SystemTime>,
    /// Moment since which nothing has happened in it, where the broker says so.
    pub idle_since: Option<SystemTime>,
}

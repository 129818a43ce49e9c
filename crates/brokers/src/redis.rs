//! Redis, and what speaks its protocol (Valkey): Celery's layout of keys at every instant, and no
//! message ever in nobody's hands.
//!
//! Layout, in the order in which a message meets it:
//! - `url.rs`: what a URL says; `layout.rs`: names of keys and channels
//! - `resp.rs`: the protocol, without sockets; `connection.rs`, `socket.rs`,
//!   `sentinel.rs`: one connection; `fail.rs`: what a refusal means
//! - `link.rs`: the connection for commands, and what happens when it is lost, `look_first.rs`:
//!   whether its callers look for their answers themselves; `pubsub.rs`: the one for listening
//! - `publish.rs`, `wait.rs`, `claim.rs`, `finish.rs`: the way of a message, `listeners.rs`: who of
//!   many is woken by it, `early.rs`: of one that is given; `consumer.rs` joins them
//! - `exchanges.rs`: exchanges, which are sets of bindings
//! - `lease.rs`: the sign of life; `watcher.rs`: who looks for the dead; `rescue.rs`: what they
//!   have left; `marks.rs`: what is read of a message; `dead.rs`: dead letters
//! - `shared.rs`: rates and revoked ids; `schedules.rs`: schedules
//! - `bus.rs`: remote control and events; `admin.rs`: looking at queues, `admin/find.rs`: at what
//!   lies in them, `admin/oldest.rs`: how long it has; `results.rs` (beside the other result
//!   backends)
//! - `scripts.rs`, `scripts/*.lua`: what runs inside the server; `ACL.md`: what a user of the
//!   server must be allowed

mod admin;
mod bus;
mod claim;
mod connection;
mod consumer;
mod dead;
mod early;
mod exchanges;
mod fail;
mod finish;
mod layout;
mod lease;
mod link;
mod listeners;
mod look_first;
mod marks;
mod publish;
mod pubsub;
mod rescue;
mod resp;
mod results;
mod schedules;
mod scripts;
mod sentinel;
mod shared;
mod socket;
mod url;
mod wait;
mod watcher;

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_core::Rate;

pub use self::link::Notice;
use self::{
    admin::Admin,
    consumer::RedisConsumer,
    fail::Fail,
    layout::Layout,
    link::Link,
    link::Wait,
    publish::{Declared, Known, Once},
    pubsub::PubSub,
    results::RedisResults,
    url::Config,
};
use crate::{
    broker::{Broker, Consumer, OpenOptions, QueueState},
    connected::{Connected, Halves},
    error::BrokerError,
    halves::{
        Bus, DeadLetter, DeadLetters, Fired, Firing, Found, Inspect, Leading, LimitState, ScheduleBook, SchedulerName, Schedules,
        SharedState, Subscription,
    },
    message::Outgoing,
    names,
    rates::Slot,
    results::ResultBackend,
    send_notes::{NotedEnd, NotedSend, SendNote},
};

/// A broker at this URL. It is connected to when it is first needed, on the runtime that is current
/// then.
///
/// `redis://[user:password@]host[:6379][/db]`, `rediss://` with TLS, `unix:///path?db=0` or
/// `redis+socket:///path?virtual_host=0`,
/// `sentinel://host:26379/db;sentinel://host:26379/db?master_name=NAME` (`sentinel_password` where
/// the sentinels want one). A percent sign and two hexadecimal digits stand for any byte. Options:
/// - `visibility_timeout`, `sep`, `priority_steps`, `global_keyprefix`: as in Celery's transport
///   options
/// - `patience`: seconds that a call waits for a server that is away; 5
/// - `kept_messages`: most messages that are kept of tasks which failed or were called off, as long
///   as their results and at most 64 MiB of all, so that they can be sent again; 10 000, and 0 for
///   none
/// - with `rediss://`, files in the PEM format: `ssl_ca_certs`, who may vouch for the server, in
///   place of the system's authorities; `ssl_certfile` and `ssl_keyfile`, our own certificate and
///   its key, for a server that wants to know its clients. `insecure`, or `ssl_cert_reqs=none`: the
///   server's certificate is not looked at
/// - `fanout_prefix`, `fanout_patterns`, `queue_order_strategy`, `ssl_check_hostname`: accepted
///   with Celery's default (`true`, `true`, `round_robin`, `true`), which is what is done here; any
///   other value is refused
/// - `socket_timeout`, `socket_connect_timeout`, `socket_keepalive`, `health_check_interval`,
///   `retry_on_timeout`, `max_connections`, `protocol`: accepted, and mean nothing here
///
/// # Errors
/// Refused: the URL cannot be read. The text has no password in it.
pub fn broker(url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    broker_with(url, Arc::new(|_| {}))
}

/// The same; the notice is told when the server goes away or comes back, and what was done about
/// dead workers.
///
/// # Errors
/// As [`broker`].
pub fn broker_with(url: &str, notice: Notice) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(Arc::new(RedisBroker::new(url, notice)?))
}

/// A result backend at this URL, as [`broker`] reads it.
///
/// # Errors
/// As [`broker`].
pub fn results(url: &str) -> Result<Arc<dyn ResultBackend>, BrokerError> {
    let (link, pubsub) = ways(url, Arc::new(|_| {}))?;
    Ok(Arc::new(RedisResults::new(link, pubsub)))
}

/// Both at one URL, on the same connections.
///
/// # Errors
/// As [`broker`].
pub fn both(url: &str) -> Result<Connected, BrokerError> {
    both_with(url, Arc::new(|_| {}))
}

/// The same, with a notice as in [`broker_with`].
///
/// # Errors
/// As [`broker`].
pub fn both_with(url: &str, notice: Notice) -> Result<Connected, BrokerError> {
    let broker = RedisBroker::new(url, notice)?;
    let results = RedisResults::new(broker.link.clone(), broker.pubsub.clone());
    Ok(Connected::whole(Arc::new(broker), Arc::new(results)))
}

pub(crate) fn connect(url: &str, notice: Notice) -> Result<Halves, BrokerError> {
    both_with(url, notice).map(Halves::from)
}

fn ways(url: &str, notice: Notice) -> Result<(Arc<Link>, Arc<PubSub>), BrokerError> {
    let config = Arc::new(Config::parse(url)?);
    if config.tls.as_ref().is_some_and(|tls| tls.insecure) {
        let text = format!("{}: the server's certificate is NOT looked at, anybody may listen and answer in its place", config.masked);
        notice(&crate::News::remark(text));
    }
    Ok((Arc::new(Link::new(config.clone(), notice.clone())), Arc::new(PubSub::new(config, notice))))
}

struct RedisBroker {
    link: Arc<Link>,
    pubsub: Arc<PubSub>,
    layout: Layout,
    declared: Arc<Declared>,
    known: Known,
}

impl RedisBroker {
    fn new(url: &str, notice: Notice) -> Result<Self, BrokerError> {
        let (link, pubsub) = ways(url, notice)?;
        let layout = Layout::new(link.config());
        Ok(Self { link, pubsub, layout, declared: Arc::default(), known: Known::default() })
    }

    async fn send(&self, batch: &[Outgoing], once: Option<Once<'_>>) -> Result<(), BrokerError> {
        if batch.is_empty() {
            return Ok(());
        }
        let batch = exchanges::spread(&self.link, &self.layout, batch, Wait::Patience).await?;
        self.declare(&batch).await?;
        Ok(publish::all(&self.link, &self.layout, &batch, once).await?)
    }

    /// Refuses messages that the server does not take, and says that their queues exist.
    async fn declare(&self, batch: &[Outgoing]) -> Result<(), BrokerError> {
        names::check_all(self.layout.prefix(), batch)?;
        if let Some(message) = batch.iter().find(|message| message.raw.len() > finish::LARGEST) {
            return Err(Fail::Refused(finish::too_large(&self.link, message.raw.len())).into());
        }
        let queues = batch.iter().map(|message| &message.queue);
        Ok(self.declared.say(&self.link, &self.layout, queues, Wait::Patience).await?)
    }

    fn admin(&self) -> Admin<'_> {
        Admin { link: &self.link, layout: &self.layout }
    }
}

/// Name and version, and the time of a round trip.
async fn ping(link: &Link) -> Result<(String, Duration), Fail> {
    // The first may have to connect.
    link.one(&[b"PING"], Wait::Patience).await?;
    let begun = Instant::now();
    link.one(&[b"PING"], Wait::Patience).await?;
    let hello = link.hello();
    Ok((format!("{} {}", hello.server, hello.version), begun.elapsed()))
}

impl Broker for RedisBroker {
    fn url(&self) -> &str {
        &self.link.config().masked
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        Box::pin(async move { Ok(ping(&self.link).await?) })
    }

    fn is_store_of(&self, results_url: &str) -> bool {
        // A URL of ours that was masked is ours.
        results_url == self.link.config().masked || Config::parse(results_url).is_ok_and(|other| self.link.config().is_same_store(&other))
    }

    fn refused_queue(&self, name: &str) -> Option<String> {
        names::refused_key(self.layout.prefix(), name)
    }

    fn open(&self, options: OpenOptions) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        Box::pin(async move {
            names::check(self.layout.prefix(), options.queues.iter().map(|queue| &**queue))?;
            let consumer = RedisConsumer::open(self.link.clone(), &self.pubsub, self.declared.clone(), options).await?;
            Ok(Arc::new(consumer) as Arc<dyn Consumer>)
        })
    }

    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.send(batch, None))
    }

    fn publish_once<'a>(&'a self, token: &'a str, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let (key, over) = (self.layout.own(&format!("sent:{token}")), self.known.some());
            self.send(batch, Some(Once { key: &key, over: &over })).await?;
            self.known.add(key);
            Ok(())
        })
    }

    fn look_cost(&self, queues: usize) -> usize {
        // Lengths of its lists, dead letters and junk, and how old the first is; what is held and
        // paused is asked for once.
        queues * (self.layout.steps() + 4) + 4
    }

    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>> {
        Box::pin(async move { Ok(self.admin().queues(names).await?) })
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        Box::pin(async move {
            names::check(self.layout.prefix(), [queue])?;
            Ok(self.admin().purge(queue).await?)
        })
    }
}

impl Bus for RedisBroker {
    fn broadcast<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(bus::broadcast(&self.link, &self.layout, exchange, routing_key, raw).await.map(drop)?) })
    }

    fn broadcast_counted<'a>(
        &'a self,
        exchange: &'a str,
        routing_key: &'a str,
        raw: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<u64>, BrokerError>> {
        Box::pin(async move { Ok(bus::broadcast(&self.link, &self.layout, exchange, routing_key, raw).await?) })
    }

    fn subscribe<'a>(&'a self, exchange: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        Box::pin(async move { Ok(bus::subscribe(&self.pubsub, &self.layout, exchange, pattern).await?) })
    }

    fn reply<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(bus::reply(&self.link, &self.layout, exchange, routing_key, raw).await?) })
    }

    fn replies<'a>(&'a self, oid: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        Box::pin(async move { Ok(bus::replies(&self.link, &self.layout, oid).await?) })
    }

    fn has_strangers(&self) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(bus::has_strangers(&self.link, &self.layout).await?) })
    }
}

impl Inspect for RedisBroker {
    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        Box::pin(async move { Ok(self.admin().peek(queue, most).await?) })
    }

    fn look_ahead<'a>(&'a self, queue: &'a str, most: usize, words: &'static [&'static [u8]]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(self.admin().look_ahead(queue, most, words).await?) })
    }

    fn transfer<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        Box::pin(async move {
            names::check(self.layout.prefix(), [from, to])?;
            self.declared.say(&self.link, &self.layout, std::iter::once(&Arc::from(to)), Wait::Patience).await?;
            Ok(self.admin().transfer(from, to).await?)
        })
    }

    fn pause<'a>(&'a self, queue: &'a str, by: Option<&'a str>) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(self.admin().pause(queue, by).await?) })
    }

    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        Box::pin(async move { Ok(self.admin().find(id).await?) })
    }

    fn list<'a>(&'a self, queue: Option<&'a str>, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        Box::pin(async move { Ok(self.admin().list(queue, most).await?) })
    }

    fn held<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        Box::pin(async move { Ok(self.admin().held_of(queue, most).await?) })
    }
}

impl DeadLetters for RedisBroker {
    fn dead<'a>(&'a self, queue: Option<&'a str>) -> BoxFuture<'a, Result<Vec<DeadLetter>, BrokerError>> {
        Box::pin(async move { Ok(self.admin().dead(queue).await?) })
    }

    fn bury<'a>(&'a self, letters: &'a [DeadLetter], retry: bool) -> BoxFuture<'a, Result<u64, BrokerError>> {
        Box::pin(async move { Ok(self.admin().bury(letters, retry).await?) })
    }
}

impl SharedState for RedisBroker {
    fn reserve<'a>(&'a self, limit: &'a str, rate: Rate, count: usize) -> BoxFuture<'a, Result<Vec<Slot>, BrokerError>> {
        Box::pin(async move { Ok(shared::reserve(&self.link, &self.layout, limit, rate, count).await?) })
    }

    fn set_limit<'a>(&'a self, limit: &'a str, rate: Option<Rate>) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(shared::set_limit(&self.link, &self.layout, limit, rate).await?) })
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<LimitState>, BrokerError>> {
        Box::pin(async move { Ok(shared::limits(&self.link, &self.layout).await?) })
    }

    fn revoke<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(shared::revoke(&self.link, &self.layout, ids).await?) })
    }

    fn revoked(&self) -> BoxFuture<'_, Result<Vec<String>, BrokerError>> {
        Box::pin(async move { Ok(shared::revoked(&self.link, &self.layout).await?) })
    }

    fn note_runs<'a>(&'a self, worker: &'a str, ids: &'a [String], time: Duration) -> BoxFuture<'a, Result<Vec<bool>, BrokerError>> {
        Box::pin(async move { Ok(shared::note_runs(&self.link, &self.layout, worker, ids, time).await?) })
    }

    fn forget_runs<'a>(&'a self, worker: &'a str, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(shared::forget_runs(&self.link, &self.layout, worker, ids).await?) })
    }

    fn note_send<'a>(&'a self, note: &'a SendNote) -> BoxFuture<'a, Result<NotedSend, BrokerError>> {
        Box::pin(async move { Ok(shared::note_send(&self.link, &self.layout, note).await?) })
    }

    fn end_send<'a>(&'a self, note: &'a SendNote, ending: NotedEnd) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(shared::end_send(&self.link, &self.layout, note, ending).await?) })
    }
}

impl Schedules for RedisBroker {
    fn store(&self) -> &str {
        self.url()
    }

    fn put<'a>(&'a self, name: &'a str, spec: &'a [u8], at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(schedules::put(&self.link, &self.layout, name, spec, at).await?) })
    }

    fn amend<'a>(&'a self, name: &'a str, before: &'a [u8], spec: &'a [u8]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(schedules::amend(&self.link, &self.layout, name, before, spec).await?) })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(schedules::remove(&self.link, &self.layout, name).await?) })
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, by: Option<&'a str>, at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(schedules::pause(&self.link, &self.layout, name, by, at).await?) })
    }

    fn schedules(&self) -> BoxFuture<'_, Result<ScheduleBook, BrokerError>> {
        Box::pin(async move { Ok(schedules::book(&self.link, &self.layout).await?) })
    }

    fn lead<'a>(&'a self, scheduler: &'a SchedulerName, term: Duration) -> BoxFuture<'a, Result<Leading, BrokerError>> {
        Box::pin(async move { Ok(schedules::lead(&self.link, &self.layout, scheduler, term).await?) })
    }

    fn resign<'a>(&'a self, scheduler: &'a SchedulerName) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(schedules::resign(&self.link, &self.layout, scheduler).await?) })
    }

    fn fire<'a>(&'a self, firing: &'a Firing) -> BoxFuture<'a, Result<Fired, BrokerError>> {
        Box::pin(async move {
            let message = firing.message.as_slice();
            let mut message = exchanges::spread(&self.link, &self.layout, message, Wait::Patience).await?.into_owned();
            self.declare(&message).await?;
            // The step that notes it has room for one.
            if message.len() > 1 {
                let why = format!("schedule {}: its exchange has {} queues, and on Redis it is sent to one", firing.name, message.len());
                return Err(Fail::Refused(why).into());
            }
            let firing = &Firing { message: message.pop(), ..firing.clone() };
            Ok(schedules::fire(&self.link, &self.layout, firing).await?)
        })
    }
}

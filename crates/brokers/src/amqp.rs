//! RabbitMQ, by AMQP 0-9-1: queues as Celery declares them, with confirmations of all that is sent.
//!
//! It is a broker that keeps no results, and lets nobody look into its queues. What is lent on a
//! channel is lent again when that channel is lost; where it comes back to the same consumer, it
//! keeps its number there.
//!
//! Layout, in the order in which a message meets it:
//! - `url.rs`: what a URL says; `wire.rs`: the socket that lapin is given, `headers.rs`: what is
//!   looked at before lapin sees it; `fail.rs`: what lapin's errors mean
//! - `direct.rs`: messages, confirmations and acknowledgements, which go past lapin (it takes half
//!   of a worker's processor time for them); `frames.rs`: their frames, `confirms.rs`: what
//!   the server says of what was sent
//! - `link.rs`: a connection that is replaced when it is lost
//! - `parts.rs`: between an envelope and AMQP's properties, headers and body; `properties.rs`,
//!   `envelope.rs`: both as bytes
//! - `declare.rs`, `publish.rs`: queues, and what is sent to them; `sending.rs`: sending in rounds
//!   until each message is confirmed; `delay.rs`: what is held back by the server until it is due
//! - `feed.rs`: the channels that give, `window.rs`: how much they send ahead; `held.rs`: what was
//!   delivered and has not ended; `plan.rs`: what an end takes, `finish.rs`: ends, and those that
//!   wait beside the others; `consumer.rs` joins them
//! - `dead.rs`: dead letters; `manage.rs`: what the management plugin says of queues
//! - `own.rs`: queues that hold no tasks; `schedules.rs`: schedules, which stand in one message
//!   (`book.rs`) of one queue (`cell.rs`), and the line of schedulers (`line.rs`)
//! - `tap.rs`: a queue of our own; `bus.rs`: remote control and events; `rpc.rs`: results as
//!   messages to whoever asked

mod book;
mod bus;
mod cell;
mod confirms;
mod consumer;
mod dead;
mod declare;
mod delay;
mod direct;
mod envelope;
mod fail;
mod feed;
mod finish;
mod frames;
mod headers;
mod held;
mod line;
mod link;
mod manage;
mod own;
mod parts;
mod plan;
mod properties;
mod publish;
mod rpc;
mod schedules;
mod sending;
mod tap;
#[cfg(test)]
mod tests;
mod url;
mod window;
mod wire;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use lapin::{
    options::{QueueDeclareOptions, QueuePurgeOptions},
    types::FieldTable,
};

use self::{
    bus::AmqpBus,
    consumer::AmqpConsumer,
    declare::Declarer,
    fail::{is_not_found, refused, transient, words},
    link::{Link, Wait},
    publish::Publisher,
    rpc::RpcResults,
    schedules::AmqpSchedules,
    url::Config,
};
use crate::{
    broker::{Broker, Consumer, OpenOptions, QueueState},
    connected::Halves,
    error::BrokerError,
    halves::{DeadLetter, DeadLetters, Schedules},
    message::Outgoing,
    names,
    news::{News, Notice},
    queue_spec::QueueSpec,
};

/// A broker at this URL. It is connected to when it is first needed, on the runtime that is current
/// then.
///
/// `amqp://[user:password@]host[:5672][/vhost]`, `pyamqp://` as the same, `amqps://` with TLS;
/// several, separated by `;`, of which the first that answers is taken. No virtual host, and `//`
/// or `/%2F`, are the one that is named `/`. Options:
/// - `heartbeat`: seconds of silence after which one side takes the other for dead; 20
/// - `patience`: seconds that a call waits for a server that is away; 5. One that is there has six
///   times as long for each answer
/// - `queue_type`: `classic` or `quorum`, for the queues that are declared here
/// - `max_priority`: of the queues that are declared here (`task_queue_max_priority`)
/// - `dead`: `reject` leaves what workers reject or bury to the dead-letter exchange of its queue,
///   where `keep` (as it is by itself) keeps it with its reason
/// - `declare`: `passive` looks for queues and makes none
/// - `management`: `http://host:15672`, or the port alone: where the management plugin is asked for
///   the list of all queues, and for what is lent, as the user of this URL
/// - with `amqps://`, `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `insecure` and
///   `ssl_cert_reqs=none`, as for Redis
///
/// # Errors
/// Refused: the URL cannot be read. The text has no password in it.
pub fn broker(url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    broker_with(url, Arc::new(|_| {}))
}

/// The same; the notice is told when the server goes away or comes back.
///
/// # Errors
/// As [`broker`].
pub fn broker_with(url: &str, notice: Notice) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(Arc::new(AmqpBroker::new(url, notice)?))
}

pub(crate) fn connect(url: &str, notice: Notice) -> Result<Halves, BrokerError> {
    let broker = Arc::new(AmqpBroker::new(url, notice)?);
    let (bus, results) = (broker.bus.clone(), broker.rpc.clone());
    let schedules_last: Option<Arc<dyn Schedules>> = Some(broker.schedules.clone());
    let (bus, results, letters) = (Some(bus as _), Some(results as _), Some(broker.clone() as _));
    Ok(Halves { broker: Some(broker), letters, bus, results, schedules_last, ..Halves::default() })
}

/// Refuses results that are to be sent over the connections of a broker that cannot.
pub(crate) fn rpc_alone(_: &str, _: Notice) -> Result<Halves, BrokerError> {
    let message = "rpc://: results are sent through RabbitMQ, which is not the broker here; name a broker amqp://HOST, or a result backend \
                   that keeps them (SQLite, Redis)";
    Err(BrokerError { kind: longshore_core::ErrorKind::Refused, message: message.to_owned() })
}

struct AmqpBroker {
    link: Arc<Link>,
    declarer: Arc<Declarer>,
    publisher: Arc<Publisher>,
    bus: Arc<AmqpBus>,
    rpc: Arc<RpcResults>,
    schedules: Arc<AmqpSchedules>,
}

impl AmqpBroker {
    fn new(url: &str, notice: Notice) -> Result<Self, BrokerError> {
        let config = Arc::new(Config::parse(url)?);
        if config.tls.as_ref().is_some_and(|tls| tls.insecure) {
            let text = format!("{}: the server's certificate is NOT looked at, anybody may listen and answer in its place", config.masked);
            notice(&News::remark(text));
        }
        let link = Arc::new(Link::new(config.clone(), notice.clone(), "sends".to_owned()));
        let declarer = Arc::new(Declarer::new(config, notice));
        let publisher = Arc::new(Publisher::new(link.clone(), declarer.clone()));
        let bus = Arc::new(AmqpBus::new(Publisher::new(link.clone(), declarer.clone()), link.clone()));
        let rpc = Arc::new(RpcResults::new(publisher.clone(), link.clone()));
        let schedules = Arc::new(AmqpSchedules::new(link.clone(), declarer.clone()));
        Ok(Self { link, declarer, publisher, bus, rpc, schedules })
    }

    /// Returns how many messages wait in a queue; `None` if there is none.
    async fn waiting(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        let (open, channel) = self.link.channel(Wait::Patience).await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match open.answer_of_queue(channel.queue_declare(queue.into(), options, FieldTable::default())).await {
            Ok(queue) => {
                let _ = channel.close(200, "".into()).await;
                Ok(Some(queue.message_count().into()))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(transient(&open.place, &words(&error))),
        }
    }

    async fn state(&self, name: &Arc<str>) -> Result<QueueState, BrokerError> {
        let waiting = self.waiting(name).await?.unwrap_or(0);
        let open = self.link.open(Wait::Patience).await?;
        let dead = dead::count(&open, name).await?;
        Ok(QueueState { name: name.to_string(), waiting, dead, ..QueueState::default() })
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.declarer.names().into_iter().filter(|name| !own::is_own(name)).collect()
    }
}

/// Refuses a name that no queue can have here.
fn check(place: &str, name: &str) -> Result<(), BrokerError> {
    names::check("", [name])?;
    refused_name(name).map_or(Ok(()), |why| Err(refused(place, &why)))
}

fn refused_name(name: &str) -> Option<String> {
    if name.len() > declare::LONGEST_NAME - 20 {
        return Some(format!("the name of a queue is {} bytes long; AMQP has room for {}", name.len(), declare::LONGEST_NAME - 20));
    }
    if name.starts_with("amq.") {
        return Some(format!("no queue may be named {name}: names that begin with `amq.` are RabbitMQ's own"));
    }
    own::is_own(name).then(|| format!("no queue may be named {name}: such a name belongs to longshore's own data"))
}

impl Broker for AmqpBroker {
    fn url(&self) -> &str {
        &self.link.config().masked
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        Box::pin(self.link.ping())
    }

    fn is_store_of(&self, results_url: &str) -> bool {
        // Results that are sent go where messages go; without another backend they do.
        // A URL of ours that was masked is ours.
        let config = self.link.config();
        let is_ours = |url: &str| url == config.masked || Config::parse(url).is_ok_and(|other| other.is_same(config));
        results_url.starts_with("rpc:") || is_ours(results_url)
    }

    fn refused_queue(&self, name: &str) -> Option<String> {
        names::refused_queue(name).or_else(|| refused_name(name))
    }

    fn declare_as(&self, queues: &[QueueSpec]) -> Option<String> {
        self.declarer.declare_as(queues);
        None
    }

    fn open(&self, options: OpenOptions) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        Box::pin(async move {
            for queue in &options.queues {
                check(&self.link.place(), queue)?;
            }
            let link = self.link.beside(options.node.clone());
            let consumer = AmqpConsumer::open(link, self.publisher.clone(), self.declarer.clone(), options).await?;
            Ok(Arc::new(consumer) as Arc<dyn Consumer>)
        })
    }

    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            for out in batch.iter().filter(|out| out.exchange.is_none()) {
                check(&self.link.place(), &out.queue)?;
            }
            publish::publish_all(&self.publisher, &self.link.place(), batch).await
        })
    }

    fn look_cost(&self, queues: usize) -> usize {
        // It is declared once more, passively, as are those of its dead letters and junk.
        3 * queues
    }

    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>> {
        Box::pin(async move {
            // Also where there is nothing to ask: a server that is away has no queues to show.
            self.link.open(Wait::Patience).await?;
            let told = manage::queues(self.link.config()).await?;
            if let (true, Some(told)) = (names.is_empty(), &told) {
                return Ok(told.states());
            }
            let names = if names.is_empty() { self.names() } else { names.to_vec() };
            let mut states = Vec::with_capacity(names.len());
            for name in &names {
                let mut state = self.state(name).await?;
                if let Some(told) = &told {
                    told.complete(&mut state);
                }
                states.push(state);
            }
            Ok(states)
        })
    }

    fn unlisted(&self) -> Option<String> {
        let lists = self.link.config().management.is_some();
        (!lists).then(|| {
            "RabbitMQ names its queues to its management plugin alone, so only those that workers serve are known here; for all, and for \
             what is lent, name the plugin's port in the broker's URL: `?management=15672`"
                .to_owned()
        })
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        Box::pin(async move {
            check(&self.link.place(), queue)?;
            let (open, channel) = self.link.channel(Wait::Patience).await?;
            match open.answer_of_queue(channel.queue_purge(queue.into(), QueuePurgeOptions::default())).await {
                Ok(count) => {
                    let _ = channel.close(200, "".into()).await;
                    Ok(count.into())
                }
                Err(error) if is_not_found(&error) => Ok(0),
                Err(error) => Err(transient(&open.place, &words(&error))),
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.schedules.close().await;
            self.rpc.close().await;
            self.bus.close().await;
            self.link.close().await;
        })
    }
}

impl DeadLetters for AmqpBroker {
    fn dead<'a>(&'a self, queue: Option<&'a str>) -> BoxFuture<'a, Result<Vec<DeadLetter>, BrokerError>> {
        Box::pin(async move {
            let queues = match queue {
                Some(queue) => vec![queue.into()],
                None => match manage::queues(self.link.config()).await? {
                    Some(told) => told.states().into_iter().map(|state| state.name.into()).collect(),
                    None => self.names(),
                },
            };
            let mut letters = Vec::new();
            for queue in queues {
                letters.extend(dead::list(&self.link, &queue).await?);
            }
            Ok(letters)
        })
    }

    fn bury<'a>(&'a self, letters: &'a [DeadLetter], retry: bool) -> BoxFuture<'a, Result<u64, BrokerError>> {
        Box::pin(async move {
            let mut by_queue: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            letters.iter().for_each(|letter| by_queue.entry(&letter.queue).or_default().push(&letter.key));
            let mut count = 0;
            for (queue, keys) in by_queue {
                count += dead::bury(&self.link, &self.publisher, &queue.into(), &keys, retry).await?;
            }
            Ok(count)
        })
    }
}

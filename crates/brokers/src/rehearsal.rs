//! A broker that does no more than RabbitMQ can, with the results of another store: for tests, and
//! to see what a new broker has to write.
//!
//! Its server has queues that are first in, first out for each priority; deliveries by tag, which
//! are acknowledged, or given back to their place; a mark on what was delivered before, and a count
//! of the deliveries that ended with their connection. It cannot be asked for a message by its id,
//! shows nothing of what waits, runs no scripts, holds nothing back for a time, and keeps no
//! results. Bus, rates and revoked ids are those of the store beside it. It keeps messages in parts
//! ([`MessageParts`](longshore_celery::MessageParts)), as AMQP carries them.
//!
//! Layout: `rehearsal/server.rs`: the model of a server; `rehearsal/consumer.rs`: claiming and
//! ending

mod consumer;
mod server;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;

use self::{
    consumer::RehearsalConsumer,
    server::{Parcel, Server},
};
use crate::{
    broker::{Broker, Consumer, OpenOptions, QueueState},
    connected::Connected,
    crash::forgiven,
    error::BrokerError,
    halves::{DeadLetter, DeadLetters},
    message::Outgoing,
    names,
};

/// The header with the reason of a dead letter.
const REASON: &str = "x-reason";
/// The header with the second since 1970 in which it died, and the one with its name.
const DIED: &str = "x-died";
const KEY: &str = "x-key";
/// Beginning of the names of the queues of dead letters.
const DEAD: &str = "dead.";

/// A broker in the memory of this process.
#[derive(Clone)]
pub struct Rehearsal {
    url: Arc<str>,
    server: Arc<Server>,
}

impl Rehearsal {
    /// Opens the broker of this name. One per process and name.
    pub fn open(name: &str) -> Self {
        static NAMED: Mutex<Option<HashMap<String, Arc<Server>>>> = Mutex::new(None);
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        let server = named.get_or_insert_default().entry(name.to_owned()).or_default().clone();
        Self { url: format!("rehearsal://{name}").into(), server }
    }

    /// Loses all connections: what was delivered on them is delivered again.
    pub fn lose_connections(&self) {
        self.server.lose_all();
    }

    /// Takes this as the broker, and the results from a store, with the halves that this one lacks.
    #[must_use]
    pub fn beside(self, store: Connected) -> Connected {
        let broker = Arc::new(self);
        let mut connected = Connected::beside(broker.clone(), store);
        connected.letters = Some(broker);
        connected
    }

    /// Takes the dead letters of a queue one by one, decides of each, and gives back those that
    /// stay.
    fn each_dead(&self, queue: &str, mut is_over: impl FnMut(Parcel) -> bool) {
        let connection = self.server.connect();
        let (mut stay, dead) = (Vec::new(), dead_queue(queue));
        while let Some(delivery) = self.server.get(connection, &dead) {
            match is_over(delivery.parcel) {
                true => self.server.ack(delivery.tag),
                false => stay.push(delivery.tag),
            }
        }
        stay.into_iter().for_each(|tag| self.server.nack(tag));
        self.server.lose(connection);
    }
}

/// Returns the headers of a dead letter.
fn dead_headers(tag: u64, reason: &str) -> BTreeMap<&'static str, String> {
    let died = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    [(REASON, reason.to_owned()), (DIED, died.to_string()), (KEY, tag.to_string())].into()
}

/// Returns the queue of another's dead letters.
fn dead_queue(queue: &str) -> String {
    format!("{DEAD}{queue}")
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, BrokerError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Broker for Rehearsal {
    fn url(&self) -> &str {
        &self.url
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        ready((format!("rehearsal {}", env!("CARGO_PKG_VERSION")), Duration::ZERO))
    }

    fn open(&self, options: OpenOptions) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        if let Err(error) = names::check("", options.queues.iter().map(|queue| &**queue)) {
            return Box::pin(std::future::ready(Err(error)));
        }
        ready(Arc::new(RehearsalConsumer::new(self.server.clone(), options)) as Arc<dyn Consumer>)
    }

    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        if let Err(error) = names::check_all("", batch) {
            return Box::pin(std::future::ready(Err(error)));
        }
        batch.iter().for_each(|out| self.server.publish(&out.queue, Parcel::new(out.raw.clone(), out.priority)));
        ready(())
    }

    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>> {
        let all = || self.server.names().into_iter().filter(|name| !name.starts_with(DEAD)).collect();
        let names = if names.is_empty() { all() } else { names.iter().map(ToString::to_string).collect::<Vec<_>>() };
        let state = |name: String| {
            let (waiting, held) = self.server.count(&name);
            let (dead, _) = self.server.count(&dead_queue(&name));
            QueueState { name, waiting, held, dead, ..QueueState::default() }
        };
        ready(names.into_iter().map(state).collect())
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        ready(self.server.purge(queue))
    }
}

/// Goes through the queue of dead letters message by message, as RabbitMQ's own tools do it.
impl DeadLetters for Rehearsal {
    fn dead<'a>(&'a self, queue: Option<&'a str>) -> BoxFuture<'a, Result<Vec<DeadLetter>, BrokerError>> {
        let all = || self.server.names().iter().filter_map(|name| name.strip_prefix(DEAD).map(str::to_owned)).collect();
        let mut letters = Vec::new();
        for queue in queue.map_or_else(all, |queue| vec![queue.to_owned()]) {
            self.each_dead(&queue, |mut parcel| {
                let reason = parcel.headers.remove(REASON).unwrap_or_default();
                let at = parcel.headers.remove(DIED).and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
                let (key, at) = (parcel.headers.remove(KEY).unwrap_or_default(), SystemTime::UNIX_EPOCH + Duration::from_secs(at));
                letters.push(DeadLetter { key, queue: queue.clone(), at, reason, crashes: 0, raw: parcel.body.raw() });
                false
            });
        }
        letters.reverse();
        ready(letters)
    }

    fn bury<'a>(&'a self, letters: &'a [DeadLetter], retry: bool) -> BoxFuture<'a, Result<u64, BrokerError>> {
        let mut left: Vec<&DeadLetter> = letters.iter().collect();
        let mut queues: Vec<&str> = letters.iter().map(|letter| &*letter.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        for queue in queues {
            self.each_dead(queue, |parcel| {
                let Some(at) = left.iter().position(|letter| letter.queue == queue && parcel.headers.get(KEY) == Some(&letter.key)) else {
                    return false;
                };
                left.remove(at);
                if retry {
                    self.server.publish(queue, Parcel::new(forgiven(&parcel.body.raw()), parcel.priority));
                }
                true
            });
        }
        ready((letters.len() - left.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use longshore_core::Receipt;

    use super::Rehearsal;
    use crate::{
        conformance::Subject,
        message::{End, Ended, Finish, Outgoing},
    };

    fn subject() -> Subject {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("conformance-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite:{}?sync=normal", directory.path().join("results.db").display());
        let store = move || crate::connect(&url, None).expect("the file opens");
        Subject {
            connect: Box::new(move || Rehearsal::open(&name).beside(store())),
            keep: Box::new(directory),
            lacks: crate::conformance::Lacks::default(),
        }
    }

    // Without `priorities`: the smaller number is first in a queue, not among queues. Without
    // `inspect`: nobody can look. Without `crashes`: the server counts for all that were delivered,
    // and nobody is accused. Without `one_store`: results are elsewhere.
    crate::conformance!(conforms, subject(), core, turns, letters, junk, bus, shared, schedules, results, chords);

    #[tokio::test]
    async fn what_was_delivered_on_a_lost_connection_comes_again_in_another_term_and_is_refused() {
        let broker = Rehearsal::open("lost");
        let connected = broker.clone().beside(crate::connect("memory://rehearsal-lost", None).unwrap());
        connected
            .broker
            .publish(&[Outgoing { queue: "q".into(), exchange: None, priority: 0, due: None, raw: b"{}".to_vec() }])
            .await
            .unwrap();
        let options = crate::OpenOptions::new("w@test", ["q"]);
        let consumer = connected.broker.open(options).await.unwrap();
        let mut claimed = Vec::new();
        consumer.claim(1, &mut claimed).await.unwrap();
        let lease = consumer.lease().unwrap();
        let before = lease.term(crate::lease::clock());
        broker.lose_connections();
        consumer.claim(1, &mut claimed).await.unwrap();
        assert_ne!(lease.term(crate::lease::clock()), before);
        assert_eq!((claimed[1].redelivered, claimed[1].crashes), (true, 1));
        let end = |receipt: Receipt| Finish { receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Ack };
        let ended = consumer.finish(&[end(claimed[0].receipt), end(claimed[1].receipt)]).await.unwrap();
        assert_eq!(ended, [Ended::Refused, Ended::Done]);
    }
}

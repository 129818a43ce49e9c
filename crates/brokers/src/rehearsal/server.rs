//! The model of a server: queues, deliveries with tags, connections. Nothing can be asked of it
//! that RabbitMQ would not do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use longshore_celery::MessageParts;
use tokio::sync::Notify;

/// The deepest nesting of headers and properties.
const DEPTH: usize = 128;

/// The body of a message. In parts, as on AMQP, where it is a message at all.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Parts(MessageParts),
    Bytes(Vec<u8>),
}

impl Body {
    fn of(raw: Vec<u8>) -> Self {
        MessageParts::from_envelope(&raw, DEPTH).map_or_else(|_| Self::Bytes(raw), Self::Parts)
    }

    /// Returns the envelope.
    pub(super) fn raw(&self) -> Vec<u8> {
        match self {
            Self::Parts(parts) => parts.to_envelope(),
            Self::Bytes(raw) => raw.clone(),
        }
    }
}

/// A message as a server keeps it: its body, and what stands in its properties and headers.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) body: Body,
    /// 0 to 9; 0 is served first.
    pub(super) priority: u8,
    /// Headers that a client set.
    pub(super) headers: BTreeMap<&'static str, String>,
    /// Set by the server when it was delivered before.
    pub(super) redelivered: bool,
    /// Number of deliveries that ended with their connection (`x-delivery-count`).
    pub(super) lost: u32,
    /// Its place among those of its priority.
    place: u64,
}

impl Parcel {
    pub(super) fn new(raw: Vec<u8>, priority: u8) -> Self {
        Self { body: Body::of(raw), priority: priority.min(9), headers: BTreeMap::new(), redelivered: false, lost: 0, place: 0 }
    }

    /// Returns it as one that was never delivered.
    pub(super) fn fresh(&self) -> Self {
        Self { body: self.body.clone(), priority: self.priority, headers: BTreeMap::new(), redelivered: false, lost: 0, place: 0 }
    }

    pub(super) fn with(self, headers: BTreeMap<&'static str, String>) -> Self {
        Self { headers, ..self }
    }
}

/// A message as it is delivered.
pub(super) struct Delivery {
    pub(super) tag: u64,
    pub(super) parcel: Parcel,
}

struct Unacked {
    connection: u64,
    queue: String,
    parcel: Parcel,
}

#[derive(Default)]
struct ServerState {
    queues: BTreeMap<String, [VecDeque<Parcel>; 10]>,
    unacked: BTreeMap<u64, Unacked>,
    connections: BTreeSet<u64>,
    last: u64,
}

/// A server in the memory of this process.
#[derive(Default)]
pub(super) struct Server {
    state: Mutex<ServerState>,
    /// Something may be there to be delivered, or a connection is gone.
    pub(super) changed: Notify,
}

impl ServerState {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Puts a message back at the place that it had.
    fn requeue(&mut self, queue: String, mut parcel: Parcel, lost: bool) {
        parcel.redelivered = true;
        parcel.lost += u32::from(lost);
        let line = &mut self.queues.entry(queue).or_default()[usize::from(parcel.priority)];
        let at = line.partition_point(|other| other.place < parcel.place);
        line.insert(at, parcel);
    }
}

impl Server {
    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step<T>(&self, step: impl FnOnce(&mut ServerState) -> T) -> T {
        let value = step(&mut self.state());
        self.changed.notify_waiters();
        value
    }

    /// Opens a connection.
    pub(super) fn connect(&self) -> u64 {
        let mut state = self.state();
        let connection = state.number();
        state.connections.insert(connection);
        connection
    }

    pub(super) fn is_open(&self, connection: u64) -> bool {
        self.state().connections.contains(&connection)
    }

    /// Loses a connection: what was delivered on it is redelivered.
    pub(super) fn lose(&self, connection: u64) {
        self.step(|state| {
            state.connections.remove(&connection);
            let (gone, kept) = std::mem::take(&mut state.unacked).into_iter().partition(|(_, unacked)| unacked.connection == connection);
            state.unacked = kept;
            let gone: BTreeMap<u64, Unacked> = gone;
            gone.into_values().for_each(|unacked| state.requeue(unacked.queue, unacked.parcel, true));
        });
    }

    /// Loses all connections.
    pub(super) fn lose_all(&self) {
        let all = self.state().connections.clone();
        all.into_iter().for_each(|connection| self.lose(connection));
    }

    /// Puts a message into a queue, and confirms it.
    pub(super) fn publish(&self, queue: &str, parcel: Parcel) {
        self.step(|state| {
            let place = state.number();
            let line = &mut state.queues.entry(queue.to_owned()).or_default()[usize::from(parcel.priority)];
            line.push_back(Parcel { place, ..parcel });
        });
    }

    /// Delivers the next message of a queue (`basic.get`).
    pub(super) fn get(&self, connection: u64, queue: &str) -> Option<Delivery> {
        let mut state = self.state();
        if !state.connections.contains(&connection) {
            return None;
        }
        let parcel = state.queues.get_mut(queue)?.iter_mut().find_map(VecDeque::pop_front)?;
        let tag = state.number();
        state.unacked.insert(tag, Unacked { connection, queue: queue.to_owned(), parcel: parcel.clone() });
        Some(Delivery { tag, parcel })
    }

    /// Returns whether a delivery is still this connection's.
    pub(super) fn has(&self, connection: u64, tag: u64) -> bool {
        self.state().unacked.get(&tag).is_some_and(|unacked| unacked.connection == connection)
    }

    /// Acknowledges a delivery.
    pub(super) fn ack(&self, tag: u64) {
        self.state().unacked.remove(&tag);
    }

    /// Gives a delivery back (`basic.nack` with `requeue`), which RabbitMQ does not count.
    pub(super) fn nack(&self, tag: u64) {
        self.step(|state| {
            if let Some(Unacked { queue, parcel, .. }) = state.unacked.remove(&tag) {
                state.requeue(queue, parcel, false);
            }
        });
    }

    /// Returns how many messages are ready, and how many are delivered and not acknowledged.
    pub(super) fn count(&self, queue: &str) -> (u64, u64) {
        let state = self.state();
        let ready = state.queues.get(queue).map_or(0, |lines| lines.iter().map(VecDeque::len).sum());
        (ready as u64, state.unacked.values().filter(|unacked| unacked.queue == queue).count() as u64)
    }

    /// Returns the names of all queues.
    pub(super) fn names(&self) -> Vec<String> {
        self.state().queues.keys().cloned().collect()
    }

    /// Throws away what is ready; how much.
    pub(super) fn purge(&self, queue: &str) -> u64 {
        let lines = self.state().queues.remove(queue).unwrap_or_default();
        lines.iter().map(|line| line.len() as u64).sum()
    }
}

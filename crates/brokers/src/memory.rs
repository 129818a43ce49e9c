//! Queues and results in the memory of this process: for tests and trying things out, and the
//! plainest statement of what a broker does.
//!
//! All of it is one state behind one lock; every operation is one step. What it holds dies with the
//! process. There are no leases: a consumer that is dropped without
//! [`leave`](crate::Consumer::leave) is dead at once.
//!
//! Layout:
//! - `memory/state.rs`: the state and its steps, without waiting
//! - `memory/consumer.rs`: claiming and waiting
//! - `memory/shared.rs`: rates and revoked ids; `memory/sends.rs`: what is sent once;
//!   `memory/schedules.rs`: schedules
//! - `memory/results.rs`: results and chords

mod consumer;
pub(crate) mod results;
mod schedules;
mod sends;
mod shared;
pub(crate) mod state;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_core::Rate;
use tokio::sync::{Notify, mpsc};

use self::{
    consumer::MemoryConsumer,
    state::{BusListener, MemoryState, Message},
};
use crate::{
    broker::{Broker, Consumer, OpenOptions, QueueState},
    crash::forgiven,
    ends::Looked,
    error::BrokerError,
    halves::{
        Bus, DeadLetter, DeadLetters, Doing, Fired, Firing, Found, Inspect, Leading, LeftOut, LimitState, ScheduleBook, SchedulerName,
        Schedules, SharedState, Subscription,
    },
    json,
    message::Outgoing,
    names,
    rates::{Bucket, Slot},
    send_notes::{NotedEnd, NotedSend, SendNote},
};

/// Messages beyond which a subscription that does not keep up loses those that come.
const MOST_UNREAD: usize = 10_000;

/// Queues and results in memory.
pub struct Memory {
    url: String,
    state: Mutex<MemoryState>,
    /// Something may be there to be claimed.
    changed: Notify,
}

/// Returns the memory of this name. One per process and name; it lives as long as the process.
pub fn open(name: &str) -> Arc<Memory> {
    static NAMED: Mutex<Option<HashMap<String, Arc<Memory>>>> = Mutex::new(None);
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(
        named
            .get_or_insert_default()
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Memory { url: format!("memory://{name}"), state: Mutex::default(), changed: Notify::new() })),
    )
}

impl Memory {
    pub(crate) fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one step on the state, and wakes those who wait for messages.
    fn step<T>(&self, step: impl FnOnce(&mut MemoryState) -> T) -> T {
        let value = step(&mut self.lock());
        self.changed.notify_waiters();
        value
    }

    fn listen(self: &Arc<Self>, exchange: &str, pattern: &str) -> Subscription {
        let (sender, messages) = mpsc::channel(MOST_UNREAD);
        let mut state = self.lock();
        let number = state.number();
        let left_out = LeftOut::default();
        let (exchange, pattern) = (exchange.to_owned(), pattern.to_owned());
        state.listeners.push(BusListener { number, exchange, pattern, sender, left_out: left_out.clone() });
        Subscription { messages, left_out, guard: Box::new(MemoryListening { memory: Arc::clone(self), number }) }
    }
}

struct MemoryListening {
    memory: Arc<Memory>,
    number: u64,
}

impl Drop for MemoryListening {
    fn drop(&mut self) {
        self.memory.lock().listeners.retain(|listener| listener.number != self.number);
    }
}

/// A handle to a [`Memory`] that is a broker and a result backend.
#[derive(Clone)]
pub struct MemoryHandle(pub(crate) Arc<Memory>);

impl MemoryHandle {
    /// Opens the memory of this name.
    pub fn open(name: &str) -> Self {
        Self(open(name))
    }
}

pub(crate) fn version() -> (String, Duration) {
    (format!("memory {}", env!("CARGO_PKG_VERSION")), Duration::ZERO)
}

fn waits(place: u64, of: u64, message: &Message) -> Doing {
    Doing::Waiting { place, of, since: SystemTime::now().checked_sub(message.at.elapsed()) }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, BrokerError>> {
    std::future::ready(Ok(value)).boxed()
}

impl Broker for MemoryHandle {
    fn url(&self) -> &str {
        &self.0.url
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        ready(version())
    }

    fn is_store_of(&self, results_url: &str) -> bool {
        results_url.trim_end_matches('/') == self.0.url.trim_end_matches('/')
    }

    fn open(&self, options: OpenOptions) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        if let Err(error) = names::check("", options.queues.iter().map(|queue| &**queue)) {
            return std::future::ready(Err(error)).boxed();
        }
        ready(Arc::new(MemoryConsumer::new(Arc::clone(&self.0), options)) as Arc<dyn Consumer>)
    }

    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        if let Err(error) = names::check_all("", batch) {
            return std::future::ready(Err(error)).boxed();
        }
        self.0.step(|state| batch.iter().for_each(|message| state.publish(message)));
        ready(())
    }

    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>> {
        let state = self.0.lock();
        let names = if names.is_empty() { state.names() } else { names.to_vec() };
        ready(names.iter().map(|name| state.queue(name)).collect())
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        ready(self.0.lock().take_all(queue).len() as u64)
    }
}

impl Bus for MemoryHandle {
    fn broadcast<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.lock().tell(exchange, routing_key, raw);
        ready(())
    }

    fn broadcast_counted<'a>(
        &'a self,
        exchange: &'a str,
        routing_key: &'a str,
        raw: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<u64>, BrokerError>> {
        ready(Some(self.0.lock().tell(exchange, routing_key, raw)))
    }

    fn subscribe<'a>(&'a self, exchange: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        ready(self.0.listen(exchange, pattern))
    }

    fn reply<'a>(&'a self, exchange: &'a str, routing_key: &'a str, raw: &'a [u8]) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.lock().tell(exchange, routing_key, raw);
        ready(())
    }

    fn replies<'a>(&'a self, oid: &'a str) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        ready(self.0.listen(crate::REPLIES, oid))
    }
}

impl Inspect for MemoryHandle {
    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let mut state = self.0.lock();
        state.promote(SystemTime::now());
        ready(state.waiting(queue).take(most).map(|message| message.raw.clone()).collect())
    }

    fn look_ahead<'a>(&'a self, queue: &'a str, most: usize, words: &'static [&'static [u8]]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let mut state = self.0.lock();
        state.promote(SystemTime::now());
        let mut looked = Looked::default();
        ready(state.waiting(queue).take(most).any(|message| looked.goes_on() && looked.finds(&message.raw, words)))
    }

    fn later<'a>(&'a self, queues: &'a [Arc<str>], most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let mut state = self.0.lock();
        state.promote(SystemTime::now());
        ready(
            state.later.values().filter(|message| queues.contains(&message.queue)).take(most).map(|message| message.raw.clone()).collect(),
        )
    }

    fn transfer<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        ready(self.0.step(|state| {
            let messages = if from == to { Vec::new() } else { state.take_all(from) };
            let count = messages.len() as u64;
            let to: Arc<str> = to.into();
            messages.into_iter().for_each(|message| state.back(Message { queue: Arc::clone(&to), ..message }, false));
            count
        }))
    }

    fn pause<'a>(&'a self, queue: &'a str, by: Option<&'a str>) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.step(|state| {
            state.paused.remove(queue);
            if let Some(by) = by {
                state.paused.insert(queue.into(), (by.to_owned(), SystemTime::now()));
            }
        });
        ready(())
    }

    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        let mut state = self.0.lock();
        state.promote(SystemTime::now());
        let is = |raw: &[u8]| json::task_id(raw) == Some(id);
        let mut found = Vec::new();
        for name in state.names() {
            let of = state.waiting(&name).count() as u64;
            for (place, message) in (1_u64..).zip(state.waiting(&name)).filter(|(_, message)| is(&message.raw)) {
                found.push(Found { queue: name.to_string(), doing: waits(place, of, message), raw: message.raw.clone() });
            }
        }
        for ((due, _), message) in state.later.iter().filter(|(_, message)| is(&message.raw)) {
            found.push(Found { queue: message.queue.to_string(), doing: Doing::Later { due: *due }, raw: message.raw.clone() });
        }
        for held in state.held.values().filter(|held| is(&held.message.raw)) {
            let doing = Doing::Held { by: Some(held.node.to_string()), since: Some(held.since) };
            found.push(Found { queue: held.message.queue.to_string(), doing, raw: held.message.raw.clone() });
        }
        for dead in state.dead.iter().filter(|dead| is(&dead.raw)) {
            let doing = Doing::Dead { reason: dead.reason.clone() };
            found.push(Found { queue: dead.queue.clone(), doing, raw: dead.raw.clone() });
        }
        ready(found)
    }

    fn list<'a>(&'a self, queue: Option<&'a str>, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        let mut state = self.0.lock();
        state.promote(SystemTime::now());
        let names = queue.map_or_else(|| state.names(), |name| vec![name.into()]);
        let mut found = Vec::new();
        for name in names {
            let mut add = |doing, raw: &Vec<u8>| found.push(Found { queue: name.to_string(), doing, raw: raw.clone() });
            for held in state.held.values().filter(|held| held.message.queue == name).take(most) {
                add(Doing::Held { by: Some(held.node.to_string()), since: Some(held.since) }, &held.message.raw);
            }
            let of = state.waiting(&name).count() as u64;
            for (place, message) in (1_u64..).zip(state.waiting(&name)).take(most) {
                add(waits(place, of, message), &message.raw);
            }
            for ((due, _), message) in state.later.iter().filter(|(_, message)| message.queue == name).take(most) {
                add(Doing::Later { due: *due }, &message.raw);
            }
        }
        ready(found)
    }
}

impl DeadLetters for MemoryHandle {
    fn dead<'a>(&'a self, queue: Option<&'a str>) -> BoxFuture<'a, Result<Vec<DeadLetter>, BrokerError>> {
        let state = self.0.lock();
        ready(state.dead.iter().rev().filter(|dead| queue.is_none_or(|name| name == dead.queue)).cloned().collect())
    }

    fn bury<'a>(&'a self, letters: &'a [DeadLetter], retry: bool) -> BoxFuture<'a, Result<u64, BrokerError>> {
        ready(self.0.step(|state| {
            let mut count = 0;
            for letter in letters {
                let Some(at) = state.dead.iter().position(|dead| dead.key == letter.key) else { continue };
                let dead = state.dead.remove(at);
                count += 1;
                if retry {
                    let queue = dead.queue.as_str().into();
                    let priority = state.dead_priority.remove(&dead.key).unwrap_or(0);
                    state.back(Message { queue, priority, raw: forgiven(&dead.raw), crashes: 0, lent: true, at: Instant::now() }, false);
                } else {
                    state.dead_priority.remove(&dead.key);
                }
            }
            count
        }))
    }
}

impl SharedState for MemoryHandle {
    fn reserve<'a>(&'a self, limit: &'a str, rate: Rate, count: usize) -> BoxFuture<'a, Result<Vec<Slot>, BrokerError>> {
        ready(self.0.lock().shared.reserve(limit, Bucket::of(rate), count))
    }

    fn set_limit<'a>(&'a self, limit: &'a str, rate: Option<Rate>) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.lock().shared.set_limit(limit, rate);
        ready(())
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<LimitState>, BrokerError>> {
        ready(self.0.lock().shared.limits())
    }

    fn revoke<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let mut state = self.0.lock();
        state.shared.revoke(ids);
        state.end_early(ids);
        ready(())
    }

    fn revoked(&self) -> BoxFuture<'_, Result<Vec<String>, BrokerError>> {
        ready(self.0.lock().shared.revoked())
    }

    fn note_runs<'a>(&'a self, worker: &'a str, ids: &'a [String], time: Duration) -> BoxFuture<'a, Result<Vec<bool>, BrokerError>> {
        ready(self.0.lock().shared.note_runs(worker, ids, time))
    }

    fn forget_runs<'a>(&'a self, worker: &'a str, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.lock().shared.forget_runs(worker, ids);
        ready(())
    }

    fn note_send<'a>(&'a self, note: &'a SendNote) -> BoxFuture<'a, Result<NotedSend, BrokerError>> {
        ready(self.0.lock().shared.sends.note(note))
    }

    fn end_send<'a>(&'a self, note: &'a SendNote, ending: NotedEnd) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.lock().shared.sends.end(note, ending);
        ready(())
    }
}

impl Schedules for MemoryHandle {
    fn store(&self) -> &str {
        &self.0.url
    }

    fn put<'a>(&'a self, name: &'a str, spec: &'a [u8], at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        ready(self.0.lock().schedules.put(name, spec, at))
    }

    fn amend<'a>(&'a self, name: &'a str, before: &'a [u8], spec: &'a [u8]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        ready(self.0.lock().schedules.amend(name, before, spec))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        ready(self.0.lock().schedules.remove(name))
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, by: Option<&'a str>, at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        ready(self.0.lock().schedules.pause(name, by, at))
    }

    fn schedules(&self) -> BoxFuture<'_, Result<ScheduleBook, BrokerError>> {
        ready(self.0.lock().schedules.book())
    }

    fn lead<'a>(&'a self, scheduler: &'a SchedulerName, term: Duration) -> BoxFuture<'a, Result<Leading, BrokerError>> {
        ready(self.0.lock().schedules.lead(scheduler, term))
    }

    fn resign<'a>(&'a self, scheduler: &'a SchedulerName) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.0.lock().schedules.resign(scheduler);
        ready(())
    }

    fn fire<'a>(&'a self, firing: &'a Firing) -> BoxFuture<'a, Result<Fired, BrokerError>> {
        if let Err(error) = names::check_all("", firing.message.as_slice()) {
            return std::future::ready(Err(error)).boxed();
        }
        ready(self.0.step(|state| {
            let fired = state.schedules.fire(firing);
            if fired == Fired::Done {
                firing.message.iter().for_each(|message| state.publish(message));
            }
            fired
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::conformance::Subject;

    fn subject() -> Subject {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let url = format!("memory://conformance-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Subject {
            connect: Box::new(move || crate::connect(&url, None).expect("memory connects")),
            keep: Box::new(()),
            lacks: crate::conformance::Lacks::default(),
        }
    }

    crate::conformance!(conforms, subject());
}

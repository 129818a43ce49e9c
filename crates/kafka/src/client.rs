//! The one thread that owns the client. **Its loop is [`serve`], what it does in a turn
//! [`ClientState::turn`].**
//!
//! Partitions have queues of their own, so that a partition, or all of them, can be left unread
//! without the client's `pause()`, which throws away what was fetched. The main queue is served all
//! the time, so that the group never misses us. Rebalances come inside of `poll` (`rebalance.rs`).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_core::SourceError;
use rdkafka::{
    Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    message::Message as _,
    types::RDKafkaRespErr,
};

use self::state::{ClientState, NextTurn};
use crate::{
    counts::RecordCounts,
    heard::{ContextOwner, ListeningContext},
    source::Exchange,
};

mod assigned;
pub(crate) mod commit;
pub(crate) mod dead_letters;
mod rebalance;
pub(crate) mod state;
pub(crate) mod transactor;
mod watch;

/// The main queue is served at least so often; the client is silent for as long at most.
pub(crate) const SERVE: Duration = Duration::from_millis(100);
/// Events of the main queue served in one go.
const EVENTS: usize = 16;
/// Leaving the group may take so long.
pub(crate) const LEAVE: Duration = Duration::from_secs(5);

/// Context that the consumer's client calls back.
pub(crate) type ClientHooks = ListeningContext<ClientShared>;

/// State that these callbacks share with the client's thread.
#[derive(Default)]
pub(crate) struct ClientShared {
    /// The main queue has something.
    pub(crate) events: Arc<AtomicBool>,
    pub(crate) state: Mutex<Option<ClientState>>,
}

impl ClientShared {
    /// Locks the state. Never held while the main queue is polled: that calls back.
    pub(crate) fn state(&self) -> MutexGuard<'_, Option<ClientState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContextOwner for ClientShared {
    fn stats(&self, statistics: &Statistics) {
        if let Some(state) = &mut *self.state() {
            state.look_at_brokers(statistics);
            for seat in state.seats.iter_mut().flatten() {
                let topic = statistics.topics.get(&*seat.lease.topic);
                let told = topic.and_then(|topic| topic.partitions.get(&seat.lease.partition)).map(|partition| partition.ls_offset);
                seat.high = told.filter(|end| *end >= 0).or(seat.high);
            }
        }
    }
}

impl ConsumerContext for ClientHooks {
    fn rebalance(&self, _: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if let Some(state) = &mut *self.own.state() {
            state.rebalance(what, partitions);
        }
    }
}

/// Serves until it is told to finish. In the end the group is left and the client closed.
pub(crate) fn serve(consumer: Arc<BaseConsumer<ClientHooks>>, exchange: &Exchange) -> RecordCounts {
    let served = catch_unwind(AssertUnwindSafe(|| turns(&consumer)));
    if served.is_err() {
        exchange.end(Err(SourceError::fatal("the thread of Kafka's client panicked")));
    }
    // ClientState and client hold each other.
    let state = consumer.context().own.state().take();
    let counts = state.map_or_else(|| exchange.board.counts(), ClientState::close);
    if served.is_ok_and(|answered| answered) {
        // The last one closes it.
        drop(consumer);
    } else {
        // That waits for a broker that does not answer.
        let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(consumer));
    }
    counts
}

/// Tells whether the broker has answered to the last commit.
fn turns(consumer: &BaseConsumer<ClientHooks>) -> bool {
    let hooks = consumer.context().clone();
    let mut served: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if hooks.own.events.swap(false, Ordering::AcqRel) || served.is_none_or(|served| now.duration_since(served) >= SERVE) {
            served = Some(now);
            poll(consumer, &hooks);
        }
        let then = match &mut *hooks.own.state() {
            None => return true,
            Some(state) if state.finishing => break,
            Some(state) => state.turn(Instant::now()),
        };
        if let NextTurn::Sleep(most) = then {
            std::thread::park_timeout(most.min(SERVE));
        }
    }
    let answered = hooks.own.state().as_mut().is_none_or(ClientState::last_words);
    consumer.unsubscribe();
    let until = Instant::now() + if answered { LEAVE } else { Duration::ZERO };
    while Instant::now() < until && hooks.own.state().as_ref().is_some_and(|state| state.seats.iter().any(Option::is_some)) {
        poll(consumer, &hooks);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    if let Some(state) = &mut *hooks.own.state() {
        // What is left is nobody's: the group did not take it back.
        (0..state.seats.len()).for_each(|at| state.abandon(at));
    }
    answered
}

/// Serves the main queue: rebalances, commits, statistics and complaints come in here.
fn poll(consumer: &BaseConsumer<ClientHooks>, hooks: &ClientHooks) {
    // One call serves one event, and does not tell whether it did.
    for _ in 0..EVENTS {
        match consumer.poll(Duration::ZERO) {
            None => {}
            Some(Err(error)) => {
                if let Some(state) = &mut *hooks.own.state() {
                    state.complain(&error);
                }
            }
            Some(Ok(message)) => {
                // None comes this way, since queues are split off before their partition is
                // assigned.
                if let Some(state) = &mut *hooks.own.state() {
                    let place = format!("{}[{}]@{}", message.topic(), message.partition(), message.offset());
                    state.exchange.end(Err(SourceError::fatal(format!("{place} came by the wrong way; this is a fault of longshore"))));
                }
            }
        }
    }
}

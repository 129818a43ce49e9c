//! The one thread that owns the client. **Its loop is [`serve`], what it does in a turn [`Desk::turn`].**
//!
//! Partitions have queues of their own, so that a partition, or all of them, can be left unread without the client's `pause()`, which throws away what was
//! fetched. The main queue is served all the time, so that the group never misses us. Rebalances come inside of `poll` (`rebalance.rs`).

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

use super::{
    desk::{Desk, Then},
    heard::{Hears, Own},
    source::Exchange,
    view::Counts,
};

/// The main queue is served at least so often; the client is silent for as long at most.
pub(super) const SERVE: Duration = Duration::from_millis(100);
/// Events of the main queue served in one go.
const EVENTS: usize = 16;
/// Leaving the group may take so long.
pub(super) const LEAVE: Duration = Duration::from_secs(5);

/// What the client calls back.
pub(super) type Hooks = Hears<Shared>;

/// What those calls find.
#[derive(Default)]
pub(super) struct Shared {
    /// The main queue has something.
    pub(super) events: Arc<AtomicBool>,
    pub(super) desk: Mutex<Option<Desk>>,
}

impl Shared {
    /// Never held while the main queue is polled: that calls back.
    pub(super) fn desk(&self) -> MutexGuard<'_, Option<Desk>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Own for Shared {
    fn stats(&self, statistics: &Statistics) {
        if let Some(desk) = &mut *self.desk() {
            desk.look_at_brokers(statistics);
            for seat in desk.seats.iter_mut().flatten() {
                let topic = statistics.topics.get(&*seat.lease.topic);
                let told = topic.and_then(|topic| topic.partitions.get(&seat.lease.partition)).map(|partition| partition.ls_offset);
                seat.high = told.filter(|end| *end >= 0).or(seat.high);
            }
        }
    }
}

impl ConsumerContext for Hooks {
    fn rebalance(&self, _: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if let Some(desk) = &mut *self.own.desk() {
            desk.rebalance(what, partitions);
        }
    }
}

/// Serves until it is told to finish. In the end the group is left and the client closed.
pub(super) fn serve(consumer: Arc<BaseConsumer<Hooks>>, exchange: &Exchange) -> Counts {
    let served = catch_unwind(AssertUnwindSafe(|| turns(&consumer)));
    if served.is_err() {
        exchange.end(Err(SourceError::fatal("the thread of Kafka's client panicked")));
    }
    // Desk and client hold each other.
    let desk = consumer.context().own.desk().take();
    let counts = desk.map_or_else(|| exchange.board.counts(), Desk::close);
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
fn turns(consumer: &BaseConsumer<Hooks>) -> bool {
    let hooks = consumer.context().clone();
    let mut served: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if hooks.own.events.swap(false, Ordering::AcqRel) || served.is_none_or(|served| now.duration_since(served) >= SERVE) {
            served = Some(now);
            poll(consumer, &hooks);
        }
        let then = match &mut *hooks.own.desk() {
            None => return true,
            Some(desk) if desk.finishing => break,
            Some(desk) => desk.turn(Instant::now()),
        };
        if let Then::Sleep(most) = then {
            std::thread::park_timeout(most.min(SERVE));
        }
    }
    let answered = hooks.own.desk().as_mut().is_none_or(Desk::last_words);
    consumer.unsubscribe();
    let until = Instant::now() + if answered { LEAVE } else { Duration::ZERO };
    while Instant::now() < until && hooks.own.desk().as_ref().is_some_and(|desk| desk.seats.iter().any(Option::is_some)) {
        poll(consumer, &hooks);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    if let Some(desk) = &mut *hooks.own.desk() {
        // What is left is nobody's: the group did not take it back.
        (0..desk.seats.len()).for_each(|at| desk.abandon(at));
    }
    answered
}

/// Serves the main queue: rebalances, commits, statistics and complaints come in here.
fn poll(consumer: &BaseConsumer<Hooks>, hooks: &Hooks) {
    // One call serves one event, and does not tell whether it did.
    for _ in 0..EVENTS {
        match consumer.poll(Duration::ZERO) {
            None => {}
            Some(Err(error)) => {
                if let Some(desk) = &mut *hooks.own.desk() {
                    desk.complain(&error);
                }
            }
            Some(Ok(message)) => {
                // None comes this way, since queues are split off before their partition is assigned.
                if let Some(desk) = &mut *hooks.own.desk() {
                    let place = format!("{}[{}]@{}", message.topic(), message.partition(), message.offset());
                    desk.exchange.end(Err(SourceError::fatal(format!("{place} came by the wrong way; this is a fault of longshore"))));
                }
            }
        }
    }
}

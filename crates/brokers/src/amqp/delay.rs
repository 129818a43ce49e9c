//! Messages that are held back by the server until their time, with Celery's own queues for it
//! (native delayed delivery, Celery 5.5 and later).
//!
//! There is a queue for each power of two of seconds. A message enters at the top with the bits of
//! its delay in the routing key; in each level a 1 leads through the queue, where it waits for so
//! many seconds, and a 0 past it. Behind the last level the key ends in the queue that is meant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    fail::{Consequence, consequence, is_denied, is_precondition, words},
    link::{Open, locked},
    parts::Parcel,
    properties::RawValue,
    publish::Routed,
};
use crate::{
    news::{News, Notice},
    queue_spec::QueueSpec,
};

/// Levels, each of a bit of the delay: the longest is eight years.
const LEVELS: usize = 28;
/// The exchange behind the last level.
const DELIVERY: &str = "celery_delayed_delivery";

/// Queues and exchanges that hold messages back, as far as they were made.
pub(super) struct Delays {
    notice: Notice,
    made: tokio::sync::Mutex<Made>,
    queues: Mutex<HashMap<Arc<str>, Binding>>,
}

/// Standing of a queue towards messages that are held back for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binding {
    Bound,
    /// It was, and has been made anew since: what is held back for it does not reach it.
    Lost,
    /// We may not bind it.
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Made {
    #[default]
    No,
    Yes,
    /// We may not, or this server cannot.
    Never,
}

fn level(level: usize) -> String {
    format!("celery_delayed_{level}")
}

/// Returns the routing key of a message that is to reach a queue in so many seconds.
fn key(seconds: u64, queue: &str) -> String {
    let bits = (0..LEVELS).rev().map(|bit| if seconds >> bit & 1 == 1 { "1." } else { "0." });
    bits.collect::<String>() + queue
}

/// Returns the whole seconds until then. The rest of a second is the worker's to wait.
pub(super) fn seconds_until(due: SystemTime, now: SystemTime) -> u64 {
    due.duration_since(now).map_or(0, |left| left.as_secs()).min((1 << LEVELS) - 1)
}

/// Makes what is sent so that it reaches its queue in so many seconds.
pub(super) fn routed(queue: &Arc<str>, parcel: Arc<Parcel>, seconds: u64) -> Routed {
    let (exchange, key) = (level(LEVELS - 1).into(), key(seconds, queue).into());
    Routed { exchange, key, queue: None, due: None, mandatory: true, parcel }
}

impl Delays {
    pub(super) fn new(notice: Notice) -> Self {
        Self { notice, made: tokio::sync::Mutex::default(), queues: Mutex::default() }
    }

    /// Returns whether messages for a queue can be held back by the server. Makes what it takes.
    pub(super) async fn reach(&self, open: &Open, queue: &Arc<str>) -> Result<bool, lapin::Error> {
        // Bits and the queue's name are one routing key.
        if queue.len() + 2 * LEVELS > 255 {
            return Ok(false);
        }
        let mut made = self.made.lock().await;
        if *made == Made::No {
            *made = self.make(open).await?;
        }
        if *made == Made::Never {
            return Ok(false);
        }
        match locked(&self.queues).get(queue) {
            Some(Binding::Bound) => return Ok(true),
            Some(Binding::Never) => return Ok(false),
            Some(Binding::Lost) | None => {}
        }
        let channel = open.channel().await?;
        let (name, pattern) = ((**queue).into(), format!("#.{queue}").into());
        let bound = channel.queue_bind(name, DELIVERY.into(), pattern, QueueBindOptions::default(), FieldTable::default());
        match open.answer_of_queue(bound).await {
            Ok(()) => {
                let _ = channel.close(200, "".into()).await;
                locked(&self.queues).insert(queue.clone(), Binding::Bound);
                Ok(true)
            }
            Err(error) if consequence(&error) == Consequence::Connection => Err(error),
            Err(error) => {
                if is_denied(&error) {
                    self.never(open, &error);
                    locked(&self.queues).insert(queue.clone(), Binding::Never);
                }
                // Else it is gone just now, or what was made is.
                Ok(false)
            }
        }
    }

    /// Leads what others hold back for the exchange of a queue on to it, and from it to the queue,
    /// as Celery's workers do: their keys have the bits before them. A direct exchange has no
    /// patterns.
    pub(super) async fn reach_through(&self, open: &Open, spec: &QueueSpec) {
        let Some(exchange) = spec.exchange.as_deref().filter(|_| spec.exchange_type != "direct") else { return };
        let pattern = if spec.routing_key.starts_with('#') { spec.routing_key.clone() } else { format!("#.{}", spec.routing_key) };
        let Ok(channel) = open.channel().await else { return };
        let (options, arguments) = (ExchangeBindOptions::default(), FieldTable::default());
        let led = channel.exchange_bind(exchange.into(), DELIVERY.into(), pattern.as_str().into(), options, arguments);
        let (name, options) = ((*spec.name).into(), QueueBindOptions::default());
        let bound = channel.queue_bind(name, exchange.into(), pattern.as_str().into(), options, FieldTable::default());
        let done = async {
            open.answer_of_queue(led).await?;
            open.answer_of_queue(bound).await
        };
        match done.await {
            Ok(()) => drop(channel.close(200, "".into()).await),
            Err(error) if consequence(&error) == Consequence::Connection => {}
            Err(error) => self.never(open, &error),
        }
    }

    /// Forgets what was made: somebody has deleted it.
    pub(super) async fn forget(&self) {
        *self.made.lock().await = Made::No;
        locked(&self.queues).values_mut().for_each(|binding| *binding = Binding::Lost);
    }

    /// Notes that a queue was deleted, and its binding with it.
    pub(super) fn unbound(&self, queue: &str) {
        if let Some(binding) = locked(&self.queues).get_mut(queue) {
            *binding = Binding::Lost;
        }
    }

    /// Returns whether a queue is to be bound: anew, or in any case.
    pub(super) fn is_to_bind(&self, queue: &str, in_any_case: bool) -> bool {
        match locked(&self.queues).get(queue) {
            Some(Binding::Lost) => true,
            Some(Binding::Bound | Binding::Never) => false,
            None => in_any_case,
        }
    }

    async fn make(&self, open: &Open) -> Result<Made, lapin::Error> {
        match make(open).await {
            Ok(()) => Ok(Made::Yes),
            Err(error) if consequence(&error) == Consequence::Connection => Err(error),
            Err(error) => {
                self.never(open, &error);
                Ok(Made::Never)
            }
        }
    }

    fn never(&self, open: &Open, error: &lapin::Error) {
        let text = format!(
            "rabbitmq at {}: it cannot hold messages back ({}); workers hold what is not due yet, and give it back when the server's consumer_timeout is over",
            open.place,
            words(error)
        );
        (self.notice)(&News::remark(text));
    }
}

/// Makes all levels, the last one first, so that what enters finds its way.
async fn make(open: &Open) -> Result<(), lapin::Error> {
    let mut channel = open.channel().await?;
    exchange(open, &channel, DELIVERY).await?;
    for number in 0..LEVELS {
        let name = level(number);
        let next = if number == 0 { DELIVERY.to_owned() } else { level(number - 1) };
        exchange(open, &channel, &name).await?;
        channel = queue(open, channel, &name, number, &next).await?;
        let bits = "*.".repeat(LEVELS - 1 - number);
        let waits = format!("{bits}1.#");
        let bound = channel.queue_bind(
            name.as_str().into(),
            name.as_str().into(),
            waits.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        open.answer_of_queue(bound).await?;
        let passes = format!("{bits}0.#");
        let options = ExchangeBindOptions::default();
        open.answer_of_queue(channel.exchange_bind(next.into(), name.into(), passes.into(), options, FieldTable::default())).await?;
    }
    let _ = channel.close(200, "".into()).await;
    Ok(())
}

async fn exchange(open: &Open, channel: &Channel, name: &str) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    open.answer_of_queue(channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default())).await
}

/// Makes the queue of a level as Celery does. One that is there and differs (classic, as some
/// configure it) is taken as it is. Returns a channel that goes on.
async fn queue(open: &Open, channel: Channel, name: &str, number: usize, next: &str) -> Result<Channel, lapin::Error> {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt((1_i64 << number) * 1000));
    arguments.insert("x-dead-letter-exchange".into(), text(next));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    match open.answer_of_queue(channel.queue_declare(name.into(), options, arguments)).await {
        Ok(_) => Ok(channel),
        Err(error) if is_precondition(&error) => {
            let channel = open.channel().await?;
            let options = QueueDeclareOptions { passive: true, ..options };
            open.answer_of_queue(channel.queue_declare(name.into(), options, FieldTable::default())).await?;
            Ok(channel)
        }
        Err(error) => Err(error),
    }
}

/// Returns when a message is due, by its header.
pub(super) fn due_of(parcel: &Parcel) -> Option<SystemTime> {
    match parcel.properties.fields().header("eta")? {
        RawValue::Text(text) => longshore_celery::parse_iso(std::str::from_utf8(text).ok()?),
        _ => None,
    }
}

/// Delay from which on the server holds a message back, where a worker would hold up others with
/// it.
pub(super) const LONG: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_has_a_bit_for_each_level_and_then_the_queue() {
        assert_eq!(key(3, "qq"), "0.".repeat(26) + "1.1.qq");
        assert_eq!(key(1 << 27, "a.b"), "1.".to_owned() + &"0.".repeat(27) + "a.b");
    }

    #[test]
    fn a_delay_is_in_whole_seconds_and_not_negative() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        for (left, seconds) in [(0, 0), (999, 0), (1_000, 1), (3_900, 3), (u64::MAX / 4_000_000, (1 << 28) - 1)] {
            assert_eq!(seconds_until(now + Duration::from_millis(left), now), seconds, "{left}");
        }
        assert_eq!(seconds_until(SystemTime::UNIX_EPOCH, now), 0);
    }
}

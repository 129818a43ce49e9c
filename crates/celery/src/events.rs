//! Events: what workers and clients tell of themselves and of tasks, to whoever listens on the
//! exchange `celeryev`.
//!
//! Layout:
//! - `events/what.rs`: what happened, in each kind's own fields
//! - `events/clock.rs`: the logical clock that all nodes share
//! - `events/envelope.rs`: the envelope around events and remote control

mod clock;
pub(crate) mod envelope;
mod what;

use envelope::EventEnvelope;

pub use clock::Clock;
pub use what::{EventKind, Heartbeat, TaskInfo};

use crate::value::{Map, Value, ValueError};

/// The exchange that events are published on. Of type topic; the routing key is the kind with `.`
/// for `-`.
pub const EXCHANGE: &str = "celeryev";

/// The most events that Celery puts into one message.
pub const MOST_IN_ONE: usize = 24;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The node that tells of it.
    pub hostname: String,
    /// Its process.
    pub pid: Option<i64>,
    /// Its offset from UTC, in hours.
    pub utcoffset: f64,
    /// The node's logical time.
    pub clock: u64,
    /// Time of the event, in seconds since 1970.
    pub timestamp: f64,
    /// The event itself.
    pub what: EventKind,
}

impl Event {
    /// The routing key of this event by itself: `task.succeeded`.
    pub fn routing_key(&self) -> String {
        self.what.kind().replace('-', ".")
    }

    /// Its members in the order in which Celery writes them.
    pub fn to_value(&self) -> Value {
        let mut members = Map::from_iter([("hostname", Value::from(self.hostname.as_str())), ("utcoffset", self.utcoffset.into())]);
        members.set("pid", self.pid);
        members.set("clock", self.clock);
        members.0.extend(self.what.fields().0);
        members.set("timestamp", self.timestamp);
        members.set("type", self.what.kind());
        members.into()
    }

    /// Reads an event. Kinds that are not known are kept with their fields; what is missing of the
    /// others is taken for nothing.
    ///
    /// # Errors
    /// It is no object, or says not what kind it is.
    pub fn from_value(value: Value) -> Result<Self, ValueError> {
        let Value::Map(mut members) = value else { return Err(ValueError::expected("an event (an object)", &value)) };
        let Some(Value::Text(kind)) = members.remove("type") else { return Err(ValueError::new("an event without a type")) };
        let clock = members.remove("clock").and_then(|clock| u64::try_from(clock.as_i64()?).ok()).unwrap_or_default();
        let number = |value: Option<Value>| value.and_then(|number| number.as_f64()).unwrap_or_default();
        Ok(Self {
            hostname: match members.remove("hostname") {
                Some(Value::Text(hostname)) => hostname,
                _ => String::new(),
            },
            pid: members.remove("pid").and_then(|pid| pid.as_i64()),
            utcoffset: number(members.remove("utcoffset")),
            clock,
            timestamp: number(members.remove("timestamp")),
            what: EventKind::read(&kind, members),
        })
    }
}

/// Writes events of one node as one message: its routing key, and its bytes. More than one event
/// may be written together only if all are of tasks (`task.multi`). `tag` is a delivery tag, which
/// must be unique.
pub fn encode(events: &[Event], tag: &str) -> (String, Vec<u8>) {
    let (routing_key, body) = match events {
        [one] => (one.routing_key(), one.to_value()),
        several => ("task.multi".to_owned(), Value::List(several.iter().map(Event::to_value).collect())),
    };
    let headers = Map::from_iter([("hostname", events.first().map(|event| event.hostname.as_str()))]);
    let raw = EventEnvelope { body, headers, exchange: EXCHANGE, routing_key: &routing_key, delivery_mode: 1, tag }.write();
    (routing_key, raw)
}

/// Reads the events in a message of at most `limit` bytes.
///
/// # Errors
/// It is no message with one event or a list of them.
pub fn decode(raw: &[u8], limit: usize) -> Result<Vec<Event>, ValueError> {
    match envelope::open(raw, limit)?.0 {
        Value::List(events) => events.into_iter().map(Event::from_value).collect(),
        event => Ok(vec![Event::from_value(event)?]),
    }
}

//! Brokers, in which tasks wait, and backends, in which results are stored: a trait that every
//! broker has, halves that it may have, and one table of URL schemes. `README.md` says what a new
//! broker writes.
//!
//! Layout:
//! - `broker.rs`: a system that holds queues; a consumer of some of them; `message.rs`: what goes
//!   in and comes out; `error.rs`
//! - `halves.rs`: bus, inspection, dead letters, shared state, schedules
//! - `results.rs`: where results, saved groups and chords are stored
//! - `connect.rs`: URL → halves, whose each is; `connected.rs`: what comes of it; `urls.rs`
//! - `mask.rs`: what is hidden wherever something is shown or written down; `news.rs`: what
//!   connections tell
//! - `memory.rs`, `sqlite.rs`, `redis.rs`, `amqp.rs`: one file and folder each; `rehearsal.rs`: a
//!   broker for tests that does no more than RabbitMQ can
//! - `tls.rs`: encryption of connections
//! - `rates.rs`: a rate that all workers share
//! - `lease.rs`: whether what a consumer holds is still its own
//! - `names.rs`: names that no queue may have
//! - `apart.rs`: work that grows with the size of messages; `crash.rs`: what a dead worker's
//!   messages are held to; `rotation.rs`: whose turn it is; `pattern.rs`, `json.rs`: routing keys,
//!   members of JSON
//! - `conformance.rs`: what every adapter must pass

#[cfg(feature = "amqp")]
pub mod amqp;
mod apart;
pub mod broker;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod connect;
mod connected;
pub mod crash;
mod ends;
mod error;
pub mod halves;
mod json;
pub mod lease;
mod mask;
pub mod memory;
mod message;
mod names;
mod news;
mod pattern;
mod queue_spec;
mod rates;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(test, feature = "conformance"))]
pub mod rehearsal;
pub mod results;
mod rotation;
mod schedule_rows;
mod send_notes;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "redis", feature = "amqp"))]
mod tls;
mod urls;

pub use apart::{FEW, apart};
pub use broker::{Broker, Consumer, OpenOptions, QueueOrder, QueueState};
pub use connect::{connect, connect_with, missing_file};
pub use connected::Connected;
pub use error::BrokerError;
pub use halves::{
    Bus, DeadLetter, DeadLetters, Doing, Fired, Firing, Found, Inspect, Leading, LeftOut, LimitState, MOST_REVOKED, REVOKED_FOR,
    ScheduleBook, ScheduleRow, SchedulerName, Schedules, SharedState, Subscription,
};
pub use mask::{HIDDEN, is_secret, mask, mask_text, mask_value, mask_words};
pub use message::{Claimed, End, Ended, Exchange, Finish, Outgoing};
pub use names::refused_queue;
pub use news::{Ability, Half, Happened, News, Notice};
pub use queue_spec::{DeadLetterPlace, QueueSpec};
pub use rates::{AHEAD, BUCKET, Slot};
pub use results::{ChordPart, Key, Page, PartState, ResultBackend, Stored, Watch};
pub use send_notes::{NotedEnd, NotedSend, SendNote};
pub use urls::decode_url;

/// The exchange of answers to remote control.
pub(crate) const REPLIES: &str = "reply.celery.pidbox";

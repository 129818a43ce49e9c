//! Kafka: a consumer that runs here, and groups of a cluster.
//!
//! - `kafka/consumer.rs`: one reader of a consumer, however many look; `kafka/facts.rs`: what it
//!   reads; `kafka/course.rs`: how that went
//! - `kafka/groups.rs`: one reader of a cluster's groups, which asks while somebody looks;
//!   `kafka/seen.rs`: what it has seen
//! - `kafka/note.rs`: where the pages of this machine's consumers are

pub(crate) mod consumer;
mod course;
mod facts;
pub(crate) mod groups;
mod note;
mod seen;

pub use self::{groups::KafkaOptions, note::ConsumerNote};

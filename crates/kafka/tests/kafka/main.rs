//! Consumers of Kafka, against a real broker.
#![cfg(feature = "kafka")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod consume;
mod exactly_once;
mod faults;
mod help;
mod lag;
mod members;
mod trouble;

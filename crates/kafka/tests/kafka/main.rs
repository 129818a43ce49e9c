//! Consumers of Kafka, against a real broker.
#![expect(clippy::unwrap_used, reason = "tests")]

mod consume;
mod exactly_once;
mod faults;
mod help;
mod lag;
mod members;
mod trouble;

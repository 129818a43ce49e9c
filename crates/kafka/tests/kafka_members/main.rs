//! Members of a group that come, go, and are killed: what they did is compared with what the broker
//! knows.
//!
//! Layout: `common.rs`: a node, topics, ledgers · `kill.rs` · `churn.rs` · `order.rs` ·
//! `takeover.rs` (with Confluent's Parallel Consumer) · `faults.rs`

#![expect(clippy::unwrap_used, reason = "a test that cannot start what it tests has failed")]

mod churn;
mod common;
mod faults;
mod kill;
mod order;
mod takeover;

//! Kafka: records of topics as tasks, committed when they are done.
//!
//! [`Consumer`] is a member of a group, [`Producer`] sends records, [`Admin`] asks about topics,
//! groups and their lag. `README.md` of this crate says where things are and who owns a record at
//! each moment.

pub mod admin;
mod client;
pub mod consumer;
mod counts;
pub mod exactly_once;
pub mod handler;
mod heard;
mod intake;
pub mod ledger;
pub mod lent;
pub mod metadata;
mod options;
pub mod produce;
pub mod record;
pub mod settings;
mod source;
pub mod trouble;
pub mod view;

pub use admin::Admin;
pub use consumer::{Consumer, ConsumerHandle, ConsumerSummary, DeadLetter, Order, RunningConsumer, Start};
pub use exactly_once::Output;
pub use handler::Handler;
pub use lent::{Lent, Records};
pub use produce::{Acks, NewRecord, Placed, Producer, Sending};
pub use record::Record;
pub use settings::Settings;
pub use trouble::{Affected, Trouble, words};
pub use view::{GateState, Intake, PartitionView, RecordCounts, View};

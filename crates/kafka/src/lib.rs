//! Kafka: records of topics as tasks, committed when they are done.
//!
//! Layout:
//! - `settings.rs`: where it is and who we are there; `heard.rs`: what its client complains of, in plain words
//! - `produce.rs`: sending records; `admin.rs`: topics, groups and their lag
//! - `consumer.rs`: a member of a group, as people use it; `consumer/start.rs`: how it starts; `handler.rs`: what runs for each record;
//!   `lent.rs`: records lent one by one instead
//! - `client.rs`: the one thread that owns the client; `desk.rs`: what it does in a turn; `seat.rs`: one partition; `rebalance.rs`, `commit.rs`, `dead.rs`: what happens to them
//! - `exactly_once.rs`: outputs and commits in transactions
//! - `source.rs`: between that thread and the engine; `intake.rs`: what may be read now; `record.rs`: records and their batches
//! - `ledger.rs`: which offsets are done; `metadata.rs`: how a commit tells of them
//! - `trouble.rs`: what is wrong with it, since when and how often; `watch.rs`: how that is found
//!   out; `view.rs`: what a consumer looks like at one moment

pub mod admin;
mod client;
mod commit;
pub mod consumer;
mod dead;
mod desk;
pub mod exactly_once;
pub mod handler;
mod heard;
mod intake;
pub mod ledger;
pub mod lent;
pub mod metadata;
pub mod produce;
mod rebalance;
pub mod record;
mod seat;
pub mod settings;
mod source;
pub mod trouble;
pub mod view;
mod watch;

pub use admin::Admin;
pub use consumer::{Consumer, ConsumerHandle, ConsumerSummary, DeadLetter, Order, RunningConsumer, Start};
pub use exactly_once::Output;
pub use handler::Handler;
pub use lent::{Lent, Records};
pub use produce::{Acks, NewRecord, Placed, Producer, Sending};
pub use record::Record;
pub use settings::Settings;
pub use trouble::{Affected, Trouble, words};
pub use view::{Counts, GateState, Intake, PartitionView, View};

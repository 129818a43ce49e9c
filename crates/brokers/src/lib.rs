//! Where tasks wait and where results are stored, behind two traits and one table of URL schemes.
//!
//! Layout:
//! - `broker.rs`: a system that holds queues; a consumer of some of them
//! - `results.rs`: where results, saved groups and chords are stored
//! - `connect.rs`: URL → broker and result backend
//! - `memory.rs`, `sqlite.rs`, `redis.rs`: one file or folder each, and `results/{memory,sqlite,redis}.rs`

pub mod broker;
pub mod results;

pub use broker::{
    Broker, BrokerError, Claimed, Consumer, DeadLetter, Doing, End, Ended, Finish, Found, OpenOptions, Outgoing, QueueState, Subscription,
};
pub use results::{ChordPart, Key, PartState, ResultBackend, Stored, Watch};

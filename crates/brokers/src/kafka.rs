//! Kafka.
//!
//! Layout:
//! - `settings.rs`: where it is and who we are there; `heard.rs`: what its client complains of, in plain words
//! - `produce.rs`: sending records; `admin.rs`: topics, groups and their lag

pub mod admin;
mod heard;
pub mod produce;
pub mod settings;

pub use admin::Admin;
pub use produce::{Acks, NewRecord, Placed, Producer, Sending};
pub use settings::Settings;

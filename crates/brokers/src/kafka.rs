//! Kafka.
//!
//! Layout:
//! - `settings.rs`: where it is and who we are there; `heard.rs`: what its client complains of, in plain words

mod heard;
pub mod settings;

pub use settings::Settings;

//! The command line of longshore.
pub mod commands;
pub mod config;
pub mod demo;
mod entry;
pub mod flags;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod progress;
pub mod queue;
pub mod run;
pub mod tasks;
pub mod units;

pub use entry::main;

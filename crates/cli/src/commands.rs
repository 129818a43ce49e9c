//! One file a command.

pub mod advise;
pub mod beat;
pub mod bench;
pub mod call;
pub mod config;
pub mod dashboard;
pub mod dead;
pub mod demo;
pub mod enqueue;
pub mod events;
pub mod jobs;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod limits;
pub mod queues;
pub mod remote;
pub mod result;
pub mod run;
pub mod schedule;
pub mod shell;
pub mod tasks;
pub mod top;
pub mod why;
pub mod worker;

//! One file a command.

pub mod advise;
pub mod bench;
pub mod config;
pub mod demo;
pub mod global;
pub mod jobs;
pub mod run;
pub mod shell;

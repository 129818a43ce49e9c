//! The command line of longshore.
pub mod commands;
pub mod progress;
pub mod run;
pub mod units;

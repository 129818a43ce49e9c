//! The command line of longshore.
pub mod commands;
pub mod config;
pub mod demo;
pub mod progress;
pub mod run;
pub mod tasks;
pub mod units;

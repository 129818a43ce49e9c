//! One file a command.
pub mod jobs;

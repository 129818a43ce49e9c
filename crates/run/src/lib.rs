//! The main job: records in, tasks run, journal and results out.
//!
//! Layout, in the order of a record's way:
//! - `args.rs plan.rs`: the command line, and everything that follows from it, compiled and checked before anything runs
//! - `input.rs record.rs intake.rs`: bytes → records → deliveries
//! - `template.rs`: what a user writes with braces
//! - `batch.rs`: several records for one call of a command
//! - `what.rs`, `command.rs`, `http.rs`, `pipe.rs`, `task.rs`: what runs, as lanes of the engine; `reply.rs`: what it answers; `overdue.rs`: a timeout that is a share of the median
//! - `shared_limit.rs`: a limit that other processes keep too, before a lane
//! - `last_output.rs`: what commands wrote that a timeout or a signal ended
//! - `ledger.rs journal.rs`: start and result lines, before anything counts; `spool.rs`: what is
//!   too long for them
//! - `output.rs`: the projection of the journal that people read
//! - `conduct.rs`: all of it put together; `watch.rs`: watched until the end, with
//!   `keys.rs machine.rs`; `signals.rs heard.rs`: what asks it to stop; `checks.rs ending.rs`: how
//!   it ends

pub mod args;
pub mod auto;
pub mod batch;
pub mod checks;
pub mod command;
pub mod conduct;
pub mod ending;
pub mod heard;
pub mod http;
pub mod input;
pub mod intake;
pub mod journal;
pub mod keys;
pub mod last_output;
pub mod ledger;
pub mod machine;
pub mod output;
pub mod overdue;
pub mod pipe;
pub mod plan;
pub mod record;
pub mod reply;
pub mod shared_limit;
pub(crate) mod signals;
pub mod spool;
pub mod task;
pub mod template;
mod watch;
pub mod what;

/// A run that cannot start, or that ends with more than an exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// The exit code.
    pub code: u8,
    /// What, where, and what to do.
    pub message: String,
}

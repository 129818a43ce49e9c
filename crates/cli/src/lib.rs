//! The command line of longshore.
/// As the standard library's, without its panic where stderr takes no more (a file on a full disk):
/// what is said there decides nothing.
macro_rules! eprintln {
    ($($word:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($word)*);
    }};
}

/// [`eprintln`] without the end of the line.
macro_rules! eprint {
    ($($word:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stderr(), $($word)*);
    }};
}

pub mod commands;
pub mod config;
mod entry;
pub mod exit;
pub mod fault;
pub mod flags;
mod foreign;
pub mod global;
mod help;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod keys;
pub mod progress;
pub mod queue;
pub mod runtime;
pub mod schedules;
pub mod signals;
mod spans;
pub mod tasks;
pub mod web;

pub use entry::main;
pub use longshore_run::units;

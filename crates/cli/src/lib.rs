//! The command line of longshore.
/// As the standard library's, without its panic where stderr takes no more (a file on a full disk):
/// what is said there decides nothing. A line is one write, so that nothing that goes to the same
/// place stands in it.
macro_rules! eprintln {
    ($($word:tt)*) => {
        $crate::say(format!($($word)*) + "\n")
    };
}

/// [`eprintln`] without the end of the line.
macro_rules! eprint {
    ($($word:tt)*) => {
        $crate::say(format!($($word)*))
    };
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

/// Writes to stderr at once, if that takes it.
fn say(text: String) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(text.as_bytes());
}
pub use longshore_run::units;

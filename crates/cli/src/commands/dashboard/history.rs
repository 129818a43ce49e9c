//! Where the page remembers what has happened.

use std::path::PathBuf;

use clap::Args;
use longshore_run::jobs::StateDir;
use longshore_web::{HistoryOptions, HistoryTeller};

use crate::units;

/// Longest part of a broker's URL that names its file.
const LONGEST: usize = 80;

/// Flags that say what the page remembers.
#[derive(Args, Clone, Debug)]
pub struct HistoryArgs {
    /// Remember in this file what has happened to tasks [in the state directory, one for each
    /// broker]
    #[arg(long, value_name = "FILE", conflicts_with = "no_history", help_heading = "History")]
    pub history: Option<PathBuf>,
    /// Remember nothing: events are heard only while somebody looks at them
    #[arg(long, help_heading = "History")]
    pub no_history: bool,
    /// Remember at most so many tasks; beyond, the oldest are forgotten
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000), help_heading = "History")]
    pub history_tasks: u64,
    /// Let the file grow to this size
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size, help_heading = "History")]
    pub history_size: u64,
    /// Do not ask workers to send events of their tasks; without those there is little to remember
    /// of Celery's
    #[arg(long, help_heading = "History")]
    pub no_enable_events: bool,
}

/// Reads a size that a file can have.
fn size(text: &str) -> Result<u64, String> {
    let bytes = units::size(text)?;
    if bytes < 1 << 20 { Err("at least 1MiB".to_owned()) } else { Ok(bytes) }
}

impl HistoryArgs {
    /// Returns what the flags say for a broker with this URL, which holds no password.
    ///
    /// # Errors
    /// There is no place for a file.
    pub(super) fn options(&self, broker: &str, state: Option<&StateDir>, tell: HistoryTeller) -> Result<Option<HistoryOptions>, String> {
        let is_gone_with_us = broker.starts_with("memory:") && self.history.is_none();
        if self.no_history || is_gone_with_us {
            return Ok(None);
        }
        let mut options = match &self.history {
            Some(path) => HistoryOptions::new(path),
            None => {
                let dir = state.ok_or("there is no state directory: name one with --state-dir, or a file with --history")?;
                let mut options = HistoryOptions::new(dir.path().join(file_of(broker)));
                options.is_own_place = true;
                options
            }
        };
        (options.most_tasks, options.most_bytes, options.tell) = (self.history_tasks, self.history_size, Some(tell));
        Ok(Some(options))
    }
}

/// Returns the name of a broker's file: readable, and another one for each URL.
fn file_of(broker: &str) -> String {
    let readable: String = broker.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(LONGEST).collect();
    let hash = xxhash_rust::xxh3::xxh3_64(broker.as_bytes());
    format!("history-{readable}-{:08x}.db", hash as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broker_has_a_file_of_its_own_whose_name_can_be_read() {
        assert_eq!(file_of("redis://127.0.0.1:6379/0"), "history-redis---127.0.0.1-6379-0-2c7c8a4f.db");
        assert_ne!(file_of("redis://h/0?a=1"), file_of("redis://h/0-a-1"));
        assert!(file_of(&"/../".repeat(100)).len() < 110 && !file_of("../x").contains('/'));
    }

    #[test]
    fn a_size_that_is_too_small_for_anything_is_refused() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert!(size("100KiB").is_err() && size("large").is_err());
    }
}

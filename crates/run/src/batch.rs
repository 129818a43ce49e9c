//! `--batch`: how many records share one call of a command.
//!
//! A call with several records is one task of the engine: one start, one end, one retry. In the
//! journal and in every count each record stays a task of its own, so that a resumed job may put
//! what is left into other groups.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::units::show_duration;

/// The most records of a call with `--batch auto`.
pub(crate) const MOST_RECORDS: usize = 1000;
/// The most bytes of a call's words, as with xargs. The kernel takes 2 MiB in all, the environment
/// included, and 128 KiB in one word.
pub(crate) const MOST_ARGV: usize = 128 << 10;
/// With `--batch auto` calls are to take a time between a tenth of this and this: long enough that
/// starting them does not count, short enough that little is lost when one fails.
pub(crate) const LONG: Duration = Duration::from_secs(1);

/// `--batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// The same number of records in each call.
    Fixed(usize),
    /// As many as their measured time suggests.
    Auto,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl BatchSize {
    /// Parses `N` or `auto`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<usize>() {
            Ok(0) => Err("a call has at least 1 record".to_owned()),
            Ok(size) => Ok(Self::Fixed(size)),
            Err(_) if text == "auto" => Ok(Self::Auto),
            Err(_) => Err(format!("`{text}` is neither a number of records nor `auto`")),
        }
    }

    /// Returns true if a call may have more than one record.
    pub fn is_several(self) -> bool {
        self != Self::Fixed(1)
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// Bytes that a record adds to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of the call's words.
    pub argv: usize,
    /// Bytes in this process, until the call has ended.
    pub held: usize,
}

impl Weight {
    /// Both together.
    #[must_use]
    pub fn with(self, more: Self) -> Self {
        Self { argv: self.argv.saturating_add(more.argv), held: self.held.saturating_add(more.held) }
    }
}

/// The size of groups while the job runs: read by the intake, set by the calls that end.
#[derive(Debug)]
pub(crate) struct Batching {
    size: AtomicUsize,
    /// With `auto`: calls that take longer make groups smaller.
    long: Option<Duration>,
    base: usize,
    held: usize,
}

impl Batching {
    pub(crate) fn new(size: usize, long: Option<Duration>, base: usize, max_record: u64) -> Self {
        Self { size: AtomicUsize::new(size), long, base, held: usize::try_from(max_record).unwrap_or(usize::MAX) }
    }

    /// Returns the number of records that the next call is to have.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Returns true if a call with so many bytes has room for a record that adds `more`. All
    /// records of a call are held together, and may have as many bytes as one record may.
    pub(crate) fn has_room(&self, so_far: Weight, more: Weight) -> bool {
        let sum = so_far.with(more);
        self.base.saturating_add(sum.argv) <= MOST_ARGV && sum.held <= self.held
    }

    /// A call of so many records has ended.
    pub(crate) fn ended(&self, records: usize, took: Duration, ok: bool) {
        if let Some(long) = self.long {
            let _ = self.size.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |size| Some(next_size(size, records, took, ok, long)));
        }
    }
}

impl fmt::Display for Batching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.long {
            None => write!(f, "batch {}", self.size()),
            Some(long) => write!(f, "batch auto (towards {} to {} a call)", show_duration(long / 10), show_duration(long)),
        }
    }
}

/// The size of further groups after a call of `records` has taken so long.
///
/// Twice the size when a whole group ended well in less than a tenth of `long`. When a call took
/// longer than `long`: what would take half of that. Calls of an earlier size are still on their
/// way when the size changes, so a small group never makes it grow, and many long ones make it
/// shrink once.
pub(crate) fn next_size(size: usize, records: usize, took: Duration, ok: bool, long: Duration) -> usize {
    if took > long {
        let fitting = (records as f64 * (long.as_secs_f64() / 2.0) / took.as_secs_f64()) as usize;
        return size.min(fitting).max(1);
    }
    if ok && records >= size && took < long / 10 { (size * 2).min(MOST_RECORDS) } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_grow_towards_a_tenth_of_a_second_and_shrink_from_a_second() {
        let ms = Duration::from_millis;
        // size, records of the call, its time, ended well, the next size
        for (size, records, took, ok, want) in [
            (1, 1, ms(3), true, 2),
            (8, 8, ms(99), true, 16),
            (8, 8, ms(100), true, 8),
            (8, 8, ms(1000), true, 8),
            // Quick because it failed: that says nothing about the records.
            (8, 8, ms(3), false, 8),
            // A group of an earlier size, or the last one.
            (8, 4, ms(3), true, 8),
            (600, 600, ms(3), true, 1000),
            (1000, 1000, ms(3), true, 1000),
            // 8 in 2 s: a fourth of a second each, so 2 take half a second.
            (8, 8, ms(2000), true, 2),
            (8, 8, ms(2000), false, 2),
            (8, 8, ms(60_000), true, 1),
            // A second one of the size that was too large changes nothing more.
            (2, 8, ms(2000), true, 2),
            (1, 1, ms(60_000), true, 1),
        ] {
            assert_eq!(next_size(size, records, took, ok, LONG), want, "size {size}, {records} records in {took:?}, ok {ok}");
        }
    }

    #[test]
    fn a_short_timeout_keeps_groups_short() {
        let long = Duration::from_millis(100);
        assert_eq!(next_size(4, 4, Duration::from_millis(20), true, long), 4);
        assert_eq!(next_size(4, 4, Duration::from_millis(200), false, long), 1);
    }

    #[test]
    fn a_call_has_room_for_its_words_and_no_more() {
        let batching = Batching::new(10, None, 1000, 100_000);
        let sum = |argv, held| Weight { argv, held };
        for (have, more, want) in [
            (sum(0, 0), sum(100, 100), true),
            (sum(MOST_ARGV - 1100, 0), sum(100, 0), true),
            (sum(MOST_ARGV - 1100, 0), sum(101, 0), false),
            (sum(0, 99_000), sum(0, 1000), true),
            (sum(0, 99_000), sum(0, 1001), false),
        ] {
            assert_eq!(batching.has_room(have, more), want, "{have:?} {more:?}");
        }
    }
}

//! Counts of tasks: one struct for all that runs.

use std::{
    iter::Sum,
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use crate::outcome::Word;

/// Tasks by how they ended, and what else is counted of them.
///
/// ```
/// use longshore_core::{Word, watch::Counts};
///
/// let mut counts = Counts::default();
/// counts.add(Word::Ok, 3);
/// counts.add(Word::Timeout, 1);
/// assert_eq!((counts.done(), counts.not_ok(), counts.of(Word::Timeout)), (4, 1, 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Counts {
    /// Tasks that ended well.
    pub ok: u64,
    /// Tasks whose handler returned an error.
    pub failed: u64,
    /// Tasks that did not end within their timeout.
    pub timeout: u64,
    /// Tasks whose handler panicked.
    pub panicked: u64,
    /// Tasks whose process was ended by a signal.
    pub killed: u64,
    /// Tasks whose runner vanished without an answer.
    pub lost: u64,
    /// Tasks that were ended because somebody asked for it.
    pub cancelled: u64,
    /// Tasks that were not run: expired, revoked, equal to another one.
    pub skipped: u64,
    /// Attempts that were followed by another one.
    pub retries: u64,
    /// Ended tasks that needed more than one attempt.
    pub retried: u64,
    /// Tasks that went back to their source unfinished.
    pub handed_back: u64,
    /// Dead letters that were made.
    pub dead: u64,
    /// Results that came too late and were refused.
    pub late: u64,
}

impl Counts {
    /// Returns the tasks that ended with this outcome.
    #[must_use]
    pub fn of(&self, word: Word) -> u64 {
        match word {
            Word::Ok => self.ok,
            Word::Failed => self.failed,
            Word::Timeout => self.timeout,
            Word::Panicked => self.panicked,
            Word::Killed => self.killed,
            Word::Lost => self.lost,
            Word::Cancelled => self.cancelled,
            Word::Skipped => self.skipped,
        }
    }

    /// Adds tasks that ended with this outcome.
    #[inline]
    pub fn add(&mut self, word: Word, tasks: u64) {
        *self.of_mut(word) += tasks;
    }

    /// Takes away tasks that were counted with this outcome, because their end does not hold.
    pub fn take(&mut self, word: Word, tasks: u64) {
        *self.of_mut(word) -= tasks;
    }

    #[inline]
    fn of_mut(&mut self, word: Word) -> &mut u64 {
        match word {
            Word::Ok => &mut self.ok,
            Word::Failed => &mut self.failed,
            Word::Timeout => &mut self.timeout,
            Word::Panicked => &mut self.panicked,
            Word::Killed => &mut self.killed,
            Word::Lost => &mut self.lost,
            Word::Cancelled => &mut self.cancelled,
            Word::Skipped => &mut self.skipped,
        }
    }

    /// Returns the tasks that ended, however they did.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.by_word().map(|(_, count)| count).sum()
    }

    /// Returns the tasks that ended in any way but `ok`.
    #[must_use]
    pub fn not_ok(&self) -> u64 {
        self.done() - self.ok
    }

    /// Returns the tasks that ran and did not end well: those whose word [is a
    /// failure](Word::is_failure).
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.by_word().filter(|(word, _)| word.is_failure()).map(|(_, count)| count).sum()
    }

    /// Returns the tasks that ran to an end: `ok` and [failures](Self::failures).
    #[must_use]
    pub fn ran(&self) -> u64 {
        self.ok + self.failures()
    }

    /// Returns the tasks of which nothing is left to do: all that ended but the cancelled ones.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.done() - self.cancelled
    }

    /// Returns each outcome with its tasks, in the order of summaries.
    pub fn by_word(&self) -> impl Iterator<Item = (Word, u64)> + use<> {
        let counts = *self;
        Word::ALL.into_iter().map(move |word| (word, counts.of(word)))
    }
}

impl From<[u64; Word::ALL.len()]> for Counts {
    fn from(by_word: [u64; Word::ALL.len()]) -> Self {
        let mut counts = Self::default();
        Word::ALL.into_iter().for_each(|word| counts.add(word, by_word[word as usize]));
        counts
    }
}

impl From<Counts> for [u64; Word::ALL.len()] {
    fn from(counts: Counts) -> Self {
        Word::ALL.map(|word| counts.of(word))
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, counts| {
            sum += counts;
            sum
        })
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self { ok, failed, timeout, panicked, killed, lost, cancelled, skipped, retries, retried, handed_back, dead, late } = other;
        self.ok += ok;
        self.failed += failed;
        self.timeout += timeout;
        self.panicked += panicked;
        self.killed += killed;
        self.lost += lost;
        self.cancelled += cancelled;
        self.skipped += skipped;
        self.retries += retries;
        self.retried += retried;
        self.handed_back += handed_back;
        self.dead += dead;
        self.late += late;
    }
}

/// Tasks by how they ended, counted by several threads at once.
#[derive(Debug, Default)]
pub struct SharedCounts([AtomicU64; Word::ALL.len()]);

impl SharedCounts {
    /// Adds tasks that ended with this outcome.
    pub fn add(&self, word: Word, tasks: u64) {
        self.0[word as usize].fetch_add(tasks, Ordering::Relaxed);
    }

    /// Returns what was counted so far.
    #[must_use]
    pub fn get(&self) -> Counts {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed)).into()
    }
}

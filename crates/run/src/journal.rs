//! The journal of a job: what makes it durable and lets it be resumed.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mod@format`] | the lines of a journal, written and read |
//! | [`feed`] | the way of result lines to the output |
//! | [`file`](mod@file) | a journal on disk: created, opened again, its torn tail cut |
//! | [`index`] | the state of every task, from a journal |
//! | [`info`] | a job as lists show it |
//! | [`lock`] | one run of a job at a time |
//! | [`past`] | results read back with their times |
//! | [`prune`] | which finished jobs go |
//! | [`state`] | the state directory: jobs begun, found, listed, pruned |
//! | [`table`] | millions of entries, and nothing but these |
//! | [`writer`] | the thread that owns the file while a job runs |
//!
//! Invariants: the journal is the truth and the output its projection, so every line is in the
//! journal before it is in the output; an attempt starts only after its start line was written; a
//! task counts as done only when its result line was written (and synced, in `each` mode); after
//! the first failure to write or sync nothing is written any more.

pub(crate) mod error;
pub(crate) mod feed;
pub(crate) mod file;
pub(crate) mod format;
pub(crate) mod index;
pub(crate) mod info;
pub(crate) mod lock;
pub(crate) mod past;
pub(crate) mod prune;
pub(crate) mod state;
mod table;
pub(crate) mod text;
pub(crate) mod writer;

pub use error::{JobError, JournalError};
pub(crate) use feed::{Feed, LiveText};
pub(crate) use format::{End, ErrorLine, ResultLine, Shared, Start};
pub(crate) use index::{Index, Occurrences, TaskState};
pub(crate) use lock::JobLock;
pub(crate) use past::{PastClock, PastEnd, PastError, each_past, past_end};
pub use prune::{PruneRules, Pruned};
pub use state::{Begin, StateDir};
pub(crate) use state::{JobSpec, OpenJob};
pub use writer::Durability;
pub(crate) use writer::{Batch, Journal};

#[cfg(test)]
pub(crate) mod tests;

//! Numbers of what a consumer has done.

/// Counts of what a consumer has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecordCounts {
    /// Records read.
    pub read: u64,
    /// Records that were read and skipped: they had been done before the last rebalance or restart.
    pub known: u64,
    /// Records that are done.
    pub done: u64,
    /// Records that the dead-letter topic has.
    pub dead: u64,
    /// Records that failed for good and were skipped, as told.
    pub skipped: u64,
    /// Records that were given back because their partition was taken from us before they began.
    pub withdrawn: u64,
    /// Attempts that ran when their partition was taken from us and did not end in time.
    pub abandoned: u64,
    /// Records that failed for good, and whose letter the dead-letter topic had not taken when
    /// their partition was taken from us or the consumer ended: they come again.
    pub unburied: u64,
    /// Records that are done, and of which no commit was accepted before the consumer ended: they
    /// may come again.
    pub uncommitted: u64,
    /// Records that were done here and not committed when their partition was lost: another member
    /// does them again.
    pub repeated: u64,
    /// Commits that the broker accepted.
    pub commits: u64,
    /// Commits that it did not.
    pub commits_failed: u64,
    /// Assignments and revocations.
    pub rebalances: u64,
    /// Times that we were thrown out of the group, or lost it.
    pub lost: u64,
    /// Times that the client's own `pause()` was used, after a long closed gate.
    pub pauses: u64,
}

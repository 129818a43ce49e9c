//! View of a consumer at one moment: for live pictures, metrics and tests.

use std::{sync::Arc, time::Duration};

use longshore_core::engine::Snapshot;

pub use crate::counts::RecordCounts;
use crate::trouble::Trouble;

/// A consumer at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The engine: attempts that run, what waits and for what, how long handlers take.
    pub engine: Snapshot,
    /// Most running (`max_threads`).
    pub max_threads: usize,
    /// Records that run or wait to run.
    pub in_flight: usize,
    /// Most of them.
    pub max_in_flight: usize,
    /// Memory that all records take that were read and are not done, in bytes.
    pub bytes: usize,
    /// Most of it.
    pub max_bytes: usize,
    /// The gate opens again at so many.
    pub reopen_at: usize,
    /// State of the gate: records are read while it is open.
    pub gate: GateState,
    /// Number of times that the gate has closed.
    pub closings: u64,
    /// For how long it was closed, in all.
    pub closed_for: Duration,
    /// Records that back off, and those that wait behind one of their key.
    pub parked: usize,
    /// Records that wait until the dead-letter topic has them.
    pub burying: usize,
    /// Partitions that are assigned to us.
    pub partitions: Vec<PartitionView>,
    /// Counts since the start.
    pub counts: RecordCounts,
    /// Time since the broker last accepted a commit.
    pub committed_ago: Option<Duration>,
    /// Troubles that last now.
    pub troubles: Vec<Trouble>,
    /// Last thing that the client said of a connection.
    pub complaint: Option<String>,
}

/// State of the gate through which records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// They are.
    Open,
    /// As many are in flight as may be; it reopens at the lower mark.
    Closed {
        /// For how long.
        since: Duration,
    },
    /// Too many wait for another attempt, or behind one that does.
    Parked {
        /// For how long.
        since: Duration,
    },
    /// Those that were read and are not done take as much memory as they may.
    Bytes {
        /// For how long.
        since: Duration,
    },
}

/// A partition that is assigned to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number.
    pub partition: i32,
    /// The offset of the next record to be read.
    pub position: i64,
    /// The committed offset, as far as we know.
    pub committed: Option<i64>,
    /// Records behind the end of the partition, counted from what is committed. `None` until the
    /// broker has told the end, and while it cannot be read.
    pub lag: Option<i64>,
    /// Records read and not done.
    pub incomplete: usize,
    /// The oldest of them.
    pub oldest: Option<i64>,
    /// Characters of the commit's metadata.
    pub metadata: usize,
    /// State of its reading.
    pub state: Intake,
}

/// State of a partition's reading: open, or the reason why it is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// It is, while the gate is open.
    Open,
    /// It waits, because too many records of one key stand in line.
    HotKey,
    /// It waits for its oldest record: what is done beyond that one could not be committed any
    /// more.
    TooFar,
    /// The client's own `pause()`: the gate has been closed for long.
    Paused,
    /// Its end has been reached.
    AtEnd,
    /// The broker does not let it be read, or cannot.
    Unreadable,
}

impl Intake {
    /// Returns it as people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Intake::Open => "open",
            Intake::HotKey => "hot key",
            Intake::TooFar => "waits for its oldest",
            Intake::Paused => "paused",
            Intake::AtEnd => "at its end",
            Intake::Unreadable => "cannot be read",
        }
    }
}

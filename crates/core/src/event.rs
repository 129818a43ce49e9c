//! What happens, one line each: for progress, metrics and people.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{
    outcome::Word,
    task::{LaneKind, Receipt},
};

/// One line of what happened. Matched without `_` by everything that shows events, so that a new
/// variant makes the compiler list the places.
#[derive(Clone, Debug)]
pub enum Event {
    /// An attempt passed the gate.
    Admitted {
        /// The task.
        id: u64,
        /// Which attempt, from 1.
        attempt: u32,
        /// Its lane.
        lane: LaneKind,
        /// Its slot.
        slot: u32,
        /// When.
        at: Instant,
    },
    /// An attempt ended.
    Ended {
        /// The task.
        id: u64,
        /// Which attempt, from 1.
        attempt: u32,
        /// Its lane.
        lane: LaneKind,
        /// Its slot.
        slot: u32,
        /// Time at which the handler started.
        started: Instant,
        /// Time at which it ended.
        ended: Instant,
        /// Its outcome.
        word: Word,
        /// On-CPU time, where it was measured.
        cpu: Option<Duration>,
        /// The time until the next attempt, if there is one; otherwise the task is done.
        again_after: Option<Duration>,
    },
    /// A task went back to its source unfinished, because the job stops.
    HandedBack {
        /// The task.
        id: u64,
    },
    /// A task holds a loop of the async lane, so that its neighbours cannot go on.
    Stalled {
        /// The task.
        id: u64,
        /// The source's name for its delivery; `None` if it has ended meanwhile.
        receipt: Option<Receipt>,
        /// For how long it has held the loop.
        held: Duration,
    },
    /// Stops and goes: the job's state as a whole.
    Job {
        /// The phase from now on.
        phase: Phase,
    },
}

/// Phase of a job; later ones are nearer to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Fetching and running.
    Running,
    /// Starting nothing until told to go on.
    Paused,
    /// Starting nothing more; what runs may end.
    Draining,
    /// Ending what runs.
    Cancelling,
    /// Done.
    Done,
}

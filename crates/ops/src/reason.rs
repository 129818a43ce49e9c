//! Reasons that a task does not run yet.

use std::time::SystemTime;

use serde::{Serialize, Serializer};

/// Reason that a task does not run yet. Serialised as its [word](WaitReason::word).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WaitReason {
    /// `paused`: its queue is paused for longshore's workers.
    Paused {
        /// Name of whoever paused it.
        by: String,
        /// Moment since which it is paused, where the broker can say.
        since: Option<SystemTime>,
    },
    /// `unserved`: no worker that answers serves its queue.
    Unserved,
    /// `slots`: every slot of its lane is taken, at the worker that has it or at all that serve its
    /// queue.
    Slots {
        /// The full lanes, one a worker; empty where the worker does not say (Celery's).
        taken: Vec<LaneUse>,
    },
    /// `line`: others are in front of it.
    Turn,
    /// `eta`: it is not to be started before its time.
    Eta {
        /// Moment at which it may start, where it is known.
        due: Option<SystemTime>,
    },
    /// `rate`: so often may tasks of its name start.
    Rate {
        /// The rate, in the worker's words (`10/m`).
        rate: Option<String>,
        /// Moment at which its turn comes, where the worker can say.
        due: Option<SystemTime>,
    },
    /// `alone`: workers that ran it have died, so it runs while no other suspect does.
    Alone {
        /// Number of workers that have died.
        crashes: u32,
    },
}

/// Use of one lane of one worker: its slots, and how many of them are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LaneUse {
    /// The worker's node name.
    pub node: String,
    /// The lane: `async`, `blocking`, `cpu`, `process`.
    pub lane: String,
    /// Number of tasks that run on it.
    pub running: u64,
    /// Most tasks that may run on it at once.
    pub slots: u64,
    /// Number of claimed tasks that wait for a slot of it, where its worker says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
}

impl LaneUse {
    /// Returns whether no slot is free.
    pub fn is_full(&self) -> bool {
        self.running >= self.slots
    }
}

impl WaitReason {
    /// Returns the reason in one word, for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Paused { .. } => "paused",
            Self::Unserved => "unserved",
            Self::Slots { .. } => "slots",
            Self::Turn => "line",
            Self::Eta { .. } => "eta",
            Self::Rate { .. } => "rate",
            Self::Alone { .. } => "alone",
        }
    }
}

impl Serialize for WaitReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

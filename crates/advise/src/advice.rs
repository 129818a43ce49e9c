//! Advice, whichever way it was found.

use std::{fmt, time::Duration};

use longshore_core::LaneKind;
use serde::{Serialize, Serializer};

/// Place where tasks should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// One after another, on the thread that has them: no engine at all.
    Sequential,
    /// Many at once, on this lane.
    Lane(LaneKind),
}

impl Place {
    /// `sequential`, or the name of the lane.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Lane(lane) => lane.as_str(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The resource that holds the work up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// It computes.
    Cpu,
    /// It waits for something else: a network, a disk, a clock.
    Io,
    /// It does both, and neither can be neglected.
    Mixed,
    /// Nothing is known.
    Unclear,
}

impl Bound {
    /// Tells the bound from the share of its time that the work is on a CPU.
    pub(crate) fn of_share(share: f64) -> Self {
        match share {
            share if share >= 0.9 => Self::Cpu,
            share if share <= 0.1 => Self::Io,
            _ => Self::Mixed,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU-bound",
            Self::Io => "I/O-bound",
            Self::Mixed => "mixed",
            Self::Unclear => "unclear",
        })
    }
}

/// Speed in multiples of one after another, and how far that can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SpeedUp {
    /// It would be a surprise if it were less.
    pub low: f64,
    /// The value that is expected.
    pub likely: f64,
    /// It would be a surprise if it were more.
    pub high: f64,
}

impl SpeedUp {
    /// None: one after another.
    pub const NONE: SpeedUp = SpeedUp { low: 1.0, likely: 1.0, high: 1.0 };
}

impl fmt::Display for SpeedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, likely, high } = self;
        write!(f, "×{likely:.1} (×{low:.1} to ×{high:.1})")
    }
}

/// Advice for a job: where and how to run it, what that should bring, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Advice {
    /// Place where the tasks should run.
    pub place: Place,
    /// Number of tasks at once; 1 when sequential.
    pub workers: usize,
    /// Number of items that make one task; more than 1 where an item is too small to travel alone.
    pub chunk: usize,
    /// Number of tasks (of `chunk` items each) that should wait in the work queue.
    pub queue_capacity: usize,
    /// The resource that holds the work up.
    pub bound: Bound,
    /// Speed in multiples of one after another.
    pub speed_up: SpeedUp,
    /// Time of the whole job one after another, where the number of items is known.
    #[serde(serialize_with = "seconds")]
    pub sequential: Option<Duration>,
    /// Time that it should take the advised way, where the number of items is known.
    #[serde(serialize_with = "seconds")]
    pub predicted: Option<Duration>,
    /// The reasons in plain words, the most important first.
    pub reasons: Vec<String>,
}

impl Advice {
    /// Advice that is given rather than found: run it there, so. It promises nothing.
    pub fn to_run(place: Place, workers: usize, chunk: usize) -> Self {
        Self {
            place,
            workers,
            chunk,
            queue_capacity: 2 * workers,
            bound: Bound::Unclear,
            speed_up: SpeedUp::NONE,
            sequential: None,
            predicted: None,
            reasons: Vec::new(),
        }
    }
}

pub(crate) fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_some(&time.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}

//! Why nothing (more) passes, and until when.

use std::{fmt, sync::Arc, time::Instant};

use super::pace::Rate;
use crate::task::LaneKind;

/// Why the gate lets nothing (more) pass.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing waits that could start.
    Empty,
    /// The job is paused.
    Paused,
    /// The job is stopping.
    Stopping,
    /// As many tasks run as may.
    Concurrency {
        /// The limit.
        most: usize,
    },
    /// The result queue is full: its handler is slower than the workers.
    Results {
        /// Its capacity.
        capacity: usize,
    },
    /// The next slot of the leaky bucket lies ahead.
    Pace {
        /// The rate.
        rate: Rate,
    },
    /// A lane is full, and so is its parking line.
    Lane {
        /// The lane.
        lane: LaneKind,
    },
    /// A key is busy, and its parking line is full.
    Key {
        /// The key.
        key: Arc<str>,
    },
    /// A limited value is busy, and its parking line is full.
    Limit {
        /// The limit's name.
        name: Arc<str>,
        /// The value.
        value: Arc<str>,
    },
    /// Too many tasks wait for another attempt.
    Backoff {
        /// The limit.
        most: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Empty => f.write_str("nothing waits"),
            Reason::Paused => f.write_str("paused"),
            Reason::Stopping => f.write_str("stopping"),
            Reason::Concurrency { most } => write!(f, "all {most} workers busy"),
            Reason::Results { capacity } => write!(f, "result queue full ({capacity})"),
            Reason::Pace { rate } => match rate.per.as_secs() {
                1 => write!(f, "pace {}/s", rate.count),
                60 => write!(f, "pace {}/min", rate.count),
                3600 => write!(f, "pace {}/h", rate.count),
                _ => write!(f, "pace {}/{:?}", rate.count, rate.per),
            },
            Reason::Lane { lane } => write!(f, "lane {lane} full"),
            Reason::Key { key } => write!(f, "key {key} busy"),
            Reason::Limit { name, value } => write!(f, "limit {name}={value} busy"),
            Reason::Backoff { most } => write!(f, "{most} tasks wait for another attempt"),
        }
    }
}

/// The gate's "not now".
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The next time at which something may pass, where the gate knows it; otherwise something must end first.
    pub until: Option<Instant>,
}

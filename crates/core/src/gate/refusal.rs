//! Why nothing (more) passes, and until when.

use std::{fmt, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use super::pace::Rate;
use crate::task::LaneKind;

/// Reason why the gate lets nothing (more) pass.
///
/// On the wire it has a field `reason` with its [`name`](Reason::name) beside the fields of the
/// variant. A name that a reader does not know becomes [`Reason::Other`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "OnWire", into = "OnWire")]
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
    /// Something that the gate knows nothing of: whoever fetches holds it back, or a newer version
    /// has more reasons.
    Other {
        /// Its name: `eta`, `rate`, `rebalance`.
        name: Arc<str>,
    },
}

impl Reason {
    /// Returns its name, without what it is about: a label of metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Reason::Empty => "empty",
            Reason::Paused => "paused",
            Reason::Stopping => "stopping",
            Reason::Concurrency { .. } => "concurrency",
            Reason::Results { .. } => "results",
            Reason::Pace { .. } => "pace",
            Reason::Lane { .. } => "lane",
            Reason::Key { .. } => "key",
            Reason::Limit { .. } => "limit",
            Reason::Backoff { .. } => "backoff",
            Reason::Other { name } => name,
        }
    }
}

/// A reason as it travels: its name, and whichever of the fields it has.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct OnWire {
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    most: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<LaneKind>,
    /// The key, or the name of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl From<Reason> for OnWire {
    fn from(reason: Reason) -> Self {
        let mut wire = Self { reason: reason.name().to_owned(), ..Self::default() };
        match reason {
            Reason::Empty | Reason::Paused | Reason::Stopping | Reason::Other { .. } => {}
            Reason::Concurrency { most } | Reason::Backoff { most } | Reason::Results { capacity: most } => wire.most = Some(most),
            Reason::Pace { rate } => wire.rate = Some(rate),
            Reason::Lane { lane } => wire.lane = Some(lane),
            Reason::Key { key } => wire.of = Some(key.to_string()),
            Reason::Limit { name, value } => (wire.of, wire.value) = (Some(name.to_string()), Some(value.to_string())),
        }
        wire
    }
}

impl From<OnWire> for Reason {
    fn from(wire: OnWire) -> Self {
        let OnWire { reason, most, rate, lane, of, value } = wire;
        let of = of.map(Arc::from);
        match (reason.as_str(), most, rate, lane, of) {
            ("empty", ..) => Reason::Empty,
            ("paused", ..) => Reason::Paused,
            ("stopping", ..) => Reason::Stopping,
            ("concurrency", Some(most), ..) => Reason::Concurrency { most },
            ("results", Some(capacity), ..) => Reason::Results { capacity },
            ("backoff", Some(most), ..) => Reason::Backoff { most },
            ("pace", _, Some(rate), ..) => Reason::Pace { rate },
            ("lane", _, _, Some(lane), _) => Reason::Lane { lane },
            ("key", .., Some(key)) => Reason::Key { key },
            ("limit", .., Some(name)) => Reason::Limit { name, value: value.unwrap_or_default().into() },
            _ => Reason::Other { name: reason.into() },
        }
    }
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
            Reason::Other { name } => f.write_str(name),
        }
    }
}

/// The gate's "not now".
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The next time at which something may pass, where the gate knows it; otherwise something must
    /// end first.
    pub until: Option<Instant>,
}

//! Moments and lengths of time, as they are written for programs.

use std::time::{Duration, SystemTime};

use longshore_celery::Value;
use serde::{Serialize, Serializer};

/// Returns a moment as answers have it: RFC 3339 in UTC with milliseconds, as in
/// `2026-11-21T12:00:00.000Z`. One that no calendar has is empty.
pub fn time_text(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

/// Serialises a moment as [`time_text`]; null where it is unknown.
pub(crate) fn some_moment<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(time_text).serialize(serializer)
}

/// Serialises a length of time as seconds.
pub(crate) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Serialises a length of time that may be unknown: null then.
pub(crate) fn some_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// Returns a value of Celery's as JSON; null for what JSON cannot say.
pub(crate) fn json_of(value: &Value) -> serde_json::Value {
    serde_json::from_slice(&value.to_json()).unwrap_or_default()
}

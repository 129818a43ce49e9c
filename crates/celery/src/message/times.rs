//! Times as Python writes them.

use std::time::SystemTime;

use jiff::{Timestamp, civil::DateTime, tz::Offset};

/// ISO 8601; without an offset it is UTC. What lies beyond the last instant that can be told in
/// every time zone (Python's `datetime.max`, which people send for "never") is that instant.
pub(crate) fn parse(iso: &str) -> Option<SystemTime> {
    let iso = iso.trim();
    let in_utc = || {
        let at = iso.strip_suffix(['Z', 'z']).unwrap_or(iso).parse::<DateTime>().ok()?;
        let beyond = (at.year() == DateTime::MAX.year()).then_some(Timestamp::MAX);
        Offset::UTC.to_timestamp(at).ok().or(beyond)
    };
    let instant = iso.parse::<Timestamp>().ok().or_else(in_utc)?;
    Some(instant.into())
}

/// As `datetime.isoformat()` writes a time in UTC: microseconds, none if they are 0. What is finer
/// is cut off.
pub(crate) fn format(time: SystemTime) -> String {
    let latest = if time < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    let at = Offset::UTC.to_datetime(Timestamp::try_from(time).unwrap_or(latest));
    let micros = at.subsec_nanosecond() / 1000;
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}+00:00", at.year(), at.month(), at.day(), at.hour(), at.minute(), at.second())
}

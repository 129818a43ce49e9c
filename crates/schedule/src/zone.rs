//! From times of a calendar to instants, in zones whose clocks are put forward and back.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use crate::cron::CronPattern;

const MOMENT: SignedDuration = SignedDuration::from_nanos(1);

/// Returns the first instant after this one at which a clock of the zone shows what the pattern
/// asks for. A pattern that names hours runs once for what a clock that is put forward leaves out,
/// at that moment, and not again in the hour that comes twice; one that counts hours runs in each
/// hour that there is.
pub(crate) fn next(pattern: &CronPattern, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    // A stretch in which the offset stays the same: behind `begun` on the clock, from `at` on.
    let mut at = after;
    let mut offset = zone.to_offset(after);
    let mut begun = offset.to_datetime(after);
    if !pattern.is_hourly
        && let Some(before) = zone.preceding(after.checked_add(MOMENT).ok()?).next()
    {
        // What the clock showed before it was put back is not run again.
        let changed = before.timestamp();
        let old = zone.to_offset(changed.checked_sub(MOMENT).ok()?);
        begun = begun.max(short_of(old.to_datetime(changed))?);
    }
    let mut found = pattern.next(begun)?;
    loop {
        let Some(change) = zone.following(at).next() else { return offset.to_timestamp(found).ok() };
        let (changed, new) = (change.timestamp(), change.offset());
        let (shown, shows) = (offset.to_datetime(changed), new.to_datetime(changed));
        if found < shown {
            return offset.to_timestamp(found).ok();
        }
        if !pattern.is_hourly && found < shows {
            return Some(changed);
        }
        begun = short_of(if pattern.is_hourly { shows } else { shown.max(shows) })?;
        if found <= begun || shows < shown {
            found = pattern.next(begun)?;
        }
        (at, offset) = (changed, new);
    }
}

/// Returns a time of the clock just before this one, so that this one comes after it.
fn short_of(time: DateTime) -> Option<DateTime> {
    time.checked_sub(MOMENT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let (pattern, zone) = (CronPattern::parse(text, false).unwrap(), TimeZone::get(zone).unwrap());
        let mut at: Timestamp = from.parse().unwrap();
        let mut runs = Vec::new();
        for _ in 0..count {
            at = next(&pattern, &zone, at).unwrap();
            runs.push(at.to_zoned(zone.clone()).strftime("%d %H:%M%:z").to_string());
        }
        runs
    }

    /// Berlin: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
    #[test]
    fn a_day_of_23_hours_runs_what_it_leaves_out_once_and_no_hour_that_is_not_there() {
        for (text, want) in [
            ("30 2 * * *", &["28 02:30+01:00", "29 03:00+02:00", "30 02:30+02:00"][..]),
            ("0 3 * * *", &["28 03:00+01:00", "29 03:00+02:00", "30 03:00+02:00"]),
            ("*/20 2 29 * *", &["29 03:00+02:00", "29 02:00+02:00", "29 02:20+02:00"]),
            ("0 2,3 29 3 *", &["29 03:00+02:00"]),
        ] {
            assert_eq!(runs(text, "Europe/Berlin", "2026-03-27T22:00:00Z", want.len()), want, "{text}");
        }
        let hourly = ["29 00:30+01:00", "29 01:30+01:00", "29 03:30+02:00", "29 04:30+02:00"];
        assert_eq!(runs("30 * * * *", "Europe/Berlin", "2026-03-28T22:30:00Z", 4), hourly);
        let second = ["29 00:00+01:00", "29 04:00+02:00", "29 06:00+02:00"];
        assert_eq!(runs("0 */2 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", 3), second);
    }

    #[test]
    fn a_day_of_25_hours_runs_a_named_hour_once_and_counted_hours_in_both() {
        for (text, want) in [
            ("30 2 * * *", &["24 02:30+02:00", "25 02:30+02:00", "26 02:30+01:00"][..]),
            ("0 3 * * *", &["24 03:00+02:00", "25 03:00+01:00", "26 03:00+01:00"]),
            ("*/30 2-3 25 10 *", &["25 02:00+02:00", "25 02:30+02:00", "25 03:00+01:00", "25 03:30+01:00"]),
        ] {
            assert_eq!(runs(text, "Europe/Berlin", "2026-10-23T22:30:00Z", want.len()), want, "{text}");
        }
        let hourly = ["25 01:30+02:00", "25 02:30+02:00", "25 02:30+01:00", "25 03:30+01:00"];
        assert_eq!(runs("30 * * * *", "Europe/Berlin", "2026-10-24T22:40:00Z", 4), hourly);
        // From within the second of the two hours.
        assert_eq!(runs("45 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["26 02:45+01:00"]);
        assert_eq!(runs("45 * * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["25 02:45+01:00"]);
    }

    #[test]
    fn a_day_that_a_zone_leaves_out_is_one_run_and_half_hours_are_hours_too() {
        // Samoa went from the 29th to the 31st of December 2011.
        assert_eq!(runs("0 12 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", 1), ["31 00:00+14:00"]);
        // Lord Howe puts its clocks by half an hour.
        assert_eq!(runs("15 2 4 10 *", "Australia/Lord_Howe", "2026-10-01T00:00:00Z", 1), ["04 02:30+11:00"]);
    }
}

//! The five fields of cron, on a calendar that knows no time zones.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::{ToSpan, civil::DateTime, tz::TimeZone};

/// Days of the month that a pattern of both day fields is tried on before it is held to never
/// match: the 29th of February and a weekday meet every 28 years, and at worst once in forty.
const MOST_DAYS: usize = 12;

/// Five fields that were read.
#[derive(Clone, Debug)]
pub(crate) struct CronPattern {
    /// All fields; without the day of the week where both fields of days must match.
    fields: Crontab,
    /// All fields without the day of the month, where both must match.
    weekdays: Option<Crontab>,
    /// True where the hour field begins with an asterisk: it counts hours that pass, and names
    /// none.
    pub(crate) is_hourly: bool,
}

impl CronPattern {
    /// Reads five fields, or a word such as `@daily`. Where both fields of days name days, one of
    /// them is enough for cron; `both_days` asks for both, as Celery does.
    pub(crate) fn parse(text: &str, both_days: bool) -> Result<Self, String> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            text => text,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            let count = fields.len();
            return Err(format!("{text:?} has {count} fields; cron has five: minute, hour, day of month, month, day of week"));
        };
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let read = |fields: [&str; 5]| {
            // Its errors show the text with a mark below, on lines of their own.
            let wrong =
                |error: cronexpr::Error| format!("{text:?}: {}", error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" "));
            parse_crontab_with(&fields.join(" "), options).map_err(wrong)
        };
        // Where one of them begins with an asterisk cron itself asks for both.
        let apart = both_days && !day.starts_with('*') && !weekday.starts_with('*');
        let pattern = Self {
            fields: read([minute, hour, day, month, if apart { "*" } else { weekday }])?,
            weekdays: apart.then(|| read([minute, hour, "*", month, weekday])).transpose()?,
            is_hourly: hour.starts_with('*'),
        };
        match pattern.next(DateTime::constant(2024, 1, 1, 0, 0, 0, 0)) {
            Some(_) => Ok(pattern),
            None => Err(format!("{text:?}: no day is ever like that")),
        }
    }

    /// Returns the first full minute after this time that matches; `None`: none does, within years.
    pub(crate) fn next(&self, after: DateTime) -> Option<DateTime> {
        let mut after = after;
        let mut days = 0;
        loop {
            let instant = after.to_zoned(TimeZone::UTC).ok()?.timestamp();
            let found = self.fields.find_next(MakeTimestamp(instant)).ok()?;
            let Some(weekdays) = &self.weekdays else { return Some(found.datetime()) };
            if weekdays.matches(MakeTimestamp(found.timestamp())).ok()? {
                return Some(found.datetime());
            }
            // The day matches no more at another time of it.
            after = found.datetime().date().tomorrow().ok()?.to_datetime(jiff::civil::Time::midnight()).checked_sub(1.second()).ok()?;
            days += 1;
            if days > MOST_DAYS * 40 {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, both: bool, after: &str) -> String {
        let pattern = CronPattern::parse(text, both).unwrap();
        pattern.next(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_pattern_matches_the_next_minute_that_is_like_it() {
        for (text, both, after, want) in [
            ("* * * * *", false, "2026-11-23T10:00:00", "2026-11-23T10:01:00"),
            ("* * * * *", false, "2026-11-23T10:00:59.5", "2026-11-23T10:01:00"),
            ("*/15 * * * *", false, "2026-11-23T10:45:00", "2026-11-23T11:00:00"),
            ("30 2 * * mon-fri", false, "2026-11-27T03:00:00", "2026-11-30T02:30:00"),
            ("0 0 29 2 *", false, "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("@monthly", false, "2026-11-23T10:45:00", "2026-12-01T00:00:00"),
            // Friday or the 13th for cron, Friday the 13th for Celery.
            ("0 9 13 * 5", false, "2026-11-23T10:00:00", "2026-11-27T09:00:00"),
            ("0 9 13 * 5", true, "2026-11-23T10:00:00", "2027-08-13T09:00:00"),
            ("0 9 * * 5", true, "2026-11-23T10:00:00", "2026-11-27T09:00:00"),
            ("* 9 13 * 5", true, "2027-08-13T09:59:00", "2028-10-13T09:00:00"),
            ("0 0 29 2 1", true, "2026-01-01T00:00:00", "2044-02-29T00:00:00"),
        ] {
            assert_eq!(next(text, both, after), want, "{text} {both} after {after}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_what_is_wrong() {
        for (text, both, words) in [
            ("* * * *", false, "4 fields"),
            ("0 0 0 * * *", false, "6 fields"),
            ("61 * * * *", false, "61"),
            ("0 0 30 2 *", false, "no day is ever like that"),
            ("0 0 30 2 1", true, "no day is ever like that"),
            ("@often", false, "1 fields"),
        ] {
            let error = CronPattern::parse(text, both).expect_err(text);
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
        }
    }
}

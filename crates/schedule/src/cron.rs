//! The five fields of cron, on a calendar that knows no time zones.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::{
    ToSpan,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

/// Years that a day is looked for before the pattern is held to never match: the 29th of February
/// and a day of the week meet every 28 years, and at worst once in forty.
const MOST_YEARS: i16 = 40;

/// Five fields that were read.
#[derive(Clone, Debug)]
pub(crate) struct CronPattern {
    /// Minutes and hours, of any day.
    times: Crontab,
    /// Both fields of days; without the day of the week where both must match.
    days: Crontab,
    /// The day of the week, where both must match.
    weekdays: Option<Crontab>,
    months: Crontab,
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
        read([minute, hour, day, month, weekday])?;
        // Where one of them begins with an asterisk cron itself asks for both.
        let apart = both_days && !day.starts_with('*') && !weekday.starts_with('*');
        let pattern = Self {
            times: read([minute, hour, "*", "*", "*"])?,
            days: read(["*", "*", day, "*", if apart { "*" } else { weekday }])?,
            weekdays: apart.then(|| read(["*", "*", "*", "*", weekday])).transpose()?,
            months: read(["*", "*", "*", month, "*"])?,
            is_hourly: hour.starts_with('*'),
        };
        match pattern.next(DateTime::constant(2024, 1, 1, 0, 0, 0, 0)) {
            Some(_) => Ok(pattern),
            None => Err(format!("{text:?}: no day is ever like that")),
        }
    }

    /// Returns the first full minute after this time that matches; `None`: none does, within forty
    /// years.
    pub(crate) fn next(&self, after: DateTime) -> Option<DateTime> {
        let mut date = after.date();
        while date.year() - after.year() <= MOST_YEARS {
            if !matches(&self.months, date)? {
                date = date.last_of_month().tomorrow().ok()?;
                continue;
            }
            if self.matches_day(date)? {
                let begin = date.to_datetime(Time::midnight()).checked_sub(1.second()).ok()?;
                let found = self.times.find_next(MakeTimestamp(begin.max(after).to_zoned(TimeZone::UTC).ok()?.timestamp())).ok()?;
                if found.date() == date {
                    return Some(found.datetime());
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn matches_day(&self, date: Date) -> Option<bool> {
        let date = like(date);
        let weekdays = self.weekdays.as_ref().map_or(Some(true), |weekdays| matches(weekdays, date))?;
        Some(weekdays && matches(&self.days, date)?)
    }
}

/// Returns whether the first minute of a day matches.
fn matches(fields: &Crontab, date: Date) -> Option<bool> {
    fields.matches(MakeTimestamp(date.to_zoned(TimeZone::UTC).ok()?.timestamp())).ok()
}

/// Returns a day with the same place in a month that is as long and begins on the same day of the
/// week, but is not December: the library takes no day of December for its last (`L`, `5L`).
fn like(date: Date) -> Date {
    let octobers = (0..=12).filter_map(|years| Date::new(date.year() - years, 10, date.day()).ok());
    let mut alike = octobers.filter(|other| date.month() == 12 && other.weekday() == date.weekday());
    alike.next().unwrap_or(date)
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
            ("0 0 * 2 mon#5", false, "2026-01-01T00:00:00", "2044-02-29T00:00:00"),
            ("0 0 29 2 *", false, "2096-03-01T00:00:00", "2104-02-29T00:00:00"),
            ("0 0 29 2 0", true, "2088-03-01T00:00:00", "2128-02-29T00:00:00"),
            ("0 22 28-31 * *", false, "2026-12-31T22:00:00", "2027-01-28T22:00:00"),
        ] {
            assert_eq!(next(text, both, after), want, "{text} {both} after {after}");
        }
    }

    #[test]
    fn the_last_day_is_found_in_each_month_of_a_year() {
        let days = |text: &str, both: bool, count: usize| {
            let pattern = CronPattern::parse(text, both).unwrap();
            let mut at: DateTime = "2025-12-31T23:59:00".parse().unwrap();
            let mut days = Vec::new();
            for _ in 0..count {
                at = pattern.next(at).unwrap();
                days.push(at.strftime("%m-%d").to_string());
            }
            days.join(" ")
        };
        for (text, both, want) in [
            ("0 23 L * *", false, "01-31 02-28 03-31 04-30 05-31 06-30 07-31 08-31 09-30 10-31 11-30 12-31 01-31"),
            ("0 0 * * 5L", false, "01-30 02-27 03-27 04-24 05-29 06-26 07-31 08-28 09-25 10-30 11-27 12-25 01-29"),
            ("0 0 L 12 *", false, "12-31 12-31"),
            ("0 0 13,L 11-12 *", false, "11-13 11-30 12-13 12-31 11-13"),
            ("0 0 13 12 4L", false, "12-13 12-31 12-13 12-30"),
            ("0 0 25 12 5L", true, "12-25 12-25"),
            // The last of December 2028 is a Sunday: the nearest weekday is the 29th.
            ("0 0 31W 12 *", false, "12-31 12-31 12-29 12-31"),
            ("0 0 * 12 thu#5", false, "12-31 12-30 12-30"),
        ] {
            assert_eq!(days(text, both, want.split(' ').count()), want, "{text}");
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

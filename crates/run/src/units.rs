//! Durations, sizes, rates and percentages as people write them.
//!
//! Every parser is a `fn(&str) -> Result<T, String>`, which clap takes as a value parser; the
//! message says what was wrong and shows a value that works. Every `show_…` function prints for
//! people: short, and rounded.

use std::{fmt, str::FromStr, time::Duration};

use longshore_core::gate::adaptive::Bounds;

const NANOS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const BYTES: [(&str, u64); 14] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
];

/// A duration: `200ms`, `30s`, `2h`, `1m30s`, `1.5s`; units are ns, us, ms, s, m, h and d.
///
/// # Errors
/// A bare number (it could be seconds or milliseconds), an unknown unit, or more than 584 years.
pub fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("a duration is missing: write 30s, 200ms or 1m30s".into());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        if number.is_empty() {
            return Err(format!("`{text}` is not a duration: write 30s, 200ms or 1m30s"));
        }
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len()));
        if unit.is_empty() {
            return Err(format!("`{text}` has no unit: add one, as in {number}s or {number}ms"));
        }
        let Some((_, nanos)) = NANOS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{unit}` in `{text}` is no unit of time: use ms, s, m, h or d"));
        };
        let part = scaled(number, *nanos).ok_or_else(|| format!("`{number}` in `{text}` is not a number"))?;
        total = total.saturating_add(part);
        rest = after;
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| format!("`{text}` is too long: at most 584 years"))
}

/// A size in bytes: `4096`, `512MiB`, `1GiB`, `10MB`, `1.5GB`. KiB, MiB, GiB and TiB (or K, M, G)
/// count by 1024; kB, MB, GB and TB by 1000.
///
/// # Errors
/// An unknown unit, no number, or more than 2^64 - 1 bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let (number, unit) = split_number(trimmed);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(format!("`{text}` is not a size: write 4096, 512KiB or 1GiB"));
    }
    let Some((_, factor)) = BYTES.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` in `{text}` is no unit of size: use KiB, MiB, GiB (by 1024) or kB, MB, GB (by 1000)"));
    };
    let bytes = scaled(number, *factor).ok_or_else(|| format!("`{number}` in `{text}` is not a number"))?;
    u64::try_from(bytes).map_err(|_| format!("`{text}` is too large"))
}

/// A number of starts in a time: `100/s`, `500/min`, `10/h`, `5/200ms`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The number; finite and more than 0.
    pub count: f64,
    /// In which time; more than 0.
    pub per: Duration,
}

impl Rate {
    /// The same rate as a number for each second.
    pub fn per_second(&self) -> f64 {
        self.count / self.per.as_secs_f64()
    }

    /// The leaky bucket with this rate that lets so many start at once.
    pub fn with_burst(self, burst: u32) -> longshore_core::Rate {
        longshore_core::Rate { count: self.count, per: self.per, burst }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.count)?;
        match self.per.as_nanos() {
            1_000_000_000 => f.write_str("s"),
            60_000_000_000 => f.write_str("min"),
            3_600_000_000_000 => f.write_str("h"),
            86_400_000_000_000 => f.write_str("d"),
            _ => write!(f, "{:?}", self.per),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        rate(text)
    }
}

/// A [`Rate`].
///
/// # Errors
/// No slash, a count that is not a number above 0, or an unknown unit of time.
pub fn rate(text: &str) -> Result<Rate, String> {
    let hint = "write 100/s, 500/min or 10/h";
    let Some((count, per)) = text.trim().split_once('/') else {
        return Err(format!("`{text}` has no time: {hint}"));
    };
    let (count, per) = (count.trim(), per.trim());
    let number: f64 = count.parse().map_err(|_| format!("`{count}` in `{text}` is not a number: {hint}"))?;
    if !number.is_finite() || number <= 0.0 {
        return Err(format!("`{text}` must be more than 0: {hint}"));
    }
    let per = match per {
        "s" | "sec" | "second" => Duration::from_secs(1),
        "m" | "min" | "minute" => Duration::from_secs(60),
        "h" | "hour" => Duration::from_secs(3600),
        "d" | "day" => Duration::from_secs(86400),
        other => duration(other).map_err(|_| format!("`{other}` in `{text}` is no time: {hint}"))?,
    };
    if per.is_zero() {
        return Err(format!("`{text}` has a time of 0: {hint}"));
    }
    Ok(Rate { count: number, per })
}

/// A percentage as a share: `75%` is 0.75; more than 100 % is allowed (`300%` of a median).
///
/// # Errors
/// No `%` behind it, or not a number of at least 0.
pub fn percent(text: &str) -> Result<f64, String> {
    let hint = "write a number and %, as in 75%";
    let Some(number) = text.trim().strip_suffix('%') else {
        return Err(format!("`{text}` is not a percentage: {hint}"));
    };
    match number.trim_end().parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number / 100.0),
        _ => Err(format!("`{text}` is not a percentage: {hint}")),
    }
}

/// A number of workers, a share of the cores, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Count {
    /// This many; at least 1.
    Exactly(usize),
    /// This share of the cores: `50%` is 0.5.
    OfCores(f64),
    /// As many as are found to be best.
    Auto,
}

impl Count {
    /// The number on a machine with this many cores; never less than 1.
    pub fn resolve(self, cores: usize) -> usize {
        match self {
            Self::Exactly(count) => count.max(1),
            // A float that is too large or negative saturates in the cast.
            Self::OfCores(share) => ((cores as f64 * share).round() as usize).max(1),
            // To begin with.
            Self::Auto => cores.max(1),
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        count(text)
    }
}

/// A [`Count`]: `8`, `50%` (of the cores).
///
/// # Errors
/// 0, `0%`, or anything that is neither a whole number nor a percentage.
pub fn count(text: &str) -> Result<Count, String> {
    let text = text.trim();
    let hint = "write a number from 1, a share of the cores as in 50%, or auto";
    if text == "auto" {
        return Ok(Count::Auto);
    }
    if text.ends_with('%') {
        return match percent(text)? {
            share if share > 0.0 => Ok(Count::OfCores(share)),
            _ => Err(format!("`{text}` is none at all: {hint}")),
        };
    }
    match text.parse() {
        Ok(0) => Err(format!("`{text}` is none at all: {hint}")),
        Ok(number) => Ok(Count::Exactly(number)),
        Err(_) => Err(format!("`{text}` is not a number: {hint}")),
    }
}

/// Bounds of a concurrency that finds itself: `2..100`.
///
/// # Errors
/// What is wrong, and how to write it.
pub fn bounds(text: &str) -> Result<Bounds, String> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number > 0);
    match text.split_once("..").map(|(floor, ceiling)| (number(floor), number(ceiling))) {
        Some((Some(floor), Some(ceiling))) if floor <= ceiling => Ok(Bounds::new(floor, ceiling)),
        _ => Err(format!("`{text}` is not MIN..MAX: write two numbers from 1, the smaller first, as in 2..100")),
    }
}

/// A duration for people: `850µs`, `412ms`, `1.9s`, `1m43s`, `2h05m`, `3d04h`.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    // Each bound is where rounding would reach the next unit, so that 999.6 ms is `1.0s` and never
    // `1000ms`.
    if nanos < 1_000 {
        return if nanos == 0 { "0s".into() } else { format!("{nanos}ns") };
    }
    if nanos < 999_500 {
        return format!("{}µs", (nanos + 500) / 1_000);
    }
    if nanos < 999_500_000 {
        return format!("{}ms", (nanos + 500_000) / 1_000_000);
    }
    if nanos < 59_950_000_000 {
        let tenths = (nanos + 50_000_000) / 100_000_000;
        // A limit that somebody wrote is mostly a whole number.
        return if nanos.is_multiple_of(1_000_000_000) { format!("{}s", tenths / 10) } else { format!("{}.{}s", tenths / 10, tenths % 10) };
    }
    let seconds = (nanos + 500_000_000) / 1_000_000_000;
    match seconds {
        0..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// A duration as a clock, for time that is left: `0:38`, `12:05`, `1:02:03`.
pub fn show_clock(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() >= 500_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A size for people: `812B`, `4.0KiB`, `512MiB`, `1.5GiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// A whole number with separators between thousands: `6,214`.
pub fn show_count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// A decimal number times a unit, exactly (what is less than one is dropped): floats would turn
/// 0.3s into 299,999,999 ns.
fn scaled(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit.into())?;
    let mut place = u128::from(unit) * 1_000_000_000;
    let mut below: u128 = 0;
    for digit in fraction.bytes() {
        place /= 10;
        below += u128::from(digit - b'0') * place;
    }
    total = total.checked_add(below / 1_000_000_000)?;
    Some(total)
}

/// Rounds to three decimals: the rest is noise, and lines are read by people too.
pub fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    fn check<T: PartialEq + Debug>(parse: fn(&str) -> Result<T, String>, rows: Vec<(&str, T)>) {
        for (text, expected) in rows {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    fn refuse<T: PartialEq + Debug>(parse: fn(&str) -> Result<T, String>, rows: &[(&str, &str)]) {
        for (text, expected) in rows {
            let message = parse(text).expect_err(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn durations_are_read_exactly() {
        check(
            duration,
            vec![
                ("200ms", Duration::from_millis(200)),
                ("30s", Duration::from_secs(30)),
                ("2h", Duration::from_secs(7200)),
                ("1m30s", Duration::from_secs(90)),
                ("1.5s", Duration::from_millis(1500)),
                ("0.3s", Duration::from_millis(300)),
                (".5s", Duration::from_millis(500)),
                ("1d", Duration::from_secs(86400)),
                ("10us", Duration::from_micros(10)),
                ("10µs", Duration::from_micros(10)),
                ("7ns", Duration::from_nanos(7)),
                ("0s", Duration::ZERO),
                (" 5s ", Duration::from_secs(5)),
                ("1h2m3s4ms", Duration::from_millis(3_723_004)),
            ],
        );
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_the_way_out() {
        refuse(
            duration,
            &[
                ("30", "30s"),
                ("0", "no unit"),
                ("1m30", "no unit"),
                ("", "missing"),
                ("soon", "not a duration"),
                ("-5s", "not a duration"),
                ("5 s", "no unit"),
                ("5sec", "no unit of time"),
                ("5S", "no unit of time"),
                ("1.2.3s", "not a number"),
                (".s", "not a number"),
                ("99999999999999d", "too long"),
                ("99999999999999999999999999999999999999999s", "not a number"),
            ],
        );
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        check(
            size,
            vec![
                ("4096", 4096),
                ("512MiB", 512 << 20),
                ("1GiB", 1 << 30),
                ("10MB", 10_000_000),
                ("1.5KiB", 1536),
                ("16M", 16 << 20),
                ("2kB", 2000),
                ("5B", 5),
                ("1 MiB", 1 << 20),
                ("0", 0),
                ("2TB", 2_000_000_000_000),
            ],
        );
        refuse(
            size,
            &[("", "not a size"), ("big", "not a size"), ("1mb", "no unit of size"), ("-1", "not a size"), ("99999999TiB", "too large")],
        );
    }

    #[test]
    fn rates_are_a_count_and_a_time() {
        let per = |count, seconds| Rate { count, per: Duration::from_secs(seconds) };
        check(
            rate,
            vec![
                ("100/s", per(100.0, 1)),
                ("500/min", per(500.0, 60)),
                ("500/m", per(500.0, 60)),
                ("10/h", per(10.0, 3600)),
                ("0.5/s", per(0.5, 1)),
                ("1/day", per(1.0, 86400)),
                ("3/10s", per(3.0, 10)),
                (" 7 / s ", per(7.0, 1)),
            ],
        );
        refuse(
            rate,
            &[
                ("100", "no time"),
                ("/s", "not a number"),
                ("0/s", "more than 0"),
                ("-1/s", "more than 0"),
                ("inf/s", "more than 0"),
                ("5/0s", "time of 0"),
                ("5/x", "no time"),
            ],
        );
        for shown in ["100/s", "500/min", "10/h", "0.5/d", "3/10s", "1/200ms"] {
            assert_eq!(rate(shown).unwrap().to_string(), shown);
        }
        assert_eq!(rate("600/min").unwrap().per_second(), 10.0);
    }

    #[test]
    fn percentages_and_counts() {
        check(percent, vec![("75%", 0.75), ("0%", 0.0), ("300%", 3.0), ("0.5%", 0.005)]);
        refuse(percent, &[("75", "75%"), ("%", "not a percentage"), ("-1%", "not a percentage"), ("nan%", "not a percentage")]);
        check(count, vec![("8", Count::Exactly(8)), ("50%", Count::OfCores(0.5)), ("200%", Count::OfCores(2.0))]);
        refuse(
            count,
            &[("0", "none at all"), ("0%", "none at all"), ("x", "not a number"), ("1.5", "not a number"), ("-2", "not a number")],
        );
        for (given, cores, expected) in [("50%", 8, 4), ("50%", 1, 1), ("1%", 4, 1), ("150%", 2, 3), ("3", 64, 3)] {
            assert_eq!(count(given).unwrap().resolve(cores), expected, "{given} of {cores}");
        }
    }

    #[test]
    fn numbers_are_shown_short() {
        let rows = [
            (0, "0s"),
            (850, "850ns"),
            (850_000, "850µs"),
            (999_600, "1ms"),
            (412_000_000, "412ms"),
            (999_600_000, "1.0s"),
            (1_910_000_000, "1.9s"),
            (12_400_000_000, "12.4s"),
            (59_960_000_000, "1m00s"),
            (103_000_000_000, "1m43s"),
            (7_500_000_000_000, "2h05m"),
            (273_600_000_000_000, "3d04h"),
        ];
        for (nanos, expected) in rows {
            assert_eq!(show_duration(Duration::from_nanos(nanos)), expected, "{nanos}");
        }
        for (seconds, expected) in [(38, "0:38"), (725, "12:05"), (3723, "1:02:03")] {
            assert_eq!(show_clock(Duration::from_secs(seconds)), expected);
        }
        for (number, expected) in
            [(0, "0"), (999, "999"), (6214, "6,214"), (1_000_000, "1,000,000"), (u64::MAX, "18,446,744,073,709,551,615")]
        {
            assert_eq!(show_count(number), expected);
        }
        for (bytes, expected) in
            [(0, "0B"), (1023, "1023B"), (4096, "4.0KiB"), (512 << 20, "512MiB"), (3 << 29, "1.5GiB"), ((1 << 20) - 1, "1.0MiB")]
        {
            assert_eq!(show_size(bytes), expected);
        }
    }
}

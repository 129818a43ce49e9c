//! Durations, rates and backoffs as people write them. The same forms as on the command line.

use std::time::Duration;

/// A backoff.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Backoff {
    Exponential { base: Duration, cap: Duration },
    Fixed(Duration),
    List(Vec<Duration>),
}

/// A rate: so many, in so much time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) count: f64,
    pub(crate) per: Duration,
}

/// `200ms`, `30s`, `1.5h`, `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration: write a number and a unit, as in \"200ms\", \"30s\", \"5m\" or \"1h30m\"");
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let number: f64 = number.parse().map_err(|_| bad())?;
        total += number * seconds(unit).ok_or_else(bad)?;
        rest = behind;
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    })
}

/// `10/s`, `500/min`, `10/m`, `100/h`, `3/10s`.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let bad = || format!("`{text}` is not a rate: write how many in what time, as in \"10/s\", \"500/min\" or \"100/h\"");
    let (count, per) = text.split_once('/').ok_or_else(bad)?;
    let count: f64 = count.trim().parse().map_err(|_| bad())?;
    let per = per.trim();
    let per = match seconds(per) {
        Some(seconds) => Duration::from_secs_f64(seconds),
        None => duration(per).map_err(|_| bad())?,
    };
    if !(count.is_finite() && count > 0.0) || per.is_zero() {
        return Err(bad());
    }
    Ok(Rate { count, per })
}

/// `exp:1s..10m`, `fixed:5s`, `list:1s,5s,60s`.
pub(crate) fn backoff(text: &str) -> Result<Backoff, String> {
    let bad = || format!("`{text}` is not a backoff: write \"exp:1s..10m\", \"fixed:5s\" or \"list:1s,5s,60s\"");
    match text.split_once(':').ok_or_else(bad)? {
        ("exp", range) => {
            let (base, cap) = range.split_once("..").ok_or_else(bad)?;
            let (base, cap) = (duration(base)?, duration(cap)?);
            if base > cap {
                return Err(format!("`{text}`: its first wait is longer than its longest"));
            }
            Ok(Backoff::Exponential { base, cap })
        }
        ("fixed", wait) => Ok(Backoff::Fixed(duration(wait)?)),
        ("list", waits) => waits.split(',').map(duration).collect::<Result<_, _>>().map(Backoff::List),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, want) in
            [("200ms", 200), ("30s", 30_000), ("1.5h", 5_400_000), ("1m30s", 90_000), ("2d", 172_800_000), ("5min", 300_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(want)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "5q", "1.2.3s", "-1s", "1s5", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_a_count_and_a_time() {
        let of = |count, secs| Ok(Rate { count, per: Duration::from_secs(secs) });
        for (text, want) in
            [("10/s", of(10.0, 1)), ("500/min", of(500.0, 60)), ("10/m", of(10.0, 60)), ("0.5/h", of(0.5, 3600)), ("3/10s", of(3.0, 10))]
        {
            assert_eq!(rate(text), want, "{text}");
        }
        for text in ["10", "0/s", "-1/s", "x/s", "1/", "1/0s", "1/y", "inf/s", "NaN/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn backoffs_have_three_forms() {
        let seconds = Duration::from_secs;
        assert_eq!(backoff("exp:1s..10m"), Ok(Backoff::Exponential { base: seconds(1), cap: seconds(600) }));
        assert_eq!(backoff("fixed:5s"), Ok(Backoff::Fixed(seconds(5))));
        assert_eq!(backoff("list:1s,5s"), Ok(Backoff::List(vec![seconds(1), seconds(5)])));
        for text in ["1s", "exp:1s", "exp:10m..1s", "list:", "linear:1s", "fixed:5"] {
            assert!(backoff(text).is_err(), "{text}");
        }
    }
}

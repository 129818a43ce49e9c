//! What a run must keep to: `--check` at its end, `--max-fail` and `--until-ok` while it goes.

use std::{fmt, time::Duration};

use longshore_core::Word;

use crate::{report::Report, text};

/// One `--check`: a metric, a comparison, and a limit, as in `failed<1%`, `p99<2s`, `rate>50/s`.
///
/// `failed` counts every task that failed for good: failed, timeout, panicked, killed and lost
/// together; the other outcome words count themselves. Percentages are of the tasks that ran; for
/// `cancelled` and `skipped` of all. When none ran, `ok` is 100 % and everything else 0 %.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    text: String,
    metric: Metric,
    op: Op,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Failed,
    Word(Word),
    Retried,
    Time(TimeOf),
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TimeOf {
    P50,
    P90,
    P95,
    P99,
    Max,
    Wall,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Count(u64),
    Percent(f64),
    Time(Duration),
    PerSecond(f64),
}

const METRICS: &str = "failed, ok, timeout, panicked, killed, lost, cancelled, skipped, retried, p50, p90, p95, p99, max, rate, wall";

impl Check {
    /// Parses a check. Spaces around the comparison are allowed.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let form = || format!("`{text}` is not a check; write a metric, one of < <= > >= ==, and a limit, such as 'failed<1%' or 'p99<2s'");
        let at = text.find(['<', '>', '=']).ok_or_else(form)?;
        let (name, rest) = text.split_at(at);
        let ops = [("<=", Op::AtMost), (">=", Op::AtLeast), ("==", Op::Equal), ("<", Op::Less), (">", Op::More)];
        let (op, limit) = ops.into_iter().find_map(|(sign, op)| Some((op, rest.strip_prefix(sign)?))).ok_or_else(form)?;
        let (name, limit) = (name.trim(), limit.trim());
        let metric = match name {
            "failed" => Metric::Failed,
            "retried" => Metric::Retried,
            "rate" => Metric::Rate,
            "p50" => Metric::Time(TimeOf::P50),
            "p90" => Metric::Time(TimeOf::P90),
            "p95" => Metric::Time(TimeOf::P95),
            "p99" => Metric::Time(TimeOf::P99),
            "max" => Metric::Time(TimeOf::Max),
            "wall" => Metric::Time(TimeOf::Wall),
            name => Metric::Word(Word::parse(name).ok_or_else(|| format!("`{name}` in `{text}` cannot be checked; there are {METRICS}"))?),
        };
        let (limit, wanted) = match metric {
            Metric::Failed | Metric::Word(_) | Metric::Retried => (parse_count(limit), "a count (`10`) or a share (`1%`)"),
            Metric::Time(_) => (parse_duration(limit).map(Limit::Time), "a duration (`200ms`, `2s`, `1m30s`)"),
            Metric::Rate => (parse_rate(limit).map(Limit::PerSecond), "a rate (`50/s`, `100/min`)"),
        };
        let limit = limit.ok_or_else(|| format!("`{text}`: `{name}` is compared with {wanted}"))?;
        Ok(Self { text: text.to_owned(), metric, op, limit })
    }

    /// Returns true if the check is on `failed`: such a check takes the place of the rule that any
    /// failure makes the run end with 1.
    pub fn is_on_failed(&self) -> bool {
        self.metric == Metric::Failed
    }

    /// Evaluates the check: `None` when it holds, else `check failed: failed<1% (was 3.2 %)`.
    pub fn evaluate(&self, summary: &Report) -> Option<String> {
        let (holds, was) = match (self.metric, self.limit) {
            (Metric::Time(of), Limit::Time(limit)) => {
                let time = match of {
                    TimeOf::P50 => summary.run.p50,
                    TimeOf::P90 => summary.run.p90,
                    TimeOf::P95 => summary.run.p95,
                    TimeOf::P99 => summary.run.p99,
                    TimeOf::Max => summary.run.max,
                    TimeOf::Wall => summary.wall,
                };
                (self.op.holds(&time, &limit), text::precise(time))
            }
            (Metric::Rate, Limit::PerSecond(limit)) => (self.op.holds(&summary.rate_per_s, &limit), text::rate(summary.rate_per_s)),
            (metric, Limit::Percent(limit)) => {
                let (count, of) = counted(metric, summary);
                // Multiplied out rather than divided, so that 1 of 100 is exactly 1 %.
                match of {
                    0 => {
                        let share = if metric == Metric::Word(Word::Ok) { 100.0 } else { 0.0 };
                        (self.op.holds(&share, &limit), "no task ran".to_owned())
                    }
                    of => (self.op.holds(&(count as f64 * 100.0), &(limit * of as f64)), share_text(count, of, limit)),
                }
            }
            (metric, Limit::Count(limit)) => {
                let (count, _) = counted(metric, summary);
                (self.op.holds(&count, &limit), text::count(count))
            }
            // `parse` pairs metrics and limits; nothing else can be built.
            (_, Limit::Time(_) | Limit::PerSecond(_)) => (true, String::new()),
        };
        (!holds).then(|| format!("check failed: {} (was {was})", self.text))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Evaluates all checks; the sentences of those that do not hold, in their order.
pub(crate) fn evaluate(checks: &[Check], summary: &Report) -> Vec<String> {
    checks.iter().filter_map(|check| check.evaluate(summary)).collect()
}

impl Op {
    fn holds<T: PartialOrd>(self, value: &T, limit: &T) -> bool {
        match self {
            Op::Less => value < limit,
            Op::AtMost => value <= limit,
            Op::More => value > limit,
            Op::AtLeast => value >= limit,
            Op::Equal => value == limit,
        }
    }
}

/// A metric's count, and what its percentage is of.
fn counted(metric: Metric, summary: &Report) -> (u64, u64) {
    match metric {
        Metric::Failed => (summary.failed(), summary.ran()),
        Metric::Retried => (summary.counts.retried, summary.ran()),
        Metric::Word(word @ (Word::Cancelled | Word::Skipped)) => (summary.counts.of(word), summary.counts.done()),
        Metric::Word(word) => (summary.counts.of(word), summary.ran()),
        Metric::Time(_) | Metric::Rate => (0, 0),
    }
}

/// As many decimals as it takes to tell the share from the limit: "was 1.0 %" would be a poor
/// reason for `failed<=1%` to fail.
fn share_text(count: u64, of: u64, limit: f64) -> String {
    let share = count as f64 * 100.0 / of as f64;
    let shown = |decimals: usize| format!("{share:.decimals$}");
    let tells = |text: &String| share == limit || text.parse::<f64>().is_ok_and(|shown| shown != limit);
    let text = (1..9).map(shown).find(tells).unwrap_or_else(|| shown(9));
    format!("{text} %")
}

fn parse_count(text: &str) -> Option<Limit> {
    match text.strip_suffix('%') {
        Some(number) => parse_percent(number).map(Limit::Percent),
        None => parse_whole(text).map(Limit::Count),
    }
}

/// `12`, and `12_000`, but not `+12`.
fn parse_whole(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn parse_decimal(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

fn parse_percent(number: &str) -> Option<f64> {
    parse_decimal(number.trim_end()).filter(|percent| *percent <= 100.0)
}

/// `200ms`, `2s`, `1.5h`, `1m30s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number = parse_decimal(&rest[..unit_at])?;
        let behind = &rest[unit_at..];
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let seconds = match &behind[..unit_end] {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &behind[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

/// `50/s`, `100/min`, `10/h` as a rate per second.
fn parse_rate(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Some(parse_decimal(number.trim())? / seconds)
}

/// `--max-fail`: when a run gives up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxFail {
    limit: MaxFailLimit,
    /// Running tasks are ended too, rather than awaited.
    pub now: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum MaxFailLimit {
    Never,
    Count(u64),
    Percent(f64),
}

impl MaxFail {
    /// A percentage is judged once this many tasks have ended: before, one unlucky task would weigh
    /// too much.
    pub const PERCENT_AFTER: u64 = 20;

    /// Parses `N`, `N%`, either with `:now` behind it, and `never`, which lifts the limit of a
    /// configuration or of a job that is resumed. `N` stops the run when N tasks have failed for
    /// good, so 1 stops at the first failure; `N%` when more than that share of the tasks that
    /// ended has failed, but not before [`PERCENT_AFTER`](Self::PERCENT_AFTER) of them.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, now) = match text.strip_suffix(":now") {
            Some(number) => (number, true),
            None => (text, false),
        };
        let limit = match number.strip_suffix('%') {
            None if text == "never" => Some(MaxFailLimit::Never),
            Some(number) => parse_percent(number).map(MaxFailLimit::Percent),
            None => match parse_whole(number) {
                Some(0) => return Err("`--max-fail 0` would stop before the first task; write 1 to stop at the first failure".to_owned()),
                number => number.map(MaxFailLimit::Count),
            },
        };
        let limit =
            limit.ok_or_else(|| format!("`{text}` is not a limit of failures; write `10`, `5%`, either with `:now`, or `never`"))?;
        Ok(Self { limit, now })
    }

    /// Returns true if the run is to give up, because `failed` of the `ended` tasks (ended well or
    /// failed for good) have failed.
    pub fn tripped(&self, failed: u64, ended: u64) -> bool {
        match self.limit {
            MaxFailLimit::Never => false,
            MaxFailLimit::Count(most) => failed >= most,
            MaxFailLimit::Percent(most) => ended >= Self::PERCENT_AFTER && failed as f64 * 100.0 > most * ended as f64,
        }
    }
}

impl fmt::Display for MaxFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = if self.now { ":now" } else { "" };
        match self.limit {
            MaxFailLimit::Never => f.write_str("never"),
            MaxFailLimit::Count(most) => write!(f, "{most}{now}"),
            MaxFailLimit::Percent(most) => write!(f, "{most}%{now}"),
        }
    }
}

/// `--until-ok`: the run is done when this many tasks have ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UntilOk(u64);

impl UntilOk {
    /// Parses a number from 1.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        match parse_whole(text.trim()) {
            Some(number @ 1..) => Ok(Self(number)),
            _ => Err(format!("`{text}` is not a number of tasks; write 1 or more")),
        }
    }

    /// Returns true if enough tasks ended well for the run to be done.
    pub fn reached(self, ok: u64) -> bool {
        ok >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use longshore_core::{engine::Quantiles, watch::Counts};

    fn with(counts: &[(Word, u64)]) -> Report {
        let mut summary = sample();
        summary.counts = Counts::default();
        summary.counts.retried = sample().counts.retried;
        counts.iter().for_each(|(word, count)| summary.counts.add(*word, *count));
        summary
    }

    #[test]
    fn a_check_that_does_not_hold_says_what_was() {
        // 968 ok, 20 failed, 12 timeout, 5 skipped; retried 330; p99 1.91 s; 97.1/s; 103 s.
        let summary = with(&[(Word::Ok, 968), (Word::Failed, 20), (Word::Timeout, 12), (Word::Skipped, 5)]);
        for (check, want) in [
            ("failed<1%", Some("check failed: failed<1% (was 3.2 %)")),
            ("failed<=3.2%", None),
            ("failed == 3.2%", None),
            ("failed<32", Some("check failed: failed<32 (was 32)")),
            ("failed<=32", None),
            ("timeout<5", Some("check failed: timeout<5 (was 12)")),
            ("timeout==12", None),
            ("ok>=1000", Some("check failed: ok>=1000 (was 968)")),
            ("ok > 96.7%", None),
            ("skipped<0.4%", Some("check failed: skipped<0.4% (was 0.5 %)")),
            ("lost==0", None),
            ("retried<10%", Some("check failed: retried<10% (was 33.0 %)")),
            ("p99<2s", None),
            ("p99<1.9s", Some("check failed: p99<1.9s (was 1.91s)")),
            ("p50 <= 409ms", None),
            ("max<10s", Some("check failed: max<10s (was 12.4s)")),
            ("rate>50/s", None),
            ("rate>=6000/min", Some("check failed: rate>=6000/min (was 97.1/s)")),
            ("wall<1m30s", Some("check failed: wall<1m30s (was 1m43s)")),
        ] {
            assert_eq!(Check::parse(check).unwrap().evaluate(&summary).as_deref(), want, "{check}");
        }
    }

    #[test]
    fn a_share_is_shown_with_the_decimals_that_matter() {
        let summary = with(&[(Word::Ok, 98_999), (Word::Failed, 1_001)]);
        let failed = evaluate(&[Check::parse("failed<=1%").unwrap()], &summary);
        assert_eq!(failed, ["check failed: failed<=1% (was 1.001 %)"]);
    }

    #[test]
    fn a_run_without_tasks_has_no_failures_and_no_speed() {
        let summary = Report { rate_per_s: 0.0, run: Quantiles::default(), ..with(&[]) };
        for (check, holds) in [("failed<1%", true), ("ok>=99%", true), ("ok>=1", false), ("p99<2s", true), ("rate>1/s", false)] {
            assert_eq!(Check::parse(check).unwrap().evaluate(&summary).is_none(), holds, "{check}");
        }
    }

    #[test]
    fn a_text_that_is_no_check_says_what_to_write() {
        for (text, part) in [
            ("", "is not a check"),
            ("failed", "is not a check"),
            ("failed=1", "is not a check"),
            ("fialed<1%", "cannot be checked; there are failed, ok"),
            ("failed<2s", "a count (`10`) or a share"),
            ("failed<-1", "a count"),
            ("failed<101%", "a count"),
            ("failed<1.5", "a count"),
            ("p99<2", "a duration"),
            ("p99<1%", "a duration"),
            ("p99<s", "a duration"),
            ("rate>50", "a rate"),
            ("rate>50/year", "a rate"),
            ("wall<99999999999999999999d", "a duration"),
        ] {
            let error = Check::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn only_a_check_on_failed_replaces_the_rule_of_exit_1() {
        for (check, want) in [("failed<1%", true), ("failed<=10", true), ("ok>99%", false), ("timeout<5", false)] {
            assert_eq!(Check::parse(check).unwrap().is_on_failed(), want, "{check}");
        }
    }

    #[test]
    fn max_fail_stops_at_a_count_or_above_a_share() {
        for (text, failed, ended, want) in [
            ("1", 0, 100, false),
            ("1", 1, 1, true),
            ("10", 9, 9, false),
            ("10", 10, 5_000, true),
            ("5%", 19, 19, false),
            ("5%", 1, 20, false),
            ("5%", 2, 20, true),
            ("0%", 1, 20, true),
            ("5%:now", 2, 20, true),
        ] {
            let max_fail = MaxFail::parse(text).unwrap();
            assert_eq!(max_fail.tripped(failed, ended), want, "{text}: {failed} of {ended}");
            assert_eq!((max_fail.now, max_fail.to_string()), (text.ends_with(":now"), text.to_owned()));
        }
        for bad in ["", "0", "-1", "101%", "x", "5%:later", ":now", "%"] {
            assert!(MaxFail::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn until_ok_is_reached_at_its_number() {
        let until = UntilOk::parse("3").unwrap();
        assert_eq!([2, 3, 4].map(|ok| until.reached(ok)), [false, true, true]);
        assert!(UntilOk::parse("0").is_err() && UntilOk::parse("x").is_err());
    }
}

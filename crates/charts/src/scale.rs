//! Ticks of an axis, and numbers as people read them. Pure.

/// Returns ticks from 0 to at least a maximum: at most six, at multiples of 1, 2 or 5 times a power
/// of ten. Of whole numbers none is a fraction.
pub(crate) fn value_ticks(most: f64, whole: bool) -> Vec<f64> {
    let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
    let mut step = nice_above(most / 5.0);
    if whole {
        step = step.max(1.0);
    }
    let count = (most / step - 1e-9).ceil().max(1.0) as u32;
    (0..=count).map(|tick| f64::from(tick) * step).collect()
}

fn nice_above(raw: f64) -> f64 {
    let power = 10_f64.powf(raw.log10().floor());
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| nice * power >= raw * (1.0 - 1e-9));
    nice.unwrap_or(10.0) * power
}

/// Steps of a time axis from a second on, in seconds. Below a second they are 1, 2 and 5 times a
/// power of ten.
const STEPS: [f64; 21] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 21_600.0, 43_200.0, 86_400.0,
    172_800.0, 432_000.0, 864_000.0,
];

/// Returns ticks of a time axis from 0 to a span, both in seconds: at most seven.
pub(crate) fn time_ticks(span: f64) -> Vec<f64> {
    let span = if span.is_finite() && span > 0.0 { span } else { 1.0 };
    let raw = span / 6.0;
    let step = if raw <= 0.5 { nice_above(raw) } else { STEPS.into_iter().find(|step| *step >= raw).unwrap_or_else(|| nice_above(raw)) };
    let count = (span / step + 1e-9).floor() as u32;
    (0..=count).map(|tick| f64::from(tick) * step).collect()
}

/// Times at which an axis with equal factors has ticks: by tens, as clocks count.
const BY_TENS: [f64; 14] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 36_000.0, 86_400.0, 864_000.0];
/// Times between those, for an axis that is short.
const BETWEEN: [f64; 26] = [
    2e-6,
    5e-6,
    2e-5,
    5e-5,
    2e-4,
    5e-4,
    2e-3,
    5e-3,
    2e-2,
    5e-2,
    0.2,
    0.5,
    2.0,
    5.0,
    20.0,
    30.0,
    120.0,
    300.0,
    1_200.0,
    1_800.0,
    7_200.0,
    18_000.0,
    43_200.0,
    172_800.0,
    432_000.0,
    1_728_000.0,
];

/// Returns ticks of a logarithmic time axis from one time to another, in seconds: at most eight.
pub(crate) fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    let within = |tick: &f64| *tick >= from * 0.999 && *tick <= to * 1.001;
    let tens: Vec<f64> = BY_TENS.into_iter().filter(within).collect();
    let mut all: Vec<f64> = BY_TENS.into_iter().chain(BETWEEN).filter(within).collect();
    all.sort_by(f64::total_cmp);
    match (all.len(), tens.len()) {
        // Short enough to lie between two ticks: its ends.
        (0..=1, _) => vec![from, to],
        (2..=8, _) => all,
        (_, 0..=8) => tens,
        _ => tens.into_iter().step_by(2).collect(),
    }
}

/// Shows a number: `1,234`, `12.5`, `0.25`, `1.5M`.
pub fn show_number(number: f64) -> String {
    if number >= 1e6 {
        return format!("{}M", trimmed(number / 1e6, 2));
    }
    if number >= 100.0 {
        let digits = format!("{number:.0}");
        let (head, tail) = digits.split_at(digits.len().saturating_sub(3));
        return if head.is_empty() { tail.to_owned() } else { format!("{head},{tail}") };
    }
    trimmed(number, if number >= 10.0 { 1 } else { 2 })
}

/// Shows the number of a tick in as few characters as there is room for: `80,000`, `100k`, `1.5M`.
pub(crate) fn show_tick(number: f64) -> String {
    if (1e5..1e6).contains(&number) { format!("{}k", trimmed(number / 1e3, 0)) } else { show_number(number) }
}

/// Shows a time in seconds without what is zero: `0`, `250µs`, `1.5ms`, `20s`, `1m30s`, `2h`.
pub fn show_time(seconds: f64) -> String {
    if seconds <= 0.0 {
        return "0".to_owned();
    }
    match seconds {
        ..0.000_999_5 => format!("{}µs", trimmed(seconds * 1e6, 0)),
        ..0.999_5 => format!("{}ms", trimmed(seconds * 1e3, if seconds < 0.009_95 { 2 } else { 0 })),
        ..59.95 => format!("{}s", trimmed(seconds, if seconds < 9.995 { 2 } else { 1 })),
        _ => {
            let whole = seconds.round() as u64;
            let parts = [(whole / 86_400, "d"), (whole / 3_600 % 24, "h"), (whole / 60 % 60, "m"), (whole % 60, "s")];
            parts.iter().filter(|(count, _)| *count > 0).take(2).map(|(count, unit)| format!("{count}{unit}")).collect()
        }
    }
}

fn trimmed(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_few_round_ticks_that_reach_its_end() {
        for (most, whole, want) in [
            (0.0, false, "0 0.2 0.4 0.6 0.8 1"),
            (1.0, true, "0 1"),
            (3.0, true, "0 1 2 3"),
            (7.3, true, "0 2 4 6 8"),
            (97.1, false, "0 20 40 60 80 100"),
            (1_000.0, false, "0 200 400 600 800 1,000"),
            (1_234_567.0, false, "0 500k 1M 1.5M"),
        ] {
            let shown: Vec<String> = value_ticks(most, whole).into_iter().map(show_tick).collect();
            assert_eq!(shown.join(" "), want, "{most}");
        }
    }

    #[test]
    fn a_time_axis_has_ticks_as_clocks_have_them() {
        for (span, want) in [
            (0.003, "0 0.5ms 1ms 1.5ms 2ms 2.5ms 3ms"),
            (0.9, "0 200ms 400ms 600ms 800ms"),
            (10.0, "0 2s 4s 6s 8s 10s"),
            (103.0, "0 20s 40s 1m 1m20s 1m40s"),
            (7_000.0, "0 20m 40m 1h 1h20m 1h40m"),
            (400_000.0, "0 1d 2d 3d 4d"),
        ] {
            let shown: Vec<String> = time_ticks(span).into_iter().map(show_time).collect();
            assert_eq!(shown.join(" ").replace("500µs", "0.5ms"), want, "{span}");
        }
    }

    #[test]
    fn a_logarithmic_axis_has_fewer_ticks_the_longer_it_is() {
        for (from, to, want) in [
            (0.08, 0.6, "100ms 200ms 500ms"),
            (0.0005, 0.02, "500µs 1ms 2ms 5ms 10ms 20ms"),
            (0.00001, 30.0, "10µs 100µs 1ms 10ms 100ms 1s 10s"),
            (5.0, 4_000.0, "10s 1m 10m 1h"),
            (0.13, 0.19, "130ms 190ms"),
        ] {
            let shown: Vec<String> = log_ticks(from, to).into_iter().map(show_time).collect();
            assert_eq!(shown.join(" "), want, "{from} {to}");
        }
    }
}

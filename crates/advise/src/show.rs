//! Numbers for people, in reasons.

use std::time::Duration;

/// `850ns`, `12µs`, `412ms`, `1.9s`, `8m20s`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.999_5e-6 => format!("{}ns", time.as_nanos()),
        s if s < 9.95e-6 => format!("{:.1}µs", s * 1e6),
        s if s < 0.999_5e-3 => format!("{:.0}µs", s * 1e6),
        s if s < 9.95e-3 => format!("{:.1}ms", s * 1e3),
        s if s < 0.999_5 => format!("{:.0}ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1}s"),
        s if s < 600.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}min", s / 60.0),
        s => format!("{:.1}h", s / 3600.0),
    }
}

/// `812B`, `4.0KiB`, `512MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 9.95 && unit != "B" { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// `158/s`, `1.6k/s`, `3.2M/s`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate < 9.95 => format!("{rate:.1}/s"),
        rate if rate < 9_995.0 => format!("{rate:.0}/s"),
        rate if rate < 999_500.0 => format!("{:.0}k/s", rate / 1e3),
        rate => format!("{:.1}M/s", rate / 1e6),
    }
}

/// `1.5 %`, `98.5 %`, `75 %`.
pub(crate) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if (percent - percent.round()).abs() < 0.05 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (given, want) in [(900, "900ns"), (1_000, "1.0µs"), (12_300, "12µs"), (1_300_000, "1.3ms"), (999_600_000, "1.0s")] {
            assert_eq!(time(Duration::from_nanos(given)), want);
        }
        assert_eq!((time(Duration::from_secs(500)), time(Duration::from_secs(36_000))), ("500s".into(), "10.0h".into()));
        assert_eq!((size(812), size(4096), size(512 << 20)), ("812B".into(), "4.0KiB".into(), "512MiB".into()));
        assert_eq!((rate(1.25), rate(158.2), rate(2.5e6)), ("1.2/s".into(), "158/s".into(), "2.5M/s".into()));
        assert_eq!((percent(0.985), percent(0.75)), ("98.5 %".into(), "75 %".into()));
    }
}

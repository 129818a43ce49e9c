//! How templates show numbers and times.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use minijinja::{Environment, Value};

/// Adds them.
pub(crate) fn add(templates: &mut Environment<'_>) {
    templates.add_filter("count", |value: Value| value_or_dash(&value, count));
    templates.add_filter("seconds", |value: Value| value_or_dash(&value, seconds));
    templates.add_filter("bytes", |value: Value| value_or_dash(&value, bytes));
    templates.add_filter("rate", |value: Value| value_or_dash(&value, rate));
    templates.add_filter("ago", |value: Value| value_or_dash(&value, |at| seconds((now() - at).max(0.0))));
    templates.add_filter("cut", |text: String, most: usize| longshore_ops::cut(&text, most));
    // What workers say behind a task's name in `registered`: `name [rate_limit=10/s]`.
    templates.add_filter("first_word", |text: String| text.split(' ').next().unwrap_or_default().to_owned());
    templates.add_filter("clock", |value: Value| clock(&value));
    templates.add_filter("time", |value: Value| time(&value));
    templates.add_filter("in_path", |text: String| in_path(&text));
    templates.add_filter("percent", |value: f64, of: f64| if of > 0.0 { (100.0 * value / of).clamp(0.0, 100.0).round() } else { 0.0 });
}

/// Writes a name as one segment of a path. The `urlencode` of the templates leaves `/` as it is,
/// which would be two segments.
fn in_path(name: &str) -> String {
    let written = |byte: u8| match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    name.bytes().map(written).collect()
}

fn value_or_dash(value: &Value, show: impl Fn(f64) -> String) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) => show(number),
        Err(_) => "–".to_owned(),
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Shows a moment (RFC 3339) as its distance from now, with the moment itself for whoever points at
/// it.
fn time(value: &Value) -> Value {
    let Some(moment) = value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else { return Value::from("–") };
    let distance = moment.as_millisecond() as f64 / 1e3 - now();
    let said = if distance <= 0.0 { format!("{} ago", seconds(-distance)) } else { format!("in {}", seconds(distance)) };
    let exact = format!("{moment:.3}");
    Value::from_safe_string(format!("<time datetime=\"{exact}\" title=\"{exact}\">{said}</time>"))
}

/// Shows a moment, in seconds since 1970, as its time of day in UTC, with the day for whoever
/// points at it.
fn clock(value: &Value) -> Value {
    let moment = f64::try_from(value.clone()).ok().and_then(|seconds| Timestamp::from_millisecond((seconds * 1e3).round() as i64).ok());
    let Some(moment) = moment else { return Value::from("–") };
    let exact = format!("{moment:.3}");
    let time = exact.split_once('T').map_or(exact.as_str(), |(_, time)| time.trim_end_matches('Z'));
    Value::from_safe_string(format!("<time datetime=\"{exact}\" title=\"{exact}\">{time}</time>"))
}

/// Shows a count: `1,234,567`.
pub(crate) fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut shown = String::from(if number < 0.0 { "−" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Shows a length of time: `412ms`, `3.2s`, `3m12s`, `2h05m`, `3d04h`.
pub(crate) fn seconds(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let whole = time.as_secs();
    match whole {
        0 if time < Duration::from_millis(1) => format!("{}µs", time.as_micros()),
        0 => format!("{}ms", time.as_millis()),
        1..10 => format!("{:.1}s", seconds),
        10..60 => format!("{whole}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{:02}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// Shows a number of bytes: `512 KiB`, `87 MiB`, `1.5 GiB`.
pub(crate) fn bytes(number: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024.0 {
        return format!("{} B", count(number));
    }
    let mut size = number / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(size < 10.0);
    format!("{size:.digits$} {}", UNITS[unit])
}

/// Shows a rate a second.
pub(crate) fn rate(number: f64) -> String {
    if number > 0.0 && number < 0.95 {
        return format!("{:.0}/min", (number * 60.0).max(1.0));
    }
    if number < 100.0 { format!("{number:.1}/s") } else { format!("{}/s", count(number)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_as_people_write_them() {
        assert_eq!([0.0, 999.0, 1_000.0, 1_234_567.0].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.0004, 0.412, 3.24, 59.0, 192.0, 7_500.0, 273_600.0].map(seconds),
            ["0µs", "400µs", "412ms", "3.2s", "59s", "3m12s", "2h05m", "3d04h"]
        );
        assert_eq!([0.0, 1_023.0, 1_024.0, 92_000_000.0, 1_610_612_736.0].map(bytes), ["0 B", "1,023 B", "1.0 KiB", "88 MiB", "1.5 GiB"]);
        assert_eq!([0.0, 0.05, 2.0, 99.4, 12_000.0].map(rate), ["0.0/s", "3/min", "2.0/s", "99.4/s", "12,000/s"]);
    }
}

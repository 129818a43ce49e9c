//! Numbers and times as progress lines and summaries write them.

use std::time::Duration;

/// `6214` as `6,214`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `412ms`, `1.9s`, `61s`, `1m43s`, `2h05m`, `3d04h`: two or three digits, so that columns stay
/// narrow.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    // The limits are where rounding would carry into the next unit: 999.6 ms is 1.0s, not 1000ms.
    if seconds < 0.000_999_5 {
        format!("{:.0}µs", seconds * 1e6)
    } else if seconds < 0.009_95 {
        format!("{:.1}ms", seconds * 1e3)
    } else if seconds < 0.999_5 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 9.95 {
        format!("{seconds:.1}s")
    } else if seconds < 99.5 {
        format!("{seconds:.0}s")
    } else {
        long(duration)
    }
}

/// The same with three digits, for summaries: `4.21ms`, `409ms`, `1.91s`, `12.4s`.
pub fn precise(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        0.000_999_5..0.009_995 => format!("{:.2}ms", seconds * 1e3),
        0.009_995..0.099_95 => format!("{:.1}ms", seconds * 1e3),
        0.999_5..9.995 => format!("{seconds:.2}s"),
        9.995..99.95 => format!("{seconds:.1}s"),
        _ => short(duration),
    }
}

/// `43s`, `1m43s`, `2h05m`, `3d04h`; shorter times as [`short`] has them.
pub fn long(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_millis() >= 500);
    match seconds {
        0..10 => short(duration),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `0:38`, `12:05`, `1:02:03`: the form of a countdown.
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        1..48 => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => long(duration),
    }
}

/// `98.7/s`, `1,234/s`, `0.25/s`; slower than one in ten seconds in minutes or hours: `3.2/min`.
pub fn rate(per_second: f64) -> String {
    let (number, unit) = match per_second {
        rate if rate >= 0.1 || rate <= 0.0 => (rate, "s"),
        rate if rate * 60.0 >= 0.1 => (rate * 60.0, "min"),
        rate => (rate * 3_600.0, "h"),
    };
    match number {
        number if number >= 999.5 => format!("{}/{unit}", count(number.round() as u64)),
        number if number >= 9.995 => format!("{number:.1}/{unit}"),
        number if number > 0.0 => format!("{number:.2}/{unit}"),
        _ => format!("0/{unit}"),
    }
}

/// Terminal columns of a text that we made ourselves: escape sequences count nothing, every other
/// character one. (What comes from outside, a job's name, may hold wide characters;
/// the command line's bar leaves room for that.)
pub fn columns(text: &str) -> usize {
    let (mut columns, mut in_escape) = (0, false);
    for c in text.chars() {
        match c {
            '\u{1b}' => in_escape = true,
            _ if in_escape => in_escape = !c.is_ascii_alphabetic(),
            _ => columns += 1,
        }
    }
    columns
}

/// Returns a text of others that can do nothing to a terminal and stays on its line: control
/// characters and those that nobody can see are written as escapes, and what is longer than `most`
/// bytes is cut, with a `…` behind.
pub fn harmless(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for (at, each) in text.char_indices() {
        let before = out.len();
        match each {
            '"' | '\'' | '\\' => out.push(each),
            _ => out.extend(each.escape_debug()),
        }
        let is_last = at + each.len_utf8() == text.len();
        if out.len() > most || (out.len() == most && !is_last) {
            out.truncate(before);
            out.push('…');
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_commas() {
        for (number, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), want);
        }
    }

    #[test]
    fn durations_keep_to_a_few_characters_and_never_round_into_a_wrong_unit() {
        for (micros, want) in [
            (0, "0µs"),
            (312, "312µs"),
            (4_200, "4.2ms"),
            (412_000, "412ms"),
            (999_600, "1.0s"),
            (1_900_000, "1.9s"),
            (9_960_000, "10s"),
            (61_000_000, "61s"),
            (103_000_000, "1m43s"),
            (7_500_000_000, "2h05m"),
            (273_600_000_000, "3d04h"),
        ] {
            assert_eq!(short(Duration::from_micros(micros)), want, "{micros} µs");
        }
        for (micros, want) in [(4_210, "4.21ms"), (409_400, "409ms"), (999_600, "1.00s"), (12_400_000, "12.4s"), (99_960_000, "1m40s")] {
            assert_eq!(precise(Duration::from_micros(micros)), want, "{micros} µs");
        }
        for (millis, want) in [(900, "900ms"), (59_600, "1m00s"), (61_000, "1m01s"), (103_000, "1m43s")] {
            assert_eq!(long(Duration::from_millis(millis)), want, "{millis} ms");
        }
        for (millis, want) in [(0, "0:00"), (37_200, "0:38"), (725_000, "12:05"), (3_723_000, "1:02:03"), (273_600_000, "3d04h")] {
            assert_eq!(clock(Duration::from_millis(millis)), want, "{millis} ms");
        }
    }

    #[test]
    fn rates_pick_a_unit_that_shows_something() {
        for (per_second, want) in
            [(0.0, "0/s"), (98.7, "98.7/s"), (1234.0, "1,234/s"), (0.25, "0.25/s"), (0.05, "3.00/min"), (0.001, "3.60/h")]
        {
            assert_eq!(rate(per_second), want);
        }
    }

    #[test]
    fn a_text_of_others_is_one_short_line_without_escapes() {
        for (text, most, want) in [
            ("img 7.png", 99, "img 7.png"),
            ("a\nb\t\u{1b}[2J", 99, r"a\nb\t\u{1b}[2J"),
            ("say \"it's\" C:\\x", 99, "say \"it's\" C:\\x"),
            ("\u{202e}gpj.exe", 99, r"\u{202e}gpj.exe"),
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abcde…"),
            ("äöü", 5, "äö…"),
            ("ab\u{1b}", 4, "ab…"),
            ("", 0, ""),
        ] {
            assert_eq!(harmless(text, most), want, "{text:?}");
        }
    }

    #[test]
    fn escape_sequences_take_no_columns() {
        assert_eq!(columns("\u{1b}[1;32mok\u{1b}[0m ━━"), 5);
    }
}

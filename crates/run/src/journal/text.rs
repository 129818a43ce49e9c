//! Cheap ways to append numbers, times and JSON strings to a byte buffer.

use std::time::{SystemTime, UNIX_EPOCH};

/// Appends a number in decimal.
pub(crate) fn push_u64(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a number as 32 hexadecimal digits.
pub(crate) fn push_u128_hex(out: &mut Vec<u8>, number: u128) {
    let mut digits = [0_u8; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    out.extend_from_slice(&digits);
}

/// Appends a text as a JSON string, quotes included.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        // Nearly every byte is plain, and a run of those is copied at once.
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        push_escape(out, byte);
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Appends bytes as a JSON string of the characters U+0000 to U+00FF, one a byte.
pub(crate) fn push_latin1(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 => push_escape(out, byte),
            0x20..0x80 => out.push(byte),
            0x80.. => out.extend_from_slice(char::from(byte).encode_utf8(&mut [0; 2]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

/// Appends a JSON value on one line. Line breaks can only stand between its tokens, where a blank
/// means the same.
pub(crate) fn push_json(out: &mut Vec<u8>, json: &str) {
    let from = out.len();
    out.extend_from_slice(json.as_bytes());
    if json.contains(['\n', '\r']) {
        for byte in &mut out[from..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

/// A timestamp writer that works out date and time once a second.
#[derive(Debug, Default)]
pub(crate) struct Stamp {
    second: Option<u64>,
    text: [u8; 19],
}

impl Stamp {
    /// Appends `2026-11-21T12:01:07.412Z`. A time before 1970 counts as 1970.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.text = date_time(since.as_secs());
        }
        out.extend_from_slice(&self.text);
        let ms = since.subsec_millis();
        out.push(b'.');
        out.extend([ms / 100, ms / 10 % 10, ms % 10].map(|digit| b'0' + digit as u8));
        out.push(b'Z');
    }
}

/// Date and time of a Unix second, by the days-to-civil method (eras of 400 years that begin in
/// March, so that leap days come last).
fn date_time(second: u64) -> [u8; 19] {
    let days = second / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = (year_of_era + era * 400 + u64::from(month <= 2)).min(9_999);
    let time = second % 86_400;
    let mut text = *b"0000-00-00T00:00:00";
    let mut put = |at: usize, number: u64| {
        text[at] = b'0' + (number / 10 % 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    };
    put(0, year / 100);
    put(2, year % 100);
    put(5, month);
    put(8, day);
    put(11, time / 3_600);
    put(14, time / 60 % 60);
    put(17, time % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn timestamps_are_those_of_the_calendar(second in 0_i64..253_402_300_800) {
            let ours = date_time(second as u64);
            let theirs = jiff::Timestamp::from_second(second).unwrap().to_string();
            proptest::prop_assert_eq!(std::str::from_utf8(&ours).unwrap(), theirs.trim_end_matches('Z'));
        }

        #[test]
        fn strings_read_back_as_they_were(text: String) {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            proptest::prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn bytes_are_one_character_each(bytes: Vec<u8>) {
            let mut out = Vec::new();
            push_latin1(&mut out, &bytes);
            let text: String = serde_json::from_slice(&out).unwrap();
            proptest::prop_assert_eq!(text.chars().map(|each| each as u8).collect::<Vec<_>>(), bytes);
        }

        #[test]
        fn numbers_are_written_in_full(number: u64, wide: u128) {
            let mut out = Vec::new();
            push_u64(&mut out, number);
            push_u128_hex(&mut out, wide);
            proptest::prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{number}{wide:032x}"));
        }
    }
}

//! Cheap ways to append numbers and JSON strings to a byte buffer.

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

/// Appends a JSON value on one line. Line breaks can only stand between its tokens, where a blank means the same.
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

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
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

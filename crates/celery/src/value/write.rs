//! Writing JSON, byte for byte as Python's `json.dumps` does: `", "`, `": "`, everything outside
//! ASCII escaped.

use std::{fmt, io::Write};

use super::{Map, Value};

impl Value {
    /// Writes it as Python's `json.dumps` would.
    pub fn write(&self, into: &mut Vec<u8>) {
        match self {
            Value::Null => into.extend_from_slice(b"null"),
            Value::Bool(true) => into.extend_from_slice(b"true"),
            Value::Bool(false) => into.extend_from_slice(b"false"),
            Value::Int(number) => int(*number, into),
            Value::Big(digits) => into.extend_from_slice(digits.as_bytes()),
            Value::Float(number) => float(*number, into),
            Value::Text(text_) => text(text_, into),
            Value::Escaped(escaped) => {
                into.push(b'"');
                into.extend_from_slice(escaped.as_bytes());
                into.push(b'"');
            }
            Value::List(items) => list(items, into, Value::write),
            Value::Map(map) => map.write(into),
        }
    }

    /// As [`write`](Value::write), into a vector of its own.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        self.write(&mut json);
        json
    }
}

impl Map {
    /// Writes it as Python's `json.dumps` would.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.push(b'{');
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                into.extend_from_slice(b", ");
            }
            text(name, into);
            into.extend_from_slice(b": ");
            value.write(into);
        }
        into.push(b'}');
    }
}

/// The same JSON, with what is outside ASCII as it is: for people.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => readable(text, f),
            Value::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Map(map) => {
                f.write_str("{")?;
                for (index, (name, value)) in map.iter().enumerate() {
                    f.write_str(if index > 0 { ", " } else { "" })?;
                    readable(name, f)?;
                    write!(f, ": {value}")?;
                }
                f.write_str("}")
            }
            // Of the rest nothing is outside ASCII but what an escaped text holds unescaped.
            plain => f.write_str(&String::from_utf8_lossy(&plain.to_json())),
        }
    }
}

fn readable(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for char in text.chars() {
        match escape(char) {
            Some(short) => write!(f, "\\{short}")?,
            None if char.is_control() => write!(f, "\\u{:04x}", u32::from(char))?,
            None => write!(f, "{char}")?,
        }
    }
    f.write_str("\"")
}

/// Writes a list with `each`.
pub(crate) fn list<T>(items: &[T], into: &mut Vec<u8>, each: impl Fn(&T, &mut Vec<u8>)) {
    into.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            into.extend_from_slice(b", ");
        }
        each(item, into);
    }
    into.push(b']');
}

/// The letter of a short escape.
fn escape(char: char) -> Option<char> {
    Some(match char {
        '"' => '"',
        '\\' => '\\',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        '\u{8}' => 'b',
        '\u{c}' => 'f',
        _ => return None,
    })
}

/// Writes a text with its quotes.
pub(crate) fn text(text: &str, into: &mut Vec<u8>) {
    into.push(b'"');
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        into.extend_from_slice(text.as_bytes());
    } else {
        for char in text.chars() {
            match escape(char) {
                Some(short) => into.extend_from_slice(&[b'\\', short as u8]),
                None if matches!(char, ' '..='~') => into.push(char as u8),
                None => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        // Writing to a vector does not fail.
                        let _ = write!(into, "\\u{unit:04x}");
                    }
                }
            }
        }
    }
    into.push(b'"');
}

/// Writes an integer.
pub(crate) fn int(number: i64, into: &mut Vec<u8>) {
    if let Ok(digit @ 0..=9) = u8::try_from(number) {
        into.push(b'0' + digit);
    } else {
        // Writing to a vector does not fail.
        let _ = write!(into, "{number}");
    }
}

fn float(number: f64, into: &mut Vec<u8>) {
    if number.is_finite() {
        into.extend_from_slice(python_float(number).as_bytes());
    } else {
        into.extend_from_slice(if number.is_nan() {
            b"NaN"
        } else if number > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        });
    }
}

/// A finite float as Python writes it: the fewest digits that read back as the same number, with an
/// exponent from 1e16 and below 1e-4.
pub(crate) fn python_float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match power.parse::<i32>() {
        Ok(-4..=15) => format!("{number:?}"),
        Ok(power) => format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs()),
        Err(_) => scientific,
    }
}

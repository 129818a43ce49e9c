//! Values as Python shows them: in `argsrepr` and `kwargsrepr`, in events, in the texts of errors.

use std::fmt::Write;

use crate::value::{Map, Value, write::python_float};

/// The longest that Celery makes an `argsrepr`, a `kwargsrepr`, or a result in an event.
pub const REPR_LENGTH: usize = 1024;

/// From this level on Celery writes `...` for what is in a list or an object.
const REPR_LEVELS: usize = 3;

/// Python's `repr` of the value. Tagged values are shown as what they are in Python, except times.
pub fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out);
    out
}

/// Python's `str` of the value: texts as they are, everything else as `repr`.
pub(crate) fn str(value: &Value) -> String {
    if let Value::Text(text) = value { text.clone() } else { repr(value) }
}

fn write_repr(value: &Value, out: &mut String) {
    match value {
        Value::Text(text) => quote(text, out),
        Value::Escaped(escaped) => quote_escaped(escaped, out),
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(item, out);
            }
            out.push(']');
        }
        Value::Map(map) => {
            if let Some(shown) = tagged(value) {
                out.push_str(&shown);
                return;
            }
            out.push('{');
            for (index, (name, item)) in map.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                quote(name, out);
                out.push_str(": ");
                write_repr(item, out);
            }
            out.push('}');
        }
        plain => out.push_str(&atom(plain)),
    }
}

/// Writes what is neither a text nor a container.
fn atom(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Big(digits) => digits.to_string(),
        Value::Float(number) if number.is_nan() => "nan".to_owned(),
        Value::Float(number) if number.is_infinite() => if *number > 0.0 { "inf" } else { "-inf" }.to_owned(),
        Value::Float(number) => python_float(*number),
        _ => "None".to_owned(),
    }
}

/// A tagged value as what Python makes of it.
fn tagged(value: &Value) -> Option<String> {
    match value.tagged()? {
        ("decimal", Value::Text(digits)) => Some(format!("Decimal('{digits}')")),
        ("uuid", uuid) => {
            let hex = uuid.get("hex")?.as_str()?;
            Some(format!("UUID('{}')", uuid::Uuid::try_parse(hex).ok()?))
        }
        ("bytes", Value::Text(text)) => {
            let mut out = String::from("b");
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            out.push(quote);
            for byte in text.bytes() {
                match byte {
                    b'\\' => out.push_str("\\\\"),
                    b'\n' => out.push_str("\\n"),
                    b'\r' => out.push_str("\\r"),
                    b'\t' => out.push_str("\\t"),
                    b' '..=b'~' if char::from(byte) == quote => _ = write!(out, "\\{quote}"),
                    b' '..=b'~' => out.push(byte.into()),
                    _ => _ = write!(out, "\\x{byte:02x}"),
                }
            }
            out.push(quote);
            Some(out)
        }
        _ => None,
    }
}

/// A text in Python's quotes: single ones, unless there are single and no double ones in it.
fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for char in text.chars() {
        escape(char, quote, out);
    }
    out.push(quote);
}

fn escape(char: char, quote: char, out: &mut String) {
    // Writing to a String does not fail.
    let _ = match char {
        '\\' => out.write_str("\\\\"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        _ if char == quote => write!(out, "\\{char}"),
        _ if printable(char) => out.write_char(char),
        '\0'..='\u{ff}' => write!(out, "\\x{:02x}", u32::from(char)),
        '\u{100}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(char)),
        _ => write!(out, "\\U{:08x}", u32::from(char)),
    };
}

/// Returns whether Python shows a character as it is: near enough to `str.isprintable` (controls,
/// blanks other than the space, formats, private use).
fn printable(char: char) -> bool {
    !char.is_control()
        && (char == ' ' || !char.is_whitespace())
        && !matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        && !matches!(char, '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..)
}

/// A text with lone surrogates, which Python shows as escapes too.
fn quote_escaped(escaped: &str, out: &mut String) {
    out.push('\'');
    out.push_str(&escaped.replace("\\\"", "\"").replace("\\/", "/").replace('\'', "\\'"));
    out.push('\'');
}

/// Positional arguments as Celery shows them: `(2, 3)`, cut at `length` characters.
pub fn args_repr(args: &[Value], length: usize) -> String {
    let mut short = ShortRepr { out: String::new(), left: length.try_into().unwrap_or(i64::MAX), cut: false };
    short.sequence(args, "(", if args.len() == 1 { ",)" } else { ")" }, 0);
    short.out
}

/// Keyword arguments as Celery shows them: `{'a': 1}`, cut at `length` characters.
pub fn kwargs_repr(kwargs: &Map, length: usize) -> String {
    let mut short = ShortRepr { out: String::new(), left: length.try_into().unwrap_or(i64::MAX), cut: false };
    short.map(kwargs, 0);
    short.out
}

/// A value as Celery shows results in events, cut at `length` characters.
pub fn short_repr(value: &Value, length: usize) -> String {
    let mut short = ShortRepr { out: String::new(), left: length.try_into().unwrap_or(i64::MAX), cut: false };
    short.value(value, 0);
    short.out
}

/// Celery's `saferepr`: cut off at a length, with what is open then closed.
struct ShortRepr {
    out: String,
    /// Number of characters that may still come; what is open is closed all the same.
    left: i64,
    cut: bool,
}

impl ShortRepr {
    /// Returns whether there is room for another token. Where there is none, says so once.
    fn room(&mut self) -> bool {
        if !self.cut && self.left <= 0 {
            self.out.push_str(", ...");
            self.cut = true;
        }
        !self.cut
    }

    fn token(&mut self, token: &str) -> bool {
        let room = self.room();
        if room {
            self.out.push_str(token);
            self.left -= i64::try_from(token.chars().count()).unwrap_or(i64::MAX);
        }
        room
    }

    fn text(&mut self, text: &str) {
        if self.room() {
            let text = format!("'{}'", truncate(text, self.left).replace('\'', "\\'"));
            self.token(&text);
        }
    }

    fn close(&mut self, token: &str) {
        self.out.push_str(token);
        self.left -= i64::try_from(token.len()).unwrap_or(0);
    }

    fn value(&mut self, value: &Value, level: usize) {
        if self.cut {
            return;
        }
        match value {
            Value::Text(text) => self.text(text),
            Value::Escaped(escaped) => self.text(escaped),
            Value::List(_) if level >= REPR_LEVELS => _ = self.token("[...]"),
            Value::List(list) => self.sequence(list, "[", "]", level),
            Value::Map(map) => match tagged(value) {
                Some(shown) => _ = self.token(&truncate(&shown, self.left)),
                None if level >= REPR_LEVELS => _ = self.token("{...}"),
                None => self.map(map, level),
            },
            plain => {
                let shown = truncate(&atom(plain), self.left);
                self.token(&shown);
            }
        }
    }

    fn sequence(&mut self, list: &[Value], open: &str, close: &str, level: usize) {
        if !self.token(open) {
            return;
        }
        for (index, item) in list.iter().enumerate() {
            if self.cut || (index > 0 && !self.token(", ")) {
                break;
            }
            self.value(item, level + 1);
        }
        self.close(close);
    }

    fn map(&mut self, map: &Map, level: usize) {
        if !self.token("{") {
            return;
        }
        for (index, (name, value)) in map.iter().enumerate() {
            if self.cut || (index > 0 && !self.token(", ")) {
                break;
            }
            self.text(name);
            if !self.token(": ") {
                break;
            }
            self.value(value, level + 1);
        }
        self.close("}");
    }
}

/// Celery's `truncate`: from this length on it is cut, at a blank if there is one.
fn truncate(text: &str, length: i64) -> String {
    let length = usize::try_from(length).unwrap_or(0);
    // The character at which it is cut; shorter ones stay.
    if length == 0 || (text.len() < length || text.chars().count() < length) {
        return text.to_owned();
    }
    let end = text.char_indices().nth(length).map_or(text.len(), |(at, _)| at);
    let cut = &text[..end];
    format!("{}...", cut.rsplit_once(' ').map_or(cut, |(before, _)| before))
}

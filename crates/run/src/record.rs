//! One record of the input: the bytes of a line, a JSON value, or a row of a table.
//!
//! ```text
//! record.rs           Record: its place, its text, its fields, its key
//! record/path.rs      Path: `user`, `a.b`, `args.0`, `1`; the way to a field of a JSON text
//! record/range.rs     Range: a part of a large file
//! record/columns.rs   Columns: the header of a table; did-you-mean
//! ```
//!
//! A record never holds more than its own bytes: JSON is checked once when it is read, and a field
//! is found in the text when it is asked for. So a number keeps every digit, and a record in flight
//! costs what its line costs.

mod columns;
mod path;
mod range;

pub use columns::{Columns, nearest};
pub use path::Path;
pub use range::{HeldBytes, RANGE_FIELDS, Range, Whole};

use longshore_core::TaskError;
use serde_json::value::{RawValue, to_raw_value};
use std::{borrow::Cow, fmt, sync::Arc};
use xxhash_rust::xxh3::xxh3_128;

/// The deepest nesting of a JSON record. Deeper ones are invalid here, so that nobody who parses a
/// result line later runs into a limit.
pub const MAX_DEPTH: usize = 128;

/// The input that a record came from, for messages.
#[derive(Debug)]
pub struct Origin {
    /// The file's name as given, `stdin`, or `arguments`.
    pub name: Box<str>,
    /// The unit by which its records are counted.
    pub unit: Unit,
}

/// Unit by which messages count the records of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Lines of a text: "cars.csv line 12".
    Line,
    /// Records ended by NUL: "list record 12".
    Record,
    /// Words of the command line: "argument 3".
    Argument,
    /// Byte ranges: "big.csv range 3".
    Range,
    /// Not counted: there is one, a task of a queue.
    Task,
}

/// One input record, valid or not.
///
/// Immutable, and shared as `Arc<Record>`. An invalid record (bad JSON, a row of the wrong width,
/// one that is too long) is a record like any other: it has a place, a key and a JSON form, but
/// [`check`](Self::check) and everything that needs its content return its error, of kind
/// `invalid`.
#[derive(Debug)]
pub struct Record {
    seq: u64,
    line: u64,
    origin: Arc<Origin>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Text(Box<[u8]>),
    Json(Box<RawValue>),
    Row(Box<Row>),
    /// With its JSON form.
    Range(Box<(Range, Box<RawValue>)>),
    Bad(Box<Bad>),
}

#[derive(Debug)]
struct Row {
    raw: Box<[u8]>,
    fields: csv::ByteRecord,
    columns: Arc<Columns>,
}

#[derive(Debug)]
struct Bad {
    error: TaskError,
    raw: Box<[u8]>,
    cut: Option<Cut>,
}

/// Length and key of a record that was too long to be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) bytes: u64,
    pub(crate) key: u128,
}

/// Place of a record, before it is read.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its number in the input, from 1.
    pub seq: u64,
    /// The line or row at which it begins.
    pub line: u64,
    /// The input.
    pub origin: Arc<Origin>,
}

/// The value of one field.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// A field of a table, as its bytes.
    Cell(&'a [u8]),
    /// A value in a JSON record, as its JSON text.
    Json(&'a RawValue),
}

impl<'a> Field<'a> {
    /// True for a JSON `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Json(raw) if raw.get() == "null")
    }

    /// Returns the bytes that a placeholder puts in: a table's field and any JSON value as they
    /// stand in the input (so numbers keep their digits), but a JSON string as its text.
    ///
    /// # Errors
    /// A JSON string that is no text (half of a surrogate pair).
    pub fn bytes(&self) -> Result<Cow<'a, [u8]>, String> {
        match self {
            Self::Cell(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Json(raw) => Ok(match json_text(raw)? {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            }),
        }
    }
}

impl Record {
    /// A plain record, as from a line.
    pub fn text(place: Place, bytes: &[u8]) -> Self {
        Self::new(place, Body::Text(bytes.into()))
    }

    /// A JSON record; invalid if the bytes are not one JSON value in UTF-8.
    pub fn json(place: Place, bytes: &[u8]) -> Self {
        match parse_json(bytes) {
            Ok(raw) => Self::new(place, Body::Json(raw)),
            Err(reason) => Self::bad(place, bytes.trim_ascii(), &reason, None),
        }
    }

    /// A row of a table; invalid if it has not as many fields as there are columns.
    pub(crate) fn row(place: Place, raw: &[u8], fields: csv::ByteRecord, columns: Arc<Columns>) -> Self {
        let (expected, found) = (columns.len(), fields.len());
        if expected != found {
            let reason = format!(": {expected} fields expected{}, {found} found", columns.listed());
            return Self::bad(place, raw, &reason, None);
        }
        Self::new(place, Body::Row(Box::new(Row { raw: raw.into(), fields, columns })))
    }

    /// A range of a file.
    pub(crate) fn range(place: Place, range: Range) -> Self {
        let json = range.to_json();
        Self::new(place, Body::Range(Box::new((range, json))))
    }

    /// A range that nobody can use.
    pub(crate) fn bad_range(place: Place, range: &Range, reason: &str) -> Self {
        let json = range.to_json();
        let cut = Cut { bytes: range.end - range.start, key: range.key() };
        Self::bad(place, json.get().as_bytes(), reason, Some(cut))
    }

    /// An invalid record. The reason follows the place in the message: `: why`, or
    /// `, column 3: why`.
    pub(crate) fn bad(place: Place, raw: &[u8], reason: &str, cut: Option<Cut>) -> Self {
        let mut this = Self::new(place, Body::Text(Box::default()));
        let error = TaskError::invalid(format!("{}{reason}", this.place()));
        this.body = Body::Bad(Box::new(Bad { error, raw: raw.into(), cut }));
        this
    }

    fn new(place: Place, body: Body) -> Self {
        Self { seq: place.seq, line: place.line, origin: place.origin, body }
    }

    /// Its number in the whole input, from 1; records that `--skip` passed over are counted.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The line in its own input where it begins, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Returns its place, for messages: `cars.csv line 12`, `argument 3`.
    pub fn place(&self) -> impl fmt::Display + '_ {
        struct Shown<'a>(&'a Record);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Record { line, origin, .. } = self.0;
                match origin.unit {
                    Unit::Line => write!(f, "{} line {line}", origin.name),
                    Unit::Record => write!(f, "{} record {line}", origin.name),
                    Unit::Argument => write!(f, "argument {line}"),
                    Unit::Range => write!(f, "{} range {line}", origin.name),
                    Unit::Task => f.write_str(&origin.name),
                }
            }
        }
        Shown(self)
    }

    /// An error of kind `invalid` that begins with this record's place.
    pub fn invalid(&self, reason: impl fmt::Display) -> TaskError {
        TaskError::invalid(format!("{}: {reason}", self.place()))
    }

    /// Checks that the record is valid.
    ///
    /// # Errors
    /// Why it is not, with its place; kind `invalid`.
    pub fn check(&self) -> Result<(), TaskError> {
        match &self.body {
            Body::Bad(bad) => Err(bad.error.clone()),
            _ => Ok(()),
        }
    }

    /// The bytes as they stood in the input, without the line end (and, for JSON, without spaces
    /// around it). Of a record longer than the limit only the first bytes are there.
    pub fn raw(&self) -> &[u8] {
        match &self.body {
            Body::Text(bytes) => bytes,
            Body::Json(raw) => raw.get().as_bytes(),
            Body::Range(range) => range.1.get().as_bytes(),
            Body::Row(row) => &row.raw,
            Body::Bad(bad) => &bad.raw,
        }
    }

    /// Returns the bytes that `{}` stands for: the line's bytes, the row's line, the JSON text; of
    /// a record that is a JSON string, its text.
    ///
    /// # Errors
    /// An invalid record.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, TaskError> {
        match &self.body {
            Body::Bad(bad) => Err(bad.error.clone()),
            Body::Json(raw) => Field::Json(raw).bytes().map_err(|reason| self.invalid(reason)),
            _ => Ok(Cow::Borrowed(self.raw())),
        }
    }

    /// [`bytes`](Self::bytes) as text.
    ///
    /// # Errors
    /// An invalid record, or bytes that are not UTF-8.
    pub fn as_text(&self) -> Result<Cow<'_, str>, TaskError> {
        utf8(self.bytes()?).map_err(|at| self.invalid(format_args!("not UTF-8 at byte {at}")))
    }

    /// True if the record is a plain one, or a JSON string: something that a path like
    /// `dir/name.ext` can be.
    pub fn is_plain(&self) -> bool {
        match &self.body {
            Body::Text(_) => true,
            Body::Json(raw) => raw.get().starts_with('"'),
            Body::Row(_) | Body::Range(_) | Body::Bad(_) => false,
        }
    }

    /// The JSON value, if the record is one.
    pub fn as_json(&self) -> Option<&RawValue> {
        match &self.body {
            Body::Json(raw) => Some(raw),
            Body::Range(range) => Some(&range.1),
            _ => None,
        }
    }

    /// The part of a file, if the record is one.
    pub fn as_range(&self) -> Option<&Range> {
        match &self.body {
            Body::Range(range) => Some(&range.0),
            _ => None,
        }
    }

    /// The fields of a row with their columns, if the record is one.
    pub fn as_row(&self) -> Option<(&csv::ByteRecord, &Columns)> {
        match &self.body {
            Body::Row(row) => Some((&row.fields, &row.columns)),
            _ => None,
        }
    }

    /// The field at this path, `None` if there is none. See [`Path`] for what finds what.
    ///
    /// # Errors
    /// An invalid record.
    pub fn field(&self, path: &Path) -> Result<Option<Field<'_>>, TaskError> {
        match &self.body {
            Body::Bad(bad) => Err(bad.error.clone()),
            Body::Text(_) => Ok(None),
            Body::Json(raw) => path.find(raw).map(|found| found.map(Field::Json)).map_err(|reason| self.invalid(reason)),
            Body::Range(range) => path.find(&range.1).map(|found| found.map(Field::Json)).map_err(|reason| self.invalid(reason)),
            Body::Row(row) => Ok(row.columns.position(path.as_str()).and_then(|at| row.fields.get(at)).map(Field::Cell)),
        }
    }

    /// The record as JSON, for the `task` of a result line.
    ///
    /// A JSON record is itself. A plain record is a string. A row is an object by column name, or
    /// an array if there is no header (a column whose name is empty or taken has its number for a
    /// name). Bytes that are not UTF-8 are `{"base64":"…"}` in the place of their string. An
    /// invalid record is its raw bytes as a string; one that was too long is
    /// `{"cut":"first bytes","bytes":N}`.
    pub fn to_json(&self) -> Cow<'_, RawValue> {
        let value = match &self.body {
            Body::Json(raw) => return Cow::Borrowed(raw),
            Body::Range(range) => return Cow::Borrowed(&range.1),
            Body::Text(bytes) => bytes_json(bytes),
            Body::Bad(bad) => match bad.cut {
                None => bytes_json(&bad.raw),
                Some(cut) => serde_json::json!({"cut": String::from_utf8_lossy(&bad.raw), "bytes": cut.bytes}),
            },
            Body::Row(row) if row.columns.is_named() => {
                row.fields.iter().enumerate().map(|(at, field)| (row.columns.key(at).into_owned(), bytes_json(field))).collect()
            }
            Body::Row(row) => row.fields.iter().map(bytes_json).collect(),
        };
        // A value made of strings alone always serializes.
        Cow::Owned(to_raw_value(&value).unwrap_or_default())
    }

    /// The hash of the content, by which a task is known again: of a plain record's bytes, of a
    /// JSON text without the spaces around it, of a row's fields (however they are quoted), of a
    /// range's place and bytes. The same on every machine and in every version.
    pub fn key(&self) -> u128 {
        match &self.body {
            Body::Range(range) => range.0.key(),
            Body::Bad(bad) => bad.cut.map_or_else(|| xxh3_128(&bad.raw), |cut| cut.key),
            Body::Row(row) => {
                // Lengths keep ("ab", "c") and ("a", "bc") apart.
                let mut bytes = Vec::with_capacity(row.raw.len() + 8 * row.fields.len());
                for field in &row.fields {
                    bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
                    bytes.extend_from_slice(field);
                }
                xxh3_128(&bytes)
            }
            _ => xxh3_128(self.raw()),
        }
    }
}

/// The hash of a key that an expression gave, comparable with [`Record::key`] of a line with that
/// text.
pub fn key_of(text: &[u8]) -> u128 {
    xxh3_128(text)
}

/// A key as it stands in journals and result lines: 32 hexadecimal digits.
pub fn key_hex(key: u128) -> String {
    format!("{key:032x}")
}

/// A JSON string's text, any other value's JSON text.
pub(crate) fn json_text(raw: &RawValue) -> Result<Cow<'_, str>, String> {
    let text = raw.get();
    if !text.starts_with('"') {
        return Ok(Cow::Borrowed(text));
    }
    if !text.contains('\\') {
        return Ok(Cow::Borrowed(&text[1..text.len() - 1]));
    }
    serde_json::from_str(text).map(Cow::Owned).map_err(|error| format!("bad JSON string: {}", reason(&error)))
}

/// Bytes as text, or the place (from 1) of the first byte that is not.
pub(crate) fn utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, usize> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| error.valid_up_to() + 1),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|error| error.utf8_error().valid_up_to() + 1),
    }
}

/// Checks and copies one JSON value; the error is the rest of a message that begins with the place.
fn parse_json(bytes: &[u8]) -> Result<Box<RawValue>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!(", column {}: not UTF-8", error.valid_up_to() + 1))?;
    let bad = |error: serde_json::Error| format!(", column {}: bad JSON: {}", error.column(), reason(&error));
    let raw: Box<RawValue> = serde_json::from_str(text).map_err(bad)?;
    // Checking a raw value counts no depth. A value of more than MAX_DEPTH levels has at least as
    // many opening brackets, which is quick to rule out.
    let opening = |bytes: &[u8]| bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if bytes.len() > 2 * MAX_DEPTH && opening(bytes) >= MAX_DEPTH {
        serde_json::from_str::<serde_json::Value>(raw.get()).map_err(|error| {
            if reason(&error).contains("recursion limit") { format!(": JSON nested deeper than {MAX_DEPTH} levels") } else { bad(error) }
        })?;
    }
    Ok(raw)
}

/// Returns the error of serde_json without "at line 1 column 7": the line is not the file's.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.clone(), |at| text[..at].to_string())
}

fn bytes_json(bytes: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!({ "base64": base64(bytes) }),
    }
}

/// Encodes bytes as base64.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// A task of a queue as a record: `{"id":…,"task":…,"args":[…],"kwargs":{…},"attempt":1}`.
pub fn of_task(name: &Arc<Origin>, json: &[u8]) -> Record {
    Record::json(Place { seq: 1, line: 1, origin: name.clone() }, json)
}

/// A record that comes from somewhere else, whose place is told by this name: a JSON object or
/// array has fields, anything else is plain.
pub fn lent(name: String, bytes: &[u8]) -> Record {
    let place = Place { seq: 1, line: 1, origin: Arc::new(Origin { name: name.into(), unit: Unit::Task }) };
    if matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) {
        let record = Record::json(place.clone(), bytes);
        if record.check().is_ok() {
            return record;
        }
    }
    Record::text(place, bytes)
}

/// The name of an input that is made up: its records are `name record 3`.
pub fn named(name: &str) -> Arc<Origin> {
    Arc::new(Origin { name: name.into(), unit: Unit::Record })
}

/// A record that stands for none, for expressions that do not look at theirs.
pub fn nobody() -> Record {
    Record::text(Place { seq: 0, line: 0, origin: Arc::new(Origin { name: "nowhere".into(), unit: Unit::Line }) }, b"")
}

#[doc(hidden)]
pub mod testing {
    use super::*;

    pub fn place(line: u64) -> Place {
        Place { seq: line, line, origin: Arc::new(Origin { name: "in.txt".into(), unit: Unit::Line }) }
    }

    pub fn line(bytes: impl AsRef<[u8]>) -> Record {
        Record::text(place(7), bytes.as_ref())
    }

    pub fn json(text: impl AsRef<[u8]>) -> Record {
        Record::json(place(7), text.as_ref())
    }

    pub fn row(header: &[&str], fields: &[&[u8]]) -> Record {
        let columns = Arc::new(Columns::named(header.iter().copied()));
        Record::row(place(7), &fields.join(&b','), fields.iter().collect(), columns)
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};

    fn json_of(record: &Record) -> String {
        record.to_json().get().to_string()
    }

    #[test]
    fn a_record_becomes_json_without_loss() {
        let rows = [
            (line("a\"b"), r#""a\"b""#),
            (line(b"\xff\x00a"), r#"{"base64":"/wBh"}"#),
            (line(b"\xff"), r#"{"base64":"/w=="}"#),
            (line(b"\xff\xfe"), r#"{"base64":"//4="}"#),
            (json(r#" {"n": 1.50, "big": 123456789012345678901234567890} "#), r#"{"n": 1.50, "big": 123456789012345678901234567890}"#),
            (row(&["id", "make"], &[b"1", b"VW"]), r#"{"id":"1","make":"VW"}"#),
            (row(&["id", "id", ""], &[b"1", b"2", b"3"]), r#"{"id":"1","2":"2","3":"3"}"#),
            (Record::row(place(1), b"1,2", csv::ByteRecord::from(vec!["1", "2"]), Arc::new(Columns::unnamed(2))), r#"["1","2"]"#),
            (json("{bad"), r#""{bad""#),
        ];
        for (record, expected) in rows {
            assert_eq!(json_of(&record), expected);
        }
    }

    #[test]
    fn bad_json_names_line_column_and_reason() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let far = "[".repeat(100_000);
        let rows: [(&[u8], &str); 9] = [
            (b"{\"a\":1", "in.txt line 7, column 6: bad JSON: EOF while parsing an object"),
            (b"{\"a\" 1}", "in.txt line 7, column 6: bad JSON: expected `:`"),
            (b"{} {}", "in.txt line 7, column 4: bad JSON: trailing characters"),
            (b"nope", "in.txt line 7, column 2: bad JSON: expected ident"),
            (b"\"a\xffb\"", "in.txt line 7, column 3: not UTF-8"),
            (b"{'a':1}", "in.txt line 7, column 2: bad JSON: key must be a string"),
            (b"01", "in.txt line 7, column 2: bad JSON: invalid number"),
            (deep.as_bytes(), "in.txt line 7: JSON nested deeper than 128 levels"),
            (far.as_bytes(), "in.txt line 7, column 100000: bad JSON: EOF while parsing a list"),
        ];
        for (bytes, expected) in rows {
            let error = json(bytes).check().expect_err(expected);
            assert_eq!((error.kind(), error.message()), ("invalid", expected));
        }
        assert!(json(format!("{}{}", "[".repeat(100), "]".repeat(100))).check().is_ok());
    }

    #[test]
    fn a_ragged_row_names_what_was_expected_and_found() {
        let error = row(&["id", "make"], &[b"1"]).check().expect_err("ragged");
        assert_eq!(error.message(), "in.txt line 7: 2 fields expected (id, make), 1 found");
    }

    #[test]
    fn the_record_itself_is_its_text() {
        let rows: [(Record, &[u8]); 5] = [
            (line(b"a\xffb"), b"a\xffb"),
            (json(r#" "a\u00e9\n" "#), "aé\n".as_bytes()),
            (json(r#""plain""#), b"plain"),
            (json("[1, 2]"), b"[1, 2]"),
            (row(&["id", "make"], &[b"1", b"VW"]), b"1,VW"),
        ];
        for (record, expected) in rows {
            assert_eq!(record.bytes().expect("valid").as_ref(), expected);
        }
        assert_eq!(line(b"a\xffb").as_text().expect_err("bytes").message(), "in.txt line 7: not UTF-8 at byte 2");
        assert_eq!(json(r#""\ud800""#).bytes().expect_err("half a pair").kind(), "invalid");
    }

    #[test]
    fn a_key_is_of_the_content() {
        assert_eq!(key_hex(line("a").key()), key_hex(key_of(b"a")));
        assert_eq!(json(" [1] ").key(), json("[1]").key());
        assert_ne!(row(&["a", "b"], &[b"ab", b"c"]).key(), row(&["a", "b"], &[b"a", b"bc"]).key());
        // A journal outlives the program that wrote it: this value must never change.
        assert_eq!(key_hex(line("42").key()), "b080ccd44c7163e91217cb28c0ef2191");
    }
}

//! A record of Kafka as templates, commands and output see it.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use longshore_core::{Context, TaskError};
use longshore_kafka as kafka;
use serde::Serialize;
use serde_json::{
    Map, Value as Json, json,
    value::{RawValue, to_raw_value},
};

use longshore_run::{
    record::{self, Record},
    template::Vars,
};

/// The names that templates find beside the fields of the value.
pub(super) const NAMES: &[&str] = &["key", "topic", "partition", "offset", "timestamp"];

/// A record as templates see it.
pub(super) struct Incoming {
    pub(super) record: Record,
    key: String,
    topic: String,
    partition: String,
    offset: String,
    timestamp: String,
}

impl Incoming {
    /// A value that is a JSON object or array has fields; any other is a plain text. A missing key
    /// is an empty one.
    pub(super) fn of(from: &kafka::Record) -> Self {
        let value = from.value().unwrap_or_default();
        Self {
            record: record::lent(from.to_string(), value),
            key: String::from_utf8_lossy(from.key().unwrap_or_default()).into_owned(),
            topic: from.topic().to_owned(),
            partition: from.partition().to_string(),
            offset: from.offset().to_string(),
            timestamp: from.timestamp().map_or_else(String::new, |at| at.to_string()),
        }
    }

    /// Fills something in.
    pub(super) fn with<R>(&self, context: &Context, fill: impl FnOnce(&Record, &Vars<'_>) -> R) -> R {
        let extra = [
            ("key", self.key.as_str()),
            ("topic", &self.topic),
            ("partition", &self.partition),
            ("offset", &self.offset),
            ("timestamp", &self.timestamp),
        ];
        fill(&self.record, &Vars { slot: context.slot as usize + 1, attempt: context.attempt, extra: &extra })
    }
}

/// Returns the variables that a child finds in its environment. The id is the record's own, in
/// every attempt and after every restart: good for what must be done once only.
///
/// # Errors
/// A key or a header with a NUL byte, which no variable can hold.
pub(super) fn told(from: &kafka::Record, group: &str, context: &Context) -> Result<Vec<(OsString, OsString)>, TaskError> {
    let mut env: Vec<(OsString, OsString)> = vec![
        ("LONGSHORE_TASK_ID".into(), from.to_string().into()),
        ("LONGSHORE_TOPIC".into(), from.topic().into()),
        ("LONGSHORE_PARTITION".into(), from.partition().to_string().into()),
        ("LONGSHORE_OFFSET".into(), from.offset().to_string().into()),
        ("LONGSHORE_GROUP".into(), group.into()),
        ("LONGSHORE_ATTEMPT".into(), context.attempt.to_string().into()),
        ("LONGSHORE_SLOT".into(), (context.slot + 1).to_string().into()),
    ];
    if let Some(at) = from.timestamp() {
        env.push(("LONGSHORE_TIMESTAMP".into(), at.to_string().into()));
    }
    let mut bytes = |name: String, value: &[u8]| {
        if value.contains(&0) {
            return Err(TaskError::invalid(format!("{from}: the variable {name} would hold a NUL byte")));
        }
        env.push((name.into(), OsString::from_vec(value.to_vec())));
        Ok(())
    };
    if let Some(key) = from.key() {
        bytes("LONGSHORE_KEY".to_owned(), key)?;
    }
    for (name, value) in from.headers() {
        bytes(variable(name), value.unwrap_or_default())?;
    }
    Ok(env)
}

/// `trace-id` is `LONGSHORE_HEADER_TRACE_ID`.
fn variable(header: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    format!("LONGSHORE_HEADER_{}", header.chars().map(letter).collect::<String>())
}

/// A record as one line of JSON, with what was answered for it. A value that is JSON stands as it
/// is, digit for digit; other text as a string, bytes as base64.
pub(super) fn line(from: &kafka::Record, reply: Option<&RawValue>) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        topic: &'a str,
        partition: i32,
        offset: i64,
        timestamp: Option<i64>,
        key: Option<Json>,
        headers: Map<String, Json>,
        value: Option<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reply: Option<&'a RawValue>,
    }
    let headers = from.headers().map(|(name, value)| (name.to_owned(), value.map_or(Json::Null, text))).collect();
    let line = Line {
        topic: from.topic(),
        partition: from.partition(),
        offset: from.offset(),
        timestamp: from.timestamp(),
        key: from.key().map(text),
        headers,
        value: from.value().map(value),
        reply,
    };
    // Texts, numbers and JSON that was read as such always serialize.
    serde_json::to_string(&line).unwrap_or_default()
}

fn value(bytes: &[u8]) -> Box<RawValue> {
    if let Ok(raw) = serde_json::from_slice::<&RawValue>(bytes)
        && !raw.get().contains('\n')
    {
        return raw.to_owned();
    }
    let value = serde_json::from_slice(bytes).unwrap_or_else(|_| text(bytes));
    to_raw_value(&value).unwrap_or_default()
}

fn text(bytes: &[u8]) -> Json {
    std::str::from_utf8(bytes).map_or_else(|_| json!({ "base64": record::base64(bytes) }), Json::from)
}

#[cfg(test)]
mod tests {
    use super::{value, variable};

    #[test]
    fn a_value_that_is_json_keeps_its_digits_and_anything_else_becomes_json() {
        for (bytes, want) in [
            (&b"{\"n\": 1.50}"[..], "{\"n\": 1.50}"),
            (b"123456789012345678901234567890", "123456789012345678901234567890"),
            (b"{\n\"a\":1}", "{\"a\":1}"),
            (b"plain", "\"plain\""),
            (b"", "\"\""),
            (b"\xff", "{\"base64\":\"/w==\"}"),
        ] {
            assert_eq!(value(bytes).get(), want);
        }
    }

    #[test]
    fn headers_become_names_of_variables() {
        assert_eq!(variable("trace-id"), "LONGSHORE_HEADER_TRACE_ID");
        assert_eq!(variable("a=b"), "LONGSHORE_HEADER_A_B");
    }
}

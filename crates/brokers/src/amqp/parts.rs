//! Messages between kombu's envelope and AMQP's properties, headers and body.

use std::{collections::BTreeMap, io::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString},
};
use longshore_celery::{Map, MessageParts, Value};

use super::headers::UNREADABLE;

/// The deepest nesting of an envelope that is taken apart. What is deeper travels as it is.
const DEPTH: usize = 48;
/// Headers that are for the server. Sent again, its own would make it drop what comes round to a
/// queue a second time, and the sender's (`CC`) would send a copy to other queues each time.
const SERVERS: [&str; 10] = [
    "CC",
    "BCC",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-delivery-count",
];
/// The header of a body that is a message as it is, because it is no envelope.
const AS_IT_IS: &str = "x-longshore-raw";

/// A message as AMQP carries it.
#[derive(Clone, Debug, Default)]
pub(super) struct Parcel {
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

impl Parcel {
    /// Makes it of an envelope, or of whatever else was sent.
    ///
    /// # Errors
    /// AMQP cannot carry it; the reason, for people.
    pub(super) fn of(raw: &[u8]) -> Result<Self, String> {
        match MessageParts::from_envelope(raw, DEPTH) {
            Ok(parts) => Self::of_parts(parts),
            Err(_) => Ok(Self::as_it_is(raw.to_vec())),
        }
    }

    /// Makes one that carries these bytes as they are.
    pub(super) fn as_it_is(body: Vec<u8>) -> Self {
        let mut headers = FieldTable::default();
        headers.insert(AS_IT_IS.into(), AMQPValue::Boolean(true));
        Self { properties: BasicProperties::default().with_headers(headers).with_delivery_mode(2), body }
    }

    fn of_parts(parts: MessageParts) -> Result<Self, String> {
        let mut to = BasicProperties::default().with_headers(table(&parts.headers)?).with_delivery_mode(2);
        if let Some(text) = &parts.content_type {
            to = to.with_content_type(short("content-type", text)?);
        }
        if let Some(text) = &parts.content_encoding {
            to = to.with_content_encoding(short("content-encoding", text)?);
        }
        if !parts.delivery_tag.is_empty() {
            to = to.with_message_id(short("delivery_tag", &parts.delivery_tag)?);
        }
        for (name, value) in parts.properties.iter() {
            // The user and the cluster are the server's to judge: those of another sender would be
            // refused. What AMQP has no property for was never kombu's either.
            to = match (name, value) {
                ("correlation_id", Value::Text(text)) => to.with_correlation_id(short(name, text)?),
                ("reply_to", Value::Text(text)) => to.with_reply_to(short(name, text)?),
                ("type", Value::Text(text)) => to.with_type(short(name, text)?),
                ("app_id", Value::Text(text)) => to.with_app_id(short(name, text)?),
                ("expiration", Value::Text(text)) if is_expiration(text) => to.with_expiration(short(name, text)?),
                ("priority", Value::Int(number)) => to.with_priority(u8::try_from((*number).clamp(0, 255)).unwrap_or(0)),
                ("delivery_mode", Value::Int(1)) => to.with_delivery_mode(1),
                ("timestamp", Value::Int(number)) => to.with_timestamp(u64::try_from(*number).unwrap_or(0)),
                _ => to,
            };
        }
        Ok(Self { properties: to, body: parts.body })
    }

    /// Returns the envelope, or what was sent in its place. It is written as
    /// [`MessageParts::to_envelope`] writes it, without the parts in between: this is done for each
    /// message.
    pub(super) fn to_raw(&self, exchange: &str, routing_key: &str) -> Vec<u8> {
        let Self { properties: from, body } = self;
        let headers = from.headers().as_ref();
        if headers.is_some_and(|headers| headers.contains_key(AS_IT_IS)) {
            return body.clone();
        }
        let mut out = Vec::with_capacity(1_000 + body.len() * 4 / 3);
        out.extend_from_slice(b"{\"body\": \"");
        let begin = out.len();
        out.resize(begin + body.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(body, &mut out[begin..]).unwrap_or(0);
        out.truncate(begin + written);
        out.extend_from_slice(b"\", \"content-encoding\": ");
        write_optional(from.content_encoding().as_ref(), &mut out);
        out.extend_from_slice(b", \"content-type\": ");
        write_optional(from.content_type().as_ref(), &mut out);
        out.extend_from_slice(b", \"headers\": ");
        let none = FieldTable::default();
        write_table(headers.unwrap_or(&none), true, &mut out);
        out.extend_from_slice(b", \"properties\": {");
        let mut text = |name: &[u8], value: Option<&ShortString>| {
            if let Some(value) = value {
                out.extend_from_slice(name);
                write_text(value.as_str().as_bytes(), &mut out);
                out.extend_from_slice(b", ");
            }
        };
        text(b"\"correlation_id\": ", from.correlation_id().as_ref());
        text(b"\"reply_to\": ", from.reply_to().as_ref());
        text(b"\"expiration\": ", from.expiration().as_ref());
        text(b"\"type\": ", from.kind().as_ref());
        text(b"\"app_id\": ", from.app_id().as_ref());
        let mut number = |name: &[u8], value: Option<u64>| {
            if let Some(value) = value {
                out.extend_from_slice(name);
                // Writing to memory cannot fail.
                let _ = write!(out, "{value}, ");
            }
        };
        number(b"\"timestamp\": ", *from.timestamp());
        number(b"\"delivery_mode\": ", from.delivery_mode().map(u64::from));
        out.extend_from_slice(b"\"delivery_info\": {\"exchange\": ");
        write_text(exchange.as_bytes(), &mut out);
        out.extend_from_slice(b", \"routing_key\": ");
        write_text(routing_key.as_bytes(), &mut out);
        out.extend_from_slice(b"}, ");
        if let Some(priority) = from.priority() {
            let _ = write!(out, "\"priority\": {priority}, ");
        }
        out.extend_from_slice(b"\"body_encoding\": \"base64\", \"delivery_tag\": ");
        let tag = from.message_id().as_ref().or(from.correlation_id().as_ref());
        write_text(tag.map_or("", ShortString::as_str).as_bytes(), &mut out);
        out.extend_from_slice(b"}}");
        out
    }

    /// Returns it as one that was never delivered.
    pub(super) fn fresh(&self) -> Self {
        let headers = self.properties.headers().clone().unwrap_or_default();
        let kept = headers.inner().iter().filter(|(name, _)| !SERVERS.contains(&name.as_str()));
        let kept: BTreeMap<_, _> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut properties = BasicProperties::default().with_headers(FieldTable::from(kept));
        macro_rules! keep {
            ($($get:ident $with:ident),*) => { $(if let Some(value) = self.properties.$get() { properties = properties.$with(value.clone()); })* };
        }
        // Not the user and the cluster of whoever has sent it: the server would refuse it from us.
        keep!(
            content_type with_content_type, content_encoding with_content_encoding, delivery_mode with_delivery_mode,
            priority with_priority, correlation_id with_correlation_id, reply_to with_reply_to, expiration with_expiration,
            message_id with_message_id, timestamp with_timestamp, kind with_type, app_id with_app_id
        );
        Self { properties, body: self.body.clone() }
    }

    /// Returns the number of bytes that its properties take on the wire, at most.
    pub(super) fn size_of_properties(&self) -> usize {
        // Fourteen properties, and texts of 255 bytes at most in ten of them.
        self.properties.headers().as_ref().map_or(0, size_of_table) + 12 + 2 + 14 * 8 + 10 * 256
    }
}

/// Says whether a text is a time to live as the server reads it, in milliseconds.
fn is_expiration(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
}

fn short(name: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| format!("its {name} is {} bytes long; AMQP carries 255 at most", text.len()))
}

fn table(map: &Map) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, value) in map.iter().filter(|(name, _)| !SERVERS.contains(name)) {
        let key = ShortString::try_new(name).map_err(|_| format!("the name of a header is {} bytes long; AMQP carries 255", name.len()))?;
        table.insert(key, field(value)?);
    }
    Ok(table)
}

fn field(value: &Value) -> Result<AMQPValue, String> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(is) => AMQPValue::Boolean(*is),
        Value::Int(number) => i32::try_from(*number).map_or(AMQPValue::LongLongInt(*number), AMQPValue::LongInt),
        // No type of AMQP's holds it; as a text its digits stay.
        Value::Big(digits) => AMQPValue::LongString(LongString::from(digits.as_bytes())),
        Value::Float(number) => AMQPValue::Double(*number),
        Value::Text(text) => AMQPValue::LongString(LongString::from(text.as_bytes())),
        Value::Escaped(text) => AMQPValue::LongString(LongString::from(text.as_bytes())),
        Value::List(list) => {
            let mut array = FieldArray::default();
            for value in list {
                array.push(field(value)?);
            }
            AMQPValue::FieldArray(array)
        }
        Value::Map(map) => AMQPValue::FieldTable(table(map)?),
    })
}

fn write_optional(text: Option<&ShortString>, out: &mut Vec<u8>) {
    match text {
        Some(text) => write_text(text.as_str().as_bytes(), out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Writes a text as Python's JSON has it. Bytes that are no text are shown as well as can be.
fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.iter().all(|byte| (0x20..0x7f).contains(byte) && !b"\"\\".contains(byte)) {
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        Value::Text(String::from_utf8_lossy(bytes).into_owned()).write(out);
    }
}

/// Writes a table. Of the headers, those of the server's own are left out.
fn write_table(table: &FieldTable, is_headers: bool, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (name, value) in table.inner() {
        if is_headers && name.as_str().starts_with('x') && SERVERS.contains(&name.as_str()) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b", ");
        }
        write_text(name.as_str().as_bytes(), out);
        out.extend_from_slice(b": ");
        match value {
            // Bytes that nobody could read stay whole.
            AMQPValue::LongString(bytes) if name.as_str() == UNREADABLE => write_text(STANDARD.encode(bytes.as_bytes()).as_bytes(), out),
            value => write_value(value, out),
        }
    }
    out.push(b'}');
}

fn write_value(value: &AMQPValue, out: &mut Vec<u8>) {
    let float = |number: f64, out: &mut Vec<u8>| Value::Float(number).write(out);
    let _ = match value {
        AMQPValue::Void => write!(out, "null"),
        AMQPValue::Boolean(is) => write!(out, "{is}"),
        AMQPValue::ShortShortInt(number) => write!(out, "{number}"),
        AMQPValue::ShortShortUInt(number) => write!(out, "{number}"),
        AMQPValue::ShortInt(number) => write!(out, "{number}"),
        AMQPValue::ShortUInt(number) => write!(out, "{number}"),
        AMQPValue::LongInt(number) => write!(out, "{number}"),
        AMQPValue::LongUInt(number) => write!(out, "{number}"),
        AMQPValue::LongLongInt(number) => write!(out, "{number}"),
        AMQPValue::Timestamp(time) => write!(out, "{time}"),
        other => {
            match other {
                AMQPValue::Float(number) => float((*number).into(), out),
                AMQPValue::Double(number) => float(*number, out),
                AMQPValue::DecimalValue(number) => float(f64::from(number.value) / 10_f64.powi(number.scale.into()), out),
                AMQPValue::ShortString(text) => write_text(text.as_str().as_bytes(), out),
                AMQPValue::LongString(bytes) => write_text(bytes.as_bytes(), out),
                AMQPValue::ByteArray(bytes) => write_text(bytes.as_slice(), out),
                AMQPValue::FieldTable(table) => write_table(table, false, out),
                AMQPValue::FieldArray(list) => {
                    out.push(b'[');
                    for (at, value) in list.as_slice().iter().enumerate() {
                        if at > 0 {
                            out.extend_from_slice(b", ");
                        }
                        write_value(value, out);
                    }
                    out.push(b']');
                }
                _ => out.extend_from_slice(b"null"),
            }
            Ok(())
        }
    };
}

fn size_of_table(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + size_of_value(value)).sum::<usize>()
}

fn size_of_value(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(bytes) => 4 + bytes.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(list) => 4 + list.as_slice().iter().map(size_of_value).sum::<usize>(),
        AMQPValue::FieldTable(table) => size_of_table(table),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = r#"{"body": "W1syLCAzXSwge30sIHt9XQ==", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"argsrepr": "(2, 3)", "eta": null, "id": "i", "retries": 0, "stamps": {"a": [1, 2.5]}, "task": "labapp.add", "timelimit": [null, 7000000000]}, "properties": {"correlation_id": "i", "reply_to": "r", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 5, "body_encoding": "base64", "delivery_tag": "t"}}"#;

    #[test]
    fn an_envelope_goes_through_amqp_and_comes_back_the_same() {
        let parcel = Parcel::of(SENT.as_bytes()).unwrap();
        assert_eq!(parcel.body, b"[[2, 3], {}, {}]");
        assert_eq!(parcel.properties.priority(), &Some(5));
        assert!(parcel.size_of_properties() > 100);
        let back = parcel.to_raw("", "celery");
        assert_eq!(String::from_utf8(back).unwrap(), SENT);
    }

    #[test]
    fn what_is_no_envelope_comes_back_byte_for_byte() {
        for raw in [&b"{}"[..], b"", b"\xff\x00", br#"{"task": "t", "id": "i"}"#] {
            assert_eq!(Parcel::of(raw).unwrap().to_raw("", "q"), raw);
        }
    }

    #[test]
    fn what_amqp_cannot_carry_is_refused_in_words() {
        let long = "x".repeat(256);
        for (from, to, word) in [
            ("\"id\": \"i\"", format!("\"{long}\": 1"), "name of a header"),
            ("\"reply_to\": \"r\"", format!("\"reply_to\": \"{long}\""), "reply_to"),
            ("\"delivery_tag\": \"t\"", format!("\"delivery_tag\": \"{long}\""), "delivery_tag"),
        ] {
            let error = Parcel::of(SENT.replace(from, &to).as_bytes()).unwrap_err();
            assert!(error.contains(word) && error.contains("25"), "{error}");
        }
    }

    #[test]
    fn what_is_sent_again_has_nothing_that_was_for_the_server() {
        let mut headers = FieldTable::default();
        for name in ["CC", "BCC", "x-death", "task"] {
            headers.insert(name.into(), AMQPValue::FieldArray(FieldArray::default()));
        }
        let properties = BasicProperties::default().with_headers(headers).with_user_id("u".into()).with_cluster_id("c".into());
        let fresh = Parcel { properties: properties.with_priority(3).with_expiration("5".into()), body: b"b".to_vec() }.fresh();
        let names: Vec<_> = fresh.properties.headers().iter().flat_map(|table| table.inner().keys()).map(ShortString::as_str).collect();
        assert_eq!(names, ["task"]);
        assert!(fresh.properties.user_id().is_none() && fresh.properties.cluster_id().is_none());
        assert_eq!((fresh.properties.priority(), fresh.properties.expiration().is_some(), &fresh.body[..]), (&Some(3), true, &b"b"[..]));
    }

    #[test]
    fn a_time_to_live_that_the_server_would_refuse_is_left_out() {
        for (text, kept) in [("120000", true), ("0", true), ("-1", false), ("1.5", false), ("4294967296", false), ("", false)] {
            let raw = SENT.replace("\"reply_to\": \"r\"", &format!("\"expiration\": \"{text}\""));
            assert_eq!(Parcel::of(raw.as_bytes()).unwrap().properties.expiration().is_some(), kept, "{text}");
        }
    }

    /// What Celery put on the wire (`celery/fixtures/record_amqp.py`): a line for each message.
    fn recorded(name: &str) -> Vec<Value> {
        let path = format!("{}/../celery/fixtures/amqp/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read(&path).expect("it was recorded");
        text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| Value::parse(line, DEPTH).expect("a line")).collect()
    }

    fn bytes(row: &Value, name: &str) -> Vec<u8> {
        STANDARD.decode(row.get(name).and_then(Value::as_str).expect(name)).expect(name)
    }

    /// A table of AMQP's has no order here.
    fn sorted(value: &Value) -> Value {
        match value {
            Value::List(list) => Value::List(list.iter().map(sorted).collect()),
            Value::Map(map) => {
                let mut members: Vec<_> = map.iter().map(|(name, value)| (name.to_owned(), sorted(value))).collect();
                members.sort_by(|one, other| one.0.cmp(&other.0));
                Value::Map(Map(members))
            }
            other => other.clone(),
        }
    }

    #[test]
    fn what_celery_puts_on_the_wire_is_read_as_python_reads_it() {
        for (file, count) in [("messages", 30), ("redelivered", 6), ("delayed", 4), ("results", 5), ("control", 4)] {
            let rows = recorded(file);
            assert_eq!(rows.len(), count, "{file}");
            for row in rows {
                let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
                // Class, weight and size of the body come first.
                let header = bytes(&row, "header");
                let (_, properties) = lapin::protocol::basic::parse_properties(&header[12..]).expect(name);
                let parcel = Parcel { properties, body: bytes(&row, "body") };
                let raw = parcel.to_raw("", "celery");
                let parts = MessageParts::from_envelope(&raw, DEPTH).expect(name);
                assert_eq!(parts.body, bytes(&row, "body"), "{name}");
                let Some(Value::Map(headers)) = row.get("headers") else { panic!("{name}") };
                let sent: Vec<_> = headers.iter().filter(|(key, _)| !SERVERS.contains(key)).collect();
                assert_eq!(parts.headers.len(), sent.len(), "{name}");
                for (key, value) in sent.into_iter().filter(|(key, _)| !NOT_JSON.contains(key)) {
                    assert_eq!(parts.headers.get(key).map(sorted), Some(sorted(value)), "{name} {key}");
                }
                let Some(Value::Map(properties)) = row.get("properties") else { panic!("{name}") };
                for (key, value) in properties.iter().filter(|(key, _)| !NOT_OURS.contains(key)) {
                    assert_eq!(parts.properties.get(key), Some(value), "{name} {key}");
                }
            }
        }
    }

    /// Headers of the recording that JSON does not hold as they are: a time, and bytes.
    const NOT_JSON: [&str; 2] = ["when", "bytes"];
    /// Properties that are elsewhere in an envelope, and those that are the server's to judge.
    const NOT_OURS: [&str; 4] = ["content_type", "content_encoding", "message_id", "user_id"];
}

//! Messages between kombu's envelope and AMQP's properties, headers and body.

use std::{collections::BTreeMap, sync::Arc};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString},
};
use longshore_celery::{Map, MessageParts, Value, crashes_of};
use longshore_core::Receipt;

use super::{envelope, properties::RawProperties};
use crate::message::Claimed;

/// The deepest nesting of an envelope that is taken apart. What is deeper travels as it is.
const DEPTH: usize = 48;
/// Headers that are for the server. Sent again, its own would make it drop what comes round to a
/// queue a second time, and the sender's (`CC`) would send a copy to other queues each time.
pub(super) const SERVERS: [&str; 11] = [
    "CC",
    "BCC",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    DELIVERIES,
    "x-acquired-count",
];
/// The header in which a quorum queue says how often it has lent a message in vain.
const DELIVERIES: &str = "x-delivery-count";
/// Such deliveries from which on a message does not go back to its place: from RabbitMQ 4.0 on the
/// twenty-first is its last.
const WORN: i64 = 10;
/// The header of a body that is a message as it is, because it is no envelope.
const AS_IT_IS: &str = "x-longshore-raw";

/// A message as AMQP carries it.
#[derive(Clone, Debug, Default)]
pub(super) struct Parcel {
    pub(super) properties: RawProperties,
    pub(super) body: Vec<u8>,
}

impl Parcel {
    /// Returns whether it was lent in vain so often that it goes back as a new one.
    pub(super) fn is_worn(&self) -> bool {
        if memchr::memmem::find(self.properties.bytes(), DELIVERIES.as_bytes()).is_none() {
            return false;
        }
        let properties = self.properties.parse();
        let count = properties.headers().as_ref().and_then(|headers| headers.inner().get(DELIVERIES).cloned());
        match count {
            Some(AMQPValue::LongLongInt(count)) => count >= WORN,
            Some(AMQPValue::LongInt(count)) => i64::from(count) >= WORN,
            _ => false,
        }
    }

    /// Makes it of an envelope, or of whatever else was sent.
    ///
    /// # Errors
    /// AMQP cannot carry it; the reason, for people.
    pub(super) fn of(raw: &[u8]) -> Result<Self, String> {
        Self::of_envelope(raw, None)
    }

    /// The same, with another priority.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(super) fn with_priority(raw: &[u8], priority: u8) -> Result<Self, String> {
        Self::of_envelope(raw, Some(priority))
    }

    fn of_envelope(raw: &[u8], priority: Option<u8>) -> Result<Self, String> {
        let (properties, body) = match MessageParts::from_envelope(raw, DEPTH) {
            Ok(parts) => (properties(&parts)?, parts.body),
            Err(_) => (as_it_is(), raw.to_vec()),
        };
        let properties = match priority {
            Some(priority) => properties.with_priority(priority),
            None => properties,
        };
        Ok(Self::read(&properties, body))
    }

    /// Makes one that carries these bytes as they are.
    pub(super) fn as_it_is(body: Vec<u8>) -> Self {
        Self::read(&as_it_is(), body)
    }

    /// Makes it of a message that lapin has read.
    pub(super) fn read(properties: &BasicProperties, body: Vec<u8>) -> Self {
        Self { properties: RawProperties::of(properties), body }
    }

    /// Returns the envelope, or what was sent in its place.
    pub(super) fn to_raw(&self, exchange: &str, routing_key: &str) -> Vec<u8> {
        let fields = self.properties.fields();
        if fields.header(AS_IT_IS).is_some() {
            return self.body.clone();
        }
        envelope::write(&fields, &self.body, exchange, routing_key)
    }

    /// Returns it as it is lent under this number.
    pub(super) fn claimed(&self, number: u64, queue: Arc<str>, redelivered: bool) -> Claimed {
        let raw = self.to_raw("", &queue);
        // A classic queue says that a message was lent before, and not how often.
        let crashes = crashes_of(&raw).max(u32::from(redelivered));
        Claimed { receipt: Receipt(number), queue, raw, crashes, redelivered, given: false }
    }

    /// Returns it as one that was never delivered.
    pub(super) fn fresh(&self) -> Self {
        let from = self.properties.parse();
        let headers = from.headers().clone().unwrap_or_default();
        let kept = headers.inner().iter().filter(|(name, _)| !SERVERS.contains(&name.as_str()));
        let kept: BTreeMap<_, _> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut properties = BasicProperties::default().with_headers(FieldTable::from(kept));
        macro_rules! keep {
            ($($get:ident $with:ident),*) => { $(if let Some(value) = from.$get() { properties = properties.$with(value.clone()); })* };
        }
        // Not the user and the cluster of whoever has sent it: the server would refuse it from us.
        keep!(
            content_type with_content_type, content_encoding with_content_encoding, delivery_mode with_delivery_mode,
            priority with_priority, correlation_id with_correlation_id, reply_to with_reply_to, expiration with_expiration,
            message_id with_message_id, timestamp with_timestamp, kind with_type, app_id with_app_id
        );
        Self::read(&properties, self.body.clone())
    }

    /// Returns the number of bytes that its properties take on the wire.
    pub(super) fn size_of_properties(&self) -> usize {
        // Class, weight and the size of the body come first.
        self.properties.bytes().len() + 12
    }
}

/// Returns the properties of a body that is a message as it is.
fn as_it_is() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(AS_IT_IS.into(), AMQPValue::Boolean(true));
    BasicProperties::default().with_headers(headers).with_delivery_mode(2)
}

/// Returns what an envelope says beside the body.
fn properties(parts: &MessageParts) -> Result<BasicProperties, String> {
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
    Ok(to)
}

/// Says whether a text is a time to live as the server reads it, in milliseconds.
fn is_expiration(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
}

pub(super) fn short(name: &str, text: &str) -> Result<ShortString, String> {
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

pub(super) fn field(value: &Value) -> Result<AMQPValue, String> {
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

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    const SENT: &str = r#"{"body": "W1syLCAzXSwge30sIHt9XQ==", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"argsrepr": "(2, 3)", "eta": null, "id": "i", "retries": 0, "stamps": {"a": [1, 2.5]}, "task": "labapp.add", "timelimit": [null, 7000000000]}, "properties": {"correlation_id": "i", "reply_to": "r", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 5, "body_encoding": "base64", "delivery_tag": "t"}}"#;

    #[test]
    fn an_envelope_goes_through_amqp_and_comes_back_the_same() {
        let parcel = Parcel::of(SENT.as_bytes()).unwrap();
        assert_eq!(parcel.body, b"[[2, 3], {}, {}]");
        assert_eq!(parcel.properties.fields().priority, Some(5));
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
        let fresh = Parcel::read(&properties.with_priority(3).with_expiration("5".into()), b"b".to_vec()).fresh();
        let properties = fresh.properties.parse();
        let names: Vec<_> = properties.headers().iter().flat_map(|table| table.inner().keys()).map(ShortString::as_str).collect();
        assert_eq!(names, ["task"]);
        assert!(properties.user_id().is_none() && properties.cluster_id().is_none());
        assert_eq!((properties.priority(), properties.expiration().is_some(), &fresh.body[..]), (&Some(3), true, &b"b"[..]));
    }

    #[test]
    fn a_time_to_live_that_the_server_would_refuse_is_left_out() {
        for (text, kept) in [("120000", true), ("0", true), ("-1", false), ("1.5", false), ("4294967296", false), ("", false)] {
            let raw = SENT.replace("\"reply_to\": \"r\"", &format!("\"expiration\": \"{text}\""));
            assert_eq!(Parcel::of(raw.as_bytes()).unwrap().properties.fields().expiration.is_some(), kept, "{text}");
        }
    }

    /// Messages that Celery put on the wire (`celery/fixtures/record_amqp.py`), one a line.
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
                let parcel = Parcel { properties: RawProperties::received(header[12..].to_vec()), body: bytes(&row, "body") };
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

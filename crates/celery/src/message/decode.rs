//! The envelope of a message, as it stands in a Redis list: read in one pass over its bytes,
//! straight into a [`Message`].

use std::{borrow::Cow, time::Duration};

use super::{BadMessage, CHILD_CRASHES, CRASHES, Limits, Message, MessageFault, Stub, body, times};
use crate::value::{
    Fault, Map, Value, ValueError,
    read::{Scan, Text},
};

/// A fault, before it is known whose.
#[derive(Debug)]
pub(super) struct DecodeFault(pub(super) MessageFault, pub(super) String);

impl From<ValueError> for DecodeFault {
    fn from(error: ValueError) -> Self {
        let wrong = match error.fault {
            Fault::Syntax => MessageFault::Unreadable,
            Fault::Deep => MessageFault::TooLarge,
            Fault::Type => MessageFault::Malformed,
        };
        DecodeFault(wrong, error.to_string())
    }
}

impl DecodeFault {
    pub(super) fn within(self, place: &str) -> Self {
        DecodeFault(self.0, format!("{place}: {}", self.1))
    }

    /// The same with what can still be read of the message.
    pub(super) fn of(self, raw: &[u8]) -> BadMessage {
        let (task, id) = salvage(raw);
        BadMessage { wrong: self.0, reason: self.1, task, id }
    }
}

/// Words of the envelope that are not part of the [`Message`].
#[derive(Default)]
pub(super) struct EnvelopeWords<'a> {
    pub(super) body: Option<Text<'a>>,
    pub(super) content_type: Option<Cow<'a, str>>,
    pub(super) content_encoding: Option<Cow<'a, str>>,
    pub(super) body_encoding: Option<Cow<'a, str>>,
    pub(super) compression: Option<Cow<'a, str>>,
    delivery_tag: bool,
    delivery_info: bool,
}

impl Message {
    /// Reads a message as it stands in a Redis list (and in the SQLite and memory brokers, which
    /// use the same form). Protocols 1 and 2.
    ///
    /// # Errors
    /// Whatever is wrong with it. Nothing in `raw` can make this panic, overflow the stack, or use
    /// more memory than a few times what the limits allow.
    pub fn decode(raw: &[u8], limits: &Limits) -> Result<Message, BadMessage> {
        match Stub::read(raw) {
            Some(stub) => Err(stub.refused(limits)),
            None => decode(raw, limits).map_err(|bad| bad.of(raw)),
        }
    }
}

/// Returns why a message of so many bytes is not read.
pub(super) fn too_large(bytes: usize, limits: &Limits) -> BadMessage {
    let reason = format!("the message has {bytes} bytes, and {} are accepted", limits.message);
    BadMessage { wrong: MessageFault::TooLarge, reason, task: None, id: None }
}

fn decode(raw: &[u8], limits: &Limits) -> Result<Message, DecodeFault> {
    if raw.len() > limits.message {
        let BadMessage { wrong, reason, .. } = too_large(raw.len(), limits);
        return Err(DecodeFault(wrong, reason));
    }
    let mut message = Message::default();
    let mut packing = EnvelopeWords::default();
    envelope(raw, limits, &mut message, &mut packing).map_err(|error| DecodeFault::from(error).within("the message"))?;
    let missing = |what: &str| Err(DecodeFault(MessageFault::Malformed, format!("the message has no {what}")));
    if !packing.delivery_tag {
        return missing("properties.delivery_tag");
    }
    if !packing.delivery_info {
        return missing("properties.delivery_info");
    }
    if packing.body.is_none() {
        return missing("body");
    }
    body::read(&packing, limits, &mut message)?;
    if message.task.is_empty() {
        return missing("headers.task, and its body is not of protocol 1: it is no task");
    }
    if message.id.is_empty() {
        return missing("headers.id");
    }
    if message.correlation_id.as_deref() == Some(&message.id) {
        message.correlation_id = None;
    }
    Ok(message)
}

fn envelope<'a>(raw: &'a [u8], limits: &Limits, message: &mut Message, packing: &mut EnvelopeWords<'a>) -> Result<(), ValueError> {
    let mut scan = Scan::new(raw, limits.depth)?.up_to(limits.values);
    scan.object(|scan, name| match known(&name) {
        "body" => {
            if scan.peek() != Some(b'"') {
                return Err(ValueError::expected("a text", &scan.value()?).in_member("body"));
            }
            packing.body = Some(scan.text()?);
            Ok(())
        }
        "content-type" => within(name, |name| cow(scan, name).map(|text| packing.content_type = text)),
        "content-encoding" => within(name, |name| cow(scan, name).map(|text| packing.content_encoding = text)),
        "headers" => nullable(scan, |scan| headers(scan, message, packing)).map_err(|error| error.in_member("headers")),
        "properties" => nullable(scan, |scan| properties(scan, message, packing)).map_err(|error| error.in_member("properties")),
        _ => scan.skip().map(|_| ()),
    })?;
    scan.end()
}

fn headers<'a>(scan: &mut Scan<'a>, message: &mut Message, packing: &mut EnvelopeWords<'a>) -> Result<(), ValueError> {
    object(scan, |scan, name| {
        match known(&name) {
            "compression" => return within(name, |name| cow(scan, name).map(|text| packing.compression = text)),
            "redelivered" => return within(name, |_| boolean(scan).map(|is| message.redelivered |= is == Some(true))),
            "lang" | CRASHES => return scan.skip().map(|_| ()),
            // Whatever stands there harms nobody.
            CHILD_CRASHES => return scan.skip().map(|count| message.child_crashes = count.parse().unwrap_or(0)),
            _ => {}
        }
        if let Some(name) = header(scan, name, message)? {
            let name = scan.name(name)?;
            let value = scan.value()?;
            message.headers.0.push((name, value));
        }
        Ok(())
    })
}

/// Reads a header that says something about the task, or gives its name back. In protocol 1 they
/// stand in the body.
pub(super) fn header<'a>(scan: &mut Scan<'a>, name: Text<'a>, message: &mut Message) -> Result<Option<Text<'a>>, ValueError> {
    // Texts that are only shown are cut, not refused; numbers and times that make no sense refuse
    // the message, since nobody knows what was meant.
    let m = message;
    let read = match known(&name) {
        "task" => string(scan).map(|text| m.task = text.unwrap_or_default()),
        "id" => string(scan).map(|text| m.id = text.unwrap_or_default()),
        "root_id" => string(scan).map(|text| m.root_id = text),
        "parent_id" => string(scan).map(|text| m.parent_id = text),
        "group" => string(scan).map(|text| m.group = text),
        "group_index" => integer(scan).map(|index| m.group_index = index),
        "shadow" => shown(scan).map(|text| m.shadow = text),
        "argsrepr" => shown(scan).map(|text| m.argsrepr = text),
        "kwargsrepr" => shown(scan).map(|text| m.kwargsrepr = text),
        "origin" => shown(scan).map(|text| m.origin = text),
        "ignore_result" => boolean(scan).map(|is| m.ignore_result = is),
        "replaced_task_nesting" => integer(scan).map(|depth| m.replaced_task_nesting = depth.unwrap_or(0)),
        "retries" => integer(scan).and_then(|retries| {
            let count = u32::try_from(retries.unwrap_or(0));
            m.retries = count.map_err(|_| ValueError::new("expected a number of retries, from 0"))?;
            Ok(())
        }),
        "eta" => time(scan).map(|at| m.eta = at),
        "expires" => time(scan).map(|at| m.expires = at),
        // Celery writes `[hard, soft]`, and `[]` for none.
        "timelimit" => nullable(scan, |scan| {
            let mut count = 0;
            array(scan, |scan, index| {
                count = index + 1;
                match index {
                    0 => m.time_limit = seconds(scan)?,
                    1 => m.soft_time_limit = seconds(scan)?,
                    _ => scan.skip().map(|_| ())?,
                }
                Ok(())
            })?;
            if matches!(count, 0 | 2) { Ok(()) } else { Err(ValueError::new("expected two limits, the hard one and the soft one")) }
        }),
        // Of a member that stands there twice the last one counts, as in Python.
        "stamped_headers" => {
            m.stamped_headers.clear();
            nullable(scan, |scan| {
                array(scan, |scan, _| {
                    m.stamped_headers.push(string(scan)?.ok_or_else(|| ValueError::new("expected a text, found null"))?);
                    Ok(())
                })
            })
        }
        "stamps" => map(scan).map(|stamps| m.stamps = stamps),
        _ => return Ok(Some(name)),
    };
    within(name, |_| read).map(|()| None)
}

fn properties<'a>(scan: &mut Scan<'a>, message: &mut Message, packing: &mut EnvelopeWords<'a>) -> Result<(), ValueError> {
    object(scan, |scan, name| match known(&name) {
        "correlation_id" => within(name, |name| {
            // Nearly always the task's id, which was read before; then it is not kept.
            let id = cow(scan, name)?.filter(|id| !id.is_empty() && *id != message.id);
            message.correlation_id = id.map(Cow::into_owned);
            Ok(())
        }),
        "reply_to" => within(name, |_| string(scan).map(|to| message.reply_to = to.filter(|to| !to.is_empty()))),
        "delivery_mode" => scan.skip().map(|_| ()),
        "priority" => within(name, |_| {
            // Kombu takes every number and keeps it between 0 and 9.
            integer(scan).map(|priority| message.priority = priority.map(|priority| priority.clamp(0, 255) as u8))
        }),
        "body_encoding" => within(name, |name| cow(scan, name).map(|text| packing.body_encoding = text)),
        "delivery_tag" => {
            packing.delivery_tag = scan.skip()? != "null";
            Ok(())
        }
        "delivery_info" => nullable(scan, |scan| {
            packing.delivery_info = true;
            object(scan, |scan, name| match known(&name) {
                "exchange" => within(name, |_| string(scan).map(|exchange| message.exchange = exchange.unwrap_or_default())),
                "routing_key" => within(name, |_| string(scan).map(|key| message.routing_key = key.unwrap_or_default())),
                "redelivered" => within(name, |_| boolean(scan).map(|is| message.redelivered |= is == Some(true))),
                _ => scan.skip().map(|_| ()),
            })
        })
        .map_err(|error| error.in_member("delivery_info")),
        _ => match name.into_string() {
            Some(name) => scan.value().map(|value| message.properties.0.push((name, value))),
            None => scan.skip().map(|_| ()),
        },
    })
}

/// A member's name to compare with; none that is known has a lone surrogate.
pub(super) fn known<'t>(name: &'t Text<'_>) -> &'t str {
    match name {
        Text::Plain(name) => name,
        Text::Unescaped(name) => name,
        Text::Lone(_) => "",
    }
}

/// Reads a member, and says in which one an error was.
pub(super) fn within<'a, T>(name: Text<'a>, read: impl FnOnce(&Text<'a>) -> Result<T, ValueError>) -> Result<T, ValueError> {
    read(&name).map_err(|error| if error.fault == Fault::Type { error.in_member(known(&name)) } else { error })
}

/// Nothing for null.
pub(super) fn nullable<'a>(scan: &mut Scan<'a>, read: impl FnOnce(&mut Scan<'a>) -> Result<(), ValueError>) -> Result<(), ValueError> {
    if scan.word("null") { Ok(()) } else { read(scan) }
}

/// An object; anything else that is JSON is of the wrong type.
pub(super) fn object<'a>(
    scan: &mut Scan<'a>,
    each: impl FnMut(&mut Scan<'a>, Text<'a>) -> Result<(), ValueError>,
) -> Result<(), ValueError> {
    if scan.peek() == Some(b'{') { scan.object(each) } else { Err(ValueError::expected("an object", &scan.value()?)) }
}

/// A list; anything else that is JSON is of the wrong type.
pub(super) fn array<'a>(scan: &mut Scan<'a>, each: impl FnMut(&mut Scan<'a>, usize) -> Result<(), ValueError>) -> Result<(), ValueError> {
    if scan.peek() == Some(b'[') { scan.array(each) } else { Err(ValueError::expected("a list", &scan.value()?)) }
}

/// A text or null.
fn string(scan: &mut Scan<'_>) -> Result<Option<String>, ValueError> {
    match scan.peek() {
        Some(b'"') => match scan.text()?.into_string() {
            Some(text) => Ok(Some(text)),
            None => Err(ValueError::new("expected a text, found one with a lone surrogate")),
        },
        Some(b'n') if scan.word("null") => Ok(None),
        _ => Err(ValueError::expected("a text", &scan.value()?)),
    }
}

/// A text to be shown, or null: what has no form in Rust is replaced.
fn shown(scan: &mut Scan<'_>) -> Result<Option<String>, ValueError> {
    if scan.peek() != Some(b'"') {
        return string(scan);
    }
    Ok(Some(scan.text()?.into_shown()))
}

/// A text or null, which is not kept.
fn cow<'a>(scan: &mut Scan<'a>, _name: &Text<'_>) -> Result<Option<Cow<'a, str>>, ValueError> {
    if scan.peek() != Some(b'"') {
        return string(scan).map(|text| text.map(Cow::Owned));
    }
    Ok(Some(match scan.text()? {
        Text::Plain(text) | Text::Lone(text) => Cow::Borrowed(text),
        Text::Unescaped(text) => Cow::Owned(text),
    }))
}

fn integer(scan: &mut Scan<'_>) -> Result<Option<i64>, ValueError> {
    match scan.value()? {
        Value::Null => Ok(None),
        Value::Int(number) => Ok(Some(number)),
        other => Err(ValueError::expected("an integer", &other)),
    }
}

fn boolean(scan: &mut Scan<'_>) -> Result<Option<bool>, ValueError> {
    match scan.value()? {
        Value::Null => Ok(None),
        Value::Bool(is) => Ok(Some(is)),
        other => Err(ValueError::expected("a boolean", &other)),
    }
}

pub(super) fn map(scan: &mut Scan<'_>) -> Result<Map, ValueError> {
    match scan.peek() {
        Some(b'{') => scan.map(),
        Some(b'n') if scan.word("null") => Ok(Map::default()),
        _ => Err(ValueError::expected("an object", &scan.value()?)),
    }
}

/// A time or null; an empty text is none either.
fn time(scan: &mut Scan<'_>) -> Result<Option<std::time::SystemTime>, ValueError> {
    let Some(iso) = string(scan)?.filter(|iso| !iso.is_empty()) else { return Ok(None) };
    let wrong =
        || ValueError::new(format!("expected a time like 2026-11-21T00:02:13+00:00, found {:?}", iso.chars().take(40).collect::<String>()));
    times::parse(&iso).map(Some).ok_or_else(wrong)
}

/// Seconds or null; 0 is no limit either, as in Celery.
fn seconds(scan: &mut Scan<'_>) -> Result<Option<Duration>, ValueError> {
    let value = scan.value()?;
    let limit = match &value {
        Value::Null => return Ok(None),
        Value::Int(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    };
    let limit = limit.ok_or_else(|| ValueError::new(format!("expected seconds, from 0, found {}", short(&value))))?;
    Ok(Some(limit).filter(|limit| !limit.is_zero()))
}

fn short(value: &Value) -> String {
    match value {
        Value::Int(_) | Value::Float(_) => value.to_string(),
        other => other.kind().to_owned(),
    }
}

/// The name and the id of the task, as far as they can be read from a message that is wrong
/// somewhere.
fn salvage(raw: &[u8]) -> (Option<String>, Option<String>) {
    let (mut task, mut id, mut correlation_id, mut body) = (None, None, None, None);
    // Whatever is wrong ends the reading, and what was found before is what can be told.
    if let Ok(mut scan) = Scan::new(readable(raw), usize::MAX) {
        let _ = scan.object(|scan, name| match known(&name) {
            "headers" if scan.peek() == Some(b'{') => task_and_id(scan, &mut task, &mut id),
            "properties" if scan.peek() == Some(b'{') => scan.object(|scan, name| {
                let value = scan.value()?;
                if known(&name) == "correlation_id" {
                    correlation_id = value.as_str().map(str::to_owned);
                }
                Ok(())
            }),
            "body" if scan.peek() == Some(b'"') => scan.text().map(|text| body = Some(text)),
            _ => scan.skip().map(|_| ()),
        });
    }
    if let (None, Some(text)) = (&task, body)
        && let Ok(bytes) = body::unpack_base64(known(&text))
        && let Ok(mut scan) = Scan::new(readable(&bytes), usize::MAX)
    {
        let _ = task_and_id(&mut scan, &mut task, &mut id);
    }
    let told = |text: Option<String>| text.filter(|text| !text.is_empty());
    (told(task), told(id).or(told(correlation_id)))
}

fn task_and_id(scan: &mut Scan<'_>, task: &mut Option<String>, id: &mut Option<String>) -> Result<(), ValueError> {
    scan.object(|scan, name| {
        let into = match known(&name) {
            "task" => &mut *task,
            "id" => &mut *id,
            _ => return scan.skip().map(|_| ()),
        };
        *into = scan.value()?.as_str().map(str::to_owned);
        Ok(())
    })
}

/// As much as is UTF-8.
fn readable(raw: &[u8]) -> &[u8] {
    std::str::from_utf8(raw).map_or_else(|wrong| &raw[..wrong.valid_up_to()], str::as_bytes)
}

//! Writing messages: protocol 2, member by member in the order in which Celery writes them.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use uuid::Uuid;

use super::{Compression, Encoding, Message, times};
use crate::{
    signature::WireSignature,
    value::{Map, Value, msgpack, write},
};

/// The headers that are members of [`Message`] or none of the task's business: never written from
/// its other headers.
const KNOWN: [&str; 23] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "redelivered",
    "compression",
    super::CRASHES,
    super::CHILD_CRASHES,
];

/// The properties that are members of [`Message`] or about the message alone: never written from
/// its other properties.
const KNOWN_PROPERTIES: [&str; 7] =
    ["correlation_id", "reply_to", "delivery_mode", "delivery_info", "priority", "body_encoding", "delivery_tag"];

/// Returns whether a property is written from elsewhere, so that no sender can set it.
pub(crate) fn is_known_property(name: &str) -> bool {
    KNOWN_PROPERTIES.contains(&name)
}

/// Returns whether a header is written from elsewhere, or not at all, so that no sender can set it.
pub(crate) fn is_known(header: &str) -> bool {
    KNOWN.contains(&header)
}

impl Message {
    /// Writes it as it stands in a Redis list, under a fresh delivery tag.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        self.encode_tagged(encoding, fresh_tag())
    }

    /// The same, its body compressed, if it is to be.
    pub fn encode_as(&self, encoding: Encoding, compression: Option<Compression>) -> Vec<u8> {
        self.write_all(encoding, compression, fresh_tag())
    }

    /// Writes it under this delivery tag, which must be unique among all messages. Times are cut to
    /// microseconds, as Python's are.
    pub fn encode_tagged(&self, encoding: Encoding, delivery_tag: Uuid) -> Vec<u8> {
        self.write_all(encoding, None, delivery_tag)
    }

    fn write_all(&self, encoding: Encoding, compression: Option<Compression>, delivery_tag: Uuid) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        let packed = encoding == Encoding::MsgPack && msgpack::write(&self.body_value(), &mut body).is_ok();
        if !packed {
            body.clear();
            self.write_body(&mut body);
        }
        // Writing to memory cannot fail; were it to, the body is sent as it is.
        let compressed = compression.and_then(|how| Some((how, how.pack(&body).ok()?)));
        let compression = compressed.as_ref().map(|(how, _)| *how);
        let body = compressed.map_or(body, |(_, packed)| packed);
        let mut out = Vec::with_capacity(900 + body.len() * 4 / 3 + self.task.len());
        out.extend_from_slice(b"{\"body\": \"");
        let from = out.len();
        out.resize(from + body.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(&body, &mut out[from..]).unwrap_or(0);
        out.truncate(from + written);
        out.extend_from_slice(if packed {
            b"\", \"content-encoding\": \"binary\", \"content-type\": \"application/x-msgpack\", \"headers\": "
        } else {
            b"\", \"content-encoding\": \"utf-8\", \"content-type\": \"application/json\", \"headers\": "
        });
        self.write_headers(compression, &mut out);
        out.extend_from_slice(b", \"properties\": ");
        self.write_properties(delivery_tag, &mut out);
        out.push(b'}');
        out
    }

    fn write_headers(&self, compression: Option<Compression>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"lang\": \"rs\", \"task\": ");
        write::text(&self.task, out);
        text(", \"id\": ", Some(&self.id), out);
        text(", \"shadow\": ", self.shadow.as_deref(), out);
        time(", \"eta\": ", self.eta, out);
        time(", \"expires\": ", self.expires, out);
        text(", \"group\": ", self.group.as_deref(), out);
        int(", \"group_index\": ", self.group_index, out);
        int(", \"retries\": ", Some(self.retries.into()), out);
        seconds(", \"timelimit\": [", self.time_limit, out);
        seconds(", ", self.soft_time_limit, out);
        text("], \"root_id\": ", self.root_id.as_deref(), out);
        text(", \"parent_id\": ", self.parent_id.as_deref(), out);
        // Absent ones are not written: Python shows a null as "None".
        for (name, shown) in
            [(", \"argsrepr\": ", &self.argsrepr), (", \"kwargsrepr\": ", &self.kwargsrepr), (", \"origin\": ", &self.origin)]
        {
            if shown.is_some() {
                text(name, shown.as_deref(), out);
            }
        }
        out.extend_from_slice(b", \"ignore_result\": ");
        Value::from(self.ignore_result).write(out);
        int(", \"replaced_task_nesting\": ", Some(self.replaced_task_nesting), out);
        out.extend_from_slice(b", \"stamped_headers\": ");
        if self.stamped_headers.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            write::list(&self.stamped_headers, out, |name, out| write::text(name, out));
        }
        out.extend_from_slice(b", \"stamps\": ");
        self.stamps.write(out);
        if let Some(how) = compression {
            text(", \"compression\": ", Some(how.header()), out);
        }
        members(&self.headers, is_known, out);
        out.extend_from_slice(if self.redelivered { b", \"redelivered\": true}" } else { b"}" });
    }

    fn write_properties(&self, delivery_tag: Uuid, out: &mut Vec<u8>) {
        text("{\"correlation_id\": ", Some(self.correlation_id.as_ref().unwrap_or(&self.id)), out);
        text(", \"reply_to\": ", Some(self.reply_to.as_deref().unwrap_or_default()), out);
        members(&self.properties, is_known_property, out);
        text(", \"delivery_mode\": 2, \"delivery_info\": {\"exchange\": ", Some(&self.exchange), out);
        text(", \"routing_key\": ", Some(&self.routing_key), out);
        out.extend_from_slice(if self.redelivered { b", \"redelivered\": true}" } else { b"}" });
        int(", \"priority\": ", Some(self.priority.unwrap_or(0).into()), out);
        out.extend_from_slice(b", \"body_encoding\": \"base64\", \"delivery_tag\": \"");
        out.extend_from_slice(delivery_tag.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        out.extend_from_slice(b"\"}");
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        write::list(&self.args, out, Value::write);
        out.extend_from_slice(b", ");
        self.kwargs.write(out);
        for (name, list) in [(", {\"callbacks\": ", &self.callbacks), (", \"errbacks\": ", &self.errbacks)] {
            out.extend_from_slice(name.as_bytes());
            signatures(Some(list).filter(|list| !list.is_empty()), out);
        }
        out.extend_from_slice(b", \"chain\": ");
        signatures(self.chain.as_ref(), out);
        out.extend_from_slice(b", \"chord\": ");
        match &self.chord {
            Some(chord) => chord.write(out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b"}]");
    }

    fn body_value(&self) -> Value {
        let list = |signatures: &[WireSignature]| Value::List(signatures.iter().map(WireSignature::to_value).collect());
        let some = |signatures: &[WireSignature]| if signatures.is_empty() { Value::Null } else { list(signatures) };
        let embedded = Map::from_iter([
            ("callbacks", some(&self.callbacks)),
            ("errbacks", some(&self.errbacks)),
            ("chain", self.chain.as_deref().map(list).into()),
            ("chord", self.chord.as_ref().map(|chord| chord.to_value()).into()),
        ]);
        Value::List(vec![Value::List(self.args.clone()), Value::Map(self.kwargs.clone()), Value::Map(embedded)])
    }
}

/// A UUID of version 7: the time, which says how long the message waits, and random bits. These are
/// a random number for each thread, and from there on as many others as there are messages: asking
/// the kernel every time takes longer than all the rest.
fn fresh_tag() -> Uuid {
    /// Odd, so that all numbers come before one comes again, and far from any small multiple of a
    /// power of two.
    const STRIDE: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    thread_local! {
        static LAST: Cell<u128> = Cell::new(Uuid::new_v4().as_u128());
    }
    let next = LAST.get().wrapping_add(STRIDE);
    LAST.set(next);
    let [.., a, b, c, d, e, f, g, h, i, j] = next.to_be_bytes();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(now.as_millis()).unwrap_or(0), &[a, b, c, d, e, f, g, h, i, j]).into_uuid()
}

/// Returns when a message with this delivery tag was written, by the writer's clock, if the tag
/// says it. Ours do; those of Celery's clients are random.
pub fn sent_at(delivery_tag: &str) -> Option<SystemTime> {
    let tag = Uuid::try_parse(delivery_tag).ok().filter(|tag| tag.get_version_num() == 7)?;
    let millis = u64::try_from(tag.as_u128() >> 80).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

fn signatures(list: Option<&Vec<WireSignature>>, out: &mut Vec<u8>) {
    match list {
        Some(list) => write::list(list, out, WireSignature::write),
        None => out.extend_from_slice(b"null"),
    }
}

fn text(name: &str, text: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    match text {
        Some(text) => write::text(text, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Writes further members of an object, but for those with a place of their own.
fn members(map: &Map, has_a_place: fn(&str) -> bool, out: &mut Vec<u8>) {
    for (name, value) in map.iter().filter(|(name, _)| !has_a_place(name)) {
        out.extend_from_slice(b", ");
        write::text(name, out);
        out.extend_from_slice(b": ");
        value.write(out);
    }
}

fn int(name: &str, number: Option<i64>, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    match number {
        Some(number) => write::int(number, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn time(name: &str, time: Option<SystemTime>, out: &mut Vec<u8>) {
    text(name, time.map(times::format).as_deref(), out);
}

fn seconds(name: &str, limit: Option<Duration>, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    let whole = |limit: Duration| i64::try_from(limit.as_secs()).ok().filter(|_| limit.subsec_nanos() == 0);
    limit
        .map(|limit| whole(limit).map_or_else(|| Value::Float(limit.as_secs_f64()), Value::Int))
        .map_or(Value::Null, |value| value)
        .write(out);
}

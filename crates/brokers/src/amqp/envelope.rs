//! Writes kombu's envelope from a message's bytes, without the parts in between: this is done for
//! each message.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use longshore_celery::Value;

use super::{
    headers::UNREADABLE,
    parts::SERVERS,
    properties::{Fields, RawValue, is_read, members, values},
};

/// Writes it as `MessageParts::to_envelope` does.
pub(super) fn write(from: &Fields<'_>, body: &[u8], exchange: &str, routing_key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1_200 + body.len() * 4 / 3);
    out.extend_from_slice(b"{\"body\": \"");
    let begin = out.len();
    out.resize(begin + body.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(body, &mut out[begin..]).unwrap_or(0);
    out.truncate(begin + written);
    out.extend_from_slice(b"\", \"content-encoding\": ");
    write_optional(from.content_encoding, &mut out);
    out.extend_from_slice(b", \"content-type\": ");
    write_optional(from.content_type, &mut out);
    out.extend_from_slice(b", \"headers\": ");
    write_table(from.headers, 0, &mut out);
    out.extend_from_slice(b", \"properties\": {");
    let mut text = |name: &[u8], value: Option<&[u8]>| {
        if let Some(value) = value {
            out.extend_from_slice(name);
            write_text(value, &mut out);
            out.extend_from_slice(b", ");
        }
    };
    text(b"\"correlation_id\": ", from.correlation_id);
    text(b"\"reply_to\": ", from.reply_to);
    text(b"\"expiration\": ", from.expiration);
    text(b"\"type\": ", from.kind);
    text(b"\"app_id\": ", from.app_id);
    let mut number = |name: &[u8], value: Option<u64>| {
        if let Some(value) = value {
            out.extend_from_slice(name);
            // Writing to memory cannot fail.
            let _ = write!(out, "{value}, ");
        }
    };
    number(b"\"timestamp\": ", from.timestamp);
    number(b"\"delivery_mode\": ", from.delivery_mode.map(u64::from));
    out.extend_from_slice(b"\"delivery_info\": {\"exchange\": ");
    write_text(exchange.as_bytes(), &mut out);
    out.extend_from_slice(b", \"routing_key\": ");
    write_text(routing_key.as_bytes(), &mut out);
    out.extend_from_slice(b"}, ");
    if let Some(priority) = from.priority {
        let _ = write!(out, "\"priority\": {priority}, ");
    }
    out.extend_from_slice(b"\"body_encoding\": \"base64\", \"delivery_tag\": ");
    write_text(from.message_id.or(from.correlation_id).unwrap_or_default(), &mut out);
    out.extend_from_slice(b"}}");
    out
}

fn write_optional(text: Option<&[u8]>, out: &mut Vec<u8>) {
    match text {
        Some(text) => write_text(text, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Writes a text as Python's JSON has it. Bytes that are no text are shown as well as can be.
fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    // Without an early end, the compiler looks at many bytes at once.
    let is_plain = |plain: bool, byte: &u8| plain & (*byte >= 0x20) & (*byte < 0x7f) & (*byte != b'"') & (*byte != b'\\');
    if bytes.iter().fold(true, is_plain) {
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        Value::Text(String::from_utf8_lossy(bytes).into_owned()).write(out);
    }
}

/// Writes a table. Of the headers, those of the server's own are left out.
fn write_table(table: &[u8], depth: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    let begins = out.len();
    for (name, value) in members(table) {
        if depth == 0 && is_servers(name) {
            continue;
        }
        if out.len() > begins {
            out.extend_from_slice(b", ");
        }
        write_text(name, out);
        out.extend_from_slice(b": ");
        match value {
            // Bytes that nobody could read stay whole.
            RawValue::Text(bytes) if name == UNREADABLE.as_bytes() => write_text(STANDARD.encode(bytes).as_bytes(), out),
            value => write_value(value, depth + 1, out),
        }
    }
    out.push(b'}');
}

/// Says whether a header is the server's own, and begins as those do that it adds.
fn is_servers(name: &[u8]) -> bool {
    name.first() == Some(&b'x') && SERVERS.iter().any(|other| other.as_bytes() == name)
}

fn write_value(value: RawValue<'_>, depth: usize, out: &mut Vec<u8>) {
    let _ = match value {
        RawValue::Nothing => write!(out, "null"),
        RawValue::Is(is) => write!(out, "{is}"),
        RawValue::Signed(number) => write!(out, "{number}"),
        RawValue::Unsigned(number) => write!(out, "{number}"),
        RawValue::Float(number) => {
            Value::Float(number).write(out);
            Ok(())
        }
        RawValue::Text(bytes) => {
            write_text(bytes, out);
            Ok(())
        }
        RawValue::Table(_) | RawValue::List(_) if !is_read(depth) => write!(out, "null"),
        RawValue::Table(table) => {
            write_table(table, depth, out);
            Ok(())
        }
        RawValue::List(list) => {
            out.push(b'[');
            for (at, value) in values(list).enumerate() {
                if at > 0 {
                    out.extend_from_slice(b", ");
                }
                write_value(value, depth + 1, out);
            }
            out.push(b']');
            Ok(())
        }
    };
}

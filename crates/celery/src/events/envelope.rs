//! The envelope around events, remote-control requests and their replies: the same as around tasks,
//! with JSON in it.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::value::{Map, Value, ValueError};

/// The deepest nesting that is read.
const DEPTH: usize = 128;

/// Contents of an envelope.
pub(crate) struct EventEnvelope<'a> {
    pub(crate) body: Value,
    pub(crate) headers: Map,
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) delivery_mode: u32,
    pub(crate) tag: &'a str,
}

impl EventEnvelope<'_> {
    pub(crate) fn write(self) -> Vec<u8> {
        let delivery_info = Map::from_iter([("exchange", self.exchange), ("routing_key", self.routing_key)]);
        let properties: [(&str, Value); 5] = [
            ("delivery_mode", self.delivery_mode.into()),
            ("delivery_info", delivery_info.into()),
            ("priority", 0.into()),
            ("body_encoding", "base64".into()),
            ("delivery_tag", self.tag.into()),
        ];
        let members: [(&str, Value); 5] = [
            ("body", STANDARD.encode(self.body.to_json()).into()),
            ("content-encoding", "utf-8".into()),
            ("content-type", "application/json".into()),
            ("headers", self.headers.into()),
            ("properties", Map::from_iter(properties).into()),
        ];
        Value::Map(Map::from_iter(members)).to_json()
    }
}

/// Opens an envelope: what is in it, and its headers.
pub(crate) fn open(raw: &[u8], limit: usize) -> Result<(Value, Map), ValueError> {
    if raw.len() > limit {
        return Err(ValueError::new(format!("the message has {} bytes, and {limit} are accepted", raw.len())));
    }
    let Value::Map(mut envelope) = Value::parse(raw, DEPTH)? else { return Err(ValueError::new("expected a message (an object)")) };
    let headers = match envelope.remove("headers") {
        Some(Value::Map(headers)) => headers,
        _ => Map::default(),
    };
    match envelope.get("content-type") {
        None | Some(Value::Null) => {}
        Some(Value::Text(kind)) if kind == "application/json" => {}
        Some(other) => return Err(ValueError::new(format!("content type {}; only JSON is read", crate::repr::repr(other)))),
    }
    if headers.get("compression").is_some_and(|how| !how.is_null()) {
        return Err(ValueError::new("compressed; events and remote control are read uncompressed only"));
    }
    let Some(Value::Text(body)) = envelope.remove("body") else { return Err(ValueError::new("a message without a body")) };
    let encoding = envelope.get("properties").and_then(|properties| properties.get("body_encoding")).and_then(Value::as_str);
    let json = match encoding {
        Some("base64") => STANDARD.decode(body).map_err(|wrong| ValueError::new(format!("the body is not base64: {wrong}")))?,
        _ => body.into_bytes(),
    };
    let body = Value::parse(&json, DEPTH).map_err(|error| error.in_member("body"))?;
    Ok((body, headers))
}

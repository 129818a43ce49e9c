//! A message in parts, as AMQP carries it: properties, headers, and a body of plain bytes. On Redis
//! and in files all of it is one JSON text, kombu's envelope, with the body as base64.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{BadMessage, MessageFault, body::unpack_base64, decode::DecodeFault};
use crate::value::{Map, Value};

/// A message in parts. Both forms of a message say the same.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MessageParts {
    /// The body as it is, with no base64 around it.
    pub body: Vec<u8>,
    /// Type of the body: `application/json`.
    pub content_type: Option<String>,
    /// The encoding of its text: `utf-8`.
    pub content_encoding: Option<String>,
    /// The headers.
    pub headers: Map,
    /// The basic properties that senders set: `correlation_id`, `reply_to`, `delivery_mode`,
    /// `priority` and others.
    pub properties: Map,
    /// Exchange and routing key, which on AMQP come with the delivery.
    pub delivery_info: Map,
    /// The envelope's own name for the message. AMQP's tags are another thing; it fits in
    /// `message_id`.
    pub delivery_tag: String,
}

impl MessageParts {
    /// Takes an envelope apart that nests no deeper than this.
    ///
    /// # Errors
    /// It is no envelope, or its body cannot be unpacked.
    pub fn from_envelope(raw: &[u8], depth: usize) -> Result<Self, BadMessage> {
        read(raw, depth).map_err(|fault| fault.of(raw))
    }

    /// Makes the envelope, byte for byte as kombu writes it.
    pub fn to_envelope(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(900 + self.body.len() * 4 / 3);
        out.extend_from_slice(b"{\"body\": \"");
        let from = out.len();
        out.resize(from + self.body.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(&self.body, &mut out[from..]).unwrap_or(0);
        out.truncate(from + written);
        out.extend_from_slice(b"\", \"content-encoding\": ");
        Value::from(self.content_encoding.as_deref()).write(&mut out);
        out.extend_from_slice(b", \"content-type\": ");
        Value::from(self.content_type.as_deref()).write(&mut out);
        out.extend_from_slice(b", \"headers\": ");
        self.headers.write(&mut out);
        out.extend_from_slice(b", \"properties\": ");
        self.envelope_properties().write(&mut out);
        out.push(b'}');
        out
    }

    /// Returns the properties as they stand in an envelope: kombu adds its own before the priority
    /// and behind it.
    fn envelope_properties(&self) -> Map {
        let at = self.properties.0.iter().position(|(name, _)| name == "priority").unwrap_or(self.properties.len());
        let mut properties = self.properties.clone();
        properties.0.insert(at, ("delivery_info".to_owned(), Value::Map(self.delivery_info.clone())));
        properties.0.push(("body_encoding".to_owned(), "base64".into()));
        properties.0.push(("delivery_tag".to_owned(), self.delivery_tag.as_str().into()));
        properties
    }
}

fn read(raw: &[u8], depth: usize) -> Result<MessageParts, DecodeFault> {
    let malformed = |what: &str| DecodeFault(MessageFault::Malformed, what.to_owned());
    let Value::Map(mut envelope) = Value::parse(raw, depth)? else { return Err(malformed("the message is no object")) };
    let mut object = |name: &str| match envelope.remove(name) {
        Some(Value::Map(map)) => Ok(map),
        None | Some(Value::Null) => Ok(Map::default()),
        Some(_) => Err(malformed(&format!("{name} is no object"))),
    };
    let (headers, mut properties) = (object("headers")?, object("properties")?);
    let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
    let body = text(envelope.remove("body")).ok_or_else(|| malformed("the message has no body"))?;
    let body = match text(properties.remove("body_encoding")).as_deref() {
        Some("base64") => unpack_base64(&body)?,
        None | Some("") => body.into_bytes(),
        Some(other) => {
            return Err(DecodeFault(MessageFault::Unreadable, format!("body_encoding is {other:?}; base64 and plain text can be read")));
        }
    };
    let delivery_tag = text(properties.remove("delivery_tag")).ok_or_else(|| malformed("the message has no properties.delivery_tag"))?;
    let Some(Value::Map(delivery_info)) = properties.remove("delivery_info") else {
        return Err(malformed("the message has no properties.delivery_info"));
    };
    let (content_type, content_encoding) = (text(envelope.remove("content-type")), text(envelope.remove("content-encoding")));
    Ok(MessageParts { body, content_type, content_encoding, headers, properties, delivery_info, delivery_tag })
}

//! A reply.

use super::request::ReplyTo;
use crate::{
    events::envelope::{self, EventEnvelope},
    value::{Map, Value, ValueError},
};

/// Replies of workers to a request: one each, as a rule.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Reply {
    /// Node and reply.
    pub from: Vec<(String, Value)>,
    /// The ticket of the request.
    pub ticket: Option<String>,
    /// The node's logical time.
    pub clock: u64,
}

impl Reply {
    /// A node's reply to the request with this ticket.
    pub fn new(node: impl Into<String>, value: impl Into<Value>, ticket: Option<&str>, clock: u64) -> Self {
        Self { from: vec![(node.into(), value.into())], ticket: ticket.map(str::to_owned), clock }
    }

    /// Writes it as it is put into the client's queue. `tag` is a delivery tag, which must be
    /// unique.
    pub fn encode(&self, to: &ReplyTo, tag: &str) -> Vec<u8> {
        let body = Value::Map(self.from.iter().cloned().collect());
        let headers = Map::from_iter([("ticket", Value::from(self.ticket.as_deref())), ("clock", self.clock.into())]);
        EventEnvelope { body, headers, exchange: &to.exchange, routing_key: &to.routing_key, delivery_mode: 1, tag }.write()
    }

    /// Reads a reply of at most `limit` bytes.
    ///
    /// # Errors
    /// It is no reply.
    pub fn decode(raw: &[u8], limit: usize) -> Result<Self, ValueError> {
        let (body, headers) = envelope::open(raw, limit)?;
        let Value::Map(from) = body else { return Err(ValueError::expected("replies by node (an object)", &body)) };
        Ok(Self {
            from: from.0,
            ticket: headers.get("ticket").and_then(Value::as_str).map(str::to_owned),
            clock: headers.get("clock").and_then(Value::as_i64).and_then(|clock| u64::try_from(clock).ok()).unwrap_or_default(),
        })
    }
}

/// `{"ok": …}`
pub fn ok(value: impl Into<Value>) -> Value {
    Value::Map(Map::from_iter([("ok", value)]))
}

/// `{"error": …}`
pub fn error(text: &str) -> Value {
    Value::Map(Map::from_iter([("error", text)]))
}

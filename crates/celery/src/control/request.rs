//! A request, and whom it is for.

use crate::{
    events::envelope::{self, EventEnvelope},
    glob::glob,
    value::{Map, Value, ValueError},
};

/// A request to workers.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Request {
    /// The command's name.
    pub method: String,
    /// Its arguments, by name.
    pub arguments: Map,
    /// The nodes that it is for; all that the pattern says, where absent or empty.
    pub destination: Option<Vec<String>>,
    /// Which nodes it is for.
    pub pattern: Option<String>,
    /// Language of the pattern: `glob` or `pcre`. Without one the pattern counts for nothing.
    pub matcher: Option<String>,
    /// Names the request in its replies.
    pub ticket: Option<String>,
    /// Address of replies; nobody waits for them, where absent.
    pub reply_to: Option<ReplyTo>,
    /// The client's logical time.
    pub clock: u64,
    /// Until when the client waits, in seconds since 1970; 0 is for ever.
    pub expires: f64,
}

/// Address of replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The exchange.
    pub exchange: String,
    /// The routing key: the client's id.
    pub routing_key: String,
}

/// Answer to the question whether a request is for a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Addressed {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It has a pattern that is not understood here: what to reply.
    Unclear(Value),
}

impl Request {
    /// A request to all nodes that nobody waits for.
    pub fn new(method: impl Into<String>) -> Self {
        Self { method: method.into(), ..Self::default() }
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.set(name, value);
        self
    }

    /// Only for these nodes (all, if there are none).
    #[must_use]
    pub fn to<N: Into<String>>(mut self, nodes: impl IntoIterator<Item = N>) -> Self {
        self.destination = Some(nodes.into_iter().map(Into::into).collect::<Vec<_>>()).filter(|nodes| !nodes.is_empty());
        self
    }

    /// Only for nodes whose names match (`*`, `?`, `[a-z]`, `[!a-z]`).
    #[must_use]
    pub fn matching(mut self, glob: impl Into<String>) -> Self {
        (self.pattern, self.matcher) = (Some(glob.into()), Some("glob".to_owned()));
        self
    }

    /// Replies go to the client with this id, named by this ticket.
    #[must_use]
    pub fn answered(mut self, ticket: impl Into<String>, oid: impl Into<String>) -> Self {
        self.ticket = Some(ticket.into());
        self.reply_to = Some(ReplyTo { exchange: super::REPLY_EXCHANGE.to_owned(), routing_key: oid.into() });
        self
    }

    /// Returns whether it is for this node.
    pub fn is_for(&self, node: &str) -> Addressed {
        if let Some(nodes) = self.destination.as_ref().filter(|nodes| !nodes.is_empty()) {
            return if nodes.iter().any(|name| name == node) { Addressed::Yes } else { Addressed::No };
        }
        match (self.pattern.as_deref().unwrap_or_default(), self.matcher.as_deref().unwrap_or_default()) {
            ("", _) | (_, "") => Addressed::Yes,
            (pattern, "glob") => {
                if glob(pattern, node) {
                    Addressed::Yes
                } else {
                    Addressed::No
                }
            }
            (_, other) => Addressed::Unclear(super::error(&format!("matcher {other} is not supported here; use glob"))),
        }
    }

    /// Writes it as it is published. `tag` is a delivery tag, which must be unique.
    pub fn encode(&self, tag: &str) -> Vec<u8> {
        let mut body = Map::from_iter([("method", Value::from(self.method.as_str())), ("arguments", self.arguments.clone().into())]);
        body.set("destination", self.destination.clone());
        body.set("pattern", self.pattern.as_deref());
        body.set("matcher", self.matcher.as_deref());
        if let Some(ticket) = &self.ticket {
            body.set("ticket", ticket.as_str());
        }
        if let Some(to) = &self.reply_to {
            body.set("reply_to", Map::from_iter([("exchange", to.exchange.as_str()), ("routing_key", to.routing_key.as_str())]));
        }
        let expires = if self.expires == 0.0 { Value::Int(0) } else { self.expires.into() };
        let headers = Map::from_iter([("clock", Value::from(self.clock)), ("expires", expires)]);
        EventEnvelope { body: body.into(), headers, exchange: super::EXCHANGE, routing_key: "", delivery_mode: 2, tag }.write()
    }

    /// Reads a request of at most `limit` bytes.
    ///
    /// # Errors
    /// It is no request.
    pub fn decode(raw: &[u8], limit: usize) -> Result<Self, ValueError> {
        let (body, headers) = envelope::open(raw, limit)?;
        let Value::Map(mut body) = body else { return Err(ValueError::expected("a request (an object)", &body)) };
        let Some(Value::Text(method)) = body.remove("method") else { return Err(ValueError::new("a request without a method")) };
        let arguments = match body.remove("arguments") {
            None | Some(Value::Null) => Map::default(),
            Some(Value::Map(arguments)) => arguments,
            Some(other) => return Err(ValueError::expected("arguments (an object)", &other).in_member("arguments")),
        };
        let destination = match body.remove("destination") {
            Some(Value::List(nodes)) => Some(nodes.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            // Python asks whether the node's name is in it, and of a text that is as good as equal.
            Some(Value::Text(node)) => Some(vec![node]),
            _ => None,
        };
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let reply_to = body.get("reply_to").and_then(|to| {
            let text = |name: &str| to.get(name).and_then(Value::as_str).map(str::to_owned);
            Some(ReplyTo { exchange: text("exchange")?, routing_key: text("routing_key")? })
        });
        Ok(Self {
            method,
            arguments,
            destination,
            pattern: text("pattern"),
            matcher: text("matcher"),
            ticket: text("ticket"),
            reply_to,
            clock: headers.get("clock").and_then(Value::as_i64).and_then(|clock| u64::try_from(clock).ok()).unwrap_or_default(),
            expires: headers.get("expires").and_then(Value::as_f64).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_the_nodes_that_it_names() {
        let request = |request: Request| request.is_for("w1@lab");
        assert_eq!(request(Request::new("ping")), Addressed::Yes);
        assert_eq!(request(Request::new("ping").to(["w1@lab", "w2@lab"])), Addressed::Yes);
        assert_eq!(request(Request::new("ping").to(["w2@lab"])), Addressed::No);
        assert_eq!(request(Request::new("ping").matching("w2*")), Addressed::No);
        let pcre = Request { pattern: Some("w.*".into()), matcher: Some("pcre".into()), ..Request::new("ping") };
        assert!(matches!(request(pcre), Addressed::Unclear(reply) if reply.get("error").is_some()));
    }
}

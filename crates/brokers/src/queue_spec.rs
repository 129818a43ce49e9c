//! How a queue is declared, where its users agree on more than its name.

use std::sync::Arc;

use longshore_celery::Value;

/// Declaration of a queue, as Celery's `task_queues` has it: whoever comes first makes it, and the
/// others find what they would have made. Only RabbitMQ has more of a queue than its name.
/// ```
/// use longshore_brokers::QueueSpec;
///
/// let orders = QueueSpec::new("orders").bound("orders", "topic", "order.#").max_priority(10).argument("x-message-ttl", 60_000);
/// assert_eq!(orders.routing_key, "order.#");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueueSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Its type (`classic`, `quorum`); that of the broker's URL where absent.
    pub kind: Option<String>,
    /// Its largest priority; that of the broker's URL where absent.
    pub max_priority: Option<u8>,
    /// Its other arguments (`x-expires`, `x-dead-letter-exchange`, …).
    pub arguments: Vec<(String, Value)>,
    /// The exchange that it is bound to; the direct one of its own name where absent.
    pub exchange: Option<String>,
    /// The type of that exchange.
    pub exchange_type: String,
    /// The key with which it is bound; its name, where the exchange is its own.
    pub routing_key: String,
    /// True where it outlives the server.
    pub durable: bool,
    /// True where it ends with its last consumer.
    pub auto_delete: bool,
    /// True where only the connection that made it, a worker's, may use it. Ends with it.
    pub exclusive: bool,
    /// Place of what is rejected or buried.
    pub dead_letters: DeadLetterPlace,
}

/// Place of what a worker rejects or buries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLetterPlace {
    /// Kept by longshore, with the reason.
    #[default]
    Kept,
    /// The queue's own dead-letter exchange, as with Celery, without the reason. A queue that has
    /// no such exchange drops it.
    Exchange,
}

impl QueueSpec {
    /// Makes that of a durable queue of this name, as Celery makes it by itself.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        Self {
            routing_key: name.to_string(),
            name,
            kind: None,
            max_priority: None,
            arguments: Vec::new(),
            exchange: None,
            exchange_type: "direct".to_owned(),
            durable: true,
            auto_delete: false,
            exclusive: false,
            dead_letters: DeadLetterPlace::Kept,
        }
    }

    /// Sets its type: `classic` (no argument, as with Celery) or `quorum`.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Sets its largest priority.
    #[must_use]
    pub fn max_priority(mut self, most: u8) -> Self {
        self.max_priority = Some(most);
        self
    }

    /// Adds an argument: a number, a text, or true or false.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.arguments.push((name.into(), value.into()));
        self
    }

    /// Binds it to this exchange of this type (`direct`, `topic`, `fanout`), with this key.
    #[must_use]
    pub fn bound(mut self, exchange: impl Into<String>, kind: impl Into<String>, routing_key: impl Into<String>) -> Self {
        self.exchange = Some(exchange.into());
        (self.exchange_type, self.routing_key) = (kind.into(), routing_key.into());
        self
    }

    /// Sets how long it lives: beyond the server (`durable`), and beyond its last consumer (not
    /// `auto_delete`).
    #[must_use]
    pub fn lives(mut self, durable: bool, auto_delete: bool) -> Self {
        (self.durable, self.auto_delete) = (durable, auto_delete);
        self
    }

    /// Makes it the queue of one connection alone, a worker's, with which it ends.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        (self.exclusive, self.auto_delete) = (true, true);
        self
    }

    /// Sets the place of what workers reject or bury.
    #[must_use]
    pub fn dead_letters(mut self, place: DeadLetterPlace) -> Self {
        self.dead_letters = place;
        self
    }

    /// Says what of it no server would take, in a sentence.
    ///
    /// # Errors
    /// The sentence.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let is_quorum = match self.kind.as_deref() {
            None | Some("classic") => false,
            Some("quorum") => true,
            Some(kind) => return Err(format!("queue {name}: type `{kind}` is not known here; known are classic and quorum")),
        };
        if is_quorum && self.max_priority.is_some() {
            return Err(format!("queue {name}: quorum queues have no priorities; leave `max_priority` out"));
        }
        if is_quorum && (!self.durable || self.exclusive || self.auto_delete) {
            return Err(format!("queue {name}: a quorum queue is durable, and nobody's own; make it classic"));
        }
        if self.max_priority == Some(0) {
            return Err(format!("queue {name}: the largest priority is 1 to 255"));
        }
        Ok(())
    }
}

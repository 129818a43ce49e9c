//! Queues as Celery declares them, or as they are: what is there already is taken as it is.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    fail::{Consequence, advised, consequence, is_denied, is_not_found, is_precondition, is_silence, words},
    link::{Open, locked},
    own, parts,
    url::{Config, QueueKind},
};
use crate::{
    news::{News, Notice},
    queue_spec::{DeadLetterPlace, QueueSpec},
};

/// Names of queues have so many bytes at most.
pub(super) const LONGEST_NAME: usize = 255;
/// Reason for which no queue is made.
const PASSIVE: &str = "`declare=passive` stands in the URL; declare it, or leave that out";
/// Arguments that a queue may have and we have not named, before we stop asking for the next.
const MOST_SURPRISES: usize = 16;

/// Time for which an exchange is known to have no queue for a key: longer than it takes to ask once
/// more for what was refused, shorter than it takes to start a worker.
const UNBOUND: Duration = Duration::from_secs(1);
/// Most pairs of exchange and key that are known so.
const MOST_UNBOUND: usize = 1_000;

/// Way in which a queue gives out messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Giving {
    /// A limit for all queues of a channel can be changed while it gives.
    Classic,
    /// A limit for each consumer stays as it was when it began: quorum queues, and those of which
    /// nothing is known.
    Fixed,
}

/// Failure to find or make a queue.
#[derive(Debug)]
pub(super) enum Undeclared {
    /// It cannot be had: the reason.
    No(String),
    /// It is there, and cannot be had for now: the reason.
    Later(String),
    /// The connection went away.
    Away(String),
}

/// Knowledge of the queues of a server.
pub(super) struct Declarer {
    config: Arc<Config>,
    notice: Notice,
    known: Mutex<HashMap<Arc<str>, Giving>>,
    /// Queues that are declared in a way of their own.
    specs: Mutex<HashMap<Arc<str>, Arc<QueueSpec>>>,
    /// Exchanges that were found.
    exchanges: Mutex<HashSet<Arc<str>>>,
    /// Exchanges and keys for which there was no queue just now.
    unbound: Mutex<HashMap<(Arc<str>, Arc<str>), Instant>>,
}

/// Options and arguments that a queue is asked for with.
#[derive(Clone)]
struct Asked {
    options: QueueDeclareOptions,
    arguments: FieldTable,
}

impl Declarer {
    pub(super) fn new(config: Arc<Config>, notice: Notice) -> Self {
        Self { config, notice, known: Mutex::default(), specs: Mutex::default(), exchanges: Mutex::default(), unbound: Mutex::default() }
    }

    /// Takes how these queues are declared.
    pub(super) fn declare_as(&self, queues: &[QueueSpec]) {
        locked(&self.specs).extend(queues.iter().map(|spec| (spec.name.clone(), Arc::new(spec.clone()))));
    }

    /// Returns how a queue is declared, where that was said.
    pub(super) fn spec(&self, queue: &str) -> Option<Arc<QueueSpec>> {
        locked(&self.specs).get(queue).cloned()
    }

    /// Returns whether clients of Celery's send what is not due to the exchange of this queue by
    /// way of the delay queues: they do where any is a quorum queue, and the exchange not direct.
    pub(super) fn is_led_to(&self, queue: &str) -> bool {
        let is_led = |spec: Arc<QueueSpec>| spec.exchange.is_some() && spec.exchange_type != "direct";
        let is_quorum = |spec: &Arc<QueueSpec>| spec.kind.as_deref() == Some("quorum");
        self.spec(queue).is_some_and(is_led) && (self.config.kind == QueueKind::Quorum || locked(&self.specs).values().any(is_quorum))
    }

    /// Returns whether what is buried of a queue goes to its own dead-letter exchange.
    pub(super) fn is_to_reject(&self, queue: &str) -> bool {
        let of_all = self.config.dead == DeadLetterPlace::Exchange;
        of_all || self.spec(queue).is_some_and(|spec| spec.dead_letters == DeadLetterPlace::Exchange)
    }

    /// Forgets a queue: it is not there any more.
    pub(super) fn forget(&self, queue: &str) {
        locked(&self.known).remove(queue);
    }

    /// Forgets all exchanges: one of them is not there any more.
    pub(super) fn forget_exchanges(&self) {
        locked(&self.exchanges).clear();
    }

    /// Notes that an exchange has no queue for a key.
    pub(super) fn note_unbound(&self, exchange: &Arc<str>, key: &Arc<str>) {
        let mut unbound = locked(&self.unbound);
        unbound.retain(|_, at| at.elapsed() < UNBOUND);
        if unbound.len() < MOST_UNBOUND {
            unbound.insert((exchange.clone(), key.clone()), Instant::now());
        }
    }

    /// Returns whether an exchange had no queue for a key a moment ago.
    pub(super) fn is_unbound(&self, exchange: &Arc<str>, key: &Arc<str>) -> bool {
        let unbound = locked(&self.unbound);
        !unbound.is_empty() && unbound.get(&(exchange.clone(), key.clone())).is_some_and(|at| at.elapsed() < UNBOUND)
    }

    /// Finds an exchange that was named for a message. Whoever binds queues to it makes it, and
    /// knows of what type it is.
    pub(super) async fn look_for_exchange(&self, open: &Open, exchange: &Arc<str>) -> Result<(), Undeclared> {
        if locked(&self.exchanges).contains(exchange) {
            return Ok(());
        }
        let channel = channel(open).await?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        // Nobody looks at the type of one that is only looked for.
        let found = channel.exchange_declare((**exchange).into(), ExchangeKind::Direct, options, FieldTable::default());
        match open.answer_of_queue(found).await {
            Ok(()) => {
                let _ = channel.close(200, "".into()).await;
                locked(&self.exchanges).insert(exchange.clone());
                Ok(())
            }
            Err(error) if is_not_found(&error) => Err(Undeclared::No(format!(
                "there is no exchange {exchange}: start the worker that declares it with its queues, or declare it; {}",
                words(&error)
            ))),
            Err(error) if consequence(&error) != Consequence::Connection => {
                Err(Undeclared::No(format!("exchange {exchange}: {}", advised(&error, "configure"))))
            }
            Err(error) => Err(Undeclared::Away(words(&error))),
        }
    }

    /// Returns the names of the queues that were found or made.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = locked(&self.known).keys().cloned().collect();
        names.sort();
        names
    }

    /// Returns how a queue gives, if it was found or made.
    pub(super) fn known(&self, queue: &str) -> Option<Giving> {
        locked(&self.known).get(queue).copied()
    }

    /// Finds a queue, or makes it.
    pub(super) async fn ensure(&self, open: &Open, queue: &Arc<str>) -> Result<Giving, Undeclared> {
        if let Some(giving) = self.known(queue) {
            return Ok(giving);
        }
        if queue.len() > LONGEST_NAME {
            return Err(Undeclared::No(format!("the name of a queue is {} bytes long; AMQP has {LONGEST_NAME} at most", queue.len())));
        }
        let found =
            if self.config.passive && !own::is_own(queue) { look(open, queue, PASSIVE).await? } else { self.declare(open, queue).await? };
        let giving = if open.limits_channels() { found } else { Giving::Fixed };
        locked(&self.known).insert(queue.clone(), giving);
        Ok(giving)
    }

    /// Notes that a queue knows no limit for a whole channel: it is of a kind that we have not
    /// named, which its virtual host makes.
    pub(super) fn gives_fixed(&self, queue: &Arc<str>) {
        locked(&self.known).insert(queue.clone(), Giving::Fixed);
    }

    /// Returns what a queue is asked for with.
    ///
    /// # Errors
    /// AMQP cannot carry it; the reason, for people.
    fn asked(&self, queue: &str, spec: Option<&QueueSpec>) -> Result<Asked, String> {
        let mut options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        if own::is_own(queue) {
            return Ok(Asked { options, arguments: own::arguments(queue, self.config.kind) });
        }
        let mut arguments = FieldTable::default();
        let kind = spec.and_then(|spec| spec.kind.as_deref());
        // Classic is what no argument means, to Celery as well.
        let is_quorum = kind.map_or(self.config.kind == QueueKind::Quorum, |kind| kind == "quorum");
        if is_quorum {
            arguments.insert("x-queue-type".into(), text("quorum"));
        }
        let most = spec.and_then(|spec| spec.max_priority).or(self.config.max_priority.filter(|_| !is_quorum));
        if let Some(most) = most {
            arguments.insert("x-max-priority".into(), AMQPValue::LongInt(most.into()));
        }
        if let Some(spec) = spec {
            (options.durable, options.auto_delete, options.exclusive) = (spec.durable, spec.auto_delete, spec.exclusive);
            for (name, value) in &spec.arguments {
                arguments.insert(parts::short("argument", name)?, parts::field(value)?);
            }
        }
        Ok(Asked { options, arguments })
    }

    /// Declares as Celery does. A queue that is there and differs is taken as it is: the server
    /// names one difference at a time.
    async fn declare(&self, open: &Open, queue: &Arc<str>) -> Result<Giving, Undeclared> {
        let spec = self.spec(queue);
        let mut asked = self.asked(queue, spec.as_deref()).map_err(|why| Undeclared::No(format!("queue {queue}: {why}")))?;
        let mut found = Vec::new();
        for _ in 0..MOST_SURPRISES {
            let channel = channel(open).await?;
            match open.answer_of_queue(channel.queue_declare((**queue).into(), asked.options, asked.arguments.clone())).await {
                Ok(_) => {
                    if !found.is_empty() && !own::is_own(queue) {
                        let found = found.join(", ");
                        self.tell(format!("rabbitmq at {}: queue {queue} is there already with {found}; taken as it is", open.place));
                    }
                    match spec.as_deref().filter(|spec| spec.exchange.is_some()) {
                        Some(spec) => self.bind_as(open, spec).await?,
                        // Nothing of Celery's, or somebody else's to bind.
                        None if own::is_own(queue) || !found.is_empty() => {}
                        None => bind(open, &channel, queue).await,
                    }
                    let _ = channel.close(200, "".into()).await;
                    return Ok(asked.giving());
                }
                Err(error) if is_precondition(&error) => match Difference::of(&words(&error)) {
                    Some(difference) => {
                        found.push(difference.to_string());
                        asked.take(&difference);
                    }
                    None => return look(open, queue, &words(&error)).await,
                },
                // We may not make queues here, but may use those that are there.
                Err(error) if is_denied(&error) => return look(open, queue, &advised(&error, "configure")).await,
                Err(error) => return Err(undeclared(queue, &error, "")),
            }
        }
        look(open, queue, "").await
    }
}

impl Declarer {
    fn tell(&self, text: String) {
        (self.notice)(&News::remark(text));
    }

    /// Makes the exchange of a queue as Celery does, and binds the queue to it. An exchange that is
    /// there and differs is taken as it is.
    async fn bind_as(&self, open: &Open, spec: &QueueSpec) -> Result<(), Undeclared> {
        let Some(exchange) = spec.exchange.as_deref().filter(|exchange| !exchange.is_empty()) else { return Ok(()) };
        let queue = &spec.name;
        let kind = match spec.exchange_type.as_str() {
            "direct" => ExchangeKind::Direct,
            "topic" => ExchangeKind::Topic,
            "fanout" => ExchangeKind::Fanout,
            "headers" => ExchangeKind::Headers,
            other => ExchangeKind::Custom(other.to_owned()),
        };
        let mut channel = channel(open).await?;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        match open.answer_of_queue(channel.exchange_declare(exchange.into(), kind, options, FieldTable::default())).await {
            Ok(()) => {}
            Err(error) if consequence(&error) == Consequence::Connection => return Err(Undeclared::Away(words(&error))),
            Err(error) => {
                let why = advised(&error, "configure");
                self.tell(format!("rabbitmq at {}: exchange {exchange} of queue {queue} is taken as it is: {why}", open.place));
                channel = self::channel(open).await?;
            }
        }
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind((**queue).into(), exchange.into(), spec.routing_key.as_str().into(), options, FieldTable::default());
        match open.answer_of_queue(bound).await {
            Ok(()) => {
                let _ = channel.close(200, "".into()).await;
                Ok(())
            }
            Err(error) if consequence(&error) == Consequence::Connection => Err(Undeclared::Away(words(&error))),
            // It can be used without; who sends through the exchange is told that it has no queue.
            Err(error) => {
                let why = advised(&error, "write to");
                self.tell(format!("rabbitmq at {}: queue {queue} is not bound to exchange {exchange}: {why}", open.place));
                Ok(())
            }
        }
    }
}

impl Asked {
    fn take(&mut self, difference: &Difference) {
        match (difference.name.as_str(), &difference.value) {
            ("durable", Some((value, _))) => self.options.durable = value == "true",
            ("auto_delete", Some((value, _))) => self.options.auto_delete = value == "true",
            ("exclusive", Some((value, _))) => self.options.exclusive = value == "true",
            (name, None) => {
                let kept = self.arguments.inner().iter().filter(|(key, _)| key.as_str() != name);
                self.arguments = kept.map(|(key, value)| (key.clone(), value.clone())).collect::<std::collections::BTreeMap<_, _>>().into();
            }
            (name, Some((value, kind))) => {
                let value = match kind.as_str() {
                    "signedint" | "long" | "unsignedint" | "short" | "byte" => {
                        value.parse().map_or_else(|_| text(value), AMQPValue::LongLongInt)
                    }
                    "bool" => AMQPValue::Boolean(value == "true"),
                    _ => text(value),
                };
                self.arguments.insert(name.into(), value);
            }
        }
    }

    fn giving(&self) -> Giving {
        match self.arguments.inner().get("x-queue-type") {
            None => Giving::Classic,
            Some(AMQPValue::LongString(kind)) if kind.as_bytes() == b"classic" => Giving::Classic,
            Some(_) => Giving::Fixed,
        }
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

async fn channel(open: &Open) -> Result<Channel, Undeclared> {
    open.channel().await.map_err(|error| Undeclared::Away(words(&error)))
}

/// Looks whether a queue is there. Where it is not, it was not made for this reason.
async fn look(open: &Open, queue: &Arc<str>, not_made: &str) -> Result<Giving, Undeclared> {
    let channel = channel(open).await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match open.answer_of_queue(channel.queue_declare((**queue).into(), options, FieldTable::default())).await {
        Ok(_) => {
            let _ = channel.close(200, "".into()).await;
            Ok(Giving::Fixed)
        }
        Err(error) => Err(undeclared(queue, &error, not_made)),
    }
}

fn undeclared(queue: &str, error: &lapin::Error, not_made: &str) -> Undeclared {
    if is_not_found(error) {
        if is_down(&words(error)) {
            return Undeclared::Later(format!("queue {queue}: {}", words(error)));
        }
        let why = if not_made.is_empty() { words(error) } else { not_made.to_owned() };
        return Undeclared::No(format!("there is no queue {queue}, and none is made: {why}"));
    }
    if is_silence(error) {
        return Undeclared::Later(format!("queue {queue}: {}", words(error)));
    }
    if consequence(error) != Consequence::Connection {
        return Undeclared::No(format!("queue {queue}: {}", advised(error, "configure")));
    }
    Undeclared::Away(words(error))
}

/// Returns whether a queue that is not found stands on a node of the cluster that is away.
fn is_down(text: &str) -> bool {
    text.contains("is down or inaccessible")
}

/// Makes the exchange that Celery makes beside a queue, and binds it. Nothing of ours needs it:
/// where we may not, or where it is of another type, it is left as it is.
async fn bind(open: &Open, channel: &Channel, queue: &str) {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let made = channel.exchange_declare(queue.into(), ExchangeKind::Direct, options, FieldTable::default());
    if open.answer_of_queue(made).await.is_ok() {
        let bound = channel.queue_bind(queue.into(), queue.into(), queue.into(), QueueBindOptions::default(), FieldTable::default());
        let _ = open.answer_of_queue(bound).await;
    }
}

/// A difference between a queue and how it was asked for.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    name: String,
    /// Value and type of the queue that is there.
    value: Option<(String, String)>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            None => write!(f, "no {}", self.name),
            Some((value, _)) => write!(f, "{}={value}", self.name),
        }
    }
}

impl Difference {
    /// Reads what RabbitMQ says: `inequivalent arg 'NAME' for queue … received … but current is …`.
    fn of(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (name, rest) = rest.split_once('\'')?;
        // A queue's name may hold anything; what is meant is the last.
        let (_, current) = rest.rsplit_once("but current is ")?;
        if current.starts_with("none") {
            return Some(Self { name: name.to_owned(), value: None });
        }
        let quoted = |text: &str| text.split_once('\'').and_then(|(_, rest)| rest.split_once('\'')).map(|(value, _)| value.to_owned());
        let value = quoted(current)?;
        let kind = current.split_once("of type ").and_then(|(_, kind)| quoted(kind)).unwrap_or_default();
        Some(Self { name: name.to_owned(), value: Some((value, kind)) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Difference, is_down};

    #[test]
    fn a_queue_on_a_node_that_is_away_is_there() {
        let down = "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible";
        assert!(is_down(down));
        assert!(!is_down("NOT_FOUND - no queue 'q' in vhost '/'"));
    }

    #[test]
    fn what_the_server_says_of_a_difference_is_read() {
        for (text, name, value) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'qq' in vhost '/': received none but current is the value 'quorum' of type 'longstr'",
                "x-queue-type",
                Some(("quorum", "longstr")),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'a' in vhost '/': received none but current is the value '10000000' of type 'signedint'",
                "x-expires",
                Some(("10000000", "signedint")),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'it's' in vhost '/': received the value 'quorum' of type 'longstr' but current is none",
                "x-queue-type",
                None,
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'excl' in vhost '/': received 'true' but current is 'false'",
                "durable",
                Some(("false", "")),
            ),
        ] {
            let found = Difference::of(text).unwrap();
            assert_eq!(found.name, name);
            assert_eq!(found.value.as_ref().map(|(value, kind)| (value.as_str(), kind.as_str())), value);
        }
        assert_eq!(Difference::of("PRECONDITION_FAILED - something else"), None);
    }
}

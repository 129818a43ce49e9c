//! Queues as Celery declares them, or as they are: what is there already is taken as it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    fail::{Consequence, advised, consequence, is_denied, is_not_found, is_precondition, is_silence, words},
    link::{Open, locked},
    own,
    url::{Config, QueueKind},
};
use crate::news::{News, Notice};

/// Names of queues have so many bytes at most.
pub(super) const LONGEST_NAME: usize = 255;
/// Reason for which no queue is made.
const PASSIVE: &str = "`declare=passive` stands in the URL; declare it, or leave that out";
/// Arguments that a queue may have and we have not named, before we stop asking for the next.
const MOST_SURPRISES: usize = 16;

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
}

/// Options and arguments that a queue is asked for with.
#[derive(Clone)]
struct Asked {
    options: QueueDeclareOptions,
    arguments: FieldTable,
}

impl Declarer {
    pub(super) fn new(config: Arc<Config>, notice: Notice) -> Self {
        Self { config, notice, known: Mutex::default() }
    }

    /// Forgets a queue: it is not there any more.
    pub(super) fn forget(&self, queue: &str) {
        locked(&self.known).remove(queue);
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

    fn asked(&self, queue: &str) -> Asked {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        if own::is_own(queue) {
            return Asked { options, arguments: own::arguments(queue, self.config.kind) };
        }
        let mut arguments = FieldTable::default();
        if self.config.kind == QueueKind::Quorum {
            arguments.insert("x-queue-type".into(), text("quorum"));
        }
        if let Some(most) = self.config.max_priority {
            arguments.insert("x-max-priority".into(), AMQPValue::LongInt(most.into()));
        }
        Asked { options, arguments }
    }

    /// Declares as Celery does. A queue that is there and differs is taken as it is: the server
    /// names one difference at a time.
    async fn declare(&self, open: &Open, queue: &Arc<str>) -> Result<Giving, Undeclared> {
        let mut asked = self.asked(queue);
        let mut found = Vec::new();
        for _ in 0..MOST_SURPRISES {
            let channel = channel(open).await?;
            match open.answer_of_queue(channel.queue_declare((**queue).into(), asked.options, asked.arguments.clone())).await {
                Ok(_) => {
                    if own::is_own(queue) {
                        // Nothing of Celery's.
                    } else if found.is_empty() {
                        bind(open, &channel, queue).await;
                    } else {
                        let text =
                            format!("rabbitmq at {}: queue {queue} is there already with {}; taken as it is", open.place, found.join(", "));
                        (self.notice)(&News::remark(text));
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

//! Messages on their way in, lent, and at their end.

use std::{sync::Arc, time::SystemTime};

use longshore_core::Receipt;

use crate::results::{ChordPart, PartState, Stored};

/// A message on its way into a queue, which is known, or through an exchange, which knows them.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The queue. Through an exchange a name for people alone: the routing key.
    pub queue: Arc<str>,
    /// The exchange that finds the queues, in place of `queue`. A broker that has none refuses it.
    pub exchange: Option<Arc<Exchange>>,
    /// 0 is served first, and all from 9 on as 9; where priorities are AMQP's, the largest number
    /// is.
    pub priority: u8,
    /// Not to be started before this time. Brokers that can hold it back do; the others lend it
    /// early, and the worker holds it.
    pub due: Option<SystemTime>,
    /// The message, encoded.
    pub raw: Vec<u8>,
}

/// Exchange that a message goes through: it gives a copy to each queue that is bound to it for such
/// a key. Where there is no such queue the message is refused, never dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: Arc<str>,
    /// Its type (`direct`, `topic`, `fanout`, `headers`), where the sender knows it.
    pub kind: Option<Arc<str>>,
    /// The routing key; empty where the exchange needs none.
    pub key: Arc<str>,
}

impl Exchange {
    /// Says that a broker has no exchanges.
    pub(crate) fn unknown_here(&self) -> String {
        let Self { name, key, .. } = self;
        format!(
            "exchange {name} (routing key `{key}`): this broker has queues and no exchanges; name a queue in the route or in the call, \
             or use RabbitMQ"
        )
    }
}

/// Says that no queue takes what is sent through an exchange with this key.
#[cfg(any(feature = "redis", feature = "amqp"))]
pub(crate) fn unbound(exchange: &str, key: &str) -> String {
    format!(
        "exchange {exchange} has no queue for the routing key `{key}`: nobody would get it; start the worker that declares the queue, or \
         bind one to the exchange"
    )
}

/// A message lent to a consumer until it is finished or handed back.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// Its name at this consumer.
    pub receipt: Receipt,
    /// The queue that it came from.
    pub queue: Arc<str>,
    /// The message, as it stood in the queue.
    pub raw: Vec<u8>,
    /// Number of workers, and of children of workers, that died while it ran (or may have run) with
    /// them: as the broker counts or as the message says, whichever is more. From 1 it is a
    /// suspect, which starts alone and is [accused](crate::Consumer::accuse) first.
    pub crashes: u32,
    /// True if it was lent before.
    pub redelivered: bool,
    /// True if it is given, not lent ([early](crate::OpenOptions::early)): the broker has forgotten
    /// it, nothing has to be said at its end, and it cannot be finished or loaded unless it is
    /// [held](crate::Consumer::hold).
    pub given: bool,
}

/// End of a claimed message, with all that is done at once with it. One step: either all of it, or
/// nothing but a prefix that repeats harmlessly. The order is: is it still ours? → `publish` →
/// `results` → `part` → `end`.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The message.
    pub receipt: Receipt,
    /// Messages to send on: callbacks, the next link of a chain, the next attempt.
    pub publish: Vec<Outgoing>,
    /// Documents to store. Only where the result backend is [this broker's
    /// store](crate::Broker::is_store_of).
    pub results: Vec<Stored>,
    /// The chord that it is a part of. Only where the result backend is this broker's store. When
    /// the chord is complete through this part, the message stays claimed ([`Ended::Complete`]), so
    /// that the chord's body is sent before it is finished.
    pub part: Option<ChordPart>,
    /// Way in which the message itself ends.
    pub end: End,
}

impl Finish {
    /// Returns the size of the largest value that it sends or stores.
    #[cfg(any(feature = "redis", feature = "sqlite"))]
    pub(crate) fn largest(&self) -> usize {
        let (messages, documents) =
            (self.publish.iter().map(|message| message.raw.len()), self.results.iter().map(|stored| stored.doc.len()));
        messages.chain(documents).chain(self.part.as_ref().map(|part| part.member.len())).max().unwrap_or(0)
    }
}

/// Way in which a claimed message ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// It is done.
    Ack,
    /// It goes back, to be run by anybody: to the front of its queue, marked redelivered, or to the
    /// back.
    Back {
        /// To the front.
        front: bool,
    },
    /// It goes to the dead letters.
    Dead {
        /// Reason, for people.
        reason: String,
    },
    /// It goes to the junk, which is kept apart from the other dead letters: nobody could have run
    /// it, since it cannot be read or nobody knows its task. However much junk comes, it pushes no
    /// dead letter out.
    Junk {
        /// Reason, for people.
        reason: String,
    },
    /// It stays claimed.
    Keep,
}

/// Outcome of a [`Finish`].
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// All of it was done.
    Done,
    /// All of it was done but for the end: with this part the chord is complete, and its body is
    /// ours to send. The message is still claimed.
    Complete(PartState),
    /// Nothing was done: the message is not ours any more (it was rescued from us), so the result
    /// comes too late.
    Refused,
    /// Nothing was done: the store refuses what this end asks for, and would refuse it always,
    /// while it takes the ends of others. The message is still claimed.
    Impossible {
        /// Reason, for people.
        reason: String,
    },
}

//! Exactly once, from topic to topic: what handlers return is written in the transaction that commits the records it came from.
//!
//! Handlers produce nothing themselves. What they return is staged until the next commit, which is one transaction: these outputs, positions and
//! maps of what is done beyond, all or nothing (KIP-447: the group's generation tells members from those that believe they are still some). No lock is
//! shared with handlers, and records that end out of order are exact too, because the map travels in the same transaction. A transaction that is aborted is
//! made again from the same outputs; handlers do not run again for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use rdkafka::{
    config::ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};

use super::{
    client::Hooks,
    commit::{Make, Refusal, Work},
    heard::{Heard, Hears, Own, plain},
    produce::NewRecord,
    record::Lease,
};

/// A record that a handler returns, to be written exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The topic.
    pub topic: String,
    /// The partition; `None`: by the key, without a key any.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in this order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// In milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
}

impl Output {
    /// A record with a key and a value.
    pub fn new(topic: impl Into<String>, key: Option<&[u8]>, value: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), key: key.map(<[u8]>::to_vec), value: Some(value.into()), ..Self::default() }
    }
}

/// An output that waits for its transaction.
pub(super) struct Staged {
    pub(super) output: Output,
    /// Where the record is from that it was made of.
    pub(super) lease: Arc<Lease>,
}

impl Staged {
    /// If not, its record is done again by another member, and so is this.
    pub(super) fn is_ours(&self) -> bool {
        !self.lease.revoked.load(Ordering::Relaxed)
    }
}

/// A step of a transaction may take so long.
const STEP: Duration = Duration::from_secs(30);

/// Why the first output of a transaction was not taken.
#[derive(Default)]
struct Refused(Mutex<Option<Code>>);

impl Refused {
    fn get(&self) -> MutexGuard<'_, Option<Code>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Own for Refused {}

impl ProducerContext for Hears<Refused> {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && let Some(code) = error.rdkafka_error_code().filter(|code| *code != Code::PurgeQueue && *code != Code::PurgeInflight)
        {
            self.own.get().get_or_insert(code);
        }
    }
}

/// Writes outputs and commits in transactions.
pub(super) struct Transactor {
    producer: ThreadedProducer<Hears<Refused>>,
    consumer: Arc<BaseConsumer<Hooks>>,
}

impl Transactor {
    /// Registers the transactional id: an older owner of it is fenced off, what it left open is aborted. Blocks until the broker has answered.
    pub(super) fn open(config: &mut ClientConfig, id: &str, consumer: Arc<BaseConsumer<Hooks>>) -> Result<Self, crate::BrokerError> {
        let doing = format!("begin transactions as `{id}`");
        config.set("transactional.id", id).set("linger.ms", "5").set("message.max.bytes", "1000000000");
        // As Java's clients do, and our own producer, so that a key has its partition whoever
        // writes it.
        config.set("partitioner", "murmur2_random");
        // What a dead member leaves open holds up readers for so long, unless a member with its id ends it before.
        config.set("transaction.timeout.ms", "30000");
        let producer: ThreadedProducer<Hears<Refused>> =
            config.create_with_context(Hears::default()).map_err(|error| Heard::default().explain(&error, &doing))?;
        producer.init_transactions(STEP).map_err(|error| producer.context().heard.explain(&error, &doing))?;
        Ok(Self { producer, consumer })
    }

    pub(super) fn into_make(self) -> Make {
        Box::new(move |work| {
            *self.producer.context().own.get() = None;
            self.transact(work).map_err(|error| self.refusal(&error))
        })
    }

    fn transact(&self, work: &Work) -> Result<(), KafkaError> {
        let Some(group) = self.consumer.group_metadata() else { return Err(KafkaError::Canceled) };
        self.producer.begin_transaction()?;
        for Staged { output, .. } in &work.outputs {
            self.write(output)?;
        }
        patiently(|| self.producer.send_offsets_to_transaction(&work.list, &group, STEP))?;
        patiently(|| self.producer.commit_transaction(STEP))
    }

    fn write(&self, output: &Output) -> Result<(), KafkaError> {
        let headers: Vec<_> = output.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let record = NewRecord {
            topic: &output.topic,
            partition: output.partition,
            key: output.key.as_deref(),
            value: output.value.as_deref(),
            headers: &headers,
            timestamp: output.timestamp,
        };
        let mut record = record.for_client(());
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Gives the transaction up.
    fn refusal(&self, error: &KafkaError) -> Refusal {
        let fatal = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
        let aborted = if fatal { Ok(()) } else { patiently(|| self.producer.abort_transaction(STEP)) };
        let code = *self.producer.context().own.get();
        let code = code.or(error.rdkafka_error_code());
        let text = match code {
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
                "another member has begun transactions with our transactional id; give each member one of its own".to_owned()
            }
            Some(code) => plain(code),
            None => error.to_string(),
        };
        Refusal { code, text: format!("the transaction was aborted: {text}"), fatal: fatal || aborted.is_err() }
    }
}

/// A step that says that it can be done again is done again.
fn patiently(mut step: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let mut left = 5;
    loop {
        match step() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && left > 0 => left -= 1,
            other => return other,
        }
    }
}

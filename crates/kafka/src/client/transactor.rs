//! Commits that are transactions: outputs, positions and maps in one step. `exactly_once.rs` says
//! why that is enough.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rdkafka::{
    config::ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};

use super::{ClientHooks, commit::MakeCommit};
use crate::{
    exactly_once::{Output, StagedOutput},
    heard::{Complaints, ContextOwner, ListeningContext, plain},
    produce::NewRecord,
    source::{CommitWork, Refusal},
};

/// Longest time that a step of a transaction may take.
const STEP: Duration = Duration::from_secs(30);

/// Reason why the first output of a transaction was not taken.
#[derive(Default)]
struct FirstRefusal(Mutex<Option<Code>>);

impl FirstRefusal {
    fn get(&self) -> MutexGuard<'_, Option<Code>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContextOwner for FirstRefusal {}

impl ProducerContext for ListeningContext<FirstRefusal> {
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
pub(crate) struct Transactor {
    producer: ThreadedProducer<ListeningContext<FirstRefusal>>,
    consumer: Arc<BaseConsumer<ClientHooks>>,
}

impl Transactor {
    /// Registers the transactional id: an older owner of it is fenced off, what it left open is
    /// aborted. Blocks until the broker has answered.
    pub(crate) fn open(
        config: &mut ClientConfig,
        id: &str,
        consumer: Arc<BaseConsumer<ClientHooks>>,
    ) -> Result<Self, longshore_brokers::BrokerError> {
        let doing = format!("begin transactions as `{id}`");
        config.set("transactional.id", id).set("linger.ms", "5").set("message.max.bytes", "1000000000");
        // As Java's clients do, and our own producer, so that a key has its partition whoever
        // writes it.
        config.set("partitioner", "murmur2_random");
        // What a dead member leaves open holds up readers for so long, unless a member with its id
        // ends it before.
        config.set("transaction.timeout.ms", "30000");
        let producer: ThreadedProducer<ListeningContext<FirstRefusal>> =
            config.create_with_context(ListeningContext::default()).map_err(|error| Complaints::default().explain(&error, &doing))?;
        producer.init_transactions(STEP).map_err(|error| producer.context().heard.explain(&error, &doing))?;
        Ok(Self { producer, consumer })
    }

    pub(crate) fn into_make(self) -> MakeCommit {
        Box::new(move |work| {
            *self.producer.context().own.get() = None;
            self.transact(work).map_err(|error| self.refusal(&error))
        })
    }

    fn transact(&self, work: &CommitWork) -> Result<(), KafkaError> {
        let Some(group) = self.consumer.group_metadata() else { return Err(KafkaError::Canceled) };
        self.producer.begin_transaction()?;
        for StagedOutput { output, .. } in &work.outputs {
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

/// Does a step again that says that it can be done again.
fn patiently(mut step: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let mut left = 5;
    loop {
        match step() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && left > 0 => left -= 1,
            other => return other,
        }
    }
}

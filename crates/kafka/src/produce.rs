//! Sending records.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use longshore_core::ErrorKind;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Header, Message as _, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
    util::IntoOpaque,
};

use crate::{
    heard::{Complaints, ContextOwner, ListeningContext, code_of, patiently},
    settings::Settings,
};
use longshore_brokers::BrokerError;

/// Brokers that must have a record before it counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// All replicas that are in sync; and each record is written once, and in order (an idempotent
    /// producer).
    #[default]
    All,
    /// The leader alone: what it has not passed on is lost with it.
    Leader,
    /// Nobody is asked: what the network loses is lost.
    None,
}

/// Settings of a producer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sending {
    /// Brokers that must have a record before it counts as delivered.
    pub acks: Acks,
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`; `None`: the client's default, which is none.
    pub compression: Option<String>,
    /// A record that is not delivered within this time has failed.
    pub patience: Duration,
    /// The most records that wait for their delivery.
    pub max_waiting: usize,
    /// Their most bytes. One record may be larger than this only up to the client's
    /// `message.max.bytes`.
    pub max_bytes: usize,
    /// The most bytes that travel together to one partition. A topic that takes less than that (its
    /// `max.message.bytes`, [`Admin::max_message_bytes`](super::Admin::max_message_bytes)) refuses
    /// records that are small enough with the others of their batch.
    pub max_batch: usize,
}

impl Default for Sending {
    /// Sends to all replicas, within 2 minutes, with 100 000 records and 32 MiB waiting at most, a
    /// megabyte together.
    fn default() -> Self {
        Self {
            acks: Acks::All,
            compression: None,
            patience: Duration::from_secs(120),
            max_waiting: 100_000,
            max_batch: 1_000_000,
            max_bytes: 32 << 20,
        }
    }
}

/// A record to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None`: by the key as Java's clients choose it (murmur2), without a key any.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in this order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// In milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
}

impl<'a> NewRecord<'a> {
    /// Writes it as the client takes it, with what it gives back when it has told of it.
    pub(crate) fn for_client<T: IntoOpaque>(&self, opaque: T) -> BaseRecord<'a, [u8], [u8], T> {
        let mut record = BaseRecord::with_opaque_to(self.topic, opaque);
        record.partition = self.partition;
        record.key = self.key;
        record.payload = self.value;
        record.timestamp = self.timestamp;
        if !self.headers.is_empty() {
            let empty = OwnedHeaders::new_with_capacity(self.headers.len());
            let insert = |headers: OwnedHeaders, (key, value): &(&str, Option<&[u8]>)| headers.insert(Header { key, value: *value });
            record.headers = Some(self.headers.iter().fold(empty, insert));
        }
        record
    }
}

/// Place of a record that was delivered. Without acknowledgements (`Acks::None`) the offset is -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The partition.
    pub partition: i32,
    /// The place in it.
    pub offset: i64,
}

/// Told once for each record that was taken. Runs on the client's thread: must be quick.
pub type Done = Box<dyn FnOnce(Result<Placed, BrokerError>) + Send>;

/// A record that was not taken.
pub enum NotTaken {
    /// As many wait as may: try again when some have been delivered.
    Full(Done),
    /// It cannot be sent at all.
    Refused(BrokerError),
}

/// Sends records. Clones are the same producer, and each record keeps its order behind the earlier
/// ones of its partition.
///
/// What is taken is delivered or has failed within [`Sending::patience`], and is then told to its
/// [`Done`]. When the last clone is dropped, what has not been delivered fails:
/// [`flush`](Self::flush) first.
#[derive(Clone)]
pub struct Producer {
    client: ThreadedProducer<ListeningContext<DeliveryHooks>>,
}

/// Each record knows who is told of it.
#[derive(Default)]
struct DeliveryHooks;

impl ContextOwner for DeliveryHooks {}

impl ProducerContext for ListeningContext<DeliveryHooks> {
    // A mutex, because the client wants what may be shared; nobody ever waits for it.
    type DeliveryOpaque = Box<Mutex<Done>>;

    fn delivery(&self, result: &DeliveryResult<'_>, done: Box<Mutex<Done>>) {
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done(match result {
            Ok(record) => Ok(Placed { partition: record.partition(), offset: record.offset() }),
            Err((error, record)) => {
                let bytes = record.key_len() + record.payload_len();
                Err(self.heard.explain(error, &doing("deliver", error, bytes, record.topic())))
            }
        });
    }
}

/// Describes what was to be done with a record; tells its size where that is what is wrong.
fn doing(verb: &str, error: &KafkaError, bytes: usize, topic: &str) -> String {
    match code_of(error) {
        Some(Code::MessageSizeTooLarge) => format!("{verb} a record of {bytes} bytes to `{topic}`"),
        _ => format!("{verb} a record to `{topic}`"),
    }
}

impl Producer {
    /// Makes a producer. Nothing is connected to before the first record.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn open(settings: &Settings, sending: &Sending) -> Result<Self, BrokerError> {
        let mut config = settings.config();
        config
            .set("enable.idempotence", (sending.acks == Acks::All).to_string())
            .set(
                "acks",
                match sending.acks {
                    Acks::All => "all",
                    Acks::Leader => "1",
                    Acks::None => "0",
                },
            )
            .set("delivery.timeout.ms", sending.patience.as_millis().clamp(1, i32::MAX as u128).to_string())
            .set("queue.buffering.max.messages", sending.max_waiting.max(1).to_string())
            .set("queue.buffering.max.kbytes", (sending.max_bytes >> 10).max(1).to_string())
            .set("batch.size", sending.max_batch.clamp(1, i32::MAX as usize).to_string())
            // As Java's clients do, so that a key has its partition whoever sends it.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5");
        if let Some(compression) = &sending.compression {
            config.set("compression.type", compression);
        }
        settings.finish(&mut config);
        let client = config
            .create_with_context(ListeningContext::default())
            .map_err(|error| Complaints::default().explain(&error, "send records"))?;
        Ok(Self { client })
    }

    fn heard(&self) -> &Complaints {
        &self.client.context().heard
    }

    /// Takes a record, unless as many wait as may. Never waits.
    ///
    /// # Errors
    /// See [`NotTaken`]; `done` is not called then.
    pub fn send(&self, record: &NewRecord<'_>, done: Done) -> Result<(), NotTaken> {
        self.client.send(record.for_client(Box::new(Mutex::new(done)))).map_err(|(error, new)| match error {
            KafkaError::MessageProduction(Code::QueueFull) => {
                NotTaken::Full(new.delivery_opaque.into_inner().unwrap_or_else(PoisonError::into_inner))
            }
            error => {
                let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                NotTaken::Refused(self.heard().explain(&error, &doing("send", &error, bytes, record.topic)))
            }
        })
    }

    /// Returns how many records have been taken and not been told of.
    pub fn waiting(&self) -> usize {
        usize::try_from(self.client.in_flight_count()).unwrap_or(0)
    }

    /// Waits until all that were taken have been told of, at most so long. Blocks. Whether all
    /// have.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        // In small steps: the client's own thread delivers too, and its last word may come from
        // there.
        while self.waiting() > 0 && Instant::now() < until {
            let _ = self.client.flush(Duration::from_millis(50));
        }
        self.waiting() == 0
    }

    /// Gives up what has not been delivered: each such record fails.
    pub fn give_up(&self) {
        self.client.purge(PurgeConfig::default().queue().inflight());
    }

    /// Returns how many partitions a topic has. Blocks, for `patience` at most.
    ///
    /// # Errors
    /// There is no such topic, no permission, or nobody answers.
    pub fn partitions(&self, topic: &str, patience: Duration) -> Result<usize, BrokerError> {
        let doing = format!("send to topic `{topic}`");
        let explain = |error: &KafkaError| self.heard().explain(error, &doing);
        let ask = |slice| self.client.client().fetch_metadata(Some(topic), slice);
        // Its complaints are heard by the client's own thread.
        let metadata = patiently(self.heard(), patience, ask, || ()).map_err(|error| explain(&error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|found| (found.error(), found.partitions().len())) {
            Some((None, partitions)) if partitions > 0 => Ok(partitions),
            Some((Some(error), _)) => Err(explain(&KafkaError::MetadataFetch(error.into()))),
            _ => Err(BrokerError {
                kind: ErrorKind::Refused,
                message: format!("cannot {doing}: {}", crate::heard::plain(Code::UnknownTopic)),
            }),
        }
    }
}

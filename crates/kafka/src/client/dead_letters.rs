//! Dead letters: records that failed for good go to a topic of their own, with the reason, the
//! attempts and the origin in headers.
//!
//! A record is done only when that topic has it. Until then it is sent again and again, once a
//! second, and counts as in flight: where the topic takes nothing, the consumer comes to a stop
//! with nothing lost.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use longshore_core::Receipt;
use rdkafka::{
    config::ClientConfig,
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext},
};

use crate::{
    exactly_once::Output,
    heard::{ContextOwner, ListeningContext},
    produce::NewRecord,
    source::Failed,
};

/// Treatment of a record that failed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exhausted {
    Bury,
    Skip,
    Stop,
}

/// Time after which a record that was not taken is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest text of an error in a header, in bytes.
const TEXT: usize = 4_000;

/// The dead-letter topics of one consumer.
pub(crate) struct DeadLetters {
    producer: BaseProducer<ListeningContext<LetterReports>>,
    config: ClientConfig,
    group: String,
    /// By topic: its dead-letter topic and how many partitions that has.
    topics: HashMap<String, (String, i32)>,
    /// On their way, by receipt.
    graves: HashMap<usize, WaitingLetter>,
    /// Something waits to be sent again; not before this time.
    again: Option<Instant>,
    /// Letters that were refused since the last question: by which topic, and why.
    refusals: Vec<(String, Code)>,
}

struct WaitingLetter {
    failed: Failed,
    /// It is with the client.
    sent: bool,
    /// It was too large with its value.
    bare: bool,
    /// It has been refused.
    refused: bool,
}

/// Answers of the broker to letters, by receipt; a code is the reason why one was not taken.
#[derive(Default)]
struct LetterReports(Mutex<Vec<(usize, Option<Code>)>>);

impl LetterReports {
    fn get(&self) -> MutexGuard<'_, Vec<(usize, Option<Code>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContextOwner for LetterReports {}

impl ProducerContext for ListeningContext<LetterReports> {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: usize) {
        let code = result.as_ref().err().map(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::Fail));
        self.own.get().push((receipt, code));
    }
}

impl DeadLetters {
    /// Makes the producer of dead letters. `topics`: for each topic its dead-letter topic and how
    /// many partitions that has.
    pub(crate) fn new(config: &ClientConfig, group: String, topics: HashMap<String, (String, i32)>) -> Result<Self, KafkaError> {
        let producer = config.create_with_context(ListeningContext::default())?;
        Ok(Self { producer, config: config.clone(), group, topics, graves: HashMap::new(), again: None, refusals: Vec::new() })
    }

    /// Returns how many records are not there yet.
    pub(crate) fn len(&self) -> usize {
        self.graves.len()
    }

    /// Returns what was refused since the last question: by which topic, and why.
    pub(crate) fn refusals(&mut self) -> Vec<(String, Code)> {
        std::mem::take(&mut self.refusals)
    }

    /// Tells whether a letter waits that this topic has refused.
    pub(crate) fn has_refused(&self, topic: &str) -> bool {
        let to = |grave: &WaitingLetter| self.topics.get(grave.failed.record.topic()).is_some_and(|(name, _)| name == topic);
        self.graves.values().any(|grave| grave.refused && to(grave))
    }

    /// Gives a letter up, whose record is another member's now; tells whether there was one.
    pub(crate) fn forget(&mut self, receipt: Receipt) -> bool {
        self.graves.remove(&(receipt.0 as usize)).is_some()
    }

    pub(crate) fn bury(&mut self, failed: Failed) {
        let receipt = failed.receipt.0 as usize;
        self.graves.insert(receipt, WaitingLetter { failed, sent: false, bare: false, refused: false });
        self.send(receipt);
    }

    /// Returns a dead letter as an output, for a transaction.
    pub(crate) fn letter(&self, failed: &Failed) -> Option<Output> {
        let record = &failed.record;
        let (topic, partitions) = self.topics.get(record.topic())?;
        Some(Output {
            topic: topic.clone(),
            partition: Some(record.partition()).filter(|partition| partition < partitions),
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            headers: headers(failed, &self.group, false),
            timestamp: record.timestamp(),
        })
    }

    /// Serves the producer; says which records the topic has now.
    pub(crate) fn turn(&mut self, now: Instant) -> Vec<Receipt> {
        if self.graves.is_empty() {
            return Vec::new();
        }
        self.producer.poll(Duration::ZERO);
        let reports = std::mem::take(&mut *self.producer.context().own.get());
        let mut done = Vec::new();
        for (receipt, code) in reports {
            match code {
                None => done.extend(self.graves.remove(&receipt).map(|grave| grave.failed.receipt)),
                Some(code) => self.refused(receipt, code),
            }
        }
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            self.begin_anew();
            let waiting: Vec<usize> = self.graves.iter().filter(|(_, grave)| !grave.sent).map(|(receipt, _)| *receipt).collect();
            waiting.into_iter().for_each(|receipt| self.send(receipt));
        }
        done
    }

    /// Waits until the topic has all of them, for so long at most.
    pub(crate) fn flush(&mut self, most: Duration) -> Vec<Receipt> {
        let until = Instant::now() + most;
        let mut done = Vec::new();
        while !self.graves.is_empty() && Instant::now() < until {
            self.producer.poll(Duration::from_millis(20));
            done.extend(self.turn(Instant::now()));
        }
        done
    }

    /// Makes another producer in place of one that will never send again, as one without permission
    /// to write once is.
    fn begin_anew(&mut self) {
        if self.producer.client().fatal_error().is_some()
            && let Ok(producer) = self.config.create_with_context(ListeningContext::default())
        {
            let old = std::mem::replace(&mut self.producer, producer);
            // It waits for its threads.
            let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(old));
            // What became of them nobody will hear; twice there is better than nowhere.
            self.graves.values_mut().for_each(|grave| grave.sent = false);
        }
    }

    fn refused(&mut self, receipt: usize, code: Code) {
        // A producer that has given up throws away what waits.
        let given_up = matches!(code, Code::Fatal | Code::PurgeQueue | Code::PurgeInflight);
        let code = self.producer.client().fatal_error().map(|(why, _)| why).filter(|_| given_up).unwrap_or(code);
        let Some(grave) = self.graves.get_mut(&receipt) else { return };
        grave.sent = false;
        if code == Code::MessageSizeTooLarge && !grave.bare {
            grave.bare = true;
            return self.send(receipt);
        }
        grave.refused = true;
        let topic = grave.failed.record.topic();
        let name = self.topics.get(topic).map_or(topic, |(name, _)| name.as_str());
        self.refusals.push((name.to_owned(), code));
        self.again.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    fn send(&mut self, receipt: usize) {
        let Some(grave) = self.graves.get_mut(&receipt) else { return };
        let record = &grave.failed.record;
        let Some((topic, partitions)) = self.topics.get(record.topic()) else { return };
        let headers = headers(&grave.failed, &self.group, grave.bare);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let letter = NewRecord {
            topic,
            partition: Some(record.partition()).filter(|partition| partition < partitions),
            key: record.key(),
            value: record.value().filter(|_| !grave.bare),
            headers: &headers,
            timestamp: record.timestamp(),
        };
        grave.sent = true;
        if let Err((error, _)) = self.producer.send(letter.for_client(receipt)) {
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            self.refused(receipt, code);
        }
    }
}

/// Returns the record's own headers, and those that Spring's recoverer writes, in its encodings
/// (numbers are big-endian), with `longshore-attempts`.
fn headers(failed: &Failed, group: &str, bare: bool) -> Vec<(String, Option<Vec<u8>>)> {
    let Failed { record, error, attempts, .. } = failed;
    let mut headers: Vec<(String, Option<Vec<u8>>)> =
        record.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
    let mut add = |name: &str, value: &[u8]| headers.push((name.to_owned(), Some(value.to_vec())));
    add("kafka_dlt-original-topic", record.topic().as_bytes());
    add("kafka_dlt-original-partition", &record.partition().to_be_bytes());
    add("kafka_dlt-original-offset", &record.offset().to_be_bytes());
    if let Some(timestamp) = record.timestamp() {
        add("kafka_dlt-original-timestamp", &timestamp.to_be_bytes());
    }
    add("kafka_dlt-original-consumer-group", group.as_bytes());
    add("kafka_dlt-exception-fqcn", error.kind().as_bytes());
    add("kafka_dlt-exception-message", cut(&error.to_string()).as_bytes());
    if let Some(tail) = error.tail() {
        add("kafka_dlt-exception-stacktrace", cut(tail).as_bytes());
    }
    add("longshore-attempts", attempts.to_string().as_bytes());
    if bare {
        let bytes = record.value().map_or(0, <[u8]>::len);
        add("longshore-value-left-out", format!("{bytes} bytes, more than the dead-letter topic takes").as_bytes());
    }
    headers
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

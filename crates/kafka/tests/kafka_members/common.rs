//! What these tests share: topics filled and read back, a member in a process of its own, and the
//! file in which it says what it did.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use longshore_kafka::metadata::{self, Beyond};
use longshore_testkit::kafka::name;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
    types::RDKafkaErrorCode,
};

/// A record's place: partition and offset.
pub(crate) type Place = (i32, i64);

/// A topic of a node, filled.
pub(crate) struct Topic {
    pub(crate) address: String,
    pub(crate) name: String,
    pub(crate) partitions: i32,
}

impl Topic {
    /// Records whose keys go round and whose values are their numbers.
    pub(crate) fn filled(address: &str, stem: &str, partitions: i32, records: usize, keys: usize) -> Self {
        let topic = Self::new(address, stem, partitions);
        topic.fill(0..records, keys);
        topic
    }

    pub(crate) fn new(address: &str, stem: &str, partitions: i32) -> Self {
        let topic = Self { address: address.to_owned(), name: name(stem), partitions };
        let admin: AdminClient<DefaultClientContext> = config(address).create().unwrap();
        let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let made = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
        made.into_iter().for_each(|topic| drop(topic.unwrap()));
        topic
    }

    pub(crate) fn fill(&self, numbers: std::ops::Range<usize>, keys: usize) {
        // Idempotent: where a broker is frozen, a record that is sent once more is there once.
        let mut config = config(&self.address);
        let producer: ThreadedProducer<DefaultProducerContext> =
            config.set("linger.ms", "5").set("enable.idempotence", "true").create().unwrap();
        for number in numbers {
            let (key, value) = (format!("k{}", number % keys), number.to_string());
            let mut record = BaseRecord::to(&self.name).key(&key).payload(&value);
            while let Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) = producer.send(record) {
                std::thread::sleep(Duration::from_millis(5));
                record = back;
            }
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// Where the partitions end.
    pub(crate) fn ends(&self) -> Vec<i64> {
        let client: BaseConsumer = config(&self.address).create().unwrap();
        (0..self.partitions).map(|partition| client.fetch_watermarks(&self.name, partition, Duration::from_secs(20)).unwrap().1).collect()
    }

    /// All places that it has.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.ends().into_iter().zip(0..).flat_map(|(end, partition)| (0..end).map(move |offset| (partition, offset)))
    }

    /// What a group has committed, with what its metadata says.
    pub(crate) fn committed(&self, group: &str) -> Vec<Committed> {
        let client: BaseConsumer = config(&self.address).set("group.id", group).create().unwrap();
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(&self.name, 0, self.partitions - 1);
        let found = client.committed_offsets(asked, Duration::from_secs(20)).unwrap();
        let one = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| Committed {
            offset: if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None },
            metadata: element.metadata().to_owned(),
        };
        found.elements().iter().map(one).collect()
    }

    /// Commits for a group that has no members.
    pub(crate) fn commit(&self, group: &str, what: &[(i32, i64, &str)]) {
        let client: BaseConsumer = config(&self.address).set("group.id", group).create().unwrap();
        let mut offsets = TopicPartitionList::new();
        for (partition, offset, metadata) in what {
            offsets.add_partition_offset(&self.name, *partition, Offset::Offset(*offset)).unwrap();
            offsets.find_partition(&self.name, *partition).unwrap().set_metadata(*metadata);
        }
        client.commit(&offsets, CommitMode::Sync).unwrap();
    }
}

pub(crate) fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}

/// What is committed of a partition.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) offset: Option<i64>,
    pub(crate) metadata: String,
}

impl Committed {
    pub(crate) fn beyond(&self) -> Beyond {
        metadata::decode(&self.metadata).unwrap()
    }
}

/// The places that commits say are done.
pub(crate) fn done_by(topic: &Topic, committed: &[Committed]) -> std::collections::BTreeSet<Place> {
    let ends = topic.ends();
    let mut done = std::collections::BTreeSet::new();
    for ((partition, end), committed) in (0..).zip(ends).zip(committed) {
        let Some(position) = committed.offset else { continue };
        let beyond = committed.beyond();
        let further = (0..beyond.len()).filter(|index| beyond.is_done(*index)).map(|index| position + index as i64);
        done.extend((0..position.min(end)).chain(further).map(|offset| (partition, offset)));
    }
    done
}

/// A file with a line for each thing that happened: a letter, a partition, an offset.
pub(crate) struct Book(pub(crate) PathBuf);

impl Book {
    pub(crate) fn is_empty(&self) -> bool {
        fs::metadata(&self.0).map_or(0, |file| file.len()) == 0
    }

    /// Lines of a letter, how often each.
    pub(crate) fn count(&self, letter: &str) -> BTreeMap<Place, usize> {
        let mut counts = BTreeMap::new();
        for line in fs::read_to_string(&self.0).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            // A killed member's last line may be half a one.
            if let (Some(word), Some(Ok(partition)), Some(Ok(offset))) =
                (words.next(), words.next().map(str::parse), words.next().map(str::parse))
                && word == letter
            {
                *counts.entry((partition, offset)).or_default() += 1;
            }
        }
        counts
    }
}

/// How long a test goes on: its short size, or its long one with `LONGSHORE_INTEROP_LONG=1`.
pub(crate) fn sized<T>(short: T, long: T) -> T {
    if std::env::var("LONGSHORE_INTEROP_LONG").as_deref() == Ok("1") { long } else { short }
}

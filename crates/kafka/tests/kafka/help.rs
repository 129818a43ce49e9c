//! Topics, records and members for tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_kafka::{Consumer, Record, Settings};
use longshore_testkit::kafka::{name, shared};
use rdkafka::{
    ClientConfig, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

/// A topic of its own on the shared node.
pub(crate) struct Topic {
    pub(crate) address: String,
    pub(crate) name: String,
    pub(crate) group: String,
}

impl Topic {
    /// `None` where there is no Kafka.
    pub(crate) fn new(partitions: i32) -> Option<Self> {
        Self::at(shared()?, partitions)
    }

    pub(crate) fn at(address: String, partitions: i32) -> Option<Self> {
        let topic = Self { name: name("topic"), group: name("group"), address };
        create(&topic.address, &topic.name, partitions);
        Some(topic)
    }

    /// Records `0..count` as text, with keys `key-0` to `key-(keys-1)` in turn; without keys where
    /// that is 0.
    pub(crate) fn produce(&self, count: u64, keys: u64) {
        self.produce_from(0, count, keys);
    }

    pub(crate) fn produce_from(&self, first: u64, count: u64, keys: u64) {
        let mut config = self.config();
        // Else what is sent again to a topic that is still new comes behind what was sent later.
        config.set("enable.idempotence", "true").set("linger.ms", "5").set("queue.buffering.max.messages", "1000000");
        let producer: BaseProducer = config.create().unwrap();
        for n in first..first + count {
            let (key, value) = (if keys == 0 { String::new() } else { format!("key-{}", n % keys) }, n.to_string());
            let record = BaseRecord::to(&self.name).payload(&value);
            let record = if keys == 0 { record } else { record.key(&key) };
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    /// A member with sessions as short as tests want them.
    pub(crate) fn consumer(&self) -> Consumer {
        let settings = Settings::parse(&self.address).unwrap().with("session.timeout.ms=6000").unwrap();
        Consumer::new(settings, &self.group, [&self.name]).commit_every(Duration::from_millis(100))
    }

    /// What the group has committed: offset and metadata by partition.
    pub(crate) fn committed(&self, partitions: i32) -> BTreeMap<i32, (i64, String)> {
        // A transaction that is open is not waited for.
        let client: BaseConsumer = self.config().set("group.id", &self.group).set("isolation.level", "read_uncommitted").create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.name, 0, partitions - 1);
        let told = client.committed_offsets(list, Duration::from_secs(20)).unwrap();
        let told = told.elements();
        told.iter()
            .filter_map(|element| {
                Some((element.partition(), (element.offset().to_raw().filter(|at| *at >= 0)?, element.metadata().to_owned())))
            })
            .collect()
    }

    /// Commits in the group's name, while nobody is in it.
    pub(crate) fn commit(&self, partition: i32, offset: i64, metadata: &str) {
        let client: BaseConsumer = self.config().set("group.id", &self.group).create().unwrap();
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&self.name, partition);
        element.set_offset(rdkafka::Offset::Offset(offset)).unwrap();
        element.set_metadata(metadata);
        client.commit(&list, CommitMode::Sync).unwrap();
    }
}

pub(crate) fn create(address: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.create_topics(&[new], &options)).unwrap()[0].as_ref().unwrap();
}

/// What handlers have seen, in their order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Seen>>>);

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) offset: i64,
    pub(crate) key: Option<String>,
    pub(crate) number: u64,
}

impl Log {
    pub(crate) fn add(&self, record: &Record) -> u64 {
        let number = record.text().unwrap().parse().unwrap();
        let key = record.key().map(|key| String::from_utf8(key.to_vec()).unwrap());
        self.0.lock().unwrap().push(Seen { offset: record.offset(), key, number });
        number
    }

    /// Adds what a client other than ours has read.
    pub(crate) fn add_number(&self, number: u64, offset: i64) {
        self.0.lock().unwrap().push(Seen { offset, key: None, number });
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The numbers, sorted, each as often as it was seen.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.seen().iter().map(|seen| seen.number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Every number below `count` was seen; says how many sightings were repeats.
    pub(crate) fn check_all(&self, count: u64) -> usize {
        let numbers = self.numbers();
        let mut distinct = numbers.clone();
        distinct.dedup();
        let missing: Vec<u64> = (0..count).filter(|n| distinct.binary_search(n).is_err()).collect();
        assert!(missing.is_empty(), "{} records were skipped: {:?}…", missing.len(), &missing[..missing.len().min(10)]);
        numbers.len() - distinct.len()
    }

    /// Records of one key came in the order of their numbers.
    pub(crate) fn check_keys(&self) {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for seen in self.seen() {
            let Some(key) = seen.key else { continue };
            let before = last.insert(key.clone(), seen.number);
            assert!(before.is_none_or(|before| before < seen.number), "{key}: {} after {before:?}", seen.number);
        }
    }
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited for a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

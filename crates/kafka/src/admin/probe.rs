//! A client that asks, and never joins a group.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use longshore_brokers::BrokerError;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    message::Message as _,
};

use crate::{
    heard::{Complaints, ContextOwner, ListeningContext},
    settings::Settings,
};

#[derive(Default)]
pub(super) struct NoHooks;

impl ContextOwner for NoHooks {}

impl ConsumerContext for ListeningContext<NoHooks> {}

/// A client that asks, and never joins a group.
pub(super) struct Probe {
    pub(super) client: BaseConsumer<ListeningContext<NoHooks>>,
}

impl Probe {
    pub(super) fn open(settings: &Settings, group: Option<&str>) -> Result<Self, BrokerError> {
        let mut config = settings.config();
        // Named in no group's list as long as it does not subscribe.
        config.set("group.id", group.unwrap_or("longshore-asks")).set("enable.auto.commit", "false");
        if group.is_some() {
            // What a group has committed is told at once, and not after the end of a transaction
            // that commits more.
            config.set("isolation.level", "read_uncommitted");
        }
        settings.finish(&mut config);
        let client =
            config.create_with_context(ListeningContext::default()).map_err(|error| Complaints::default().explain(&error, "ask Kafka"))?;
        Ok(Self { client })
    }

    /// Makes one that reads, to the ends of partitions.
    pub(super) fn reader(settings: &Settings) -> KafkaResult<Self> {
        let mut config = settings.config();
        config.set("group.id", "longshore-asks").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        config.set("queued.min.messages", "1").set("fetch.message.max.bytes", "1024").set("fetch.wait.max.ms", "10");
        // A full queue otherwise makes the fetcher sleep for a second.
        config.set("fetch.queue.backoff.ms", "5");
        settings.finish(&mut config);
        Ok(Self { client: config.create_with_context(ListeningContext::default())? })
    }

    /// Returns the partitions of a topic in which no record stands at or behind these offsets.
    pub(super) fn without_records(&self, topic: &str, mut from: BTreeMap<i32, i64>, until: Instant) -> BTreeSet<i32> {
        let mut list = TopicPartitionList::new();
        let added = from.iter().try_for_each(|(partition, offset)| list.add_partition_offset(topic, *partition, Offset::Offset(*offset)));
        let mut bare = BTreeSet::new();
        // What was paused by the look before stays so until it is told otherwise.
        let assigned = added.and_then(|()| self.client.assign(&list)).and_then(|()| self.client.resume(&list));
        if assigned.is_err() {
            return bare;
        }
        while !from.is_empty() && Instant::now() < until {
            let partition = match self.client.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => message.partition(),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if from.contains_key(&partition) {
                        bare.insert(partition);
                    }
                    partition
                }
                Some(Err(_)) => break,
                None => continue,
            };
            if from.remove(&partition).is_some() {
                let mut answered = TopicPartitionList::new();
                answered.add_partition(topic, partition);
                let _ = self.client.pause(&answered);
            }
        }
        let _ = self.client.unassign();
        bare
    }

    pub(super) fn heard(&self) -> &Complaints {
        &self.client.context().heard
    }

    /// Polls the client, since what its log says is only heard by whoever polls. Bounded, because
    /// it may say something all the time.
    pub(super) fn hear(&self) {
        for _ in 0..20 {
            if self.client.poll(Duration::from_millis(1)).is_none() && self.heard().last().is_some() {
                break;
            }
        }
    }

    pub(super) fn explain(&self, error: &KafkaError, doing: &str) -> BrokerError {
        self.hear();
        self.heard().explain(error, doing)
    }
}

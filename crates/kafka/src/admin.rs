//! Topics, groups and how far these are behind.
//!
//! Layout: `admin/groups.rs`: groups, their members and their lag; `admin/probe.rs`: who asks

mod groups;
mod probe;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context as TaskContext, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use longshore_core::ErrorKind;
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::Consumer as _,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
};

pub use self::groups::{Group, GroupDetail, GroupMember, Lag, Member, UNTOLD};
use self::probe::Probe;
use crate::{
    heard::{patiently, plain},
    settings::Settings,
};
use longshore_brokers::BrokerError;

/// Asks and tells a cluster. Its methods block, each at most as long as the patience that it was
/// opened with: not for an async thread.
pub struct Admin {
    settings: Settings,
    patience: Duration,
    probe: Probe,
    /// Clients of groups that were looked at, the latest at the end.
    kept: Mutex<Vec<(String, Arc<Probe>)>>,
    /// A client that has read the ends of partitions, for the next time.
    reader: Mutex<Option<Probe>>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Number of its partitions.
    pub partitions: usize,
    /// Number of brokers that have each partition; the fewest, if partitions differ.
    pub replicas: usize,
    /// Partitions that miss a replica in sync, or a leader.
    pub ailing: usize,
    /// Kafka's own (`__consumer_offsets`).
    pub internal: bool,
}

/// Offsets that one partition holds: from the first one up to, but not including, the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first record that is still there.
    pub begin: i64,
    /// Offset that the next record will have.
    pub end: i64,
}

impl Admin {
    /// Prepares to ask. Nothing is connected to before the first question.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn open(settings: &Settings, patience: Duration) -> Result<Self, BrokerError> {
        Ok(Self {
            settings: settings.clone(),
            patience,
            probe: Probe::open(settings, None)?,
            kept: Mutex::default(),
            reader: Mutex::default(),
        })
    }

    /// Makes a topic. `replication` `None`: as many as the cluster's setting says. `settings` are
    /// the topic's own (`retention.ms`).
    ///
    /// # Errors
    /// It exists already, a name or setting that the broker does not take, no permission, or nobody
    /// answers.
    pub fn create_topic(
        &self,
        name: &str,
        partitions: usize,
        replication: Option<usize>,
        settings: &[(&str, &str)],
    ) -> Result<(), BrokerError> {
        let doing = format!("create topic `{name}`");
        let refused = |text: String| BrokerError { kind: ErrorKind::Refused, message: format!("cannot {doing}: {text}") };
        check_name(name).map_err(refused)?;
        // Its log goes unheard, so whether somebody answers is asked with the other client first.
        self.metadata(None, &doing)?;
        let explain = |error: KafkaError| self.probe.explain(&error, &doing);
        let (admin, options) = self.client().map_err(explain)?;
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let mut topic = NewTopic::new(name, count(partitions), TopicReplication::Fixed(replication.map_or(-1, count)));
        topic.config.extend(settings);
        let results = wait_for(admin.create_topics([&topic], &options)).map_err(explain)?;
        for result in results {
            result.map_err(|(_, code)| BrokerError { kind: ErrorKind::Refused, message: format!("cannot {doing}: {}", plain(code)) })?;
        }
        self.await_leaders(name, partitions)
    }

    fn client(&self) -> KafkaResult<(AdminClient<DefaultClientContext>, AdminOptions)> {
        let mut config = self.settings.config();
        self.settings.finish(&mut config);
        let options = AdminOptions::new().request_timeout(Some(self.patience)).operation_timeout(Some(self.patience));
        Ok((config.create()?, options))
    }

    /// Returns the most bytes that a topic takes in one piece: a record, or a batch of them
    /// ([`Sending::max_batch`](super::Sending::max_batch)).
    ///
    /// # Errors
    /// There is no such topic, no permission to look at its settings, or nobody answers.
    pub fn max_message_bytes(&self, topic: &str) -> Result<usize, BrokerError> {
        let doing = format!("look at the settings of topic `{topic}`");
        let explain = |error: KafkaError| self.probe.explain(&error, &doing);
        // As above; and of a topic that is not there it is said that it has no settings.
        self.topic(topic)?.ok_or_else(|| explain(KafkaError::MetadataFetch(Code::UnknownTopic)))?;
        let (admin, options) = self.client().map_err(explain)?;
        let told = wait_for(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options)).map_err(explain)?;
        let told = told.into_iter().next().unwrap_or(Err(Code::InvalidConfig)).map_err(|code| explain(KafkaError::AdminOp(code)))?;
        let most = told.get("max.message.bytes").and_then(|entry| entry.value.as_ref()?.parse().ok());
        // Of a topic that may be seen and not be looked into.
        most.ok_or_else(|| explain(KafkaError::AdminOp(Code::TopicAuthorizationFailed)))
    }

    /// Waits until a new topic's partitions can be written: others may still be told.
    fn await_leaders(&self, name: &str, partitions: usize) -> Result<(), BrokerError> {
        for _ in 0..50 {
            let led = self.topic(name).ok().flatten().is_some_and(|topic| topic.partitions == partitions && topic.ailing == 0);
            if led {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        // It has been made; who writes to it waits for its leaders anyway.
        Ok(())
    }

    /// Returns all topics that we may see, by name.
    ///
    /// # Errors
    /// No permission, or nobody answers.
    pub fn topics(&self) -> Result<Vec<Topic>, BrokerError> {
        let mut topics: Vec<_> =
            self.metadata(None, "list topics")?.topics().iter().filter(|topic| topic.error().is_none()).map(describe).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Returns one topic, `None` if there is none.
    ///
    /// # Errors
    /// No permission, or nobody answers.
    pub fn topic(&self, name: &str) -> Result<Option<Topic>, BrokerError> {
        let doing = format!("look at topic `{name}`");
        check_name(name).map_err(|text| BrokerError { kind: ErrorKind::Refused, message: format!("cannot {doing}: {text}") })?;
        let metadata = self.metadata(Some(name), &doing)?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(None) };
        match topic.error().map(Code::from) {
            None => Ok(Some(describe(topic))),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => Ok(None),
            Some(code) => Err(self.probe.heard().explain(&KafkaError::MetadataFetch(code), &doing)),
        }
    }

    /// Returns which offsets each partition of a topic holds.
    ///
    /// # Errors
    /// No such topic, no permission, or nobody answers.
    pub fn extents(&self, topic: &str) -> Result<BTreeMap<i32, Extent>, BrokerError> {
        let Some(found) = self.topic(topic)? else {
            let message = format!("cannot look at topic `{topic}`: {}", plain(Code::UnknownTopic));
            return Err(BrokerError { kind: ErrorKind::Refused, message });
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, i32::try_from(found.partitions).unwrap_or(i32::MAX) - 1);
        let extents = self.extents_of(&list)?;
        Ok(extents.into_iter().map(|((_, partition), extent)| (partition, extent)).collect())
    }

    /// Begins and ends: two questions for all partitions together.
    fn extents_of(&self, list: &TopicPartitionList) -> Result<BTreeMap<(String, i32), Extent>, BrokerError> {
        if list.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let ask = |at: Offset| -> KafkaResult<TopicPartitionList> {
            let mut list = list.clone();
            list.set_all_offsets(at)?;
            self.probe.client.offsets_for_times(list, self.patience)
        };
        let explain = |error| self.probe.explain(&error, "look at partitions");
        let (begins, ends) = (ask(Offset::Beginning).map_err(explain)?, ask(Offset::End).map_err(explain)?);
        let ends = ends.to_topic_map();
        let mut extents = BTreeMap::new();
        for begin in begins.elements() {
            begin.error().map_err(explain)?;
            let key = (begin.topic().to_owned(), begin.partition());
            if let (Offset::Offset(begin), Some(Offset::Offset(end))) = (begin.offset(), ends.get(&key)) {
                extents.insert(key, Extent { begin, end: *end });
            }
        }
        Ok(extents)
    }

    fn metadata(&self, topic: Option<&str>, doing: &str) -> Result<rdkafka::metadata::Metadata, BrokerError> {
        let (client, heard) = (&self.probe.client, self.probe.heard());
        let answer = patiently(heard, self.patience, |slice| client.fetch_metadata(topic, slice), || self.probe.hear());
        answer.map_err(|error| heard.explain(&error, doing))
    }
}

/// Checks that Kafka takes a topic's name. Done here, because brokers and clients do not say what
/// is wrong with one.
///
/// # Errors
/// The rule that a topic's name has to follow.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if name.is_empty() || name.len() > 249 || matches!(name, "." | "..") || !name.chars().all(fits) {
        return Err(plain(Code::InvalidTopic));
    }
    Ok(())
}

fn describe(topic: &rdkafka::metadata::MetadataTopic) -> Topic {
    let partitions = topic.partitions();
    Topic {
        name: topic.name().to_owned(),
        partitions: partitions.len(),
        replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
        ailing: partitions.iter().filter(|partition| partition.leader() < 0 || partition.isr().len() < partition.replicas().len()).count(),
        internal: topic.name().starts_with("__"),
    }
}

/// Waits for a future of the client, which its own thread completes.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_of_topics_are_checked() {
        for name in ["orders", "a.b_c-1", &"x".repeat(249)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}

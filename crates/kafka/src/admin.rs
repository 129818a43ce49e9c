//! Topics, groups and how far these are behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use longshore_core::ErrorKind;
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::Message as _,
};

use crate::{
    heard::{Complaints, ContextOwner, ListeningContext, patiently, plain},
    settings::Settings,
};
use longshore_brokers::BrokerError;

/// Longest tail behind a commit that is looked into for records: aborted transactions are seldom
/// longer.
const MARKS: u64 = 10_000;
/// Longest time that is spent on looking for marks.
const MARKS_PATIENCE: Duration = Duration::from_secs(3);

/// Asks and tells a cluster. Its methods block, each at most as long as the patience that it was
/// opened with: not for an async thread.
pub struct Admin {
    settings: Settings,
    patience: Duration,
    probe: Probe,
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

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// `Stable`, `Empty`, `PreparingRebalance`, …
    pub state: String,
    /// Number of its members.
    pub members: usize,
}

/// Position of a group in one partition, and how far it is behind there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Offset that the group has committed: that of the first record that may be unprocessed.
    /// `None`: nothing yet.
    pub committed: Option<i64>,
    /// The commit's metadata: with longshore and Parallel Consumer what is done beyond it.
    pub metadata: String,
    /// Offsets that the partition holds.
    pub extent: Extent,
    /// The member that has it, if one has.
    pub member: Option<Member>,
    /// True if no record lies between the commit and the end: only marks that end transactions, and
    /// what was aborted.
    pub only_marks: bool,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id in the group, which the broker made.
    pub id: String,
    /// Name that it gives itself: `client.id`, of longshore's consumers with the machine and the
    /// process.
    pub client: String,
    /// Address at which the broker sees it.
    pub host: String,
}

impl Lag {
    /// Returns how many records are not committed: from the commit, or from the begin where nothing
    /// is committed or it has been deleted, to the end.
    pub fn records(&self) -> u64 {
        if self.only_marks {
            return 0;
        }
        let from = self.committed.unwrap_or(self.extent.begin).max(self.extent.begin);
        u64::try_from(self.extent.end - from).unwrap_or(0)
    }
}

#[derive(Default)]
struct NoHooks;

impl ContextOwner for NoHooks {}

impl ConsumerContext for ListeningContext<NoHooks> {}

/// A client that asks, and never joins a group.
struct Probe {
    client: BaseConsumer<ListeningContext<NoHooks>>,
}

impl Probe {
    fn open(settings: &Settings, group: Option<&str>) -> Result<Self, BrokerError> {
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
    fn reader(settings: &Settings) -> KafkaResult<Self> {
        let mut config = settings.config();
        config.set("group.id", "longshore-asks").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        config.set("queued.min.messages", "1").set("fetch.message.max.bytes", "1024").set("fetch.wait.max.ms", "10");
        settings.finish(&mut config);
        Ok(Self { client: config.create_with_context(ListeningContext::default())? })
    }

    /// Returns the partitions of a topic in which no record stands at or behind these offsets.
    fn without_records(&self, topic: &str, mut from: BTreeMap<i32, i64>, until: Instant) -> BTreeSet<i32> {
        let mut list = TopicPartitionList::new();
        let added = from.iter().try_for_each(|(partition, offset)| list.add_partition_offset(topic, *partition, Offset::Offset(*offset)));
        let mut bare = BTreeSet::new();
        if added.and_then(|()| self.client.assign(&list)).is_err() {
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

    fn heard(&self) -> &Complaints {
        &self.client.context().heard
    }

    /// Polls the client, since what its log says is only heard by whoever polls. Bounded, because
    /// it may say something all the time.
    fn hear(&self) {
        for _ in 0..20 {
            if self.client.poll(Duration::from_millis(1)).is_none() && self.heard().last().is_some() {
                break;
            }
        }
    }

    fn explain(&self, error: &KafkaError, doing: &str) -> BrokerError {
        self.hear();
        self.heard().explain(error, doing)
    }
}

impl Admin {
    /// Prepares to ask. Nothing is connected to before the first question.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn open(settings: &Settings, patience: Duration) -> Result<Self, BrokerError> {
        Ok(Self { settings: settings.clone(), patience, probe: Probe::open(settings, None)? })
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

    /// Returns all groups that we may see, by name.
    ///
    /// # Errors
    /// No permission, or nobody answers.
    pub fn groups(&self) -> Result<Vec<Group>, BrokerError> {
        let list = self.probe.client.fetch_group_list(None, self.patience).map_err(|error| self.probe.explain(&error, "list groups"))?;
        let group = |group: &rdkafka::groups::GroupInfo| Group {
            name: group.name().to_owned(),
            state: group.state().to_owned(),
            members: group.members().len(),
        };
        let mut groups: Vec<_> = list.groups().iter().map(group).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }

    /// Returns how far a group is behind: in all partitions in which it has committed or has a
    /// member, and in all of the topics that are named.
    ///
    /// # Errors
    /// No such topic, no permission, or nobody answers.
    pub fn lag(&self, group: &str, topics: &[String]) -> Result<Vec<Lag>, BrokerError> {
        let doing = format!("look at group `{group}`");
        let probe = Probe::open(&self.settings, Some(group))?;
        let explain = |error: KafkaError| probe.explain(&error, &doing);
        let known = self.metadata(None, &doing)?;
        // The client tells commits only of partitions that it is asked about, so it is asked about
        // all of them, unless topics are named.
        let mut list = TopicPartitionList::new();
        for topic in known.topics().iter().filter(|topic| topics.is_empty() || topics.iter().any(|name| name == topic.name())) {
            for partition in topic.partitions() {
                list.add_partition(topic.name(), partition.id());
            }
        }
        for name in topics {
            if list.elements_for_topic(name).is_empty() {
                // Says why: no such topic, or no permission.
                self.extents(name)?;
            }
        }
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let committed = probe.client.committed_offsets(list, self.patience).map_err(explain)?;
        let members = self.members(&probe, group, &doing)?;
        let mut shown = TopicPartitionList::new();
        let mut rows = Vec::new();
        for element in committed.elements() {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            let member = members.get(&(element.topic().to_owned(), element.partition())).cloned();
            if let Err(error) = element.error() {
                return Err(explain(error));
            }
            // A partition that the group has nothing to do with is no row, unless its topic was
            // asked for.
            if offset.is_some() || member.is_some() || !topics.is_empty() {
                shown.add_partition(element.topic(), element.partition());
                let (topic, partition) = (element.topic().to_owned(), element.partition());
                let extent = Extent { begin: 0, end: 0 };
                rows.push(Lag {
                    topic,
                    partition,
                    committed: offset,
                    metadata: element.metadata().to_owned(),
                    extent,
                    member,
                    only_marks: false,
                });
            }
        }
        // All extents at once: a question for each partition would take long in a large cluster.
        let extents = self.extents_of(&shown)?;
        rows.retain_mut(|row| match extents.get(&(row.topic.clone(), row.partition)) {
            Some(extent) => {
                row.extent = *extent;
                true
            }
            None => false,
        });
        self.find_marks(&mut rows);
        rows.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(rows)
    }

    /// Returns the member that has each partition.
    fn members(&self, probe: &Probe, group: &str, doing: &str) -> Result<BTreeMap<(String, i32), Member>, BrokerError> {
        let list = probe.client.fetch_group_list(Some(group), self.patience).map_err(|error| probe.explain(&error, doing))?;
        let mut owners = BTreeMap::new();
        for member in list.groups().iter().filter(|found| found.name() == group).flat_map(|found| found.members()) {
            for place in member.assignment().and_then(assignment).unwrap_or_default() {
                let host = member.client_host().trim_start_matches('/').to_owned();
                owners.insert(place, Member { id: member.id().to_owned(), client: member.client_id().to_owned(), host });
            }
        }
        Ok(owners)
    }

    /// Tells marks of transactions from records that are not committed: what reads from the commit
    /// on and meets the end first has met no record. Who may not read the topic, or gets no answer
    /// soon, counts them.
    fn find_marks(&self, rows: &mut [Lag]) {
        let behind = |row: &Lag| (1..=MARKS).contains(&row.records());
        let topics: BTreeSet<String> = rows.iter().filter(|row| behind(row)).map(|row| row.topic.clone()).collect();
        if topics.is_empty() {
            return;
        }
        let Ok(reader) = Probe::reader(&self.settings) else { return };
        let until = Instant::now() + self.patience.min(MARKS_PATIENCE);
        for topic in topics {
            let of_topic = || rows.iter().filter(|row| row.topic == topic && behind(row));
            let from = of_topic().map(|row| (row.partition, row.committed.unwrap_or(row.extent.begin).max(row.extent.begin)));
            let bare = reader.without_records(&topic, from.collect(), until);
            rows.iter_mut().filter(|row| row.topic == topic).for_each(|row| row.only_marks |= bare.contains(&row.partition));
        }
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

/// Returns the partitions of a member: `version i16, [topic string, [partition i32]], …`. `None`:
/// of another protocol, or damaged.
fn assignment(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        let (head, tail) = rest.split_at_checked(len)?;
        *rest = tail;
        Some(head)
    }
    fn number(rest: &mut &[u8]) -> Option<usize> {
        usize::try_from(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?)).ok()
    }
    let mut rest = bytes;
    take(&mut rest, 2)?;
    let mut places = Vec::new();
    for _ in 0..number(&mut rest)? {
        let len = usize::from(u16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?));
        let topic = std::str::from_utf8(take(&mut rest, len)?).ok()?;
        for _ in 0..number(&mut rest)? {
            places.push((topic.to_owned(), i32::try_from(number(&mut rest)?).ok()?));
        }
    }
    Some(places)
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
    use super::{Extent, Lag, assignment, check_name};

    #[test]
    fn lag_counts_what_is_there_and_not_committed() {
        for (committed, begin, end, want) in
            [(Some(5), 0, 20, 15), (None, 0, 20, 20), (Some(3), 10, 20, 10), (Some(20), 0, 20, 0), (Some(500), 0, 20, 0)]
        {
            let lag = Lag {
                topic: "t".into(),
                partition: 0,
                committed,
                metadata: String::new(),
                extent: Extent { begin, end },
                member: None,
                only_marks: false,
            };
            assert_eq!(lag.records(), want, "{lag:?}");
            assert_eq!(Lag { only_marks: true, ..lag }.records(), 0);
        }
    }

    #[test]
    fn an_assignment_is_read_and_a_damaged_one_is_none() {
        let bytes = b"\0\x01\0\0\0\x01\0\x02ab\0\0\0\x02\0\0\0\0\0\0\0\x07\0\0\0\0";
        assert_eq!(assignment(bytes), Some(vec![("ab".to_owned(), 0), ("ab".to_owned(), 7)]));
        for len in 0..bytes.len() - 4 {
            assert_eq!(assignment(&bytes[..len]), None, "{len}");
        }
        assert_eq!(assignment(b"\0\x01\xff\xff\xff\xff"), None);
        assert_eq!(assignment(b"\0\x01\x7f\xff\xff\xff"), None, "a count beyond the bytes");
    }

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

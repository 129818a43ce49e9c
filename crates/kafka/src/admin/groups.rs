//! Groups: their members, and how far they are behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use longshore_brokers::BrokerError;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::KafkaError,
    groups::{GroupInfo, GroupMemberInfo},
};

use super::{Admin, Extent, probe::Probe};
use crate::metadata;

/// Longest tail behind a commit that is looked into for records: aborted transactions are seldom
/// longer.
const MARKS: u64 = 10_000;
/// Longest time that is spent on looking for marks.
const MARKS_PATIENCE: Duration = Duration::from_secs(3);
/// Kafka's word for a group that is not there.
const DEAD: &str = "Dead";
/// Most groups whose client is kept for the next question. Each has some threads and connections.
const MOST_KEPT: usize = 8;

/// State of a group of the newer protocol (`group.protocol=consumer`): brokers tell its state and
/// its members only to who asks in a way that the client has not got. Its commits are told.
pub const UNTOLD: &str = "Untold";

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// `Stable`, `Empty`, `PreparingRebalance`, …; `Dead`: nobody knows it; [`UNTOLD`]: of the
    /// newer protocol.
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

    /// Returns how many records beyond the commit are done, as its metadata says. `None`: it says
    /// nothing of the kind.
    pub fn done_beyond(&self) -> Option<u64> {
        let beyond = metadata::decode(&self.metadata).ok().filter(|_| !self.metadata.is_empty())?;
        Some((beyond.len() - beyond.incomplete()) as u64)
    }
}

/// A member of a group with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The member.
    pub member: Member,
    /// Its partitions, by topic and number. None: it stands by, or speaks another protocol.
    pub partitions: Vec<(String, i32)>,
}

/// A group with its members, and how far it is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDetail {
    /// The group. One that nobody knows is `Dead`.
    pub group: Group,
    /// Its members, by id.
    pub members: Vec<GroupMember>,
    /// Its partitions, by topic and number.
    pub lags: Vec<Lag>,
}

impl Admin {
    /// Returns all groups that we may see, by name.
    ///
    /// # Errors
    /// No permission, or nobody answers.
    pub fn groups(&self) -> Result<Vec<Group>, BrokerError> {
        let list = self.probe.client.fetch_group_list(None, self.patience).map_err(|error| self.probe.explain(&error, "list groups"))?;
        let mut groups: Vec<_> = list.groups().iter().map(described).collect();
        // Of those that are listed none is dead.
        groups.iter_mut().filter(|group| group.state == DEAD).for_each(|group| UNTOLD.clone_into(&mut group.state));
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }

    /// Returns how far a group is behind: in all partitions in which it has committed or has a
    /// member, and in all of the topics that are named.
    ///
    /// # Errors
    /// No such topic, no permission, or nobody answers.
    pub fn lag(&self, group: &str, topics: &[String]) -> Result<Vec<Lag>, BrokerError> {
        self.group(group, topics).map(|detail| detail.lags)
    }

    /// Returns a group with its members and its lag, of the partitions that [`lag`](Admin::lag)
    /// has.
    ///
    /// # Errors
    /// As of `lag`.
    pub fn group(&self, group: &str, topics: &[String]) -> Result<GroupDetail, BrokerError> {
        let probe = self.probe_of(group)?;
        let looked = self.look(&probe, group, topics);
        if looked.is_ok() {
            self.keep(group, probe);
        }
        looked
    }

    fn look(&self, probe: &Probe, group: &str, topics: &[String]) -> Result<GroupDetail, BrokerError> {
        let doing = format!("look at group `{group}`");
        let explain = |error: KafkaError| probe.explain(&error, &doing);
        let all = self.metadata(None, &doing)?;
        // The client tells commits only of partitions that it is asked about, so it is asked about
        // all of them, unless topics are named.
        let mut list = TopicPartitionList::new();
        for topic in all.topics().iter().filter(|topic| topics.is_empty() || topics.iter().any(|name| name == topic.name())) {
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
        let (mut known, members) = members(probe, group, &doing, self.patience)?;
        if list.count() == 0 {
            return Ok(GroupDetail { group: known, members, lags: Vec::new() });
        }
        let committed = probe.client.committed_offsets(list, self.patience).map_err(explain)?;
        let has_commits = committed.elements().iter().any(|element| matches!(element.offset(), Offset::Offset(_)));
        if known.state == DEAD && has_commits {
            UNTOLD.clone_into(&mut known.state);
        }
        let owners = owners(&members);
        let mut shown = TopicPartitionList::new();
        let mut rows = Vec::new();
        for element in committed.elements() {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            let member = owners.get(&(element.topic().to_owned(), element.partition())).cloned();
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
        Ok(GroupDetail { group: known, members, lags: rows })
    }

    /// Returns the client that asks about this group: the one of its last look, where it was kept.
    fn probe_of(&self, group: &str) -> Result<Arc<Probe>, BrokerError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter().position(|(name, _)| name == group) {
            Some(at) => Ok(kept.remove(at).1),
            None => Probe::open(&self.settings, Some(group)).map(Arc::new),
        }
    }

    /// Keeps a client for the next look, in place of the one that was used least.
    fn keep(&self, group: &str, probe: Arc<Probe>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((group.to_owned(), probe));
        let oldest = (kept.len() > MOST_KEPT).then(|| kept.remove(0));
        drop(kept);
        // Closing one takes a moment.
        drop(oldest);
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
        // A new client takes a second to find its way.
        let kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(reader) = kept.or_else(|| Probe::reader(&self.settings).ok()) else { return };
        let until = Instant::now() + self.patience.min(MARKS_PATIENCE);
        for topic in topics {
            let of_topic = || rows.iter().filter(|row| row.topic == topic && behind(row));
            let from = of_topic().map(|row| (row.partition, row.committed.unwrap_or(row.extent.begin).max(row.extent.begin)));
            let bare = reader.without_records(&topic, from.collect(), until);
            rows.iter_mut().filter(|row| row.topic == topic).for_each(|row| row.only_marks |= bare.contains(&row.partition));
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
    }
}

fn described(group: &GroupInfo) -> Group {
    Group { name: group.name().to_owned(), state: group.state().to_owned(), members: group.members().len() }
}

/// Returns a group and its members.
fn members(probe: &Probe, group: &str, doing: &str, patience: Duration) -> Result<(Group, Vec<GroupMember>), BrokerError> {
    let list = probe.client.fetch_group_list(Some(group), patience).map_err(|error| probe.explain(&error, doing))?;
    let Some(found) = list.groups().iter().find(|found| found.name() == group) else {
        return Ok((Group { name: group.to_owned(), state: DEAD.to_owned(), members: 0 }, Vec::new()));
    };
    let member = |member: &GroupMemberInfo| GroupMember {
        member: Member {
            id: member.id().to_owned(),
            client: member.client_id().to_owned(),
            host: member.client_host().trim_start_matches('/').to_owned(),
        },
        partitions: member.assignment().and_then(assignment).unwrap_or_default(),
    };
    let mut members: Vec<_> = found.members().iter().map(member).collect();
    members.sort_by(|a, b| a.member.id.cmp(&b.member.id));
    Ok((described(found), members))
}

/// Returns the member that has each partition.
fn owners(members: &[GroupMember]) -> BTreeMap<(String, i32), Member> {
    let of = |member: &GroupMember| {
        let own = member.member.clone();
        member.partitions.clone().into_iter().map(move |place| (place, own.clone())).collect::<Vec<_>>()
    };
    members.iter().flat_map(of).collect()
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

#[cfg(test)]
mod tests {
    use super::{Extent, Lag, assignment};

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
}

//! Groups as pages and programs see them.

use std::collections::HashMap;

use longshore_kafka::admin::{Group, GroupDetail, Lag};
use serde::Serialize;

use super::note::Noted;

/// Groups of a cluster.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GroupsSeen {
    /// The cluster's address, without the password.
    pub(crate) kafka: String,
    pub(crate) groups: Vec<GroupGlance>,
}

/// A group as a list shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GroupGlance {
    pub(crate) group: String,
    /// In Kafka's word: `Stable`, `Empty`, `PreparingRebalance`, …
    pub(crate) state: String,
    pub(crate) members: usize,
    /// Partitions in which it has committed or has a member; absent until they were asked for.
    pub(crate) partitions: Option<usize>,
    /// Records that it has not committed.
    pub(crate) lag: Option<u64>,
    /// Time since that was asked for, in seconds.
    pub(crate) lag_seconds_ago: Option<f64>,
    /// Reason that its lag cannot be told.
    pub(crate) trouble: Option<String>,
}

/// A group as its page shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GroupSeen {
    pub(crate) kafka: String,
    pub(crate) group: String,
    pub(crate) state: String,
    pub(crate) lag: u64,
    pub(crate) members: Vec<MemberSeen>,
    pub(crate) topics: Vec<TopicSeen>,
    pub(crate) partitions: Vec<PartitionSeen>,
}

/// A member of a group.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemberSeen {
    pub(crate) id: String,
    /// Name that it gives itself.
    pub(crate) client: String,
    pub(crate) host: String,
    pub(crate) partitions: usize,
    /// Its own page, where it is a consumer of this machine that has one.
    pub(crate) page: Option<String>,
}

/// All partitions of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TopicSeen {
    pub(crate) topic: String,
    pub(crate) partitions: usize,
    pub(crate) lag: u64,
}

/// A partition in which a group has committed or has a member.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PartitionSeen {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) committed: Option<i64>,
    pub(crate) lag: u64,
    /// Records beyond the commit that are done, where the commit says so.
    pub(crate) done_beyond: Option<u64>,
    /// Name of the member that has it.
    pub(crate) member: Option<String>,
}

impl GroupGlance {
    pub(super) fn of(group: Group) -> Self {
        let Group { name, state, members } = group;
        Self { group: name, state, members, partitions: None, lag: None, lag_seconds_ago: None, trouble: None }
    }
}

impl GroupSeen {
    /// Describes a group; its members' pages are those of the notes.
    pub(super) fn of(kafka: &str, detail: GroupDetail, notes: &[Noted]) -> Self {
        let pages: HashMap<&str, String> = notes.iter().map(|noted| (noted.client.as_str(), noted.url())).collect();
        let GroupDetail { group, members, lags } = detail;
        let members = members.into_iter().map(|of| MemberSeen {
            page: pages.get(of.member.client.as_str()).cloned(),
            id: of.member.id,
            client: of.member.client,
            host: of.member.host,
            partitions: of.partitions.len(),
        });
        Self {
            kafka: kafka.to_owned(),
            group: group.name,
            state: group.state,
            lag: lags.iter().map(Lag::records).sum(),
            members: members.collect(),
            topics: topics(&lags),
            partitions: lags.into_iter().map(PartitionSeen::of).collect(),
        }
    }

    /// Returns true where nobody knows it.
    pub(super) fn is_unknown(&self) -> bool {
        self.state == "Dead" && self.members.is_empty() && self.partitions.is_empty()
    }
}

fn topics(lags: &[Lag]) -> Vec<TopicSeen> {
    let mut topics: Vec<TopicSeen> = Vec::new();
    for lag in lags {
        // They are in the order of topics.
        match topics.last_mut().filter(|topic| topic.topic == lag.topic) {
            Some(topic) => (topic.partitions, topic.lag) = (topic.partitions + 1, topic.lag + lag.records()),
            None => topics.push(TopicSeen { topic: lag.topic.clone(), partitions: 1, lag: lag.records() }),
        }
    }
    topics
}

impl PartitionSeen {
    fn of(lag: Lag) -> Self {
        Self {
            lag: lag.records(),
            done_beyond: lag.done_beyond(),
            topic: lag.topic,
            partition: lag.partition,
            begin: lag.extent.begin,
            end: lag.extent.end,
            committed: lag.committed,
            member: lag.member.map(|member| member.client),
        }
    }
}

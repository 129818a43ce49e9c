//! A consumer at one moment, as its page and programs see it. Times are in seconds.

use longshore_core::engine::RunningTask;
use longshore_kafka::{ConsumerHandle, GateState, Intake, PartitionView, Record, RecordCounts, Trouble, View};
use longshore_ops::{cut, limits::rate_text};
use serde::Serialize;

/// Longest key that is shown, in characters.
const KEY: usize = 60;

/// A consumer at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConsumerFacts {
    pub(crate) group: String,
    pub(crate) topics: Vec<String>,
    /// Its name among clients of the broker.
    pub(crate) client: String,
    /// `running`, `paused`, `draining`, `cancelling`, `done`.
    pub(crate) state: String,
    /// Records in work.
    pub(crate) active: usize,
    pub(crate) max_threads: usize,
    /// Records in work or waiting for it.
    pub(crate) in_flight: usize,
    pub(crate) max_in_flight: usize,
    /// A closed gate opens again at so many.
    pub(crate) reopen_at: usize,
    pub(crate) bytes: usize,
    pub(crate) max_bytes: usize,
    pub(crate) gate: GateFacts,
    /// Pace of the starts.
    pub(crate) pace: Option<String>,
    /// What records wait for that were read.
    pub(crate) waits: Vec<WaitFacts>,
    /// Records that back off, and those behind one of their key.
    pub(crate) parked: usize,
    /// Those of them that back off.
    pub(crate) retrying: usize,
    /// Records that wait until the dead-letter topic has them.
    pub(crate) burying: usize,
    /// Attempts that were followed by another one.
    pub(crate) retried: u64,
    pub(crate) counts: RecordCounts,
    pub(crate) rate_per_s: f64,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// Records that are not committed; absent until a broker has told the end of a partition.
    pub(crate) lag: Option<u64>,
    pub(crate) committed_ago: Option<f64>,
    pub(crate) partitions: Vec<PartitionFacts>,
    pub(crate) troubles: Vec<TroubleFacts>,
    /// What runs, the oldest first.
    pub(crate) running: Vec<RunningFacts>,
    /// Time without an answer of the consumer: all but counts and troubles is as old.
    pub(crate) late: f64,
}

/// State of the gate through which records are read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct GateFacts {
    /// `open`, `closed`, `parked` or `bytes`.
    pub(crate) state: &'static str,
    /// Time for which it has been closed.
    pub(crate) closed_for: Option<f64>,
    /// Reason that it is closed.
    pub(crate) why: Option<String>,
    /// Number of times that it has closed, and the time in all.
    pub(crate) closings: u64,
    pub(crate) closed_in_all: f64,
}

/// What records wait for, and how many.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WaitFacts {
    pub(crate) records: usize,
    pub(crate) why: String,
}

/// A partition that is assigned to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PartitionFacts {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Offset of the next record to be read.
    pub(crate) position: i64,
    pub(crate) committed: Option<i64>,
    pub(crate) lag: Option<i64>,
    /// Records read and not done.
    pub(crate) incomplete: usize,
    pub(crate) oldest: Option<i64>,
    /// Characters of the commit's metadata.
    pub(crate) metadata: usize,
    /// Whether it is read, or why not.
    pub(crate) state: &'static str,
    /// The reason in a sentence.
    pub(crate) why: Option<&'static str>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TroubleFacts {
    #[serde(flatten)]
    trouble: Trouble,
    pub(crate) message: String,
    pub(crate) lasts: f64,
}

/// A record in work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RunningFacts {
    /// `orders[3]@17`; absent where it has just ended.
    pub(crate) record: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) lane: &'static str,
    pub(crate) slot: u32,
    pub(crate) age: f64,
}

impl ConsumerFacts {
    /// Describes what was seen of a consumer.
    pub(crate) fn of(handle: &ConsumerHandle, view: View, running: Vec<RunningFacts>, rate_per_s: f64) -> Self {
        let consumer = handle.consumer();
        let summary = &view.engine.summary;
        let ran = !summary.run.max.is_zero();
        let lags: Vec<i64> = view.partitions.iter().filter_map(|partition| partition.lag).collect();
        let counts = view.counts;
        Self {
            group: consumer.group().to_owned(),
            topics: consumer.topics().to_vec(),
            client: handle.client_id(),
            state: format!("{:?}", view.engine.phase).to_lowercase(),
            active: view.engine.active,
            max_threads: view.max_threads,
            in_flight: view.in_flight,
            max_in_flight: view.max_in_flight,
            reopen_at: view.reopen_at,
            bytes: view.bytes,
            max_bytes: view.max_bytes,
            gate: GateFacts::of(&view),
            pace: view.engine.rate.map(rate_text),
            waits: view.engine.waiting.iter().map(|(reason, records)| WaitFacts { records: *records, why: reason.to_string() }).collect(),
            parked: view.parked,
            retrying: view.engine.retrying,
            burying: view.burying,
            retried: summary.counts.retried,
            counts,
            rate_per_s,
            p50: ran.then_some(summary.run.p50.as_secs_f64()),
            p99: ran.then_some(summary.run.p99.as_secs_f64()),
            lag: (!lags.is_empty()).then(|| lags.iter().map(|lag| u64::try_from(*lag).unwrap_or(0)).sum()),
            committed_ago: view.committed_ago.map(|ago| ago.as_secs_f64()),
            partitions: partitions(&view.partitions),
            troubles: troubles(&view.troubles, view.complaint.as_deref()),
            running,
            late: 0.0,
        }
    }

    /// Returns how many records failed for good.
    pub(crate) fn failed(&self) -> u64 {
        self.counts.dead + self.counts.skipped
    }

    /// Returns how many records are done and did not fail.
    pub(crate) fn done_well(&self) -> u64 {
        self.counts.done.saturating_sub(self.failed())
    }

    /// Leaves out what records hold.
    pub(crate) fn without_keys(mut self) -> Self {
        self.running.iter_mut().for_each(|running| running.key = None);
        self
    }
}

/// Describes what is wrong.
pub(crate) fn troubles(troubles: &[Trouble], complaint: Option<&str>) -> Vec<TroubleFacts> {
    let facts = |trouble: &Trouble| TroubleFacts {
        message: trouble.sentence(complaint),
        lasts: trouble.lasts().as_secs_f64(),
        trouble: trouble.clone(),
    };
    troubles.iter().map(facts).collect()
}

impl GateFacts {
    fn of(view: &View) -> Self {
        let (state, since, why) = match view.gate {
            GateState::Open => ("open", None, None),
            GateState::Closed { since } => {
                let why = format!("as many records are in flight as may be; it opens again at {}", view.reopen_at);
                ("closed", Some(since), Some(why))
            }
            GateState::Parked { since } => {
                ("parked", Some(since), Some("too many records wait for another attempt, or behind one that does".to_owned()))
            }
            GateState::Bytes { since } => {
                ("bytes", Some(since), Some("the records in flight take as much memory as they may (--buffers)".to_owned()))
            }
        };
        let closed_for = since.map(|since| since.as_secs_f64());
        Self { state, closed_for, why, closings: view.closings, closed_in_all: view.closed_for.as_secs_f64() }
    }
}

fn partitions(seen: &[PartitionView]) -> Vec<PartitionFacts> {
    let facts = |partition: &PartitionView| PartitionFacts {
        topic: partition.topic.to_string(),
        partition: partition.partition,
        position: partition.position,
        committed: partition.committed,
        lag: partition.lag,
        incomplete: partition.incomplete,
        oldest: partition.oldest,
        metadata: partition.metadata,
        state: partition.state.as_str(),
        why: match partition.state {
            Intake::Open | Intake::AtEnd => None,
            Intake::HotKey => Some("too many records of one key stand in line"),
            Intake::TooFar => Some("what is done beyond its oldest record could not be committed any more"),
            Intake::Paused => Some("the gate has been closed for long"),
            Intake::Unreadable => Some("the broker does not let it be read, or cannot"),
        },
    };
    let mut partitions: Vec<_> = seen.iter().map(facts).collect();
    partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    partitions
}

impl RunningFacts {
    /// Describes a record in work.
    pub(crate) fn of((task, record): (RunningTask, Option<Record>)) -> Self {
        let key = record.as_ref().and_then(Record::key).map(|key| cut(&String::from_utf8_lossy(key), KEY));
        Self {
            record: record.map(|record| record.to_string()),
            key,
            attempt: task.attempt,
            lane: task.lane.as_str(),
            slot: task.slot,
            age: task.age.as_secs_f64(),
        }
    }
}

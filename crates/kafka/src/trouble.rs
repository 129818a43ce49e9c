//! Troubles of a consumer: states that begin, are met again, and end. They are codes and places
//! alone; a sentence of one is made when it is shown.
//!
//! The board is shared, so that it can be read while the client's thread waits for a broker that
//! does not answer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{error::RDKafkaErrorCode as Code, types::RDKafkaRespErr};
use serde::{Deserialize, Serialize};

use crate::{counts::RecordCounts, heard::plain};

/// Thing that something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Affected {
    /// No broker is there, or none answers.
    Broker,
    /// Membership of the group.
    Group,
    /// The topics that the group reads: one of them is gone, or hidden from us.
    Topics,
    /// A partition cannot be read.
    Partition {
        /// Its topic.
        topic: String,
        /// Its number.
        partition: i32,
    },
    /// Commits are not accepted.
    Commits,
    /// Letters are not taken; their records wait.
    DeadLetters {
        /// The dead-letter topic.
        topic: String,
    },
    /// Something else that the client complains of.
    Client,
    /// The metadata of a committed offset is not ours: records done beyond it, if any, are done
    /// again.
    Metadata {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The name of a header is not UTF-8: it and those behind it were left out.
    Header {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The log was cut or the topic made again.
    Log {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The next record would have been this one.
        from: i64,
        /// It is read from here.
        to: i64,
    },
}

/// Something that is wrong, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// With what.
    #[serde(flatten)]
    pub affected: Affected,
    /// Kafka's error; those below zero are the client's own (librdkafka's `rd_kafka_resp_err_t`).
    pub code: i32,
    /// Moment at which it began, in milliseconds since 1970.
    pub since: u64,
    /// Number of times that it was met since then.
    pub times: u64,
    /// Moment at which it ended, in milliseconds since 1970.
    pub until: Option<u64>,
}

impl Affected {
    /// Tells what happens from what lasts: nobody waits for its end, it is over when it has not
    /// been met for a while.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Client | Self::Metadata { .. } | Self::Header { .. } | Self::Log { .. })
    }

    /// Tells what a consumer without permission cannot do its work without.
    fn is_vital(&self) -> bool {
        matches!(self, Self::Group | Self::Topics | Self::Partition { .. } | Self::Commits)
    }
}

impl Trouble {
    /// Tells a missing permission from everything else.
    pub fn is_denied(&self) -> bool {
        is_denied(code(self.code).into())
    }

    /// Returns the time that it lasted, or has lasted so far.
    pub fn lasts(&self) -> Duration {
        Duration::from_millis(self.until.unwrap_or_else(now).saturating_sub(self.since))
    }

    /// Says what is wrong, and what that means. `complaint`: what the client said last of a
    /// connection ([`ConsumerHandle::complaint`](crate::ConsumerHandle::complaint)).
    pub fn sentence(&self, complaint: Option<&str>) -> String {
        let why = words(self.code);
        match &self.affected {
            Affected::Broker => {
                let why = complaint.unwrap_or("no connection answers");
                format!("no broker answers: {why}; nothing new comes and nothing can be committed until one does")
            }
            Affected::Group => format!("the group does not have us as a member: {why}"),
            Affected::Topics => format!("a topic cannot be read: {why}"),
            Affected::Partition { topic, partition } => {
                format!("{topic}[{partition}] cannot be read: {why}; it is asked for again and again")
            }
            Affected::Commits => {
                format!("commits are not accepted: {why}; they are sent again, and until then a restart repeats what is done")
            }
            Affected::DeadLetters { topic } => {
                format!("dead-letter topic `{topic}` takes no letters: {why}; they are sent again each second, and their records wait")
            }
            Affected::Client => format!("Kafka's client: {why}"),
            Affected::Metadata { topic, partition } => {
                format!(
                    "{topic}[{partition}]: the metadata of the committed offset is not ours; records done beyond it, if any, are done again"
                )
            }
            Affected::Header { topic, partition } => {
                format!("{topic}[{partition}]: the name of a record's header is not UTF-8; it and those behind it were left out")
            }
            Affected::Log { topic, partition, from, to } => {
                format!(
                    "{topic}[{partition}] goes back to {to}, from {from}: the log was cut or the topic made again; it is read from there"
                )
            }
        }
    }
}

/// Says an error of Kafka, by its number, for people: what it is, and what to do about it.
pub fn words(number: i32) -> String {
    plain(code(number).into())
}

fn code(number: i32) -> RDKafkaRespErr {
    RDKafkaRespErr::try_from(number).unwrap_or(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN)
}

/// Tells a missing permission from other errors.
pub(crate) fn is_denied(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Time after which a passing trouble has ended, if it has not been met again.
const QUIET: Duration = Duration::from_secs(10);
/// The most that waits to be told.
const MOST_NEWS: usize = 1_000;
/// The most places of which it is remembered that something was wrong there.
const MOST_PAST: usize = 1_000;

/// All that is wrong, what is to be told of it, and what has been done so far.
#[derive(Debug, Default)]
pub(crate) struct TroubleBoard(Mutex<BoardState>);

#[derive(Debug, Default)]
struct BoardState {
    current: BTreeMap<Affected, OngoingTrouble>,
    news: VecDeque<Trouble>,
    past: BTreeMap<Affected, Trouble>,
    counts: RecordCounts,
    /// Last thing that the client said of a connection.
    complaint: Option<String>,
}

#[derive(Debug)]
struct OngoingTrouble {
    trouble: Trouble,
    begun: Instant,
    last: Instant,
}

impl TroubleBoard {
    fn lock(&self) -> MutexGuard<'_, BoardState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something is wrong: from now on, or still.
    pub(crate) fn meet(&self, affected: Affected, code: Code, at: Instant) {
        let mut inner = self.lock();
        let code = code as i32;
        if let Some(met) = inner.current.get_mut(&affected) {
            met.trouble.times += 1;
            met.trouble.code = code;
            met.last = at;
            return;
        }
        let trouble = Trouble { affected: affected.clone(), code, since: now(), times: 1, until: None };
        inner.tell(trouble.clone());
        inner.current.insert(affected, OngoingTrouble { trouble, begun: at, last: at });
    }

    /// Notes that it is over.
    pub(crate) fn end(&self, affected: &Affected) {
        self.end_if(|other, _| other == affected);
    }

    /// Notes that all of these are over.
    pub(crate) fn end_if(&self, mut is_over: impl FnMut(&Affected, &Trouble) -> bool) {
        let mut inner = self.lock();
        if inner.current.is_empty() {
            return;
        }
        let BoardState { current, .. } = &mut *inner;
        let over: Vec<Affected> =
            current.iter().filter(|(affected, met)| is_over(affected, &met.trouble)).map(|(affected, _)| affected.clone()).collect();
        for affected in over {
            let Some(met) = inner.current.remove(&affected) else { continue };
            let trouble = Trouble { until: Some(now()), ..met.trouble };
            remember(&mut inner.past, &trouble);
            inner.tell(trouble);
        }
    }

    /// Ends what has passed.
    pub(crate) fn sweep(&self, at: Instant) {
        let passed: Vec<Affected> = {
            let inner = self.lock();
            let is_over =
                |affected: &Affected, met: &OngoingTrouble| affected.is_passing() && at.saturating_duration_since(met.last) >= QUIET;
            inner.current.iter().filter(|(affected, met)| is_over(affected, met)).map(|(affected, _)| affected.clone()).collect()
        };
        passed.iter().for_each(|affected| self.end(affected));
    }

    /// Tells whether this is wrong now.
    pub(crate) fn has(&self, affected: &Affected) -> bool {
        self.lock().current.contains_key(affected)
    }

    /// Returns a permission without which nothing can be done, if one has been missing for so long.
    pub(crate) fn denied_for(&self, patience: Duration, at: Instant) -> Option<Trouble> {
        let inner = self.lock();
        let mut vital = inner.current.values().filter(|met| met.trouble.affected.is_vital() && met.trouble.is_denied());
        vital.find(|met| at.saturating_duration_since(met.begun) >= patience).map(|met| met.trouble.clone())
    }

    /// Returns what is wrong now.
    pub(crate) fn current(&self) -> Vec<Trouble> {
        self.lock().current.values().map(|met| met.trouble.clone()).collect()
    }

    /// Returns what began or ended since the last question; each is told once.
    pub(crate) fn news(&self) -> Vec<Trouble> {
        std::mem::take(&mut self.lock().news).into()
    }

    /// Returns all that was or is wrong, each place once: since the first time, how often in all.
    pub(crate) fn all(&self) -> Vec<Trouble> {
        let inner = self.lock();
        let mut all = inner.past.clone();
        inner.current.values().for_each(|met| remember(&mut all, &met.trouble));
        all.into_values().collect()
    }

    /// Keeps what has been done so far, for whoever cannot wait for the client's thread.
    pub(crate) fn publish(&self, counts: RecordCounts, complaint: Option<String>) {
        let mut inner = self.lock();
        (inner.counts, inner.complaint) = (counts, complaint);
    }

    /// Returns what the client said last of a connection.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.lock().complaint.clone()
    }

    /// Returns what had been done when that was last said.
    pub(crate) fn counts(&self) -> RecordCounts {
        self.lock().counts
    }
}

impl BoardState {
    fn tell(&mut self, trouble: Trouble) {
        if self.news.len() < MOST_NEWS {
            self.news.push_back(trouble);
        }
    }
}

fn remember(past: &mut BTreeMap<Affected, Trouble>, trouble: &Trouble) {
    if let Some(past) = past.get_mut(&trouble.affected) {
        past.times += trouble.times;
        past.code = trouble.code;
        past.until = trouble.until;
    } else if past.len() < MOST_PAST {
        past.insert(trouble.affected.clone(), trouble.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Affected {
        Affected::DeadLetters { topic: "orders-dlt".to_owned() }
    }

    #[test]
    fn a_trouble_is_told_once_when_it_begins_and_once_when_it_ends_and_is_counted_between() {
        let (board, start) = (TroubleBoard::default(), Instant::now());
        for _ in 0..3 {
            board.meet(Affected::Commits, Code::GroupAuthorizationFailed, start);
        }
        board.meet(letters(), Code::TopicAuthorizationFailed, start);
        let told: Vec<_> = board.news().into_iter().map(|trouble| (trouble.affected, trouble.times, trouble.until)).collect();
        assert_eq!(told, [(Affected::Commits, 1, None), (letters(), 1, None)]);
        board.end(&Affected::Commits);
        board.end(&Affected::Commits);
        let told = board.news();
        assert!(told.len() == 1 && told[0].times == 3 && told[0].until.is_some(), "{told:?}");
        assert_eq!(board.current().len(), 1);
        board.meet(Affected::Commits, Code::OperationTimedOut, start);
        let all = board.all();
        assert_eq!((all.len(), all[0].times, all[0].code), (2, 4, Code::OperationTimedOut as i32));
    }

    #[test]
    fn a_missing_permission_is_vital_after_its_time_and_one_for_letters_never() {
        let (board, start) = (TroubleBoard::default(), Instant::now());
        let minute = Duration::from_secs(60);
        board.meet(letters(), Code::TopicAuthorizationFailed, start);
        board.meet(Affected::Broker, Code::AllBrokersDown, start);
        board.meet(Affected::Partition { topic: "orders".to_owned(), partition: 3 }, Code::TopicAuthorizationFailed, start);
        assert_eq!(board.denied_for(minute, start + minute / 2), None);
        let denied = board.denied_for(minute, start + minute).expect("it has been long enough");
        assert_eq!(denied.affected, Affected::Partition { topic: "orders".to_owned(), partition: 3 });
    }

    #[test]
    fn what_passes_ends_when_it_has_been_quiet_and_what_lasts_does_not() {
        let (board, start) = (TroubleBoard::default(), Instant::now());
        let header = Affected::Header { topic: "orders".to_owned(), partition: 0 };
        board.meet(header.clone(), Code::NoError, start);
        board.meet(header.clone(), Code::NoError, start + QUIET / 2);
        board.meet(Affected::Commits, Code::OperationTimedOut, start);
        board.sweep(start + QUIET);
        assert!(board.has(&header));
        board.sweep(start + QUIET * 2);
        assert!(!board.has(&header) && board.has(&Affected::Commits));
    }

    #[test]
    fn a_trouble_is_written_and_read_back_with_nothing_but_names_and_numbers() {
        let trouble = Trouble { affected: letters(), code: 29, since: 7, times: 2, until: None };
        let json = serde_json::to_string(&trouble).expect("it can be written");
        assert_eq!(json, r#"{"what":"dead_letters","topic":"orders-dlt","code":29,"since":7,"times":2,"until":null}"#);
        assert_eq!(serde_json::from_str::<Trouble>(&json).expect("it can be read"), trouble);
        assert!(words(29).starts_with("no permission for this topic") && trouble.is_denied());
    }
}

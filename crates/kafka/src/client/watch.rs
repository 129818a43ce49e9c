//! The client thread's care for what goes wrong: it is noted, asked after, and ends the consumer
//! where that is all that is left.

use std::time::{Duration, Instant};

use longshore_core::{ErrorKind, SourceError};
use rdkafka::{
    Statistics,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode as Code},
    statistics::Broker,
};

use super::{LEAVE, SERVE, state::ClientState};
use crate::trouble::{Affected, Trouble, is_denied, words};

/// Time after which what cannot be read is asked for again; so are topics.
const AGAIN: Duration = Duration::from_secs(2);
/// Longest wait of the client's thread for the answer about topics.
const TOPICS: Duration = Duration::from_millis(300);
/// Time without anything from a connection, in microseconds, after which nobody is at its other
/// end: heartbeats alone bring more.
const SILENT: i64 = 10_000_000;
/// Number of looks in a row, one each second, that have to find nobody before that is said.
const LOOKS: u32 = 2;

impl ClientState {
    /// Notes that something is wrong.
    pub(crate) fn meet(&self, affected: Affected, code: Code) {
        self.exchange.board.meet(affected, code, Instant::now());
    }

    /// Takes an error of the client: most pass by themselves.
    pub(crate) fn complain(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        if code == Code::PollExceeded {
            self.counts.lost += 1;
        }
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_))
            || matches!(code, Code::SaslAuthenticationFailed | Code::Authentication)
            // What was there may come back.
            || is_denied(code) && self.rebalanced.is_none();
        if fatal {
            let heard = self.consumer.context().heard.last();
            let text = match heard {
                Some(heard) if code == Code::Authentication => heard,
                _ => words(code as i32),
            };
            let text = format!("group `{}`: {text}", self.rules.group);
            return self.exchange.end(Err(SourceError { kind: ErrorKind::Refused, message: text }));
        }
        match code {
            // The statistics tell of all connections, and of their end.
            Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve => {}
            Code::TopicAuthorizationFailed | Code::UnknownTopic | Code::UnknownTopicOrPartition => self.meet(Affected::Topics, code),
            Code::GroupAuthorizationFailed | Code::PollExceeded => self.meet(Affected::Group, code),
            code => self.meet(Affected::Client, code),
        }
    }

    /// Takes what the client tells of its connections, once a second.
    pub(crate) fn look_at_brokers(&mut self, statistics: &Statistics) {
        self.silent = if statistics.brokers.values().any(answers) { 0 } else { self.silent + 1 };
        if self.silent == 0 {
            self.exchange.board.end(&Affected::Broker);
        } else if self.silent >= LOOKS {
            self.publish();
            self.meet(Affected::Broker, Code::AllBrokersDown);
        }
    }

    /// Takes how a read of a partition ended.
    pub(crate) fn can_be_read(&mut self, at: usize, state: Result<(), Code>) {
        let Some(Some(seat)) = self.seats.get_mut(at) else { return };
        match state {
            Ok(()) => {
                if seat.ask_again.take().is_some() {
                    self.exchange.board.end(&seat.affected());
                }
            }
            Err(code) => {
                seat.ask_again = Some(Instant::now() + AGAIN);
                self.exchange.board.meet(seat.affected(), code, Instant::now());
            }
        }
    }

    /// Looks after what is wrong, now and then.
    pub(crate) fn check(&mut self, now: Instant) {
        if now < self.next_check {
            return;
        }
        self.next_check = now + SERVE;
        self.publish();
        let board = &self.exchange.board;
        board.sweep(now);
        if let Some(dead) = &self.dead {
            board.end_if(|affected, _| matches!(affected, Affected::DeadLetters { topic } if !dead.has_refused(topic)));
        }
        if let Some(denied) = board.denied_for(self.rules.without_permission, now) {
            let message = denial(&self.rules.group, &denied);
            return self.exchange.end(Err(SourceError { kind: ErrorKind::Refused, message }));
        }
        self.ask_again(now);
    }

    /// Asks for what the client does not tell by itself: that a partition can be read again, that a
    /// topic is there.
    fn ask_again(&mut self, now: Instant) {
        for seat in self.seats.iter_mut().flatten() {
            let due = seat.ask_again.is_some_and(|at| at <= now) && !seat.paused && !seat.leaving;
            // From where nobody knows yet, a record could be missed; whoever reads one knows that
            // it can be read.
            if due && seat.next != rdkafka::Offset::End {
                seat.ask_again = Some(now + AGAIN);
                let _ = self.consumer.seek(&seat.lease.topic, seat.lease.partition, seat.next, Duration::ZERO);
            }
        }
        if now >= self.next_metadata && self.exchange.board.has(&Affected::Topics) {
            self.next_metadata = now + AGAIN;
            // Of all topics: only that tells the client's own group, too.
            let Ok(metadata) = self.consumer.fetch_metadata(None, TOPICS) else { return };
            let there = |name: &String| metadata.topics().iter().any(|topic| topic.name() == name && topic.error().is_none());
            if self.rules.topics.iter().all(there) {
                self.exchange.board.end(&Affected::Topics);
            }
        }
    }

    /// Keeps what has been done so far where it can be read while this thread waits.
    pub(crate) fn publish(&mut self) {
        let mut counts = self.counts;
        if !self.finishing {
            counts.uncommitted = self.seats.iter().flatten().map(super::assigned::AssignedPartition::uncommitted).sum();
        }
        self.exchange.board.publish(counts, self.consumer.context().heard.last());
    }

    /// Says the last words before the group is left: dead letters on their way, and the last
    /// commit. Tells whether the broker has answered.
    pub(crate) fn last_words(&mut self) -> bool {
        self.count_uncommitted();
        self.publish();
        if let Some(dead) = &mut self.dead {
            for receipt in dead.flush(LEAVE) {
                self.counts.dead += 1;
                self.done(receipt);
            }
        }
        let answered = self.commit_now(|_| true);
        self.count_uncommitted();
        self.publish();
        answered
    }

    fn count_uncommitted(&mut self) {
        self.counts.uncommitted = self.seats.iter().flatten().map(super::assigned::AssignedPartition::uncommitted).sum();
    }
}

/// Tells whether somebody is at the other end of a connection.
fn answers(broker: &Broker) -> bool {
    let idle = if broker.rxidle >= 0 { broker.rxidle } else { broker.stateage };
    broker.state == "UP" && idle < SILENT
}

fn denial(group: &str, trouble: &Trouble) -> String {
    let what = match &trouble.affected {
        Affected::Partition { topic, .. } => format!("topic `{topic}` cannot be read any more"),
        Affected::Topics => "a topic cannot be read any more".to_owned(),
        Affected::Commits => "what is done cannot be committed any more".to_owned(),
        _ => "we are no member any more".to_owned(),
    };
    format!("group `{group}`: {what}: {}", words(trouble.code))
}

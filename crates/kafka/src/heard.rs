//! Complaints of the client, and its errors in plain words.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_core::ErrorKind;
use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use longshore_brokers::BrokerError;

/// Keeps the client's last complaint. Operations alone only say that time ran out; the reason (a
/// wrong password, a certificate) is in its log.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    last: Mutex<Option<String>>,
    down: AtomicBool,
}

impl Complaints {
    /// Takes in a line of the client's log. Facility `FAIL` is what ended a connection.
    pub(crate) fn heard(&self, facility: &str, message: &str) {
        if matches!(facility, "FAIL" | "ERROR" | "SSL" | "SASL" | "CERTVERIFY") {
            let text = reason(message);
            if text.contains("brokers are down") {
                self.down.store(true, Ordering::Relaxed);
            }
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            // What a connection died of says more than that there is none any more.
            if !text.contains("brokers are down") || last.is_none() {
                *last = Some(text);
            }
        }
    }

    /// Returns true if no broker could be reached at all.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Returns the last complaint.
    pub(crate) fn last(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Explains an error of an operation, with what was complained of where that tells more.
    /// `doing` says what could not be done: "create topic `x`".
    pub(crate) fn explain(&self, error: &KafkaError, doing: &str) -> BrokerError {
        let code = code_of(error);
        let unreached = is_unreached(code);
        let text = match (code, self.last()) {
            (Some(_), Some(last)) if unreached => last,
            (Some(code), _) => plain(code),
            (None, _) => error.to_string(),
        };
        BrokerError { kind: kind(code), message: format!("cannot {doing}: {text}") }
    }
}

impl Complaints {
    /// Explains as [`explain`](Complaints::explain) does, for what a group has committed: the
    /// client asks again, and says only that time ran out, while the broker answers that a
    /// transaction is open.
    pub(crate) fn explain_committed(&self, error: &KafkaError, doing: &str) -> BrokerError {
        let mut explained = self.explain(error, doing);
        if code_of(error) == Some(Code::OperationTimedOut) && self.last().is_none() {
            explained.message = format!("{}; maybe {}", explained.message, plain(Code::UnstableOffsetCommit));
        }
        explained
    }
}

/// Asks again and again within this time; who finds nobody there at all waits for [`AT_LEAST`] and
/// no longer. `ask` is told how long to wait, `hear` takes in what the client complains of.
pub(crate) fn patiently<T>(
    heard: &Complaints,
    patience: Duration,
    mut ask: impl FnMut(Duration) -> Result<T, KafkaError>,
    hear: impl Fn(),
) -> Result<T, KafkaError> {
    let begun = Instant::now();
    let mut slice = Duration::from_secs(1);
    loop {
        let left = patience.saturating_sub(begun.elapsed());
        let error = match ask(slice.min(left).max(Duration::from_millis(1))) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        hear();
        let waited = begun.elapsed();
        if !is_unreached(code_of(&error)) || waited >= patience || (heard.is_down() && waited >= AT_LEAST) {
            return Err(error);
        }
        slice *= 2;
    }
}

/// Time for which a broker is waited for that is perhaps just being started.
const AT_LEAST: Duration = Duration::from_secs(2);

/// Returns true if nobody was there, or nobody answered.
fn is_unreached(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::Authentication
                | Code::Resolve
        )
    )
}

/// Receiver of what a client calls back: complaints are kept here, the rest is its owner's.
#[derive(Default)]
pub(crate) struct ListeningContext<T> {
    pub(crate) heard: Complaints,
    pub(crate) own: T,
}

impl<T: ContextOwner> ClientContext for ListeningContext<T> {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.heard(facility, message);
    }

    /// Called from polls of partitions' queues too. What an error means is said where it is polled;
    /// the end of a partition is none.
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(Code::PartitionEOF) {
            self.heard.heard("ERROR", reason);
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.own.stats(&statistics);
    }
}

/// Callbacks that only some kinds of clients care about.
pub(crate) trait ContextOwner: Send + Sync + 'static {
    fn stats(&self, _: &Statistics) {}
}

/// Returns the code in an error.
pub(crate) fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) | KafkaError::MetadataFetch(code) | KafkaError::GroupListFetch(code) | KafkaError::OffsetFetch(code) => {
            Some(*code)
        }
        other => other.rdkafka_error_code(),
    }
}

/// Returns the kind of an error: transient where trying again may help.
fn kind(code: Option<Code>) -> ErrorKind {
    match code {
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::QueueFull
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator,
        ) => ErrorKind::Transient,
        _ => ErrorKind::Refused,
    }
}

/// Explains an error of Kafka for people: what it is, and what to do about it.
pub(crate) fn plain(code: Code) -> String {
    let text = match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            "there is no such topic or partition; `longshore kafka create-topic` makes one"
        }
        Code::TopicAlreadyExists => "it exists already",
        Code::TopicAuthorizationFailed => "no permission for this topic; an administrator has to allow it to the user that we are",
        Code::GroupAuthorizationFailed => "no permission for this group; an administrator has to allow it to the user that we are",
        Code::ClusterAuthorizationFailed => {
            "no permission for this on the cluster; an administrator has to allow it to the user that we are"
        }
        Code::TransactionalIdAuthorizationFailed => "no permission for this transactional id",
        Code::SaslAuthenticationFailed | Code::Authentication => "user or password is wrong",
        Code::MessageSizeTooLarge => {
            "the record is larger than the topic (`max.message.bytes`) or the client (`message.max.bytes`) takes; raise that, or make it smaller"
        }
        Code::InvalidTopic => "a topic's name has 1 to 249 letters, digits, `.`, `_` and `-`",
        Code::InvalidReplicationFactor => "there are not that many brokers; use a smaller --replication",
        Code::InvalidPartitions => "a topic has one partition or more",
        Code::InvalidConfig => "a setting of the topic is unknown, or its value is wrong",
        Code::BrokerTransportFailure | Code::AllBrokersDown => "no broker can be reached there",
        Code::OperationTimedOut | Code::RequestTimedOut => "no answer in time",
        Code::MessageTimedOut => "no broker has taken it in time",
        Code::UnstableOffsetCommit => {
            "a transaction with commits of this group is open still; it ends with its producer, or is aborted after that one's `transaction.timeout.ms`"
        }
        Code::UnknownMemberId => {
            "nothing was heard of each other for as long as a session lasts (`session.timeout.ms`); a new member waits until the old one's session ends at the \
             broker, unless it has a name (`--member`)"
        }
        Code::QueueFull => "the client's queue is full",
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => "too few replicas are there",
        Code::InvalidRecord => "the broker does not take such a record (a compacted topic needs keys)",
        Code::OffsetMetadataTooLarge => "the commit's metadata is larger than the broker takes (`offset.metadata.max.bytes`)",
        Code::UnsupportedSASLMechanism => "the broker does not know this SASL mechanism",
        Code::UnsupportedCompressionType => "the broker does not know this compression",
        other => return other.to_string(),
    };
    text.to_owned()
}

/// Rewrites a line of the client's log for people: without its threads and repetitions, with what
/// to do where that is known.
fn reason(message: &str) -> String {
    let mut text = message;
    // "[thrd:…]: host:port/bootstrap: Connect to … failed: …"
    while let Some((head, rest)) = text.split_once("]: ")
        && head.starts_with('[')
    {
        text = rest;
    }
    // "… (after 3ms in state CONNECT, 4 identical error(s) suppressed)"
    let text = text.split(" (after ").next().unwrap_or(text).trim();
    // The client's guess, which is about TLS alone.
    let text = text.split(": might be caused by").next().unwrap_or(text);
    let ended = text.contains("Disconnected") || text.contains("Send failed");
    let advice = if text.contains("certificate verify failed") {
        " → name the certificate of the authority that signed the broker's: ?ca=FILE"
    } else if text.contains("Authentication failed") || text.contains("authentication error") {
        " → user or password is wrong"
    } else if text.contains("Connection refused") {
        " → nothing listens there: is Kafka running, and is the address right?"
    } else if ended && text.starts_with("ssl://") {
        " → the listener wants a user (kafkas://USER:PASSWORD@…), or no TLS (kafka://)"
    } else if ended && text.starts_with("sasl_plaintext://") {
        " → the listener may want TLS (kafkas://), or no user"
    } else if ended && text.starts_with("sasl_ssl://") {
        " → the listener may want no user"
    } else if text.contains("connecting to a SSL listener")
        || text.contains("wrong version number")
        || text.contains("SSL handshake failed")
    {
        " → TLS on one side only? kafkas:// speaks TLS, kafka:// does not"
    } else if text.contains("Disconnected while requesting ApiVersion") {
        " → the listener may want TLS (kafkas://) or a user"
    } else if text.contains("brokers are down") {
        // Said only where no connection has told why it ended.
        " → nobody talks to us there: does the listener want TLS (kafkas://), or a user?"
    } else {
        ""
    };
    format!("{text}{advice}")
}

#[cfg(test)]
mod tests {
    use longshore_core::ErrorKind;
    use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

    use super::Complaints;

    #[test]
    fn a_connection_that_was_ended_says_what_the_address_may_lack() {
        for (line, want) in [
            ("ssl://h:1/bootstrap: Disconnected: SSL connection closed by peer (after 3ms in state APIVERSION_QUERY)", "wants a user"),
            ("ssl://h:1/bootstrap: Send failed: SSL transport error: Broken pipe", "wants a user"),
            ("sasl_plaintext://h:1/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN", "may want TLS (kafkas://)"),
            (
                "h:1/bootstrap: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL \
                 listener?) or broker version is < 0.10",
                "Disconnected while requesting ApiVersion → the listener may want TLS (kafkas://) or a user",
            ),
        ] {
            let said = super::reason(line);
            assert!(said.contains(want), "{said}");
        }
    }

    #[test]
    fn commits_that_cannot_be_read_in_time_may_be_those_of_an_open_transaction() {
        let heard = Complaints::default();
        let error = heard.explain_committed(&KafkaError::OffsetFetch(Code::OperationTimedOut), "read what is committed").message;
        assert!(error.contains("no answer in time; maybe a transaction with commits of this group is open"), "{error}");
        heard.heard("FAIL", "h:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused");
        let error = heard.explain_committed(&KafkaError::OffsetFetch(Code::OperationTimedOut), "read what is committed").message;
        assert!(error.contains("Connection refused") && !error.contains("maybe"), "{error}");
    }

    #[test]
    fn a_time_out_is_explained_by_what_the_log_said_and_a_refusal_by_itself() {
        let heard = Complaints::default();
        let timed_out = KafkaError::MetadataFetch(Code::BrokerTransportFailure);
        assert_eq!(heard.explain(&timed_out, "list topics").message, "cannot list topics: no broker can be reached there");
        heard.heard("FAIL", "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)");
        heard.heard("ERROR", "1/1 brokers are down");
        let error = heard.explain(&timed_out, "list topics");
        assert_eq!(error.kind, ErrorKind::Transient);
        assert_eq!(
            error.message,
            "cannot list topics: 127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused → nothing listens there: is Kafka running, \
             and is the address right?"
        );
        let refused = heard.explain(&KafkaError::AdminOp(Code::TopicAuthorizationFailed), "create topic `x`");
        assert_eq!(refused.kind, ErrorKind::Refused);
        assert!(refused.message.starts_with("cannot create topic `x`: no permission for this topic"), "{}", refused.message);
    }
}

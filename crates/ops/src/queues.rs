//! Queues: how long they are, what comes and goes, what is next; and to pause, resume, purge and
//! move them.
//!
//! `queues/flow.rs`: what comes and goes, measured.

pub(crate) mod flow;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::QueueState;
use longshore_worker::Client;
use serde::{Deserialize, Serialize};

use self::flow::{Flow, measure};
use crate::{error::OpsError, message::MessageBrief, wire};

/// Asks how queues stand.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueuesRequest {
    /// These queues; all that are known where it is empty.
    pub names: Vec<String>,
    /// Time over which traffic is measured (1 s); where it is zero, workers are not asked.
    pub window: Duration,
}

impl Default for QueuesRequest {
    fn default() -> Self {
        Self { names: Vec::new(), window: Duration::from_secs(1) }
    }
}

impl QueuesRequest {
    /// Asks about one queue.
    pub fn one(queue: impl Into<String>) -> Self {
        Self { names: vec![queue.into()], ..Self::default() }
    }

    /// Measures for so long what comes and goes.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        Self { window, ..self }
    }
}

/// State of a queue: its messages, its traffic and its pause. Whatever nobody can say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueueInfo {
    /// Its name.
    #[serde(rename = "queue")]
    pub name: String,
    /// Messages that wait for a worker.
    pub waiting: u64,
    /// Messages that are lent to workers, to be run as soon as may be.
    pub held: u64,
    /// Tasks that run now, as the workers say, acknowledged or not.
    pub running: Option<u64>,
    /// Messages whose time is still to come, held back by the broker or by a worker.
    pub eta: u64,
    /// Those of `eta` that the broker itself holds back.
    #[serde(skip)]
    pub later: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that were dropped because there were too many, the oldest first.
    pub dead_dropped: u64,
    /// The age of the oldest waiting message, in seconds when serialised.
    #[serde(rename = "oldest_seconds", serialize_with = "wire::some_seconds")]
    pub oldest: Option<Duration>,
    /// True where `oldest` is the least that is known: the message was first seen so long ago.
    pub oldest_at_least: bool,
    /// Messages that came in, a second.
    pub in_per_second: Option<f64>,
    /// Messages that came to their end, a second.
    pub out_per_second: Option<f64>,
    /// Workers that serve it: those that answer, and where the broker counts them, all.
    pub workers: Option<u64>,
    /// Time over which traffic was measured, in seconds when serialised; zero: not at all.
    #[serde(rename = "window_seconds", serialize_with = "wire::seconds")]
    pub window: Duration,
    /// Name of whoever paused it for longshore's workers.
    pub paused_by: Option<String>,
    /// Moment at which it was paused.
    #[serde(serialize_with = "wire::some_moment")]
    pub paused_since: Option<SystemTime>,
    /// Moment since which nothing has happened in it, where the broker says so (RabbitMQ's
    /// management plugin).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "wire::some_moment")]
    pub idle_since: Option<SystemTime>,
}

impl QueueInfo {
    pub(crate) fn of(state: QueueState, flow: Flow, window: Duration) -> Self {
        Self {
            // What a worker holds until its time is not about to run.
            held: state.held.saturating_sub(state.held_for_later),
            eta: state.held_for_later + state.later,
            later: state.later,
            waiting: state.waiting,
            running: flow.running,
            dead: state.dead,
            dead_dropped: state.dead_dropped,
            oldest: state.oldest,
            oldest_at_least: state.oldest_at_least,
            idle_since: state.idle_since,
            in_per_second: flow.incoming,
            out_per_second: flow.outgoing,
            // Also those that do not answer.
            workers: flow.workers.max(state.consumers),
            window,
            paused_by: state.paused,
            paused_since: state.paused_since,
            name: state.name,
        }
    }
}

/// Looks how queues stand, in the order of their names. It takes about as long as the window.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn list(client: &Client, request: &QueuesRequest) -> Result<Vec<QueueInfo>, OpsError> {
    let names: Vec<Arc<str>> = request.names.iter().map(|name| Arc::from(name.as_str())).collect();
    let (states, flows) = measure(client, &names, request.window).await?;
    let of = |state: QueueState| {
        let flow = flows.of(&state.name);
        QueueInfo::of(state, flow, flows.window)
    };
    let mut queues: Vec<QueueInfo> = states.into_iter().map(of).collect();
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(queues)
}

/// Asks what is next in a queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeekRequest {
    /// The queue.
    pub queue: String,
    /// The most messages that are read (20).
    pub count: usize,
}

impl PeekRequest {
    /// Asks for the next messages of this queue.
    pub fn new(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), count: 20 }
    }

    /// Asks for at most so many.
    #[must_use]
    pub fn count(self, count: usize) -> Self {
        Self { count, ..self }
    }
}

/// Reads the messages that are next, without taking them.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn peek(client: &Client, request: &PeekRequest) -> Result<Vec<MessageBrief>, OpsError> {
    let next = client.connected().inspect()?.peek(&request.queue, request.count).await?;
    Ok(next.iter().map(|raw| MessageBrief::read(raw)).collect())
}

/// Something that is done to a queue: `{"pause": {"queue": "q", "by": "ops@here"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QueueAction {
    /// Let longshore's workers take nothing more from it.
    Pause {
        /// The queue.
        queue: String,
        /// Name of whoever pauses it, for those who find it paused.
        by: String,
    },
    /// Let them go on.
    Resume {
        /// The queue.
        queue: String,
    },
    /// Throw away what waits in it, what is held back until its time included.
    Purge {
        /// The queue.
        queue: String,
    },
    /// Move what waits in it to another one, in order.
    Move {
        /// Queue that they are moved from.
        from: String,
        /// Queue that they are moved to.
        to: String,
    },
}

/// Report of what was done to a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum QueueDone {
    /// Workers take nothing more from it; tasks that run go on.
    Paused {
        /// The queue.
        paused: String,
        /// Name of whoever paused it.
        by: String,
    },
    /// Workers take from it again.
    Resumed {
        /// The queue.
        resumed: String,
    },
    /// The messages that waited in it were thrown away.
    Purged {
        /// The queue.
        queue: String,
        /// Number of messages.
        purged: u64,
    },
    /// The messages that waited in it are in another queue.
    Moved {
        /// The queue that they were in.
        from: String,
        /// The queue that they are in.
        to: String,
        /// Number of messages.
        moved: u64,
    },
}

/// Does something to a queue. Messages that workers hold are left to them.
///
/// # Errors
/// [`OpsError::Invalid`]: a queue cannot be moved to itself; the broker cannot be reached, or
/// refuses. After a transient error it is unknown whether it was done, and doing it again does no
/// harm.
///
/// # Cancel safety
/// What is cancelled may have been done. No message is ever in neither queue.
pub async fn act(client: &Client, action: &QueueAction) -> Result<QueueDone, OpsError> {
    let connected = client.connected();
    match action.clone() {
        QueueAction::Pause { queue, by } => {
            connected.inspect()?.pause(&queue, Some(&by)).await?;
            Ok(QueueDone::Paused { paused: queue, by })
        }
        QueueAction::Resume { queue } => {
            connected.inspect()?.pause(&queue, None).await?;
            Ok(QueueDone::Resumed { resumed: queue })
        }
        QueueAction::Purge { queue } => {
            let purged = connected.broker.purge(&queue).await?;
            Ok(QueueDone::Purged { queue, purged })
        }
        QueueAction::Move { from, to } => {
            if from == to {
                return Err(OpsError::Invalid(format!("{from} and {to} are one queue")));
            }
            let moved = connected.inspect()?.transfer(&from, &to).await?;
            Ok(QueueDone::Moved { from, to, moved })
        }
    }
}

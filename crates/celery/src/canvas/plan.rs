//! What is to be sent, and in which order.

use std::time::SystemTime;

use crate::{
    message::Message,
    result::{GroupResult, ResultTree},
    trace::TraceContext,
    value::{Map, ValueError},
};

/// The sender.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Queue in which the sender takes answers: `reply_to` of whatever has none.
    pub oid: &'a str,
    /// The sender, for people (`gen<pid>@<host>`).
    pub origin: &'a str,
    /// The time now: what `countdown` and a relative `expires` count from.
    pub now: SystemTime,
    /// The task that sends, if one does.
    pub parent: Option<Parent<'a>>,
    /// The trace that messages belong to which name none; else it is that of the task that sends.
    pub trace: Option<&'a TraceContext>,
    /// The options that a task of this name has by itself, under those of its signatures (`queue`,
    /// `ignore_result`, …). `None` for tasks that the sender does not know.
    pub defaults: &'a dyn Fn(&str) -> Option<Map>,
}

/// The task that sends.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// Its id.
    pub id: &'a str,
    /// The id of the first task of its tree.
    pub root_id: &'a str,
    /// The priority that what it sends shall have too, if it shall.
    pub priority: Option<u8>,
    /// The headers of its message that are not Celery's own.
    pub headers: &'a Map,
}

impl<'a> Parent<'a> {
    /// The task of this message.
    pub fn of(message: &'a Message) -> Self {
        let root_id = message.root_id.as_deref().unwrap_or(&message.id);
        Self { id: &message.id, root_id, priority: None, headers: &message.headers }
    }
}

/// Messages to be sent, in this order, and the places where results will stand.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Plan {
    /// The messages.
    pub sends: Vec<PlannedSend>,
    /// Chords to be started although none of the messages belongs to them. Seldom.
    pub starts: Vec<ChordStart>,
    /// Place of the result of the whole: the last task of a chain, the body of a chord, a group.
    /// What went before stands in its `parent`, for the last hundred steps.
    pub result: Option<ResultTree>,
    /// Results that the sending task has set off, for the `children` of its own.
    pub children: Vec<ResultTree>,
    /// The chord that has now one more part (its group's id): to be told before anything is sent.
    pub grown: Option<String>,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedSend {
    /// The message. Its exchange and routing key stand as [`Routing`] says, empty where that says
    /// nothing.
    pub message: Message,
    /// The way there, as far as its signature says it.
    pub routing: Routing,
    /// Chords to be started before it is sent.
    pub before: Vec<ChordStart>,
}

/// The way of a message, as far as its signature says it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Routing {
    /// The queue.
    pub queue: Option<String>,
    /// The exchange.
    pub exchange: Option<String>,
    /// Its type (`direct`, `topic`, `fanout`, …).
    pub exchange_type: Option<String>,
    /// The routing key.
    pub routing_key: Option<String>,
    /// Format of the arguments (`json`, `msgpack`, …).
    pub serializer: Option<String>,
    /// Compression of the body (`gzip`, `zstd`, …).
    pub compression: Option<String>,
}

/// A chord that is about to begin: its size has to be stored before its last part can end.
#[derive(Clone, Debug, PartialEq)]
pub struct ChordStart {
    /// The id of its header.
    pub group: String,
    /// Number of its parts.
    pub size: u64,
    /// The document of its header, to be saved under the group's id, where results have to keep the
    /// nesting of the header.
    pub saved: Option<GroupResult>,
}

/// The reason why a signature cannot be sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CanvasError {
    /// A part of it is missing or of the wrong type.
    #[error("{0}")]
    Malformed(String),
    /// Signatures in signatures, deeper than is followed.
    #[error("signatures are nested deeper than {} levels", super::DEEPEST)]
    TooDeep,
    /// Bodies, errbacks and arguments would be copied onto so many tasks that it comes to more than
    /// is sent at once.
    #[error(
        "what it would send at once comes to about {} MiB, and {} MiB are sent at most; make its parts fewer or smaller",
        .bytes >> 20,
        super::MOST_COPIED >> 20
    )]
    TooLarge {
        /// About how many bytes that is.
        bytes: u64,
    },
    /// It makes no sense where it stands.
    #[error("{0}")]
    Refused(&'static str),
}

impl CanvasError {
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

impl From<ValueError> for CanvasError {
    fn from(error: ValueError) -> Self {
        Self::Malformed(format!("a signature: {error}"))
    }
}

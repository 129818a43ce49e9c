//! A task as it travels. `message/`: `decode.rs` reads the envelope, `body.rs` what is packed
//! inside it, `encode.rs` writes both, `parts.rs` turns the envelope into what AMQP
//! carries and back, `mark.rs` changes a message that is handed back without
//! reading more of it than it must, `stub.rs` stands for one that is too large.

mod body;
mod decode;
mod encode;
mod mark;
mod parts;
mod stub;
#[cfg(test)]
mod tests;
pub(crate) mod times;

pub(crate) use body::inflate_up_to;
pub use encode::sent_at;
pub(crate) use encode::{is_known as is_known_header, is_known_property};
pub use mark::{crashes_of, mark_crashed, mark_redelivered};
pub use parts::MessageParts;
pub use stub::Stub;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    signature::WireSignature,
    value::{Map, Value},
};

/// A task message: what its headers, its properties and its body say.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Message {
    /// The task's name.
    pub task: String,
    /// The task's id.
    pub id: String,
    /// The first task of the tree that this one belongs to.
    pub root_id: Option<String>,
    /// The task that sent this one.
    pub parent_id: Option<String>,
    /// The group that it is a member of.
    pub group: Option<String>,
    /// Its place in the group. May be absent in a group.
    pub group_index: Option<i64>,
    /// Number of its retries so far.
    pub retries: u32,
    /// Not to be started before.
    pub eta: Option<SystemTime>,
    /// Not to be started after.
    pub expires: Option<SystemTime>,
    /// The soft limit of one attempt.
    pub soft_time_limit: Option<Duration>,
    /// The hard limit of one attempt.
    pub time_limit: Option<Duration>,
    /// True where nobody wants the result; the task's own word where absent.
    pub ignore_result: Option<bool>,
    /// The name to show.
    pub shadow: Option<String>,
    /// Its arguments as Python shows them.
    pub argsrepr: Option<String>,
    /// Its keyword arguments as Python shows them.
    pub kwargsrepr: Option<String>,
    /// Name of the sender.
    pub origin: Option<String>,
    /// Depth of its replacement: how often it stands in for another task.
    pub replaced_task_nesting: i64,
    /// The names of its stamps.
    pub stamped_headers: Vec<String>,
    /// Its stamps.
    pub stamps: Map,
    /// All other headers: the user's own, `celery_beat_task`. Not `lang`, and not longshore's
    /// counts of crashes, which are about the message, not the task.
    pub headers: Map,
    /// All other properties of its envelope: `app_id`, `user_id`, `type`, whatever a sender puts
    /// there.
    pub properties: Map,
    /// Queue in which its result is awaited (of use to the rpc result backend).
    pub reply_to: Option<String>,
    /// `correlation_id`, where it is not the task's id.
    pub correlation_id: Option<String>,
    /// 0 to 9, on RabbitMQ to 255. On Redis 0 is served first. Absent is written as 0.
    pub priority: Option<u8>,
    /// Exchange to which it was sent; empty for the default one.
    pub exchange: String,
    /// Routing key with which it was sent: the queue's name where the exchange is empty.
    pub routing_key: String,
    /// True where it was taken and given back before.
    pub redelivered: bool,
    /// Number of workers' children that died while they ran it. Not written by `encode`:
    /// [`mark_crashed`] notes it.
    pub child_crashes: u32,
    /// The positional arguments.
    pub args: Vec<Value>,
    /// The keyword arguments.
    pub kwargs: Map,
    /// Sent with its result.
    pub callbacks: Vec<WireSignature>,
    /// Told of its failure.
    pub errbacks: Vec<WireSignature>,
    /// Tasks that come after it, **the last first**. `Some` of nothing stands at the end of a
    /// chain.
    pub chain: Option<Vec<WireSignature>>,
    /// The body of the chord that it is a part of. Shared: a chord has many parts, and its body may
    /// be large.
    pub chord: Option<Arc<WireSignature>>,
}

/// The header in which longshore counts the workers that died with a message.
pub const CRASHES: &str = "longshore-crashes";

/// The header in which longshore counts the children of workers that died while they ran a
/// message's task. Their workers live, and know of what.
pub const CHILD_CRASHES: &str = "longshore-child-crashes";

/// Format of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// MessagePack; JSON all the same for a body with what MessagePack has no form for (longer
    /// integers, lone surrogates).
    MsgPack,
}

/// Compression of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// zlib, which Celery has always read.
    Zlib,
    /// Zstandard; Python reads it where it has the module for it.
    Zstd,
}

/// Limits of what is accepted as a message.
///
/// Start from [`default`](Self::default) or [`unlimited`](Self::unlimited), and set what differs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The longest message, in bytes.
    pub message: usize,
    /// The longest body, unpacked.
    pub body: usize,
    /// The deepest nesting.
    pub depth: usize,
    /// The most arguments.
    pub args: usize,
    /// The most values in a message's headers, and in its body: each takes tens of bytes of memory,
    /// however short it is in the message.
    pub values: usize,
    /// True where MessagePack bodies are accepted.
    pub msgpack: bool,
}

impl Limits {
    /// The longest message, in bytes, where nothing else is said.
    pub const MESSAGE: usize = 16 << 20;

    /// No limits but a depth of nesting, for the stack's sake: to read again what has been read
    /// within limits.
    pub const fn unlimited(depth: usize) -> Self {
        Self { message: usize::MAX, body: usize::MAX, depth, args: usize::MAX, values: usize::MAX, msgpack: true }
    }

    /// Sets whether MessagePack bodies are accepted.
    #[must_use]
    pub const fn with_msgpack(mut self, accepted: bool) -> Self {
        self.msgpack = accepted;
        self
    }
}

impl Default for Limits {
    /// 16 MiB, unpacked 64 MiB, 128 levels, 10 000 arguments, a million values, JSON only.
    fn default() -> Self {
        Self { message: Self::MESSAGE, body: 64 << 20, depth: 128, args: 10_000, values: 1_000_000, msgpack: false }
    }
}

/// A message that cannot be run: why, and what could be read of it, so that whoever waits for it
/// can be told.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct BadMessage {
    /// The fault.
    pub wrong: MessageFault,
    /// The same for people: what, where, and what to do.
    pub reason: String,
    /// The task's name, where it could be read.
    pub task: Option<String>,
    /// The task's id, where it could be read.
    pub id: Option<String>,
}

/// A fault of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageFault {
    /// Not JSON, not base64, not what it says it is.
    Unreadable,
    /// Readable, but a part is missing or of the wrong type.
    Malformed,
    /// Its content type is refused (pickle, YAML, MessagePack where it is not accepted).
    ContentType,
    /// Its compression is refused.
    Compression,
    /// Larger or deeper than accepted.
    TooLarge,
}

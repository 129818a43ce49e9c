//! A task that is yet to be sent.

use crate::value::{Map, Value};

/// What a signature is, beside a plain task.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Subtask {
    /// A task.
    #[default]
    Task,
    /// `kwargs.tasks`, one after the other.
    Chain,
    /// `kwargs.tasks`, side by side.
    Group,
    /// `kwargs.header` side by side, then `kwargs.body`.
    Chord,
    /// Another word (`xmap`, `xstarmap`, `chunks`): sent as the task that it names.
    Other(String),
}

/// A task that is yet to be sent: what is embedded in messages, and what canvas is made of. Unknown members are kept.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Signature {
    /// The task's name.
    pub task: String,
    /// Its positional arguments.
    pub args: Vec<Value>,
    /// Its keyword arguments.
    pub kwargs: Map,
    /// `task_id`, `reply_to`, `group_id`, `chord`, `link`, `countdown`, `queue`, … and whatever else stands there.
    pub options: Map,
    /// What it is.
    pub subtask: Subtask,
    /// Whether it ignores the result of what went before it.
    pub immutable: bool,
}

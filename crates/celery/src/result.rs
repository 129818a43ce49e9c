//! What is stored of a task: its state, its result, what it sent. `result/`: exceptions as
//! documents, what errbacks are told, the tree of results.

mod document;
mod exception;
mod failed;
#[cfg(test)]
mod tests;
mod tree;

use std::time::SystemTime;

pub use exception::Exception;
pub use failed::FailedRequest;
pub use tree::{GroupResult, ResultTree};

use crate::value::{Map, Value};

/// The state of a task. Absent documents are [`Pending`](State::Pending).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// Nothing is known of it.
    #[default]
    Pending,
    /// A worker has it.
    Received,
    /// It runs.
    Started,
    /// It is done.
    Success,
    /// It failed.
    Failure,
    /// It failed, and will be tried again.
    Retry,
    /// It was called off, or its time had passed.
    Revoked,
    /// A worker refused it.
    Rejected,
    /// It wants no state.
    Ignored,
    /// A state of the user's own.
    Other(String),
}

impl State {
    /// Its word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            State::Pending => "PENDING",
            State::Received => "RECEIVED",
            State::Started => "STARTED",
            State::Success => "SUCCESS",
            State::Failure => "FAILURE",
            State::Retry => "RETRY",
            State::Revoked => "REVOKED",
            State::Rejected => "REJECTED",
            State::Ignored => "IGNORED",
            State::Other(word) => word,
        }
    }

    /// Returns whether it is final: whoever waits is told.
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Success | State::Failure | State::Revoked)
    }

    /// Returns whether its result is an exception.
    pub fn is_exception(&self) -> bool {
        matches!(self, State::Failure | State::Revoked | State::Retry)
    }
}

impl From<&str> for State {
    fn from(word: &str) -> Self {
        match word {
            "PENDING" => State::Pending,
            "RECEIVED" => State::Received,
            "STARTED" => State::Started,
            "SUCCESS" => State::Success,
            "FAILURE" => State::Failure,
            "RETRY" => State::Retry,
            "REVOKED" => State::Revoked,
            "REJECTED" => State::Rejected,
            "IGNORED" => State::Ignored,
            other => State::Other(other.to_owned()),
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stored result.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TaskResult {
    /// The task.
    pub task_id: String,
    /// Its state.
    pub state: State,
    /// Its result; for [exceptions](State::is_exception) an [`Exception`] as a value; while it
    /// runs, who runs it.
    pub result: Value,
    /// Traceback of its failure.
    pub traceback: Option<String>,
    /// Results of what it sent: a list of [`ResultTree`]s as values, or null where nothing is
    /// known.
    pub children: Value,
    /// Time of its end, if its state is final.
    pub date_done: Option<SystemTime>,
    /// The group that it is a member of.
    pub group_id: Option<String>,
    /// The task that sent it.
    pub parent_id: Option<String>,
    /// Further facts, where extended results are wanted.
    pub extended: Option<Extended>,
    /// Members that are not known here.
    pub rest: Map,
}

/// Facts that extended results tell of a task. Without arguments, retries and stamps it is brief:
/// the document then has its name, worker and queue only.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Extended {
    /// Its name.
    pub name: Option<String>,
    /// Its positional arguments.
    pub args: Value,
    /// Its keyword arguments.
    pub kwargs: Value,
    /// The node that ran it.
    pub worker: Option<String>,
    /// Number of its retries.
    pub retries: Option<i64>,
    /// Its queue.
    pub queue: Option<String>,
    /// Its stamps, which stand beside the other members of the document.
    pub stamps: Map,
}

impl TaskResult {
    /// The exception that it ended with.
    pub fn exception(&self) -> Option<Exception> {
        if self.state.is_exception() { Exception::from_value(&self.result) } else { None }
    }
}

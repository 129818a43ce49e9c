//! How a task ends without a result.

use std::time::Duration;

use longshore_celery::{Signature, Value};

/// How a task ends without a result. Any error converts with `?`: it becomes an [`Error`](Failure::Error) whose type is the error's own.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// It failed, with what Celery calls an exception.
    Error {
        /// The type's name; a Python client rebuilds the exception by it (`ValueError`).
        exc_type: String,
        /// The module of the type (`builtins` for Python's own).
        exc_module: String,
        /// The exception's arguments; the first is the message.
        args: Vec<Value>,
        /// Where it happened.
        traceback: Option<String>,
    },
    /// Another attempt is asked for ([`TaskContext::retry`](crate::TaskContext::retry)).
    Retry {
        /// Not before this time has passed; the task's `retry_delay` where absent.
        after: Option<Duration>,
        /// Why; it is what the task fails with when no attempt is left.
        why: Option<Box<Failure>>,
        /// Instead of the task's own `max_retries`.
        max_retries: Option<u32>,
    },
    /// No result is stored, nothing follows, the message is acknowledged.
    Ignore,
    /// The message is not acknowledged: it goes back to its queue, or to the dead letters.
    Reject {
        /// Why.
        reason: String,
        /// Back to the queue.
        requeue: bool,
    },
    /// Another signature takes over this task's id, its place in a chain, group or chord, and its callbacks.
    Replace(Box<Signature>),
}

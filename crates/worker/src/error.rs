//! Why a task could not be sent, or gave no result.

use std::fmt;

use longshore_brokers::BrokerError;
use longshore_celery::{Exception, State};

/// The reason why a task could not be sent, or the error that came back in place of a result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The broker or the result backend. Of a transient one it is unknown whether the task was
    /// sent.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The signature cannot be sent: an argument that cannot be written, a canvas that makes no
    /// sense. Nothing was sent.
    #[error("{0}")]
    Signature(String),
    /// The task failed, or was revoked.
    #[error("{0}")]
    Remote(Box<RemoteError>),
    /// There is no result yet. The task may run all the same.
    #[error("no result of task {id} after {waited:?}; it may still be waiting or running")]
    TimedOut {
        /// The task (or the group).
        id: String,
        /// Time that was waited.
        waited: std::time::Duration,
    },
    /// The stored document is no result, or not of the type that is wanted.
    #[error("the result of task {id} cannot be read: {reason}")]
    Unreadable {
        /// The task.
        id: String,
        /// Why.
        reason: String,
    },
}

/// End of a task that gave no result.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteError {
    /// The task.
    pub id: String,
    /// `FAILURE` or `REVOKED`.
    pub state: State,
    /// Its exception: type, module and arguments.
    pub exception: Exception,
    /// Traceback, as its worker tells it.
    pub traceback: Option<String>,
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.state == State::Revoked { "was revoked" } else { "failed" };
        write!(f, "task {} {how}: {}", self.id, self.exception)
    }
}

impl ClientError {
    /// The exception of a task that failed or was revoked.
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            Self::Remote(remote) => Some(&remote.exception),
            _ => None,
        }
    }
}

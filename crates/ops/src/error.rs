//! Reasons that a question has no answer, or that an action was not done.

use longshore_brokers::{BrokerError, Connected};
use longshore_worker::ClientError;

/// Reason that a question has no answer, or that an action was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpsError {
    /// Neither the broker nor the result backend nor a worker that answers knows this task.
    #[error("unknown id: not in results, queues, unacked or schedules")]
    UnknownTask {
        /// The id that was asked for.
        id: String,
    },
    /// No worker that answers knows this task, and where else it may be nobody can look.
    #[error("unknown id: {why}")]
    UnseenTask {
        /// The id that was asked for.
        id: String,
        /// Where it may be, and what would show it.
        why: String,
    },
    /// There is no dead letter of this task.
    #[error("no dead letter of task {id}")]
    NoDeadLetter {
        /// The id (or the letter's key) that was asked for.
        id: String,
    },
    /// There is no schedule of this name.
    #[error("there is no schedule {name}; longshore schedule lists those that there are")]
    NoSchedule {
        /// The name that was asked for.
        name: String,
    },
    /// No worker has replied in time.
    #[error("no nodes replied within time constraint: does a worker run on this broker?")]
    NoWorkers,
    /// The request makes no sense. Nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// The broker or the result backend cannot be reached, or refuses. Of a transient error it is
    /// unknown whether the last step was done; what was answered before it was.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A task could not be sent, or what is stored of one cannot be read.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl OpsError {
    /// Says that nobody who could be asked knows a task, and where it may be all the same.
    pub fn unknown(connected: &Connected, id: &str) -> Self {
        let (hidden, sent) = (connected.inspect.is_none(), connected.results.reply_queue().is_some());
        let why = match (hidden, sent) {
            (false, false) => return Self::UnknownTask { id: id.to_owned() },
            (true, false) => "no result, and no worker has it; it may wait in a queue: this broker lets nobody look into those",
            (false, true) => {
                "not in queues, and no worker has it; its result, if there is one, is in the queue of whoever sent it (rpc://)"
            }
            (true, true) => {
                "no worker has it; it may wait in a queue, into which this broker lets nobody look, or have ended: then its result is in the \
                 queue of whoever sent it (rpc://). A result backend that keeps results (SQLite, Redis) shows them to all"
            }
        };
        Self::UnseenTask { id: id.to_owned(), why: why.to_owned() }
    }
}

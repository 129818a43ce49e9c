//! Reasons that a question has no answer, or that an action was not done.

use longshore_brokers::BrokerError;
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
    /// There is no dead letter of this task.
    #[error("no dead letter of task {id}")]
    NoDeadLetter {
        /// The id (or the letter's key) that was asked for.
        id: String,
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

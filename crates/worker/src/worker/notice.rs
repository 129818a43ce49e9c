//! What happens to tasks, told to whoever listens: the log, Celery's events, metrics.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_celery::Message;
use longshore_core::{
    LaneKind, Phase,
    watch::{Connection, Detail, Tell},
};

use crate::beat::SchedulerEvent;

/// Something that happened to a task.
#[derive(Clone, Debug)]
pub struct TaskNotice {
    /// Time at which it happened.
    pub at: SystemTime,
    /// The task's message; its arguments are in `argsrepr` as the sender wrote them.
    pub message: Arc<Message>,
    /// Its queue.
    pub queue: Arc<str>,
    /// Lane and slot on which it runs or ran, once it has started.
    pub slot: Option<(LaneKind, u32)>,
    /// The change.
    pub what: TaskChange,
}

/// Change in a task's life.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskChange {
    /// It was claimed and will run; not before its ETA.
    Received,
    /// Its handler begins.
    Started,
    /// Its result is stored.
    Succeeded {
        /// Time for which it ran.
        runtime: Duration,
        /// The result as Python shows it.
        result: String,
    },
    /// It failed for good.
    Failed {
        /// Time for which it ran; `None` if it never did.
        runtime: Option<Duration>,
        /// The exception as Python shows it.
        exception: String,
        /// Traceback of its failure.
        traceback: Option<String>,
    },
    /// It is sent again.
    Retried {
        /// The reason, as Python shows it.
        exception: String,
        /// Not before this time has passed.
        after: Duration,
    },
    /// It was revoked or it expired.
    Revoked {
        /// It ran and was ended.
        terminated: bool,
        /// By this signal.
        signal: Option<u8>,
        /// It expired.
        expired: bool,
    },
    /// Its handler refused it.
    Rejected {
        /// It goes back to its queue.
        requeue: bool,
    },
    /// Its handler wants no result.
    Ignored,
    /// Something else took its place.
    Replaced,
    /// Its worker or child died, and it is tried again.
    Crashed {
        /// Way in which it died.
        reason: String,
        /// Number of such deaths so far.
        crashes: u32,
    },
    /// It is a dead letter.
    Dead {
        /// Why.
        reason: String,
    },
    /// It ended after it had been rescued from this worker: its result was refused.
    Late,
}

/// An event of a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// Something happened to a task.
    Task(TaskNotice),
    /// A connection is lost or refused, or back.
    Connection(Connection),
    /// A task holds a loop of the async lane, so that its neighbours cannot go on. Told once of
    /// each task.
    Stalled {
        /// The task's message.
        message: Arc<Message>,
        /// Its queue.
        queue: Arc<str>,
        /// For how long it has held the loop.
        held: Duration,
    },
    /// The worker begins this phase.
    Phase(Phase),
    /// Something happened to its [scheduler](crate::WorkerOptions::beat).
    Schedule(SchedulerEvent),
}

impl Tell for WorkerEvent {
    fn detail(&self) -> Detail {
        match self {
            WorkerEvent::Task(_) => Detail::Tasks,
            WorkerEvent::Schedule(event) if !event.is_notable() => Detail::Tasks,
            WorkerEvent::Connection(_) | WorkerEvent::Stalled { .. } | WorkerEvent::Phase(_) | WorkerEvent::Schedule(_) => Detail::Changes,
        }
    }
}

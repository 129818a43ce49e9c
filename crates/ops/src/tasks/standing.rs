//! Standing of a task, such as waiting, held or failed.

use longshore_celery::State;

/// Standing of a task, such as waiting, held or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TaskStanding {
    /// A worker has said that it runs (only tasks that track their start say so).
    Started,
    /// A worker has it: it runs, or waits there for a free slot or its time.
    Held,
    /// It waits in its queue.
    Waiting,
    /// It waits in its queue for another attempt.
    Retry,
    /// The broker holds it back until its time.
    Later,
    /// It is a dead letter.
    Dead,
    /// It has failed.
    Failure,
    /// It was called off, or its time had passed.
    Revoked,
    /// It is done.
    Success,
    /// Its result is in a state that Celery does not have.
    Other,
}

impl TaskStanding {
    /// All of them, in the order in which lists show them.
    pub const ALL: [Self; 10] = [
        Self::Started,
        Self::Held,
        Self::Waiting,
        Self::Retry,
        Self::Later,
        Self::Dead,
        Self::Failure,
        Self::Revoked,
        Self::Success,
        Self::Other,
    ];

    /// Returns its word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Held => "held",
            Self::Waiting => "waiting",
            Self::Retry => "retry",
            Self::Later => "later",
            Self::Dead => "dead",
            Self::Failure => "failure",
            Self::Revoked => "revoked",
            Self::Success => "success",
            Self::Other => "other",
        }
    }

    /// Returns a sentence on it, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Started => "A worker has said that it runs (only tasks that track their start say so)",
            Self::Held => "A worker has it: it runs, or waits there for a free slot or its time",
            Self::Waiting => "It waits in its queue",
            Self::Retry => "It waits in its queue for another attempt",
            Self::Later => "The broker holds it back until its time",
            Self::Dead => "It is a dead letter",
            Self::Failure => "It has failed",
            Self::Revoked => "It was called off, or its time had passed",
            Self::Success => "It is done",
            Self::Other => "A result in another state",
        }
    }

    /// Returns whether there is nothing more to come.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Failure | Self::Revoked | Self::Success)
    }

    pub(super) fn of(state: &State) -> Self {
        match state {
            State::Started => Self::Started,
            State::Retry => Self::Retry,
            State::Success => Self::Success,
            State::Failure => Self::Failure,
            State::Revoked => Self::Revoked,
            _ => Self::Other,
        }
    }
}

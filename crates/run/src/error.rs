//! Why a run cannot start.

use std::fmt;

/// A run that cannot start.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct RunError {
    /// The kind of mistake or trouble.
    pub kind: RunErrorKind,
    /// A sentence that says what went wrong, where, and what to do.
    pub message: String,
}

/// Kinds of reasons why a run cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunErrorKind {
    /// The spec is wrong.
    Usage,
    /// The input cannot be read.
    Input,
    /// A server cannot be reached, or refuses us.
    Unreachable,
    /// The job is not the one that it was.
    Refused,
    /// The system gives us no thread or no process.
    System,
    /// The journal or the output cannot be written.
    Unwritable,
    /// Another process runs the job.
    Busy,
}

impl fmt::Display for RunErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usage => "usage",
            Self::Input => "input",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::System => "system",
            Self::Unwritable => "unwritable",
            Self::Busy => "busy",
        })
    }
}

impl RunError {
    /// Makes an error of this kind.
    pub fn new(kind: RunErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

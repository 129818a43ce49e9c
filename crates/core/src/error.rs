//! The error of a task, and the errors of the engine's seams.

use std::{any::Any, borrow::Cow, fmt, sync::Arc, time::Duration};

/// Error of a task that failed: a kind to decide by, a message to read, and what helps to find the
/// cause.
///
/// The kind is a short lower-case word ("status", "exit", "connect", "invalid", …) that
/// [`RetryOn`](crate::RetryOn) matches; the code is the number that belongs to it (an HTTP status,
/// an exit code). One pointer wide, so that outcomes stay small.
/// ```
/// use longshore_core::{Again, TaskError};
///
/// let error = TaskError::new("status", "Service Unavailable").with_code(503).with_tail("try later");
/// assert_eq!((error.kind(), error.code(), error.to_string().as_str()), ("status", Some(503), "status 503: Service Unavailable"));
/// assert_eq!(TaskError::invalid("no price").again(), Again::Never);
/// assert_eq!(TaskError::from("whatever").kind(), "error");
/// ```
#[derive(Clone)]
pub struct TaskError(Box<Body>);

#[derive(Clone)]
struct Body {
    kind: Cow<'static, str>,
    message: String,
    code: Option<i64>,
    tail: Option<String>,
    again: Again,
    detail: Option<Arc<dyn Any + Send + Sync>>,
}

/// Word of a failure itself about another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Again {
    /// The policy decides.
    #[default]
    ByPolicy,
    /// Another attempt cannot help.
    Never,
    /// The other side asked to be tried again after this time at the earliest (`Retry-After`).
    After(Duration),
}

impl TaskError {
    /// An error of this kind with a message for people.
    pub fn new(kind: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self(Box::new(Body { kind: kind.into(), message: message.into(), code: None, tail: None, again: Again::ByPolicy, detail: None }))
    }

    /// The input itself is bad: kind `invalid`, never retried.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid", message).with_again(Again::Never)
    }

    /// Adds the number that belongs to the kind.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Adds the last lines of what the task said before it failed.
    #[must_use]
    pub fn with_tail(mut self, tail: impl Into<String>) -> Self {
        self.0.tail = Some(tail.into());
        self
    }

    /// Says whether another attempt may help.
    #[must_use]
    pub fn with_again(mut self, again: Again) -> Self {
        self.0.again = again;
        self
    }

    /// Attaches a value for the sink that knows its type (the output of a command that failed,
    /// say).
    #[must_use]
    pub fn with_detail(mut self, detail: Arc<dyn Any + Send + Sync>) -> Self {
        self.0.detail = Some(detail);
        self
    }

    /// The kind.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The number that belongs to the kind.
    pub fn code(&self) -> Option<i64> {
        self.0.code
    }

    /// The last lines of what the task said.
    pub fn tail(&self) -> Option<&str> {
        self.0.tail.as_deref()
    }

    /// Word of the failure about another attempt.
    pub fn again(&self) -> Again {
        self.0.again
    }

    /// The attached value, if it is of this type.
    pub fn detail<D: Any + Send + Sync>(&self) -> Option<&D> {
        self.0.detail.as_ref()?.downcast_ref()
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskError")
            .field("kind", &self.kind())
            .field("code", &self.code())
            .field("message", &self.message())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code() {
            Some(code) => write!(f, "{} {code}: {}", self.kind(), self.message()),
            None => write!(f, "{}: {}", self.kind(), self.message()),
        }
    }
}

impl std::error::Error for TaskError {}

impl From<String> for TaskError {
    fn from(message: String) -> Self {
        Self::new("error", message)
    }
}

impl From<&str> for TaskError {
    fn from(message: &str) -> Self {
        Self::new("error", message)
    }
}

impl From<std::io::Error> for TaskError {
    fn from(error: std::io::Error) -> Self {
        let mut this = Self::new("io", error.to_string());
        this.0.code = error.raw_os_error().map(i64::from);
        this
    }
}

/// Severity of an adapter's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Trying again may help.
    Transient,
    /// The other side understood and said no.
    Refused,
    /// A write that cannot be done now (the disk is full, or fails): nothing was done, and trying
    /// again helps when that is over.
    Unwritable,
    /// Nothing more can come of this handle.
    Fatal,
}

macro_rules! adapter_error {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, thiserror::Error)]
        #[error("{message}")]
        pub struct $name {
            /// Its severity.
            pub kind: ErrorKind,
            /// Message: what happened, where, and what to do.
            pub message: String,
        }

        impl $name {
            /// An error that ends this handle.
            pub fn fatal(message: impl Into<String>) -> Self {
                Self { kind: ErrorKind::Fatal, message: message.into() }
            }
        }
    };
}

adapter_error!(
    /// A source could not fetch or settle.
    SourceError
);
adapter_error!(
    /// A sink could not take responsibility for what it was given.
    SinkError
);

//! How an attempt ended, and the word that people see for it.

use std::{any::Any, fmt, panic::AssertUnwindSafe, time::Duration};

use crate::error::TaskError;

/// End of one attempt. Every started attempt ends in exactly one of these.
/// A handler may return one itself, for example to ask for another attempt:
///
/// ```
/// use std::time::Duration;
/// use longshore_core::{Context, Job, Outcome, RetryPolicy, TaskError};
///
/// let collected = Job::with_context(|context: Context, n: u32| async move {
///     match context.attempt {
///         1 => Outcome::Retry { after: Some(Duration::from_millis(1)), why: TaskError::new("status", "not yet").with_code(202) },
///         attempt => Outcome::Ok(n * attempt),
///     }
/// })
/// .params([21])
/// .retry(RetryPolicy::times(3))
/// .collect();
/// assert_eq!(collected.results().unwrap(), [42]);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome<R> {
    /// The handler returned a result.
    Ok(R),
    /// The handler asks for another attempt; when none is left this counts as `Failed`.
    Retry {
        /// Not before this time has passed; the policy's backoff when absent.
        after: Option<Duration>,
        /// Why.
        why: TaskError,
    },
    /// The handler returned an error.
    Failed(TaskError),
    /// The attempt did not end within its timeout.
    TimedOut {
        /// The limit that it passed.
        limit: Duration,
    },
    /// The handler panicked; the text of the panic.
    Panicked(String),
    /// The child process that ran the attempt was ended by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// The runner of the attempt vanished without an answer.
    Lost(String),
    /// The job was stopped, or the task revoked, while the attempt ran.
    Cancelled,
    /// The task was not run.
    Skipped(Skip),
}

/// Reason why a task was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Skip {
    /// It expired before it could start.
    Expired,
    /// It was revoked before it could start.
    Revoked,
    /// An equal task has finished already.
    Duplicate,
    /// It may be somebody else's by now: its source is asked again.
    Elsewhere,
}

/// The words of outcomes, as results and the command line show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Word {
    /// `ok`
    Ok,
    /// `failed`
    Failed,
    /// `timeout`
    Timeout,
    /// `panicked`
    Panicked,
    /// `killed`
    Killed,
    /// `lost`
    Lost,
    /// `cancelled`
    Cancelled,
    /// `skipped`
    Skipped,
}

impl Word {
    /// All words, in the order in which summaries list them; `word as usize` is its place.
    pub const ALL: [Word; 8] =
        [Word::Ok, Word::Failed, Word::Timeout, Word::Panicked, Word::Killed, Word::Lost, Word::Cancelled, Word::Skipped];

    /// The word itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Word::Ok => "ok",
            Word::Failed => "failed",
            Word::Timeout => "timeout",
            Word::Panicked => "panicked",
            Word::Killed => "killed",
            Word::Lost => "lost",
            Word::Cancelled => "cancelled",
            Word::Skipped => "skipped",
        }
    }

    /// Returns true for the end of a task that ran and did not end well: it failed, timed out,
    /// panicked, was killed or lost. What is cancelled or skipped has not failed.
    pub const fn is_failure(self) -> bool {
        matches!(self, Word::Failed | Word::Timeout | Word::Panicked | Word::Killed | Word::Lost)
    }

    /// Returns the word with this spelling.
    pub fn parse(text: &str) -> Option<Word> {
        Self::ALL.into_iter().find(|word| word.as_str() == text)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<R> Outcome<R> {
    /// The word for this outcome.
    pub fn word(&self) -> Word {
        match self {
            Outcome::Ok(_) => Word::Ok,
            Outcome::Retry { .. } | Outcome::Failed(_) => Word::Failed,
            Outcome::TimedOut { .. } => Word::Timeout,
            Outcome::Panicked(_) => Word::Panicked,
            Outcome::Killed { .. } => Word::Killed,
            Outcome::Lost(_) => Word::Lost,
            Outcome::Cancelled => Word::Cancelled,
            Outcome::Skipped(_) => Word::Skipped,
        }
    }

    /// Returns true if the handler returned a result.
    pub fn is_ok(&self) -> bool {
        matches!(self, Outcome::Ok(_))
    }

    /// The same outcome with another result.
    pub fn map<S>(self, map: impl FnOnce(R) -> S) -> Outcome<S> {
        match self {
            Outcome::Ok(result) => Outcome::Ok(map(result)),
            Outcome::Retry { after, why } => Outcome::Retry { after, why },
            Outcome::Failed(error) => Outcome::Failed(error),
            Outcome::TimedOut { limit } => Outcome::TimedOut { limit },
            Outcome::Panicked(text) => Outcome::Panicked(text),
            Outcome::Killed { signal } => Outcome::Killed { signal },
            Outcome::Lost(why) => Outcome::Lost(why),
            Outcome::Cancelled => Outcome::Cancelled,
            Outcome::Skipped(skip) => Outcome::Skipped(skip),
        }
    }

    /// The result, if there is one.
    pub fn ok(self) -> Option<R> {
        match self {
            Outcome::Ok(result) => Some(result),
            _ => None,
        }
    }

    /// The error class of this outcome, as `--retry-on` and "failed by error" name it: a kind and
    /// its number. `None` for `Ok`, `Cancelled` and `Skipped`.
    pub fn class(&self) -> Option<(&str, Option<i64>)> {
        match self {
            Outcome::Retry { why: error, .. } | Outcome::Failed(error) => Some((error.kind(), error.code())),
            Outcome::TimedOut { .. } => Some(("timeout", None)),
            Outcome::Panicked(_) => Some(("panicked", None)),
            Outcome::Killed { signal } => Some(("signal", Some(i64::from(*signal)))),
            Outcome::Lost(_) => Some(("lost", None)),
            Outcome::Ok(_) | Outcome::Cancelled | Outcome::Skipped(_) => None,
        }
    }

    /// The outcome as an error: `None` for `Ok`.
    pub fn error(&self) -> Option<TaskError> {
        Some(match self {
            Outcome::Ok(_) => return None,
            Outcome::Retry { why: error, .. } | Outcome::Failed(error) => error.clone(),
            Outcome::TimedOut { limit } => TaskError::new("timeout", format!("no end within {limit:?}")),
            Outcome::Panicked(text) => TaskError::new("panicked", text.clone()),
            Outcome::Killed { signal } => TaskError::new("signal", format!("ended by signal {signal}")).with_code(i64::from(*signal)),
            Outcome::Lost(why) => TaskError::new("lost", why.clone()),
            Outcome::Cancelled => TaskError::new("cancelled", "stopped before it ended"),
            Outcome::Skipped(skip) => TaskError::new("skipped", format!("{skip:?}").to_lowercase()),
        })
    }
}

/// Runs user code; a panic is an outcome.
#[inline]
pub(crate) fn caught<R>(work: impl FnOnce() -> Outcome<R>) -> Outcome<R> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Outcome::Panicked(panic_text(&*panic)))
}

/// Returns what a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic that is not text".to_owned())
}

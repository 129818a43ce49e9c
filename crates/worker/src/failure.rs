//! How a task ends without a result.

use std::{any::Any, error::Error, fmt, io, time::Duration};

use longshore_celery::{Exception, Value, WireSignature};
use longshore_core::{Again, TaskError};

use crate::error::ClientError;

/// End of a task without a result.
///
/// Any [`std::error::Error`] converts with `?`: it becomes an [`Error`](Failure::Error) whose type
/// is the error's own, or Python's where Python has one (an [`io::Error`] is an `OSError` or what
/// Python makes of it, a number that does not parse a `ValueError`). Text is no error in Rust's
/// sense: [`Failure::text`] makes a `RuntimeError` of it, and a task may return
/// `Result<T, String>`, which does the same.
/// ```
/// use longshore_worker::Failure;
///
/// fn parse(price: &str) -> Result<u32, Failure> {
///     let price: u32 = price.parse()?;
///     if price == 0 {
///         return Err(Failure::error("PriceError", "nothing is free"));
///     }
///     Ok(price)
/// }
/// assert_eq!(parse("x").unwrap_err().to_string(), "ValueError: invalid digit found in string");
/// assert_eq!(parse("0").unwrap_err().to_string(), "PriceError: nothing is free");
/// ```
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
        /// Place where it happened.
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
        /// The call that the next attempt makes of the task, with its arguments and options, in
        /// place of this one ([`with_call`](Failure::with_call)).
        call: Option<Box<WireSignature>>,
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
    /// Another signature takes over this task's id, its place in a chain, group or chord, and its
    /// callbacks.
    Replace(Box<WireSignature>),
    /// The process that ran it died, and may die of it again (a child process that was killed or
    /// lost): it goes back to its queue with its crash count raised, and the third time to the dead
    /// letters, with a `WorkerLostError` as its result.
    Crashed {
        /// The way it died.
        reason: String,
    },
}

impl Failure {
    /// Makes an exception of this type with a message. Python's own types (`ValueError`) are
    /// rebuilt as such by Python clients; for any other name they make up a type of that name.
    /// [`in_module`](Self::in_module) says where it is defined, so that they find the real one.
    pub fn error(exc_type: impl Into<String>, message: impl Into<Value>) -> Self {
        Self::with_args(exc_type, vec![message.into()])
    }

    /// Makes an exception of this type with these arguments.
    pub fn with_args(exc_type: impl Into<String>, args: Vec<Value>) -> Self {
        let exc_type = exc_type.into();
        let exc_module = if BUILTINS.contains(&exc_type.as_str()) { "builtins" } else { "longshore" }.to_owned();
        Self::Error { exc_type, exc_module, args, traceback: None }
    }

    /// Makes a `RuntimeError` with this message.
    pub fn text(message: impl Into<String>) -> Self {
        Self::error("RuntimeError", message.into())
    }

    /// Asks for another attempt, after the task's `retry_delay`. The same as
    /// [`TaskContext::retry`](crate::TaskContext::retry).
    pub const fn retry() -> Self {
        Self::Retry { after: None, why: None, max_retries: None, call: None }
    }

    /// Asks for another attempt, not before this time has passed.
    pub const fn retry_in(after: Duration) -> Self {
        Self::Retry { after: Some(after), why: None, max_retries: None, call: None }
    }

    /// Refuses the message: it goes to the dead letters, and whoever waits is told this reason.
    /// ```
    /// use longshore_worker::Failure;
    ///
    /// assert_eq!(Failure::reject("no such customer").to_string(), "rejected: no such customer");
    /// assert_eq!(Failure::requeue("not here").to_string(), "rejected, back to its queue: not here");
    /// ```
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into(), requeue: false }
    }

    /// Gives the message back to its queue, behind the others: this worker cannot run it.
    pub fn requeue(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into(), requeue: true }
    }

    /// Sets an exception's module, so that Python clients find its type (`shop.errors`). Changes
    /// nothing but an exception.
    #[must_use]
    pub fn in_module(mut self, module: impl Into<String>) -> Self {
        if let Self::Error { exc_module, .. } = &mut self {
            *exc_module = module.into();
        }
        self
    }

    /// Sets an exception's traceback, which clients can read. Changes nothing but an exception.
    #[must_use]
    pub fn with_traceback(mut self, text: impl Into<String>) -> Self {
        if let Self::Error { traceback, .. } = &mut self {
            *traceback = Some(text.into());
        }
        self
    }

    /// Sets the reason why another attempt is asked for; the task fails with it when none is left.
    /// Changes nothing but a retry.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Failure>) -> Self {
        if let Self::Retry { why, .. } = &mut self {
            *why = Some(Box::new(cause.into()));
        }
        self
    }

    /// Sets how many retries there may be, instead of the task's own number. Changes nothing but a
    /// retry.
    #[must_use]
    pub const fn at_most(mut self, retries: u32) -> Self {
        if let Self::Retry { max_retries, .. } = &mut self {
            *max_retries = Some(retries);
        }
        self
    }

    /// Makes a failure of an exception as it is stored.
    pub fn from_exception(exception: Exception, traceback: Option<String>) -> Self {
        let Exception { exc_type, exc_message, exc_module } = exception;
        Self::Error { exc_type, exc_module, args: exc_message, traceback }
    }

    /// Returns the exception, as it is stored; none for whatever else ends a task.
    pub fn exception(&self) -> Option<Exception> {
        match self {
            Self::Error { exc_type, exc_module, args, .. } => Some(Exception::new(exc_module, exc_type, args.clone())),
            _ => None,
        }
    }

    /// Returns the type of the exception, without its module.
    pub fn exc_type(&self) -> Option<&str> {
        match self {
            Self::Error { exc_type, .. } => Some(exc_type),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error { exc_type, args, .. } => {
                f.write_str(exc_type)?;
                match args.iter().find_map(|arg| if let Value::Text(text) = arg { Some(text) } else { None }) {
                    Some(text) => write!(f, ": {text}"),
                    None => Ok(()),
                }
            }
            Self::Retry { after, why, .. } => {
                f.write_str("another attempt is asked for")?;
                if let Some(after) = after {
                    write!(f, ", in {after:?}")?;
                }
                why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            Self::Ignore => f.write_str("its result is ignored"),
            Self::Reject { reason, requeue } => write!(f, "rejected{}: {reason}", if *requeue { ", back to its queue" } else { "" }),
            Self::Replace(signature) => write!(f, "replaced by {}", signature.task),
            Self::Crashed { reason } => write!(f, "what ran it died: {reason}"),
        }
    }
}

/// Converts every error but `Failure` itself, which for that very reason implements no `Error`.
impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let any: &dyn Any = &error;
        if let Some(error) = any.downcast_ref::<TaskError>() {
            return of_task_error(error);
        }
        // What another task failed with passes through as it was.
        if let Some(ClientError::Remote(remote)) = any.downcast_ref::<ClientError>() {
            return Self::from_exception(remote.exception.clone(), remote.traceback.clone());
        }
        let failure = match any.downcast_ref::<io::Error>() {
            Some(error) => of_io(error),
            None => {
                let (exc_module, exc_type) = python_type::<E>(any);
                Self::Error { exc_type, exc_module, args: vec![error.to_string().into()], traceback: None }
            }
        };
        match causes(&error) {
            Some(causes) => failure.with_traceback(causes),
            None => failure,
        }
    }
}

/// Returns Python's name of a type of Rust: module and name.
fn python_type<E: 'static>(error: &dyn Any) -> (String, String) {
    let is_value = error.is::<std::num::ParseIntError>()
        || error.is::<std::num::ParseFloatError>()
        || error.is::<std::str::ParseBoolError>()
        || error.is::<std::char::ParseCharError>()
        || error.is::<std::str::Utf8Error>()
        || error.is::<std::string::FromUtf8Error>();
    let builtin = if is_value {
        "ValueError"
    } else if error.is::<std::num::TryFromIntError>() {
        "OverflowError"
    } else if error.is::<tokio::time::error::Elapsed>() {
        "TimeoutError"
    } else {
        // `shop::errors::Missing<alloc::string::String>` is `Missing` of `shop.errors`.
        let path = std::any::type_name::<E>();
        let path = path.split('<').next().unwrap_or(path).trim_start_matches('&');
        let (module, name) = path.rsplit_once("::").unwrap_or(("longshore", path));
        return (module.replace("::", "."), name.to_owned());
    };
    ("builtins".to_owned(), builtin.to_owned())
}

/// Turns an error of the system into what Python makes of it: `OSError(errno, text)`, or the type
/// that Python gives that number.
fn of_io(error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    let exc_type = match error.kind() {
        Kind::NotFound => "FileNotFoundError",
        Kind::PermissionDenied => "PermissionError",
        Kind::AlreadyExists => "FileExistsError",
        Kind::IsADirectory => "IsADirectoryError",
        Kind::NotADirectory => "NotADirectoryError",
        Kind::ConnectionRefused => "ConnectionRefusedError",
        Kind::ConnectionReset => "ConnectionResetError",
        Kind::ConnectionAborted => "ConnectionAbortedError",
        Kind::BrokenPipe => "BrokenPipeError",
        Kind::TimedOut => "TimeoutError",
        Kind::Interrupted => "InterruptedError",
        Kind::WouldBlock => "BlockingIOError",
        Kind::UnexpectedEof => "EOFError",
        Kind::OutOfMemory => "MemoryError",
        _ => "OSError",
    };
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => {
            let text = text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text);
            Failure::with_args(exc_type, vec![Value::Int(number.into()), text.into()])
        }
        None => Failure::error(exc_type, text),
    }
}

/// Turns the engine's own error of a task into an exception, by its kind.
fn of_task_error(error: &TaskError) -> Failure {
    let exc_type = match error.kind() {
        "invalid" => "ValueError",
        "timeout" => "TimeoutError",
        "connect" => "ConnectionError",
        "memory" => "MemoryError",
        _ => "RuntimeError",
    };
    // The plain `error` that text becomes says no more than its message.
    let message = if error.kind() == "error" && error.code().is_none() { error.message().to_owned() } else { error.to_string() };
    let failure = Failure::error(exc_type, message);
    let failure = match error.tail() {
        Some(tail) => failure.with_traceback(tail),
        None => failure,
    };
    match error.again() {
        Again::After(wait) => Failure::retry_in(wait).because_failure(failure),
        Again::ByPolicy | Again::Never => failure,
    }
}

impl Failure {
    fn because_failure(self, cause: Failure) -> Self {
        match self {
            Self::Retry { after, max_retries, call, .. } => Self::Retry { after, why: Some(Box::new(cause)), max_retries, call },
            other => other,
        }
    }
}

/// Returns what stands behind an error, a line for each.
fn causes(error: &dyn Error) -> Option<String> {
    let mut text = String::new();
    let mut next = error.source();
    // An error that is its own source, by mistake or malice, ends somewhere too.
    for _ in 0..32 {
        let Some(cause) = next else { break };
        text.push_str("caused by: ");
        text.push_str(&cause.to_string());
        text.push('\n');
        next = cause.source();
    }
    (!text.is_empty()).then(|| format!("{error}\n{text}"))
}

/// Conversions of what tasks return on failure beside [`Failure`]: errors and whatever prints.
/// Generated code asks the three traits in this order (by the number of references), because the
/// errors of a task are of one concrete type there.
pub mod convert {
    use super::Failure;

    /// Holds what a task returned as its error.
    pub struct Wrong<E>(pub Option<E>);

    /// [`Failure`] itself.
    pub trait OfFailure {
        /// As it is.
        fn failure(&mut self) -> Failure;
    }
    impl OfFailure for &mut &mut Wrong<Failure> {
        fn failure(&mut self) -> Failure {
            self.0.take().unwrap_or(Failure::Ignore)
        }
    }

    /// Errors.
    pub trait OfError {
        /// Its type and message.
        fn failure(&mut self) -> Failure;
    }
    impl<E: std::error::Error + Send + Sync + 'static> OfError for &mut Wrong<E> {
        fn failure(&mut self) -> Failure {
            self.0.take().map_or(Failure::Ignore, Failure::from)
        }
    }

    /// Whatever prints.
    pub trait OfText {
        /// A `RuntimeError`.
        fn failure(&mut self) -> Failure;
    }
    impl<E: std::fmt::Display> OfText for Wrong<E> {
        fn failure(&mut self) -> Failure {
            self.0.take().map_or(Failure::Ignore, |error| Failure::text(error.to_string()))
        }
    }
}

/// Python's own exceptions.
const BUILTINS: &[&str] = &[
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BaseException",
    "BlockingIOError",
    "BrokenPipeError",
    "BufferError",
    "ChildProcessError",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "EOFError",
    "Exception",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
    "ImportError",
    "IndexError",
    "InterruptedError",
    "IsADirectoryError",
    "KeyError",
    "LookupError",
    "MemoryError",
    "ModuleNotFoundError",
    "NameError",
    "NotADirectoryError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PermissionError",
    "ProcessLookupError",
    "RecursionError",
    "ReferenceError",
    "RuntimeError",
    "StopAsyncIteration",
    "StopIteration",
    "SyntaxError",
    "SystemError",
    "TimeoutError",
    "TypeError",
    "UnicodeError",
    "ValueError",
    "ZeroDivisionError",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fails<E: Into<Failure>>(error: E) -> (String, String, Vec<Value>) {
        match error.into() {
            Failure::Error { exc_type, exc_module, args, .. } => (exc_module, exc_type, args),
            other => panic!("{other:?}"),
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no price for {0}")]
    struct Missing(&'static str);

    #[derive(Debug, thiserror::Error)]
    #[error("the page is bad")]
    struct Bad<T: fmt::Debug>(#[source] Missing, T);

    #[test]
    fn errors_become_what_python_knows_or_their_own_type() {
        let here = module_path!().replace("::", ".");
        let text = |text: &str| vec![Value::from(text)];
        for (got, module, name, args) in [
            (fails("x".parse::<i32>().unwrap_err()), "builtins", "ValueError", text("invalid digit found in string")),
            (fails(u8::try_from(300).unwrap_err()), "builtins", "OverflowError", text("out of range integral type conversion attempted")),
            (
                fails(io::Error::from_raw_os_error(2)),
                "builtins",
                "FileNotFoundError",
                vec![Value::Int(2), "No such file or directory".into()],
            ),
            (fails(io::Error::other("odd")), "builtins", "OSError", text("odd")),
            (fails(TaskError::invalid("no price")), "builtins", "ValueError", text("invalid: no price")),
            (fails(TaskError::from("plain")), "builtins", "RuntimeError", text("plain")),
            (fails(Missing("a")), &here, "Missing", text("no price for a")),
            (fails(Bad(Missing("a"), 1_u8)), &here, "Bad", text("the page is bad")),
            (fails(Failure::error("KeyError", "k")), "builtins", "KeyError", text("k")),
            (fails(Failure::error("PriceError", "k")), "longshore", "PriceError", text("k")),
            (fails(Failure::error("PriceError", "k").in_module("shop.errors")), "shop.errors", "PriceError", text("k")),
        ] {
            assert_eq!(got, (module.to_owned(), name.to_owned(), args));
        }
    }

    #[test]
    fn what_stands_behind_an_error_is_in_its_traceback() {
        let Failure::Error { traceback, .. } = Failure::from(Bad(Missing("a"), "b")) else { panic!() };
        assert_eq!(traceback.unwrap(), "the page is bad\ncaused by: no price for a\n");
    }

    #[test]
    fn an_error_that_asks_for_a_pause_is_a_retry_after_it() {
        let error = TaskError::new("status", "busy").with_code(503).with_again(Again::After(Duration::from_secs(7)));
        assert_eq!(
            Failure::from(error),
            Failure::Retry {
                after: Some(Duration::from_secs(7)),
                why: Some(Box::new(Failure::text("status 503: busy"))),
                max_retries: None,
                call: None,
            }
        );
    }

    #[test]
    fn a_task_may_return_a_failure_an_error_or_text() {
        use convert::{OfError, OfFailure, OfText, Wrong};
        // As generated code asks.
        macro_rules! of {
            ($error:expr) => {
                (&mut &mut &mut Wrong(Some($error))).failure()
            };
        }
        assert_eq!(of!(Failure::Ignore), Failure::Ignore);
        assert_eq!(of!("x".parse::<i32>().unwrap_err()).exc_type(), Some("ValueError"));
        assert_eq!(of!(String::from("no")), Failure::text("no"));
    }
}

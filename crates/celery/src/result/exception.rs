//! An exception as it is stored: data, which clients make an exception of again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    repr,
    value::{Map, Value, ValueError},
};

/// An exception: what clients in Python raise as `<exc_module>.<exc_type>(*exc_message)`. Its text
/// is Python's `repr` of it. Tasks take it as an argument, too.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Exception {
    /// The name of its class.
    pub exc_type: String,
    /// Its arguments.
    pub exc_message: Vec<Value>,
    /// Module of its class. Clients look only into modules that they have imported, and invent a
    /// class of that name otherwise.
    pub exc_module: String,
}

const CELERY: &str = "celery.exceptions";
const BILLIARD: &str = "billiard.exceptions";

impl Exception {
    /// An exception of this module and class.
    pub fn new(module: impl Into<String>, class: impl Into<String>, message: Vec<Value>) -> Self {
        Self { exc_type: class.into(), exc_message: message, exc_module: module.into() }
    }

    /// One of Python's own (`ValueError`, `RuntimeError`, `TimeoutError`), with one text.
    pub fn builtin(class: &str, message: impl Into<Value>) -> Self {
        Self::new("builtins", class, vec![message.into()])
    }

    /// No task of this name is known here.
    pub fn not_registered(task: &str) -> Self {
        Self::new(CELERY, "NotRegistered", vec![task.into()])
    }

    /// The hard time limit, in seconds.
    pub fn time_limit_exceeded(seconds: f64) -> Self {
        // Whole seconds are integers, as they are when a task declares them.
        #[expect(clippy::cast_possible_truncation, reason = "a float without a fraction in this range is an integer")]
        let seconds = if seconds.fract() == 0.0 && seconds.abs() < 1e15 { Value::Int(seconds as i64) } else { Value::Float(seconds) };
        Self::new(BILLIARD, "TimeLimitExceeded", vec![seconds])
    }

    /// The soft time limit.
    pub fn soft_time_limit_exceeded() -> Self {
        Self::new(BILLIARD, "SoftTimeLimitExceeded", Vec::new())
    }

    /// The worker process died: `Worker exited prematurely: signal 9 (SIGKILL) Job: 156.`
    pub fn worker_lost(message: &str) -> Self {
        Self::new(BILLIARD, "WorkerLostError", vec![message.into()])
    }

    /// It was called off: `revoked`, `expired` or `terminated`.
    pub fn revoked(why: &str) -> Self {
        Self::new(CELERY, "TaskRevokedError", vec![why.into()])
    }

    /// A part of its chord failed.
    pub fn chord(part: &str, exception: &Exception) -> Self {
        Self::new(CELERY, "ChordError", vec![format!("Dependency {part} raised {exception}").into()])
    }

    /// It was retried as often as it may be.
    pub fn max_retries_exceeded(message: &str) -> Self {
        Self::new(CELERY, "MaxRetriesExceededError", vec![message.into()])
    }

    /// It refused itself.
    pub fn reject(reason: impl Into<Value>, requeue: bool) -> Self {
        Self::new(CELERY, "Reject", vec![reason.into(), requeue.into()])
    }

    /// Reads a stored one. `None` if it is nothing like it.
    pub fn from_value(value: &Value) -> Option<Self> {
        let map = value.as_map()?;
        let exc_message = match map.get("exc_message") {
            Some(Value::List(list)) => list.clone(),
            None | Some(Value::Null) => Vec::new(),
            Some(one) => vec![one.clone()],
        };
        let exc_module = map.get("exc_module").and_then(Value::as_str).unwrap_or_default();
        Some(Self { exc_type: map.get("exc_type")?.as_str()?.to_owned(), exc_message, exc_module: exc_module.to_owned() })
    }

    /// As it is stored.
    pub fn to_value(&self) -> Value {
        Value::Map(Map::from_iter([
            ("exc_type", Value::from(self.exc_type.as_str())),
            ("exc_message", Value::List(self.exc_message.clone())),
            ("exc_module", self.exc_module.as_str().into()),
        ]))
    }
}

impl From<Exception> for Value {
    fn from(exception: Exception) -> Self {
        exception.to_value()
    }
}

impl TryFrom<Value> for Exception {
    type Error = ValueError;

    fn try_from(value: Value) -> Result<Self, ValueError> {
        Self::from_value(&value).ok_or_else(|| ValueError::expected("an exception (an object with an `exc_type`)", &value))
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let celery = self.exc_module == CELERY;
        match (self.exc_type.as_str(), self.exc_message.as_slice()) {
            ("NotRegistered", [task]) if celery => {
                write!(f, "Task of kind {} never registered, please make sure it's imported.", repr::repr(task))
            }
            ("Reject", [reason, requeue]) if celery => write!(f, "reject requeue={}: {}", repr::repr(requeue), repr::str(reason)),
            // The last part of a qualified name, as Python's repr has it.
            (class, arguments) => {
                f.write_str(class.rsplit('.').next().unwrap_or(class))?;
                f.write_str("(")?;
                for (index, argument) in arguments.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { ", " } else { "" }, repr::repr(argument))?;
                }
                f.write_str(")")
            }
        }
    }
}

impl std::error::Error for Exception {}

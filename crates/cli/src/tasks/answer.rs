//! End of a program in the worker's words: a result, a retry, an exception, a crash.

use std::time::Duration;

use longshore_celery::Value;
use longshore_core::{Again, Outcome, RetryPolicy, TaskError, decide::Verdict, decide::decide};
use longshore_worker::Failure;

/// The deepest nesting of a result.
const DEPTH: usize = 128;

/// The module in which Celery's own limits and losses are defined.
const BILLIARD: &str = "billiard.exceptions";

/// The exit code with which a program asks to be tried again (EX_TEMPFAIL).
pub(super) const TRY_AGAIN: i32 = 75;

/// Rules by which a task's failures are tried again.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) retry: RetryPolicy,
}

/// Reads what a program wrote as its result: a JSON value; else text, without its last newline;
/// nothing at all is null.
pub(super) fn value(written: &[u8]) -> Value {
    if written.is_empty() {
        return Value::Null;
    }
    Value::parse(written, DEPTH).unwrap_or_else(|_| {
        let text = written.strip_suffix(b"\n").unwrap_or(written);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Value::Text(String::from_utf8_lossy(text).into_owned())
    })
}

impl Told {
    /// Returns what an attempt comes to. `attempt` counts from 1.
    pub(super) fn result(&self, outcome: Outcome<Value>, attempt: u32) -> Result<Value, Failure> {
        match outcome {
            Outcome::Ok(value) => Ok(value),
            // What could not be started because everything stops is handed back.
            Outcome::Failed(error) if error.kind() == "cancelled" => Err(stopped()),
            other => Err(self.failure(&other.map(drop), attempt)),
        }
    }

    /// Returns what an attempt that did not end well comes to. `attempt` counts from 1.
    fn failure(&self, outcome: &Outcome<()>, attempt: u32) -> Failure {
        let failure = match outcome {
            Outcome::Ok(()) => return Failure::Ignore,
            Outcome::Cancelled => return stopped(),
            Outcome::Killed { signal } => {
                return Failure::Crashed { reason: longshore_core::lane::child::Exit::Signal(*signal).to_string() };
            }
            Outcome::Lost(why) => return Failure::Crashed { reason: why.clone() },
            Outcome::TimedOut { limit } => return time_limit(*limit),
            Outcome::Failed(error) => exception(error),
            Outcome::Retry { why, .. } => exception(why),
            other => other.error().map_or_else(|| Failure::text("it ended in an unknown way"), |error| exception(&error)),
        };
        // What asks for another attempt by itself is granted one as often as what is retried
        // anyway.
        let asked = matches!(outcome, Outcome::Retry { .. });
        let mut policy = self.retry.clone();
        if asked && policy.retries == 0 {
            policy.retries = 3;
        }
        match decide(outcome, &policy, attempt, Duration::ZERO, fastrand::f64()) {
            Verdict::Requeue { after } => Failure::retry_in(after).because(failure).at_most(policy.retries),
            Verdict::Ack | Verdict::Reject => failure,
        }
    }
}

/// A program's error as an exception: its last words in the message, all that is known of them in
/// the traceback.
fn exception(error: &TaskError) -> Failure {
    let exc_type = match error.kind() {
        "invalid" => "ValueError",
        "timeout" => "TimeoutError",
        "connect" => "ConnectionError",
        "forbidden" => "PermissionError",
        _ => "RuntimeError",
    };
    let last = error.tail().and_then(|tail| tail.trim_end().lines().next_back()).filter(|_| error.kind() == "exit");
    let message = match last {
        Some(last) => format!("{}: {last}", error.message()),
        None => error.message().to_owned(),
    };
    let failure = Failure::error(exc_type, message);
    match error.tail() {
        Some(tail) => failure.with_traceback(tail),
        None => failure,
    }
}

/// The worker does not want it any more: whoever stops takes it back, and what was revoked runs
/// nowhere.
pub(super) fn stopped() -> Failure {
    Failure::Reject { reason: "its worker has stopped it".to_owned(), requeue: true }
}

/// Returns the failure that a Celery worker reports for a task beyond its time limit.
pub(super) fn time_limit(limit: Duration) -> Failure {
    Failure::with_args("TimeLimitExceeded", vec![Value::Float(limit.as_secs_f64())]).in_module(BILLIARD)
}

/// Returns the failure that a Celery worker reports for a task beyond its soft time limit.
pub(super) fn soft_time_limit() -> Failure {
    Failure::with_args("SoftTimeLimitExceeded", Vec::new()).in_module(BILLIARD)
}

/// An answer of more than what is kept is no answer.
pub(super) fn too_long(limit: usize) -> TaskError {
    let limit = crate::units::show_size(limit as u64);
    TaskError::new("answer", format!("the result is longer than {limit}; `max_output` allows more")).with_again(Again::Never)
}

//! From how an attempt ended to what becomes of its task: a pure function, tested as a table.

use std::time::Duration;

use longshore_celery::{Value, WireSignature};
use longshore_core::{Backoff, Outcome, Skip};

use super::{conclude, work::AttemptResult};
use crate::{failure::Failure, task::TaskPolicy};

/// Decision about a task whose attempt has ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It has a result.
    Success(Value),
    /// It has failed for good.
    Failure(Failure),
    /// It has failed, and its message goes to the dead letters, for its task wants only successes
    /// acknowledged.
    FailureKept(Failure),
    /// It is sent again.
    Retry {
        /// Not before this time has passed.
        after: Duration,
        /// Why.
        why: Failure,
        /// With the arguments and options of this call, in place of its own.
        call: Option<Box<WireSignature>>,
    },
    /// It was revoked: `revoked`, `expired`, `terminated`.
    Revoked(&'static str),
    /// No result, no follow-up.
    Ignore,
    /// Back to its queue.
    Requeue,
    /// Back to the front of its queue, unrun, if it is still ours.
    HandBack,
    /// To the dead letters, and its result says why.
    Reject(String),
    /// Something else takes its place.
    Replace(WireSignature),
    /// The process that ran it died.
    Crashed(String),
}

/// Decides. `retries` were made before this attempt; `draw` is the jitter, in `[0, 1)`.
pub(crate) fn verdict(outcome: Outcome<AttemptResult>, policy: &TaskPolicy, retries: u32, draw: f64) -> Verdict {
    // An error is retried where the policy says so of its type, while retries are left.
    let failed = |failure: Failure| {
        let again = match (&policy.autoretry, &failure) {
            (Some(backoff), Failure::Error { exc_type, .. })
                if policy.autoretry_for.is_empty() || policy.autoretry_for.iter().any(|name| name == exc_type) =>
            {
                Some(backoff)
            }
            _ => None,
        };
        match again {
            Some(backoff) if policy.max_retries.is_none_or(|most| retries < most) => {
                Verdict::Retry { after: autoretry_after(backoff, retries, draw), why: failure, call: None }
            }
            _ if policy.acks_on_failure => Verdict::Failure(failure),
            _ => Verdict::FailureKept(failure),
        }
    };
    match outcome {
        // The handler came to an end: its own words count.
        Outcome::Ok(Ok(value)) => Verdict::Success(value),
        Outcome::Ok(Err(failure)) => match *failure {
            Failure::Retry { after, why, max_retries, call } => {
                let most = max_retries.or(policy.max_retries);
                if most.is_none_or(|most| retries < most) {
                    let why = why.map_or_else(|| Failure::text("another attempt was asked for"), |why| *why);
                    Verdict::Retry { after: after.unwrap_or(policy.retry_delay), why, call }
                } else {
                    // Not through `failed`: the retries are used up, whatever autoretry says.
                    let failure = why.map_or_else(|| conclude::max_retries_exceeded(retries), |why| *why);
                    if policy.acks_on_failure { Verdict::Failure(failure) } else { Verdict::FailureKept(failure) }
                }
            }
            Failure::Ignore => Verdict::Ignore,
            Failure::Reject { requeue: true, .. } => Verdict::Requeue,
            Failure::Reject { reason, .. } => Verdict::Reject(reason),
            Failure::Replace(signature) => Verdict::Replace(*signature),
            Failure::Crashed { reason } => Verdict::Crashed(reason),
            failure @ Failure::Error { .. } => failed(failure),
        },
        // The engine ended it, or knows how it ended.
        Outcome::Retry { after, why } => {
            let failure = Failure::from(why);
            if policy.max_retries.is_none_or(|most| retries < most) {
                Verdict::Retry { after: after.unwrap_or(policy.retry_delay), why: failure, call: None }
            } else {
                failed(failure)
            }
        }
        Outcome::Failed(error) => failed(Failure::from(error)),
        Outcome::TimedOut { limit } => failed(conclude::time_limit(limit)),
        Outcome::Panicked(text) => failed(conclude::panicked(text)),
        Outcome::Killed { signal } => Verdict::Crashed(format!("signal {signal}")),
        Outcome::Lost(why) => Verdict::Crashed(why),
        Outcome::Cancelled => Verdict::Revoked("terminated"),
        Outcome::Skipped(Skip::Expired) => Verdict::Revoked("expired"),
        Outcome::Skipped(Skip::Elsewhere) => Verdict::HandBack,
        Outcome::Skipped(_) => Verdict::Revoked("revoked"),
        // A new outcome of the engine: whatever it is, it is no success.
        other => failed(other.error().map_or_else(|| Failure::text("an outcome of no known kind"), Failure::from)),
    }
}

/// The wait before the next attempt of an automatic retry: `retries` were made so far.
fn autoretry_after(backoff: &Backoff, retries: u32, draw: f64) -> Duration {
    backoff.wait(retries + 1, draw)
}

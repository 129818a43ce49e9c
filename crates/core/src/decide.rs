//! Outcome × policy → verdict, as a pure function.

use std::time::Duration;

use crate::{error::Again, outcome::Outcome, retry::RetryPolicy};

/// Fate of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done, well or badly.
    Ack,
    /// It is to be tried again, not before this time has passed.
    Requeue {
        /// The backoff.
        after: Duration,
    },
    /// It is refused for good, unrun.
    Reject,
}

/// Decides what becomes of a task whose attempt ended so.
///
/// `attempts_made` counts this attempt; `age` is the time since the task was fetched; `draw` is the
/// jitter, in `[0, 1)`. A time that the handler or the other side asked for (`Retry { after }`,
/// [`Again::After`]) is a lower bound: the backoff is added to nothing, the longer of both counts.
pub fn decide<R>(outcome: &Outcome<R>, policy: &RetryPolicy, attempts_made: u32, age: Duration, draw: f64) -> Verdict {
    let asked = match outcome {
        Outcome::Ok(_) | Outcome::Cancelled => return Verdict::Ack,
        Outcome::Skipped(_) => return Verdict::Reject,
        Outcome::Retry { after, .. } => after.unwrap_or_default(),
        Outcome::Failed(error) => match error.again() {
            Again::Never => return Verdict::Ack,
            Again::After(after) if policy.on.matches_outcome(outcome) => after,
            Again::ByPolicy if policy.on.matches_outcome(outcome) => Duration::ZERO,
            _ => return Verdict::Ack,
        },
        Outcome::TimedOut { .. } | Outcome::Panicked(_) | Outcome::Killed { .. } | Outcome::Lost(_) => {
            if !policy.on.matches_outcome(outcome) {
                return Verdict::Ack;
            }
            Duration::ZERO
        }
    };
    if attempts_made > policy.retries {
        return Verdict::Ack;
    }
    let after = policy.backoff.wait(attempts_made, draw).max(asked);
    if policy.give_up_after.is_some_and(|limit| age.saturating_add(after) >= limit) {
        return Verdict::Ack;
    }
    Verdict::Requeue { after }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::TaskError,
        outcome::Skip,
        retry::{Backoff, ErrorClass, RetryOn},
    };

    #[test]
    fn a_verdict_follows_from_outcome_policy_and_attempts() {
        let secs = Duration::from_secs;
        let policy = RetryPolicy { backoff: Backoff::Fixed(secs(1)), ..RetryPolicy::times(2) };
        let only_5xx = RetryPolicy { on: RetryOn::Only(vec![ErrorClass::parse("status:5xx").expect("a class")]), ..policy.clone() };
        let hurried = RetryPolicy { give_up_after: Some(secs(10)), ..policy.clone() };
        let status = |code| Outcome::Failed(TaskError::new("status", "").with_code(code));
        let asks = |again| Outcome::Failed(TaskError::new("status", "").with_code(503).with_again(again));
        let retry = |after| Outcome::Retry { after, why: TaskError::new("x", "") };
        let requeue = |s| Verdict::Requeue { after: secs(s) };
        for (name, outcome, policy, made, age, want) in [
            ("a result", Outcome::Ok(1), &policy, 1, 0, Verdict::Ack),
            ("a failure", status(500), &policy, 1, 0, requeue(1)),
            ("the last retry", status(500), &policy, 2, 0, requeue(1)),
            ("no retry left", status(500), &policy, 3, 0, Verdict::Ack),
            ("bad input", Outcome::Failed(TaskError::invalid("")), &policy, 1, 0, Verdict::Ack),
            ("a class that is listed", status(503), &only_5xx, 1, 0, requeue(1)),
            ("a class that is not listed", status(404), &only_5xx, 1, 0, Verdict::Ack),
            ("a panic when only 5xx counts", Outcome::Panicked(String::new()), &only_5xx, 1, 0, Verdict::Ack),
            ("a panic", Outcome::Panicked(String::new()), &policy, 1, 0, requeue(1)),
            ("a timeout", Outcome::TimedOut { limit: secs(1) }, &policy, 1, 0, requeue(1)),
            ("a signal", Outcome::Killed { signal: 9 }, &policy, 1, 0, requeue(1)),
            ("a loss", Outcome::Lost(String::new()), &policy, 1, 0, requeue(1)),
            ("the other side asks for later", asks(Again::After(secs(7))), &policy, 1, 0, requeue(7)),
            ("the other side asks for sooner than the backoff", asks(Again::After(secs(0))), &policy, 1, 0, requeue(1)),
            ("an error that says never", asks(Again::Never), &policy, 1, 0, Verdict::Ack),
            ("the handler asks, whatever the class", retry(Some(secs(5))), &only_5xx, 1, 0, requeue(5)),
            ("the handler asks too often", retry(None), &policy, 3, 0, Verdict::Ack),
            ("too old", status(500), &hurried, 1, 9, Verdict::Ack),
            ("not too old", status(500), &hurried, 1, 8, requeue(1)),
            ("cancelled", Outcome::Cancelled, &policy, 1, 0, Verdict::Ack),
            ("skipped", Outcome::Skipped(Skip::Expired), &policy, 1, 0, Verdict::Reject),
        ] {
            assert_eq!(decide(&outcome, policy, made, secs(age), 0.5), want, "{name}");
        }
    }
}

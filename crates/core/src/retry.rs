//! When a task is tried again, and after how long: data, so that a schedule can be stored and
//! shown.

use std::time::Duration;

use crate::outcome::Outcome;

/// Rule that says how often, how long after, and on which errors a task is tried again.
/// ```
/// use std::{sync::atomic::{AtomicU32, Ordering}, time::Duration};
/// use longshore_core::{Backoff, ErrorClass, Job, RetryOn, RetryPolicy, TaskError};
///
/// let calls = AtomicU32::new(0);
/// let report = Job::blocking(move |_: &str| match calls.fetch_add(1, Ordering::Relaxed) {
///     0 | 1 => Err(TaskError::new("status", "busy").with_code(503)),
///     _ => Ok("here you are"),
/// })
/// .params(["a page"])
/// .retry(
///     RetryPolicy::times(5)
///         .backoff(Backoff::Fixed(Duration::from_millis(1)))
///         .on(RetryOn::Only(vec![ErrorClass::parse("status:5xx").unwrap()])),
/// )
/// .run();
/// assert_eq!((report.ok(), report.counts.retries), (1, 2));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts after the first one.
    pub retries: u32,
    /// The time between attempts.
    pub backoff: Backoff,
    /// The errors that are worth another attempt.
    pub on: RetryOn,
    /// No further attempt starts when this much time has passed since the task was fetched.
    pub give_up_after: Option<Duration>,
}

impl RetryPolicy {
    /// One attempt and no more.
    pub const NONE: RetryPolicy =
        RetryPolicy { retries: 0, backoff: Backoff::DEFAULT, on: RetryOn::AnyBut(Vec::new()), give_up_after: None };

    /// This many further attempts, with the default backoff, on any error but `invalid`.
    pub fn times(retries: u32) -> Self {
        Self { retries, on: RetryOn::default(), ..Self::NONE }
    }

    /// Sets [`backoff`](Self::backoff).
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets [`on`](Self::on).
    #[must_use]
    pub fn on(mut self, on: RetryOn) -> Self {
        self.on = on;
        self
    }

    /// Sets [`give_up_after`](Self::give_up_after).
    #[must_use]
    pub fn give_up_after(mut self, limit: Duration) -> Self {
        self.give_up_after = Some(limit);
        self
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::NONE
    }
}

/// The time between two attempts.
#[derive(Clone, Debug, PartialEq)]
pub enum Backoff {
    /// Exponential with full jitter: the n-th wait is drawn evenly from nothing to
    /// `min(cap, base × 2ⁿ)`, so that clients that failed together do not come back together (M.
    /// Brooker, "Exponential Backoff And Jitter", 2015).
    Exponential {
        /// The upper end of the first wait.
        base: Duration,
        /// The upper end of every wait.
        cap: Duration,
    },
    /// Always the same time.
    Fixed(Duration),
    /// One time after the other; the last one repeats.
    List(Vec<Duration>),
}

impl Backoff {
    /// 200 ms doubling up to 30 s, with full jitter.
    pub const DEFAULT: Backoff = Backoff::Exponential { base: Duration::from_millis(200), cap: Duration::from_secs(30) };

    /// The wait after `attempts_made` attempts (1 after the first). `draw` is the jitter, in
    /// `[0, 1)`.
    pub fn wait(&self, attempts_made: u32, draw: f64) -> Duration {
        match self {
            Backoff::Exponential { base, cap } => {
                let doublings = attempts_made.saturating_sub(1).min(40);
                base.saturating_mul(2u32.saturating_pow(doublings)).min(*cap).mul_f64(draw.clamp(0.0, 1.0))
            }
            Backoff::Fixed(wait) => *wait,
            Backoff::List(waits) => {
                let index = (attempts_made.saturating_sub(1) as usize).min(waits.len().saturating_sub(1));
                waits.get(index).copied().unwrap_or_default()
            }
        }
    }
}

/// Which errors are worth another attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum RetryOn {
    /// Any but these. An error that says [`Again::Never`](crate::Again::Never) is never retried.
    AnyBut(Vec<ErrorClass>),
    /// These alone.
    Only(Vec<ErrorClass>),
}

impl Default for RetryOn {
    fn default() -> Self {
        RetryOn::AnyBut(vec![ErrorClass::kind("invalid")])
    }
}

impl RetryOn {
    /// Returns true if an error of this kind and code is worth another attempt.
    pub fn matches(&self, kind: &str, code: Option<i64>) -> bool {
        match self {
            RetryOn::AnyBut(classes) => !classes.iter().any(|class| class.matches(kind, code)),
            RetryOn::Only(classes) => classes.iter().any(|class| class.matches(kind, code)),
        }
    }

    /// Returns true if this outcome is worth another attempt.
    pub fn matches_outcome<R>(&self, outcome: &Outcome<R>) -> bool {
        outcome.class().is_some_and(|(kind, code)| self.matches(kind, code))
    }
}

/// A class of errors: a kind, and the codes that count (all when absent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorClass {
    /// The kind, as in [`TaskError::kind`](crate::TaskError::kind).
    pub kind: String,
    /// First and last code, inclusive.
    pub codes: Option<(i64, i64)>,
}

impl ErrorClass {
    /// Every error of this kind.
    pub fn kind(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), codes: None }
    }

    /// Parses `connect`, `status:429`, `status:5xx`, `exit:75`, `exit:1-9`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, code) = match text.split_once(':') {
            None => (text, None),
            Some((kind, code)) => (kind, Some(code)),
        };
        if kind.is_empty() || !kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return Err(format!("`{text}` is not an error class; write a kind such as `connect`, or kind:code such as `status:5xx`"));
        }
        let bad = |code: &str| format!("`{code}` in `{text}` is not a code; write a number, a range `1-9`, or a class `5xx`");
        let codes = match code {
            None => None,
            Some(code) => Some(if let Some(hundreds) = code.strip_suffix("xx") {
                let hundreds: i64 = hundreds.parse().map_err(|_| bad(code))?;
                (hundreds * 100, hundreds * 100 + 99)
            } else if let Some((from, to)) = code.split_once('-').filter(|(from, _)| !from.is_empty()) {
                (from.parse().map_err(|_| bad(code))?, to.parse().map_err(|_| bad(code))?)
            } else {
                let code: i64 = code.parse().map_err(|_| bad(code))?;
                (code, code)
            }),
        };
        Ok(Self { kind: kind.to_owned(), codes })
    }

    /// Returns true if an error of this kind and code belongs to the class.
    pub fn matches(&self, kind: &str, code: Option<i64>) -> bool {
        self.kind == kind && self.codes.is_none_or(|(from, to)| code.is_some_and(|code| (from..=to).contains(&code)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_jitter_draws_from_nothing_to_a_doubling_limit_with_a_cap() {
        let backoff = Backoff::DEFAULT;
        for (made, draw, want_ms) in [(1, 0.0, 0), (1, 1.0, 200), (2, 1.0, 400), (3, 0.5, 400), (9, 1.0, 30_000), (4_000_000, 1.0, 30_000)]
        {
            assert_eq!(backoff.wait(made, draw), Duration::from_millis(want_ms), "attempt {made}, draw {draw}");
        }
    }

    #[test]
    fn a_list_repeats_its_last_wait() {
        let backoff = Backoff::List(vec![Duration::from_secs(1), Duration::from_secs(5)]);
        assert_eq!([1, 2, 3, 9].map(|made| backoff.wait(made, 0.3).as_secs()), [1, 5, 5, 5]);
        assert_eq!(Backoff::List(Vec::new()).wait(1, 0.5), Duration::ZERO);
    }

    #[test]
    fn error_classes_match_kind_and_code() {
        for (class, kind, code, want) in [
            ("connect", "connect", None, true),
            ("connect", "timeout", None, false),
            ("status:5xx", "status", Some(503), true),
            ("status:5xx", "status", Some(429), false),
            ("status:429", "status", Some(429), true),
            ("status:429", "status", None, false),
            ("exit:1-9", "exit", Some(9), true),
            ("exit:-1", "exit", Some(-1), true),
        ] {
            assert_eq!(ErrorClass::parse(class).map(|class| class.matches(kind, code)), Ok(want), "{class} against {kind} {code:?}");
        }
        for bad in ["", ":5", "status:", "status:x", "a b", "status:1-"] {
            assert!(ErrorClass::parse(bad).is_err(), "{bad}");
        }
    }
}

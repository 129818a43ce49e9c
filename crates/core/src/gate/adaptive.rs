//! Concurrency that finds itself: as many at once as the other side can use, and no more.
//!
//! The controller sees what each attempt took and whether the other side said "too much". It knows
//! nothing of time but what it is told, so a simulation of it repeats exactly.
//!
//! **Latency** decides, as in TCP Vegas (Brakmo and Peterson, "TCP Vegas: End to End Congestion
//! Avoidance on a Global Internet", 1995): with `n` at once and a latency that is `m` where it is
//! `b` without a queue, about `n × (1 − b / m)` of them only stand in the other side's queue. Is
//! that less than a few, the limit grows; is it many, the limit goes to where they would not be.
//! **Refusals** (429, 503, a time-out, a refused connection) decide before that, as in AIMD (Chiu
//! and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer
//! Networks", 1989): the limit falls by a quarter, and after `Retry-After` it does not grow until
//! that time has come.
//!
//! Two things that Vegas alone gets wrong are handled: where a smaller limit does not help, the
//! latency was not ours, and becomes the new measure; and now and then the limit is lowered for one
//! window to see whether the measure still holds.

use std::time::{Duration, Instant};

use crate::{error::Again, outcome::Outcome};

/// Attempts in a window at least, once it no longer doubles: the median of so many is good to a few
/// percent.
const SAMPLES: usize = 64;
/// Attempts in a window at most.
const MOST_SAMPLES: usize = 512;
/// Latencies that differ by less are equal.
const TOLERANCE: f64 = 1.08;
/// Windows between two looks at the latency without a queue.
const PROBE_EVERY: u32 = 40;
/// The part of the limit that is used while looking.
const PROBE: f64 = 0.7;
/// The part of the limit that is left after a refusal.
const BACK: f64 = 0.75;

/// The bounds of a concurrency that finds itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// Never fewer at once.
    pub floor: usize,
    /// Never more at once.
    pub ceiling: usize,
}

impl Bounds {
    /// Returns the bounds of a concurrency between these two.
    pub fn new(floor: usize, ceiling: usize) -> Self {
        Self { floor, ceiling }
    }
}

/// Sign of the other side's state that an attempt gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It answered.
    Answered,
    /// It had too much to do, and perhaps asked not to be bothered for this time.
    Overload(Option<Duration>),
    /// It says nothing about load: a mistake of the input, a cancellation.
    Nothing,
}

/// Returns what an outcome says about the other side: a status of 429 or 503, `Retry-After`, a
/// time-out and a connection that fails mean overload.
pub fn signal<R>(outcome: &Outcome<R>) -> Signal {
    match outcome {
        Outcome::Ok(_) => Signal::Answered,
        Outcome::TimedOut { .. } => Signal::Overload(None),
        Outcome::Retry { why: error, .. } | Outcome::Failed(error) => {
            let after = match (outcome, error.again()) {
                (Outcome::Retry { after: Some(after), .. }, _) => Some(*after),
                (_, Again::After(after)) => Some(after),
                _ => None,
            };
            match (error.kind(), error.code()) {
                ("status", Some(429 | 503)) | ("timeout" | "connect", _) => Signal::Overload(after),
                _ if after.is_some() => Signal::Overload(after),
                ("status", Some(_)) => Signal::Answered,
                _ => Signal::Nothing,
            }
        }
        _ => Signal::Nothing,
    }
}

/// The controller. See the [module](self).
#[derive(Debug)]
pub struct Adaptive {
    bounds: Bounds,
    limit: f64,
    /// Attempts that started before this ran under another limit, and do not count.
    since: Option<Instant>,
    samples: Vec<u64>,
    /// The most that ran at once in this window.
    used: usize,
    refused: bool,
    /// No growth before this.
    hold: Option<Instant>,
    /// The latency without a queue, in nanoseconds.
    base: Option<f64>,
    /// Doubling, until there is a first queue or refusal.
    doubling: bool,
    windows: u32,
    step: Step,
}

/// Result of the last window.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Steady,
    /// The limit fell because of the latency: from this limit, at this latency.
    Lowered {
        limit: f64,
        latency: f64,
    },
    /// The limit is lowered for a look; this is the one to go back to.
    Looking {
        limit: f64,
    },
}

impl Adaptive {
    /// A controller that starts at its floor and doubles until it meets a queue.
    ///
    /// # Panics
    /// If the floor is 0 or above the ceiling.
    pub fn new(bounds: Bounds) -> Self {
        assert!(0 < bounds.floor && bounds.floor <= bounds.ceiling, "the floor must be at least 1 and not above the ceiling");
        Self {
            bounds,
            limit: bounds.floor as f64,
            since: None,
            samples: Vec::new(),
            used: 0,
            refused: false,
            hold: None,
            base: None,
            doubling: true,
            windows: 0,
            step: Step::Steady,
        }
    }

    /// Returns how many may run at once now.
    pub fn limit(&self) -> usize {
        (self.limit.round() as usize).clamp(self.bounds.floor, self.bounds.ceiling)
    }

    /// Takes in that an attempt has ended, while `running` were running (itself included). Returns
    /// the limit if that is now another one.
    ///
    /// Amortised constant time; a window is sorted at its end.
    pub fn observe(&mut self, started: Instant, ended: Instant, running: usize, signal: Signal) -> Option<usize> {
        let since = *self.since.get_or_insert(started);
        let before = self.limit();
        if let Signal::Overload(after) = signal {
            if let Some(after) = after {
                self.hold = self.hold.max(ended.checked_add(after));
            }
            // Once for all that started under one limit: they are one piece of news.
            if started >= since {
                self.refused = true;
                self.close(ended);
            }
        } else if signal == Signal::Answered && started >= since {
            self.used = self.used.max(running);
            self.samples.push(ended.saturating_duration_since(started).as_nanos() as u64);
            // While it doubles an error costs little, and waiting for certainty much.
            let enough = if self.doubling { (4 * before).max(8) } else { SAMPLES.max(2 * before) };
            if self.samples.len() >= enough.min(MOST_SAMPLES) {
                self.close(ended);
            }
        }
        let now = self.limit();
        (now != before).then_some(now)
    }

    /// Ends a window and sets the limit for the next.
    fn close(&mut self, now: Instant) {
        self.samples.sort_unstable();
        let latency = self.samples.get(self.samples.len() / 2).map(|median| (*median as f64).max(1.0));
        let full = self.used * 5 >= self.limit() * 4;
        let held = self.hold.is_some_and(|hold| now < hold);
        let refused = std::mem::take(&mut self.refused);
        self.samples.clear();
        (self.used, self.since) = (0, Some(now));
        if refused {
            let top = match self.step {
                Step::Looking { limit } => limit,
                _ => self.limit,
            };
            (self.limit, self.doubling, self.step) = (top * BACK, false, Step::Steady);
        } else if let Some(latency) = latency {
            self.windows += 1;
            self.adjust(latency, full, held);
        }
        self.limit = self.limit.clamp(self.bounds.floor as f64, self.bounds.ceiling as f64);
    }

    fn adjust(&mut self, latency: f64, full: bool, held: bool) {
        let base = *self.base.get_or_insert(latency);
        match self.step {
            Step::Looking { limit } => {
                // What it takes now is what it takes without (much of) a queue.
                self.base = Some(latency);
                (self.limit, self.step) = (limit, Step::Steady);
                return;
            }
            Step::Lowered { limit, latency: was } => {
                self.step = Step::Steady;
                // A queue of ours would have become shorter in step.
                let expected = was * (0.5 + 0.5 * self.limit / limit);
                if latency > expected * TOLERANCE {
                    self.base = Some(latency);
                    self.limit = limit;
                    return;
                }
            }
            Step::Steady => {}
        }
        // Down at once but not wholly: a window may be lucky.
        let base = if latency < base { base * 0.5 + latency * 0.5 } else { base };
        self.base = Some(base);
        let queued = self.limit * (1.0 - (base * TOLERANCE / latency).min(1.0));
        let few = 1.0 + 0.03 * self.limit;
        let many = 2.0 + 0.10 * self.limit;
        if queued > many {
            self.step = Step::Lowered { limit: self.limit, latency };
            (self.limit, self.doubling) = (self.limit - queued + few, false);
        } else if queued > few {
            self.doubling = false;
        } else if full && !held {
            self.limit = if self.doubling { self.limit * 2.0 } else { self.limit + few };
        }
        if self.step == Step::Steady && !self.doubling && self.windows.is_multiple_of(PROBE_EVERY) && self.limit() > self.bounds.floor {
            self.step = Step::Looking { limit: self.limit };
            self.limit *= PROBE;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;
    use crate::TaskError;

    /// A server that serves so many at once and lets the others wait: what it takes grows with
    /// those above the knee.
    struct Server {
        knee: f64,
        serves: Duration,
        /// Variation of what it takes, as a share.
        jitter: f64,
        /// More at once than this are refused.
        refuses: usize,
        rng: fastrand::Rng,
    }

    impl Server {
        fn new(knee: f64, jitter: f64) -> Self {
            Self { knee, serves: Duration::from_millis(50), jitter, refuses: usize::MAX, rng: fastrand::Rng::with_seed(7) }
        }

        fn takes(&mut self, running: usize) -> Duration {
            let load = (running as f64 / self.knee).max(1.0);
            let luck = 1.0 + self.jitter * (2.0 * self.rng.f64() - 1.0);
            self.serves.mul_f64(load * luck)
        }
    }

    /// Offers the server as much as the limit allows; returns the limits over time and how many
    /// were answered a second.
    fn drive(control: &mut Adaptive, server: &mut Server, from: Instant, lasts: Duration) -> (Vec<usize>, f64) {
        let (mut now, end) = (from, from + lasts);
        let mut running: BinaryHeap<Reverse<(Instant, Instant, bool)>> = BinaryHeap::new();
        let (mut answered, mut limits) = (0u64, Vec::new());
        while now < end {
            while running.len() < control.limit() {
                let refused = running.len() >= server.refuses;
                let takes = if refused { Duration::from_millis(1) } else { server.takes(running.len() + 1) };
                running.push(Reverse((now + takes, now, refused)));
            }
            let count = running.len();
            let Some(Reverse((ends, started, refused))) = running.pop() else { break };
            now = ends;
            answered += u64::from(!refused);
            control.observe(started, ends, count, if refused { Signal::Overload(None) } else { Signal::Answered });
            limits.push(control.limit());
        }
        (limits, answered as f64 / lasts.as_secs_f64())
    }

    fn settled(limits: &[usize]) -> usize {
        let mut last = limits[limits.len() / 2..].to_vec();
        last.sort_unstable();
        last[last.len() / 2]
    }

    #[test]
    fn it_finds_the_knee_whatever_the_knee_and_the_jitter() {
        for knee in [5.0, 20.0, 60.0, 200.0] {
            for jitter in [0.0, 0.2, 0.5] {
                let mut control = Adaptive::new(Bounds { floor: 1, ceiling: 1_000 });
                let (limits, rate) = drive(&mut control, &mut Server::new(knee, jitter), Instant::now(), Duration::from_secs(120));
                let best = knee / 0.05;
                assert!(rate > 0.9 * best, "knee {knee}, jitter {jitter}: {rate:.0}/s of {best:.0}/s");
                let limit = settled(&limits) as f64;
                assert!(limit < knee * 1.35 + 4.0, "knee {knee}, jitter {jitter}: {limit} at once is more than anybody can use");
            }
        }
    }

    #[test]
    fn it_follows_a_knee_that_moves_and_a_server_that_becomes_slower() {
        let start = Instant::now();
        let mut control = Adaptive::new(Bounds { floor: 1, ceiling: 500 });
        let mut server = Server::new(40.0, 0.2);
        let minute = Duration::from_secs(60);
        drive(&mut control, &mut server, start, minute);
        for (nth, (knee, millis)) in [(15.0, 50), (80.0, 50), (80.0, 120), (30.0, 20)].into_iter().enumerate() {
            (server.knee, server.serves) = (knee, Duration::from_millis(millis));
            let (limits, _) = drive(&mut control, &mut server, start + minute * (nth as u32 * 2 + 1), minute);
            let (_, rate) = drive(&mut control, &mut server, start + minute * (nth as u32 * 2 + 2), minute);
            let best = knee / server.serves.as_secs_f64();
            assert!(rate > 0.9 * best, "knee {knee}, {millis} ms: {rate:.0}/s of {best:.0}/s, limit {}", settled(&limits));
            assert!((settled(&limits) as f64) < knee * 1.35 + 4.0, "knee {knee}, {millis} ms: limit {}", settled(&limits));
        }
    }

    #[test]
    fn refusals_lower_the_limit_once_for_what_started_under_it() {
        let mut server = Server { refuses: 30, ..Server::new(1_000.0, 0.1) };
        let mut control = Adaptive::new(Bounds { floor: 1, ceiling: 500 });
        let (limits, rate) = drive(&mut control, &mut server, Instant::now(), Duration::from_secs(60));
        assert!((18..=34).contains(&settled(&limits)), "{}", settled(&limits));
        assert!(rate > 0.75 * 30.0 / 0.05, "{rate}");
    }

    #[test]
    fn the_bounds_hold_and_an_unused_limit_does_not_grow() {
        let mut control = Adaptive::new(Bounds { floor: 4, ceiling: 9 });
        let (limits, _) = drive(&mut control, &mut Server::new(1_000.0, 0.1), Instant::now(), Duration::from_secs(10));
        assert!(limits.iter().all(|limit| (4..=9).contains(limit)) && limits.contains(&9));
        let mut control = Adaptive::new(Bounds { floor: 8, ceiling: 100 });
        let now = Instant::now();
        for n in 0..1_000 {
            let at = now + Duration::from_millis(n);
            control.observe(at, at + Duration::from_millis(1), 2, Signal::Answered);
        }
        assert_eq!(control.limit(), 8);
    }

    #[test]
    fn after_retry_after_there_is_no_growth_before_its_time() {
        let now = Instant::now();
        let mut control = Adaptive::new(Bounds { floor: 1, ceiling: 100 });
        control.limit = 40.0;
        assert_eq!(control.observe(now, now, 40, Signal::Overload(Some(Duration::from_secs(10)))), Some(30));
        let feed = |control: &mut Adaptive, second: u64| {
            for n in 0..200 {
                let at = now + Duration::from_secs(second) + Duration::from_millis(n);
                control.observe(at, at + Duration::from_millis(50), 30, Signal::Answered);
            }
        };
        feed(&mut control, 5);
        assert_eq!(control.limit(), 30);
        feed(&mut control, 11);
        assert!(control.limit() > 30);
    }

    #[test]
    fn outcomes_say_what_they_say() {
        let status = |code| TaskError::new("status", "").with_code(code);
        let second = Duration::from_secs(1);
        for (outcome, says) in [
            (Outcome::Ok(()), Signal::Answered),
            (Outcome::Failed(status(429)), Signal::Overload(None)),
            (Outcome::Failed(status(503).with_again(Again::After(second))), Signal::Overload(Some(second))),
            (Outcome::Failed(status(404)), Signal::Answered),
            (Outcome::TimedOut { limit: second }, Signal::Overload(None)),
            (Outcome::Failed(TaskError::invalid("no field")), Signal::Nothing),
            (Outcome::Panicked(String::new()), Signal::Nothing),
        ] {
            assert_eq!(signal(&outcome), says, "{outcome:?}");
        }
    }
}

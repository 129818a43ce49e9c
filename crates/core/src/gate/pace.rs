//! The leaky bucket: when the next task may start. See README.md for the arithmetic.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Number of tasks that may start in a time.
/// ```
/// use std::time::Duration;
/// use longshore_core::{Job, Rate};
///
/// let rate = Rate::per_second(200.0);
/// assert_eq!(rate.interval(), Duration::from_millis(5));
///
/// // The first starts at once, each of the others 5 ms after the one before.
/// let report = Job::new(|n: u32| async move { Ok::<_, String>(n) }).params(0..11).rate(rate).run();
/// assert!(report.wall >= Duration::from_millis(50));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// This many …
    pub count: f64,
    /// … in this time. On the wire in seconds.
    #[serde(with = "crate::wire::seconds")]
    pub per: Duration,
    /// Number that may start at once after a pause; 1 spaces all starts evenly.
    #[serde(default = "evenly")]
    pub burst: u32,
}

fn evenly() -> u32 {
    1
}

impl Rate {
    /// `count` starts a second, evenly spaced.
    pub fn per_second(count: f64) -> Self {
        Self { count, per: Duration::from_secs(1), burst: 1 }
    }

    /// The same rate with this burst (at least 1).
    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        Self { burst: burst.max(1), ..self }
    }

    /// The time between two starts.
    pub fn interval(self) -> Duration {
        // A rate of nothing, or of next to nothing, has intervals whose sums must still fit an
        // `Instant`.
        if self.count > 0.0 {
            Duration::try_from_secs_f64(self.per.as_secs_f64() / self.count).unwrap_or(LONGEST).min(LONGEST)
        } else {
            LONGEST
        }
    }
}

/// The longest interval: for ever, for all that anybody will see.
const LONGEST: Duration = Duration::from_secs(86_400 * 3650);

/// Delay of a timer beyond which the slots that it slept through are lost. Up to here the
/// schedule holds: the slot's time lies in the past, its task starts late. Beyond, catching up
/// would be a burst that nobody asked for.
const LATENESS: Duration = Duration::from_millis(10);

/// A leaky bucket by slot reservation (the generic cell rate algorithm: ITU-T I.371, "virtual
/// scheduling").
#[derive(Clone, Debug)]
pub struct Pace {
    interval: Duration,
    burst: u32,
    /// The time of the slot after the last one given out, were all slots evenly spaced.
    next: Option<Instant>,
    /// Tasks have been waiting for a slot since the last refusal, so that a late wake-up is the
    /// timer's, not an idle time.
    awaited: bool,
}

impl Pace {
    /// A full bucket: the first `burst` tasks may start at once.
    pub fn new(rate: Rate) -> Self {
        Self { interval: rate.interval(), burst: rate.burst.max(1), next: None, awaited: false }
    }

    /// The time of the next slot; a slot that is not in the future may be taken.
    pub fn slot(&self, now: Instant) -> Instant {
        let Some(next) = self.next else { return now };
        let Some(ahead) = self.interval.checked_mul(self.burst - 1) else { return now };
        next.checked_sub(ahead).unwrap_or(now)
    }

    /// Notes that a task waits for the next slot.
    pub fn wait(&mut self) {
        self.awaited = true;
    }

    /// Notes that no task waits any more.
    pub fn idle(&mut self) {
        self.awaited = false;
    }

    /// Takes the next slot, which must not lie in the future.
    pub fn take(&mut self, now: Instant) {
        debug_assert!(self.slot(now) <= now, "a slot is taken before its time");
        let from = match self.next {
            // Late by a timer's grain: the schedule holds. Otherwise the bucket has leaked empty,
            // and a new series starts now.
            Some(next) if next >= now || (self.awaited && now.duration_since(next) <= LATENESS) => next,
            _ => now,
        };
        self.next = from.checked_add(self.interval).or(Some(from + Duration::from_secs(86_400 * 365)));
    }

    /// Changes the rate. Slots already given out stay so; the next one is at most one new interval
    /// away.
    pub fn set(&mut self, rate: Rate, now: Instant) {
        let interval = rate.interval();
        let burst = rate.burst.max(1);
        if let Some(next) = self.next {
            let limit = interval.checked_mul(burst).and_then(|span| now.checked_add(span)).unwrap_or(next);
            self.next = Some(next.min(limit));
        }
        (self.interval, self.burst) = (interval, burst);
    }

    /// Returns how many drops are in the bucket now: slots given out whose time has not come.
    pub fn level(&self, now: Instant) -> f64 {
        let Some(next) = self.next else { return 0.0 };
        if self.interval.is_zero() { 0.0 } else { next.saturating_duration_since(now).as_secs_f64() / self.interval.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Takes slots whenever the clock (in ms) allows it, until `until`; the clock steps by `step`.
    fn starts(rate: Rate, step: u32, until: u32) -> Vec<u32> {
        let base = Instant::now();
        let mut pace = Pace::new(rate);
        let mut starts = Vec::new();
        let mut at = 0;
        while at <= until {
            let now = base + MS * at;
            while pace.slot(now) <= now {
                pace.take(now);
                starts.push(at);
            }
            pace.wait();
            at += step;
        }
        starts
    }

    #[test]
    fn starts_are_evenly_spaced_when_the_burst_is_one() {
        assert_eq!(starts(Rate::per_second(100.0), 1, 50), [0, 10, 20, 30, 40, 50]);
    }

    #[test]
    fn a_burst_goes_out_at_once_and_then_the_rate_holds() {
        assert_eq!(starts(Rate::per_second(100.0).burst(3), 1, 30), [0, 0, 0, 10, 20, 30]);
    }

    #[test]
    fn a_late_timer_delays_starts_but_does_not_lower_the_rate() {
        assert_eq!(starts(Rate::per_second(1000.0), 3, 3000).len(), 3001);
    }

    #[test]
    fn slots_slept_through_for_long_are_not_made_up_for() {
        let base = Instant::now();
        let mut pace = Pace::new(Rate::per_second(1000.0));
        pace.take(base);
        pace.wait();
        let late = base + MS * 500;
        let mut given = 0;
        while pace.slot(late) <= late {
            pace.take(late);
            given += 1;
        }
        assert_eq!(given, 1);
    }

    #[test]
    fn an_idle_bucket_gives_no_more_than_its_burst() {
        let base = Instant::now();
        let mut pace = Pace::new(Rate::per_second(1000.0));
        pace.take(base);
        pace.idle();
        let later = base + MS * 8;
        pace.take(later);
        assert_eq!(pace.slot(later), later + MS);
    }

    #[test]
    fn a_rate_of_next_to_nothing_gives_its_burst_and_no_more() {
        for count in [0.0, -1.0, f64::NAN, 1e-300, 1e-9] {
            for burst in [1, 2, 1000] {
                let rate = Rate { count, per: Duration::from_secs(3600), burst };
                assert_eq!(starts(rate, 1, 2000).len(), burst as usize, "{rate:?}");
            }
        }
    }

    #[test]
    fn a_faster_rate_takes_effect_at_once() {
        let base = Instant::now();
        let mut pace = Pace::new(Rate { count: 1.0, per: Duration::from_secs(3600), burst: 1 });
        pace.take(base);
        pace.set(Rate::per_second(10.0), base);
        assert_eq!(pace.slot(base), base + MS * 100);
    }
}

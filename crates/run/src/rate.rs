//! Smoothed rates, and the estimate of the time that is left.

use std::time::{Duration, Instant};

/// Weighs what happened ten seconds ago a third as much as what happens now.
const WINDOW: Duration = Duration::from_secs(10);

/// Turns a count that only grows into a rate: an exponentially weighted mean over about ten
/// seconds, by time and not by number of updates, so that irregular updates do no harm. It starts
/// as the plain mean and becomes weighted as time passes, so the first seconds are not biased
/// towards zero.
#[derive(Clone, Debug)]
pub struct RateMeter {
    window: Duration,
    last: Option<(Instant, u64)>,
    /// Weighted events and weighted seconds; their quotient is the rate.
    events: f64,
    seconds: f64,
}

impl Default for RateMeter {
    fn default() -> Self {
        Self::over(WINDOW)
    }
}

impl RateMeter {
    /// A meter over about this time.
    pub fn over(window: Duration) -> Self {
        Self { window, last: None, events: 0.0, seconds: 0.0 }
    }

    /// Takes the count at this moment and says the rate per second; 0 at first. A count that fell
    /// starts the meter anew; updates closer together than a millisecond are put off to the next.
    pub fn update(&mut self, now: Instant, count: u64) -> f64 {
        let Some((then, before)) = self.last else {
            self.last = Some((now, count));
            return 0.0;
        };
        if count < before {
            *self = Self { last: Some((now, count)), ..Self::over(self.window) };
            return 0.0;
        }
        let elapsed = now.saturating_duration_since(then).as_secs_f64();
        if elapsed >= 0.001 {
            let keep = (-elapsed / self.window.as_secs_f64()).exp();
            // The events of an interval are spread evenly over it; the integral of the weights over
            // it is (1 - keep) windows.
            let weighted = (1.0 - keep) * self.window.as_secs_f64();
            self.events = self.events * keep + (count - before) as f64 / elapsed * weighted;
            self.seconds = self.seconds * keep + weighted;
            self.last = Some((now, count));
        }
        self.per_second()
    }

    /// The rate as of the last update.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.events / self.seconds } else { 0.0 }
    }

    /// The time until `left` more events at this rate; `None` while nothing can be said (no events
    /// yet, or more than a year).
    pub fn eta(&self, left: u64) -> Option<Duration> {
        const YEAR: f64 = 365.0 * 24.0 * 3_600.0;
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let seconds = left as f64 / self.per_second();
        (seconds < YEAR).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds one update every `step_ms`; `rates` are (seconds, events per second).
    fn run(step_ms: u64, rates: &[(u64, f64)]) -> RateMeter {
        let (mut meter, start, mut at, mut count) = (RateMeter::default(), Instant::now(), Duration::ZERO, 0.0);
        meter.update(start, 0);
        for (seconds, rate) in rates {
            for _ in 0..seconds * 1000 / step_ms {
                at += Duration::from_millis(step_ms);
                count += rate * step_ms as f64 / 1000.0;
                meter.update(start + at, count as u64);
            }
        }
        meter
    }

    #[test]
    fn a_steady_rate_is_right_from_the_first_second_at_any_step() {
        for step in [50, 100, 1000] {
            for seconds in [1, 5, 60] {
                let rate = run(step, &[(seconds, 100.0)]).per_second();
                assert!((rate - 100.0).abs() < 2.0, "{rate} after {seconds} s in steps of {step} ms");
            }
        }
    }

    #[test]
    fn a_change_is_mostly_seen_after_a_window_and_forgotten_after_five() {
        let rate = run(100, &[(60, 100.0), (10, 200.0)]).per_second();
        assert!((155.0..175.0).contains(&rate), "{rate}");
        let rate = run(100, &[(60, 100.0), (50, 0.0)]).per_second();
        assert!(rate < 1.0, "{rate}");
    }

    #[test]
    fn the_estimate_is_what_is_left_at_this_rate() {
        let eta = run(100, &[(30, 100.0)]).eta(3_800).unwrap().as_secs_f64();
        assert!((eta - 38.0).abs() < 1.0, "{eta}");
        assert_eq!(RateMeter::default().eta(0), Some(Duration::ZERO));
        assert_eq!(RateMeter::default().eta(5), None, "no rate yet");
    }

    #[test]
    fn odd_clocks_and_counts_do_no_harm() {
        let (mut meter, now) = (RateMeter::default(), Instant::now());
        meter.update(now, 10);
        assert_eq!(meter.update(now, 20), 0.0, "no time has passed");
        let rate = meter.update(now + Duration::from_secs(1), 110);
        assert!((rate - 100.0).abs() < 0.1, "events of the skipped update count: {rate}");
        assert_eq!(meter.update(now + Duration::from_secs(2), 0), 0.0, "a new count starts anew");
    }
}

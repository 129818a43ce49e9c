//! `--ramp`: how many run at once, and how fast they start, grows evenly from the start of a run.

use std::time::Duration;

use longshore_core::Rate;

/// The growth of a run over its first time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ramp {
    over: Duration,
    most: usize,
    /// The pace of all starts, unless there is none.
    rate: Option<Rate>,
}

impl Ramp {
    pub(crate) fn new(over: Duration, most: usize, rate: Option<Rate>) -> Self {
        Self { over, most, rate }
    }

    /// Returns how many may run at this time since the start, and how fast they may start.
    pub(crate) fn at(&self, since: Duration) -> (usize, Option<Rate>) {
        let share = (since.as_secs_f64() / self.over.as_secs_f64().max(f64::EPSILON)).clamp(0.0, 1.0);
        let most = ((self.most as f64 * share).ceil() as usize).clamp(1, self.most.max(1));
        // A hundredth at least: a rate of nothing would never start anything.
        let rate = self.rate.map(|rate| Rate { per: rate.per.div_f64(share.max(0.01)), ..rate });
        (most, if share < 1.0 { rate } else { self.rate })
    }

    /// Returns true when it has grown to what was asked for.
    pub(crate) fn is_over(&self, since: Duration) -> bool {
        since >= self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_grow_evenly_to_what_is_set() {
        let second = Duration::from_secs(1);
        let rate = Rate { count: 100.0, per: second, burst: 3 };
        let ramp = Ramp::new(10 * second, 20, Some(rate));
        for (millis, most, per_s) in
            [(0, 1, 1.0), (100, 1, 1.0), (500, 1, 5.0), (2_600, 6, 26.0), (5_000, 10, 50.0), (9_900, 20, 99.0), (10_000, 20, 100.0)]
        {
            let (now, pace) = ramp.at(Duration::from_millis(millis));
            let pace = pace.unwrap();
            assert_eq!((now, pace.burst), (most, 3), "after {millis} ms");
            let found = pace.count / pace.per.as_secs_f64();
            assert!((found - per_s).abs() < 0.01, "after {millis} ms: {found}");
        }
        assert_eq!(ramp.at(99 * second), (20, Some(rate)));
        assert_eq!(Ramp::new(second, 3, None).at(second / 2), (2, None));
        assert!(ramp.is_over(10 * second) && !ramp.is_over(9 * second));
    }
}

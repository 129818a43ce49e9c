//! How times are spread: quantiles for people, buckets for a scrape.

use std::time::Duration;

use hdrhistogram::Histogram as Hdr;
use serde::{Deserialize, Serialize};

use crate::wire::seconds;

/// The upper bounds of all buckets, in seconds. Beyond the last one is only the count of all.
pub const BOUNDS: [f64; 20] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];

/// The same in nanoseconds.
const NANOS: [u64; BOUNDS.len()] = {
    let mut nanos = [0; BOUNDS.len()];
    let mut place = 0;
    while place < nanos.len() {
        nanos[place] = (BOUNDS[place] * 1e9 + 0.5) as u64;
        place += 1;
    }
    nanos
};

/// Longest time that quantiles know, in microseconds: an hour. Longer counts as an hour; the
/// maximum is exact.
const LONGEST: u64 = 3_600_000_000;

/// Times by bucket, as a scrape wants them: cumulative, with their number and sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Histogram {
    /// For each bound, in seconds, how many times were not longer.
    pub buckets: Vec<(f64, u64)>,
    /// Number of times, those beyond the last bound too.
    pub count: u64,
    /// Sum of the times, in seconds on the wire.
    #[serde(with = "seconds")]
    pub sum: Duration,
}

/// Quantiles of a time, within 1 %; microseconds at the finest. On the wire they are seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    /// The median.
    #[serde(with = "seconds")]
    pub p50: Duration,
    /// Nine of ten.
    #[serde(with = "seconds")]
    pub p90: Duration,
    /// Nineteen of twenty.
    #[serde(with = "seconds")]
    pub p95: Duration,
    /// Ninety-nine of a hundred.
    #[serde(with = "seconds")]
    pub p99: Duration,
    /// The longest, exactly.
    #[serde(with = "seconds")]
    pub max: Duration,
}

/// A time that tasks took, in both shapes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Timing {
    /// For people.
    pub quantiles: Quantiles,
    /// For a scrape. At the bounds it is as exact as the quantiles.
    pub histogram: Histogram,
}

/// Collects times by bucket: small and quick, for each label.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buckets {
    counts: [u64; NANOS.len()],
    count: u64,
    sum: u128,
}

impl Buckets {
    /// Adds a time in nanoseconds.
    #[inline]
    pub(crate) fn add(&mut self, nanos: u64) {
        let place = NANOS.partition_point(|bound| *bound < nanos);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.count += 1;
        self.sum += u128::from(nanos);
    }

    pub(crate) fn histogram(&self) -> Histogram {
        let buckets = cumulative(self.counts);
        Histogram { buckets, count: self.count, sum: Duration::from_nanos(u64::try_from(self.sum).unwrap_or(u64::MAX)) }
    }
}

fn cumulative(counts: [u64; BOUNDS.len()]) -> Vec<(f64, u64)> {
    let mut sum = 0;
    let add = |(bound, count)| {
        sum += count;
        (bound, sum)
    };
    BOUNDS.into_iter().zip(counts).map(add).collect()
}

/// Collects many times, exact to a hundredth: for what exists once in all that runs.
pub(crate) struct Spread {
    histogram: Hdr<u32>,
    longest: Duration,
    /// Sum in nanoseconds.
    sum: u128,
}

impl Spread {
    pub(crate) fn new() -> Self {
        let histogram = Hdr::new_with_bounds(1, LONGEST, 2).unwrap_or_else(|_| unreachable!("the bounds are constant and right"));
        Self { histogram, longest: Duration::ZERO, sum: 0 }
    }

    #[inline]
    pub(crate) fn add(&mut self, time: Duration) {
        self.add_many(time, 1);
    }

    /// Adds the same time this many times.
    #[inline]
    pub(crate) fn add_many(&mut self, time: Duration, count: u32) {
        self.histogram.saturating_record_n(micros(time), count);
        self.longest = self.longest.max(time);
        self.sum += time.as_nanos() * u128::from(count);
    }

    /// Adds times in nanoseconds. Tiny tasks take the same number of microseconds one after
    /// another: the histogram hears of them together.
    pub(crate) fn add_all(&mut self, times: impl Iterator<Item = u64>) {
        let (mut same, mut count, mut longest, mut sum) = (0, 0, 0, 0_u64);
        for nanos in times {
            longest = longest.max(nanos);
            sum = sum.saturating_add(nanos);
            let micros = (nanos / 1_000).max(1);
            if micros != same {
                if count > 0 {
                    self.histogram.saturating_record_n(same, count);
                }
                (same, count) = (micros, 0);
            }
            count += 1;
        }
        if count > 0 {
            self.histogram.saturating_record_n(same, count);
        }
        self.longest = self.longest.max(Duration::from_nanos(longest));
        self.sum += u128::from(sum);
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        let at = |quantile| Duration::from_micros(self.histogram.value_at_quantile(quantile)).min(self.longest);
        Quantiles { p50: at(0.50), p90: at(0.90), p95: at(0.95), p99: at(0.99), max: self.longest }
    }

    /// Returns both shapes. The buckets are made here, so that nothing is counted twice.
    pub(crate) fn timing(&self) -> Timing {
        let mut counts = [0; NANOS.len()];
        let mut all = 0;
        for step in self.histogram.iter_recorded() {
            let count = step.count_since_last_iteration();
            all += count;
            // Its lowest value, so that a time that is its bound is in that bucket.
            let micros = self.histogram.lowest_equivalent(step.value_iterated_to());
            let place = NANOS.partition_point(|bound| bound / 1_000 < micros);
            if let Some(place) = counts.get_mut(place) {
                *place += count;
            }
        }
        let sum = Duration::from_nanos(u64::try_from(self.sum).unwrap_or(u64::MAX));
        let histogram = Histogram { buckets: cumulative(counts), count: all, sum };
        Timing { quantiles: self.quantiles(), histogram }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_what_is_beyond_the_last_bound_counts_only_in_all() {
        let times = [50_000, 100_000, 100_001, 2_000_000_000, 7_200_000_000_000_u64];
        let (mut buckets, mut spread) = (Buckets::default(), Spread::new());
        times.iter().for_each(|nanos| buckets.add(*nanos));
        spread.add_all(times.into_iter());
        for (name, histogram, beyond) in [("exact", buckets.histogram(), 4), ("of quantiles", spread.timing().histogram, 5)] {
            let of = |le: f64| histogram.buckets.iter().find(|(bound, _)| *bound == le).map(|(_, count)| *count);
            assert_eq!((of(0.0005), of(1.0), of(2.5)), (Some(3), Some(3), Some(4)), "{name}");
            // Quantiles know nothing longer than an hour: it is in the last bucket there.
            assert_eq!((of(3600.0), histogram.count), (Some(beyond), 5), "{name}");
            assert_eq!(histogram.sum, Duration::from_nanos(times.iter().sum()), "{name}");
        }
        let exact = buckets.histogram();
        assert_eq!(exact.buckets[0], (0.0001, 2), "a time that is its bound is in that bucket");
    }
}

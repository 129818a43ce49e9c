//! The lease on what a consumer holds, which says whether it is still its own. It counts from the
//! broker's last confirmation, by a clock that counts the time for which the machine slept.
//!
//! A process that was stopped, or whose machine was suspended, goes on as if no time had passed;
//! others may have taken and done what it holds. So it looks at its lease before it starts
//! anything.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// A lease, as far as its holder knows.
#[derive(Debug)]
pub struct Lease {
    length: u64,
    /// Moment at which the last renewal was asked for that the broker has confirmed.
    renewed: AtomicU64,
    term: AtomicU64,
}

/// A time throughout which a lease was never over. What was claimed in one may be somebody else's
/// in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term(u64);

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Reads the clock of leases: nanoseconds since the machine started, those included for which it
/// slept.
pub fn clock() -> u64 {
    let now = clock_gettime(CLOCK);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

impl Lease {
    /// Makes one that begins now.
    pub fn new(length: Duration) -> Self {
        Self::at(length, clock())
    }

    /// Makes one that begins then, by the [clock] of leases or another that stands for it.
    pub fn at(length: Duration, now: u64) -> Self {
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self { length, renewed: AtomicU64::new(now), term: AtomicU64::new(1) }
    }

    /// Notes that the broker has confirmed, by now, a renewal that was asked for then. For one
    /// thread at a time.
    pub fn renewed(&self, asked: u64, now: u64) {
        if self.is_over(self.renewed.load(Ordering::Relaxed), now) {
            self.lose();
        }
        // Whoever sees this sees the new term.
        self.renewed.store(asked, Ordering::Release);
    }

    /// Notes that the broker has given away what was held: a new term begins.
    pub fn lose(&self) {
        self.term.fetch_add(1, Ordering::Release);
    }

    /// Returns the term that runs now; `None` while the lease is over.
    #[inline]
    pub fn term(&self, now: u64) -> Option<Term> {
        let renewed = self.renewed.load(Ordering::Acquire);
        (!self.is_over(renewed, now)).then(|| Term(self.term.load(Ordering::Acquire)))
    }

    /// Says whether it should have been renewed before now: the broker takes no renewals, maybe of
    /// nobody.
    pub fn is_late(&self, now: u64) -> bool {
        now.saturating_sub(self.renewed.load(Ordering::Acquire)) > self.length / 2
    }

    fn is_over(&self, renewed: u64, now: u64) -> bool {
        now.saturating_sub(renewed) >= self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_late_long_before_it_is_over() {
        let lease = Lease::at(Duration::from_nanos(600), 1000);
        for (now, late) in [(1000, false), (1200, false), (1300, false), (1301, true), (1600, true)] {
            assert_eq!(lease.is_late(now), late, "{now}");
        }
    }

    #[test]
    fn a_lease_that_was_over_for_a_moment_begins_a_new_term() {
        let lease = Lease::at(Duration::from_nanos(500), 1000);
        let first = lease.term(1000);
        assert!(first.is_some());
        assert_eq!(lease.term(1499), first);
        assert_eq!(lease.term(1500), None, "it is over");
        // When a renewal was asked for and confirmed; whether what was claimed before is still
        // ours, just after it and just before it would be over.
        for (asked, confirmed, ours) in [(1400, 1450, true), (1800, 1850, true), (2200, 2299, true), (2600, 2700, false)] {
            lease.renewed(asked, confirmed);
            assert_eq!(lease.term(confirmed) == first, ours, "{asked}");
            assert!(lease.term(asked + 499).is_some(), "{asked}");
            assert_eq!(lease.term(asked + 500), None, "{asked}: it counts from when it was asked for");
        }
    }

    #[test]
    fn what_the_broker_gave_away_is_not_ours_in_the_term_that_follows() {
        let lease = Lease::at(Duration::from_secs(5), 0);
        let before = lease.term(1);
        lease.lose();
        assert!(lease.term(1).is_some() && lease.term(1) != before);
    }

    #[test]
    fn the_clock_of_leases_goes_on() {
        let before = clock();
        std::thread::sleep(Duration::from_millis(2));
        assert!((2_000_000..60_000_000_000).contains(&(clock() - before)));
    }
}

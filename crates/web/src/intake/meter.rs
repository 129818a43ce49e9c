//! The leaky bucket in front of the intake, as a meter: what fits is sent at once and fills it by
//! one; it leaks at its rate.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use longshore_core::{Rate, gate::pace::Pace};

/// A bucket that all requests share. Its capacity is the burst of its rate.
#[derive(Debug)]
pub(super) struct Meter(Mutex<MeterState>);

#[derive(Debug)]
struct MeterState {
    pace: Pace,
    interval: Duration,
    /// Time at which it is empty, if nothing more comes.
    empty_at: Option<Instant>,
    idle: Duration,
}

impl Meter {
    /// Makes an empty one.
    pub(super) fn new(rate: Rate) -> Self {
        Self(Mutex::new(MeterState { pace: Pace::new(rate), interval: rate.interval(), empty_at: None, idle: Duration::ZERO }))
    }

    /// Fills it by one, if that fits.
    ///
    /// # Errors
    /// The time after which one fits, if nobody else comes.
    pub(super) fn offer(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state();
        let fits_at = state.pace.slot(now);
        if fits_at > now {
            return Err(fits_at - now);
        }
        let empty = state.empty_at.map_or(Duration::ZERO, |empty_at| now.saturating_duration_since(empty_at));
        state.idle += empty;
        state.pace.take(now);
        state.empty_at = now.checked_add(state.interval.mul_f64(state.pace.level(now)));
        Ok(())
    }

    /// Returns for how long it was empty since the first one came: what could have leaked then did
    /// not.
    pub(super) fn idle(&self) -> Duration {
        self.state().idle
    }

    fn state(&self) -> MutexGuard<'_, MeterState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(count: f64, per: u64, capacity: u32) -> Rate {
        Rate { count, per: Duration::from_secs(per), burst: capacity }
    }

    #[test]
    fn what_fits_is_let_in_at_once_and_whoever_comes_at_the_time_that_was_told_fits() {
        // Rate, capacity; offers at these times (ms) and what each is told: none fits, or the wait.
        type Row<'a> = (Rate, &'a [(u64, Option<u64>)]);
        let rows: [Row<'_>; 4] = [
            (
                rate(10.0, 1, 2),
                &[(0, None), (0, None), (0, Some(100)), (99, Some(1)), (100, None), (100, Some(100)), (1_000, None), (1_000, None)],
            ),
            (rate(1.0, 1, 1), &[(0, None), (1, Some(999)), (1_000, None), (1_999, Some(1))]),
            (rate(1.0, 60, 3), &[(0, None), (0, None), (0, None), (0, Some(60_000)), (59_000, Some(1_000)), (60_000, None)]),
            // It holds no more than its capacity, however long nobody came.
            (rate(10.0, 1, 2), &[(60_000, None), (60_000, None), (60_000, Some(100))]),
        ];
        for (rate, offers) in rows {
            let (base, meter) = (Instant::now(), Meter::new(rate));
            for (at, expected) in offers {
                let told = meter.offer(base + Duration::from_millis(*at)).err();
                assert_eq!(told, expected.map(Duration::from_millis), "{rate:?} at {at}");
            }
        }
    }

    #[test]
    fn the_time_in_which_it_was_empty_is_told() {
        let (base, meter) = (Instant::now(), Meter::new(rate(10.0, 1, 3)));
        // Two leak out by 200 ms, the third by 300, the fourth by 400.
        for (at, idle) in [(0, 0), (0, 0), (150, 0), (250, 0), (1_000, 600), (1_050, 600), (2_000, 1_400)] {
            meter.offer(base + Duration::from_millis(at)).unwrap();
            assert_eq!(meter.idle(), Duration::from_millis(idle), "at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_window_lets_in_more_than_capacity_and_leak(
            capacity in 1_u32..20,
            count in 1_u32..500,
            gaps in proptest::collection::vec(0_u64..40, 1..400),
        ) {
            let (base, meter) = (Instant::now(), Meter::new(rate(f64::from(count), 1, capacity)));
            let (mut at, mut taken) = (0, Vec::new());
            for gap in gaps {
                at += gap;
                let now = base + Duration::from_millis(at);
                match meter.offer(now) {
                    Ok(()) => taken.push(at),
                    Err(wait) => {
                        // A moment before it does not fit, then it does; nothing is taken by
                        // asking.
                        prop_assert!(meter.offer(now + wait - Duration::from_nanos(1)).is_err());
                    }
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let most = f64::from(capacity) + f64::from(count) * (to - from) as f64 / 1_000.0;
                    prop_assert!((last - first + 1) as f64 <= most + 1e-6, "{} in {} ms", last - first + 1, to - from);
                }
            }
        }
    }
}

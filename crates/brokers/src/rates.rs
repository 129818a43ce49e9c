//! A rate that all workers of a broker share: a leaky bucket by slot reservation, as in `core`'s
//! `gate/README.md`, held in the broker's store.
//!
//! Of a bucket one number is stored: `next`, when it would be empty if nothing more came in.
//! Nothing is reserved further ahead than [`AHEAD`], so that slots of a worker that stops are lost
//! for that long at most, and `next` never lies further ahead than that and one interval: whatever
//! lies beyond was stored under a slower rate or by a clock that was set back, and is taken for
//! that. All in whole microseconds; what Redis does is `scripts/reserve.lua`.

use std::time::Duration;

use longshore_core::Rate;

/// Longest time ahead for which slots are reserved.
pub const AHEAD: Duration = Duration::from_secs(2);

/// Character in a limit's name before the part that says which of its buckets is meant (`by`):
/// `api.example\u{1f}host-1`.
pub const BUCKET: char = '\u{1f}';

/// Returns the limit whose bucket it is.
pub(crate) fn limit_of(name: &str) -> &str {
    name.split(BUCKET).next().unwrap_or(name)
}

/// Step in microseconds to which the waits of those who asked in vain are rounded up: they ask
/// together with others, so that one call serves many.
const STEP: u64 = 250_000;
/// The longest interval in microseconds, ten years: sums of it are still exact in a double, which
/// is what scripts count with.
const LONGEST: u64 = 86_400 * 3650 * 1_000_000;

/// Answer to whoever asked for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// It is reserved, and begins after this time.
    Reserved(Duration),
    /// The next slots are others': none is reserved, and it is worth asking again after this time.
    Ask(Duration),
}

/// A bucket as one call asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Between two slots.
    pub(crate) interval: u64,
    /// Time by which a slot may begin before its place in the even series: the burst.
    pub(crate) span: u64,
}

impl Bucket {
    pub(crate) fn of(rate: Rate) -> Self {
        // Rounded up, so that the rate is never exceeded; a million a second is the most.
        let interval = u64::try_from(rate.interval().as_nanos().div_ceil(1000)).unwrap_or(LONGEST).clamp(1, LONGEST);
        Self { interval, span: interval.saturating_mul(u64::from(rate.burst.max(1)) - 1).min(LONGEST) }
    }

    /// Makes a bucket of two numbers that were stored, and may be anything.
    #[cfg(any(feature = "sqlite", feature = "redis"))]
    pub(crate) fn stored(interval: u64, span: u64) -> Self {
        Self { interval: interval.clamp(1, LONGEST), span: span.min(LONGEST) }
    }

    /// Returns the rate that it keeps.
    pub(crate) fn rate(self) -> Rate {
        let burst = (self.span / self.interval).saturating_add(1).try_into().unwrap_or(u32::MAX);
        Rate { count: 1.0, per: Duration::from_micros(self.interval), burst }
    }

    /// Returns how far ahead, from now, the even series may be reserved.
    pub(crate) fn reach(self) -> u64 {
        AHEAD.as_micros() as u64 + self.span
    }

    /// Reserves up to `count` slots of a bucket whose stored number is `next`: what is to be
    /// stored, and what came of it.
    pub(crate) fn reserve(self, next: u64, now: u64, count: usize) -> (u64, Vec<Slot>) {
        let (reach, interval) = (now + self.reach(), self.interval);
        let from = next.clamp(now, reach + interval);
        let room = if from <= reach { (reach - from) / interval + 1 } else { 0 };
        let given = room.min(count as u64);
        (from + given * interval, self.slots(from - now, given, count))
    }

    /// Returns the slots of a call: the first is `from` after now in the even series, and the first
    /// `given` of them are reserved.
    pub(crate) fn slots(self, from: u64, given: u64, count: usize) -> Vec<Slot> {
        let slot = |place: u64| {
            let wait = from.saturating_add(place.saturating_mul(self.interval)).saturating_sub(self.span);
            if place < given {
                Slot::Reserved(Duration::from_micros(wait))
            } else {
                let early = wait.saturating_sub(AHEAD.as_micros() as u64);
                Slot::Ask(Duration::from_micros((early / STEP + 1) * STEP))
            }
        };
        (0..count as u64).map(slot).collect()
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    fn waits(slots: &[Slot]) -> Vec<i64> {
        let millis = |wait: &Duration| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        slots.iter().map(|slot| if let Slot::Reserved(wait) = slot { millis(wait) } else { -1 }).collect()
    }

    #[test]
    fn slots_are_evenly_spaced_after_the_burst() {
        for (burst, expected) in [(1, [0, 100, 200, 300]), (3, [0, 0, 0, 100])] {
            let (next, slots) = Bucket::of(Rate::per_second(10.0).burst(burst)).reserve(0, NOW, 4);
            assert_eq!((next, waits(&slots)), (NOW + 400_000, expected.to_vec()));
        }
    }

    #[test]
    fn nothing_is_reserved_further_ahead_than_two_seconds() {
        let bucket = Bucket::of(Rate::per_second(10.0));
        let (next, slots) = bucket.reserve(0, NOW, 30);
        let reserved = slots.iter().filter(|slot| matches!(slot, Slot::Reserved(_))).count();
        assert_eq!((next, reserved), (NOW + 2_100_000, 21));
        // The slot 2.1 s ahead can be reserved in 0.1 s, the one 2.9 s ahead in 0.9 s.
        assert_eq!((slots[21], slots[29]), (Slot::Ask(Duration::from_millis(250)), Slot::Ask(Duration::from_secs(1))));
        let (again, slots) = bucket.reserve(next, NOW, 1);
        assert_eq!((again, slots[0]), (next, Slot::Ask(Duration::from_millis(250))));
    }

    #[test]
    fn a_faster_rate_takes_effect_behind_what_is_reserved() {
        let hourly = Bucket::of(Rate { count: 1.0, per: Duration::from_secs(3600), burst: 1 });
        let (next, slots) = hourly.reserve(0, NOW, 2);
        assert_eq!((next, waits(&slots)), (NOW + 3_600_000_000, vec![0, -1]));
        let quick = Bucket::of(Rate::per_second(10.0));
        let (next, slots) = quick.reserve(next, NOW, 1);
        assert_eq!((next, slots[0]), (NOW + 2_100_000, Slot::Ask(Duration::from_millis(250))));
        assert_eq!(waits(&quick.reserve(next, NOW + 250_000, 2).1), [1850, 1950]);
    }

    #[test]
    fn a_bucket_that_was_stored_keeps_its_rate() {
        for (rate, per_second, burst) in [(Rate::per_second(10.0).burst(3), 10.0, 3), (Rate::per_second(0.5), 0.5, 1)] {
            let bucket = Bucket::of(rate);
            let again = Bucket::stored(bucket.interval, bucket.span);
            let rate = again.rate();
            assert_eq!((again, rate.count / rate.per.as_secs_f64(), rate.burst), (bucket, per_second, burst));
        }
        assert_eq!(Bucket::stored(0, u64::MAX).interval, 1);
        assert_eq!((limit_of("a.b\u{1f}host"), limit_of("a.b")), ("a.b", "a.b"));
    }

    #[test]
    fn rates_without_sense_have_slots_that_can_be_counted_with() {
        for count in [0.0, -1.0, f64::NAN, 1e-300, 1e300, f64::INFINITY] {
            for burst in [1, u32::MAX] {
                let bucket = Bucket::of(Rate { count, per: Duration::from_secs(3600), burst });
                let (next, slots) = bucket.reserve(u64::MAX, NOW, 1000);
                assert!(next < 1 << 53 && slots.len() == 1000, "{count} {burst}: {next}");
                assert!(bucket.reserve(next, NOW, 1).0 < 1 << 53);
            }
        }
    }
}

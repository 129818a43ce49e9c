//! Time as an input of the engine.

use std::time::{Duration, Instant};

use longshore_sys::clock::Ticks;

use crate::stamp::Stamp;

/// Source of the engine's time. Timers are always tokio's; on a paused tokio clock use
/// [`Clock::TOKIO`], so that both agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    read: fn() -> Instant,
    /// Nobody can pause it, so that the processor's ticks may stand for it.
    steady: bool,
}

impl Clock {
    /// The system's monotonic clock.
    pub const SYSTEM: Clock = Clock { read: Instant::now, steady: true };
    /// The clock of the tokio runtime, which tests can pause and advance.
    pub const TOKIO: Clock = Clock { read: || tokio::time::Instant::now().into_std(), steady: false };

    /// Returns whether nobody can pause it.
    pub(crate) fn is_steady(self) -> bool {
        self.steady
    }

    /// The time now.
    #[inline]
    pub fn now(self) -> Instant {
        (self.read)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::SYSTEM
    }
}

/// Ticks after which the clock itself is read again: one or two milliseconds.
const NEAR: u64 = 1 << 22;
/// The clock and the counter were not read in one go if this many ticks (about a microsecond) lie
/// between: the thread was interrupted.
const APART: u64 = 1 << 11;
/// Time to watch clock and counter for the first estimate of a tick, and for the next ones.
const FIRST_ESTIMATE: Duration = Duration::from_millis(10);
const ESTIMATE: Duration = Duration::from_secs(1);
/// Two estimates of a tick that differ by more than this part of it are not of the same clock: the
/// machine was suspended, say.
const ALIKE: u64 = 500;

/// Tells the time for every attempt. What lies between two readings of the clock itself it counts
/// in the processor's ticks, where those can be trusted, because to read a clock takes a fifth of a
/// no-op's time. It is mostly well below a microsecond off, never by more than the time between two
/// readings, and does not drift. The clock's next reading may lie as little before what was counted
/// last.
pub(crate) struct Stopwatch {
    clock: Clock,
    ticks: Option<Ticks>,
    /// The last reading of the clock, with the counter beside it.
    last: (Stamp, u64),
    /// Nanoseconds a tick lasts, times 2³²; 0: not known yet.
    scale: u64,
    /// Beginning of the present estimate of a tick, and the time of its beginning or end.
    began: Option<(Stamp, u64)>,
    due: Stamp,
}

impl Stopwatch {
    pub(crate) fn new(clock: Clock) -> Self {
        let ticks = if clock.steady { Ticks::trusted() } else { None };
        let now = Stamp::from(clock.now());
        Self { clock, ticks, last: (now, 0), scale: 0, began: None, due: now }
    }

    /// The time now, from the clock.
    #[inline]
    pub(crate) fn read_clock(&mut self) -> Stamp {
        let Some(ticks) = self.ticks else { return Stamp::from(self.clock.now()) };
        let before = ticks.read();
        let now = Stamp::from(self.clock.now());
        let after = ticks.read();
        // Interrupted in between: until the next reading the clock itself is asked.
        let apart = after.wrapping_sub(before) > APART;
        self.last = (now, if apart { after.wrapping_sub(NEAR) } else { after });
        if now >= self.due && !apart {
            self.estimate(now, after);
        }
        now
    }

    /// The time now, from the counter if the clock was read a short while ago.
    #[inline]
    pub(crate) fn now(&mut self) -> Stamp {
        if let Some(ticks) = self.ticks {
            let passed = ticks.read().wrapping_sub(self.last.1);
            if passed < NEAR && self.scale > 0 {
                return self.last.0.plus_nanos((passed * self.scale) >> 32);
            }
        }
        self.read_clock()
    }

    /// Returns the length of a tick, from what the clock and the counter say has passed.
    #[cold]
    fn estimate(&mut self, now: Stamp, count: u64) {
        let before = self.scale;
        self.scale = self.began.map_or(0, |(since, from)| scale(now.nanos_since(since), count.wrapping_sub(from)));
        let alike = before == 0 || self.scale.abs_diff(before) <= before / ALIKE;
        if !alike {
            self.scale = 0;
        }
        self.due = now + if self.scale == 0 { FIRST_ESTIMATE } else { ESTIMATE };
        self.began = Some((now, count));
    }
}

/// Nanoseconds a tick lasts, times 2³²; 0 for what is no counter of time, or none that can be
/// multiplied.
fn scale(nanos: u64, ticks: u64) -> u64 {
    let scale = (u128::from(nanos) << 32) / u128::from(ticks.max(1));
    u64::try_from(scale).ok().filter(|scale| scale.checked_mul(NEAR).is_some()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopwatch_agrees_with_its_clock() {
        let mut watch = Stopwatch::new(Clock::SYSTEM);
        let mut worst = Duration::ZERO;
        let mut off = Vec::new();
        let until = Instant::now() + Duration::from_millis(60);
        let mut counted = 0;
        while Instant::now() < until {
            let before = Stamp::from(Instant::now());
            let now = watch.now();
            let after = Stamp::from(Instant::now());
            let gap = before.since(now).max(now.since(after));
            worst = worst.max(gap);
            off.push(gap);
            counted += usize::from(watch.scale > 0);
            if watch.due < now {
                watch.read_clock();
            }
        }
        off.sort_unstable();
        // Where this thread was interrupted between two readings it is off by that; else by next to
        // nothing.
        assert!(off[off.len() * 9 / 10] < Duration::from_micros(5), "worst {worst:?}");
        assert!(worst < Duration::from_millis(50), "worst {worst:?}");
        assert!(watch.ticks.is_none() || counted > off.len() / 2, "{counted} of {} were counted", off.len());
    }

    #[test]
    fn an_estimate_that_is_not_like_the_one_before_is_not_believed() {
        let mut watch = Stopwatch::new(Clock::SYSTEM);
        let start = watch.last.0;
        let (mut now, mut count) = (start, 0);
        let mut estimate = |nanos: u64, ticks: u64| {
            (now, count) = (now.plus_nanos(nanos), count + ticks);
            watch.estimate(now, count);
            (watch.scale, watch.due.since(now))
        };
        assert_eq!(estimate(0, 0), (0, FIRST_ESTIMATE));
        assert_eq!(estimate(10_000_000, 20_000_000), (1 << 31, ESTIMATE));
        assert_eq!(estimate(1_000_000_000, 2_000_000_000), (1 << 31, ESTIMATE));
        assert_eq!(estimate(1_000_000_000, 9_000_000_000), (0, FIRST_ESTIMATE), "suspended: the counter went on, the clock did not");
        assert_eq!(estimate(10_000_000, 20_000_000), (1 << 31, ESTIMATE));
        assert_eq!(scale(u64::MAX, 1), 0, "no counter of time");
    }

    #[test]
    fn a_clock_that_can_be_paused_is_not_counted_in_ticks() {
        assert!(Stopwatch::new(Clock::TOKIO).ticks.is_none());
    }
}

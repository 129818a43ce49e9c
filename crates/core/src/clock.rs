//! Time as an input of the engine.

use std::time::{Duration, Instant};

use longshore_sys::clock::Ticks;

use crate::stamp::Stamp;

/// Where the engine reads the time. Timers are always tokio's; on a paused tokio clock use [`Clock::TOKIO`], so that both agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    read: fn() -> Instant,
    /// It goes on by itself, at the pace of the processor's counter.
    steady: bool,
}

impl Clock {
    /// The system's monotonic clock.
    pub const SYSTEM: Clock = Clock { read: Instant::now, steady: true };
    /// The clock of the tokio runtime, which tests can pause and advance.
    pub const TOKIO: Clock = Clock { read: || tokio::time::Instant::now().into_std(), steady: false };

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

/// Ticks after which the clock itself is read again: about a millisecond.
const NEAR: u64 = 1 << 22;
/// The clock and the counter were not read in one go if this many ticks (less than a microsecond) lie between: the thread was interrupted.
const APART: u64 = 1 << 11;
/// How long to watch clock and counter for the first estimate of a tick, and for the next ones.
const FIRST_ESTIMATE: Duration = Duration::from_millis(10);
const ESTIMATE: Duration = Duration::from_secs(1);

/// Reads a clock once for every attempt. What lies between two readings of the clock itself, at most a millisecond apart, it counts in the processor's
/// ticks, where those can be trusted, because to read a clock takes a fifth of a no-op's time. It is at most a microsecond off, and does not drift.
pub(crate) struct Stopwatch {
    clock: Clock,
    ticks: Option<Ticks>,
    /// The last reading of the clock, with the counter beside it.
    last: (Stamp, u64),
    /// Nanoseconds a tick lasts, times 2³²; 0: not known yet.
    scale: u64,
    /// Where the present estimate of a tick began, and when it is to begin or to end.
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
        let now = Stamp::from(self.clock.now());
        if let Some(ticks) = self.ticks {
            self.last = (now, ticks.read());
            if now >= self.due {
                self.estimate(ticks);
            }
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

    /// How long a tick lasts, from what the clock and the counter say has passed.
    #[cold]
    fn estimate(&mut self, ticks: Ticks) {
        let before = ticks.read();
        let now = Stamp::from(self.clock.now());
        let after = ticks.read();
        if after.wrapping_sub(before) > APART {
            return;
        }
        if let Some((since, from)) = self.began {
            let scale = (u128::from(now.nanos_since(since)) << 32) / u128::from(after.wrapping_sub(from).max(1));
            // What `now` could not multiply is no counter of time.
            self.scale = u64::try_from(scale).ok().filter(|scale| scale.checked_mul(NEAR).is_some()).unwrap_or(0);
        }
        self.due = now + if self.began.is_some() { ESTIMATE } else { FIRST_ESTIMATE };
        self.began = Some((now, after));
    }
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
        // Where this thread was interrupted between two readings it is off by that; else by next to nothing.
        assert!(off[off.len() * 9 / 10] < Duration::from_micros(5), "worst {worst:?}");
        assert!(worst < Duration::from_millis(50), "worst {worst:?}");
        assert!(watch.ticks.is_none() || counted > off.len() / 2, "{counted} of {} were counted", off.len());
    }

    #[test]
    fn a_clock_that_can_be_paused_is_not_counted_in_ticks() {
        assert!(Stopwatch::new(Clock::TOKIO).ticks.is_none());
    }
}

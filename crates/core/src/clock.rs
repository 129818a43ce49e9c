//! Time as an input of the engine.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

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
    /// The system's monotonic clock, which stands still while this process is stopped
    /// ([`stand_still`]).
    pub const SYSTEM: Clock = Clock { read: now, steady: true };
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

/// Says that [`STANDSTILL`] has to be asked: this process was stopped, or is about to be.
static STOOD_STILL: AtomicBool = AtomicBool::new(false);

/// Time for which this process was stopped, and since when it stands still now.
static STANDSTILL: Mutex<(Duration, Option<Instant>)> = Mutex::new((Duration::ZERO, None));

/// Returns the time of the monotonic clock, less what this process was stopped: that is nobody's
/// latency and runs into nobody's time limit.
#[inline]
pub(crate) fn now() -> Instant {
    if STOOD_STILL.load(Ordering::Acquire) { moved() } else { Instant::now() }
}

#[cold]
fn moved() -> Instant {
    let (stopped, since) = *standstill();
    let now = since.unwrap_or_else(Instant::now);
    now.checked_sub(stopped).unwrap_or(now)
}

fn standstill() -> MutexGuard<'static, (Duration, Option<Instant>)> {
    STANDSTILL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the time for which this process was stopped: so much later a timer of the system has to
/// be set.
pub(crate) fn stopped() -> Duration {
    if STOOD_STILL.load(Ordering::Acquire) { standstill().0 } else { Duration::ZERO }
}

/// Lets [`Clock::SYSTEM`] stand still while this runs, which stops the process until somebody lets
/// it go on, as Ctrl-Z and `fg` do. What lies between is nobody's latency and runs into nobody's
/// time limit.
pub fn stand_still(stop: impl FnOnce()) {
    let began = Instant::now();
    // Before it stops: other threads may wake up before this one does.
    standstill().1 = Some(began);
    STOOD_STILL.store(true, Ordering::Release);
    stop();
    let mut standstill = standstill();
    standstill.0 += began.elapsed();
    standstill.1 = None;
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

/// Nanoseconds a tick lasts, times 2³², as the last stopwatch has found; 0: not known yet.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// Measures how long something takes, at less than half of what two readings of a clock cost. For
/// judging what is slow: where the machine was suspended meanwhile it is wrong.
pub(crate) enum Lap {
    /// The count as it began, and how long a tick lasted then: what others find meanwhile is not
    /// its concern.
    Ticks(Ticks, u64, u64),
    Clock(Clock, Instant),
}

impl Lap {
    /// Begins, on this clock.
    #[inline]
    pub(crate) fn begin(clock: Clock) -> Self {
        let scale = SCALE.load(Ordering::Relaxed);
        match Ticks::trusted() {
            Some(ticks) if clock.steady && scale > 0 => Self::Ticks(ticks, ticks.read(), scale),
            _ => Self::Clock(clock, clock.now()),
        }
    }

    /// Returns the time since it began.
    #[inline]
    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Self::Ticks(ticks, began, scale) => {
                let passed = u128::from(ticks.read().wrapping_sub(*began)) * u128::from(*scale);
                Duration::from_nanos(u64::try_from(passed >> 32).unwrap_or(u64::MAX))
            }
            Self::Clock(clock, began) => clock.now().saturating_duration_since(*began),
        }
    }
}

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
        let scale = if ticks.is_some() { SCALE.load(Ordering::Relaxed) } else { 0 };
        Self { clock, ticks, last: (now, 0), scale, began: None, due: now }
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
            SCALE.store(self.scale, Ordering::Relaxed);
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
        if let Some((since, from)) = self.began {
            let before = self.scale;
            self.scale = scale(now.nanos_since(since), count.wrapping_sub(from));
            let alike = before == 0 || self.scale.abs_diff(before) <= before / ALIKE;
            if !alike {
                self.scale = 0;
            }
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

    /// One clock for all tests of this process.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_time_in_which_the_process_stands_still_is_left_out() {
        let _alone = ALONE.lock();
        // The real clock is read first and last: however this thread is held up, it has more.
        let (real, began) = (Instant::now(), now());
        let mut inside = Vec::new();
        stand_still(|| {
            inside.push(now());
            std::thread::sleep(Duration::from_millis(5));
            inside.push(now());
        });
        let passed = now() - began;
        let real = real.elapsed();
        assert_eq!(inside[0], inside[1], "another thread that wakes up first sees no leap");
        assert!(stopped() >= Duration::from_millis(5));
        assert!(real - passed >= Duration::from_millis(5), "{real:?} {passed:?}");
    }

    #[test]
    fn a_stopwatch_agrees_with_its_clock() {
        let _alone = ALONE.lock();
        let mut watch = Stopwatch::new(Clock::SYSTEM);
        let mut worst = Duration::ZERO;
        let mut off = Vec::new();
        let until = Instant::now() + Duration::from_millis(60);
        let mut counted = 0;
        while Instant::now() < until {
            let before = Stamp::from(now());
            let told = watch.now();
            let after = Stamp::from(now());
            let gap = before.since(told).max(told.since(after));
            worst = worst.max(gap);
            off.push(gap);
            counted += usize::from(watch.scale > 0);
            if watch.due < told {
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
    fn a_lap_agrees_with_its_clock_whether_ticks_are_known_or_not() {
        let _alone = ALONE.lock();
        let mut watch = Stopwatch::new(Clock::SYSTEM);
        for known in [false, true] {
            if !known {
                SCALE.store(0, Ordering::Relaxed);
            }
            while known && watch.ticks.is_some() && SCALE.load(Ordering::Relaxed) == 0 {
                watch.read_clock();
            }
            // What runs in other tests tells of its ticks, too.
            let are_known = || SCALE.load(Ordering::Relaxed) > 0 && watch.ticks.is_some();
            let before = are_known();
            let (outer, lap, inner) = (Instant::now(), Lap::begin(Clock::SYSTEM), Instant::now());
            let stays = before == are_known();
            std::thread::sleep(Duration::from_millis(5));
            let (least, told, most) = (inner.elapsed(), lap.elapsed(), outer.elapsed());
            let off = Duration::from_micros(50);
            assert!(least.saturating_sub(off) <= told && told <= most + off, "{least:?} {told:?} {most:?}");
            assert!(!stays || matches!(lap, Lap::Ticks(..)) == before);
        }
    }

    #[test]
    fn an_estimate_that_is_not_like_the_one_before_is_not_believed() {
        let mut watch = Stopwatch::new(Clock::SYSTEM);
        watch.scale = 0;
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

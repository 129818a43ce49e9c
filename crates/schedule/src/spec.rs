//! What a schedule says, and when it is due next.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, tz::TimeZone};

use crate::{cron::CronPattern, zone};

/// How late a due time may be and is still run by a schedule that [skips](MissedPolicy::Skip) what
/// was missed: longer than another scheduler needs to take over.
pub const LATE: Duration = Duration::from_secs(60);

/// Shortest interval.
const SHORTEST: Duration = Duration::from_millis(100);

/// When a task is due, and what becomes of times at which nobody was there to send it.
/// ```
/// use std::time::{Duration, SystemTime};
/// use longshore_schedule::{ScheduleSpec, Timing};
///
/// let spec = ScheduleSpec::new(Timing::every(Duration::from_secs(60))?);
/// let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
/// let next = spec.next(begun, None, begun, 0).expect("an interval has no end");
/// assert_eq!(next.due, begun + Duration::from_secs(60));
///
/// let nightly = ScheduleSpec::new(Timing::cron("30 2 * * *", Some("Europe/Berlin"), false)?);
/// assert_eq!(nightly.timing.to_string(), "30 2 * * * Europe/Berlin");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScheduleSpec {
    /// The times themselves.
    pub timing: Timing,
    /// Longest time by which a run is put off, by chance, so that not all begin at once; never more
    /// than half of the time until the next one, which would be sent in its place.
    pub jitter: Duration,
    /// What becomes of due times that have passed.
    pub missed: MissedPolicy,
}

/// Times at which something is due.
#[derive(Clone)]
pub struct Timing(Kind);

#[derive(Clone)]
enum Kind {
    Cron { text: String, zone_name: Option<String>, both_days: bool, pattern: Box<CronPattern>, zone: TimeZone },
    Every(Duration),
}

/// What becomes of due times that have passed, because no scheduler was there or the schedule was
/// held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MissedPolicy {
    /// Only the latest is run, and only where it is [not late](LATE).
    Skip,
    /// The latest is run, however late; the others are skipped.
    #[default]
    Once,
    /// The latest so many are run, in order.
    All(u32),
}

/// The due time that is to be run next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NextDue {
    /// The due time, by which a run is known.
    pub due: SystemTime,
    /// Time at which it is sent: the due time and its jitter.
    pub at: SystemTime,
    /// True where due times before it are left out.
    pub skips: bool,
    /// Time until which this is the answer, while nothing is run: then another due time passes, or
    /// this one is too late. `None`: it stays so.
    pub until: Option<SystemTime>,
}

impl Timing {
    /// Makes the times of five fields of cron (or `@daily` and its like), by the clock of a zone of
    /// the IANA database; UTC without one. Where both the day of the month and the day of the week
    /// are named, one of them is enough for cron; `both_days` asks for both, as Celery does.
    ///
    /// # Errors
    /// The text: what is wrong with it.
    pub fn cron(text: &str, zone: Option<&str>, both_days: bool) -> Result<Self, String> {
        let pattern = Box::new(CronPattern::parse(text, both_days)?);
        let tz = match zone {
            None | Some("UTC") => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| {
                format!("the time zone {name:?} is not known here; names are those of the IANA database, as in Europe/Berlin (Debian: apt install tzdata)")
            })?,
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self(Kind::Cron { text, zone_name: zone.map(str::to_owned), both_days, pattern, zone: tz }))
    }

    /// Makes times that lie so far apart, to the millisecond, counted from when the schedule was
    /// made.
    ///
    /// # Errors
    /// It is shorter than 100 ms, or longer than a century.
    pub fn every(period: Duration) -> Result<Self, String> {
        if period < SHORTEST || period > Duration::from_secs(100 * 366 * 86_400) {
            return Err(format!("an interval of {period:?}; the shortest is 100 ms, the longest a century"));
        }
        Ok(Self(Kind::Every(Duration::from_millis(u64::try_from(period.as_millis()).unwrap_or(u64::MAX)))))
    }

    /// Returns the fields, the zone, and whether both fields of days must match; `None` for an
    /// interval.
    pub fn as_cron(&self) -> Option<(&str, Option<&str>, bool)> {
        match &self.0 {
            Kind::Cron { text, zone_name, both_days, .. } => Some((text, zone_name.as_deref(), *both_days)),
            Kind::Every(_) => None,
        }
    }

    /// Returns the interval; `None` for cron.
    pub fn as_every(&self) -> Option<Duration> {
        match &self.0 {
            Kind::Cron { .. } => None,
            Kind::Every(period) => Some(*period),
        }
    }

    /// Returns the first due time after this one, of a schedule that began at `since`.
    pub fn after(&self, since: SystemTime, after: SystemTime) -> Option<SystemTime> {
        match &self.0 {
            Kind::Cron { pattern, zone, .. } => {
                let after = Timestamp::try_from(after).ok()?;
                zone::next(pattern, zone, after).map(SystemTime::from)
            }
            Kind::Every(period) => {
                let passed = after.duration_since(since).unwrap_or_default();
                let turns = passed.as_nanos() / period.as_nanos() + 1;
                let ahead = u64::try_from(turns * period.as_nanos()).ok()?;
                since.checked_add(Duration::from_nanos(ahead))
            }
        }
    }

    /// Returns the latest `most` due times behind `base` and not after `now`, in order, and whether
    /// there are more of them.
    fn passed(&self, since: SystemTime, base: SystemTime, now: SystemTime, most: usize) -> (Vec<SystemTime>, bool) {
        // Looked for in ever longer stretches before now: there may be years of them.
        let mut stretch = match &self.0 {
            Kind::Every(period) => period.saturating_mul(u32::try_from(most).unwrap_or(u32::MAX).saturating_add(1)),
            Kind::Cron { .. } => Duration::from_secs(60).saturating_mul(u32::try_from(most).unwrap_or(u32::MAX)),
        };
        loop {
            let from = now.checked_sub(stretch).map_or(base, |from| from.max(base));
            let mut times = std::collections::VecDeque::new();
            let mut more = false;
            let mut at = from;
            while let Some(due) = self.after(since, at).filter(|due| *due <= now) {
                times.push_back(due);
                if times.len() > most {
                    times.pop_front();
                    more = true;
                }
                at = due;
            }
            if times.len() == most || from == base {
                let earlier = times.front().is_some_and(|first| self.after(since, base).is_some_and(|due| due < *first));
                return (times.into(), more || earlier);
            }
            stretch = stretch.saturating_mul(4);
        }
    }
}

/// As people write it: the fields and the zone, or `every 30s`.
impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Cron { text, zone_name, both_days, .. } => {
                write!(f, "{text} {}", zone_name.as_deref().unwrap_or("UTC"))?;
                if *both_days { f.write_str(", both days") } else { Ok(()) }
            }
            Kind::Every(period) => {
                let (seconds, rest) = (period.as_secs(), period.subsec_nanos());
                let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
                match units.iter().find(|(unit, _)| rest == 0 && seconds % unit == 0) {
                    Some((unit, name)) => write!(f, "every {}{name}", seconds / unit),
                    None => write!(f, "every {}s", period.as_secs_f64()),
                }
            }
        }
    }
}

impl fmt::Debug for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Timing {
    fn eq(&self, other: &Self) -> bool {
        self.as_cron() == other.as_cron() && self.as_every() == other.as_every()
    }
}

impl ScheduleSpec {
    /// Makes a schedule without jitter that runs the latest of what was missed.
    pub fn new(timing: Timing) -> Self {
        Self { timing, jitter: Duration::ZERO, missed: MissedPolicy::default() }
    }

    /// Sets the longest time by which a run is put off.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets what becomes of due times that have passed.
    #[must_use]
    pub fn missed(mut self, missed: MissedPolicy) -> Self {
        self.missed = missed;
        self
    }

    /// Returns what is to be run next of a schedule that began at `since` and whose last due time
    /// was `last`; `None`: nothing is due ever again. The same answer wherever it is asked: chance
    /// is made of `seed` and the due time.
    ///
    /// Due times are behind both `since` and `last`, so a clock that was put back runs nothing
    /// twice. One that was put forward brings no more than the policy allows.
    pub fn next(&self, since: SystemTime, last: Option<SystemTime>, now: SystemTime, seed: u64) -> Option<NextDue> {
        let base = last.map_or(since, |last| last.max(since));
        let most = match self.missed {
            MissedPolicy::Skip | MissedPolicy::Once => 1,
            MissedPolicy::All(most) => usize::try_from(most.max(1)).unwrap_or(usize::MAX),
        };
        let (passed, mut skips) = self.timing.passed(since, base, now, most);
        let due = match passed.first() {
            Some(due) if self.missed == MissedPolicy::Skip && *due + self.put_off(since, *due, seed) + LATE < now => {
                skips = true;
                self.timing.after(since, now)?
            }
            Some(due) => *due,
            None => self.timing.after(since, base)?,
        };
        let at = due + self.put_off(since, due, seed);
        let late = (self.missed == MissedPolicy::Skip).then(|| at + LATE);
        let following = self.timing.after(since, passed.last().map_or(due, |last| due.max(*last)));
        Some(NextDue { due, at, skips, until: late.into_iter().chain(following).min() })
    }

    /// Returns the jitter of this due time.
    fn put_off(&self, since: SystemTime, due: SystemTime, seed: u64) -> Duration {
        if self.jitter.is_zero() {
            return Duration::ZERO;
        }
        let gap = self.timing.after(since, due).and_then(|next| next.duration_since(due).ok());
        let most = gap.map_or(self.jitter, |gap| self.jitter.min(gap / 2));
        let millis = due.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        // A step of SplitMix64: near due times are far apart.
        let mut mixed = seed ^ (millis as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        most.mul_f64((mixed >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000 + seconds)
    }

    fn every(seconds: u64) -> ScheduleSpec {
        ScheduleSpec::new(Timing::every(Duration::from_secs(seconds)).unwrap())
    }

    #[test]
    fn an_interval_counts_from_when_it_was_made_and_a_late_run_does_not_move_it() {
        let spec = every(10);
        for (last, now, due, skips) in
            [(None, 0, 10, false), (None, 13, 10, false), (Some(10), 13, 20, false), (Some(10), 47, 40, true), (Some(10), 20, 20, false)]
        {
            let next = spec.next(at(0), last.map(at), at(now), 7).unwrap();
            assert_eq!((next.due, next.at, next.skips), (at(due), at(due), skips), "{last:?} {now}");
        }
    }

    #[test]
    fn missed_times_are_skipped_run_once_or_all_within_a_bound() {
        let late = LATE.as_secs() + 2001;
        for (missed, now, due, skips) in [
            (MissedPolicy::Skip, 1030, 1000, false),
            (MissedPolicy::Skip, late, late / 1000 * 1000 + 1000, true),
            (MissedPolicy::Once, late, late / 1000 * 1000, true),
            (MissedPolicy::All(10), late, 1000, false),
            (MissedPolicy::All(2), 5500, 4000, true),
            (MissedPolicy::All(0), 5500, 5000, true),
        ] {
            let next = every(1000).missed(missed).next(at(0), None, at(now), 7).unwrap();
            assert_eq!((next.due, next.skips), (at(due), skips), "{missed:?} {now}");
        }
    }

    /// Asked every 10 ms, as by a scheduler that is never late.
    #[test]
    fn jitter_of_a_period_and_more_loses_no_run() {
        for jitter in [1, 3600] {
            let spec = every(1).jitter(Duration::from_secs(jitter));
            let (mut last, mut runs) = (None, 0);
            for tick in 0..=100_000_u64 {
                let now = at(0) + Duration::from_millis(10 * tick);
                let next = spec.next(at(0), last, now, 7).unwrap();
                if next.at <= now {
                    assert!(!next.skips, "{jitter}: {tick}");
                    (last, runs) = (Some(next.due), runs + 1);
                }
            }
            assert!((999..=1000).contains(&runs), "{jitter}: {runs} of 1000");
        }
    }

    /// An hour forward is no storm, an hour back runs nothing twice.
    #[test]
    fn a_clock_that_jumps_brings_no_storm_and_no_second_run() {
        let spec = every(1);
        let forward = spec.next(at(0), Some(at(100)), at(3700), 7).unwrap();
        assert_eq!((forward.due, forward.skips), (at(3700), true));
        assert_eq!(spec.next(at(0), Some(forward.due), at(3700), 7).unwrap().due, at(3701));
        let back = spec.next(at(0), Some(at(3700)), at(100), 7).unwrap();
        assert_eq!(back.due, at(3701));
    }

    #[test]
    fn timings_are_written_as_people_write_them() {
        for (timing, text) in [
            (Timing::every(Duration::from_secs(90)), "every 90s"),
            (Timing::every(Duration::from_secs(7200)), "every 2h"),
            (Timing::every(Duration::from_millis(1500)), "every 1.5s"),
            (Timing::cron(" 0  9 13 * 5", Some("Asia/Tokyo"), true), "0 9 13 * 5 Asia/Tokyo, both days"),
        ] {
            assert_eq!(timing.unwrap().to_string(), text);
        }
        assert!(Timing::every(Duration::ZERO).is_err());
        assert!(Timing::cron("@daily", Some("Europe/Atlantis"), false).unwrap_err().contains("Europe/Atlantis"));
    }

    fn timings() -> impl Strategy<Value = Timing> {
        let fields = vec!["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */3 * * *", "15 1-3 * 3,10 *", "0 0 1 * *", "59 23 * * 0"];
        let zones = vec![None, Some("Europe/Berlin"), Some("America/New_York"), Some("Australia/Lord_Howe"), Some("Asia/Kolkata")];
        prop_oneof![
            (100_u64..400_000_000).prop_map(|millis| Timing::every(Duration::from_millis(millis)).unwrap()),
            (proptest::sample::select(fields), proptest::sample::select(zones))
                .prop_map(|(fields, zone)| Timing::cron(fields, zone, false).unwrap()),
        ]
    }

    proptest! {
        /// Due times only rise, none is left out between two neighbours, and whoever asks between
        /// them gets the same one.
        #[test]
        fn due_times_rise_and_have_none_between_them(timing in timings(), begin in 0_u64..40_000_000, part in 0.0_f64..1.0) {
            let since = at(0);
            let first = timing.after(since, at(begin)).unwrap();
            let second = timing.after(since, first).unwrap();
            prop_assert!(at(begin) < first && first < second);
            let between = first + second.duration_since(first).unwrap().mul_f64(part * 0.999);
            prop_assert_eq!(timing.after(since, between).unwrap(), second);
        }

        /// Whatever was missed: what is next is behind the last one, no later than it should be,
        /// and running what is said to be next, again and again, comes to the future within the
        /// bound.
        #[test]
        fn what_was_missed_is_run_within_its_bound_and_each_once(
            timing in timings(), last in 0_u64..10_000_000, gone in 0_u64..3_000_000, jitter in 0_u64..10_000,
            missed in prop_oneof![Just(MissedPolicy::Skip), Just(MissedPolicy::Once), (1_u32..20).prop_map(MissedPolicy::All)],
        ) {
            let spec = ScheduleSpec::new(timing).missed(missed).jitter(Duration::from_secs(jitter));
            let (since, now) = (at(0), at(last + gone));
            let mut last = at(last);
            let most = if let MissedPolicy::All(most) = missed { most } else { 1 };
            let mut runs = 0;
            loop {
                let next = spec.next(since, Some(last), now, 42).unwrap();
                prop_assert_eq!(spec.next(since, Some(last), now, 42).unwrap(), next);
                prop_assert!(next.due > last && next.at >= next.due && next.at <= next.due + spec.jitter);
                let following = spec.timing.after(since, next.due).unwrap();
                prop_assert!(next.at <= next.due + following.duration_since(next.due).unwrap() / 2);
                // Whoever asks before `until` gets the same answer.
                let until = next.until.unwrap();
                prop_assert!(until > now || (missed == MissedPolicy::Skip && until == next.at + LATE));
                for part in [0.0, 0.5, 0.999] {
                    let then = now + until.duration_since(now).unwrap_or_default().mul_f64(part);
                    prop_assert_eq!(spec.next(since, Some(last), then, 42).unwrap(), next, "at {} of its time", part);
                }
                if next.due > now {
                    // Nothing but what was skipped lies before it.
                    prop_assert!(next.skips || spec.timing.after(since, last).unwrap() == next.due);
                    break;
                }
                runs += 1;
                last = next.due;
            }
            prop_assert!(runs <= most, "{} runs", runs);
        }
    }
}

//! Times and durations in eight bytes, for what is copied a million times a second.

use std::{
    num::NonZeroU64,
    ops::Add,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// A point of time, as nanoseconds since shortly before this program first needed one. Half as wide
/// as an [`Instant`], and good for centuries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

/// The zero of all stamps. A day back, so that an [`Instant`] that was taken before the first stamp
/// can be one.
static ZERO: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(86_400)).unwrap_or(now)
});

impl Stamp {
    /// The time from `earlier` to this; zero if that is later.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time so many nanoseconds later.
    #[inline]
    #[must_use]
    pub(crate) fn plus_nanos(self, nanos: u64) -> Stamp {
        Stamp(self.0.saturating_add(nanos))
    }

    /// As [`since`](Stamp::since), in nanoseconds.
    #[inline]
    #[must_use]
    pub fn nanos_since(self, earlier: Stamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<Instant> for Stamp {
    #[inline]
    fn from(instant: Instant) -> Self {
        let since = instant.saturating_duration_since(*ZERO);
        // Nanoseconds fill 64 bits after 584 years.
        Self(since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos())))
    }
}

impl From<Stamp> for Instant {
    #[inline]
    fn from(stamp: Stamp) -> Self {
        *ZERO + Duration::from_nanos(stamp.0)
    }
}

impl Add<Duration> for Stamp {
    type Output = Stamp;

    /// The end of time at most.
    #[inline]
    fn add(self, later: Duration) -> Stamp {
        Stamp(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A duration of at least a nanosecond; an `Option` of it is no wider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(NonZeroU64);

impl From<Duration> for Span {
    /// Zero becomes a nanosecond, and what is beyond 584 years that.
    #[inline]
    fn from(duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(NonZeroU64::new(nanos).unwrap_or(NonZeroU64::MIN))
    }
}

impl From<Span> for Duration {
    #[inline]
    fn from(span: Span) -> Self {
        Duration::from_nanos(span.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_and_spans_give_back_what_they_were_made_of() {
        let now = Instant::now();
        let stamp = Stamp::from(now);
        assert_eq!(Instant::from(stamp), now);
        let later = Duration::from_micros(1_500_001);
        assert_eq!((Stamp::from(now + later).since(stamp), stamp.since(stamp + later)), (later, Duration::ZERO));
        assert_eq!(Instant::from(stamp + later), now + later);
        assert_eq!(Duration::from(Span::from(later)), later);
        assert_eq!(Duration::from(Span::from(Duration::ZERO)), Duration::from_nanos(1));
        assert_eq!((size_of::<Option<Span>>(), size_of::<Stamp>()), (8, 8));
        // The end of time is not passed.
        assert!(stamp + Duration::MAX > stamp);
    }
}

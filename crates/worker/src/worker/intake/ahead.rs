//! How many messages are claimed ahead: about as many as will have ended before the next ones can
//! be here, and no more, since what one worker has claimed, no other can run.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use longshore_core::LaneKind;

/// Most messages that are claimed for good before they are needed.
pub(super) const MOST: usize = 500;
/// Span of work that may be claimed ahead where messages are given; or the time of a claim, where
/// that is longer.
const GIVEN: Duration = Duration::from_millis(10);
/// Span of work that may be claimed ahead where messages are lent; or this many times the time of a
/// claim, where that is longer: the claim goes there and back, then what it brings has to end, and
/// that has to be told, before there is room for the next.
const LENT: Duration = Duration::from_millis(50);
const CLAIMS: u32 = 4;
/// Share of a claim's time that is spent on one message.
const EACH: Duration = Duration::from_micros(20);
/// Time of a claim from which on the broker is far: about that of a few tasks of the shortest kind.
const FAR: Duration = Duration::from_millis(2);
/// Longest span that is claimed ahead, however far away the broker is.
const LONGEST: Duration = Duration::from_secs(1);
/// Number of claims of which the quickest tells how far away the broker is: the others were held
/// up.
const LATEST: usize = 8;

/// Estimates how much may be claimed ahead: counts what ends, by lane, and knows how long a claim
/// takes.
#[derive(Default)]
pub(super) struct AheadEstimate {
    /// Number of messages that end in a second, by lane, as of the last look.
    rates: [f64; 4],
    /// Time since which it is counted anew, and the number that has ended since.
    since: Option<Instant>,
    ended: [usize; 4],
    claims: VecDeque<Duration>,
}

impl AheadEstimate {
    /// Notes that one has ended on this lane.
    pub(super) fn ended(&mut self, lane: LaneKind) {
        self.ended[lane as usize] += 1;
    }

    /// Notes that a claim brought this many messages, and took this long to the broker and back.
    pub(super) fn claim_took(&mut self, brought: usize, time: Duration) {
        let time = time.saturating_sub(EACH * u32::try_from(brought).unwrap_or(u32::MAX));
        if self.claims.len() == LATEST {
            self.claims.pop_front();
        }
        self.claims.push_back(time);
    }

    /// Returns whether the broker is so far away that the next messages are to be claimed while
    /// there are some left.
    pub(super) fn is_far(&self) -> bool {
        self.claim() >= FAR
    }

    fn claim(&self) -> Duration {
        self.claims.iter().min().copied().unwrap_or_default().min(LONGEST / CLAIMS)
    }

    fn look(&mut self, now: Instant) {
        let since = now.duration_since(*self.since.get_or_insert(now));
        // Where the broker is far away they end in batches.
        let span = GIVEN.max(self.claim() * 2);
        if since >= span {
            // It is told that they ended when the broker has heard of it: from far away many at
            // once, and then none for a while.
            let least = if self.is_far() { 0.5_f64.powf(since.div_duration_f64(span)) } else { 0.0 };
            for (rate, ended) in self.rates.iter_mut().zip(std::mem::take(&mut self.ended)) {
                *rate = (ended as f64 / since.as_secs_f64()).max(*rate * least);
            }
            self.since = Some(now);
        }
    }

    /// Returns how many messages may be lent to us ahead now, for each lane.
    pub(super) fn lent(&mut self, now: Instant) -> [usize; 4] {
        self.look(now);
        let time = LENT.max(self.claim() * CLAIMS).as_secs_f64();
        self.rates.map(|rate| (rate * time) as usize)
    }

    /// Returns how many may be given to us ahead now, for all lanes together.
    pub(super) fn given(&mut self, now: Instant) -> usize {
        self.look(now);
        let time = GIVEN.max(self.claim()).as_secs_f64();
        ((self.rates.iter().sum::<f64>() * time) as usize).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(ended: usize, time: Duration, claims: &[Duration]) -> (AheadEstimate, Instant) {
        let (mut ahead, start) = (AheadEstimate::default(), Instant::now());
        claims.iter().for_each(|claim| ahead.claim_took(0, *claim));
        ahead.look(start);
        (0..ended).for_each(|_| ahead.ended(LaneKind::Cpu));
        (ahead, start + time)
    }

    #[test]
    fn as_much_is_claimed_ahead_as_ends_in_a_moment() {
        for (ended, time, given, lent) in [
            (0, Duration::ZERO, 0, 0),
            (0, 1000 * MS, 0, 0),
            // Fifty a second, and fifty thousand.
            (50, 1000 * MS, 0, 2),
            (500, 10 * MS, 500, 2500),
            (250, 10 * MS, 250, 1250),
            // Not counted yet.
            (250, 5 * MS, 0, 0),
            (100_000, 1000 * MS, MOST, 5000),
        ] {
            let (mut ahead, now) = after(ended, time, &[MS / 10]);
            assert_eq!(ahead.given(now), given, "{ended} in {time:?}");
            assert_eq!(ahead.lent(now)[LaneKind::Cpu as usize], lent, "{ended} in {time:?}");
            assert_eq!(ahead.lent(now)[LaneKind::Async as usize], 0);
        }
    }

    #[test]
    fn from_far_away_what_ended_is_forgotten_by_halves() {
        let (mut ahead, now) = after(800, 100 * MS, &[10 * MS]);
        assert_eq!(ahead.lent(now)[LaneKind::Cpu as usize], 400);
        let now = now + 20 * MS;
        assert_eq!(ahead.lent(now)[LaneKind::Cpu as usize], 200);
        assert_eq!(ahead.lent(now + 1000 * MS)[LaneKind::Cpu as usize], 0, "by time, not by looks");
    }

    #[test]
    fn where_a_claim_takes_longer_than_the_tasks_more_is_claimed_ahead() {
        let (mut ahead, now) = after(80, 100 * MS, &[40 * MS, 900 * MS, 41 * MS]);
        assert_eq!((ahead.given(now), ahead.lent(now)[LaneKind::Cpu as usize]), (32, 128), "the quickest claim counts");
        let (mut ahead, now) = after(80, 100 * MS, &[400 * MS]);
        assert_eq!(ahead.lent(now)[LaneKind::Cpu as usize], 0, "what ends in batches is counted over more than one");
        let now = now + 400 * MS;
        assert_eq!(ahead.lent(now)[LaneKind::Cpu as usize], 160, "never for more than a second");
        assert!(ahead.is_far());
        ahead.claim_took(100, 3 * MS);
        assert!(!ahead.is_far(), "it took so long because of the messages");
    }
}

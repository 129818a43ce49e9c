//! How many messages are claimed ahead: no more than have ended lately in some milliseconds, since what one worker has claimed, no other can run.

use std::time::{Duration, Instant};

use longshore_core::LaneKind;

/// The most, whatever has ended.
pub(super) const MOST: usize = 500;
/// What has ended in this time may be claimed ahead.
const AHEAD: Duration = Duration::from_millis(10);

/// Counts what ends, by lane.
#[derive(Default)]
pub(super) struct Ahead {
    /// How many may be claimed ahead, as the last look says.
    many: [usize; 4],
    /// Since when it is counted anew, and how many have ended since.
    since: Option<Instant>,
    ended: [usize; 4],
}

impl Ahead {
    /// One has ended on this lane.
    pub(super) fn ended(&mut self, lane: LaneKind) {
        self.ended[lane as usize] += 1;
    }

    /// How many messages may be claimed ahead now, for each lane.
    pub(super) fn look(&mut self, now: Instant) -> [usize; 4] {
        let since = now.duration_since(*self.since.get_or_insert(now));
        if since >= AHEAD {
            self.many = std::mem::take(&mut self.ended).map(|ended| ahead(ended, since));
            self.since = Some(now);
        }
        self.many
    }

    /// For all lanes together.
    pub(super) fn of_all(&mut self, now: Instant) -> usize {
        self.look(now).iter().sum::<usize>().min(MOST)
    }
}

/// How many messages may be claimed ahead when so many have ended in this time.
fn ahead(ended: usize, since: Duration) -> usize {
    let many = ended as f64 * AHEAD.as_secs_f64() / since.as_secs_f64().max(1e-6);
    (many as usize).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_claimed_ahead_as_has_ended_lately_in_ten_milliseconds() {
        let micros = Duration::from_micros;
        for (ended, since, many) in [
            (0, micros(0), 0),
            (0, micros(1_000_000), 0),
            // Fifty a second, and fifty thousand.
            (50, micros(1_000_000), 0),
            (500, micros(10_000), 500),
            (250, micros(10_000), 250),
            (100_000, micros(1_000_000), MOST),
        ] {
            assert_eq!(ahead(ended, since), many, "{ended} in {since:?}");
        }
    }
}

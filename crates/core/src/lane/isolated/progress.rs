//! Since when an item of a batch has been running: decisions without effects.

use std::time::Instant;

/// Which item of a batch has been running, and since when as far as the parent knows. The child
/// does not say when it begins an item (that would cost it a look at the clock), so an item counts
/// from when it was first seen: never too early, and late by no more than the time between two
/// looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    begun: usize,
    since: Instant,
}

impl Progress {
    /// Begins with a batch that was sent now.
    pub(super) fn new(now: Instant) -> Self {
        Self { begun: 1, since: now }
    }

    /// Notes that so many have been begun by now. The first one counts from when it was sent.
    pub(super) fn see(&mut self, begun: usize, now: Instant) {
        if begun > self.begun {
            *self = Self { begun, since: now };
        }
    }

    /// Returns the item that runs, from 0.
    pub(super) fn item(&self) -> usize {
        self.begun - 1
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_item_runs_from_when_it_was_first_seen() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut progress = Progress::new(start);
        for (begun, now, item, since) in [(0, 5, 0, 0), (1, 10, 0, 0), (4, 20, 3, 20), (4, 30, 3, 20), (5, 40, 4, 40)] {
            progress.see(begun, at(now));
            assert_eq!((progress.item(), progress.since()), (item, at(since)), "{begun} at {now}");
        }
    }
}

//! Decides, without effects, when a command is told to end, when it is killed, and when its pipes
//! are left.

use std::time::{Duration, Instant};

/// Time for which pipes that a dead leader's background children hold open are still read.
const DRAIN: Duration = Duration::from_millis(100);

/// The instants at which something is done about a command. One that lies beyond what an `Instant`
/// can hold never comes.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    kill_after: Duration,
    timeout_at: Option<Instant>,
    kill_at: Option<Instant>,
    leave_at: Option<Instant>,
    /// It ran into its timeout.
    pub(super) timed_out: bool,
}

/// Deeds that are due now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deeds {
    pub(super) terminate: bool,
    pub(super) kill: bool,
    /// Nothing more is read.
    pub(super) leave: bool,
}

impl Patience {
    pub(super) fn new(start: Instant, timeout: Option<Duration>, kill_after: Duration) -> Self {
        let timeout_at = timeout.and_then(|limit| start.checked_add(limit));
        Self { kill_after, timeout_at, kill_at: None, leave_at: None, timed_out: false }
    }

    /// Returns when something may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.timeout_at, self.kill_at, self.leave_at].into_iter().flatten().min()
    }

    /// Takes note that the command itself has ended. After SIGTERM, the rest of its group has what
    /// is left of the time that the command had.
    pub(super) fn ended(&mut self, now: Instant) {
        self.timeout_at = None;
        self.leave_at = self.kill_at.or_else(|| now.checked_add(DRAIN));
    }

    /// Takes note that everything stops: whoever stops has signalled the group already, and what is
    /// left is to lose patience.
    pub(super) fn stopped(&mut self, now: Instant) {
        self.kill_at = self.kill_at.or_else(|| now.checked_add(self.kill_after));
    }

    /// Returns what is due, once.
    pub(super) fn due(&mut self, now: Instant) -> Deeds {
        let mut deeds = Deeds::default();
        if self.timeout_at.is_some_and(|at| now >= at) {
            (self.timed_out, self.timeout_at) = (true, None);
            self.kill_at = self.kill_at.or_else(|| now.checked_add(self.kill_after));
            // Nothing between the two means SIGKILL at once.
            deeds.terminate = !self.kill_after.is_zero();
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            (deeds.kill, self.kill_at) = (true, None);
        }
        deeds.leave = self.leave_at.is_some_and(|at| now >= at);
        deeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Deeds = Deeds { terminate: false, kill: false, leave: false };
    const TERM: Deeds = Deeds { terminate: true, ..NOTHING };
    const KILL: Deeds = Deeds { kill: true, ..NOTHING };
    const LEAVE: Deeds = Deeds { leave: true, ..NOTHING };

    #[test]
    fn a_late_command_is_told_to_end_and_then_killed() {
        let start = Instant::now();
        let (ms, at) = (Duration::from_millis, |ms| start + Duration::from_millis(ms));
        for (timeout, kill_after, then) in [
            (Some(10), 5, [(9, NOTHING), (10, TERM), (14, NOTHING), (15, KILL), (20, NOTHING)]),
            (Some(10), 0, [(9, NOTHING), (10, KILL), (11, NOTHING), (15, NOTHING), (20, NOTHING)]),
            (None, 5, [(9, NOTHING), (10, NOTHING), (14, NOTHING), (15, NOTHING), (20, NOTHING)]),
        ] {
            let mut patience = Patience::new(start, timeout.map(ms), ms(kill_after));
            for (now, deeds) in then {
                assert_eq!(patience.due(at(now)), deeds, "{timeout:?} {kill_after} at {now}");
            }
            assert_eq!(patience.timed_out, timeout.is_some());
        }
    }

    #[test]
    fn what_a_command_leaves_behind_has_as_long_as_it_had_itself() {
        let start = Instant::now();
        let (ms, at) = (Duration::from_millis, |ms| start + Duration::from_millis(ms));
        let mut patience = Patience::new(start, Some(ms(1_000)), ms(500));
        patience.ended(at(50));
        assert_eq!((patience.next(), patience.due(at(149)), patience.due(at(150))), (Some(at(150)), NOTHING, LEAVE));
        let mut patience = Patience::new(start, None, ms(500));
        patience.stopped(at(10));
        patience.stopped(at(20));
        patience.ended(at(30));
        assert_eq!(patience.due(at(510)), Deeds { kill: true, leave: true, ..NOTHING });
    }
}

//! What an attempt's outcome is when its child has ended, and since when an item has been running:
//! decisions without effects.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use crate::{
    error::TaskError,
    lane::child::{End, Exit},
    outcome::Outcome,
};

/// Why we killed a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// An item passed its limit.
    Late(Duration),
    /// It held this much memory.
    Large { held: u64, limit: u64 },
    /// Nobody wants the item's result any more.
    CalledOff,
    /// It said what no child of ours says.
    Broken(String),
}

/// The outcome of the item that a child was running when it ended.
pub(super) fn blame(why: Option<&Why>, end: &End) -> Outcome<Infallible> {
    match (why, end.status.exit) {
        (_, _) if end.stopped => Outcome::Cancelled,
        (Some(Why::CalledOff), _) => Outcome::Cancelled,
        (Some(Why::Late(limit)), _) => Outcome::TimedOut { limit: *limit },
        (Some(Why::Large { held, limit }), _) => Outcome::Failed(memory(*held, *limit)),
        (Some(Why::Broken(text)), _) => Outcome::Lost(format!("its child process was ended: {text}")),
        (None, Exit::Signal(signal)) => Outcome::Killed { signal },
        (None, Exit::Code(code)) => Outcome::Lost(format!("its child process ended itself with exit code {code}")),
    }
}

fn memory(held: u64, limit: u64) -> TaskError {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    TaskError::new("memory", format!("its child process held {} MiB and was killed; the limit is {} MiB", mib(held), mib(limit)))
}

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
    /// A batch that was sent now.
    pub(super) fn new(now: Instant) -> Self {
        Self { begun: 1, since: now }
    }

    /// That many have been begun by now. The first one counts from when it was sent.
    pub(super) fn see(&mut self, begun: usize, now: Instant) {
        if begun > self.begun {
            *self = Self { begun, since: now };
        }
    }

    /// The item that runs, from 0.
    pub(super) fn item(&self) -> usize {
        self.begun - 1
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::child::Status;

    #[test]
    fn the_item_that_ran_has_the_outcome_that_its_child_stands_for() {
        let end = |exit, stopped| End { status: Status { exit, core_dumped: false }, usage: Default::default(), stopped };
        let second = Duration::from_secs(1);
        let large = Why::Large { held: 300 << 20, limit: 256 << 20 };
        let broken = Why::Broken("it sent what is no message".to_owned());
        for (why, exit, stopped, want) in [
            (None, Exit::Signal(6), false, "Killed { signal: 6 }"),
            (None, Exit::Code(0), false, "exit code 0"),
            (None, Exit::Code(3), false, "exit code 3"),
            (None, Exit::Signal(15), true, "Cancelled"),
            (Some(Why::Late(second)), Exit::Signal(9), false, "TimedOut { limit: 1s }"),
            // It was killed by the stop as well: nobody wants to hear of a limit then.
            (Some(Why::Late(second)), Exit::Signal(9), true, "Cancelled"),
            (Some(Why::CalledOff), Exit::Signal(9), false, "Cancelled"),
            (Some(large), Exit::Signal(9), false, "300 MiB and was killed; the limit is 256 MiB"),
            (Some(broken), Exit::Signal(9), false, "no message"),
        ] {
            let outcome = blame(why.as_ref(), &end(exit, stopped));
            let told = format!("{outcome:?}");
            assert!(told.contains(want), "{why:?} {exit:?} {stopped}: {told}");
        }
    }

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

//! What may have killed a worker: when it may run again.

use std::time::{Duration, Instant};

use longshore_brokers::crash::{MOST_CRASHES, MOST_CRASHES_APART};
use longshore_core::{LaneKind, Receipt};

/// Time after which a suspect that runs does not keep the next one from starting beside it: what
/// kills its worker mostly does so at once.
const TRIED: Duration = Duration::from_secs(1);
/// Time that a worker has to have lived before it runs a task that the next death would bury.
/// Workers that are killed from outside again and again, which nobody can tell from those that a
/// task kills, do not come to run it: it waits until that is over.
const CALM: Duration = Duration::from_secs(10);
/// Pause before the next of them, in times of what the one before took, up to `CALM`: a kill from
/// outside mostly meets a worker that runs none of them, however many wait.
const REST: u32 = 9;

/// Time for which those that nobody suspects are kept back while one of them runs, lest it be
/// buried for what one of those does. Before it starts they are kept back until the last of them
/// has run for `TRIED`.
const KEPT_BACK: Duration = Duration::from_secs(10);

/// A message with crashes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    pub(crate) crashes: u32,
    /// It runs in a child of its own, and has hardly ever killed its worker.
    pub(crate) apart: bool,
}

impl Suspect {
    /// Returns whether it has been blamed so often that it is run no more.
    pub(crate) fn is_guilty(self) -> bool {
        self.crashes >= self.most()
    }

    /// Returns whether the next death would bury it; nobody could tell that from a kill from
    /// outside.
    fn is_last(self) -> bool {
        self.crashes.saturating_add(1) >= self.most()
    }

    /// Returns whether it runs all alone: in the second half of its blames, so that whoever was
    /// beside the guilty in the first half is acquitted.
    fn is_alone(self) -> bool {
        self.crashes > self.most() / 2
    }

    /// Returns how many deaths bury it.
    pub(crate) fn most(self) -> u32 {
        if self.apart { MOST_CRASHES_APART } else { MOST_CRASHES }
    }
}

/// A suspect that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accused {
    pub(crate) receipt: Receipt,
    pub(crate) suspect: Suspect,
    /// Time at which it began; until it has, time at which it was handed to its lane.
    pub(crate) since: Instant,
}

/// Returns the time from which on a worker that was born then may run a task that the next death
/// would bury.
pub(crate) fn calm(born: Instant) -> Instant {
    born + CALM
}

/// Returns the time at which it may run the next of them, after one that has ended now; `None` if
/// this was none.
pub(crate) fn rested(ended: &Accused, now: Instant) -> Option<Instant> {
    ended.suspect.is_last().then(|| now + (REST * now.duration_since(ended.since)).min(CALM))
}

/// Returns until when those that nobody suspects are kept back, for a suspect that runs and that
/// the next death would bury.
pub(crate) fn keeps_back(running: &[Accused]) -> Option<Instant> {
    running.iter().filter(|accused| accused.suspect.is_last()).map(|accused| accused.since + KEPT_BACK).max()
}

/// Returns when a suspect whose turn it is may start, where the last of those that nobody suspects
/// started then: until that time no more of them start, if it is one that the next death would
/// bury.
pub(crate) fn tried(suspect: Suspect, last: Option<Instant>) -> Option<Instant> {
    last.filter(|_| suspect.is_last()).map(|last| last + TRIED)
}

/// Returns who of those in line starts next, and when: at once, or later. Whom the next death would
/// bury starts when it is `calm`, and holds up nobody until then. `None`: nobody is in line, or one
/// of those that run has to end first.
pub(crate) fn next(line: impl Iterator<Item = Suspect>, running: &[Accused], calm: Instant, now: Instant) -> Option<(usize, Instant)> {
    let mut waits = None;
    for (place, suspect) in line.enumerate() {
        if now >= calm || !suspect.is_last() {
            return may_start(suspect, running, now).map(|at| (place, at));
        }
        waits.get_or_insert((place, calm));
    }
    waits
}

/// Slots and tasks of the engine, by lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneUse {
    pub(crate) slots: [usize; 4],
    /// Number of tasks that run, or stand in line for a slot.
    pub(crate) tasks: [usize; 4],
}

impl LaneUse {
    /// Returns whether whoever is for this lane starts at once.
    fn has_room(&self, lane: LaneKind) -> bool {
        self.tasks[lane as usize] < self.slots[lane as usize].max(1)
    }

    /// Returns whether somebody stands in line for a slot, and will start whatever else is decided.
    fn have_lines(&self) -> bool {
        self.tasks.iter().zip(self.slots).any(|(tasks, slots)| *tasks > slots)
    }
}

/// Turn of the suspects in line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SuspectTurn {
    /// Place of the suspect that starts next, and the time at which it does.
    pub(crate) starts: Option<(usize, Instant)>,
    /// The lane that is full, where it is the turn of one that is for it.
    pub(crate) reserved: Option<LaneKind>,
}

/// Returns whose turn it is. A suspect that could not begin at once is not accused: should the
/// worker die meanwhile, it is none of its doing. It holds up nobody who is for another lane.
pub(crate) fn turn(line: &[(Suspect, LaneKind)], lanes: &LaneUse, running: &[Accused], calm: Instant, now: Instant) -> SuspectTurn {
    let first = next(line.iter().map(|(suspect, _)| *suspect), running, calm, now);
    let lane = first.filter(|(_, at)| *at <= now).and_then(|(place, _)| line.get(place)).map(|(_, lane)| *lane);
    let Some(full) = lane.filter(|lane| !lanes.has_room(*lane)) else { return SuspectTurn { starts: first, reserved: None } };
    let open: Vec<_> = line.iter().enumerate().filter(|(_, (_, lane))| lanes.has_room(*lane)).collect();
    let starts = next(open.iter().map(|(_, (suspect, _))| *suspect), running, calm, now);
    let starts = starts.and_then(|(place, at)| open.get(place).map(|(place, _)| (*place, at)));
    SuspectTurn { starts, reserved: Some(full) }
}

/// Wait for quiet before a suspect starts that the next death would bury.
#[derive(Debug, Default)]
pub(crate) struct QuietWait {
    since: Option<Instant>,
    had_lines: bool,
}

impl QuietWait {
    /// Returns until when a suspect whose turn it is has to wait, and those that nobody suspects
    /// with it; the last of these started at `fresh`, which those in line for a slot make later, as
    /// long as the quiet does not last for too long.
    pub(crate) fn until(&mut self, suspect: Suspect, lanes: &LaneUse, fresh: &mut Option<Instant>, now: Instant) -> Option<Instant> {
        if suspect.is_last() {
            let since = *self.since.get_or_insert(now);
            let have_lines = lanes.have_lines() && now < since + KEPT_BACK;
            if have_lines || self.had_lines {
                *fresh = Some(now);
            }
            self.had_lines = have_lines;
        }
        tried(suspect, *fresh).filter(|tried| *tried > now)
    }
}

/// Returns when a suspect may start beside those that run: at once, later, or (`None`) when one of
/// them has ended.
///
/// One starts at a time. Should the worker die of a later one all that run are to blame, so whoever
/// is blamed for the second time (apart from its worker: for the eleventh) runs all alone: nobody
/// is buried for another's crash.
fn may_start(suspect: Suspect, running: &[Accused], now: Instant) -> Option<Instant> {
    let Some(last) = running.iter().map(|accused| accused.since).max() else { return Some(now) };
    let alone = suspect.is_alone() || running.iter().any(|accused| accused.suspect.is_alone());
    (!alone).then(|| (last + TRIED).max(now))
}

#[cfg(test)]
mod tests;

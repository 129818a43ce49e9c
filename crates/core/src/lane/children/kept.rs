//! One living child, and what its limits are about.

use std::time::{Duration, Instant};

use super::{ChildLimits, ChildLink, blame::Why, limits::Wear};

/// Time between two looks at the memory of a child.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// A living child, since when there is one, and how much it has had to do.
pub(crate) struct KeptChild<L> {
    pub(crate) link: L,
    /// Number of tasks that it has been given.
    pub(crate) tasks: u32,
    born: Instant,
    /// The last look at its memory; none yet while that is 0.
    looked: Instant,
    resident: u64,
}

impl<L: ChildLink> KeptChild<L> {
    pub(crate) fn new(link: L, now: Instant) -> Self {
        Self { link, tasks: 0, born: now, looked: now, resident: 0 }
    }

    /// Counts tasks that it is given.
    pub(crate) fn give(&mut self, count: u32) {
        self.tasks = self.tasks.saturating_add(count);
    }

    /// Returns whether it is to be replaced before the next task. It has nothing to do.
    pub(crate) fn is_worn(&mut self, limits: &ChildLimits, now: Instant) -> bool {
        // A child that was never looked at is, however soon it is asked again.
        if limits.worn_size().is_some() && (self.resident == 0 || self.is_due(now)) {
            self.look(now);
        }
        limits.is_worn(self.wear(self.resident, now))
    }

    /// Returns whether it may have more while it works: unless its size has to be looked at between
    /// tasks, or it has had enough.
    pub(crate) fn may_have_more(&self, limits: &ChildLimits, now: Instant) -> bool {
        limits.worn_size().is_none() && !limits.is_worn(self.wear(0, now))
    }

    /// Returns why it has to be killed, if it holds too much.
    pub(crate) fn too_large(&mut self, limits: &ChildLimits, now: Instant) -> Option<Why> {
        let limit = limits.memory?;
        if self.is_due(now) {
            self.look(now);
        }
        (self.resident > limit).then_some(Why::Large { held: self.resident, limit })
    }

    /// Returns when its memory is to be looked at again while it works.
    pub(crate) fn next_look(&self, limits: &ChildLimits) -> Option<Instant> {
        limits.memory.and_then(|_| self.looked.checked_add(LOOK))
    }

    fn wear(&self, resident: u64, now: Instant) -> Wear {
        Wear { tasks: self.tasks, age: now.saturating_duration_since(self.born), resident }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.looked) >= LOOK
    }

    fn look(&mut self, now: Instant) {
        (self.looked, self.resident) = (now, self.link.resident());
    }
}

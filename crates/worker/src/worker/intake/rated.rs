//! Lines of tasks that have a rate: no more of them wait for a place in their lane than their rate
//! gives in a moment. Of what a full lane held up, only so many start together when it has room;
//! the others have not used their slots, and ask for new ones.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use longshore_core::Rate;

use super::{
    super::{held::HeldEntry, work::ClaimedTask},
    Intake, IntakeState, PAST,
};
use crate::task::{RateScope, Task};

/// Those of each rate that have their slot and have not begun.
#[derive(Default)]
pub(super) struct RatedLines(BTreeMap<Arc<str>, VecDeque<Weak<ClaimedTask>>>);

impl RatedLines {
    /// Returns how many more of this rate may wait.
    pub(super) fn room(&mut self, name: &str, rate: Rate) -> usize {
        let Some(line) = self.0.get_mut(name) else { return most(rate) };
        // They begin in about this order.
        while line.front().is_some_and(|work| work.upgrade().is_none_or(|work| work.started().is_some())) {
            line.pop_front();
        }
        most(rate).saturating_sub(line.len())
    }

    pub(super) fn add(&mut self, name: Arc<str>, work: &Arc<ClaimedTask>) {
        self.0.entry(name).or_default().push_back(Arc::downgrade(work));
    }
}

/// Returns how many of a rate may wait: its burst, or as many slots as may pass before they are
/// taken for unused.
fn most(rate: Rate) -> usize {
    let interval = rate.interval().max(Duration::from_nanos(1));
    let slots = PAST.as_nanos() / interval.as_nanos();
    usize::try_from(slots).unwrap_or(usize::MAX).max(rate.burst.max(1) as usize)
}

impl Intake {
    /// Returns the rate of a task, with the name of its bucket: others may share it.
    pub(super) fn rate(&self, task: &Task) -> Option<(Arc<str>, Rate)> {
        let rate = self.shared.rate_of(task)?;
        let limit = task.policy.limit.as_ref().filter(|_| task.policy.rate_scope == RateScope::Shared);
        Some((limit.unwrap_or(&task.name).clone(), rate))
    }

    /// Keeps those that were held for a rate of which enough wait already: they give up their slots
    /// and ask for others a moment later. Returns the rest.
    pub(super) fn with_room_in_line(&self, state: &mut IntakeState, due: Vec<HeldEntry>, now: SystemTime) -> Vec<HeldEntry> {
        let mut taken: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let (stay, go): (Vec<HeldEntry>, Vec<HeldEntry>) = due.into_iter().partition(|entry| {
            let task = entry.paced.as_ref().and_then(|name| self.shared.app.task_named(name));
            let Some((bucket, rate)) = task.and_then(|task| self.rate(task)) else { return false };
            let room = state.lines.room(&bucket, rate);
            let taken = taken.entry(bucket).or_default();
            *taken += 1;
            *taken > room
        });
        stay.into_iter().for_each(|entry| state.held.push(HeldEntry { due: now + PAST, slot: false, ..entry }));
        go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_of_a_rate_wait_as_it_gives_in_a_moment_or_at_once() {
        for (rate, expected) in [
            (Rate::per_second(1000.0), 50),
            (Rate::per_second(20.0), 1),
            (Rate::per_second(0.001), 1),
            (Rate::per_second(1.0).burst(7), 7),
            (Rate::per_second(1000.0).burst(7), 50),
        ] {
            assert_eq!(most(rate), expected, "{rate:?}");
        }
    }
}

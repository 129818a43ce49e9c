//! A batch on its way to a child and back, and whose items it has.

use std::time::{Duration, Instant};

use super::{IsolatedPool, parcel::Ends, progress::Progress, wire::Batch};
use crate::{
    lane::caught,
    outcome::Outcome,
    stamp::Stamp,
    task::{Attempt, Finished},
};

/// A batch and whose it is.
pub(super) struct Load<T> {
    pub(super) batch: Batch,
    /// The attempts that the batch's items belong to; those that have their outcome, or none of
    /// their own, are gone.
    pub(super) parts: Vec<Option<LoadPart<T>>>,
    /// The batch's items by number; those that have their outcome are gone.
    pub(super) items: Vec<Option<Item>>,
    /// Number of items and of attempts when it was sent.
    pub(super) all: (usize, usize),
    /// Since when the child may work on it.
    pub(super) since: Instant,
    pub(super) progress: Progress,
    /// Moment at which the last answers came.
    pub(super) mark: Instant,
    /// The child says that it is done with it.
    pub(super) done: bool,
}

/// An attempt that has items in the batch.
pub(super) struct LoadPart<T> {
    pub(super) attempt: Attempt<T>,
    /// The number of its first item, and how many there are.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Moment at which that was begun, once an answer has come.
    pub(super) began: Option<Instant>,
}

/// An item of the batch: whose it is, and its place there.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) part: u32,
    pub(super) place: u32,
}

impl<T> Load<T> {
    pub(super) fn new(now: Instant) -> Self {
        let progress = Progress::new(now);
        Self { batch: Batch::new(), parts: Vec::new(), items: Vec::new(), all: (0, 0), since: now, progress, mark: now, done: false }
    }

    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.parts.clear();
        self.items.clear();
        (self.all, self.done) = ((0, 0), false);
    }

    pub(super) fn limit(&self, item: usize) -> Option<Duration> {
        self.attempt(item)?.limit()
    }

    /// Returns the attempt that an item belongs to, unless the item has its outcome.
    pub(super) fn attempt(&self, item: usize) -> Option<&Attempt<T>> {
        let item = (*self.items.get(item)?)?;
        self.parts.get(item.part as usize)?.as_ref().map(|part| &part.attempt)
    }

    /// Takes the items from this one on out of the batch: the attempts, or their parts, that are
    /// left.
    pub(super) fn unload<R>(&mut self, pool: &IsolatedPool<T, R>, from: usize) -> Vec<Attempt<T>> {
        let mut back = Vec::new();
        for item in self.items.drain(from.min(self.items.len())..).flatten() {
            let held = &mut self.parts[item.part as usize];
            let Some(part) = held else { continue };
            if part.first >= from {
                back.extend(held.take().map(|part| part.attempt));
            } else if part.first + part.count > from {
                part.count = from - part.first;
                let (behind, ends) = pool.split(&mut part.attempt, item.place as usize);
                back.push(behind);
                if !matches!(ends, Ends::Open)
                    && let Some(part) = held.take()
                {
                    discard(part.attempt.payload);
                }
            }
        }
        back
    }
}

/// Settles what the end of an item makes of its attempt, which is gone if all of it has ended;
/// returns the outcome, if that is here.
pub(super) fn resolve<T, R>(held: &mut Option<LoadPart<T>>, ends: Ends<R>) -> Option<(LoadPart<T>, Outcome<R>)> {
    if matches!(ends, Ends::Open) {
        return None;
    }
    let part = held.take()?;
    match ends {
        Ends::All(outcome) => Some((part, outcome)),
        Ends::Open | Ends::Part => {
            discard(part.attempt.payload);
            None
        }
    }
}

pub(super) fn finished<T, R>(attempt: Attempt<T>, outcome: Outcome<R>, slot: u32, started: Stamp, ended: Stamp) -> Finished<T, R> {
    let Attempt { task, payload, .. } = attempt;
    discard(payload);
    Finished { slot, task, outcome, started, ended, cpu: None }
}

/// Drops a payload; a drop that panics is nobody else's business.
pub(super) fn discard<T>(payload: T) {
    let _: Outcome<()> = caught(|| {
        drop(payload);
        Outcome::Cancelled
    });
}

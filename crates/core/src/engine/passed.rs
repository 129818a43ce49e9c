//! What passed the gate in one turn and goes to one lane.

use crate::{
    engine::{CHUNK, Lane},
    task::{Attempt, LaneKind},
};

/// The attempts for a lane, in the batches that it wants.
pub(super) struct Passed<T> {
    batches: Vec<Vec<Attempt<T>>>,
    /// The batch that is being filled; those before it are full.
    last: usize,
    most: usize,
}

impl<T> Passed<T> {
    /// The loops of the async lane take chunks; what is handed over in chunks nobody has to move
    /// again.
    pub(super) fn new(lane: LaneKind) -> Self {
        let most = if lane == LaneKind::Async { CHUNK } else { usize::MAX };
        Self { batches: vec![Vec::new()], last: 0, most }
    }

    pub(super) fn push(&mut self, attempt: Attempt<T>) {
        self.batch().push(attempt);
    }

    /// Returns the batch to which the next attempt is to be added.
    #[inline]
    pub(super) fn batch(&mut self) -> &mut Vec<Attempt<T>> {
        if self.batches[self.last].len() >= self.most {
            self.next_batch();
        }
        &mut self.batches[self.last]
    }

    #[cold]
    fn next_batch(&mut self) {
        self.last += 1;
        if self.last == self.batches.len() {
            self.batches.push(Vec::with_capacity(self.most));
        }
    }

    /// Starts them all.
    pub(super) fn start<R>(&mut self, lane: &dyn Lane<T, R>) {
        if !self.batches[0].is_empty() {
            lane.start_all(&mut self.batches[..=self.last]);
            self.last = 0;
        }
    }
}

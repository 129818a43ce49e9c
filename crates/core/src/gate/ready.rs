//! The ready line: what was fetched, in the batches in which it came. Nothing is moved until it
//! passes.

use std::collections::VecDeque;

use crate::{
    stamp::Stamp,
    task::{Delivery, FetchedTask, LaneKind},
};

pub(super) struct ReadyLine<T> {
    batches: VecDeque<ReadyBatch<T>>,
    tasks: usize,
    /// An empty buffer, for whoever brings the next batch.
    spare: VecDeque<Delivery<T>>,
}

struct ReadyBatch<T> {
    deliveries: VecDeque<Delivery<T>>,
    lane: LaneKind,
    queued: Stamp,
}

impl<T> ReadyLine<T> {
    pub(super) fn new() -> Self {
        Self { batches: VecDeque::new(), tasks: 0, spare: VecDeque::new() }
    }

    /// Adds a batch that was fetched at this time. `lane` is where those go that name none.
    /// Returns an empty buffer.
    pub(super) fn push(&mut self, batch: Vec<Delivery<T>>, lane: LaneKind, queued: Stamp) -> Vec<Delivery<T>> {
        self.tasks += batch.len();
        if !batch.is_empty() {
            self.batches.push_back(ReadyBatch { deliveries: batch.into(), lane, queued });
        }
        std::mem::take(&mut self.spare).into()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.tasks
    }

    /// Returns the lane of the first task, if that wants nothing but what its job gives to all.
    #[inline]
    pub(super) fn plain(&self) -> Option<LaneKind> {
        let batch = self.batches.front()?;
        let first = batch.deliveries.front()?;
        (first.options.is_none() && first.key.is_none()).then_some(batch.lane)
    }

    /// Takes out the first task.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<FetchedTask<T>> {
        let batch = self.batches.front_mut()?;
        let delivery = batch.deliveries.pop_front()?;
        let (lane, queued) = (batch.lane, batch.queued);
        if batch.deliveries.is_empty() {
            self.end_batch();
        }
        self.tasks -= 1;
        let lane = delivery.options.as_ref().and_then(|options| options.lane).unwrap_or(lane);
        Some(FetchedTask { delivery, lane, queued })
    }

    #[cold]
    fn end_batch(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.spare = batch.deliveries;
        }
    }
}

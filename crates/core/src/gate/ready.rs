//! The ready line: what was fetched, in the batches in which it came. Nothing is moved until it
//! passes.

use std::collections::VecDeque;

use crate::{
    stamp::{Span, Stamp},
    task::{Attempt, Delivery, EngineTask, FetchedTask, LaneKind},
};

pub(super) struct ReadyLine<T> {
    batches: VecDeque<ReadyBatch<T>>,
    tasks: usize,
    /// An empty buffer, for whoever brings the next batch.
    spare: VecDeque<Delivery<T>>,
}

/// Tasks that were fetched together.
pub(crate) struct ReadyBatch<T> {
    deliveries: VecDeque<Delivery<T>>,
    pub(crate) lane: LaneKind,
    queued: Stamp,
}

impl<T> ReadyBatch<T> {
    /// Returns the first task, if that wants nothing but what its job gives to all.
    #[inline]
    pub(crate) fn plain(&self) -> Option<&Delivery<T>> {
        self.deliveries.front().filter(|first| first.options.is_none() && first.key.is_none())
    }

    /// Takes out the first task, which is there: as its first attempt, in this slot.
    #[inline(always)]
    pub(crate) fn take(&mut self, slot: u32, admitted: Stamp, timeout: Option<Span>) -> Attempt<T> {
        let (lane, queued) = (self.lane, self.queued);
        let Some(Delivery { id, payload, receipt, options, key }) = self.deliveries.pop_front() else { unreachable!("it was looked at") };
        let task = EngineTask { id, receipt, attempt: 1, lane, slot, queued, payload: None, options, key, holds_key: false };
        Attempt { task, payload, admitted, timeout }
    }
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

    /// Returns the batch that came first. Whoever takes tasks out of it says so
    /// ([`took`](Self::took)).
    #[inline]
    pub(super) fn first_batch(&mut self) -> Option<&mut ReadyBatch<T>> {
        self.batches.front_mut()
    }

    /// Notes that this many tasks were taken out of the first batch.
    #[inline]
    pub(super) fn took(&mut self, tasks: usize) {
        self.tasks -= tasks;
        if self.batches.front().is_some_and(|batch| batch.deliveries.is_empty()) {
            self.end_batch();
        }
    }

    /// Takes out the first task.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<FetchedTask<T>> {
        let batch = self.batches.front_mut()?;
        let delivery = batch.deliveries.pop_front()?;
        let (lane, queued) = (batch.lane, batch.queued);
        self.took(1);
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

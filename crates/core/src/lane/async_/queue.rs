//! The attempts that wait for a loop of the lane, in chunks: whoever takes one exchanges buffers
//! and moves nothing.

use std::collections::VecDeque;

use crate::{engine::CHUNK, task::Attempt};

/// Empty buffers that are kept.
const SPARE: usize = 64;

pub(super) struct Chunks<T> {
    /// None is empty or longer than [`CHUNK`].
    chunks: VecDeque<Vec<Attempt<T>>>,
    attempts: usize,
    spare: Vec<Vec<Attempt<T>>>,
}

impl<T> Chunks<T> {
    pub(super) fn new() -> Self {
        Self { chunks: VecDeque::new(), attempts: 0, spare: Vec::new() }
    }

    /// Attempts that wait.
    pub(super) fn len(&self) -> usize {
        self.attempts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attempts == 0
    }

    /// Adds a batch, which is drained.
    pub(super) fn push(&mut self, batch: &mut Vec<Attempt<T>>) {
        self.attempts += batch.len();
        if let Some(last) = self.chunks.back_mut()
            && last.len() + batch.len() <= CHUNK
        {
            last.append(batch);
        } else if batch.len() <= CHUNK {
            if !batch.is_empty() {
                let empty = self.empty();
                self.chunks.push_back(std::mem::replace(batch, empty));
            }
        } else {
            let mut chunk = self.empty();
            for attempt in batch.drain(..) {
                if chunk.len() == CHUNK {
                    let empty = self.empty();
                    self.chunks.push_back(std::mem::replace(&mut chunk, empty));
                }
                chunk.push(attempt);
            }
            self.chunks.push_back(chunk);
        }
    }

    /// Exchanges an empty buffer with the first chunk, if there is one.
    pub(super) fn pop(&mut self, into: &mut Vec<Attempt<T>>) {
        debug_assert!(into.is_empty(), "a loop takes a chunk when it has none");
        let Some(chunk) = self.chunks.pop_front() else { return };
        self.attempts -= chunk.len();
        let empty = std::mem::replace(into, chunk);
        if self.spare.len() < SPARE {
            self.spare.push(empty);
        }
    }

    /// Takes out all that waits.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Attempt<T>> + '_ {
        self.attempts = 0;
        self.chunks.drain(..).flatten()
    }

    fn empty(&mut self) -> Vec<Attempt<T>> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        stamp::Stamp,
        task::{EngineTask, LaneKind, Receipt},
    };

    fn attempts(ids: std::ops::Range<u64>) -> Vec<Attempt<u64>> {
        let at = Stamp::from(std::time::Instant::now());
        ids.map(|id| {
            let task = EngineTask {
                id,
                receipt: Receipt(id),
                attempt: 1,
                lane: LaneKind::Async,
                slot: 0,
                queued: at,
                payload: None,
                options: None,
                key: NonZeroU32::new(1),
                holds_key: false,
            };
            Attempt { task, payload: id, admitted: at, timeout: None }
        })
        .collect()
    }

    #[test]
    fn attempts_come_out_in_their_order_in_chunks_that_are_never_too_long() {
        let mut chunks = Chunks::new();
        let mut next = 0;
        for size in [0, 1, 3, 8, 1, 7, 20, 2, 64, 1] {
            let mut batch = attempts(next..next + size);
            chunks.push(&mut batch);
            assert!(batch.is_empty());
            next += size;
        }
        assert_eq!(chunks.len() as u64, next);
        let (mut ids, mut sizes) = (Vec::new(), Vec::new());
        while !chunks.is_empty() {
            let mut chunk = Vec::new();
            chunks.pop(&mut chunk);
            sizes.push(chunk.len());
            ids.extend(chunk.drain(..).map(|attempt| attempt.payload));
        }
        assert_eq!(ids, (0..next).collect::<Vec<_>>());
        assert!(sizes.iter().all(|size| (1..=CHUNK).contains(size)), "{sizes:?}");
        assert_eq!(sizes[0], 4, "those that come one by one lie together");
        chunks.push(&mut attempts(0..20));
        assert_eq!(chunks.drain().count(), 20);
        assert!(chunks.is_empty());
    }
}

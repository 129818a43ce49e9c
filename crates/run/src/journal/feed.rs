//! The way of result lines from the journal to the output: bounded by bytes, so that a slow reader
//! of stdout stops the run only when much is waiting for it, and that much whatever the size of
//! results.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{format::Piece, writer::Batch};

/// Bytes that may wait for the output before the journal waits too: a slow reader must not fill the
/// memory.
pub(crate) const QUEUE_BYTES: usize = 16 << 20;

/// Bytes that count for what a result has in a file, so that what waits on disk is bounded by the
/// number of results, too.
const SPOOLED: usize = 1 << 20;

/// Element of the queue.
#[derive(Debug)]
pub(crate) enum Item {
    /// Lines that are in the journal.
    Lines(Batch),
    /// Places in the input at which nothing will come, or something that the journal has already.
    Skipped(Vec<(u64, Option<u64>)>),
    /// No more will come.
    Finish,
}

impl Item {
    fn weight(&self) -> usize {
        match self {
            Item::Lines(batch) => {
                let held = |piece: &Piece| piece.raw.as_deref().map_or(0, <[u8]>::len) + piece.rest.as_ref().map_or(0, |_| SPOOLED);
                batch.bytes.len() + batch.pieces.iter().map(held).sum::<usize>()
            }
            Item::Skipped(places) => places.len() * size_of::<(u64, Option<u64>)>(),
            Item::Finish => 0,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    weight: usize,
    /// The output has failed or was given up: what is sent is dropped.
    closed: bool,
}

/// The sending end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Feed {
    /// Tells an ordered output that no new result will come at these places of the input.
    pub(crate) fn skipped(&self, places: Vec<(u64, Option<u64>)>) {
        self.put(Item::Skipped(places));
    }

    /// Passes lines on. Waits while [`QUEUE_BYTES`] are waiting; drops them when the output has
    /// ended.
    pub(crate) fn send(&self, batch: Batch) {
        self.put(Item::Lines(batch));
    }

    pub(crate) fn put(&self, item: Item) {
        let weight = item.weight();
        let mut state = self.lock();
        while state.weight >= QUEUE_BYTES && !state.closed {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return;
        }
        state.weight += weight;
        state.items.push_back(item);
        self.shared.1.notify_all();
    }

    /// Says that no more will come; never waits.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        if !state.closed {
            state.items.push_back(Item::Finish);
        }
        self.shared.1.notify_all();
    }

    /// All that waits, as soon as there is something; nothing once it is closed.
    pub(crate) fn take(&self) -> VecDeque<Item> {
        let mut state = self.lock();
        while state.items.is_empty() && !state.closed {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.weight = 0;
        self.shared.1.notify_all();
        std::mem::take(&mut state.items)
    }

    /// Drops what waits and all that comes.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.items.clear();
        state.weight = 0;
        self.shared.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

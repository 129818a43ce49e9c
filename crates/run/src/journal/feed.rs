//! The way of result lines from the journal to the output: bounded by bytes, so that a slow reader
//! of stdout stops the run only when much is waiting for it, and that much whatever the size of
//! results.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use longshore_core::lane::child::OutputStream;

use super::{format::Piece, writer::Batch};
use crate::gauge::Gauge;

/// Bytes that may wait for the output before the journal waits too: a slow reader must not fill the
/// memory.
pub(crate) const QUEUE_BYTES: usize = 16 << 20;

/// Bytes that count for what a result has in a file, so that what waits on disk is bounded by the
/// number of results, too.
const SPOOLED: usize = 1 << 20;

/// Bytes of lines of running commands that may wait for the output.
pub(crate) const LIVE_BYTES: u64 = 1 << 20;

/// Whole lines that a running command has written.
#[derive(Debug)]
pub(crate) struct LiveText {
    pub(crate) stream: OutputStream,
    pub(crate) text: Vec<u8>,
}

/// Element of the queue.
#[derive(Debug)]
pub(crate) enum Item {
    /// Lines that are in the journal.
    Lines(Batch),
    /// Places in the input at which nothing will come, or something that the journal has already.
    Skipped(Vec<(u64, Option<u64>)>),
    /// Lines of a command that runs, which are in no journal.
    Live(LiveText),
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
            // Its room is the gauge's business.
            Item::Live(_) | Item::Finish => 0,
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
    /// Where lines of running commands are shown: those that wait.
    gauge: Option<Arc<Gauge>>,
}

impl Feed {
    /// Makes a feed that takes lines of running commands, too.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub(crate) fn with_live() -> std::io::Result<Self> {
        Ok(Self { gauge: Some(Arc::new(Gauge::new(LIVE_BYTES)?)), ..Self::default() })
    }

    /// Returns what knows how much of lines of running commands waits, where they are shown.
    pub(crate) fn gauge(&self) -> Option<&Gauge> {
        self.gauge.as_deref()
    }

    /// Passes on lines of a running command; never waits. Returns the number that the gauge knows
    /// them by.
    pub(crate) fn live(&self, live: LiveText) -> u64 {
        let Some(gauge) = &self.gauge else { return 0 };
        gauge.send(live.text.len(), || self.push(Item::Live(live)))
    }

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
        self.push(Item::Finish);
    }

    /// Puts what has no weight; never waits.
    fn push(&self, item: Item) {
        let mut state = self.lock();
        if !state.closed {
            state.items.push_back(item);
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
        drop(state);
        self.gauge.iter().for_each(|gauge| gauge.close());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

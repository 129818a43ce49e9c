//! The queue in front of a stage: strictly bounded, and moved through in batches, a batch under one
//! lock.
//!
//! Both sides wait in a [`CallLine`]. Whoever can be served is called one at a time: the one who
//! was called looks, takes its share, and calls the next if there is still something to be had. So
//! a batch of tiny items wakes one taker, a batch of long ones as many as there are items. Givers
//! are called when the queue has fallen to half, so that batches stay big, or at once by a taker
//! whose items take long.

use std::{collections::VecDeque, sync::Arc, task::Waker};

use crate::sync::Mutex;

#[cfg(all(test, longshore_loom))]
mod loom_tests;
#[cfg(all(test, not(longshore_loom)))]
mod tests;

/// Items on their way, each with the number of the source's item that it comes from.
pub(super) type ItemBatch<T> = VecDeque<(u64, T)>;

/// A bounded queue between any number of givers and takers.
pub(super) struct StageQueue<T> {
    state: Mutex<QueueItems<T>>,
    capacity: usize,
}

struct QueueItems<T> {
    items: ItemBatch<T>,
    /// Items that were taken so far: the index of the next one.
    taken: u64,
    /// Items whose outputs have been handed on, in order; at most `window` more than these may be
    /// taken.
    released: u64,
    window: u64,
    /// Givers that have not left.
    open: usize,
    stopped: bool,
    /// Set: items in here may still be taken after a stop, since they have left the last stage.
    keeps: bool,
    /// Items that were refused or put back because of a stop.
    refused: u64,
    takers: CallLine,
    givers: CallLine,
}

/// Wish of a taker.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    /// At most so many.
    pub(super) most: usize,
    /// Number of those that share what is there.
    pub(super) sharers: usize,
    /// Its items take long: a place that becomes free is worth a wake-up at once.
    pub(super) eager: bool,
}

/// Answer to a taker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakenItems {
    /// Items; the first of them has this index in the queue's order.
    Items(u64),
    /// Nothing is there; the waker will be called.
    Empty,
    /// Something is there, but too much that was taken before has not been handed on; the waker
    /// will be called.
    Ahead,
    /// There will never be more.
    End,
    /// The pipeline has stopped.
    Stopped,
}

/// Answer to a giver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// Everything is in.
    All,
    /// As much as there was room for; the waker will be called for the rest.
    Full,
    /// The pipeline has stopped; the batch was counted and dropped.
    Stopped,
}

impl<T> StageQueue<T> {
    /// A queue of this capacity for so many takers, of whom the first has handed on nothing yet.
    /// `window`: how many items may be taken and not released.
    pub(super) fn new(capacity: usize, takers: usize, window: Option<usize>) -> Arc<Self> {
        let state = QueueItems {
            items: VecDeque::new(),
            taken: 0,
            released: 0,
            window: window.map_or(u64::MAX, |window| window as u64),
            open: 0,
            stopped: false,
            keeps: false,
            refused: 0,
            takers: CallLine::new(takers),
            givers: CallLine::new(0),
        };
        Arc::new(Self { state: Mutex::new(state), capacity: capacity.max(1) })
    }

    /// The queue behind the last stage: what is in it can be read after a stop too.
    pub(super) fn last(capacity: usize) -> Arc<Self> {
        let this = Self::new(capacity, 1, None);
        this.state.lock().keeps = true;
        this
    }

    /// A new giver; the queue ends when all have left.
    pub(super) fn enter(&self) -> usize {
        let mut state = self.state.lock();
        state.open += 1;
        state.givers.enter()
    }

    /// A giver that leaves.
    pub(super) fn leave(&self, who: usize) {
        let mut state = self.state.lock();
        state.givers.arrive(who);
        state.open -= 1;
        // A call that it had is for the next one.
        let giver = if state.items.len() < self.capacity { state.givers.call() } else { None };
        let takers = if state.open == 0 { state.takers.call_all() } else { Vec::new() };
        drop(state);
        wake(giver);
        wake_all(takers);
    }

    /// Appends to `into` what there is, as far as `ask` goes. If there is nothing, the waker is
    /// kept.
    #[inline]
    pub(super) fn take(&self, who: usize, ask: Ask, into: &mut ItemBatch<T>, waker: &Waker) -> TakenItems {
        let mut state = self.state.lock();
        let this = &mut *state;
        this.takers.arrive(who);
        if this.stopped && !this.keeps {
            return TakenItems::Stopped;
        }
        if this.items.is_empty() {
            if this.open == 0 {
                return if this.stopped { TakenItems::Stopped } else { TakenItems::End };
            }
            this.takers.wait(who, waker);
            return TakenItems::Empty;
        }
        let ahead = this.room_ahead();
        if ahead == 0 {
            this.takers.wait(who, waker);
            return TakenItems::Ahead;
        }
        let there = this.items.len();
        let count = ask.most.min(there.div_ceil(ask.sharers.max(1))).min(ahead).max(1);
        if count == there && into.is_empty() {
            // For free: the buffers change places.
            std::mem::swap(&mut this.items, into);
        } else {
            into.extend(this.items.drain(..count));
        }
        let first = this.taken;
        this.taken += count as u64;
        let left = there - count;
        let giver = if ask.eager || left <= self.capacity / 2 { this.givers.call() } else { None };
        if left == 0 && this.open == 0 {
            let all = this.takers.call_all();
            drop(state);
            wake_all(all);
            return TakenItems::Items(first);
        }
        let next = if left > 0 && this.room_ahead() > 0 { this.takers.call() } else { None };
        drop(state);
        wake(giver);
        wake(next);
        TakenItems::Items(first)
    }

    /// Moves in what there is room for. If not everything went in, the waker is kept.
    #[inline]
    pub(super) fn give(&self, who: usize, batch: &mut ItemBatch<T>, waker: &Waker) -> Given {
        let mut state = self.state.lock();
        let this = &mut *state;
        this.givers.arrive(who);
        if this.stopped {
            this.refused += batch.len() as u64;
            drop(state);
            // User code may run in here: not under the lock.
            batch.clear();
            return Given::Stopped;
        }
        let count = (self.capacity - this.items.len()).min(batch.len());
        if count == batch.len() && this.items.is_empty() {
            std::mem::swap(&mut this.items, batch);
        } else {
            this.items.extend(batch.drain(..count));
        }
        let taker = if count > 0 && this.room_ahead() > 0 { this.takers.call() } else { None };
        let given = if batch.is_empty() {
            Given::All
        } else {
            this.givers.wait(who, waker);
            Given::Full
        };
        // Room that this giver did not need is for the next one.
        let giver = if given == Given::All && this.items.len() < self.capacity { this.givers.call() } else { None };
        drop(state);
        wake(taker);
        wake(giver);
        given
    }

    /// Returns how many items would fit now. If none would, the waker is kept. `None` after a stop.
    pub(super) fn room(&self, who: usize, waker: &Waker) -> Option<usize> {
        let mut state = self.state.lock();
        let this = &mut *state;
        this.givers.arrive(who);
        if this.stopped {
            return None;
        }
        let room = self.capacity - this.items.len();
        if room == 0 {
            this.givers.wait(who, waker);
        }
        Some(room)
    }

    /// The outputs of so many items have been handed on, in order.
    pub(super) fn release(&self, count: u64) {
        let mut state = self.state.lock();
        let this = &mut *state;
        this.released += count;
        let taker = if !this.items.is_empty() && this.room_ahead() > 0 { this.takers.call() } else { None };
        drop(state);
        wake(taker);
    }

    /// Counts items that were taken and will not be run because of a stop.
    pub(super) fn put_back(&self, count: usize) {
        let mut state = self.state.lock();
        state.refused += count as u64;
        state.taken -= count as u64;
    }

    /// Nothing goes in any more, and out only from the queue behind the last stage.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let takers = state.takers.call_all();
        let givers = state.givers.call_all();
        drop(state);
        wake_all(takers);
        wake_all(givers);
    }

    /// Returns true once all givers have left.
    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().open == 0
    }

    /// Items that were not taken: still in here, refused, or put back.
    pub(super) fn left(&self) -> u64 {
        let state = self.state.lock();
        state.items.len() as u64 + state.refused
    }
}

impl<T> QueueItems<T> {
    #[inline]
    fn room_ahead(&self) -> usize {
        // `taken` may have been put back below `released`.
        let ahead = self.window.saturating_sub(self.taken.saturating_sub(self.released));
        usize::try_from(ahead).unwrap_or(usize::MAX)
    }
}

/// Those who wait on one side of a queue.
///
/// As long as somebody waits who could be served, somebody is called and has not come yet; whoever
/// is called comes, looks, and the queue then calls the next. That is why no wake-up is lost, and
/// why there are not more of them than needed.
struct CallLine {
    seats: Vec<CallState>,
    waiting: usize,
    called: usize,
}

enum CallState {
    Away,
    Waiting(Waker),
    Called,
}

impl CallLine {
    fn new(seats: usize) -> Self {
        Self { seats: (0..seats).map(|_| CallState::Away).collect(), waiting: 0, called: 0 }
    }

    fn enter(&mut self) -> usize {
        self.seats.push(CallState::Away);
        self.seats.len() - 1
    }

    #[inline]
    fn arrive(&mut self, who: usize) {
        match std::mem::replace(&mut self.seats[who], CallState::Away) {
            CallState::Away => {}
            CallState::Waiting(_) => self.waiting -= 1,
            CallState::Called => self.called -= 1,
        }
    }

    fn wait(&mut self, who: usize, waker: &Waker) {
        self.seats[who] = CallState::Waiting(waker.clone());
        self.waiting += 1;
    }

    /// Calls one of those who wait, unless somebody is on the way already.
    #[inline]
    fn call(&mut self) -> Option<Waker> {
        if self.waiting == 0 || self.called > 0 {
            return None;
        }
        self.seats.iter_mut().find(|seat| matches!(seat, CallState::Waiting(_))).and_then(|seat| {
            (self.waiting, self.called) = (self.waiting - 1, self.called + 1);
            match std::mem::replace(seat, CallState::Called) {
                CallState::Waiting(waker) => Some(waker),
                _ => None,
            }
        })
    }

    fn call_all(&mut self) -> Vec<Waker> {
        let mut all = Vec::with_capacity(self.waiting);
        for seat in &mut self.seats {
            if matches!(seat, CallState::Waiting(_))
                && let CallState::Waiting(waker) = std::mem::replace(seat, CallState::Called)
            {
                all.push(waker);
            }
        }
        (self.waiting, self.called) = (0, self.called + all.len());
        all
    }
}

#[inline]
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

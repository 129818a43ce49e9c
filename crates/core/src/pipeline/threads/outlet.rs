//! Puts the outputs of several workers in the order of their inputs.
//!
//! Whoever brings the outputs that are next in line hands them on, and all that follow; the others
//! leave theirs here and go on. How many may lie here is the window of the queue in front: nothing
//! more is taken until what was taken has been handed on.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
    time::Duration,
};

use super::StagePatience;
use crate::{
    pipeline::{exit::Exit, post::Post, queue::ItemBatch},
    sync::Mutex,
};

pub(super) struct Outlet<V>(Mutex<OutletState<V>>);

struct OutletState<V> {
    /// The index, in the queue in front, of the item whose outputs are next.
    next: u64,
    /// Outputs of items from this index on, and of how many items.
    held: BTreeMap<u64, (u64, ItemBatch<V>)>,
    /// Away while somebody hands on.
    exit: Option<Box<dyn Exit<V>>>,
    /// An empty buffer, to be used again.
    spare: ItemBatch<V>,
}

impl<V> Outlet<V> {
    pub(super) fn new(exit: Box<dyn Exit<V>>) -> Self {
        Self(Mutex::new(OutletState { next: 0, held: BTreeMap::new(), exit: Some(exit), spare: VecDeque::new() }))
    }

    /// Takes the outputs of the items `first..first + count`, and hands on what is next. Returns
    /// for how long this thread was held up.
    pub(super) fn hand_on<T>(
        &self,
        first: u64,
        count: u64,
        out: &mut ItemBatch<V>,
        waker: &Waker,
        patience: StagePatience,
        post: &Post<T>,
    ) -> Duration {
        let mut blocked = Duration::ZERO;
        let mut state = self.0.lock();
        let spare = std::mem::take(&mut state.spare);
        state.held.insert(first, (count, std::mem::replace(out, spare)));
        loop {
            // While somebody else hands on, he will find ours.
            let Some(mut exit) = state.exit.take() else { return blocked };
            let mut run: ItemBatch<V> = VecDeque::new();
            let from = state.next;
            let mut next = from;
            while let Some((count, mut outputs)) = state.held.remove(&next) {
                next += count;
                if run.is_empty() {
                    std::mem::swap(&mut run, &mut outputs);
                } else {
                    run.append(&mut outputs);
                }
            }
            state.next = next;
            let handed = next - from;
            if handed == 0 {
                state.exit = Some(exit);
                return blocked;
            }
            drop(state);
            blocked += super::give(&mut *exit, &mut run, waker, patience, post);
            post.input.release(handed);
            state = self.0.lock();
            state.exit = Some(exit);
            state.spare = run;
        }
    }
}

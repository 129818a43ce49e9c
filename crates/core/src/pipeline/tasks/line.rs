//! Puts the outputs of an async stage in the order of their items.

use std::collections::VecDeque;

use crate::pipeline::queue::ItemBatch;

/// Outputs that are not next in line, by the index of their item.
pub(super) struct OutputLine<V> {
    /// Of the items from `base` on: nothing yet, no output, or an output.
    pub(super) slots: VecDeque<Option<Option<(u64, V)>>>,
    pub(super) base: u64,
}

impl<V> Default for OutputLine<V> {
    fn default() -> Self {
        Self { slots: VecDeque::new(), base: 0 }
    }
}

impl<V> OutputLine<V> {
    /// An item has ended; what is next in line goes to `ready`.
    #[inline]
    pub(super) fn put(&mut self, index: u64, output: Option<(u64, V)>, ready: &mut ItemBatch<V>) {
        let place = (index - self.base) as usize;
        if place == 0 && self.slots.is_empty() {
            self.base += 1;
            ready.extend(output);
            return;
        }
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, || None);
        }
        self.slots[place] = Some(output);
        while let Some(slot) = self.slots.front_mut()
            && let Some(output) = slot.take()
        {
            self.slots.pop_front();
            self.base += 1;
            ready.extend(output);
        }
    }
}

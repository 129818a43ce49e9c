//! Claimed messages whose time has not come. Memory keeps the time and the receipt; the message
//! stays in the broker.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::SystemTime};

use longshore_core::Receipt;

/// Messages that are claimed and wait for their time. Dozens of bytes each.
#[derive(Default)]
pub(crate) struct HeldMessages {
    heap: BinaryHeap<Reverse<HeldEntry>>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HeldEntry {
    /// Time at which it is due.
    pub(crate) due: SystemTime,
    /// Number by which the consumer knows it.
    pub(crate) receipt: u64,
    /// Its queue.
    pub(crate) queue: Arc<str>,
    pub(crate) crashes: u32,
    /// It was lent before.
    pub(crate) redelivered: bool,
    /// Task for whose rate it waits; none where it waits for its ETA.
    pub(crate) paced: Option<Arc<str>>,
    /// Its slot of that rate is reserved: it runs when it is due. Otherwise it asks for one then.
    pub(crate) slot: bool,
}

impl HeldMessages {
    pub(crate) fn push(&mut self, entry: HeldEntry) {
        self.heap.push(Reverse(entry));
    }

    /// Returns the time at which the first is due.
    pub(crate) fn next(&self) -> Option<SystemTime> {
        self.heap.peek().map(|entry| entry.0.due)
    }

    /// Takes up to `most` that are due.
    pub(crate) fn due(&mut self, now: SystemTime, most: usize) -> Vec<HeldEntry> {
        let mut due = Vec::new();
        while due.len() < most && self.next().is_some_and(|next| next <= now) {
            due.extend(self.heap.pop().map(|entry| entry.0));
        }
        due
    }

    /// Makes these due at this time.
    pub(crate) fn make_due(&mut self, receipts: &[Receipt], now: SystemTime) {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        for Reverse(entry) in entries.iter_mut().filter(|entry| receipts.contains(&entry.0.receipt())) {
            entry.due = entry.due.min(now);
        }
        self.heap = entries.into();
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// All that wait, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &HeldEntry> {
        self.heap.iter().map(|entry| &entry.0)
    }

    /// Takes out those that wait for the rate of this task, for a new one has been set.
    pub(crate) fn take_paced(&mut self, task: &str) -> Vec<HeldEntry> {
        let (paced, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.heap).into_iter().partition(|entry| entry.0.paced.as_deref() == Some(task));
        self.heap = rest.into();
        paced.into_iter().map(|entry| entry.0).collect()
    }
}

impl HeldEntry {
    pub(crate) fn receipt(&self) -> Receipt {
        Receipt(self.receipt)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(seconds: u64, receipt: u64) -> HeldEntry {
        HeldEntry {
            due: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            receipt,
            queue: "q".into(),
            crashes: 0,
            redelivered: false,
            paced: (receipt > 1).then(|| if receipt == 4 { "a".into() } else { "b".into() }),
            slot: false,
        }
    }

    #[test]
    fn what_is_due_comes_in_the_order_of_its_time() {
        let mut held = HeldMessages::default();
        for (seconds, receipt) in [(30, 1), (10, 2), (20, 3), (40, 4)] {
            held.push(entry(seconds, receipt));
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(30);
        let receipts = |entries: Vec<HeldEntry>| entries.iter().map(|entry| entry.receipt).collect::<Vec<_>>();
        assert_eq!(receipts(held.due(now, 2)), [2, 3]);
        assert_eq!(receipts(held.due(now, 2)), [1]);
        held.push(entry(50, 5));
        held.push(entry(60, 6));
        held.make_due(&[Receipt(6), Receipt(9)], now);
        assert_eq!(receipts(held.due(now, 2)), [6]);
        assert_eq!((receipts(held.take_paced("a")), held.len()), (vec![4], 1));
    }

    #[test]
    fn a_held_message_costs_little_memory() {
        assert!(size_of::<HeldEntry>() <= 64);
    }
}

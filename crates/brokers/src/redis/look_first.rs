//! Decides whether it pays to look for an answer for a moment instead of going to sleep: as long as
//! it did the last time. Where answers are late it is tried again after a call, after two, after
//! four, and so on; where others have something to send meanwhile, after many. Spinning before
//! blocking, as locks do it: Karlin, Manasse, McGeoch, Owicki, "Competitive randomized algorithms
//! for non-uniform problems", SODA 1990.

use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

/// Most calls that are let pass before it is tried again.
const RARELY: u32 = 256;
/// Number of calls of which one lets others go first, to see whether there are any.
const OTHERS: u32 = 16;

/// Experience of the last calls. Nothing is lost if several count at once.
#[derive(Default)]
pub(super) struct LookRecord {
    /// Calls to let pass.
    rest: AtomicU32,
    /// Calls that are let pass after the next failure.
    penalty: AtomicU32,
    /// Tries so far.
    tries: AtomicU32,
}

/// Advice to a caller whose answer is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Advice {
    Sleep,
    Look,
    /// Look, when others had a chance to send.
    LookAfterOthers,
}

/// On one CPU whoever looks keeps the server from answering.
static ALONE: LazyLock<bool> = LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1));

impl LookRecord {
    pub(super) fn advice(&self) -> Advice {
        if *ALONE { Advice::Sleep } else { self.next() }
    }

    fn next(&self) -> Advice {
        let rest = self.rest.load(Ordering::Relaxed);
        if rest > 0 {
            self.rest.store(rest - 1, Ordering::Relaxed);
            return Advice::Sleep;
        }
        let tries = self.tries.load(Ordering::Relaxed).wrapping_add(1);
        self.tries.store(tries, Ordering::Relaxed);
        if tries.is_multiple_of(OTHERS) { Advice::LookAfterOthers } else { Advice::Look }
    }

    /// Notes that there are others: who looks keeps them waiting.
    pub(super) fn crowd(&self) {
        self.rest.store(RARELY, Ordering::Relaxed);
    }

    /// Notes whether the answer came in time.
    pub(super) fn was(&self, good: bool) {
        let penalty = if good { 0 } else { (self.penalty.load(Ordering::Relaxed) * 2).clamp(1, RARELY) };
        self.penalty.store(penalty, Ordering::Relaxed);
        self.rest.store(penalty, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_pays_is_soon_tried_but_rarely() {
        let (record, mut tried) = (LookRecord::default(), 0);
        for _ in 0..10_000 {
            if record.next() != Advice::Sleep {
                tried += 1;
                record.was(false);
            }
        }
        assert!((39..=50).contains(&tried), "{tried}");
    }

    #[test]
    fn what_pays_is_tried_every_time_and_others_go_first_now_and_then() {
        let record = LookRecord::default();
        record.was(false);
        while record.next() == Advice::Sleep {}
        record.was(true);
        let advice: Vec<Advice> = (0..160).map(|_| record.next()).collect();
        assert!(!advice.contains(&Advice::Sleep));
        assert_eq!(advice.iter().filter(|advice| **advice == Advice::LookAfterOthers).count(), 10);
    }
}

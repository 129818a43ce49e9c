//! What reaches the engine's loop: one box with a place for each kind of message.
//!
//! Senders append under a lock that is never held for longer than a few moves; the loop takes everything at once by swapping buffers, so that a
//! message costs no allocation and a busy loop is not woken again and again.

use crate::sync::{AtomicWaker, Mutex};
use std::task::{Context, Poll};

/// Collects messages of one reader. `M` knows how to be empty.
pub(crate) struct Mailbox<M> {
    mail: Mutex<Slot<M>>,
    waker: AtomicWaker,
}

struct Slot<M> {
    mail: M,
    full: bool,
}

impl<M: Default> Mailbox<M> {
    pub(crate) fn new() -> Self {
        Self { mail: Mutex::new(Slot { mail: M::default(), full: false }), waker: AtomicWaker::new() }
    }

    /// Adds to the mail and wakes the reader. Never blocks for long, callable from anywhere.
    pub(crate) fn post<O>(&self, add: impl FnOnce(&mut M) -> O) -> O {
        let mut slot = self.mail.lock();
        let out = add(&mut slot.mail);
        // Only the first message of a filling box needs to wake: the reader empties the box whole.
        let first = !std::mem::replace(&mut slot.full, true);
        drop(slot);
        if first {
            self.waker.wake();
        }
        out
    }

    /// Exchanges the mail with an emptied `into`, when there is any. One reader only.
    pub(crate) fn poll_take(&self, into: &mut M, cx: &mut Context<'_>) -> Poll<()> {
        if self.try_take(into) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // Mail that came between the look and the registration found no waker.
        if self.try_take(into) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn try_take(&self, into: &mut M) -> bool {
        let mut slot = self.mail.lock();
        if !slot.full {
            return false;
        }
        slot.full = false;
        std::mem::swap(&mut slot.mail, into);
        true
    }
}

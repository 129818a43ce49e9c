//! What reaches the engine's loop: one box with a place for each kind of message.
//!
//! Senders append under a lock that is never held for longer than a few moves; the loop takes
//! everything at once by swapping buffers, so that a message costs no allocation and a busy loop is
//! not woken again and again.

use crate::sync::{AtomicWaker, Mutex};
use std::task::{Context, Poll};

#[cfg(all(test, longshore_loom))]
pub(crate) mod loom_tests;

/// Collects messages of one reader. `M` knows how to be empty.
pub(crate) struct Mailbox<M> {
    mail: Mutex<Slot<M>>,
    waker: AtomicWaker,
}

struct Slot<M> {
    mail: M,
    /// There is mail.
    full: bool,
    /// There is mail that wants to be read soon; the reader has been woken for it.
    urgent: bool,
    /// The reader wants any mail soon.
    hungry: bool,
}

impl<M: Default> Mailbox<M> {
    pub(crate) fn new() -> Self {
        Self { mail: Mutex::new(Slot { mail: M::default(), full: false, urgent: false, hungry: true }), waker: AtomicWaker::new() }
    }

    /// Adds to the mail and wakes the reader. Never blocks for long, callable from anywhere.
    pub(crate) fn post<O>(&self, add: impl FnOnce(&mut M) -> O) -> O {
        let (out, wake) = self.add(add, true);
        if wake {
            self.waker.wake();
        }
        out
    }

    /// Adds to the mail, and leaves it to the caller to have it read soon.
    pub(crate) fn post_asleep<O>(&self, add: impl FnOnce(&mut M) -> O) -> O {
        self.add(add, true).0
    }

    /// Adds to the mail, for the reader to find when it wakes for something else, unless it is
    /// hungry.
    pub(crate) fn post_quietly<O>(&self, add: impl FnOnce(&mut M) -> O) -> O {
        let (out, wake) = self.add(add, false);
        if wake {
            self.waker.wake();
        }
        out
    }

    /// Says also whether the reader is to be woken.
    #[inline]
    fn add<O>(&self, add: impl FnOnce(&mut M) -> O, urgent: bool) -> (O, bool) {
        let mut slot = self.mail.lock();
        let out = add(&mut slot.mail);
        slot.full = true;
        // Only the first urgent message of a filling box needs to wake: the reader empties the box
        // whole.
        let wake = (urgent || slot.hungry) && !std::mem::replace(&mut slot.urgent, true);
        (out, wake)
    }

    /// Exchanges the mail with an emptied `into`, when there is urgent mail, or any if the reader
    /// is hungry. One reader only.
    pub(crate) fn poll_take(&self, into: &mut M, hungry: bool, cx: &mut Context<'_>) -> Poll<()> {
        if self.try_take(into, hungry) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // Mail that came between the look and the registration found no waker.
        if self.try_take(into, hungry) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Exchanges the mail with an emptied `into`, when there is some that matters.
    pub(crate) fn try_take(&self, into: &mut M, hungry: bool) -> bool {
        let mut slot = self.mail.lock();
        slot.hungry = hungry;
        if !(slot.urgent || (hungry && slot.full)) {
            return false;
        }
        (slot.full, slot.urgent) = (false, false);
        std::mem::swap(&mut slot.mail, into);
        true
    }
}

/// Moves a batch; for free where the other side is empty.
pub(crate) fn append<X>(to: &mut Vec<X>, from: &mut Vec<X>) {
    if to.is_empty() {
        std::mem::swap(to, from);
    } else {
        to.append(from);
    }
}

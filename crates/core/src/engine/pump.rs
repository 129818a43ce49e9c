//! Fetches for the room that the loop grants. A fetch is never cancelled: closing wakes it, and it
//! ends by itself.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use futures_util::FutureExt;

use crate::{
    engine::Mail,
    error::SourceError,
    mailbox::{Mailbox, append},
    outcome::panic_text,
    source::{Fetched, Source},
    sync::{AtomicBool, AtomicUsize, AtomicWaker, fence},
};

#[cfg(all(test, longshore_loom))]
mod loom_tests;

/// As long as this part of the room is free, the pump fetches on without being told: a wake-up for
/// every one of a few tasks costs each a switch of threads.
const FEW: usize = 4;

/// The loop's side of the pump.
pub(super) struct Pump {
    /// Number of deliveries that may be fetched now. The loop sets it; what has been fetched but
    /// not yet taken over is in `travelling`.
    room: AtomicUsize,
    travelling: AtomicUsize,
    /// The loop runs out of tasks.
    low: AtomicBool,
    /// A fetch is on its way.
    fetching: AtomicBool,
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl Pump {
    pub(super) fn new() -> Self {
        Self {
            room: AtomicUsize::new(0),
            travelling: AtomicUsize::new(0),
            low: AtomicBool::new(true),
            fetching: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Grants room for this many tasks, in all, after `took` of those on their way have been taken
    /// over. To wake the pump for every task would cost more than the task: it is woken when the
    /// loop is `low`.
    pub(super) fn set_room(&self, room: usize, took: usize, low: bool) {
        // In this order: in between, the pump sees too little room, never too much.
        self.room.store(room, Ordering::Release);
        self.low.store(low, Ordering::Release);
        let travelling = self.travelling.fetch_sub(took, Ordering::AcqRel) - took;
        // A fetch on its way looks for itself when it is back. With the fence in `came_back`: one
        // of the two sees the other.
        fence(Ordering::SeqCst);
        if low && room > travelling && !self.fetching.load(Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn free(&self) -> usize {
        self.room.load(Ordering::Acquire).saturating_sub(self.travelling.load(Ordering::Acquire))
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Notes tasks that are about to be posted to the loop. Unless they are few for the room there
    /// is, they are enough until it says again that it runs low, after it has seen them: noted any
    /// later, this would take back what the loop has said meanwhile.
    fn send_off(&self, tasks: usize) {
        let travelling = self.travelling.load(Ordering::Acquire) + tasks;
        if travelling.saturating_mul(FEW) > self.room.load(Ordering::Acquire) {
            self.low.store(false, Ordering::Release);
        }
        self.travelling.fetch_add(tasks, Ordering::AcqRel);
    }

    /// The fetch is over: from now on the pump is woken again.
    fn came_back(&self) {
        self.fetching.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    async fn some_room(&self) -> usize {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            let free = self.free();
            let wanted = free > 0 && self.low.load(Ordering::Acquire);
            if wanted || self.is_closed() { Poll::Ready(free) } else { Poll::Pending }
        })
        .await
    }
}

/// The pump's task.
pub(super) async fn run<T: Send + 'static, R: Send + 'static>(
    pump: Arc<Pump>,
    source: Arc<dyn Source<T>>,
    mailbox: Arc<Mailbox<Mail<T, R>>>,
) {
    let mut fetched = Vec::new();
    let mut told = false;
    let end = loop {
        let room = pump.some_room().await;
        if pump.is_closed() {
            break Ok(());
        }
        pump.fetching.store(true, Ordering::Relaxed);
        let result = {
            // The call itself may run user code (an iterator, say), not only the future that it
            // returns.
            let fetch = AssertUnwindSafe(async { source.fetch(room, &mut fetched).await }).catch_unwind();
            let mut fetch = std::pin::pin!(fetch);
            std::future::poll_fn(|cx| {
                pump.waker.register(cx.waker());
                if pump.is_closed() && !std::mem::replace(&mut told, true) {
                    source.close();
                }
                fetch.as_mut().poll(cx)
            })
            .await
        };
        pump.came_back();
        let result = result.unwrap_or_else(|panic| Err(SourceError::fatal(format!("the source panicked: {}", panic_text(&*panic)))));
        if !fetched.is_empty() {
            pump.send_off(fetched.len());
            mailbox.post_quietly(|mail| append(&mut mail.fetched, &mut fetched));
        }
        match result {
            Ok(Fetched::More) => {}
            Ok(Fetched::End) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if pump.is_closed() && !told {
        // Producers that wait for room learn that nobody will make any.
        source.close();
    }
    // There is no more work for the pump, whatever room there is.
    pump.fetching.store(true, Ordering::Relaxed);
    mailbox.post(|mail| mail.ended = Some(end));
}

//! The handle of one submitted call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    block_on::{block_on, block_on_until},
    error::TaskError,
    executor::{
        call::{AnswerSlot, CallerPlace, Ended, InPool, Inside, block_for},
        inbox::CallInbox,
    },
    sink::collect::Late,
};

/// One submitted call: await it, wait for it, cancel it, ask how it is doing.
///
/// Dropping it lets the call go on (submit and forget); should it fail then, that is counted as
/// unread in the executor's [summary](crate::executor::Closed).
///
/// Waiting for a call from inside the same executor does not deadlock: a call that nobody has begun
/// is run in the place of the one that waits.
#[must_use = "a dropped handle leaves the call running: say `.forget()` if that is what you want"]
pub struct TaskHandle<R: Send + 'static> {
    pub(super) slot: Arc<AnswerSlot<R>>,
    runtime: tokio::runtime::Handle,
    read: bool,
}

/// Also where the result itself cannot be shown.
/// ```
/// let pool = longshore_core::Executor::new();
/// let handle = pool.blocking().submit(|| 1);
/// assert!(format!("{handle:?}").starts_with("TaskHandle { finished: "));
/// assert_eq!(handle.wait().unwrap(), 1);
/// ```
impl<R: Send + 'static> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl<R: Send + 'static> TaskHandle<R> {
    pub(super) fn new(slot: Arc<AnswerSlot<R>>, runtime: tokio::runtime::Handle) -> Self {
        Self { slot, runtime, read: false }
    }

    /// Returns true once it has ended, well or badly.
    pub fn is_finished(&self) -> bool {
        self.slot.is_done()
    }

    /// Returns true while nobody has begun it.
    pub fn is_waiting(&self) -> bool {
        self.slot.is_waiting()
    }

    /// Asks the call to end. What has not begun never will; a future is dropped; a plain function
    /// runs on unless it looks at its [token](crate::CancelToken). The result is then an error of
    /// kind `cancelled`, unless the call was done first.
    pub fn cancel(&self) {
        self.slot.cancel();
    }

    /// Lets the call go on without a reader.
    pub fn forget(self) {}

    /// Blocks this thread until the call has ended.
    ///
    /// # Errors
    /// The call's error: its own, `panicked`, `timeout`, `cancelled`; or `deadlock`, at once, if
    /// this thread is a loop of the executor's async lane, which would have to run what it waits
    /// for (there, await the handle).
    pub fn wait(mut self) -> Result<R, TaskError> {
        match Inside::of(self.slot.pool) {
            Some(CallerPlace::Loop) if !self.slot.is_done() => {
                return Err(TaskError::new(
                    "deadlock",
                    "wait() inside an async task would block the loop that it waits for; await the handle instead",
                ));
            }
            Some(CallerPlace::Thread) => {
                self.help();
            }
            _ => {}
        }
        let slot = self.slot.clone();
        let ended = block_for(slot.pool, &slot.tally, "wait()", std::future::poll_fn(|cx| slot.poll_ended(cx)));
        self.read = true;
        ended
    }

    /// Blocks this thread until the call has ended, or the time is over: then the handle comes
    /// back, and the call goes on.
    ///
    /// # Errors
    /// [`Late`], with the handle.
    pub fn wait_timeout(mut self, limit: Duration) -> Result<Result<R, TaskError>, (Late, Self)> {
        let slot = self.slot.clone();
        match block_on_until(std::future::poll_fn(|cx| slot.poll_ended(cx)), Instant::now() + limit) {
            Some(ended) => {
                self.read = true;
                Ok(ended)
            }
            None => Err((Late, self)),
        }
    }

    /// Has this inbox told when the call has ended.
    pub(super) fn tell(&self, inbox: &Arc<CallInbox>, place: usize) {
        self.slot.tell(inbox, place);
    }

    /// Runs the call in place, if this thread works for the same executor and nobody has begun it.
    /// `false`: there was nothing to help with.
    pub(super) fn help(&self) -> bool {
        match Inside::of(self.slot.pool) {
            Some(CallerPlace::Thread) => {
                if let Some(future) = self.slot.take_async() {
                    let _runtime = self.runtime.enter();
                    self.slot.complete(block_on(future));
                    return true;
                }
                self.slot.run_plain()
            }
            Some(CallerPlace::Loop) => {
                // Not here, where it would hold up the loop: as a task of the runtime, which needs
                // no place in the lane.
                let Some(future) = self.slot.take_async() else { return false };
                let slot = self.slot.clone();
                let work = InPool { pool: slot.pool, work: future };
                self.runtime.spawn(async move { slot.complete(work.await) });
                true
            }
            None => false,
        }
    }

    /// Lets go of a call whose end, whatever it is, nobody wants to know.
    pub(super) fn discard(mut self) {
        self.read = true;
    }

    /// The result of a call that has ended and was not read.
    pub(super) fn take(mut self) -> Ended<R> {
        self.read = true;
        self.slot.take_ended().unwrap_or_else(|| Err(TaskError::new("lost", "the result was read before")))
    }
}

impl<R: Send + 'static> Future for TaskHandle<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // All places of the lane may be taken by tasks that wait as this one does.
        this.help();
        let ended = this.slot.poll_ended(cx);
        this.read |= ended.is_ready();
        ended
    }
}

impl<R: Send + 'static> Drop for TaskHandle<R> {
    fn drop(&mut self) {
        if !self.read {
            self.slot.forget();
        }
    }
}

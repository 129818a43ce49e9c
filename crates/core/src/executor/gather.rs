//! Many handles as one: all of them, or one after the other as they end.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::Stream;

use crate::{
    error::TaskError,
    executor::{
        InputError, TaskHandle,
        call::{CallTally, Inside, block_for},
        inbox::CallInbox,
    },
};

/// Waits for all handles; the first failure cancels the others and is the answer, with the place of
/// its handle.
///
/// A future, and for blocking code [`wait`](Gather::wait). Dropping it cancels what has not ended.
///
/// ```
/// use longshore_core::{Executor, gather};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let pool = Executor::new();
/// let doubled = gather([1, 2, 3].map(|n| pool.futures().submit(async move { n + n }))).await;
/// assert_eq!(doubled.unwrap(), [2, 4, 6]);
///
/// let failing = gather([1, 0].map(|n| pool.blocking().try_submit(move |_| 10u32.checked_div(n).ok_or("division by zero"))));
/// assert_eq!(failing.await.unwrap_err().to_string(), "input 1: error: division by zero");
/// # });
/// ```
pub fn gather<R: Send + 'static>(handles: impl IntoIterator<Item = TaskHandle<R>>) -> Gather<R> {
    let all = as_completed(handles);
    Gather { results: (0..all.handles.len()).map(|_| None).collect(), all }
}

/// See [`gather`].
#[must_use = "nobody waits for the handles"]
pub struct Gather<R: Send + 'static> {
    all: AsCompletedHandles<R>,
    results: Vec<Option<R>>,
}

impl<R: Send + 'static> Unpin for Gather<R> {}

impl<R: Send + 'static> Gather<R> {
    /// Blocks this thread until all have ended well or one has not.
    ///
    /// # Errors
    /// The first failure; the others are cancelled.
    ///
    /// # Panics
    /// In an async task of the same executor, whose loop it would block: there, await it.
    pub fn wait(mut self) -> Result<Vec<R>, InputError> {
        match self.all.pool() {
            Some((pool, tally)) => block_for(pool, &tally, "Gather::wait()", &mut self),
            None => Ok(Vec::new()),
        }
    }
}

impl<R: Send + 'static> Future for Gather<R> {
    type Output = Result<Vec<R>, InputError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match std::task::ready!(this.all.poll(cx)) {
                None => return Poll::Ready(Ok(std::mem::take(&mut this.results).into_iter().flatten().collect())),
                Some((index, Ok(result))) => this.results[index] = Some(result),
                Some((index, Err(error))) => {
                    this.all.cancel();
                    return Poll::Ready(Err(InputError { index, error }));
                }
            }
        }
    }
}

/// Waits for all handles, whatever their end; the answers are in the order of the handles.
///
/// ```
/// use longshore_core::{Executor, gather_all};
///
/// let pool = Executor::new();
/// let ends = gather_all((0..3u32).map(|n| pool.cpu().submit(move || 6 / n))).wait();
/// assert_eq!(ends[0].as_ref().unwrap_err().kind(), "panicked");
/// assert_eq!((ends[1].as_ref().unwrap(), ends[2].as_ref().unwrap()), (&6, &3));
/// ```
pub fn gather_all<R: Send + 'static>(handles: impl IntoIterator<Item = TaskHandle<R>>) -> GatherAll<R> {
    let all = as_completed(handles);
    GatherAll { ends: (0..all.handles.len()).map(|_| None).collect(), all }
}

/// See [`gather_all`].
#[must_use = "nobody waits for the handles"]
pub struct GatherAll<R: Send + 'static> {
    all: AsCompletedHandles<R>,
    ends: Vec<Option<Result<R, TaskError>>>,
}

impl<R: Send + 'static> Unpin for GatherAll<R> {}

impl<R: Send + 'static> GatherAll<R> {
    /// Blocks this thread until all have ended.
    ///
    /// # Panics
    /// In an async task of the same executor, whose loop it would block: there, await it.
    pub fn wait(mut self) -> Vec<Result<R, TaskError>> {
        match self.all.pool() {
            Some((pool, tally)) => block_for(pool, &tally, "GatherAll::wait()", &mut self),
            None => Vec::new(),
        }
    }
}

impl<R: Send + 'static> Future for GatherAll<R> {
    type Output = Vec<Result<R, TaskError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some((index, ended)) = std::task::ready!(this.all.poll(cx)) {
            this.ends[index] = Some(ended);
        }
        Poll::Ready(std::mem::take(&mut this.ends).into_iter().flatten().collect())
    }
}

/// The ends of these handles, with the place of each, as they come: an iterator (blocking) and a
/// stream. Dropping it cancels what has not ended.
///
/// ```
/// use longshore_core::{Executor, as_completed};
///
/// let pool = Executor::new();
/// let mut ends: Vec<_> = as_completed((0..3).map(|n| pool.blocking().submit(move || n * n))).map(|(at, end)| (at, end.unwrap())).collect();
/// ends.sort();
/// assert_eq!(ends, [(0, 0), (1, 1), (2, 4)]);
/// ```
pub fn as_completed<R: Send + 'static>(handles: impl IntoIterator<Item = TaskHandle<R>>) -> AsCompletedHandles<R> {
    let inbox = Arc::<CallInbox>::default();
    let handles: Vec<_> = handles.into_iter().map(Some).collect();
    for (place, handle) in handles.iter().enumerate() {
        if let Some(handle) = handle {
            handle.tell(&inbox, place);
        }
    }
    AsCompletedHandles { left: handles.len(), handles, inbox, gone: 0 }
}

/// See [`as_completed`].
pub struct AsCompletedHandles<R: Send + 'static> {
    handles: Vec<Option<TaskHandle<R>>>,
    left: usize,
    inbox: Arc<CallInbox>,
    /// Number of those at the front that are gone. Looked for from here on, or each poll would take
    /// longer than the one before.
    gone: usize,
}

impl<R: Send + 'static> Unpin for AsCompletedHandles<R> {}

impl<R: Send + 'static> AsCompletedHandles<R> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Result<R, TaskError>)>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        // Inside a call of the same pool nobody else may have a place for what this one waits for.
        if self.pool().is_some_and(|(pool, _)| Inside::of(pool).is_some()) {
            let waiting = self.handles[self.gone..].iter().flatten().find(|handle| handle.is_waiting());
            waiting.map(TaskHandle::help);
        }
        let place = std::task::ready!(self.inbox.poll_pop(cx));
        let Some(handle) = self.handles[place].take() else { return Poll::Ready(None) };
        self.left -= 1;
        Poll::Ready(Some((place, handle.take())))
    }

    /// The executor of the first handle that is left.
    fn pool(&mut self) -> Option<(u64, Arc<CallTally>)> {
        self.gone += self.handles[self.gone..].iter().take_while(|handle| handle.is_none()).count();
        self.handles.get(self.gone)?.as_ref().map(|handle| (handle.slot.pool, handle.slot.tally.clone()))
    }

    fn cancel(&mut self) {
        for handle in self.handles.iter_mut().filter_map(Option::take) {
            handle.cancel();
            handle.discard();
        }
        self.left = 0;
    }
}

impl<R: Send + 'static> Iterator for AsCompletedHandles<R> {
    type Item = (usize, Result<R, TaskError>);

    fn next(&mut self) -> Option<Self::Item> {
        let (pool, tally) = self.pool()?;
        block_for(pool, &tally, "as_completed()", std::future::poll_fn(|cx| self.poll(cx)))
    }
}

impl<R: Send + 'static> Stream for AsCompletedHandles<R> {
    type Item = (usize, Result<R, TaskError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl<R: Send + 'static> Drop for AsCompletedHandles<R> {
    fn drop(&mut self) {
        self.cancel();
    }
}

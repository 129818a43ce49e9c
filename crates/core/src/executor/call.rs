//! One submitted call: its work until somebody takes it, its result from then on. Whoever completes
//! it first wins.
//!
//! Its lane takes the work and runs it. A caller that waits for it from inside the same executor
//! may take the work first and run it in its own place; that is why waiting there cannot deadlock.

use std::{
    cell::Cell,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
};

use futures_util::{
    FutureExt,
    future::{AbortHandle, Abortable, BoxFuture},
};

use crate::{
    block_on::block_on,
    cancel::CancelToken,
    error::TaskError,
    executor::inbox::CallInbox,
    lane::panic_text,
    outcome::{Outcome, Word},
    watch::{Counts, SharedCounts},
};

/// Result or error of a call.
pub(super) type Ended<R> = Result<R, TaskError>;
/// A plain function that has not run yet.
pub(super) type Plain<R> = Box<dyn FnOnce(&CancelToken) -> Ended<R> + Send>;
/// A future that has not been polled yet.
pub(super) type Coming<R> = BoxFuture<'static, Ended<R>>;

/// The work of a call.
pub(super) enum CallWork<R> {
    Plain(Plain<R>),
    Async(Coming<R>),
    /// In a child process, or on its way there.
    Elsewhere,
}

/// Counts over all calls of an executor.
#[derive(Default)]
pub(super) struct CallTally {
    counts: SharedCounts,
    unread: AtomicU64,
    first_unread: Mutex<Option<TaskError>>,
    /// Threads of the blocking lane that wait for a call, and what is told of each change.
    lent: AtomicUsize,
    lend: OnceLock<Box<dyn Fn(usize) + Send + Sync>>,
}

/// A thread's place in the blocking lane, lent to another call while it waits.
pub(super) struct Lent(Arc<CallTally>);

impl Lent {
    fn new(tally: &Arc<CallTally>) -> Self {
        let lent = tally.lent.fetch_add(1, Ordering::AcqRel) + 1;
        tally.tell(lent);
        Self(tally.clone())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let lent = self.0.lent.fetch_sub(1, Ordering::AcqRel) - 1;
        self.0.tell(lent);
    }
}

impl CallTally {
    /// Calls this with the number of places that are lent, whenever it changes.
    pub(super) fn on_lend(&self, lend: impl Fn(usize) + Send + Sync + 'static) {
        let _ = self.lend.set(Box::new(lend));
    }

    /// Tells the number of places that are lent once more: what it is added to has changed.
    pub(super) fn lent_again(&self) {
        self.tell(self.lent.load(Ordering::Acquire));
    }

    fn tell(&self, lent: usize) {
        if let Some(lend) = self.lend.get() {
            lend(lent);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.get()
    }

    pub(super) fn unread(&self) -> (u64, Option<TaskError>) {
        let first = self.first_unread.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.unread.load(Ordering::Relaxed), first)
    }

    fn ended<R>(&self, ended: &Ended<R>) {
        let word = match ended {
            Ok(_) => Word::Ok,
            Err(error) => Word::parse(error.kind()).unwrap_or(Word::Failed),
        };
        self.counts.add(word, 1);
    }

    fn nobody_read(&self, error: TaskError) {
        self.unread.fetch_add(1, Ordering::Relaxed);
        self.first_unread.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// A call as its lane and its sink see it.
pub(super) trait Call: Send + Sync {
    /// Runs the work on this thread, unless somebody has taken it.
    fn run(&self) -> Outcome<()>;
    /// The work as a future, unless somebody has taken it.
    fn future(self: Arc<Self>) -> BoxFuture<'static, Outcome<()>>;
    /// The engine's word on how it ended; counts only where the work itself has said nothing.
    fn settle(&self, error: TaskError);
    /// Nobody will run it any more, unless somebody has begun.
    fn abandon(&self);
}

/// Payload that the engine carries. When it drops the last copy of a call that has not ended,
/// nobody will run it any more, and whoever waits is told.
pub(super) struct Ticket(pub(super) Arc<dyn Call>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The shared state of a call.
pub(super) struct AnswerSlot<R> {
    state: Mutex<CallProgress<R>>,
    /// Which executor runs it.
    pub(super) pool: u64,
    pub(super) tally: Arc<CallTally>,
}

struct CallProgress<R> {
    work: Option<CallWork<R>>,
    /// Place of the result until it is read.
    ended: Option<Ended<R>>,
    done: bool,
    /// The handle is gone.
    forgotten: bool,
    /// The work is a future in the lane's hands: it ends with the engine's copy of the call.
    in_lane: bool,
    waker: Option<Waker>,
    /// The lane's, while another task runs what was submitted to it.
    lane_waker: Option<Waker>,
    inbox: Option<(Arc<CallInbox>, usize)>,
    token: CancelToken,
    abort: Option<AbortHandle>,
}

impl<R: Send + 'static> AnswerSlot<R> {
    pub(super) fn new(pool: u64, work: CallWork<R>, tally: Arc<CallTally>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(CallProgress {
                work: Some(work),
                ended: None,
                done: false,
                forgotten: false,
                in_lane: false,
                waker: None,
                lane_waker: None,
                inbox: None,
                token: CancelToken::new(),
                abort: None,
            }),
            pool,
            tally,
        })
    }

    fn lock(&self) -> MutexGuard<'_, CallProgress<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the call, unless it has ended.
    pub(super) fn complete(&self, ended: Ended<R>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.done, true) {
            return;
        }
        self.tally.ended(&ended);
        // The work, if it is still here, is dropped outside of the lock: its destructor is the
        // user's.
        let work = state.work.take();
        match ended {
            Err(error) if state.forgotten => self.tally.nobody_read(error),
            ended => state.ended = Some(ended),
        }
        let (wakers, inbox) = ([state.waker.take(), state.lane_waker.take()], state.inbox.take());
        drop(state);
        let _ = catch_unwind(AssertUnwindSafe(|| drop(work)));
        if let Some((inbox, place)) = inbox {
            inbox.push(place);
        }
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Replaces whatever a call that was never accepted has ended with.
    pub(super) fn refuse(&self, why: TaskError) {
        self.complete(Err(why.clone()));
        let mut state = self.lock();
        if let Some(Err(error)) = &mut state.ended {
            *error = why;
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.lock().done
    }

    /// Neither taken by anybody nor ended.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.lock().work, Some(CallWork::Plain(_) | CallWork::Async(_)))
    }

    /// The result, once; otherwise the waker is told when there is one.
    pub(super) fn poll_ended(&self, cx: &mut TaskContext<'_>) -> Poll<Ended<R>> {
        let mut state = self.lock();
        match state.ended.take() {
            Some(ended) => Poll::Ready(ended),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn take_ended(&self) -> Option<Ended<R>> {
        self.lock().ended.take()
    }

    /// Has the inbox told, with this number, when the call has ended.
    pub(super) fn tell(&self, inbox: &Arc<CallInbox>, place: usize) {
        let mut state = self.lock();
        if state.done {
            drop(state);
            inbox.push(place);
        } else {
            state.inbox = Some((inbox.clone(), place));
        }
    }

    /// Asks the work to end; work that nobody has taken ends at once.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        state.token.cancel();
        let (unstarted, abort) = (state.work.is_some(), state.abort.take());
        drop(state);
        if unstarted {
            self.complete(Err(TaskError::new("cancelled", "cancelled before it ran")));
        }
        if let Some(abort) = abort {
            abort.abort();
        }
    }

    /// The reader is gone: a failure is now nobody's, and is counted.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.forgotten = true;
        if let Some(Err(error)) = state.ended.take() {
            self.tally.nobody_read(error);
        }
    }

    /// The future of the work if there is some, ended from outside by
    /// [`cancel`](AnswerSlot::cancel).
    pub(super) fn take_async(&self) -> Option<BoxFuture<'static, Ended<R>>> {
        let mut state = self.lock();
        if !matches!(state.work, Some(CallWork::Async(_))) {
            return None;
        }
        let Some(CallWork::Async(future)) = state.work.take() else { return None };
        let (abort, registration) = AbortHandle::new_pair();
        state.abort = Some(abort);
        drop(state);
        let guarded = AssertUnwindSafe(Abortable::new(future, registration)).catch_unwind();
        Some(
            async move {
                match guarded.await {
                    Ok(Ok(ended)) => ended,
                    Ok(Err(_)) => Err(TaskError::new("cancelled", "cancelled while it ran")),
                    Err(panic) => Err(TaskError::new("panicked", panic_text(&*panic))),
                }
            }
            .boxed(),
        )
    }

    /// Runs the work on this thread, if it is a plain function that nobody has taken. `false`
    /// otherwise.
    pub(super) fn run_plain(&self) -> bool {
        let (plain, token) = {
            let mut state = self.lock();
            if !matches!(state.work, Some(CallWork::Plain(_))) {
                return false;
            }
            let Some(CallWork::Plain(plain)) = state.work.take() else { return false };
            (plain, state.token.clone())
        };
        let _inside = Inside::enter(self.pool, CallerPlace::Thread);
        let ended = catch_unwind(AssertUnwindSafe(|| plain(&token)));
        let ended = ended.unwrap_or_else(|panic| Err(TaskError::new("panicked", panic_text(&*panic))));
        // With whatever error a function stops that was asked to.
        self.complete(ended.map_err(|error| if token.is_cancelled() { TaskError::new("cancelled", error.message()) } else { error }));
        true
    }

    /// Returns how it ended, for the engine's own statistics.
    fn word(&self) -> Outcome<()> {
        match &self.lock().ended {
            Some(Err(error)) => Outcome::Failed(error.clone()),
            _ => Outcome::Ok(()),
        }
    }
}

impl<R: Send + 'static> Call for AnswerSlot<R> {
    fn run(&self) -> Outcome<()> {
        self.run_plain();
        self.word()
    }

    fn future(self: Arc<Self>) -> BoxFuture<'static, Outcome<()>> {
        let Some(work) = self.take_async() else {
            // Another task runs it; the executor is not done before that is.
            return std::future::poll_fn(move |cx| {
                let mut state = self.lock();
                if state.done {
                    drop(state);
                    return Poll::Ready(self.word());
                }
                state.lane_waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .boxed();
        };
        self.lock().in_lane = true;
        let work = InPool { pool: self.pool, work };
        async move {
            let ended = work.await;
            self.complete(ended);
            self.word()
        }
        .boxed()
    }

    fn settle(&self, error: TaskError) {
        self.complete(Err(error));
    }

    fn abandon(&self) {
        let (waiting, in_lane) = {
            let state = self.lock();
            (state.work.is_some(), state.in_lane)
        };
        if waiting {
            self.complete(Err(TaskError::new("cancelled", "the executor stopped before this ran")));
        } else if in_lane {
            self.complete(Err(TaskError::new("cancelled", "the executor stopped while this ran")));
        }
    }
}

/// Executor whose code this thread runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CallerPlace {
    /// On a thread of its own: it may block.
    Thread,
    /// In a loop of the async lane, which it must not block.
    Loop,
}

thread_local! {
    static INSIDE: Cell<Option<(u64, CallerPlace)>> = const { Cell::new(None) };
}

/// Marks this thread as working for an executor, as long as it lives.
pub(super) struct Inside(Option<(u64, CallerPlace)>);

impl Inside {
    pub(super) fn enter(pool: u64, place: CallerPlace) -> Self {
        Self(INSIDE.replace(Some((pool, place))))
    }

    /// Returns true if this thread works for that executor now.
    pub(super) fn of(pool: u64) -> Option<CallerPlace> {
        INSIDE.get().filter(|(inside, _)| *inside == pool).map(|(_, place)| place)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

/// Blocks this thread for something that an executor does. A thread of that executor lends its
/// place in its lane meanwhile.
///
/// # Panics
/// In a loop of its async lane, which would have to do what it waits for.
pub(super) fn block_for<O>(pool: u64, tally: &Arc<CallTally>, what: &str, future: impl Future<Output = O>) -> O {
    let place = Inside::of(pool);
    assert!(place != Some(CallerPlace::Loop), "{what} inside an async task would block the loop that it waits for; use its async form");
    let mut future = std::pin::pin!(future);
    // What is there already costs nothing.
    if let Poll::Ready(output) = future.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        return output;
    }
    let _lent = place.map(|_| Lent::new(tally));
    block_on(future)
}

/// A future that is polled inside an executor.
pub(super) struct InPool<F> {
    pub(super) pool: u64,
    pub(super) work: F,
}

impl<F: Future + Unpin> Future for InPool<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let _inside = Inside::enter(self.pool, CallerPlace::Loop);
        Pin::new(&mut self.work).poll(cx)
    }
}

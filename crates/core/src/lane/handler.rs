//! Handlers: what a lane runs for each attempt, and what they may know of it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use pin_project_lite::pin_project;

use crate::{
    cancel::CancelToken,
    error::TaskError,
    outcome::{Outcome, caught},
    task::LaneKind,
    trace::{AttemptName, AttemptSpan},
};

/// Facts that a handler may know of its attempt.
#[derive(Clone, Debug)]
pub struct Context {
    /// The task's number in its job, from 1.
    pub id: u64,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The lane.
    pub lane: LaneKind,
    /// The slot: no two running tasks of a lane share one.
    pub slot: u32,
    /// The limit of this attempt.
    pub timeout: Option<Duration>,
    /// Cancelled when nobody wants the result any more.
    pub cancel: CancelToken,
}

/// Makes an outcome of what a handler returns: a `Result`, or an [`Outcome`] itself.
pub trait IntoOutcome<R> {
    /// Returns it as an outcome.
    fn into_outcome(self) -> Outcome<R>;
}

impl<R, E: Into<TaskError>> IntoOutcome<R> for Result<R, E> {
    #[inline]
    fn into_outcome(self) -> Outcome<R> {
        match self {
            Ok(result) => Outcome::Ok(result),
            Err(error) => Outcome::Failed(error.into()),
        }
    }
}

impl<R> IntoOutcome<R> for Outcome<R> {
    #[inline]
    fn into_outcome(self) -> Outcome<R> {
        self
    }
}

/// A handler of the blocking and cpu lanes.
pub type SyncHandler<T, R> = Arc<dyn Fn(&Context, T) -> Outcome<R> + Send + Sync>;

/// Runs a handler of a thread in its attempt's span; a panic is an outcome.
#[inline]
pub(crate) fn called<T, R>(handler: &SyncHandler<T, R>, context: &Context, payload: T) -> Outcome<R> {
    let Context { id, attempt, lane, slot, .. } = *context;
    caught(|| AttemptSpan::of(&AttemptName { id, attempt, lane, slot }).within(|| handler(context, payload)))
}

/// A handler of the async lane. Clones are one handler.
///
/// ```
/// use longshore_core::{Context, Outcome, lane::AsyncHandler};
///
/// let plain = AsyncHandler::new(|n: u32| async move { Ok::<_, String>(n + 1) });
/// let knows =
///     AsyncHandler::with_context(|at: Context, n: u32| async move { Outcome::Ok(n + at.attempt) });
/// # let _: (AsyncHandler<u32, u32>, AsyncHandler<u32, u32>) = (plain, knows);
/// ```
pub struct AsyncHandler<T, R>(Arc<dyn Fn() -> FutureBox<T, R> + Send + Sync>);

impl<T, R> Clone for AsyncHandler<T, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static, R: Send + 'static> AsyncHandler<T, R> {
    /// Takes an async function of the payload. When an attempt is to end, its future is dropped.
    pub fn new<F, Fut>(function: F) -> Self
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome<R>> + Send + 'static,
    {
        Self::starting(move |_, payload| (function(payload), None))
    }

    /// Takes an async function that gets the context too, with a token: such an attempt is asked to
    /// end before its future is dropped.
    pub fn with_context<F, Fut>(function: F) -> Self
    where
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome<R>> + Send + 'static,
    {
        Self::starting(move |context, payload| {
            let context = context();
            let token = context.cancel.clone();
            (function(context, payload), Some(token))
        })
    }

    fn starting<F, Fut>(start: F) -> Self
    where
        F: Fn(&dyn Fn() -> Context, T) -> (Fut, Option<CancelToken>) + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome<R>> + Send + 'static,
    {
        let start = Arc::new(start);
        Self(Arc::new(move || Box::pin(FunctionBox { start: start.clone(), future: None, token: None })))
    }

    /// Returns a handler that asks first about each payload: one for which there is an outcome does
    /// not run.
    #[must_use]
    pub fn unless(self, refused: impl Fn(&T) -> Option<Outcome<R>> + Send + Sync + 'static) -> Self {
        let refused = Arc::new(refused);
        Self(Arc::new(move || Box::pin(AskedBox { refused: refused.clone(), inner: self.0() })))
    }

    /// Runs the handler outside of a lane.
    ///
    /// # Cancel safety
    /// Dropping the future drops the handler's.
    pub fn call(&self, context: Context, payload: T) -> BoxFuture<'static, Outcome<R>> {
        let mut place = self.place();
        let mut start = Some((context, payload));
        Box::pin(std::future::poll_fn(move |cx| match start.take() {
            Some((context, payload)) => place.as_mut().begin(&|| context.clone(), payload, cx),
            None => place.as_mut().poll(cx),
        }))
    }

    /// Makes a box for futures of this handler.
    pub(crate) fn place(&self) -> FutureBox<T, R> {
        self.0()
    }
}

/// A box in which the future of one attempt after the other runs.
pub(crate) type FutureBox<T, R> = Pin<Box<dyn ReusedFuture<T, R>>>;

/// A future's place that is used again, so that an attempt costs no allocation.
pub(crate) trait ReusedFuture<T, R>: Send {
    /// Starts an attempt and polls it. What is ready is dropped at once.
    fn begin(self: Pin<&mut Self>, context: &dyn Fn() -> Context, payload: T, cx: &mut TaskContext<'_>) -> Poll<Outcome<R>>;

    /// Polls the attempt that was begun last. What is ready is dropped at once.
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<R>>;

    /// Drops the attempt, if there is one. It is gone even if its destructor panics.
    fn clear(self: Pin<&mut Self>);

    /// Returns what asks the attempt to end, where its handler wants to be asked.
    fn token(&self) -> Option<&CancelToken>;
}

pin_project! {
    struct FunctionBox<F, Fut> {
        start: Arc<F>,
        #[pin]
        future: Option<Fut>,
        token: Option<CancelToken>,
    }
}

impl<T, R, F, Fut> ReusedFuture<T, R> for FunctionBox<F, Fut>
where
    F: Fn(&dyn Fn() -> Context, T) -> (Fut, Option<CancelToken>) + Send + Sync,
    Fut: Future<Output: IntoOutcome<R>> + Send,
{
    fn begin(self: Pin<&mut Self>, context: &dyn Fn() -> Context, payload: T, cx: &mut TaskContext<'_>) -> Poll<Outcome<R>> {
        let mut this = self.project();
        let (future, token) = (this.start)(context, payload);
        if token.is_some() {
            *this.token = token;
        }
        this.future.set(Some(future));
        poll_in(this.future, cx)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<R>> {
        poll_in(self.project().future, cx)
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().future.set(None);
    }

    fn token(&self) -> Option<&CancelToken> {
        self.token.as_ref()
    }
}

#[inline]
fn poll_in<R, Fut: Future<Output: IntoOutcome<R>>>(mut place: Pin<&mut Option<Fut>>, cx: &mut TaskContext<'_>) -> Poll<Outcome<R>> {
    let Some(future) = place.as_mut().as_pin_mut() else {
        return Poll::Ready(Outcome::Lost("polled after its end".to_owned()));
    };
    let Poll::Ready(answer) = future.poll(cx) else { return Poll::Pending };
    place.set(None);
    Poll::Ready(answer.into_outcome())
}

struct AskedBox<A, T, R> {
    refused: Arc<A>,
    inner: FutureBox<T, R>,
}

impl<T, R, A: Fn(&T) -> Option<Outcome<R>> + Send + Sync> ReusedFuture<T, R> for AskedBox<A, T, R> {
    fn begin(mut self: Pin<&mut Self>, context: &dyn Fn() -> Context, payload: T, cx: &mut TaskContext<'_>) -> Poll<Outcome<R>> {
        match (self.refused)(&payload) {
            Some(outcome) => Poll::Ready(outcome),
            None => self.inner.as_mut().begin(context, payload, cx),
        }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<R>> {
        self.inner.as_mut().poll(cx)
    }

    fn clear(mut self: Pin<&mut Self>) {
        self.inner.as_mut().clear();
    }

    fn token(&self) -> Option<&CancelToken> {
        self.inner.token()
    }
}

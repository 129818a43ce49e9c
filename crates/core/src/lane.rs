//! Where attempts run.

pub mod async_;
pub mod blocking;
pub mod child;
pub mod children;
pub mod cpu;
pub mod isolated;
pub mod process;
pub(crate) mod watchdog;

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;

pub use crate::cancel::Stop;
use crate::{
    cancel::CancelToken,
    engine::{Mail, helm::Crew},
    error::TaskError,
    mailbox::Mailbox,
    outcome::Outcome,
    task::{Attempt, Finished, LaneKind},
    trace::{self, AttemptName},
};

/// Place where attempts run. Takes a batch and returns at once; each attempt reports exactly one
/// outcome to the lane's [`Outbox`], in batches.
pub trait Lane<T, R>: Send + Sync {
    /// Starts every attempt of the batch, which is drained. Must not block.
    fn start(&self, batch: &mut Vec<Attempt<T>>);

    /// Returns how many attempts the lane wants to hold at once, where it knows better than its
    /// number of workers (tiny items travel in chunks).
    fn capacity(&self) -> Option<usize> {
        None
    }

    /// Ends what runs: softly (tokens, TERM) or by force (futures dropped, threads abandoned,
    /// KILL). Each attempt still reports its outcome.
    fn stop(&self, how: Stop);
}

/// Receiver of a lane's outcomes.
pub struct Outbox<T, R> {
    pub(crate) mailbox: Arc<Mailbox<Mail<T, R>>>,
    /// The engine, once it has been started.
    pub(crate) crew: Arc<OnceLock<Crew>>,
}

impl<T, R> Clone for Outbox<T, R> {
    fn clone(&self) -> Self {
        Self { mailbox: self.mailbox.clone(), crew: self.crew.clone() }
    }
}

impl<T, R> Outbox<T, R> {
    /// Reports ended attempts; the batch is drained.
    pub fn finish(&self, batch: &mut Vec<Finished<T, R>>) {
        if !batch.is_empty() {
            self.mailbox.post(|mail| append(&mut mail.finished, batch));
        }
    }

    /// As [`finish`](Outbox::finish), from a task of the engine's runtime, which does the engine's
    /// work in place of waking it; with `all`, that of its outside too ([`Crew::turn`]).
    pub(crate) fn finish_in_passing(&self, batch: &mut Vec<Finished<T, R>>, all: bool) {
        if batch.is_empty() {
            return;
        }
        match self.crew.get() {
            Some(crew) => {
                self.mailbox.post_asleep(|mail| append(&mut mail.finished, batch));
                crew.turn(all);
            }
            None => self.finish(batch),
        }
    }

    /// Reports one ended attempt.
    pub fn finish_one(&self, finished: Finished<T, R>) {
        self.mailbox.post(|mail| mail.finished.push(finished));
    }

    pub(crate) fn stalled(&self, id: u64, held: Duration) {
        self.mailbox.post(|mail| mail.stalled.push((id, held)));
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

/// A handler of the async lane.
pub enum AsyncHandler<T, R> {
    /// Gets the payload.
    Plain(Arc<dyn Fn(T) -> BoxFuture<'static, Outcome<R>> + Send + Sync>),
    /// Gets the context too, with a token; such an attempt is asked to end before its future is
    /// dropped.
    WithContext(Arc<dyn Fn(Context, T) -> BoxFuture<'static, Outcome<R>> + Send + Sync>),
}

impl<T, R> Clone for AsyncHandler<T, R> {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(handler) => Self::Plain(handler.clone()),
            Self::WithContext(handler) => Self::WithContext(handler.clone()),
        }
    }
}

/// A handler of the blocking and cpu lanes.
pub type SyncHandler<T, R> = Arc<dyn Fn(&Context, T) -> Outcome<R> + Send + Sync>;

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

/// Runs a handler of a thread in its attempt's span; a panic is an outcome.
#[inline]
pub(crate) fn called<T, R>(handler: &SyncHandler<T, R>, context: &Context, payload: T) -> Outcome<R> {
    let Context { id, attempt, lane, slot, .. } = *context;
    caught(|| trace::within(&AttemptName { id, attempt, lane, slot }, || handler(context, payload)))
}

/// Runs user code; a panic is an outcome.
#[inline]
pub(crate) fn caught<R>(work: impl FnOnce() -> Outcome<R>) -> Outcome<R> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Outcome::Panicked(panic_text(&*panic)))
}

/// Returns what a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic that is not text".to_owned())
}

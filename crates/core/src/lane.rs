//! Where attempts run.

pub mod async_;
pub mod blocking;
pub mod child;
pub mod children;
pub mod cpu;
pub mod isolated;
pub mod process;
pub(crate) mod watchdog;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub(crate) use crate::outcome::{caught, panic_text};
use crate::{
    cancel::CancelToken,
    error::TaskError,
    outcome::Outcome,
    task::LaneKind,
    trace::{self, AttemptName},
};
pub use crate::{
    cancel::Stop,
    engine::{Lane, Outbox},
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

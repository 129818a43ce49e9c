//! What a handler may know and do.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use longshore_celery::{Map, Message, Signature, Value};
use longshore_core::{CancelToken, LaneKind};

use crate::{app::App, failure::Failure};

/// What a handler knows of its attempt, and what it may do: cheap to clone.
///
/// A function under `#[longshore::task]` gets it by having a first parameter of this type.
#[derive(Clone)]
pub struct TaskContext {
    pub(crate) inner: Arc<Inner>,
}

/// Of what a context is made.
pub(crate) struct Inner {
    parts: Parts,
    /// Whether the handler listens for its soft limit.
    listens: AtomicBool,
    /// What it has sent: nodes as results name their children.
    children: Mutex<Vec<Value>>,
}

/// What a worker knows of an attempt.
pub struct Parts {
    /// The message, arguments included.
    pub message: Arc<Message>,
    /// The app that the task is registered in.
    pub app: Arc<App>,
    /// Where it runs.
    pub lane: LaneKind,
    /// The slot: no two running tasks of a lane share one.
    pub slot: u32,
    /// Nobody wants the result any more: revoked, past its hard limit, the worker is being stopped for good.
    pub cancel: CancelToken,
    /// The soft limit has passed.
    pub soft: CancelToken,
}

impl TaskContext {
    /// The context of an attempt.
    pub fn new(parts: Parts) -> Self {
        Self { inner: Arc::new(Inner { parts, listens: AtomicBool::new(false), children: Mutex::default() }) }
    }

    /// The message that is run: its arguments, its limits, what follows it.
    pub fn message(&self) -> &Message {
        &self.inner.parts.message
    }

    /// The task's id.
    pub fn id(&self) -> &str {
        &self.message().id
    }

    /// The task's name.
    pub fn task(&self) -> &str {
        &self.message().task
    }

    /// The first task of the tree that this one belongs to.
    pub fn root_id(&self) -> &str {
        self.message().root_id.as_deref().unwrap_or_else(|| self.id())
    }

    /// The task that sent this one.
    pub fn parent_id(&self) -> Option<&str> {
        self.message().parent_id.as_deref()
    }

    /// The group that it is a member of.
    pub fn group(&self) -> Option<&str> {
        self.message().group.as_deref()
    }

    /// How often it was retried: 0 in the first attempt.
    pub fn retries(&self) -> u32 {
        self.message().retries
    }

    /// The positional arguments.
    pub fn args(&self) -> &[Value] {
        &self.message().args
    }

    /// The keyword arguments.
    pub fn kwargs(&self) -> &Map {
        &self.message().kwargs
    }

    /// A header that its sender has set (`apply_async(headers={…})`).
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.message().headers.get(name)
    }

    /// All headers that are not Celery's own.
    pub fn headers(&self) -> &Map {
        &self.message().headers
    }

    /// Whether it was taken and given back before: its last worker may have died while it ran.
    pub fn redelivered(&self) -> bool {
        self.message().redelivered
    }

    /// Where it runs.
    pub fn lane(&self) -> LaneKind {
        self.inner.parts.lane
    }

    /// The slot: no two running tasks of a lane share one.
    pub fn slot(&self) -> u32 {
        self.inner.parts.slot
    }

    /// The app that the task is registered in.
    pub fn app(&self) -> &Arc<App> {
        &self.inner.parts.app
    }

    /// Asks for another attempt, after the task's `retry_delay`: `return Err(context.retry())`.
    /// [`because`](Failure::because) says why, and [`at_most`](Failure::at_most) how often.
    pub fn retry(&self) -> Failure {
        Failure::retry()
    }

    /// Asks for another attempt, not before this time has passed.
    pub fn retry_in(&self, after: Duration) -> Failure {
        Failure::retry_in(after)
    }

    /// Lets another signature take over this task's id, its place in a chain, group or chord, and its callbacks: `return Err(context.replace(other))`.
    pub fn replace(&self, signature: impl Into<Signature>) -> Failure {
        Failure::Replace(Box::new(signature.into()))
    }

    /// Whether nobody wants the result any more: revoked, past its hard limit, the worker is being stopped for good. Cheap enough to ask in a loop.
    pub fn is_cancelled(&self) -> bool {
        self.inner.parts.cancel.is_cancelled()
    }

    /// Resolves when nobody wants the result any more. Cancel safe.
    pub async fn cancelled(&self) {
        self.inner.parts.cancel.cancelled().await;
    }

    /// The token behind [`cancelled`](Self::cancelled).
    pub fn cancel_token(&self) -> &CancelToken {
        &self.inner.parts.cancel
    }

    /// What tells of the soft limit. To ask for it is to listen: the worker then leaves the ending to the handler, until the hard limit. A future that has
    /// not asked is dropped when the soft limit passes.
    pub fn soft_limit(&self) -> &CancelToken {
        self.inner.listens.store(true, Ordering::Release);
        &self.inner.parts.soft
    }

    /// Whether the handler has asked for [`soft_limit`](Self::soft_limit).
    pub fn listens_for_soft_limit(&self) -> bool {
        self.inner.listens.load(Ordering::Acquire)
    }

    /// What the handler has sent so far, as results name their children: `[[id, null], null]`. For the worker, when the handler has ended.
    pub fn take_children(&self) -> Vec<Value> {
        std::mem::take(&mut *self.inner.children.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext").field("task", &self.task()).field("id", &self.id()).finish_non_exhaustive()
    }
}

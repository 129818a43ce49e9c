//! What a handler may know and do.

use std::sync::Arc;

use longshore_celery::Message;
use longshore_core::{CancelToken, LaneKind};

/// What a handler knows of its attempt, and what it may do: cheap to clone.
#[derive(Clone)]
pub struct TaskContext {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// The message, arguments included.
    pub(crate) message: Arc<Message>,
    pub(crate) lane: LaneKind,
    pub(crate) slot: u32,
    /// Nobody wants the result any more: revoked, past its hard limit, the worker is being stopped for good.
    pub(crate) cancel: CancelToken,
    /// The soft limit has passed.
    pub(crate) soft: CancelToken,
}

//! How calls end that do not know it themselves, and what an executor comes to.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};

use super::call::Ticket;
use crate::{
    engine::Summary,
    error::{SinkError, TaskError},
    sink::{Room, Sink},
    task::{Finished, LaneKind},
    watch::Counts,
};

/// Tells calls how they ended, where they do not know: timed out, cancelled, lost.
pub(super) struct Settle;

impl Sink<Arc<Ticket>, ()> for Settle {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<Arc<Ticket>, ()>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        let count = batch.len();
        for finished in batch.drain(..) {
            if let (Some(error), Some(ticket)) = (finished.outcome.error(), &finished.task.payload) {
                ticket.0.settle(error);
            }
        }
        room.release(count);
        std::future::ready(Ok(())).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// Summary of an executor.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// Counts of calls. A chunk of [`map`](super::Threads::map) is one call.
    pub counts: Counts,
    /// Calls that failed and whose error nobody read.
    pub unread: u64,
    /// The first of these errors.
    pub first_unread: Option<TaskError>,
    /// Each lane that was used: times, throughput, what each worker did.
    pub lanes: Vec<(LaneKind, Summary)>,
}

impl Closed {
    /// Calls that ended well.
    pub fn ok(&self) -> u64 {
        self.counts.ok
    }

    /// Calls that ended in any other way.
    pub fn failed(&self) -> u64 {
        self.counts.not_ok()
    }
}

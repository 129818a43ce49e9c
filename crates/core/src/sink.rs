//! Where finished tasks go.

pub mod callbacks;
pub mod collect;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::{error::SinkError, task::Finished};

/// Receives finished tasks.
pub trait Sink<T, R>: Send {
    /// Takes responsibility for a batch: it is drained, and the future resolves when it is queued,
    /// written or stored. Only then the deliveries are settled. A task leaves the result queue when
    /// the sink says so through `room`.
    ///
    /// # Errors
    /// The job stops, and what was not accepted is not settled: the source keeps it.
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<T, R>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Everything has been accepted; resolves when all of it is dealt with.
    ///
    /// # Errors
    /// What could not be dealt with.
    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>>;
}

/// Tells the engine that results have left the result queue, so that their place may be taken. Each
/// result must be released exactly once.
#[derive(Clone)]
pub struct Room(Arc<dyn Fn(usize) + Send + Sync>);

impl Room {
    /// A room that calls this for each release.
    pub fn new(release: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self(Arc::new(release))
    }

    /// This many results have left the queue.
    pub fn release(&self, results: usize) {
        if results > 0 {
            (self.0)(results);
        }
    }
}

//! Results gathered: all of them in the order of their tasks, or one after the other as they
//! complete.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::mpsc;

use crate::{
    error::SinkError,
    outcome::Outcome,
    sink::{Room, Sink, callbacks::Then},
    task::Finished,
};

/// Keeps every outcome. Memory grows with the number of tasks, as the answer does.
pub struct Collector<R>(Arc<Mutex<Outcomes<R>>>);

/// Outcomes by the number of their task. Tasks are numbered from 1, so nearly all of them have a
/// place of their own, and nothing needs to be sorted.
struct Outcomes<R> {
    places: Vec<Option<Outcome<R>>>,
    /// Those whose number is far beyond all others.
    far: Vec<(u64, Outcome<R>)>,
}

/// A number that is this much beyond all others counts as far: a place for it would cost too much
/// memory.
const FAR: usize = 1 << 16;

impl<R> Outcomes<R> {
    fn add(&mut self, id: u64, outcome: Outcome<R>) {
        match usize::try_from(id).ok().filter(|id| *id < self.places.len() * 2 + FAR) {
            Some(place) => {
                if place >= self.places.len() {
                    self.places.resize_with(place + 1, || None);
                }
                if let Some(first) = self.places[place].replace(outcome) {
                    // Not by the engine's sources, but nothing is lost: equal numbers stand beside
                    // each other.
                    self.far.push((id, first));
                }
            }
            None => self.far.push((id, outcome)),
        }
    }
}

impl<R: Send + 'static> Default for Collector<R> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Outcomes { places: Vec::new(), far: Vec::new() })))
    }
}

impl<R: Send + 'static> Collector<R> {
    /// Function that a sink calls with each finished task.
    pub fn then<T>(&self) -> Then<T, R> {
        let all = self.0.clone();
        Arc::new(move |finished: Finished<T, R>| {
            all.lock().unwrap_or_else(PoisonError::into_inner).add(finished.task.id, finished.outcome);
        })
    }

    /// The outcomes, in the order of their tasks.
    pub fn into_ordered(self) -> Vec<Outcome<R>> {
        let mut outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (places, mut far) = (std::mem::take(&mut outcomes.places), std::mem::take(&mut outcomes.far));
        drop(outcomes);
        if far.is_empty() {
            return places.into_iter().flatten().collect();
        }
        far.extend(places.into_iter().enumerate().filter_map(|(id, outcome)| Some((id as u64, outcome?))));
        far.sort_by_key(|(id, _)| *id);
        far.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

/// Hands results to a reader one after the other, as they complete. A result leaves the result
/// queue when the reader takes it.
pub struct Completions<T, R> {
    send: Option<mpsc::UnboundedSender<Finished<T, R>>>,
    room: Arc<Mutex<Option<Room>>>,
}

/// The reader's side of [`Completions`].
pub struct AsCompleted<T, R> {
    receive: mpsc::UnboundedReceiver<Finished<T, R>>,
    room: Arc<Mutex<Option<Room>>>,
}

/// A sink and its reader.
pub fn completions<T, R>() -> (Completions<T, R>, AsCompleted<T, R>) {
    // Unbounded in itself: the engine admits nothing for whose result the result queue has no room.
    let (send, receive) = mpsc::unbounded_channel();
    let room = Arc::new(Mutex::new(None));
    (Completions { send: Some(send), room: room.clone() }, AsCompleted { receive, room })
}

impl<T: Send, R: Send> Sink<T, R> for Completions<T, R> {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<T, R>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| room.clone());
        for finished in batch.drain(..) {
            let gone = self.send.as_ref().is_none_or(|send| send.send(finished).is_err());
            if gone {
                // The reader wants no more. The job goes on; its results are dropped, as by a job
                // without a reader.
                room.release(1);
            }
        }
        std::future::ready(Ok(())).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        self.send = None;
        std::future::ready(Ok(())).boxed()
    }
}

/// No result came in the time that its reader gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no result in time")]
pub struct Late;

impl<T, R> AsCompleted<T, R> {
    /// The next result; `None` when the job is over. Cancel safe.
    pub async fn next(&mut self) -> Option<Finished<T, R>> {
        let finished = self.receive.recv().await;
        self.release(finished.is_some());
        finished
    }

    /// The next result, if it comes within this time; `None` inside when the job is over. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`Late`] when nothing came; the job goes on, and so may the reader.
    pub async fn next_timeout(&mut self, limit: Duration) -> Result<Option<Finished<T, R>>, Late> {
        tokio::time::timeout(limit, self.next()).await.map_err(|_| Late)
    }

    /// The next result, blocking this thread. Not for threads of an async runtime.
    pub fn blocking_next(&mut self) -> Option<Finished<T, R>> {
        crate::block_on::block_on(self.next())
    }

    fn release(&self, taken: bool) {
        if taken && let Some(room) = &*self.room.lock().unwrap_or_else(PoisonError::into_inner) {
            room.release(1);
        }
    }
}

impl<T, R> Drop for AsCompleted<T, R> {
    /// Makes room in place of what nobody will read any more.
    fn drop(&mut self) {
        self.receive.close();
        while self.receive.try_recv().is_ok() {
            self.release(true);
        }
    }
}

//! Functions of this program in child processes, called one by one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Executor, ExecutorPool, Part, Started, TaskHandle,
    call::{AnswerSlot, CallWork, Ended},
    into_ended,
    map::{Chunk, Map},
};
use crate::{
    error::{SinkError, TaskError},
    job::Job,
    lane::{IntoOutcome, children::ChildLimits, isolated::Parcel},
    outcome::Outcome,
    sink::{Room, Sink},
    source::queue::SendError,
    task::{Finished, LaneKind},
};

/// A function of an [`Executor`] that runs in child processes: whatever it does to its process, it
/// does to its own call alone. Clones are one.
pub struct Isolated<T, R: Send + 'static> {
    pool: Executor,
    engine: Arc<Started<Parcel<T, R>>>,
    calls: Arc<Mutex<Calls<R>>>,
    /// Items that a child may have at once, if the user says so.
    batch: Option<usize>,
}

impl<T, R: Send + 'static> Clone for Isolated<T, R> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), engine: self.engine.clone(), calls: self.calls.clone(), batch: self.batch }
    }
}

/// Calls on their way, by their number: whom to tell how they ended.
struct Calls<R> {
    sent: u64,
    waiting: HashMap<u64, TellEnds<R>>,
}

/// Gets how each item of the call ended, and how long they took; or why the call as a whole has no
/// such answer.
type TellEnds<R> = Box<dyn FnOnce(Ended<(Vec<Outcome<R>>, Duration)>) + Send>;

/// Tells each call how it ended, and at the end those that never will.
struct Answers<R>(Arc<Mutex<Calls<R>>>);

impl<T: Send, R: Send> Sink<Parcel<T, R>, Vec<Outcome<R>>> for Answers<R> {
    fn accept<'a>(
        &'a mut self,
        batch: &'a mut Vec<Finished<Parcel<T, R>, Vec<Outcome<R>>>>,
        room: &'a Room,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        let count = batch.len();
        for finished in batch.drain(..) {
            let tell = lock(&self.0).waiting.remove(&finished.task.id);
            if let Some(tell) = tell {
                let took = finished.run();
                tell(into_ended(finished.outcome).map(|outcomes: Vec<Outcome<R>>| (outcomes, took)));
            }
        }
        room.release(count);
        std::future::ready(Ok(())).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        self.abandon();
        std::future::ready(Ok(())).boxed()
    }
}

impl<R> Answers<R> {
    fn abandon(&self) {
        let waiting = std::mem::take(&mut lock(&self.0).waiting);
        for tell in waiting.into_values() {
            tell(Err(TaskError::new("cancelled", "the executor stopped before this ended")));
        }
    }
}

/// An engine that is dropped in the middle closes nothing.
impl<R> Drop for Answers<R> {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Executor {
    /// A function that runs in child processes of this program, as many at once as the process lane
    /// has workers (by default as many as cores).
    ///
    /// What the function may do, what it costs, and what `main` must begin with: [`Job::isolated`].
    ///
    /// ```standalone_crate
    /// use longshore_core::{Executor, Functions, ChildLimits};
    ///
    /// fn root(n: f64) -> Result<f64, String> {
    ///     if n < 0.0 { std::process::abort() }
    ///     Ok(n.sqrt())
    /// }
    ///
    /// fn main() {
    ///     longshore_core::init_with(Functions::new().with(root));
    ///
    ///     let pool = Executor::new();
    ///     let root = pool.isolated(root, ChildLimits::default());
    ///     assert_eq!(root.submit(-1.0).wait().unwrap_err().kind(), "signal");
    ///     assert_eq!(root.map([1.0, 4.0, 9.0]).results().unwrap(), [1.0, 2.0, 3.0]);
    /// }
    /// ```
    pub fn isolated<F, T, R, A>(&self, function: F, limits: ChildLimits) -> Isolated<T, R>
    where
        F: Fn(T) -> A + 'static,
        A: IntoOutcome<R>,
        T: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let batch = limits.at_once.map(|batch| batch as usize);
        let calls = Arc::new(Mutex::new(Calls { sent: 0, waiting: HashMap::new() }));
        let workers = self.0.workers(LaneKind::Process);
        let job = Job::isolated_parcels(function, limits).workers(workers).result_queue(usize::MAX / 4);
        let job = match self.0.settings.timeout {
            Some(limit) => job.timeout(limit),
            None => job,
        };
        let (sender, job) = job.sender(self.0.settings.queue);
        let running = {
            let _runtime = self.0.runtime().enter();
            job.start_with_sink(|_, _| Box::new(Answers(calls.clone()))).into_running()
        };
        let engine = Arc::new(Started {
            lane: LaneKind::Process,
            sender: Mutex::new(Some(sender)),
            handle: running.handle(),
            running: Mutex::new(Some(running)),
        });
        self.0.isolated.lock().unwrap_or_else(PoisonError::into_inner).push(engine.clone() as Arc<dyn Part>);
        Isolated { pool: self.clone(), engine, calls, batch }
    }
}

fn lock<R>(calls: &Mutex<Calls<R>>) -> MutexGuard<'_, Calls<R>> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static, R: Send + 'static> Isolated<T, R> {
    /// Submits a call; never blocks. A cancelled call gives up its result; its child goes on to the
    /// end of it.
    pub fn submit(&self, input: T) -> TaskHandle<R> {
        self.call(vec![input], |ended| {
            let (outcomes, _) = ended?;
            outcomes.into_iter().next().map_or_else(|| Err(TaskError::new("lost", "no outcome")), into_ended)
        })
    }

    fn call<X: Send + 'static>(
        &self,
        inputs: Vec<T>,
        answer: impl FnOnce(Ended<(Vec<Outcome<R>>, Duration)>) -> Ended<X> + Send + 'static,
    ) -> TaskHandle<X> {
        let pool = &self.pool.0;
        let slot = AnswerSlot::new(pool.number, CallWork::Elsewhere, pool.tally.clone());
        let handle = TaskHandle::new(slot.clone(), pool.runtime().handle().clone());
        let sender = if pool.is_closed() { None } else { self.engine.sender() };
        // Under the lock from the number to the queue, so that both count alike.
        let mut calls = lock(&self.calls);
        let number = calls.sent + 1;
        let own = slot.clone();
        calls.waiting.insert(number, Box::new(move |ended| own.complete(answer(ended))));
        let refused = match sender.map(|sender| sender.try_send(Parcel::new(inputs))) {
            Some(Ok(())) => {
                calls.sent = number;
                return handle;
            }
            Some(Err(SendError::Full(_))) => pool.full(LaneKind::Process),
            Some(Err(SendError::Closed(_))) | None => ExecutorPool::no_more(),
        };
        calls.waiting.remove(&number);
        drop(calls);
        slot.complete(Err(refused));
        handle
    }

    /// Runs the function over an input: lazily, in order, looking ahead no further than the
    /// children can use. Tiny items travel in chunks, which are one call each; what happens to one
    /// of them is its own outcome all the same, and a limit of time is the limit of each.
    pub fn map<I>(&self, inputs: I) -> Map<I::IntoIter, R>
    where
        I: IntoIterator<Item = T>,
    {
        let own = self.clone();
        let start =
            move |inputs| own.call(inputs, |ended| ended.map(|(outcomes, took)| Chunk::of(outcomes.into_iter().map(into_ended), took)));
        Map::in_parcels(self.pool.clone(), inputs.into_iter(), self.batch, start)
    }
}

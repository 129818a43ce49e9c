//! Where the outputs of a stage go: into the queue of the next one, item by item or taken apart.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
};

use crate::{
    error::TaskError,
    lane::panic_text,
    pipeline::{
        meter::Meter,
        queue::{Given, ItemBatch, StageQueue},
        run::{Failure, PipelineRun},
    },
};

/// Way out for the outputs of one worker. Dropping it says that it has no more.
pub(super) trait Exit<V>: Send {
    /// Hands on as much of the batch as there is room for. If not everything went, the waker is
    /// kept.
    fn give(&mut self, batch: &mut ItemBatch<V>, waker: &Waker) -> Given;

    /// Returns how many items would go now; if none, the waker is kept. `None` after a stop.
    fn room(&mut self, waker: &Waker) -> Option<usize>;
}

/// Makes the exits of a stage, one for each worker.
pub(super) type Door<V> = Arc<dyn Fn(&Arc<Meter>) -> Box<dyn Exit<V>> + Send + Sync>;

/// The way into a queue.
struct QueueExit<V> {
    queue: Arc<StageQueue<V>>,
    who: usize,
    meter: Arc<Meter>,
}

/// Makes ways into this queue.
pub(super) fn door<V: Send + 'static>(queue: Arc<StageQueue<V>>) -> Door<V> {
    Arc::new(move |meter| Box::new(QueueExit { who: queue.enter(), queue: queue.clone(), meter: meter.clone() }))
}

impl<V: Send> Exit<V> for QueueExit<V> {
    #[inline]
    fn give(&mut self, batch: &mut ItemBatch<V>, waker: &Waker) -> Given {
        if batch.is_empty() {
            return Given::All;
        }
        let there = batch.len();
        let given = self.queue.give(self.who, batch, waker);
        // What a stop refused was made all the same: the queue counts it as left.
        self.meter.gave(there - batch.len());
        given
    }

    fn room(&mut self, waker: &Waker) -> Option<usize> {
        self.queue.room(self.who, waker)
    }
}

impl<V> Drop for QueueExit<V> {
    fn drop(&mut self) {
        self.queue.leave(self.who);
    }
}

/// An exit that takes each output apart.
struct FlatExit<V: IntoIterator> {
    inner: Box<dyn Exit<V::Item>>,
    current: Option<(u64, V::IntoIter)>,
    spill: ItemBatch<V::Item>,
    run: Arc<PipelineRun>,
    meter: Arc<Meter>,
}

/// Parts that are taken from an output before the next queue is asked.
const HANDFUL: usize = 64;

/// Makes exits that take outputs apart.
pub(super) fn flat_door<V>(inner: Door<V::Item>, run: Arc<PipelineRun>) -> Door<V>
where
    V: IntoIterator + 'static,
    V::Item: Send + 'static,
    V::IntoIter: Send,
{
    Arc::new(move |meter| {
        let (run, meter) = (run.clone(), meter.clone());
        Box::new(FlatExit::<V> { inner: inner(&meter), current: None, spill: VecDeque::new(), run, meter })
    })
}

impl<V> FlatExit<V>
where
    V: IntoIterator,
{
    /// Takes some parts. `false`: there is nothing more. The iterator is the user's code, and may
    /// panic.
    fn take_apart(&mut self, batch: &mut ItemBatch<V>) -> bool {
        let taken = catch_unwind(AssertUnwindSafe(|| {
            while self.spill.len() < HANDFUL {
                let Some((number, parts)) = &mut self.current else {
                    let Some((number, output)) = batch.pop_front() else { break };
                    self.current = Some((number, output.into_iter()));
                    continue;
                };
                match parts.next() {
                    Some(part) => self.spill.push_back((*number, part)),
                    None => self.current = None,
                }
            }
        }));
        if let Err(panic) = taken {
            let number = self.current.take().map_or(0, |(number, _)| number);
            let error = TaskError::new("panicked", format!("while its output was taken apart: {}", panic_text(&*panic)));
            self.run.fail(Failure { stage: self.meter.name.clone(), number, attempts: 1, error });
        }
        !self.spill.is_empty()
    }
}

impl<V> Exit<V> for FlatExit<V>
where
    V: IntoIterator,
    V::Item: Send,
    V::IntoIter: Send,
{
    fn give(&mut self, batch: &mut ItemBatch<V>, waker: &Waker) -> Given {
        while !self.spill.is_empty() || self.take_apart(batch) {
            match self.inner.give(&mut self.spill, waker) {
                Given::All => {}
                Given::Full => return Given::Full,
                Given::Stopped => {
                    self.current = None;
                    batch.clear();
                    return Given::Stopped;
                }
            }
        }
        Given::All
    }

    fn room(&mut self, waker: &Waker) -> Option<usize> {
        self.inner.room(waker)
    }
}

//! Functions of this program in child processes: a crash, an abort, a stack overflow, memory
//! without end or a loop without end is that task's outcome.
//!
//! Layout:
//! - `isolated.rs`: [`IsolatedLane`]. Its queue, its limits and how deaths are charged are those of
//!   all children (`children.rs`).
//! - `seat.rs`: a thread for each child; it sends batches, takes answers, and finds out who was
//!   running when a child ends.
//! - `load.rs`: a batch, and whose items it has. `parcel.rs`: payloads that are several items.
//!   `progress.rs`: since when an item runs. `board.rs`: the parent's end of a child. `serve.rs`:
//!   the child's.
//! - `registry.rs`: which function is meant. `wire.rs`: what travels.
//!
//! What holds:
//! - A child runs one function for many tasks, one after the other. Tiny ones are sent in batches
//!   of about `CHUNK` of measured work, and the next batch before one is done (on the other side of
//!   the board), so that parent and child need not sleep for each other; long ones are sent alone.
//! - A task may be several items (a chunk of an executor's `map`): limits, blame and outcomes are
//!   those of each item.
//! - The child claims each task of a batch before it begins it, and publishes its answer when it
//!   has ended, both in memory that its parent sees: whatever ends the child, the tasks that have
//!   ended keep their answers, the one that ran has the blame, and those behind it go to another
//!   child. No task runs twice unless the retries say so.
//! - The parent takes tasks behind one that turns out long back, for other children.
//! - A child is killed with its group, by SIGKILL at once: a function has no use for a TERM that it
//!   cannot hear.
//! - A child dies with the thread that serves it, so with this process; the guardian kills what it
//!   has started, too.

mod board;
mod load;
mod parcel;
mod progress;
mod registry;
mod seat;
pub(crate) mod serve;
mod wire;

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use longshore_sys::isolated::resident_bytes;
use serde::{Serialize, de::DeserializeOwned};

pub use registry::Functions;
pub(crate) use registry::add;

pub(crate) use parcel::Parcel;

use self::{
    parcel::{Ends, Items, Said},
    registry::Function,
    seat::BoardSeat,
};
use crate::{
    clock::Clock,
    error::{Again, TaskError},
    lane::{
        Lane, Outbox, Stop,
        child::Children,
        children::{ChildLimits, WorkQueue},
    },
    outcome::Outcome,
    task::{Attempt, Finished},
};

/// The work that a child is given at once, when items are tiny.
const CHUNK: Duration = Duration::from_micros(200);
/// The most items that a child is given at once.
pub(crate) const MOST: usize = 512;

/// The lane of functions in child processes.
pub struct IsolatedLane<T, R>(Arc<IsolatedPool<T, R>>);

/// State that the threads of a lane's children share.
struct IsolatedPool<T, R> {
    function: Function,
    items: Items<T, R>,
    /// Returns true if nobody wants the result any more.
    called_off: Option<fn(&T) -> bool>,
    limits: ChildLimits,
    children: Children,
    outbox: Outbox<T, R>,
    clock: Clock,
    queue: WorkQueue<Attempt<T>>,
    /// Number of attempts that the lane wants to hold.
    capacity: AtomicUsize,
    /// Reason why there will never be a child.
    broken: OnceLock<TaskError>,
}

impl<T, R> IsolatedLane<T, R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    /// Makes a lane that runs the function `F` in this many child processes at most, which start
    /// when there is work.
    ///
    /// # Errors
    /// Kind `setup` when no child could find `F`: [`init_with`](crate::init_with) has not been
    /// called first in `main`, or not with it, or this process is such a child itself. Kind `spawn`
    /// when the guardian of the children cannot be started, on other systems than Linux for one.
    pub fn new<F: 'static>(size: usize, limits: ChildLimits, outbox: Outbox<T, R>, clock: Clock) -> Result<Self, TaskError>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        let function = registry::find::<F, T, R>()?;
        let items = Items::single(|payload, _, batch| batch.push(payload).map(|()| true), |_, _, said| Ends::All(said.outcome()));
        Self::with(function, items, None, size, limits, outbox, clock)
    }

    /// [`new`](Self::new), for payloads and results that travel as other types: `F` takes a `C`
    /// made of each payload, and its answer `A` becomes the result. Of a payload that is
    /// `called_off` the child is killed, which is looked for every 20 ms.
    ///
    /// # Errors
    /// As `new`.
    pub fn between<F, C, A>(
        called_off: fn(&T) -> bool,
        size: usize,
        limits: ChildLimits,
        outbox: Outbox<T, R>,
        clock: Clock,
    ) -> Result<Self, TaskError>
    where
        F: 'static,
        C: Serialize + for<'a> From<&'a T> + 'static,
        A: DeserializeOwned + Into<R> + 'static,
    {
        let function = registry::find::<F, C, A>()?;
        let items = Items::single(
            |payload, _, batch| batch.push(&C::from(payload)).map(|()| true),
            |_, _, said| Ends::All(said.outcome::<A>().map(Into::into)),
        );
        Self::with(function, items, Some(called_off), size, limits, outbox, clock)
    }

    fn with(
        function: Function,
        items: Items<T, R>,
        called_off: Option<fn(&T) -> bool>,
        size: usize,
        limits: ChildLimits,
        outbox: Outbox<T, R>,
        clock: Clock,
    ) -> Result<Self, TaskError> {
        let children = Children::guarded(&[])
            .map_err(|error| TaskError::new("spawn", format!("no child processes for `{}`: {error}", function.name)))?;
        if (limits.memory.is_some() || limits.max_size.is_some()) && resident_bytes(std::process::id().cast_signed()).is_none() {
            let message =
                format!("`{}` cannot have a limit of memory: /proc, which tells how much a process holds, is not there", function.name);
            return Err(TaskError::new("setup", message).with_again(Again::Never));
        }
        let queue = WorkQueue::new(size);
        let capacity = AtomicUsize::new(queue.size);
        Ok(Self(Arc::new(IsolatedPool {
            function,
            items,
            called_off,
            limits,
            children,
            outbox,
            clock,
            queue,
            capacity,
            broken: OnceLock::new(),
        })))
    }
}

impl<T, R> Lane<T, R> for IsolatedLane<T, R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    fn start(&self, batch: &mut Vec<Attempt<T>>) {
        let pool = &self.0;
        if let Err((lost, error)) = pool.queue.add(batch.drain(..), |slot| pool.spawn(slot)) {
            pool.give_up(lost, &Outcome::Lost(format!("no thread for the process lane: {error}")));
        }
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.0.capacity.load(Ordering::Relaxed))
    }

    fn stop(&self, how: Stop) {
        self.0.give_up(self.0.queue.stop(how), &Outcome::Cancelled);
        self.0.children.stop(how);
    }
}

impl<T, R> Drop for IsolatedLane<T, R> {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

impl<T, R> IsolatedLane<Parcel<T, R>, Vec<Outcome<R>>>
where
    T: Serialize + Send + 'static,
    R: DeserializeOwned + Send + 'static,
{
    /// As [`new`](Self::new), for tasks that are several items: limits and blame are those of each.
    ///
    /// # Errors
    /// As `new`.
    pub(crate) fn of_parcels<F: 'static>(
        size: usize,
        limits: ChildLimits,
        outbox: ParcelOutbox<T, R>,
        clock: Clock,
    ) -> Result<Self, TaskError> {
        Self::with(registry::find::<F, T, R>()?, Parcel::items(), None, size, limits, outbox, clock)
    }
}

type ParcelOutbox<T, R> = Outbox<Parcel<T, R>, Vec<Outcome<R>>>;

impl<T, R> IsolatedPool<T, R> {
    /// Ends what no child will begin, all of its items alike. Nothing if what was taken off it has
    /// yet to end.
    fn unstarted(&self, mut attempt: Attempt<T>, outcome: &Outcome<Infallible>) -> Option<Finished<T, R>> {
        for place in 0..(self.items.count)(&attempt.payload) {
            match (self.items.end)(&mut attempt.payload, place, Said::Nothing(outcome.clone())) {
                Ends::Open => {}
                Ends::Part => break,
                Ends::All(outcome) => {
                    let (at, slot, Attempt { task, payload, .. }) = (attempt.admitted, attempt.task.slot, attempt);
                    load::discard(payload);
                    return Some(Finished { slot, task, outcome, started: at, ended: at, cpu: None });
                }
            }
        }
        None
    }

    /// Takes off the items of an attempt from this one on; and whether what stays has ended by
    /// that.
    fn split(&self, attempt: &mut Attempt<T>, place: usize) -> (Attempt<T>, Ends<R>) {
        let (payload, ends) = (self.items.split)(&mut attempt.payload, place);
        let Attempt { ref task, admitted, timeout, .. } = *attempt;
        (Attempt { task: task.twin(), payload, admitted, timeout }, ends)
    }

    /// Ends what no child will begin.
    fn give_up(&self, attempts: Vec<Attempt<T>>, outcome: &Outcome<Infallible>) {
        let mut ended = attempts.into_iter().filter_map(|attempt| self.unstarted(attempt, outcome)).collect();
        self.outbox.finish(&mut ended);
    }

    /// Says how much the lane wants to hold when an item takes this many nanoseconds: what the
    /// children have and what waits for each; nothing but what runs when items are long.
    fn hold(&self, each: f64) {
        self.capacity.store(self.queue.size * ahead(each), Ordering::Relaxed);
    }
}

impl<T: Send + 'static, R: Send + 'static> IsolatedPool<T, R> {
    /// Starts the thread of a child.
    fn spawn(self: &Arc<Self>, slot: u32) -> io::Result<()> {
        let own = self.clone();
        thread::Builder::new().name(format!("isolated-{slot}")).spawn(move || BoardSeat::new(own, slot).serve())?;
        Ok(())
    }

    /// Gives back what a child did not begin, in order, in front of everything else.
    fn put_back(self: &Arc<Self>, attempts: impl DoubleEndedIterator<Item = Attempt<T>>) {
        let ended = self.queue.put_back(attempts, |slot| self.spawn(slot));
        self.give_up(ended, &Outcome::Cancelled);
    }
}

/// Returns how many items make up `CHUNK`.
fn chunk(each: f64) -> usize {
    ((CHUNK.as_nanos() as f64 / each) as usize).clamp(1, MOST)
}

fn ahead(each: f64) -> usize {
    match chunk(each) {
        1 if each > 10_000_000.0 => 1,
        1 => 2,
        // Rounded, so that it does not change with every chunk.
        chunk => 3 * chunk.next_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_items_are_held_in_chunks_and_long_ones_only_while_they_run() {
        for (nanos, together, held) in [(100.0, 512, 1536), (2_000.0, 100, 384), (90_000.0, 2, 6), (1e6, 1, 2), (1e8, 1, 1)] {
            assert_eq!((chunk(nanos), ahead(nanos)), (together, held), "{nanos}");
        }
    }
}

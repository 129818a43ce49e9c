//! Functions of this program in child processes: a crash, an abort, a stack overflow, memory
//! without end or a loop without end is that task's outcome.
//!
//! Layout:
//! - `isolated.rs`: [`IsolatedLane`], its queue and its limits.
//! - `seat.rs`: a thread for each child; it sends batches, takes answers, and finds out who was
//!   running when a child ends.
//! - `load.rs`: a batch, and whose items it has. `parcel.rs`: payloads that are several items.
//!   `blame.rs`: decisions without effects. `link.rs`: the parent's end of a child. `serve.rs`: the
//!   child's.
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

mod blame;
mod link;
mod load;
mod parcel;
mod registry;
mod seat;
pub(crate) mod serve;
mod wire;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
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
    seat::Seat,
};
use crate::{
    clock::Clock,
    error::{Again, TaskError},
    lane::{Lane, Outbox, Stop, child::Children},
    outcome::Outcome,
    task::{Attempt, Finished},
};

/// The work that a child is given at once, when items are tiny.
const CHUNK: Duration = Duration::from_micros(200);
/// The most items that a child is given at once.
pub(crate) const MOST: usize = 512;

/// How far the child processes of isolated functions may go, and when they are replaced. Nothing is
/// limited by default.
///
/// ```
/// use longshore_core::Isolation;
///
/// let isolation = Isolation::default().memory(256 << 20).max_tasks(10_000);
/// assert_eq!((isolation.max_age, isolation.batch), (None, None));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Isolation {
    /// The most memory that a child may hold, in bytes (resident, shared pages of the program
    /// included; what the child itself starts is not counted). It is looked at every 20 ms while a
    /// task runs: a child that holds more is killed, and its task has failed with kind `memory`.
    /// What it can take within 20 ms comes on top. Between tasks, a child that holds more than half
    /// is replaced, so that no task pays for what others leaked.
    pub memory: Option<u64>,
    /// A child is replaced after this many tasks.
    pub max_tasks: Option<u32>,
    /// A child is replaced, between tasks, when it is older than this.
    pub max_age: Option<Duration>,
    /// A child is replaced, between tasks, when it holds more than this many bytes. Half of
    /// `memory` if that is less or this is absent.
    pub max_size: Option<u64>,
    /// How many tasks a child is given at once, 1 to 512. By default as many as make up 200 µs of
    /// measured work, so one if they take longer. While a child works on a batch that takes less
    /// than a millisecond, it has the next one already.
    pub batch: Option<u32>,
}

impl Isolation {
    /// Sets [`memory`](Self::memory).
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Sets [`max_tasks`](Self::max_tasks).
    #[must_use]
    pub fn max_tasks(mut self, tasks: u32) -> Self {
        self.max_tasks = Some(tasks);
        self
    }

    /// Sets [`max_age`](Self::max_age).
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Sets [`max_size`](Self::max_size).
    #[must_use]
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = Some(bytes);
        self
    }

    /// Sets [`batch`](Self::batch).
    #[must_use]
    pub fn batch(mut self, tasks: u32) -> Self {
        self.batch = Some(tasks);
        self
    }
}

/// The lane of functions in child processes.
pub struct IsolatedLane<T, R>(Arc<Pool<T, R>>);

struct Pool<T, R> {
    function: Function,
    items: Items<T, R>,
    /// Whether nobody wants the result any more.
    called_off: Option<fn(&T) -> bool>,
    isolation: Isolation,
    size: usize,
    children: Children,
    outbox: Outbox<T, R>,
    clock: Clock,
    state: Mutex<State<T>>,
    wake: Condvar,
    /// What the lane wants to hold.
    capacity: AtomicUsize,
    /// Why there will never be a child.
    broken: OnceLock<TaskError>,
}

struct State<T> {
    queue: VecDeque<Attempt<T>>,
    idle: usize,
    seats: usize,
    stop: Option<Stop>,
    closed: bool,
}

impl<T, R> IsolatedLane<T, R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    /// A lane that runs the function `F` in this many child processes at most, which start when
    /// there is work.
    ///
    /// # Errors
    /// Kind `setup` when no child could find `F`: [`init_with`](crate::init_with) has not been
    /// called first in `main`, or not with it, or this process is such a child itself. Kind `spawn`
    /// when the guardian of the children cannot be started, on other systems than Linux for one.
    pub fn new<F: 'static>(size: usize, isolation: Isolation, outbox: Outbox<T, R>, clock: Clock) -> Result<Self, TaskError>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        let function = registry::find::<F, T, R>()?;
        let items = Items::single(|payload, _, batch| batch.push(payload).map(|()| true), |_, _, said| Ends::All(said.outcome()));
        Self::with(function, items, None, size, isolation, outbox, clock)
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
        isolation: Isolation,
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
        Self::with(function, items, Some(called_off), size, isolation, outbox, clock)
    }

    fn with(
        function: Function,
        items: Items<T, R>,
        called_off: Option<fn(&T) -> bool>,
        size: usize,
        isolation: Isolation,
        outbox: Outbox<T, R>,
        clock: Clock,
    ) -> Result<Self, TaskError> {
        let children = Children::guarded(&[])
            .map_err(|error| TaskError::new("spawn", format!("no child processes for `{}`: {error}", function.name)))?;
        if (isolation.memory.is_some() || isolation.max_size.is_some()) && resident_bytes(std::process::id().cast_signed()).is_none() {
            let message =
                format!("`{}` cannot have a limit of memory: /proc, which tells how much a process holds, is not there", function.name);
            return Err(TaskError::new("setup", message).with_again(Again::Never));
        }
        let size = size.max(1);
        Ok(Self(Arc::new(Pool {
            function,
            items,
            called_off,
            isolation,
            size,
            children,
            outbox,
            clock,
            state: Mutex::new(State { queue: VecDeque::new(), idle: 0, seats: 0, stop: None, closed: false }),
            wake: Condvar::new(),
            capacity: AtomicUsize::new(size),
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
        let mut state = pool.lock();
        state.queue.extend(batch.drain(..));
        let wake = state.queue.len().min(state.idle);
        if let Err(error) = pool.staff(&mut state)
            && state.seats == 0
        {
            let why = Outcome::Lost(format!("no thread for the process lane: {error}"));
            let mut lost = state.queue.drain(..).filter_map(|attempt| pool.unstarted(attempt, &why)).collect();
            pool.outbox.finish(&mut lost);
        }
        drop(state);
        for _ in 0..wake {
            pool.wake.notify_one();
        }
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.0.capacity.load(Ordering::Relaxed))
    }

    fn stop(&self, how: Stop) {
        let mut state = self.0.lock();
        state.stop = Some(how);
        let mut ended = state.queue.drain(..).filter_map(|attempt| self.0.unstarted(attempt, &Outcome::Cancelled)).collect();
        drop(state);
        self.0.outbox.finish(&mut ended);
        self.0.children.stop(how);
    }
}

impl<T, R> Drop for IsolatedLane<T, R> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
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
        isolation: Isolation,
        outbox: ParcelOutbox<T, R>,
        clock: Clock,
    ) -> Result<Self, TaskError> {
        Self::with(registry::find::<F, T, R>()?, Parcel::items(), None, size, isolation, outbox, clock)
    }
}

type ParcelOutbox<T, R> = Outbox<Parcel<T, R>, Vec<Outcome<R>>>;

impl<T, R> Pool<T, R> {
    /// Ends what no child will begin, all of its items alike. Nothing if what was taken off it has
    /// yet to end.
    fn unstarted(&self, mut attempt: Attempt<T>, outcome: &Outcome<Infallible>) -> Option<Finished<T, R>> {
        for place in 0..(self.items.count)(&attempt.payload) {
            match (self.items.end)(&mut attempt.payload, place, Said::Nothing(outcome.clone())) {
                Ends::Open => {}
                Ends::Part => break,
                Ends::All(outcome) => {
                    let (at, slot, Attempt { task, payload }) = (attempt.task.admitted, attempt.task.slot, attempt);
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
        (Attempt { task: attempt.task.twin(), payload }, ends)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how much the lane wants to hold when an item takes this many nanoseconds: what the
    /// children have and what waits for each; nothing but what runs when items are long.
    fn hold(&self, each: f64) {
        self.capacity.store(self.size * ahead(each), Ordering::Relaxed);
    }
}

impl<T: Send + 'static, R: Send + 'static> Pool<T, R> {
    /// Starts threads for what waits beyond those that have nothing to do.
    fn staff(self: &Arc<Self>, state: &mut State<T>) -> io::Result<()> {
        for _ in state.idle..state.queue.len().min(self.size) {
            if state.seats >= self.size {
                break;
            }
            let (own, slot) = (self.clone(), state.seats as u32);
            thread::Builder::new().name(format!("isolated-{slot}")).spawn(move || Seat::new(own, slot).serve())?;
            state.seats += 1;
        }
        Ok(())
    }

    /// Gives back what a child did not begin, in order, in front of everything else.
    fn put_back(self: &Arc<Self>, attempts: impl DoubleEndedIterator<Item = Attempt<T>>) {
        let mut state = self.lock();
        let before = state.queue.len();
        for attempt in attempts.rev() {
            state.queue.push_front(attempt);
        }
        let mut ended: Vec<_> = match state.stop {
            Some(_) => state.queue.drain(..).filter_map(|attempt| self.unstarted(attempt, &Outcome::Cancelled)).collect(),
            None => Vec::new(),
        };
        let wake = state.queue.len().saturating_sub(before).min(state.idle);
        // If no more can be had, those that are there come to it.
        let _ = self.staff(&mut state);
        drop(state);
        self.outbox.finish(&mut ended);
        for _ in 0..wake {
            self.wake.notify_one();
        }
    }
}

/// The items that make up `CHUNK`.
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

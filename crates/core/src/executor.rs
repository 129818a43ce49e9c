//! A scoped pool of lanes, for calls that are submitted one by one: `ThreadPoolExecutor` and
//! `asyncio.gather`, with lanes.
//!
//! Each lane that is used has an engine of its own, so that no lane holds up another before its
//! queue. What travels through it is a call (`executor/call.rs`): the work, and a place for its
//! result that a handle (`executor/handle.rs`) waits for. `executor/map.rs` runs a function over an
//! input, in chunks where items are tiny; `executor/view.rs` says how it is doing;
//! `executor/gather.rs` waits for many handles; `executor/isolated.rs` runs functions in child
//! processes.

mod call;
mod closed;
mod gather;
mod handle;
mod inbox;
mod isolated;
mod map;
mod pairs;
#[cfg(test)]
mod tests;
mod view;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::runtime::Runtime;

use crate::{
    block_on::block_on,
    cancel::CancelToken,
    clock::Clock,
    engine::{self, Engine, EngineConfig, Lanes, Running},
    error::TaskError,
    event::Event,
    gate::GateConfig,
    lane::{AsyncHandler, IntoOutcome, Lane, Stop, SyncHandler, async_::AsyncLane, blocking::BlockingLane, cpu::CpuLane},
    source::queue::{SendError, Sender, queue},
    task::LaneKind,
    watch::{Counts, Hub},
};
use call::{AnswerSlot, CallTally, CallWork, Coming, Inside, Plain, Ticket};
use closed::Settle;

pub use closed::Closed;
pub use gather::{AsCompletedHandles, Gather, GatherAll, as_completed, gather, gather_all};
pub use handle::TaskHandle;
pub use isolated::Isolated;
pub use map::{Combined, InputError, Map, MapStream};
pub use pairs::{LengthsDiffer, Pairs, pairs};

/// Calls that may wait in a lane's queue.
const QUEUE: usize = 100_000;

static NEXT_POOL: AtomicU64 = AtomicU64::new(1);

/// A pool of lanes. Clones are one pool.
///
/// ```
/// use longshore_core::Executor;
///
/// // Leaving the scope waits for everything that was submitted.
/// let (sum, closed) = Executor::scope(|pool| {
///     let slow = pool.blocking().submit(|| 40);          // a thread of its own
///     let heavy = pool.cpu().submit(|| (1..=3).product::<u32>()); // as many threads as cores
///     let waits = pool.futures().submit(async { 2 });    // on the async runtime
///     slow.wait().unwrap() + heavy.wait().unwrap() + waits.wait().unwrap()
/// });
/// assert_eq!((sum, closed.ok()), (48, 3));
///
/// // map keeps the order, whatever is done first.
/// let pool = Executor::new();
/// let squares: Vec<u64> = pool.cpu().map(0..1_000, |n| n * n).results().unwrap();
/// assert_eq!(squares[999], 998_001);
/// assert_eq!(pool.close().failed(), 0);
/// ```
///
/// # What it promises
/// - Each lane runs at most as many calls at once as it has workers; the others wait in its queue
///   (at most 100 000, or [`queue`](ExecutorBuilder::queue); a call beyond that fails at once with
///   the kind `full`).
/// - Every call ends in exactly one result. A panic, a timeout, a cancellation is that call's
///   error.
/// - [`close`](Executor::close) waits for everything; dropping the last clone cancels everything.
///   Nothing runs on afterwards but plain functions that do not look at their token: no thread can
///   be ended from outside.
/// - Waiting for a call inside a call of the same pool does not deadlock: what nobody has begun
///   runs in the place of the one that waits. (One case is left: an async task that is awaited by
///   all threads of the *cpu* lane must not itself wait for the cpu lane.)
/// - Callable from blocking code, from async code (await the handles) and inside a runtime that
///   already runs: the pool has threads of its own.
#[derive(Clone)]
pub struct Executor(Arc<ExecutorPool>);

struct ExecutorPool {
    number: u64,
    settings: ExecutorBuilder,
    runtime: Option<Runtime>,
    tally: Arc<CallTally>,
    began: Instant,
    events: Hub<Event>,
    /// Concurrency that somebody has set for a lane while it runs; 0: none.
    set: Arc<[AtomicUsize; 4]>,
    /// By `lane as usize`.
    lanes: [OnceLock<Started<Arc<Ticket>>>; 4],
    /// Functions in child processes, each with an engine of its own.
    isolated: Mutex<Vec<Arc<dyn Part>>>,
    closed: Mutex<bool>,
}

/// An engine of the pool, and the way to it.
struct Started<T> {
    lane: LaneKind,
    sender: Mutex<Option<Sender<T>>>,
    handle: engine::Handle,
    running: Mutex<Option<Running>>,
}

/// An engine of the pool, whatever it carries.
trait Part: Send + Sync {
    fn lane(&self) -> LaneKind;
    fn engine(&self) -> &engine::Handle;
    /// Returns how many calls it has got so far.
    fn sent(&self) -> u64;
    /// Resolves when everything sent so far is settled.
    fn drained(&self) -> BoxFuture<'static, ()>;
    /// Takes no more; what to wait for, once.
    fn close(&self) -> Option<Running>;
    fn stop(&self);
}

impl<T: Send + 'static> Started<T> {
    fn sender(&self) -> Option<Sender<T>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T: Send + 'static> Part for Started<T> {
    fn lane(&self) -> LaneKind {
        self.lane
    }

    fn engine(&self) -> &engine::Handle {
        &self.handle
    }

    fn sent(&self) -> u64 {
        self.sender().map_or(0, |sender| sender.counts().sent)
    }

    fn drained(&self) -> BoxFuture<'static, ()> {
        let sender = self.sender();
        async move {
            if let Some(sender) = sender {
                let _ = sender.drained().await;
            }
        }
        .boxed()
    }

    fn close(&self) -> Option<Running> {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn stop(&self) {
        self.handle.stop(Stop::Soft);
    }
}

/// Settings of an executor.
#[derive(Clone, Debug)]
pub struct ExecutorBuilder {
    workers: [Option<usize>; 4],
    queue: usize,
    timeout: Option<Duration>,
}

impl ExecutorBuilder {
    /// Sets how many calls a lane runs at once. Default: async 50, blocking 4 × cores, cpu as many
    /// as cores.
    #[must_use]
    pub fn workers(mut self, lane: LaneKind, workers: usize) -> Self {
        self.workers[lane as usize] = Some(workers.max(1));
        self
    }

    /// Sets how many calls may wait in a lane's queue (100 000).
    #[must_use]
    pub fn queue(mut self, calls: usize) -> Self {
        self.queue = calls.max(1);
        self
    }

    /// The limit of each call, from its start. A future that passes it is dropped; of a plain
    /// function only the result is given up.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Makes the executor. Its lanes start when they are first used.
    ///
    /// # Panics
    /// If the system gives no thread for its runtime.
    pub fn build(self) -> Executor {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("longshore")
            .build()
            .unwrap_or_else(|error| panic!("no threads for an async runtime: {error}"));
        Executor(Arc::new(ExecutorPool {
            number: NEXT_POOL.fetch_add(1, Ordering::Relaxed),
            settings: self,
            runtime: Some(runtime),
            tally: Arc::default(),
            began: Instant::now(),
            events: Hub::new(),
            set: Arc::default(),
            lanes: Default::default(),
            isolated: Mutex::default(),
            closed: Mutex::new(false),
        }))
    }
}

impl Default for Executor {
    fn default() -> Self {
        Self::new()
    }
}

impl Executor {
    /// An executor with the default number of workers in each lane.
    ///
    /// # Panics
    /// As [`build`](ExecutorBuilder::build).
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// An executor to be set up.
    pub fn builder() -> ExecutorBuilder {
        ExecutorBuilder { workers: [None; 4], queue: QUEUE, timeout: None }
    }

    /// Runs `body` with a pool, then waits for everything that was submitted to it. A panic of
    /// `body` cancels everything and goes on.
    pub fn scope<O>(body: impl FnOnce(&Executor) -> O) -> (O, Closed) {
        let pool = Executor::new();
        // Should `body` panic, `pool` is dropped here, which cancels.
        let output = body(&pool);
        (output, pool.close())
    }

    /// Runs an async `body` with a pool, then waits for everything that was submitted to it.
    /// Dropping the future cancels everything.
    pub async fn scope_async<O, Fut: Future<Output = O>>(body: impl FnOnce(Executor) -> Fut) -> (O, Closed) {
        let pool = Executor::new();
        let output = body(pool.clone()).await;
        (output, pool.finish().await)
    }

    /// The blocking lane: a thread for each running call. For plain functions that wait: files,
    /// other people's synchronous clients.
    pub fn blocking(&self) -> Threads<'_> {
        Threads { pool: self, lane: LaneKind::Blocking }
    }

    /// The cpu lane: as many threads as cores, at a lower priority. For plain functions that
    /// compute.
    pub fn cpu(&self) -> Threads<'_> {
        Threads { pool: self, lane: LaneKind::Cpu }
    }

    /// The async lane. For futures that wait; one that computes holds up its neighbours.
    pub fn futures(&self) -> Futures<'_> {
        Futures(self)
    }

    /// Takes no more calls, waits for those that were submitted, and says how they ended. Blocks
    /// this thread; in async code use [`finish`](Executor::finish). Calls that are submitted
    /// meanwhile by calls that run are waited for too.
    ///
    /// # Panics
    /// In a call of the same executor, which would wait for itself.
    pub fn close(self) -> Closed {
        self.assert_outside("close()");
        block_on(self.finish())
    }

    fn assert_outside(&self, what: &str) {
        assert!(Inside::of(self.0.number).is_none(), "{what} inside a call of the same executor would wait for that very call");
    }

    /// As [`close`](Executor::close), for async code. Dropping the future leaves the calls running
    /// as long as a clone of the executor lives.
    ///
    /// # Panics
    /// As [`close`](Executor::close).
    pub async fn finish(self) -> Closed {
        self.assert_outside("finish()");
        // A call may submit to another lane, so once through all lanes is not enough.
        loop {
            let before = self.0.sent();
            for drained in self.0.each(|part| part.drained()) {
                drained.await;
            }
            if self.0.sent() == before {
                break;
            }
        }
        self.0.end().await
    }

    /// Cancels everything: what waits ends with the kind `cancelled`, futures are dropped, tokens
    /// are told. Returns at once.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Returns what has ended so far, by outcome.
    pub fn counts(&self) -> Counts {
        self.0.tally.counts()
    }

    fn submit<R: Send + 'static>(&self, lane: LaneKind, work: CallWork<R>) -> TaskHandle<R> {
        let pool = &self.0;
        let slot = AnswerSlot::new(pool.number, work, pool.tally.clone());
        let handle = TaskHandle::new(slot.clone(), pool.runtime().handle().clone());
        let ticket = Arc::new(Ticket(slot.clone()));
        let sender = if pool.is_closed() { None } else { pool.lane(lane).sender() };
        let refused = match sender.as_ref().map(|sender| sender.try_send(ticket)) {
            Some(Ok(())) => return handle,
            Some(Err(SendError::Full(_))) => pool.full(lane),
            Some(Err(SendError::Closed(_))) | None => ExecutorPool::no_more(),
        };
        // The ticket has been dropped, and with it the work; this says why.
        slot.refuse(refused);
        handle
    }
}

/// The lane of an executor that runs plain functions: [`blocking`](Executor::blocking) or
/// [`cpu`](Executor::cpu).
#[derive(Clone, Copy)]
pub struct Threads<'a> {
    pool: &'a Executor,
    lane: LaneKind,
}

impl Threads<'_> {
    /// Submits a function; never blocks. The handle waits for what it returns.
    pub fn submit<R: Send + 'static>(self, function: impl FnOnce() -> R + Send + 'static) -> TaskHandle<R> {
        self.pool.submit(self.lane, CallWork::Plain(Box::new(move |_| Ok(function()))))
    }

    /// Submits a function that may fail, and that is told through its token when nobody wants its
    /// result any more.
    pub fn try_submit<R, A>(self, function: impl FnOnce(&CancelToken) -> A + Send + 'static) -> TaskHandle<R>
    where
        R: Send + 'static,
        A: IntoOutcome<R>,
    {
        let plain: Plain<R> = Box::new(move |token| into_ended(function(token)));
        self.pool.submit(self.lane, CallWork::Plain(plain))
    }

    /// Runs a function over an input: lazily, in order, looking ahead no further than the lane can
    /// use. Tiny items travel in chunks.
    ///
    /// Nothing is submitted before the result is asked for: iterate, or call one of the methods of
    /// [`Map`].
    pub fn map<I, R, F>(self, inputs: I, function: F) -> Map<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        R: Send + 'static,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
    {
        self.try_map(inputs, move |input| Ok::<R, TaskError>(function(input)))
    }

    /// As [`map`](Threads::map), for a function that may fail. A failed item does not stop the
    /// others; its error says which input it was.
    pub fn try_map<I, R, E, F>(self, inputs: I, function: F) -> Map<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        R: Send + 'static,
        E: Into<TaskError>,
        F: Fn(I::Item) -> Result<R, E> + Send + Sync + 'static,
    {
        Map::in_chunks(self.pool.clone(), self.lane, inputs.into_iter(), function)
    }

    /// Runs a function over two inputs side by side. Lengths that differ are an error, told where
    /// the shorter one ends (and before anything runs, where both know their length).
    pub fn map2<A, B, R, F>(self, first: A, second: B, function: F) -> Map<Pairs<A::IntoIter, B::IntoIter>, R>
    where
        A: IntoIterator,
        B: IntoIterator,
        A::Item: Send + 'static,
        B::Item: Send + 'static,
        R: Send + 'static,
        F: Fn(A::Item, B::Item) -> R + Send + Sync + 'static,
    {
        self.try_map(pairs(first, second), move |pair| match pair {
            Ok((first, second)) => Ok(function(first, second)),
            Err(differ) => Err(TaskError::from(differ)),
        })
    }
}

/// The lane of an executor that runs futures.
#[derive(Clone, Copy)]
pub struct Futures<'a>(&'a Executor);

impl Futures<'_> {
    /// Submits a future; never blocks. It is first polled when the lane has a free place.
    pub fn submit<R: Send + 'static>(self, future: impl Future<Output = R> + Send + 'static) -> TaskHandle<R> {
        let coming: Coming<R> = future.map(Ok).boxed();
        self.0.submit(LaneKind::Async, CallWork::Async(coming))
    }

    /// Submits a future that may fail.
    pub fn try_submit<R, A>(self, future: impl Future<Output = A> + Send + 'static) -> TaskHandle<R>
    where
        R: Send + 'static,
        A: IntoOutcome<R> + 'static,
    {
        self.0.submit(LaneKind::Async, CallWork::Async(future.map(into_ended).boxed()))
    }

    /// Runs an async function over an input: lazily, in order, looking ahead no further than the
    /// lane can use.
    pub fn map<I, R, F, Fut>(self, inputs: I, function: F) -> Map<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        R: Send + 'static,
        F: Fn(I::Item) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = R> + Send + 'static,
    {
        self.try_map(inputs, move |input| function(input).map(Ok::<R, TaskError>))
    }

    /// As [`map`](Futures::map), for an async function that may fail.
    pub fn try_map<I, R, E, F, Fut>(self, inputs: I, function: F) -> Map<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        R: Send + 'static,
        E: Into<TaskError>,
        F: Fn(I::Item) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        Map::one_by_one(self.0.clone(), inputs.into_iter(), function)
    }
}

fn into_ended<R, A: IntoOutcome<R>>(answer: A) -> Result<R, TaskError> {
    match answer.into_outcome() {
        crate::Outcome::Ok(result) => Ok(result),
        other => Err(other.error().unwrap_or_else(|| TaskError::new("lost", "no outcome"))),
    }
}

impl ExecutorPool {
    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap_or_else(|| unreachable!("the runtime is taken only by drop"))
    }

    fn is_closed(&self) -> bool {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self, lane: LaneKind) -> TaskError {
        let text = format!(
            "{} calls wait for the {lane} lane already; wait for some, or let map() submit them as they are wanted",
            self.settings.queue
        );
        TaskError::new("full", text)
    }

    fn no_more() -> TaskError {
        TaskError::new("closed", "the executor is closed and takes no more calls")
    }

    fn workers(&self, lane: LaneKind) -> usize {
        match self.set[lane as usize].load(Ordering::Relaxed) {
            0 => self.settings.workers[lane as usize].unwrap_or_else(|| lane.default_workers()),
            set => set,
        }
    }

    fn close(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn lane(&self, lane: LaneKind) -> &Started<Arc<Ticket>> {
        self.lanes[lane as usize].get_or_init(|| self.start(lane))
    }

    fn start(&self, lane: LaneKind) -> Started<Arc<Ticket>> {
        let (runtime, workers) = (self.runtime().handle(), self.workers(lane));
        let outbox = engine::outbox::<Arc<Ticket>, ()>();
        let plain: SyncHandler<Arc<Ticket>, ()> = Arc::new(|_, ticket| ticket.0.run());
        let mut lanes: Lanes<Arc<Ticket>, ()> = [None, None, None, None];
        lanes[lane as usize] = Some(match lane {
            LaneKind::Async => {
                let handler = AsyncHandler::new(|ticket: Arc<Ticket>| ticket.0.clone().future());
                Arc::new(AsyncLane::new(handler, outbox.clone(), Clock::SYSTEM, runtime)) as Arc<dyn Lane<_, _>>
            }
            LaneKind::Cpu => Arc::new(CpuLane::new(plain, workers, outbox.clone(), Clock::SYSTEM)),
            LaneKind::Blocking | LaneKind::Process => Arc::new(BlockingLane::new(plain, outbox.clone(), Clock::SYSTEM)),
        });
        let mut sizes = [0; 4];
        sizes[lane as usize] = workers;
        let gate = GateConfig::new(sizes).parking(1).results(usize::MAX / 4);
        let mut config = EngineConfig::new(gate, lane);
        (config.timeout, config.queue) = (self.settings.timeout, workers);
        config.copy = Some(Arc::clone);
        config.keep_payloads = true;
        let (sender, source) = queue(self.settings.queue);
        let running = Engine::start(config, Arc::new(source), lanes, Box::new(Settle), outbox, self.events.lent(), runtime);
        let handle = running.handle();
        if lane == LaneKind::Blocking {
            let (handle, set) = (handle.clone(), self.set.clone());
            self.tally.on_lend(move |lent| {
                let workers = match set[LaneKind::Blocking as usize].load(Ordering::Relaxed) {
                    0 => workers,
                    set => set,
                };
                handle.set_concurrency(Some(LaneKind::Blocking), workers + lent);
            });
        }
        Started { lane, sender: Mutex::new(Some(sender)), handle, running: Mutex::new(Some(running)) }
    }

    /// Ends all engines, and waits for them.
    async fn end(&self) -> Closed {
        self.close();
        let mut lanes = Vec::new();
        for (lane, running) in self.each(|part| (part.lane(), part.close())) {
            if let Some(running) = running {
                lanes.push((lane, running.join().await));
            }
        }
        self.events.close();
        let (unread, first_unread) = self.tally.unread();
        Closed { counts: self.tally.counts(), unread, first_unread, lanes }
    }

    fn cancel(&self) {
        self.close();
        self.each(|part| part.stop());
    }

    /// Asks every engine.
    fn each<O>(&self, ask: impl Fn(&(dyn Part + 'static)) -> O) -> Vec<O> {
        let isolated = self.isolated.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = self.lanes.iter().filter_map(OnceLock::get).map(|lane| lane as &(dyn Part + 'static));
        lanes.chain(isolated.iter().map(|part| &**part)).map(ask).collect()
    }

    fn sent(&self) -> u64 {
        self.each(|part| part.sent()).into_iter().sum()
    }
}

impl Drop for ExecutorPool {
    fn drop(&mut self) {
        self.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

//! The API that people meet first: a function, its parameters, and what to do with the results.
//!
//! `job/producers.rs` is what fills its work queue, `job/report.rs` what it comes to.

mod producers;
mod report;
mod runtime;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{runtime::Handle as Runtime, sync::mpsc};

use crate::{
    clock::Clock,
    engine::{self, Engine, EngineConfig, Lanes},
    error::TaskError,
    event::Event,
    gate::{GateConfig, Limit, adaptive::Bounds, pace::Rate},
    lane::{
        Answer, AsyncHandler, Context, Lane, Outbox, SyncHandler,
        async_::AsyncLane,
        blocking::BlockingLane,
        child::{self, Command, Output},
        cpu::CpuLane,
        isolated::{IsolatedLane, Isolation, Parcel},
        process::{ProcessHandler, ProcessLane, exit_outcome},
    },
    outcome::Outcome,
    retry::RetryPolicy,
    sink::{
        Sink,
        callbacks::{Callbacks, OnTaskComplete, Panics, Then},
        collect::{AsCompleted, Collector, completions},
    },
    source::{
        iter::OptionsOf,
        queue::{Sender, queue},
    },
    task::{Finished, LaneKind, Options},
};

pub use report::{Collected, Report, RunningJob};
pub(crate) use runtime::on_own_runtime;

use producers::{Failures, Producer, source};
use report::OnJobComplete;

/// Tasks that may wait in the line of one busy lane, key or value while others pass.
const PARKING: usize = 1_000;

type Choose<T, O> = Box<dyn Fn(&T) -> O + Send + Sync>;
type MakeLane<T, R> = Box<dyn FnOnce(&Outbox<T, R>, Clock, &Runtime, usize) -> Arc<dyn Lane<T, R>> + Send>;

/// One job: a function that is run for many parameters, by a bounded crowd of workers, with results handled behind a queue of their own.
///
/// Producers fill a bounded work queue; workers take tasks from it and run the function; results wait in a bounded result queue for the result handler,
/// which calls `on_task_complete` for each; at the end comes `on_job_complete`. The job ends when all producers have finished and both queues are empty.
///
/// ```
/// use longshore_core::Job;
///
/// let report = Job::new(|n: u32| async move { if n % 10 == 3 { Err("three") } else { Ok(n * n) } })
///     .params(0..100)
///     .workers(50)
///     .on_task_complete(|task| if let Some(square) = task.result() { assert!(*square <= 9801) })
///     .run();
/// assert_eq!((report.ok(), report.failed()), (90, 10));
/// ```
#[must_use = "a job does nothing until it is run"]
pub struct Job<T, R> {
    lanes: [Option<MakeLane<T, R>>; 4],
    lane: LaneKind,
    workers: [Option<usize>; 4],
    concurrency: Option<usize>,
    adaptive: Option<Bounds>,
    queue: Option<usize>,
    results: Option<usize>,
    handlers: usize,
    producers: Vec<Producer<T>>,
    options: Option<Choose<T, Options>>,
    lane_of: Option<Choose<T, LaneKind>>,
    key_of: Option<Choose<T, Arc<str>>>,
    rate: Option<Rate>,
    limits: Vec<Limit>,
    retry: RetryPolicy,
    timeout: Option<Duration>,
    copy: Option<fn(&T) -> T>,
    keep: bool,
    clock: Clock,
    seed: Option<u64>,
    on_task_complete: Option<OnTaskComplete<T, R>>,
    on_job_complete: Option<OnJobComplete>,
    events: Option<mpsc::Sender<Vec<Event>>>,
}

impl<T: Send + 'static, R: Send + 'static> Job<T, R> {
    /// A job that runs an async function, on the async lane. For work that waits; a function that computes or blocks belongs to
    /// [`blocking`](Job::blocking) or [`cpu`](Job::cpu).
    pub fn new<F, Fut, A>(function: F) -> Self
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: Answer<R>,
    {
        Self::on_lane(LaneKind::Async).on_async(function)
    }

    /// A job that runs an async function which wants to know its attempt: which task, which attempt, which slot, and a token that says when nobody
    /// wants the result any more.
    /// ```
    /// use longshore_core::{Context, Job};
    ///
    /// // A loop that cleans up when nobody wants its result any more.
    /// let collected = Job::with_context(|context: Context, n: u64| async move {
    ///     for step in 0..n {
    ///         if context.cancel.is_cancelled() {
    ///             return Err("not wanted any more");
    ///         }
    ///         assert_eq!((context.id, context.attempt), (1, 1), "step {step}");
    ///     }
    ///     Ok(n)
    /// })
    /// .params([10])
    /// .collect();
    /// assert_eq!(collected.results().unwrap(), [10]);
    /// ```
    pub fn with_context<F, Fut, A>(function: F) -> Self
    where
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: Answer<R>,
    {
        let function = Arc::new(function);
        let handler = AsyncHandler::WithContext(Arc::new(move |context, payload| {
            let future = function(context, payload);
            async move { future.await.into_outcome() }.boxed()
        }));
        Self::on_lane(LaneKind::Async).async_handler(handler)
    }

    /// A job that runs a plain function on the blocking lane, a thread for each running task.
    pub fn blocking<F, A>(function: F) -> Self
    where
        F: Fn(T) -> A + Send + Sync + 'static,
        A: Answer<R>,
    {
        Self::on_lane(LaneKind::Blocking).on_blocking(move |_, payload| function(payload))
    }

    /// A job that runs a plain function on the cpu lane: as many threads as cores, at a lower priority.
    pub fn cpu<F, A>(function: F) -> Self
    where
        F: Fn(T) -> A + Send + Sync + 'static,
        A: Answer<R>,
    {
        Self::on_lane(LaneKind::Cpu).on_cpu(move |_, payload| function(payload))
    }

    fn on_lane(lane: LaneKind) -> Self {
        Self {
            lanes: [None, None, None, None],
            lane,
            workers: [None; 4],
            concurrency: None,
            adaptive: None,
            queue: None,
            results: None,
            handlers: 1,
            producers: Vec::new(),
            options: None,
            lane_of: None,
            key_of: None,
            rate: None,
            limits: Vec::new(),
            retry: RetryPolicy::NONE,
            timeout: None,
            copy: None,
            keep: false,
            clock: Clock::SYSTEM,
            seed: None,
            on_task_complete: None,
            on_job_complete: None,
            events: None,
        }
    }

    fn async_handler(mut self, handler: AsyncHandler<T, R>) -> Self {
        self.lanes[LaneKind::Async as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, runtime: &Runtime, _| {
            Arc::new(AsyncLane::new(handler, outbox.clone(), clock, runtime)) as Arc<dyn Lane<T, R>>
        }));
        self
    }

    /// What tasks on the async lane run.
    pub fn on_async<F, Fut, A>(self, function: F) -> Self
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: Answer<R>,
    {
        self.async_handler(AsyncHandler::Plain(Arc::new(move |payload| {
            let future = function(payload);
            Box::pin(async move { future.await.into_outcome() })
        })))
    }

    /// What tasks on the blocking lane run.
    pub fn on_blocking<F, A>(mut self, function: F) -> Self
    where
        F: Fn(&Context, T) -> A + Send + Sync + 'static,
        A: Answer<R>,
    {
        let handler: SyncHandler<T, R> = Arc::new(move |context, payload| function(context, payload).into_outcome());
        self.lanes[LaneKind::Blocking as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, _| {
            Arc::new(BlockingLane::new(handler, outbox.clone(), clock)) as Arc<dyn Lane<T, R>>
        }));
        self
    }

    /// What tasks on the cpu lane run.
    pub fn on_cpu<F, A>(mut self, function: F) -> Self
    where
        F: Fn(&Context, T) -> A + Send + Sync + 'static,
        A: Answer<R>,
    {
        let handler: SyncHandler<T, R> = Arc::new(move |context, payload| function(context, payload).into_outcome());
        self.lanes[LaneKind::Cpu as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, workers| {
            Arc::new(CpuLane::new(handler, workers, outbox.clone(), clock)) as Arc<dyn Lane<T, R>>
        }));
        self
    }

    /// What tasks on the process lane run: a child process each, and what is made of its end
    /// ([`exit_outcome`](crate::lane::process::exit_outcome) is the usual choice).
    ///
    /// A command that passes its timeout gets TERM, ten seconds later KILL, its whole group with it; of each of its streams the first MiB is kept. If
    /// this program is killed, its children go on, unless its `main` begins with [`init`](crate::init).
    pub fn on_process<C, A>(mut self, command: C, answer: A) -> Self
    where
        C: Fn(&T) -> Command + Send + Sync + 'static,
        A: Fn(&Context, T, Output) -> Outcome<R> + Send + Sync + 'static,
    {
        let limits = child::Limits::default();
        let handler = ProcessHandler {
            command: Arc::new(move |_, payload| Ok(command(payload))),
            answer: Arc::new(answer),
            kill_after: limits.kill_after,
            max_output: limits.max_output,
        };
        self.lanes[LaneKind::Process as usize] =
            Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, _| match crate::init::children() {
                Ok(children) => Arc::new(ProcessLane::new(handler, children, outbox.clone(), clock)) as Arc<dyn Lane<T, R>>,
                // Without descriptors no child can be had.
                Err(error) => refusing(TaskError::new("spawn", format!("no children can be started: {error}")), outbox, clock),
            }));
        self
    }

    /// A job that runs a function of this program in child processes, as many as cores unless [`workers`](Job::workers) says otherwise: a crash, an abort, a
    /// stack overflow, memory without end or a loop without end ends its task, and nothing else. See [`on_isolated`](Job::on_isolated).
    pub fn isolated<F, A>(function: F, isolation: Isolation) -> Self
    where
        F: Fn(T) -> A + 'static,
        A: Answer<R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Self::on_lane(LaneKind::Process).on_isolated(function, isolation)
    }

    /// What tasks on the process lane run: a function of this program, in child processes that serve many tasks each.
    ///
    /// `main` must begin with [`init_with`](crate::init_with), and add the function there; else every task fails with kind `setup`, which says so. The
    /// children are this executable, started again: they share nothing with this process, neither its statics nor its open files but standard output and
    /// error. Payload and result travel as bytes (serde, in the format of `postcard`, which cannot carry types that want to see what follows, such as
    /// untagged enums).
    ///
    /// | what the function does | outcome |
    /// |---|---|
    /// | returns, panics | as on any other lane |
    /// | passes its timeout | `TimedOut`; its child is killed at once, by SIGKILL |
    /// | aborts, overflows the stack, is killed | `Killed`, with the signal |
    /// | calls `exit` | `Lost`, with the code |
    /// | holds more than [`Isolation::memory`] | `Failed`, kind `memory` |
    ///
    /// A child that ends is replaced. What else was sent to it and had not begun is run by another one; nothing that ran is run again but by the job's
    /// retries. Processes that a function leaves behind are killed with its child, when that ends or is replaced, unless they left its process group. When
    /// this program dies, by whatever death, so do its children. Linux alone.
    ///
    /// The bounds on `function` are those of [`Functions::with`](crate::Functions::with): it captures nothing.
    pub fn on_isolated<F, A>(mut self, function: F, isolation: Isolation) -> Self
    where
        F: Fn(T) -> A + 'static,
        A: Answer<R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        // Its type says which one it is.
        drop(function);
        self.lanes[LaneKind::Process as usize] = Some(Box::new(move |outbox: &Outbox<T, R>, clock, _: &Runtime, workers| {
            match IsolatedLane::new::<F>(workers, isolation, outbox.clone(), clock) {
                Ok(lane) => Arc::new(lane) as Arc<dyn Lane<T, R>>,
                Err(error) => refusing(error, outbox, clock),
            }
        }));
        self
    }

    /// What a task wants differently from the job, told from its payload: another lane, a key, a timeout, a retry policy.
    ///
    /// [`lane_of`](Job::lane_of) and [`order_by`](Job::order_by) set their field on top of it, whichever is called first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use longshore_core::{Job, Options};
    ///
    /// // Large numbers get more time.
    /// let report = Job::new(|n: u64| async move { Ok::<_, String>(n * 2) })
    ///     .options_of(|n| Options { timeout: Some(Duration::from_millis(if *n > 5 { 500 } else { 100 })), ..Options::default() })
    ///     .params(1..=10)
    ///     .run();
    /// assert_eq!(report.ok(), 10);
    /// ```
    pub fn options_of(mut self, options: impl Fn(&T) -> Options + Send + Sync + 'static) -> Self {
        self.options = Some(Box::new(options));
        self
    }

    /// Which lane a task runs on. A lane that the job has no function for is that task's failure.
    ///
    /// ```
    /// use longshore_core::{Job, LaneKind};
    ///
    /// // One queue, two lanes: even numbers wait, odd numbers compute.
    /// let collected = Job::new(|n: u64| async move { Ok::<_, String>(n) })
    ///     .on_cpu(|_, n| Ok::<_, String>((1..=n).product()))
    ///     .lane_of(|n| if n % 2 == 0 { LaneKind::Async } else { LaneKind::Cpu })
    ///     .params(1..=5)
    ///     .collect();
    /// assert_eq!(collected.results().unwrap(), [1, 2, 6, 4, 120]);
    /// ```
    pub fn lane_of(mut self, lane: impl Fn(&T) -> LaneKind + Send + Sync + 'static) -> Self {
        self.lane_of = Some(Box::new(lane));
        self
    }

    /// Tasks of equal keys never overlap and keep their order; others pass them.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use longshore_core::Job;
    ///
    /// let seen = Arc::new(Mutex::new(Vec::new()));
    /// let log = seen.clone();
    /// Job::blocking(move |(account, change): (&'static str, i32)| {
    ///     log.lock().unwrap().push((account, change));
    ///     Ok::<_, String>(())
    /// })
    /// .order_by(|(account, _)| (*account).into())
    /// .params([("anna", 1), ("bert", 7), ("anna", 2), ("anna", 3)])
    /// .run();
    /// let anna: Vec<i32> = seen.lock().unwrap().iter().filter(|(who, _)| *who == "anna").map(|(_, change)| *change).collect();
    /// assert_eq!(anna, [1, 2, 3]);
    /// ```
    pub fn order_by(mut self, key: impl Fn(&T) -> Arc<str> + Send + Sync + 'static) -> Self {
        self.key_of = Some(Box::new(key));
        self
    }

    /// Adds a producer: an iterator, lazy and, if it likes, without end. It is asked on the runtime's threads as long as it is quick.
    pub fn params<I>(mut self, params: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        self.producers.push(Producer::Iter(Box::new(params.into_iter())));
        self
    }

    /// Adds a producer: a stream.
    pub fn stream(mut self, stream: impl Stream<Item = T> + Send + 'static) -> Self {
        self.producers.push(Producer::Stream(stream.boxed()));
        self
    }

    /// Adds a producer: an async function with a sender. If it fails or panics, that stands in the report; the job goes on with the others.
    /// ```
    /// use longshore_core::{Job, Sender};
    ///
    /// let report = Job::new(|n: u32| async move { Ok::<_, String>(n) })
    ///     .params(0..10)
    ///     .produce(|sender: Sender<u32>| async move {
    ///         for n in 10..20 {
    ///             sender.send(n).await.map_err(|closed| closed.to_string())?;
    ///         }
    ///         Err("the second half is missing".to_owned())
    ///     })
    ///     .run();
    /// assert_eq!(report.ok(), 20);
    /// assert_eq!(report.failed_producers, ["error: the second half is missing"]);
    /// ```
    pub fn produce<F, Fut, E>(mut self, produce: F) -> Self
    where
        F: FnOnce(Sender<T>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskError>,
    {
        self.producers.push(Producer::Function(Box::new(move |sender| {
            let produced = produce(sender);
            async move { produced.await.map_err(Into::into) }.boxed()
        })));
        self
    }

    /// Adds a queue, and returns its sender: clone it for further producers. The job ends when all senders are dropped and nothing is left.
    pub fn sender(mut self, capacity: usize) -> (Sender<T>, Self) {
        let (sender, source) = queue(capacity);
        self.producers.push(Producer::Queue(source));
        (sender, self)
    }

    /// Workers of the job's lane: how many tasks run at once. Default: async 50, blocking 4 × cores, cpu and process as many as cores.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers[self.lane as usize] = Some(workers.max(1));
        self
    }

    /// Workers of another lane.
    pub fn lane_workers(mut self, lane: LaneKind, workers: usize) -> Self {
        self.workers[lane as usize] = Some(workers.max(1));
        self
    }

    /// Most tasks running over all lanes. Default: the sum of the lanes' workers.
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = Some(most.max(1));
        self
    }

    /// Lets the number of tasks that run at once find itself, between `floor` and `ceiling`: it grows as long as that serves more, and falls when the other
    /// side queues, refuses (429, 503) or fails to answer in time. [How it is found](crate::gate::adaptive). Sets the workers of the job's lane to the
    /// ceiling; [`Handle::set_concurrency`](crate::engine::Handle::set_concurrency) ends it.
    ///
    /// ```
    /// use longshore_core::Job;
    ///
    /// let report = Job::new(|n: u32| async move { Ok::<_, String>(n) }).adaptive(1, 100).params(0..1_000).run();
    /// assert_eq!(report.ok(), 1_000);
    /// ```
    ///
    /// # Panics
    /// If the floor is 0 or above the ceiling.
    pub fn adaptive(mut self, floor: usize, ceiling: usize) -> Self {
        assert!(0 < floor && floor <= ceiling, "the floor must be at least 1 and not above the ceiling");
        self.adaptive = Some(Bounds { floor, ceiling });
        self.workers(ceiling)
    }

    /// Capacity of the work queue: tasks fetched ahead of those that run. Default: 2 × workers.
    pub fn queue(mut self, capacity: usize) -> Self {
        self.queue = Some(capacity);
        self
    }

    /// Capacity of the result queue. Default: 2 × workers. When it is full, workers wait, each with one result in its hands: while the handler takes
    /// nothing, exactly as many tasks run as there are workers and places.
    pub fn result_queue(mut self, capacity: usize) -> Self {
        self.results = Some(capacity);
        self
    }

    /// Result handlers: how many calls of `on_task_complete` there may be at once. Default 1: in turn, never overlapping.
    pub fn result_handlers(mut self, handlers: usize) -> Self {
        self.handlers = handlers.max(1);
        self
    }

    /// The pace of starts: a leaky bucket. Attempts count, so retries keep to it too.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Limits by value; tasks name theirs in [`Options::limits`].
    pub fn limits(mut self, limits: Vec<Limit>) -> Self {
        self.limits = limits;
        self
    }

    /// When a failed task is tried again. Each attempt gets a copy of the payload.
    pub fn retry(mut self, policy: RetryPolicy) -> Self
    where
        T: Clone,
    {
        self.retry = policy;
        self.copy = Some(T::clone);
        self
    }

    /// The limit of one attempt. On the blocking and cpu lanes a thread cannot be ended: the attempt has its outcome on time (blocking) or when it
    /// ends (cpu), its token says so, and the thread goes on by itself.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Lets the payload travel to `on_task_complete`, as `task.task.payload`.
    /// ```
    /// let report = longshore_core::Job::blocking(|name: String| if name.is_empty() { Err("no name") } else { Ok(name.len()) })
    ///     .params(["anna".to_owned(), String::new()])
    ///     .keep_params()
    ///     .on_task_complete(|task| {
    ///         let name = task.task.payload.as_deref().unwrap();
    ///         assert_eq!(task.result().copied().unwrap_or(0), name.len());
    ///     })
    ///     .run();
    /// assert_eq!((report.failed(), report.callback_panics), (1, 0));
    /// ```
    pub fn keep_params(mut self) -> Self
    where
        T: Clone,
    {
        self.keep = true;
        self.copy = Some(T::clone);
        self
    }

    /// Called once for each finished task, by the result handler. A slow callback holds up no worker until the result queue is full; one that panics is
    /// counted in the report and stops nothing.
    pub fn on_task_complete(mut self, callback: impl Fn(&Finished<T, R>) + Send + Sync + 'static) -> Self {
        self.on_task_complete = Some(Arc::new(callback));
        self
    }

    /// Called once, when everything is done.
    pub fn on_job_complete(mut self, callback: impl FnOnce(&Report) + Send + 'static) -> Self {
        self.on_job_complete = Some(Box::new(callback));
        self
    }

    /// Gets every event, in batches. A reader that is too slow misses some; the report counts them.
    pub fn events(mut self, events: mpsc::Sender<Vec<Event>>) -> Self {
        self.events = Some(events);
        self
    }

    /// The engine's clock and the seed of its jitter.
    pub fn clock(mut self, clock: Clock, seed: u64) -> Self {
        (self.clock, self.seed) = (clock, Some(seed));
        self
    }

    /// What the job is set to, defaults included, as `name value` lines.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let workers = self.total_workers();
        let mut lines = vec![("lane", self.lane.to_string())];
        for lane in LaneKind::ALL.into_iter().filter(|lane| self.lanes[*lane as usize].is_some()) {
            lines.push(("workers", format!("{lane} {}", self.lane_size(lane))));
        }
        lines.push(("work queue", self.queue.unwrap_or(2 * workers).to_string()));
        lines.push(("result queue", self.results.unwrap_or(2 * workers).to_string()));
        lines
    }

    fn lane_size(&self, lane: LaneKind) -> usize {
        if self.lanes[lane as usize].is_none() {
            return 0;
        }
        self.workers[lane as usize].unwrap_or_else(|| lane.default_workers())
    }

    fn total_workers(&self) -> usize {
        let sum = LaneKind::ALL.into_iter().map(|lane| self.lane_size(lane)).sum();
        self.concurrency.map_or(sum, |most| most.min(sum))
    }

    /// Runs the job and blocks until it is done. Callable from anywhere: where an async runtime already runs on this thread the job gets threads of its
    /// own (but the thread is blocked; in async code prefer [`start`](Job::start)).
    pub fn run(self) -> Report {
        on_own_runtime(move || async move { self.start().join().await })
    }

    /// Runs the job and blocks until it is done; returns every outcome, in the order of the parameters.
    pub fn collect(self) -> Collected<R> {
        on_own_runtime(move || async move { self.start_collecting().await })
    }

    /// Starts the job on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime; there use [`run`](Job::run).
    pub fn start(mut self) -> RunningJob {
        let callback = self.on_task_complete.take();
        self.start_with_sink(|handlers, panics| Box::new(Callbacks::new(callback, None, handlers, panics)))
    }

    /// Starts the job on the current runtime; the future resolves to every outcome, in the order of the parameters.
    ///
    /// # Panics
    /// Outside of a tokio runtime; there use [`collect`](Job::collect).
    pub fn start_collecting(mut self) -> impl Future<Output = Collected<R>> + Send {
        let collector = Collector::default();
        let (callback, then): (_, Then<T, R>) = (self.on_task_complete.take(), collector.then());
        let running = self.start_with_sink(|handlers, panics| Box::new(Callbacks::new(callback, Some(then), handlers, panics)));
        async move {
            let report = running.join().await;
            Collected { outcomes: collector.into_ordered(), report }
        }
    }

    /// Starts the job on the current runtime, and returns a reader of its results as they complete. The result queue is between them: a reader that is
    /// slow makes workers wait. `on_task_complete` is not called.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let (mut done, job) = longshore_core::Job::blocking(|n: u32| Ok::<_, String>(n + 1)).params(0..5).as_completed();
    /// let mut seen = Vec::new();
    /// while let Some(task) = done.next().await {
    ///     seen.push((task.id(), *task.result().unwrap()));
    /// }
    /// seen.sort();
    /// assert_eq!(seen, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    /// assert!(job.join().await.is_clean());
    /// # });
    /// ```
    pub fn as_completed(self) -> (AsCompleted<T, R>, RunningJob) {
        let (sink, reader) = completions();
        (reader, self.start_with_sink(|_, _| Box::new(sink)))
    }

    pub(crate) fn start_with_sink(self, sink: impl FnOnce(usize, Arc<Panics>) -> Box<dyn Sink<T, R>>) -> RunningJob {
        let runtime = Runtime::current();
        let workers = self.total_workers();
        let sizes = LaneKind::ALL.map(|lane| self.lane_size(lane));
        let queue_capacity = self.queue.unwrap_or(2 * workers);
        let outbox = engine::outbox();
        let mut sizes_left = sizes.into_iter();
        let lanes: Lanes<T, R> = self.lanes.map(|make| {
            let size = sizes_left.next().unwrap_or(0);
            make.map(|make| make(&outbox, self.clock, &runtime, size))
        });
        let failures = Failures::default();
        let options = options_of(self.options, self.lane_of, self.key_of);
        let source = source(self.producers, options, queue_capacity.max(1), &failures, &runtime);
        let panics = Arc::new(Panics::default());
        let config = EngineConfig {
            gate: GateConfig {
                concurrency: self.concurrency,
                lanes: sizes,
                rate: self.rate,
                limits: self.limits,
                parking: PARKING,
                results: self.results.unwrap_or(2 * workers),
            },
            lane: self.lane,
            retry: Arc::new(self.retry),
            timeout: self.timeout,
            queue: queue_capacity,
            copy: self.copy,
            keep_payloads: self.keep,
            clock: self.clock,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..)),
            adaptive: self.adaptive,
            enough: None,
        };
        let sink = sink(self.handlers, panics.clone());
        let running = Engine::start(config, source, lanes, sink, outbox, self.events, &runtime);
        RunningJob { running, failures, panics, on_job_complete: self.on_job_complete }
    }
}

/// A lane that cannot be had: that is what each of its tasks says.
fn refusing<T: Send + 'static, R: Send + 'static>(error: TaskError, outbox: &Outbox<T, R>, clock: Clock) -> Arc<dyn Lane<T, R>> {
    let handler: SyncHandler<T, R> = Arc::new(move |_, _| Outcome::Failed(error.clone()));
    Arc::new(BlockingLane::new(handler, outbox.clone(), clock))
}

/// One function from what a job was told about its tasks: the fields that stand alone on top of the rest.
fn options_of<T: 'static>(
    all: Option<Choose<T, Options>>,
    lane: Option<Choose<T, LaneKind>>,
    key: Option<Choose<T, Arc<str>>>,
) -> Option<OptionsOf<T>> {
    if all.is_none() && lane.is_none() && key.is_none() {
        return None;
    }
    Some(Box::new(move |payload| {
        let mut options = all.as_ref().map(|all| all(payload)).unwrap_or_default();
        options.lane = lane.as_ref().map(|lane| lane(payload)).or(options.lane);
        options.key = key.as_ref().map(|key| key(payload)).or(options.key);
        Some(Box::new(options))
    }))
}

impl<T, R> Job<Parcel<T, R>, Vec<Outcome<R>>>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    /// As [`isolated`](Job::isolated), for tasks that are several items.
    pub(crate) fn isolated_parcels<F, A>(function: F, isolation: Isolation) -> Self
    where
        F: Fn(T) -> A + 'static,
        A: Answer<R>,
    {
        drop(function);
        let mut job = Self::on_lane(LaneKind::Process);
        job.lanes[LaneKind::Process as usize] = Some(Box::new(move |outbox, clock, _, workers| {
            match IsolatedLane::of_parcels::<F>(workers, isolation, outbox.clone(), clock) {
                Ok(lane) => Arc::new(lane) as Arc<dyn Lane<_, _>>,
                Err(error) => refusing(error, outbox, clock),
            }
        }));
        job
    }
}

impl<T: Send + 'static> Job<T, Output> {
    /// A job that runs a command for each parameter, as a child process of its own. A task ends well when its command ends with 0.
    ///
    /// ```
    /// use longshore_core::{Job, lane::child::Command};
    ///
    /// let job = Job::commands(|n: &u32| Command { program: "echo".into(), args: vec![n.to_string().into()], ..Command::default() });
    /// let outputs = job.params(1..=3).collect().results().expect("echo ends with 0");
    /// assert_eq!(outputs[2].stdout, b"3\n");
    /// ```
    pub fn commands(command: impl Fn(&T) -> Command + Send + Sync + 'static) -> Self {
        Self::on_lane(LaneKind::Process).on_process(command, |context, _, output| exit_outcome(output, context.timeout))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_lane_the_key_and_the_other_options_of_a_task_add_up_in_any_order() {
        let limit = Duration::from_secs(7);
        let all: Choose<u8, Options> =
            Box::new(move |_| Options { timeout: Some(limit), lane: Some(LaneKind::Blocking), ..Options::default() });
        let told = options_of(Some(all), None, Some(Box::new(|n| n.to_string().into()))).expect("something was told");
        let options = told(&3).expect("each task has options");
        assert_eq!((options.timeout, options.lane, options.key.as_deref()), (Some(limit), Some(LaneKind::Blocking), Some("3")));

        for job in [
            Job::blocking(|_: u8| Ok::<_, String>(LaneKind::Blocking)).lane_of(|_| LaneKind::Cpu).order_by(|_| "one".into()),
            Job::blocking(|_: u8| Ok::<_, String>(LaneKind::Blocking)).order_by(|_| "one".into()).lane_of(|_| LaneKind::Cpu),
        ] {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let running = Arc::new(Mutex::new(()));
            let log = seen.clone();
            let report = job
                .on_cpu(move |context, n| {
                    let _alone = running.try_lock().map_err(|_| "two tasks of one key overlap")?;
                    log.lock().unwrap().push(n);
                    Ok::<_, &str>(context.lane)
                })
                .params(0..50)
                .on_task_complete(|task| assert_eq!(task.result(), Some(&LaneKind::Cpu)))
                .run();
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(*seen.lock().unwrap(), (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_queue_holds_no_more_because_its_tasks_have_options() {
        let (sender, job) = Job::blocking(|_: u8| Ok::<_, String>(())).lane_of(|_| LaneKind::Blocking).sender(2);
        let rate = Rate { count: 1.0, per: Duration::from_secs(3600), burst: 1 };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let running = job.workers(1).queue(0).rate(rate).start();
        let mut taken = 0;
        // One runs, one waits for the gate with the free worker, two are in the queue; given time, no more.
        for _ in 0..60 {
            taken += u32::from(sender.try_send(0).is_ok());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(taken, 4);
        drop(sender);
        running.handle().drain();
        assert_eq!(runtime.block_on(running.join()).ok(), 1);
    }

    #[test]
    fn what_a_task_was_sent_with_stands_before_what_the_job_says() {
        let (sender, job) = Job::blocking(|_: u8| Ok::<_, String>(LaneKind::Blocking)).lane_of(|_| LaneKind::Blocking).sender(2);
        let job = job.on_cpu(|_, _| Ok::<_, String>(LaneKind::Cpu));
        crate::block_on::block_on(async {
            let cpu = Options { lane: Some(LaneKind::Cpu), ..Options::default() };
            sender.send_with(1, Some(cpu)).await.unwrap();
            sender.send(2).await.unwrap();
        });
        drop(sender);
        assert_eq!(job.collect().results().unwrap(), [LaneKind::Cpu, LaneKind::Blocking]);
    }
}

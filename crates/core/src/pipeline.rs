//! Pipelines: stages joined by bounded queues, each with its own lane, workers, rate and retries.
//!
//! ```text
//!  source ──▶ queue ──▶ stage 1 ──▶ queue ──▶ stage 2 ──▶ … ──▶ queue ──▶ reader
//!             16 items  workers     strictly  workers                     collect, for_each, outputs
//!                       on a lane   bounded   on a lane
//! ```
//!
//! A stage is no [`Engine`](crate::engine) of its own, on purpose. An engine hands each batch from
//! loop to lane to reporter and back, some switches of tasks that are cheap beside a crowd of
//! workers and a work queue; between stages with queues of 64 nothing amortizes them. So a stage is
//! one small loop, made of the engine's pure pieces: `decide` and the retry policy, the leaky
//! bucket, the outcomes, the places of pending futures. What the engine does for a job (limits by
//! value, keys, journals, a watchdog) a stage does not do; a stage whose function runs a
//! [`Job`](crate::Job) has it all.
//!
//! Layout:
//! - `queue.rs`: the queue between two stages; `exit.rs`: the way into it, whole or taken apart
//! - `stage.rs`: what a user says of a stage; `post.rs`: what its workers share, and what becomes
//!   of a failure
//! - `threads.rs`: workers on the blocking and cpu lanes (`threads/outlet.rs` puts their outputs in
//!   order, `threads/runner.rs` ends attempts on time)
//! - `tasks.rs`: workers on the async lane (`tasks/line.rs` puts their outputs in order,
//!   `tasks/polls.rs` polls their futures)
//! - `parts.rs`: source, groups, branches; `crew.rs`: all that lives on the runtime, as one task
//! - `run.rs`: a running pipeline, its stop and its end; `meter.rs`, `report.rs`: what it did and
//!   what held it up; `view.rs`; `outputs.rs`: its reader

mod crew;
mod exit;
mod meter;
mod outputs;
mod parts;
mod post;
mod queue;
mod report;
mod run;
mod stage;
mod tasks;
mod threads;
mod view;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use tokio::runtime::Handle as Runtime;

use crate::{
    cancel::CancelToken,
    clock::Clock,
    job::on_own_runtime,
    lane::panic_text,
    retry::RetryPolicy,
    source::{
        Source,
        iter::StreamSource,
        queue::{Sender, queue as source_queue},
    },
    task::LaneKind,
};
use crew::StageCrew;
use exit::{Door, door};
use meter::Meter;
use post::{Post, Rules};
use queue::StageQueue;
use run::{PipelinePart, PipelineRun};
use stage::{QUEUE, Setup};

pub use meter::Kind;
pub use outputs::{Collected, IntoIter, Outputs};
pub use report::{Bottleneck, Report, StageReport};
pub use run::{Failure, Reporter, RunningPipeline};
pub use stage::{DeadLetter, OnError, Stage};

/// Start of a pipeline's parts.
struct Launch {
    run: Arc<PipelineRun>,
    /// Parts that shall live on the runtime.
    loops: Loops,
    clock: Clock,
    seed: u64,
    /// Number of parts that were started so far, for names and seeds.
    stages: usize,
}

/// Collects the loops of a pipeline until it is started.
type Loops = Arc<crate::sync::Mutex<Vec<BoxFuture<'static, ()>>>>;

type Open<T> = Box<dyn FnOnce(&mut Launch, Door<T>) + Send>;

/// Stages joined by bounded queues: what comes out of one goes into the next.
///
/// A pipeline ends when its source has ended and everything has gone through: no item is lost at
/// the end, and none has to say that it is the last. When a stage is slower than the others, its
/// queue fills, the stage before it waits, and so on up to the source, so memory does not grow with
/// the work. The [`Report`] names the stage that the others wait for.
///
/// ```
/// use longshore_core::{Pipeline, RetryPolicy, Stage};
///
/// let load = Stage::blocking(|n: u32| Ok::<_, String>(vec![n; 3])).name("load").workers(2).queue(3);
/// let sum = Stage::cpu(|numbers: Vec<u32>| Ok::<_, String>(numbers.iter().sum::<u32>())).name("sum");
/// let store = Stage::new(|sum: u32| async move { Ok::<_, String>(format!("{sum} stored")) }).name("store").workers(8).retry(RetryPolicy::times(2));
///
/// let collected = Pipeline::from_iter(1..=3).stage(load).stage(sum).stage(store).collect();
/// assert_eq!(collected.outputs, ["3 stored", "6 stored", "9 stored"]);
/// println!("{}", collected.report); // a line for each stage, and the bottleneck
/// ```
///
/// It runs from anywhere: [`run`](Pipeline::run), [`collect`](Pipeline::collect),
/// [`for_each`](Pipeline::for_each) and iterating over it block the thread and bring their own
/// runtime; [`start`](Pipeline::start), [`start_collecting`](Pipeline::start_collecting) and
/// [`outputs`](Pipeline::outputs) use the runtime that is there.
///
/// # When an item fails
///
/// A function that returns an error, panics or passes its timeout has failed; it is tried again if
/// the stage has a retry policy. What fails for good stops the pipeline, is skipped, or becomes a
/// dead letter ([`Stage::on_error`], [`Stage::dead_letter`]). When a pipeline stops, nothing new
/// starts, what runs ends, and what has left the last stage can still be read; the rest is counted
/// in the report and dropped.
#[must_use = "a pipeline does nothing until it is run"]
pub struct Pipeline<T> {
    open: Open<T>,
    settings: Settings,
}

#[derive(Clone)]
struct Settings {
    clock: Clock,
    seed: Option<u64>,
    output_queue: usize,
    cancel: Option<CancelToken>,
}

impl Settings {
    fn new() -> Self {
        Self { clock: Clock::SYSTEM, seed: None, output_queue: QUEUE, cancel: None }
    }
}

impl<T: Send + 'static> Pipeline<T> {
    /// A pipeline of the items of this iterator, which is lazy and, if it likes, without end. It is
    /// asked on the runtime's threads as long as it is quick, else on a thread of its own; one that
    /// knows nothing of its length (a channel, the lines of a pipe) from the beginning.
    ///
    /// A quick iterator that knows its length is asked for several items at a time. One whose next
    /// item waits for an output of this very pipeline must not be asked so: give it as a
    /// [`std::iter::from_fn`], or send its items ([`from_sender`](Pipeline::from_sender)).
    #[expect(clippy::should_implement_trait, reason = "it is collected into nothing, and needs an iterator that can go to another thread")]
    pub fn from_iter<I>(items: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        let items = items.into_iter();
        Self::from_part(move |exit, post| parts::iterate(items, exit, post))
    }

    /// A pipeline of the items of this stream.
    ///
    /// ```
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let letters = futures_util::stream::iter(["a", "b"]);
    /// let collected = Pipeline::from_stream(letters).stage(Stage::blocking(|s: &str| Ok::<_, String>(s.to_uppercase()))).collect();
    /// assert_eq!(collected.outputs, ["A", "B"]);
    /// ```
    pub fn from_stream(items: impl Stream<Item = T> + Send + 'static) -> Self {
        Self::from_source(Box::new(StreamSource::new(items.boxed(), None)), false)
    }

    /// A pipeline of what is sent: clone the sender for further producers. The source has ended
    /// when all senders are dropped. An item counts as settled ([`Sender::drained`]) when it has
    /// gone to the first stage.
    ///
    /// ```
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let (sender, pipeline) = Pipeline::from_sender(4);
    /// let producer = std::thread::spawn(move || (0..100).for_each(|n: u32| sender.blocking_send(n).unwrap()));
    /// let report = pipeline.stage(Stage::blocking(|n: u32| Ok::<_, String>(n))).run();
    /// producer.join().unwrap();
    /// assert_eq!(report.outputs, 100);
    /// ```
    pub fn from_sender(capacity: usize) -> (Sender<T>, Self) {
        let (sender, source) = source_queue(capacity);
        (sender, Self::from_source(Box::new(source), true))
    }

    fn from_source(source: Box<dyn Source<T>>, settles: bool) -> Self {
        Self::from_part(move |exit, post| parts::feed(source, settles, exit, post))
    }

    fn from_part<Fut>(part: impl FnOnce(Box<dyn exit::Exit<T>>, Arc<Post<T>>) -> Fut + Send + 'static) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let open: Open<T> = Box::new(move |launch, door| {
            let meter = Arc::new(Meter::new("source".to_owned(), Kind::Source, 1, 0, false));
            launch.run.add_stage::<T>(meter.clone(), None);
            let exit = door(&meter);
            // The source has no queue in front; this one is never used.
            let post = launch.post(meter, StageQueue::new(1, 0, None), Rules::plain(OnError::Stop));
            launch.spawn(&post.clone(), part(exit, post));
        });
        Self { open, settings: Settings::new() }
    }

    /// Several pipelines into one: fan-in. Items come as they come; each pipeline keeps its own
    /// order. Settings are those of the first.
    ///
    /// ```
    /// use longshore_core::Pipeline;
    ///
    /// let merged = Pipeline::merge([Pipeline::from_iter(0..5), Pipeline::from_iter(5..10)]);
    /// let mut outputs = merged.collect().outputs;
    /// outputs.sort_unstable();
    /// assert_eq!(outputs, (0..10).collect::<Vec<_>>());
    /// ```
    pub fn merge(pipelines: impl IntoIterator<Item = Pipeline<T>>) -> Self {
        let mut settings = None;
        let opens: Vec<Open<T>> = pipelines
            .into_iter()
            .map(|pipeline| {
                settings.get_or_insert(pipeline.settings);
                pipeline.open
            })
            .collect();
        let open: Open<T> = Box::new(move |launch, door| opens.into_iter().for_each(|open| open(launch, door.clone())));
        Self { open, settings: settings.unwrap_or_else(Settings::new) }
    }

    /// Adds a stage.
    pub fn stage<U: Send + 'static>(self, stage: Stage<T, U>) -> Pipeline<U> {
        let Self { open, settings } = self;
        let open: Open<U> = Box::new(move |launch, door| {
            let Stage { name, lane, workers, queue, ordered, rate, rules, start } = stage;
            let window = (ordered && workers > 1 && lane != LaneKind::Async).then_some(workers + queue);
            let takers = if lane == LaneKind::Async { 1 } else { workers };
            let input = StageQueue::new(queue, takers, window);
            open(launch, exit::door(input.clone()));
            let meter = launch.meter(name, Kind::Lane(lane), workers, queue, rate.is_some());
            launch.run.add_stage(meter.clone(), Some(input.clone()));
            let post = launch.post(meter, input, rules);
            start(Setup { post, loops: launch.loops.clone(), lane, workers, ordered, rate }, door);
        });
        Pipeline { open, settings }
    }

    /// Groups items: so many of them, or those that came within this time after the first of a
    /// group. The last group may be smaller.
    ///
    /// ```
    /// use std::time::Duration;
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let insert = Stage::blocking(|rows: Vec<u32>| Ok::<_, String>(rows.len())).name("insert");
    /// let collected = Pipeline::from_iter(0..10).batch(4, Duration::from_secs(1)).stage(insert).collect();
    /// assert_eq!(collected.outputs, [4, 4, 2]);
    /// ```
    pub fn batch(self, size: usize, within: Duration) -> Pipeline<Vec<T>> {
        let Self { open, settings } = self;
        let size = size.max(1);
        let open: Open<Vec<T>> = Box::new(move |launch, door| {
            let input = StageQueue::new(size, 1, None);
            open(launch, exit::door(input.clone()));
            let meter = launch.meter(Some("batch".to_owned()), Kind::Batch, 1, size, false);
            launch.run.add_stage(meter.clone(), Some(input.clone()));
            let exit = door(&meter);
            let post = launch.post(meter, input, Rules::plain(OnError::Stop));
            launch.spawn(&post.clone(), parts::group(post, exit, size, within));
        });
        Pipeline { open, settings }
    }

    /// Sends each item to one of several branches, the one whose place `choose` names, and joins
    /// them again: fan-out and fan-in. Each branch keeps its order; what comes out of different
    /// branches comes as it comes. An item that waits for a full branch holds up those behind it.
    ///
    /// A place beyond the last branch, or a `choose` that panics, stops the pipeline.
    ///
    /// ```
    /// use longshore_core::{Pipeline, Stage, pipeline::Branch};
    ///
    /// let small: Branch<u64, u64> = Box::new(|items| items.stage(Stage::new(|n: u64| async move { Ok::<_, String>(n) }).workers(4)));
    /// let large: Branch<u64, u64> = Box::new(|items| items.stage(Stage::cpu(|n: u64| Ok::<_, String>((1..=n).sum()))));
    /// let collected = Pipeline::from_iter([1, 100, 2]).route(|n| usize::from(*n > 10), [small, large]).collect();
    /// let mut outputs = collected.outputs;
    /// outputs.sort_unstable();
    /// assert_eq!(outputs, [1, 2, 5050]);
    /// ```
    pub fn route<U: Send + 'static>(
        self,
        choose: impl Fn(&T) -> usize + Send + 'static,
        branches: impl IntoIterator<Item = Branch<T, U>>,
    ) -> Pipeline<U> {
        let Self { open, settings } = self;
        let branches: Vec<_> = branches.into_iter().collect();
        let open: Open<U> = Box::new(move |launch, join| {
            let input = StageQueue::new(QUEUE, 1, None);
            open(launch, exit::door(input.clone()));
            let meter = launch.meter(Some("route".to_owned()), Kind::Route, 1, QUEUE, false);
            launch.run.add_stage(meter.clone(), Some(input.clone()));
            // A branch is a pipeline whose source is the router: opening it makes the way into its
            // first queue.
            let ways: Arc<crate::sync::Mutex<Vec<Box<dyn exit::Exit<T>>>>> = Arc::default();
            for branch in branches {
                let (ways, meter) = (ways.clone(), meter.clone());
                let head: Open<T> = Box::new(move |_, door| ways.lock().push(door(&meter)));
                let branch = branch(Pipeline { open: head, settings: Settings::new() });
                (branch.open)(launch, join.clone());
            }
            let exits = std::mem::take(&mut *ways.lock());
            let post = launch.post(meter, input, Rules::plain(OnError::Stop));
            launch.spawn(&post.clone(), parts::route(post, exits, choose));
        });
        Pipeline { open, settings }
    }

    /// Capacity of the queue behind the last stage, in front of the reader. Default 16.
    pub fn output_queue(mut self, capacity: usize) -> Self {
        self.settings.output_queue = capacity.max(1);
        self
    }

    /// Cancels the pipeline when this token is: see [`Reporter::cancel`].
    ///
    /// ```
    /// use longshore_core::{CancelToken, Pipeline, Stage};
    ///
    /// let token = CancelToken::new();
    /// let enough = token.clone();
    /// let endless = Pipeline::from_iter(0_u64..).stage(Stage::blocking(move |n| {
    ///     if n == 1000 { enough.cancel() }
    ///     Ok::<_, String>(n)
    /// }));
    /// let report = endless.cancel_with(&token).run();
    /// assert!(report.cancelled && report.stages[1].counts.ok > 1000);
    /// ```
    pub fn cancel_with(mut self, token: &CancelToken) -> Self {
        self.settings.cancel = Some(token.clone());
        self
    }

    /// The clock of the pipeline, and the seed of its jitter.
    pub fn clock(mut self, clock: Clock, seed: u64) -> Self {
        (self.settings.clock, self.settings.seed) = (clock, Some(seed));
        self
    }

    /// Runs the pipeline and blocks until it is done; its outputs are dropped. Callable from
    /// anywhere: where an async runtime already runs on this thread the pipeline gets threads of
    /// its own (but the thread is blocked; in async code prefer [`start`](Pipeline::start)).
    pub fn run(self) -> Report {
        on_own_runtime(move || async move { self.start().join().await })
    }

    /// Runs the pipeline and blocks until it is done; returns its outputs. Callable from anywhere,
    /// as [`run`](Pipeline::run).
    pub fn collect(self) -> Collected<T> {
        on_own_runtime(move || async move { self.start_collecting().await })
    }

    /// Runs the pipeline and blocks until it is done; calls `with` on this thread for each output,
    /// in turn. Callable from anywhere, as [`run`](Pipeline::run), but then on another thread.
    ///
    /// ```
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let mut sum = 0;
    /// let report = Pipeline::from_iter(0..10).stage(Stage::blocking(|n: u32| Ok::<_, String>(n * n))).for_each(|square| sum += square);
    /// assert_eq!((sum, report.outputs), (285, 10));
    /// ```
    pub fn for_each(self, with: impl FnMut(T) + Send) -> Report {
        on_own_runtime(move || async move {
            let (mut outputs, running) = self.outputs();
            outputs.drain(with).await;
            running.join().await
        })
    }

    /// Starts the pipeline on the current runtime; its outputs are dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime; there use [`run`](Pipeline::run).
    pub fn start(self) -> RunningPipeline {
        self.start_for_each(drop)
    }

    /// Starts the pipeline on the current runtime; the future resolves to its outputs. Dropping the
    /// future cancels the pipeline.
    ///
    /// # Panics
    /// Outside of a tokio runtime; there use [`collect`](Pipeline::collect).
    pub fn start_collecting(self) -> impl Future<Output = Collected<T>> + Send {
        let all = Arc::new(crate::sync::Mutex::new(Vec::new()));
        let running = {
            let all = all.clone();
            self.start_for_each(move |output| all.lock().push(output))
        };
        let guard = CancelOnDrop(Some(running.reporter()));
        async move {
            let report = running.join().await;
            guard.forget();
            let outputs = std::mem::take(&mut *all.lock());
            Collected { outputs, report }
        }
    }

    /// Starts the pipeline on the current runtime; `with` is called for each output, in turn, on
    /// the runtime's threads. One that blocks belongs into a stage of its own.
    ///
    /// # Panics
    /// Outside of a tokio runtime; there use [`for_each`](Pipeline::for_each).
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let (send, receive) = std::sync::mpsc::channel();
    /// let double = Stage::new(|n: u32| async move { Ok::<_, String>(n * 2) });
    /// let running = Pipeline::from_iter(1..=3).stage(double).start_for_each(move |output| send.send(output).unwrap());
    /// assert!(running.join().await.is_clean());
    /// assert_eq!(receive.iter().collect::<Vec<_>>(), [2, 4, 6]);
    /// # });
    /// ```
    pub fn start_for_each(self, mut with: impl FnMut(T) + Send + 'static) -> RunningPipeline {
        // The reader is one of the loops: stages and reader wake each other with every batch.
        self.launch(&Runtime::current(), |mut outputs, part| {
            Some(
                async move {
                    let drained = AssertUnwindSafe(outputs.drain(&mut with)).catch_unwind().await;
                    if let Err(panic) = drained {
                        let error = crate::TaskError::new("panicked", panic_text(&*panic));
                        outputs.run().fail(Failure { stage: "reader".to_owned(), number: 0, attempts: 0, error });
                    }
                    // It has not ended before its outputs are read.
                    drop((outputs, part));
                }
                .boxed(),
            )
        })
    }

    /// Starts the pipeline on the current runtime, and returns a reader of its outputs as they
    /// come.
    ///
    /// # Panics
    /// Outside of a tokio runtime; there iterate over the pipeline.
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let (mut outputs, running) = Pipeline::from_iter(0..3).stage(Stage::new(|n: u32| async move { Ok::<_, String>(n + 1) })).outputs();
    /// let mut sum = 0;
    /// while let Some(output) = outputs.next().await {
    ///     sum += output;
    /// }
    /// assert_eq!(sum, 6);
    /// assert!(running.join().await.is_clean());
    /// # });
    /// ```
    pub fn outputs(self) -> (Outputs<T>, RunningPipeline) {
        let mut reader = None;
        let running = self.launch(&Runtime::current(), |outputs, _| {
            reader = Some(outputs);
            None
        });
        let Some(outputs) = reader else { unreachable!("it was just made") };
        (outputs, running)
    }

    /// Starts everything. The reader may become one of the loops; the pipeline does not end before
    /// its part is dropped.
    fn launch(self, runtime: &Runtime, reader: impl FnOnce(Outputs<T>, PipelinePart) -> Option<BoxFuture<'static, ()>>) -> RunningPipeline {
        let Self { open, settings } = self;
        let run = PipelineRun::new(settings.clock);
        let starting = run.part();
        let queue = StageQueue::last(settings.output_queue);
        run.set_outputs(queue.clone());
        let seed = settings.seed.unwrap_or_else(|| fastrand::u64(..));
        let loops = Loops::default();
        let mut launch = Launch { run: run.clone(), loops: loops.clone(), clock: settings.clock, seed, stages: 0 };
        open(&mut launch, door(queue.clone()));
        if let Some(token) = settings.cancel {
            let run = run.clone();
            runtime.spawn(async move {
                let cancelled = std::pin::pin!(token.cancelled());
                let ended = std::pin::pin!(run.ended());
                if let futures_util::future::Either::Left(_) = futures_util::future::select(cancelled, ended).await {
                    Reporter(run.clone()).cancel();
                }
            });
        }
        let mut loops = std::mem::take(&mut *loops.lock());
        loops.extend(reader(Outputs::new(queue, run.clone()), starting));
        runtime.spawn(StageCrew::new(loops, runtime.clone(), settings.clock));
        RunningPipeline(run)
    }
}

/// A branch of [`Pipeline::route`]: adds stages to the items that are sent to it.
pub type Branch<T, U> = Box<dyn FnOnce(Pipeline<T>) -> Pipeline<U> + Send>;

impl<T: Send + 'static> IntoIterator for Pipeline<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    /// Starts the pipeline on threads of its own, and iterates over its outputs as they come. Not
    /// for threads of an async runtime: its `next` blocks.
    ///
    /// ```
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let squares = Pipeline::from_iter(0_u64..).stage(Stage::blocking(|n: u64| Ok::<_, String>(n * n)));
    /// // Lazy: the source is without end, and the loop ends the pipeline.
    /// assert_eq!(squares.into_iter().take(5).collect::<Vec<_>>(), [0, 1, 4, 9, 16]);
    /// ```
    ///
    /// # Panics
    /// If the system has no threads left.
    fn into_iter(self) -> IntoIter<T> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("longshore")
            .build()
            .unwrap_or_else(|error| panic!("no threads for an async runtime: {error}"));
        let mut reader = None;
        self.launch(runtime.handle(), |outputs, _| {
            reader = Some(outputs);
            None
        });
        let Some(outputs) = reader else { unreachable!("it was just made") };
        IntoIter::new(outputs, runtime)
    }
}

/// Cancels a pipeline whose collected outputs nobody waits for any more.
struct CancelOnDrop(Option<Reporter>);

impl CancelOnDrop {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(reporter) = &self.0 {
            reporter.cancel();
        }
    }
}

impl Launch {
    fn meter(&mut self, name: Option<String>, kind: Kind, workers: usize, queue: usize, paced: bool) -> Arc<Meter> {
        self.stages += 1;
        Arc::new(Meter::new(name.unwrap_or_else(|| format!("stage {}", self.stages)), kind, workers, queue, paced))
    }

    fn post<T>(&self, meter: Arc<Meter>, input: Arc<StageQueue<T>>, rules: Rules<T>) -> Arc<Post<T>> {
        let seed = self.seed.wrapping_add((self.stages as u64) << 32);
        Arc::new(Post { run: self.run.clone(), meter, input, rules, clock: self.clock, seed })
    }

    /// Starts a part of the pipeline that is a task.
    fn spawn<T: Send + 'static>(&self, post: &Post<T>, work: impl Future<Output = ()> + Send + 'static) {
        let (part, mut guard) = (self.run.part(), post.guard());
        let work = async move {
            work.await;
            guard.done();
            drop(guard);
            drop(part);
        };
        self.loops.lock().push(work.boxed());
    }
}

impl<T> Rules<T> {
    fn plain(on_error: OnError) -> Self {
        Self { retry: RetryPolicy::NONE, timeout: None, on_error, dead_letter: None, copy: None }
    }
}

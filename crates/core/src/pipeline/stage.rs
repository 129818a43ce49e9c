//! One stage of a pipeline, as its user describes it.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    error::TaskError,
    gate::pace::Rate,
    lane::{Context, IntoOutcome, SyncHandler},
    pipeline::{
        Loops,
        exit::{Door, flat_door},
        post::{Post, Rules},
        tasks, threads,
    },
    retry::RetryPolicy,
    task::LaneKind,
};

/// Items that wait in front of a stage, unless it is told otherwise.
pub(super) const QUEUE: usize = 16;

/// Effect of an item that failed on its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnError {
    /// It stops it: nothing new starts, what runs ends, and the report names stage, item and error.
    #[default]
    Stop,
    /// It is left out and counted; the first one stands in the stage's report.
    Skip,
}

/// An item that failed for good, given to [`Stage::dead_letter`].
#[derive(Clone, Debug)]
pub struct DeadLetter<T> {
    /// The item; always there.
    pub item: Option<T>,
    /// The stage's name.
    pub stage: String,
    /// The number of the source's item that it comes from, from 1.
    pub number: u64,
    /// Attempts that were made.
    pub attempts: u32,
    /// Its error.
    pub error: TaskError,
}

/// Function that starts a stage.
pub(super) struct Setup<T> {
    pub(super) post: Arc<Post<T>>,
    pub(super) loops: Loops,
    pub(super) lane: LaneKind,
    pub(super) workers: usize,
    pub(super) ordered: bool,
    pub(super) rate: Option<Rate>,
}

pub(super) type Start<T, U> = Box<dyn FnOnce(Setup<T>, Door<U>) + Send>;

/// One stage: a function, the lane it runs on, and how.
///
/// | | default |
/// |---|---|
/// | workers | 1: an assembly line has one at each place |
/// | queue in front of it | 16 items |
/// | order | outputs in the order of the inputs, however many workers |
/// | retries, rate, timeout | none |
/// | an item that fails | stops the pipeline |
///
/// ```
/// use longshore_core::{OnError, Pipeline, Stage};
///
/// let words = Pipeline::from_iter(["3", "four", "5"])
///     .stage(Stage::blocking(|word: &str| word.parse::<u32>().map_err(|error| error.to_string())).name("parse").on_error(OnError::Skip))
///     .stage(Stage::new(|n: u32| async move { Ok::<_, String>(n * n) }).name("square").workers(4))
///     .collect();
/// assert_eq!(words.outputs, [9, 25]);
/// assert_eq!(words.report.stage("parse").unwrap().counts.failed, 1);
/// ```
#[must_use = "a stage does nothing until it is part of a pipeline"]
pub struct Stage<T, U> {
    pub(super) name: Option<String>,
    pub(super) lane: LaneKind,
    pub(super) workers: usize,
    pub(super) queue: usize,
    pub(super) ordered: bool,
    pub(super) rate: Option<Rate>,
    pub(super) rules: Rules<T>,
    pub(super) start: Start<T, U>,
}

impl<T: Send + 'static, U: Send + 'static> Stage<T, U> {
    /// A stage that runs an async function on the async lane: for work that waits. Its futures are
    /// polled by one task, so a function that computes or blocks belongs to [`cpu`](Stage::cpu) or
    /// [`blocking`](Stage::blocking).
    pub fn new<F, Fut, A>(function: F) -> Self
    where
        F: Fn(T) -> Fut + Send + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: IntoOutcome<U> + 'static,
    {
        Self::of(LaneKind::Async, Box::new(move |setup, door| tasks::start(setup, &door, function)))
    }

    /// A stage that runs a plain function on the blocking lane: a thread of its own for each
    /// worker.
    pub fn blocking<F, A>(function: F) -> Self
    where
        F: Fn(T) -> A + Send + Sync + 'static,
        A: IntoOutcome<U>,
    {
        Self::blocking_with_context(move |_, item| function(item))
    }

    /// A stage that runs a plain function on the cpu lane: a thread for each worker, at a lower
    /// priority, so that computing keeps nobody from being on time. More workers than cores bring
    /// nothing.
    pub fn cpu<F, A>(function: F) -> Self
    where
        F: Fn(T) -> A + Send + Sync + 'static,
        A: IntoOutcome<U>,
    {
        Self::cpu_with_context(move |_, item| function(item))
    }

    /// As [`blocking`](Stage::blocking), for a function that wants to know its attempt. The
    /// context's `id` is the number of the source's item; its token says that the attempt timed out
    /// or that the pipeline was cancelled.
    pub fn blocking_with_context<F, A>(function: F) -> Self
    where
        F: Fn(&Context, T) -> A + Send + Sync + 'static,
        A: IntoOutcome<U>,
    {
        Self::on_threads(LaneKind::Blocking, Arc::new(move |context, item| function(context, item).into_outcome()))
    }

    /// As [`cpu`](Stage::cpu), for a function that wants to know its attempt.
    ///
    /// ```
    /// use longshore_core::{Context, Pipeline, Stage};
    ///
    /// // A long computation that ends when nobody wants its result any more.
    /// let sum = |context: &Context, n: u64| (0..n).try_fold(0, |sum, i| if context.cancel.is_cancelled() { Err("cancelled") } else { Ok(sum + i) });
    /// let sums = Pipeline::from_iter([10, 100]).stage(Stage::cpu_with_context(sum)).collect();
    /// assert_eq!(sums.results().unwrap(), [45, 4950]);
    /// ```
    pub fn cpu_with_context<F, A>(function: F) -> Self
    where
        F: Fn(&Context, T) -> A + Send + Sync + 'static,
        A: IntoOutcome<U>,
    {
        Self::on_threads(LaneKind::Cpu, Arc::new(move |context, item| function(context, item).into_outcome()))
    }

    fn on_threads(lane: LaneKind, handler: SyncHandler<T, U>) -> Self {
        Self::of(lane, Box::new(move |setup, door| threads::start(setup, &door, &handler)))
    }

    fn of(lane: LaneKind, start: Start<T, U>) -> Self {
        Self { name: None, lane, workers: 1, queue: QUEUE, ordered: true, rate: None, rules: Rules::plain(OnError::Stop), start }
    }

    /// Its name in reports and errors; otherwise `stage` and its place.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how many items it works on at once. Default 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Most items that wait in front of it; at least 1. When they are so many, the stage before
    /// waits.
    ///
    /// A stage has in hand, besides, one item for each worker, and, while its items take less than
    /// about 10 µs, up to as many more as its queue holds (64 at most) for each worker. One that
    /// keeps the order with several workers holds up to `workers + queue` outputs back, until it is
    /// their turn.
    pub fn queue(mut self, capacity: usize) -> Self {
        self.queue = capacity.max(1);
        self
    }

    /// Outputs go on as they come, whatever the order of the inputs: one that takes long holds up
    /// none behind it.
    ///
    /// ```
    /// # use longshore_core::{Pipeline, Stage};
    /// let collected = Pipeline::from_iter(0..100).stage(Stage::blocking(|n: u32| Ok::<_, String>(n)).workers(4).unordered()).collect();
    /// let mut outputs = collected.outputs;
    /// outputs.sort_unstable();
    /// assert_eq!(outputs, (0..100).collect::<Vec<_>>());
    /// ```
    pub fn unordered(mut self) -> Self {
        self.ordered = false;
        self
    }

    /// The pace of starts, over all its workers: a leaky bucket. Attempts count, so retries keep to
    /// it too.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Sets when a failed item is tried again. Each attempt gets a copy. An item that waits for its
    /// next attempt keeps its worker: behind it the line waits, as it must where order counts, and
    /// nothing piles up.
    pub fn retry(mut self, policy: RetryPolicy) -> Self
    where
        T: Clone,
    {
        self.rules.retry = policy;
        self.rules.copy = Some(T::clone);
        self
    }

    /// The limit of one attempt. An async function is dropped. On the blocking lane the attempt
    /// ends on time, its token is cancelled, and its thread is left to itself and replaced (four
    /// threads for each worker may be left so; then the stage waits for one). On the cpu lane the
    /// attempt has timed out when its function returns too late.
    ///
    /// ```
    /// use std::time::Duration;
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let stuck = Stage::new(|n: u32| async move { if n == 3 { std::future::pending().await } else { Ok::<_, String>(n) } });
    /// let report = Pipeline::from_iter(1..5).stage(stuck.name("call").timeout(Duration::from_millis(20))).run();
    /// assert_eq!(report.failure.unwrap().to_string(), "stage `call`, item 3: timeout: no end within 20ms");
    /// ```
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.rules.timeout = Some(limit);
        self
    }

    /// Sets what an item that failed does to the pipeline. Default: it stops it.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.rules.on_error = on_error;
        self
    }

    /// Items that fail for good are given to this callback, with a copy of the item, and the
    /// pipeline goes on. It is called by the stage's worker; one that blocks holds that up. If it
    /// panics, the pipeline stops.
    ///
    /// ```
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let (letters, read) = std::sync::mpsc::channel();
    /// let even = |n: u32| if n % 2 == 0 { Ok(n) } else { Err("odd") };
    /// let collected = Pipeline::from_iter(1..=4)
    ///     .stage(Stage::blocking(even).dead_letter(move |letter| letters.send((letter.number, letter.item)).unwrap()))
    ///     .collect();
    /// assert_eq!(collected.outputs, [2, 4]);
    /// assert_eq!(read.iter().collect::<Vec<_>>(), [(1, Some(1)), (3, Some(3))]);
    /// ```
    pub fn dead_letter(mut self, callback: impl Fn(DeadLetter<T>) + Send + Sync + 'static) -> Self
    where
        T: Clone,
    {
        self.rules.dead_letter = Some(Arc::new(callback));
        self.rules.copy = Some(T::clone);
        self
    }

    /// Takes each output apart: a stage whose function returns several results for an item, or an
    /// `Option`, hands on each by itself. The parts of an output stay together; they are taken from
    /// their iterator only as there is room.
    ///
    /// ```
    /// use longshore_core::{Pipeline, Stage};
    ///
    /// let words = Stage::blocking(|line: &str| Ok::<_, String>(line.split(' ').map(str::to_owned).collect::<Vec<_>>())).flatten();
    /// let long = Stage::blocking(|word: String| Ok::<_, String>((word.len() > 3).then_some(word))).flatten();
    /// let collected = Pipeline::from_iter(["down to the", "water line"]).stage(words).stage(long).collect();
    /// assert_eq!(collected.outputs, ["down", "water", "line"]);
    /// ```
    pub fn flatten(self) -> Stage<T, U::Item>
    where
        U: IntoIterator,
        U::Item: Send + 'static,
        U::IntoIter: Send,
    {
        let Self { name, lane, workers, queue, ordered, rate, rules, start } = self;
        let start: Start<T, U::Item> = Box::new(move |setup, door| {
            let run = setup.post.run.clone();
            start(setup, flat_door(door, run));
        });
        Stage { name, lane, workers, queue, ordered, rate, rules, start }
    }
}

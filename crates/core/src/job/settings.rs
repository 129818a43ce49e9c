//! What a job is set to: its tasks, its producers, how many at once, how fast, how long, how often,
//! and who is told.

use std::{future::Future, sync::Arc, time::Duration};

use super::{Job, Report, producers::Producer};
use crate::{
    clock::Clock,
    error::TaskError,
    event::Event,
    gate::{Limit, adaptive::Bounds, pace::Rate},
    retry::RetryPolicy,
    source::queue::{Sender, queue},
    task::{Finished, LaneKind, Options},
    watch::{Detail, Events, LabelsOf},
};
use futures_util::{FutureExt, Stream, StreamExt};

impl<T: Send + 'static, R: Send + 'static> Job<T, R> {
    /// Sets what a task wants differently from the job, told from its payload: another lane, a key,
    /// a timeout, a retry policy.
    ///
    /// [`lane_of`](Job::lane_of) and [`order_by`](Job::order_by) set their field on top of it,
    /// whichever is called first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use longshore_core::{Job, Options};
    ///
    /// // Large numbers get more time.
    /// let report = Job::new(|n: u64| async move { Ok::<_, String>(n * 2) })
    ///     .options_of(|n| Options::default().timeout(Duration::from_millis(if *n > 5 { 500 } else { 100 })))
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

    /// Adds a producer: an iterator, lazy and, if it likes, without end. It is asked on the
    /// runtime's threads as long as it is quick.
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

    /// Adds a producer: an async function with a sender. If it fails or panics, that stands in the
    /// report; the job goes on with the others.
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

    /// Adds a queue, and returns its sender: clone it for further producers. The job ends when all
    /// senders are dropped and nothing is left.
    pub fn sender(mut self, capacity: usize) -> (Sender<T>, Self) {
        let (sender, source) = queue(capacity);
        self.producers.push(Producer::Queue(source));
        (sender, self)
    }

    /// Workers of the job's lane: how many tasks run at once. Default: async 50, blocking 4 ×
    /// cores, cpu and process as many as cores.
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

    /// Lets the number of tasks that run at once find itself, between `floor` and `ceiling`: it
    /// grows as long as that serves more, and falls when the other side queues, refuses (429, 503)
    /// or fails to answer in time. [How it is found](crate::gate::adaptive). Sets the workers of
    /// the job's lane to the ceiling;
    /// [`Handle::set_concurrency`](crate::engine::Handle::set_concurrency) ends it.
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

    /// Capacity of the result queue. Default: 2 × workers. When it is full, workers wait, each with
    /// one result in its hands: while the handler takes nothing, exactly as many tasks run as there
    /// are workers and places.
    pub fn result_queue(mut self, capacity: usize) -> Self {
        self.results = Some(capacity);
        self
    }

    /// Result handlers: how many calls of `on_task_complete` there may be at once. Default 1: in
    /// turn, never overlapping.
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

    /// Sets when a failed task is tried again. Each attempt gets a copy of the payload.
    pub fn retry(mut self, policy: RetryPolicy) -> Self
    where
        T: Clone,
    {
        self.retry = policy;
        self.copy = Some(T::clone);
        self
    }

    /// The limit of one attempt. On the blocking and cpu lanes a thread cannot be ended: the
    /// attempt has its outcome on time (blocking) or when it ends (cpu), its token says so, and the
    /// thread goes on by itself.
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

    /// Called once for each finished task, by the result handler. A slow callback holds up no
    /// worker until the result queue is full; one that panics is counted in the report and stops
    /// nothing.
    pub fn on_task_complete(mut self, callback: impl Fn(&Finished<T, R>) + Send + Sync + 'static) -> Self {
        self.on_task_complete = Some(Arc::new(callback));
        self
    }

    /// Called once, when everything is done.
    pub fn on_job_complete(mut self, callback: impl FnOnce(&Report) + Send + 'static) -> Self {
        self.on_job_complete = Some(Box::new(callback));
        self
    }

    /// Adds a listener that hears everything from the first task on, and returns it. It keeps at
    /// most `capacity` events that are not read: a reader that is too slow misses some, and is told
    /// so. [`RunningJob::events`](crate::RunningJob::events) listens later.
    ///
    /// ```
    /// use longshore_core::{Job, watch::{Event, Heard}};
    ///
    /// let (mut events, job) = Job::new(|n: u32| async move { Ok::<_, String>(n) }).params(0..10).events(1_000);
    /// job.run();
    /// let ended = std::iter::from_fn(|| events.blocking_next()).filter(|heard| matches!(heard, Heard::Event(Event::Ended { .. })));
    /// assert_eq!(ended.count(), 10);
    /// ```
    pub fn events(self, capacity: usize) -> (Events<Event>, Self) {
        (self.events.listen(Detail::Tasks, capacity), self)
    }

    /// Counts ended tasks and their times by this label of theirs, told from the payload, in
    /// [`View::labels`](crate::watch::View::labels). The function is called beside the loop, once
    /// for each task that has ended; it needs the payload, so a copy of it is kept.
    ///
    /// ```
    /// use longshore_core::Job;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let job = Job::new(|city: &'static str| async move { Ok::<_, String>(city.len()) }).count_by("city", |city| city);
    /// let (sender, job) = job.sender(8);
    /// let running = job.start();
    /// for city in ["Oslo", "Bern", "Oslo"] {
    ///     sender.send(city).await.unwrap();
    /// }
    /// sender.drained().await.unwrap();
    /// let view = running.view().await.expect("it runs");
    /// let oslo = view.labels.iter().find(|label| label.value == "Oslo").unwrap();
    /// assert_eq!((oslo.kind.as_str(), oslo.counts.ok), ("city", 2));
    /// # });
    /// ```
    pub fn count_by(mut self, kind: &'static str, label: impl for<'a> Fn(&'a T) -> &'a str + Send + Sync + 'static) -> Self
    where
        T: Clone,
    {
        self.labels = Some(LabelsOf::new([kind], move |task, _| task.payload.as_ref().map(&label)));
        self.keep_params()
    }

    /// The engine's clock and the seed of its jitter.
    pub fn clock(mut self, clock: Clock, seed: u64) -> Self {
        (self.clock, self.seed) = (clock, Some(seed));
        self
    }

    /// Returns what the job is set to, defaults included, as `name value` lines.
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

    pub(super) fn lane_size(&self, lane: LaneKind) -> usize {
        if self.lanes[lane as usize].is_none() {
            return 0;
        }
        self.workers[lane as usize].unwrap_or_else(|| lane.default_workers())
    }

    pub(super) fn total_workers(&self) -> usize {
        let sum = LaneKind::ALL.into_iter().map(|lane| self.lane_size(lane)).sum();
        self.concurrency.map_or(sum, |most| most.min(sum))
    }
}

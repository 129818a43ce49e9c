//! The API that people meet first: a function, its parameters, and what to do with the results.
//!
//! `job/lanes.rs` has what it runs, `job/settings.rs` what it is set to, `job/producers.rs` what
//! fills its work queue, `job/report.rs` what it comes to.

mod lanes;
mod producers;
mod report;
mod runtime;
mod settings;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::runtime::Handle as Runtime;

use crate::{
    clock::Clock,
    engine::{self, Engine, EngineConfig, Lanes},
    event::Event,
    gate::{GateConfig, Limit, adaptive::Bounds, pace::Rate},
    lane::{Lane, Outbox},
    retry::RetryPolicy,
    sink::{
        Sink,
        callbacks::{Callbacks, OnTaskComplete, Panics, Then},
        collect::{AsCompleted, Collector, completions},
    },
    source::iter::OptionsOf,
    task::{LaneKind, Options},
    watch::{Hub, LabelsOf},
};

pub use report::{Collected, Report, RunningJob};
pub(crate) use runtime::on_own_runtime;

use producers::{Failures, Producer, source};
use report::OnJobComplete;

/// Tasks that may wait in the line of one busy lane, key or value while others pass.
const PARKING: usize = 1_000;

type Choose<T, O> = Box<dyn Fn(&T) -> O + Send + Sync>;
type MakeLane<T, R> = Box<dyn FnOnce(&Outbox<T, R>, Clock, &Runtime, usize) -> Arc<dyn Lane<T, R>> + Send>;

/// One job: a function that is run for many parameters, by a bounded crowd of workers, with results
/// handled behind a queue of their own.
///
/// Producers fill a bounded work queue; workers take tasks from it and run the function; results
/// wait in a bounded result queue for the result handler, which calls `on_task_complete` for each;
/// at the end comes `on_job_complete`. The job ends when all producers have finished and both
/// queues are empty.
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
    events: Hub<Event>,
    labels: Option<LabelsOf<T>>,
}

impl<T: Send + 'static, R: Send + 'static> Job<T, R> {
    /// Runs the job and blocks until it is done. Callable from anywhere: where an async runtime
    /// already runs on this thread the job gets threads of its own (but the thread is blocked; in
    /// async code prefer [`start`](Job::start)).
    pub fn run(self) -> Report {
        on_own_runtime(move || async move { self.start().join().await })
    }

    /// Runs the job and blocks until it is done; returns every outcome, in the order of the
    /// parameters.
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

    /// Starts the job on the current runtime; the future resolves to every outcome, in the order of
    /// the parameters.
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

    /// Starts the job on the current runtime, and returns a reader of its results as they complete.
    /// The result queue is between them: a reader that is slow makes workers wait.
    /// `on_task_complete` is not called.
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
            paused: false,
            labels: self.labels,
        };
        let sink = sink(self.handlers, panics.clone());
        let running = Engine::start(config, source, lanes, sink, outbox, self.events, &runtime);
        RunningJob { running, failures, panics, on_job_complete: self.on_job_complete }
    }
}

/// One function from what a job was told about its tasks: the fields that stand alone on top of the
/// rest.
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_lane_the_key_and_the_other_options_of_a_task_add_up_in_any_order() {
        let limit = Duration::from_secs(7);
        let all: Choose<u8, Options> = Box::new(move |_| Options::default().timeout(limit).lane(LaneKind::Blocking));
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
        // One runs, one waits for the gate with the free worker, two are in the queue; given time,
        // no more.
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
            let cpu = Options::default().lane(LaneKind::Cpu);
            sender.send_with(1, Some(cpu)).await.unwrap();
            sender.send(2).await.unwrap();
        });
        drop(sender);
        assert_eq!(job.collect().results().unwrap(), [LaneKind::Cpu, LaneKind::Blocking]);
    }
}

//! A worker: claims tasks from queues, runs them on its lanes, stores their results, acknowledges them, and answers remote control.
//!
//! Layout:
//! - `intake.rs`: from the broker to the engine; `held.rs`: what waits for its time; `suspects.rs`: what may have killed a worker
//! - `handlers.rs`: what the lanes call; `process.rs`: the process lane; `work.rs`: a claimed task on its way
//! - `verdict.rs`: how an attempt ended → what becomes of its task; `conclude.rs`: that, in Celery's words; `close.rs`: stores, sends, acknowledges
//! - `sink.rs`: the engine's sink
//! - `revoked.rs`, `notice.rs`, `shared.rs`: what the parts share; `slots.rs`: the slots of lanes, and autoscale
//! - `control.rs`, `events.rs`: remote control and events; `mingle.rs`: what was called off before

mod close;
mod conclude;
mod control;
mod events;
mod handlers;
mod held;
mod intake;
mod mingle;
mod notice;
mod process;
mod revoked;
mod shared;
mod sink;
mod slots;
mod suspects;
mod verdict;
mod work;

use std::{sync::Arc, time::Duration};

use longshore_brokers::{Broker, BrokerError, OpenOptions, ResultBackend, connect_with};
use longshore_core::{
    CancelToken, Isolation, LaneKind, RetryPolicy,
    engine::{self, Engine, EngineConfig, Handle, Lanes, Running},
    gate::GateConfig,
    lane::{Stop, async_::AsyncLane, blocking::BlockingLane, cpu::CpuLane},
    watch::Hub,
};
use tokio::{runtime::Handle as Runtime, task::JoinHandle};

pub use notice::{Notice, What};
pub use slots::Autoscale;

use self::{
    close::Closer, control::Control, events::Events, handlers::Starter, intake::Intake, process::ProcessLane, shared::Shared,
    sink::Results, slots::Slots, work::Ticket,
};
use crate::{app::App, client::Client};

/// How a worker is set up. The defaults serve the app's default queue on all lanes.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// Its name; `name@host`.
    pub node: String,
    /// The queues that it serves.
    pub queues: Vec<String>,
    /// The slots of each lane, by `lane as usize`.
    pub lanes: [usize; 4],
    /// Lets the slots of some lanes follow the load; they begin with the fewest.
    pub autoscale: Option<Autoscale>,
    /// A child process of functions of this program is replaced after so many tasks.
    pub max_tasks_per_child: Option<u32>,
    /// It is replaced, after the task that it runs, when it holds more memory than this, in bytes.
    pub max_memory_per_child: Option<u64>,
    /// Most claimed tasks that wait for a slot, so that tasks for other lanes pass those for a full one.
    pub parking: usize,
    /// Most tasks that it has at once, whether they run, wait for a slot or are not read yet; also fewer than it has slots. What it holds for its time does not
    /// count, however much that is.
    pub prefetch: Option<usize>,
    /// How long what it holds stays its own without a sign of life.
    pub lease: Duration,
    /// After this time Celery's own workers take what nobody acknowledged: at most the shortest of any Celery on the database.
    pub visibility_timeout: Duration,
    /// How long running tasks may go on after a stop.
    pub grace: Duration,
    /// Whether it tells monitors of tasks from the start (`-E`); they can ask for it at any time.
    pub events: bool,
    /// Whether it answers remote control and sends its heartbeat.
    pub remote_control: bool,
    /// Called with what happens to tasks, in batches. Must not block.
    pub listeners: Vec<Arc<dyn Fn(&[Notice]) + Send + Sync>>,
}

impl WorkerOptions {
    /// The defaults of a worker with this name: 200 slots on the async lane, 32 on the blocking lane, as many as cores on the others; a lease of 5 s, a
    /// visibility timeout of one hour, a grace of 30 s.
    pub fn new(node: impl Into<String>) -> Self {
        let cores = LaneKind::Cpu.default_workers();
        Self {
            node: node.into(),
            queues: Vec::new(),
            lanes: [200, 32, cores, cores],
            autoscale: None,
            max_tasks_per_child: None,
            max_memory_per_child: None,
            parking: 100,
            prefetch: None,
            lease: Duration::from_secs(5),
            visibility_timeout: Duration::from_secs(3600),
            grace: Duration::from_secs(30),
            events: false,
            remote_control: true,
            listeners: Vec::new(),
        }
    }
}

/// A worker that runs. Dropping it leaves it running; [`join`](Self::join) waits for its end.
pub struct Worker {
    shared: Arc<Shared>,
    intake: Arc<Intake>,
    engine: Handle,
    running: Running,
    grace: Duration,
    over: tokio::sync::watch::Sender<bool>,
    beat: Option<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    scaling: Option<JoinHandle<()>>,
}

/// What a worker has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerSummary {
    /// Tasks with a result.
    pub ok: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Tasks that were sent again.
    pub retried: u64,
    /// Tasks that were revoked or expired.
    pub revoked: u64,
    /// Dead letters made.
    pub dead: u64,
    /// Results that came too late and were refused.
    pub late: u64,
    /// Tasks handed back unfinished.
    pub handed_back: u64,
    /// Tasks that nobody knows of any more: acknowledged before their end, and neither that end nor that they did not end could be told.
    pub lost: u64,
    /// Tasks that the broker could not be told of, done or not: it takes them for running, and they come again when the lease is over.
    pub untold: u64,
    /// Why it ended, if not because it was told to.
    pub error: Option<String>,
}

impl Worker {
    /// Connects, and begins to serve. Runs on the current tokio runtime.
    ///
    /// # Errors
    /// The broker or the result backend cannot be reached, or refuses us.
    pub async fn start(app: App, options: WorkerOptions) -> Result<Self, BrokerError> {
        let settings = app.settings();
        let told = app.told.clone().unwrap_or_else(|| Arc::new(|_: &str| {}));
        let (broker, results) = connect_with(&settings.broker, settings.results.as_deref(), told)?;
        Self::over(app, options, broker, results).await
    }

    /// Begins to serve, over connections that are there already. Runs on the current tokio runtime.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    /// Not cancel safe: what is dropped in the middle may have opened its consumer.
    pub async fn over(
        app: App,
        options: WorkerOptions,
        broker: Arc<dyn Broker>,
        results: Arc<dyn ResultBackend>,
    ) -> Result<Self, BrokerError> {
        let runtime = Runtime::current();
        let settings = app.settings().clone();
        let environment = app.environment;
        let queues = if options.queues.is_empty() { vec![settings.default_queue.clone()] } else { options.queues.clone() };
        let early = app.is_early();
        let open = OpenOptions {
            queues: queues.iter().map(|queue| Arc::from(queue.as_str())).collect(),
            lease: options.lease,
            visibility_timeout: options.visibility_timeout,
            node: options.node.clone(),
            early,
        };
        let consumer = broker.open(open).await?;
        let one_store = broker.is_store_of(settings.results.as_deref().unwrap_or(&settings.broker));
        let client = Client::over(&app, broker.clone(), results.clone());
        let node = Arc::from(options.node.as_str());
        let shared = Arc::new(Shared::new(Arc::new(app), node, client, broker, consumer, results, one_store));
        shared.call_off(&shared.broker.revoked().await?);
        for listener in options.listeners {
            shared.board.listen(listener);
        }
        let closer = Arc::new(Closer::new(shared.clone()));
        let intake = Arc::new(Intake::new(shared.clone(), closer.clone(), early, options.prefetch));
        let (acks, acknowledge) = tokio::sync::mpsc::unbounded_channel();
        runtime.spawn(sink::acknowledge_early(shared.clone(), acknowledge));
        let starter = Starter { shared: shared.clone(), early: acks, runtime: runtime.clone() };

        let outbox = engine::outbox();
        let clock = environment.clock;
        // As many children as there may ever be; how many there are is the gate's business.
        let mut sizes = options.lanes;
        let mut children = sizes[LaneKind::Process as usize];
        if let Some(scale) = &options.autoscale {
            scale.lanes.iter().for_each(|lane| sizes[*lane as usize] = scale.min.max(1));
            children = children.max(scale.max);
        }
        let mut isolation = Isolation::default();
        (isolation.max_tasks, isolation.max_size) = (options.max_tasks_per_child, options.max_memory_per_child);
        let on_runtime = || Arc::new(AsyncLane::new(starter.clone().on_async(), outbox.clone(), clock, &runtime));
        let lanes: Lanes<Ticket, work::Answer> = if environment.threads {
            [
                Some(on_runtime()),
                Some(Arc::new(BlockingLane::new(starter.clone().on_thread(), outbox.clone(), clock))),
                Some(Arc::new(CpuLane::new(starter.clone().on_thread(), options.lanes[LaneKind::Cpu as usize], outbox.clone(), clock))),
                Some(Arc::new(ProcessLane::new(starter.clone(), children, isolation, outbox.clone(), clock))),
            ]
        } else {
            [Some(on_runtime()), Some(on_runtime()), Some(on_runtime()), Some(on_runtime())]
        };
        let config = EngineConfig {
            gate: GateConfig {
                concurrency: None,
                lanes: sizes,
                rate: None,
                limits: Vec::new(),
                parking: options.parking,
                results: 2 * options.lanes.iter().sum::<usize>().max(sizes.iter().sum()),
            },
            lane: LaneKind::Async,
            // A task queue's task is sent again with its next attempt; the engine sees each attempt as a task.
            retry: Arc::new(RetryPolicy::NONE),
            timeout: None,
            queue: 0,
            copy: Some(Ticket::clone),
            keep_payloads: true,
            clock,
            seed: (environment.random)(),
            adaptive: None,
            enough: None,
            labels: None,
        };
        // Before the first claim; autoscale's bounds follow with `Slots`.
        shared.hands.set_slots(sizes);
        let sink = Results::new(shared.clone(), closer);
        let running = Engine::start(config, intake.clone(), lanes, Box::new(sink), outbox, Hub::new(), &runtime);
        let engine = running.handle();
        let slots = Arc::new(Slots::new(engine.clone(), shared.clone(), sizes, options.autoscale));
        let scaling = slots.scale().map(|_| runtime.spawn(slots.clone().follow(shared.clone())));
        let (over, ended) = tokio::sync::watch::channel(false);
        let mut beat = None;
        let mut control = None;
        if options.remote_control {
            let (events, sender) = Events::start(shared.clone(), options.events, ended);
            let stopper = Stopper::new(&engine, &runtime, options.grace, &shared);
            let (parking, prefetch) = (options.parking, options.prefetch);
            let own = Control { shared: shared.clone(), intake: intake.clone(), events, stopper, slots, parking, prefetch };
            control = Some(runtime.spawn(own.serve()));
            beat = Some(sender);
        }
        Ok(Self { shared, intake, engine, running, grace: options.grace, over, beat, control, scaling })
    }

    /// A handle that stops it, from anywhere.
    pub fn stopper(&self) -> Stopper {
        Stopper::new(&self.engine, &Runtime::current(), self.grace, &self.shared)
    }

    /// Cancelled when it begins to stop: somebody has asked for it, here or by remote control, or its broker is gone for good.
    pub fn stopping(&self) -> CancelToken {
        self.shared.stopping.clone()
    }

    /// Messages that it holds for their time.
    pub fn held(&self) -> usize {
        self.intake.held_count()
    }

    /// Waits for its end, hands back what is left, and gives up its lease. A broker that is away, or a thread that cannot be ended, is waited for no longer than
    /// fifteen seconds after the grace period; what the broker could not be told of by then is [counted](WorkerSummary::untold).
    pub async fn join(self) -> WorkerSummary {
        let Self { shared, intake, running, over, beat, control, scaling, .. } = self;
        let given_up = async {
            shared.dropped.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        let ended = tokio::select! {
            summary = running.join() => Some(summary.error),
            () = given_up => None,
        };
        [control, scaling].into_iter().flatten().for_each(|serving| serving.abort());
        let last_word = async {
            if let Some(beat) = beat {
                // It goes.
                let _ = over.send(true);
                let _ = tokio::time::timeout(LAST, beat).await;
            }
        };
        let (leaving, clears) = (shared.clone(), ended.is_some());
        // In a program that goes on it goes on, too, so that the lease ends whenever that is.
        let leave = tokio::spawn(async move {
            let cleared = match clears {
                true => tokio::time::timeout(LAST, intake.clear()).await.unwrap_or(Ok(())),
                false => Ok(()),
            };
            leaving.consumer.leave().await.and(cleared)
        });
        let ((), left) = tokio::join!(last_word, tokio::time::timeout(2 * LAST, leave));
        let left = match left {
            Ok(left) => left.unwrap_or(Ok(())).map_err(|error| error.message),
            Err(_) => Err("the broker did not answer when it was told that this worker leaves".to_owned()),
        };
        let summary = shared.summary(left.is_ok(), ended.flatten().or(left.err()));
        if summary.error.is_none() {
            let _ = tokio::time::timeout(LAST, shared.broker.close()).await;
        }
        summary
    }
}

/// Stops a worker.
#[derive(Clone)]
pub struct Stopper {
    engine: Handle,
    runtime: Runtime,
    grace: Duration,
    stopping: CancelToken,
    dropped: CancelToken,
}

/// How long what was asked to end may take before it is dropped.
const LAST: Duration = Duration::from_secs(5);

impl Stopper {
    fn new(engine: &Handle, runtime: &Runtime, grace: Duration, shared: &Shared) -> Self {
        let (stopping, dropped) = (shared.stopping.clone(), shared.dropped.clone());
        Self { engine: engine.clone(), runtime: runtime.clone(), grace, stopping, dropped }
    }

    /// Claims nothing more, hands back what has not started, lets running tasks end. After the grace period it is a [cold](Self::cold) stop.
    pub fn warm(&self) {
        self.stopping.cancel();
        self.engine.drain();
        let (own, grace) = (self.clone(), self.grace);
        self.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            own.cold();
        });
    }

    /// Also asks running tasks to end; they are handed back. What has not ended five seconds later is dropped.
    pub fn cold(&self) {
        self.stopping.cancel();
        self.engine.stop(Stop::Soft);
        let own = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(LAST).await;
            own.hard();
        });
    }

    /// Also drops what does not listen.
    pub fn hard(&self) {
        self.engine.stop(Stop::Hard);
        self.dropped.cancel();
    }
}

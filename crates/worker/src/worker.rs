//! A worker: claims tasks from queues, runs them on its lanes, stores their results, acknowledges
//! them, and answers remote control.
//!
//! Layout:
//! - `intake.rs`: from the broker to the engine; `held.rs`: what waits for its time; `suspects.rs`:
//!   what may have killed a worker
//! - `handlers.rs`: what the lanes call; `process.rs`: the process lane; `work.rs`: a claimed task
//!   on its way
//! - `verdict.rs`: how an attempt ended → what becomes of its task; `conclude.rs`: that, in
//!   Celery's words; `close.rs`: stores, sends, acknowledges
//! - `sink.rs`: the engine's sink
//! - `revoked.rs`, `notice.rs`, `shared.rs`: what the parts share; `slots.rs`: the slots of lanes,
//!   and autoscale
//! - `view.rs`: what it looks like and how it is steered; `control.rs`, `events.rs`: remote control
//!   and events; `mingle.rs`: what was called off before

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
mod runs;
mod shared;
mod sink;
mod slots;
mod suspects;
mod used;
mod verdict;
mod view;
mod work;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use longshore_brokers::{BrokerError, Connected, News, OpenOptions, QueueOrder, connect_with};
use longshore_core::{
    CancelToken, ChildLimits, LaneKind,
    engine::{self, Engine, EngineConfig, Handle, Lanes, Running},
    gate::GateConfig,
    lane::{Outbox, Stop, async_::AsyncLane, blocking::BlockingLane, cpu::CpuLane},
    watch::{self, Counts, Detail, Events, Hub, View},
};
use tokio::{runtime::Handle as Runtime, task::JoinHandle};

pub use notice::{TaskChange, TaskNotice, WorkerEvent};
pub use slots::Autoscale;

use self::{
    close::Closer,
    control::RemoteControl,
    events::{BeatTeller, MonitorFeed},
    handlers::Starter,
    intake::Intake,
    process::ProcessLane,
    shared::Shared,
    sink::ResultSink,
    slots::LaneSlots,
    view::{ConnectionStates, WorkerFace},
    work::{AttemptResult, TaskTicket},
};
use crate::{
    app::App,
    beat::{Scheduler, SchedulerOptions},
    client::Client,
    connections::declare,
    environment::Environment,
};

/// Options of a worker. The defaults serve the app's default queue on all lanes.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// Its name; `name@host`.
    pub node: String,
    /// The queues that it serves.
    pub queues: Vec<String>,
    /// Order in which it serves them.
    pub order: QueueOrder,
    /// The slots of each lane, by `lane as usize`.
    pub lanes: [usize; 4],
    /// Lets the slots of some lanes follow the load; they begin with the fewest.
    pub autoscale: Option<Autoscale>,
    /// A child process of functions of this program is replaced after so many tasks.
    pub max_tasks_per_child: Option<u32>,
    /// It is replaced, after the task that it runs, when it holds more memory than this, in bytes.
    pub max_memory_per_child: Option<u64>,
    /// Most claimed tasks that wait for a slot, so that tasks for other lanes pass those for a full
    /// one.
    pub parking: usize,
    /// Most tasks that it has at once, whether they run, wait for a slot or are not read yet; also
    /// fewer than it has slots. What it holds for its time does not count, however much that is.
    pub prefetch: Option<usize>,
    /// Time for which it keeps what it holds without a sign of life.
    pub lease: Duration,
    /// Time after which Celery's own workers take what nobody acknowledged: at most the shortest of
    /// any Celery on the database.
    pub visibility_timeout: Duration,
    /// Time for which running tasks may go on after a stop.
    pub grace: Duration,
    /// True where it tells monitors of tasks from the start (`-E`); they can ask for it at any
    /// time.
    pub events: bool,
    /// True where it answers remote control and sends its heartbeat.
    pub remote_control: bool,
    /// True where it sends what is due, too: with the [schedules](App::schedule) of its app and all
    /// that the store keeps (`-B`).
    pub beat: bool,
    /// Hub on which it tells, from its start on, what happens to its connections, its lanes and
    /// each task.
    pub hub: Hub<WorkerEvent>,
}

impl WorkerOptions {
    /// The defaults of a worker with this name: 200 slots on the async lane, 32 on the blocking
    /// lane, as many as cores on the others; a lease of 5 s, a visibility timeout of one hour, a
    /// grace of 30 s.
    pub fn new(node: impl Into<String>) -> Self {
        let cores = LaneKind::Cpu.default_workers();
        Self {
            node: node.into(),
            queues: Vec::new(),
            order: QueueOrder::InTurn,
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
            beat: false,
            hub: Hub::new(),
        }
    }
}

/// A worker that runs. Dropping it leaves it running; [`join`](Self::join) waits for its end.
pub struct Worker {
    shared: Arc<Shared>,
    intake: Arc<Intake>,
    face: Arc<WorkerFace>,
    engine: Handle,
    running: Running,
    grace: Duration,
    over: tokio::sync::watch::Sender<bool>,
    beat: Option<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    scaling: Option<JoinHandle<()>>,
    noting: Option<JoinHandle<()>>,
    scheduler: Option<JoinHandle<()>>,
}

/// Result of a worker, told at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerSummary {
    /// Counts of its tasks. A retry is a task that was sent again; `failed` has all that failed, in
    /// whatever way; `lost` those that nobody knows of any more: acknowledged before their end,
    /// and neither that end nor that they did not end could be told.
    pub counts: Counts,
    /// Tasks that the broker could not be told of, done or not, or that it was told of and did not
    /// answer: what it has not heard of comes again, when the lease is over at the latest.
    pub untold: u64,
    /// Error that ended it; none where it was told to end.
    pub error: Option<String>,
}

impl WorkerSummary {
    /// Returns the tasks that were revoked or expired.
    #[must_use]
    pub fn revoked(&self) -> u64 {
        self.counts.cancelled + self.counts.skipped
    }
}

impl Worker {
    /// Connects, and begins to serve. Runs on the current tokio runtime.
    ///
    /// # Errors
    /// The broker or the result backend cannot be reached, or refuses us.
    ///
    /// # Cancel safety
    /// As [`over`](Self::over).
    pub async fn start(app: App, options: WorkerOptions) -> Result<Self, BrokerError> {
        let settings = app.settings();
        let apart = settings.results.as_deref().filter(|results| *results != settings.broker);
        let links = ConnectionStates::new(options.hub.clone(), &settings.broker, apart);
        let told = links.clone().told(app.told.clone());
        let connected = connect_with(&settings.broker, settings.results.as_deref(), told)?;
        Self::serve(app, options, connected, links).await
    }

    /// Begins to serve, over connections that are there already. Runs on the current tokio runtime.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    /// Not cancel safe: a future that is dropped in the middle may have opened its consumer, whose
    /// lease then runs out.
    pub async fn over(app: App, options: WorkerOptions, connected: Connected) -> Result<Self, BrokerError> {
        let (broker, results) = (&connected.broker, &connected.results);
        let apart = (!broker.is_store_of(results.url())).then(|| results.url());
        let links = ConnectionStates::new(options.hub.clone(), broker.url(), apart);
        Self::serve(app, options, connected, links).await
    }

    async fn serve(app: App, options: WorkerOptions, connected: Connected, links: Arc<ConnectionStates>) -> Result<Self, BrokerError> {
        let runtime = Runtime::current();
        let settings = app.settings().clone();
        let environment = app.registry().environment;
        let queues = if options.queues.is_empty() { vec![settings.default_queue.clone()] } else { options.queues.clone() };
        let early = app.is_early();
        if let (Some(left_out), Some(told)) = (declare(&settings, &connected)?, &app.told) {
            told(&News::remark(left_out));
        }
        let mut open = OpenOptions::new(options.node.as_str(), queues.iter().map(String::as_str));
        (open.lease, open.visibility_timeout, open.early) = (options.lease, options.visibility_timeout, early);
        (open.order, open.takes_delayed) = (options.order.clone(), true);
        let consumer = connected.broker.open(open).await?;
        let node: Arc<str> = Arc::from(options.node.as_str());
        let client = Client::over(&app, connected.clone()).of_node(&node);
        if options.beat {
            // That nobody keeps schedules shows at once.
            connected.schedules()?;
        }
        let scheduler = options.beat.then(|| scheduler(&app, client.clone(), &options));
        let told = app.told.clone();
        let shared = Arc::new(Shared::new(Arc::new(app), node, client, connected, consumer, links));
        // Before the first claim: what was called off while nobody listened must not start.
        if let Ok(store) = shared.connected.shared() {
            shared.call_off(&store.revoked().await?);
        }
        let noting = shared.runs.clone().map(|runs| runtime.spawn(runs.keep(shared.clone())));
        if let Some(told) = told.as_ref().filter(|_| noting.is_none() && shared.consumer.lends_again()) {
            told(&News::remark(format!("{}: {LENDS_AGAIN}", shared.broker.url())));
        }
        let closer = Arc::new(Closer::new(shared.clone()));
        let intake = Arc::new(Intake::new(shared.clone(), closer.clone(), early, options.prefetch));
        // Acknowledged beside the lanes: a handler does not wait for the broker before it begins.
        let (acks, acknowledge) = tokio::sync::mpsc::unbounded_channel();
        runtime.spawn(sink::acknowledge_early(shared.clone(), acknowledge));
        let starter = Starter { shared: shared.clone(), early: acks, runtime: runtime.clone() };

        let outbox = engine::outbox();
        let (sizes, children) = sizes(&options);
        let lanes = lanes(&starter, &options, children, &outbox, environment);
        let config = config(&options, sizes, environment);
        // Before the first claim; autoscale's bounds follow with `LaneSlots`.
        shared.load.set_slots(sizes);
        let sink = ResultSink::new(shared.clone(), closer);
        let running = Engine::start(config, intake.clone(), lanes, Box::new(sink), outbox, Hub::new(), &runtime);
        let engine = running.handle();
        // What the engine tells of the whole goes to whoever listens to the worker.
        runtime.spawn(view::pass_on(shared.clone(), running.events(Detail::Changes, MOST_CHANGES)));
        let slots = Arc::new(LaneSlots::new(engine.clone(), shared.clone(), sizes, options.autoscale));
        let scaling = slots.scale().map(|_| runtime.spawn(slots.clone().follow(shared.clone())));
        let stopper = Stopper::new(&engine, &runtime, options.grace, &shared);
        let face = Arc::new(WorkerFace {
            shared: shared.clone(),
            intake: intake.clone(),
            engine: engine.clone(),
            slots: slots.clone(),
            stopper: stopper.clone(),
            paused: Mutex::default(),
        });
        // Monitors hear of it until its very end, which `join` tells them through `over`.
        let (over, ended) = tokio::sync::watch::channel(false);
        let mut beat = None;
        let mut control = None;
        if options.remote_control {
            let (listens, listening) = tokio::sync::oneshot::channel();
            let (events, sender) = {
                let teller = BeatTeller::new(shared.clone(), intake.clone(), options.prefetch);
                MonitorFeed::start(teller, options.events, ended)
            };
            let (parking, prefetch) = (options.parking, options.prefetch);
            let own = RemoteControl {
                shared: shared.clone(),
                intake: intake.clone(),
                events,
                stopper,
                slots,
                face: face.clone(),
                parking,
                prefetch,
                commands: tokio::task::JoinSet::new(),
                listens: Some(listens),
            };
            control = Some(runtime.spawn(own.serve()));
            // Who is told that it is there may ask it at once.
            let _ = tokio::time::timeout(LISTENS, listening).await;
            beat = Some(sender);
        }
        let scheduler = scheduler.map(|(app, client, own)| {
            let stop = shared.stopping.clone();
            runtime.spawn(Scheduler::keep_running(app, client, own, stop))
        });
        Ok(Self { shared, intake, face, engine, running, grace: options.grace, over, beat, control, scaling, noting, scheduler })
    }

    /// A handle that stops it, from anywhere.
    pub fn stopper(&self) -> Stopper {
        Stopper::new(&self.engine, &Runtime::current(), self.grace, &self.shared)
    }

    /// Cancelled when it begins to stop: somebody has asked for it, here or by remote control, or
    /// its broker is gone for good.
    pub fn stopping(&self) -> CancelToken {
        self.shared.stopping.clone()
    }

    /// Returns what it looks like now; `None` when its last task has ended.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn view(&self) -> Option<View> {
        self.face.look().await
    }

    /// Listens to what happens from now on; keeps at most `capacity` events that are not read. To
    /// miss nothing, listen to [`WorkerOptions::hub`] before it starts.
    pub fn events(&self, detail: Detail, capacity: usize) -> Events<WorkerEvent> {
        self.shared.hub.listen(detail, capacity)
    }

    /// Steers and asks it, from anywhere: a pause consumes nothing more, and lets go on what is
    /// claimed.
    pub fn handle(&self) -> watch::Handle {
        watch::Handle::new(Arc::new(view::SteeredWorker(self.face.clone())))
    }

    /// Returns how many tasks run.
    pub fn running(&self) -> usize {
        self.shared.running()
    }

    /// Returns how many attempts have ended, and tasks that were not run.
    pub fn ended(&self) -> u64 {
        self.shared.counts.ends().ended
    }

    /// Messages that it holds for their time.
    pub fn held(&self) -> usize {
        self.intake.held_count()
    }

    /// Returns when the first message is due that it holds for its time.
    pub fn next_due(&self) -> Option<SystemTime> {
        self.intake.next_due()
    }

    /// Waits for its end, hands back what is left, and gives up its lease. A broker that is away,
    /// or a thread that cannot be ended, is waited for no longer than fifteen seconds after the
    /// grace period; what the broker could not be told of by then is
    /// [counted](WorkerSummary::untold).
    ///
    /// # Cancel safety
    /// Not cancel safe: a worker that nobody waits for still ends when it is told to, but what is
    /// left in it comes back to its queues only when its lease is over.
    pub async fn join(self) -> WorkerSummary {
        let Self { shared, intake, running, over, beat, control, scaling, noting, scheduler, .. } = self;
        let given_up = async {
            shared.dropped.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        let ended = tokio::select! {
            biased;
            summary = running.join() => Some(summary.error),
            () = given_up => None,
        };
        // The engine has ended or is given up: nothing new is asked of it.
        [control, scaling, noting].into_iter().flatten().for_each(|serving| serving.abort());
        if let Some(mut scheduler) = scheduler {
            // It ends when the worker begins to stop; here it may have ended by itself.
            shared.stopping.cancel();
            if tokio::time::timeout(LAST, &mut scheduler).await.is_err() {
                scheduler.abort();
            }
        }
        let last_word = async {
            if let Some(beat) = beat {
                let _ = over.send(true);
                let _ = tokio::time::timeout(LAST, beat).await;
            }
        };
        let (leaving, clears) = (shared.clone(), ended.is_some());
        // A task of its own: in a program that lives on it may end after the limit below, and the
        // lease with it.
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
        shared.hub.close();
        summary
    }
}

/// Returns what the scheduler of a worker needs, whose events are those of the worker.
fn scheduler(app: &App, client: Client, options: &WorkerOptions) -> (App, Client, SchedulerOptions) {
    let (hub, told) = (options.hub.clone(), app.told.clone());
    let mut own = SchedulerOptions::new(options.node.as_str());
    own.told = Arc::new(move |event| {
        if let Some(told) = told.as_ref().filter(|_| event.is_notable()) {
            told(&News::remark(event.to_string()));
        }
        hub.post([WorkerEvent::Schedule(event.clone())]);
    });
    (app.clone(), client, own)
}

/// Returns the slots that each lane begins with, and the most children that there may ever be: how
/// many there are is the gate's business.
fn sizes(options: &WorkerOptions) -> ([usize; 4], usize) {
    let mut sizes = options.lanes;
    let mut children = sizes[LaneKind::Process as usize];
    if let Some(scale) = &options.autoscale {
        scale.lanes.iter().for_each(|lane| sizes[*lane as usize] = scale.min.max(1));
        children = children.max(scale.max);
    }
    (sizes, children)
}

/// Returns the lanes. Where there are no threads all four are on the runtime.
fn lanes(
    starter: &Starter,
    options: &WorkerOptions,
    children: usize,
    outbox: &Outbox<TaskTicket, AttemptResult>,
    environment: Environment,
) -> Lanes<TaskTicket, AttemptResult> {
    let (clock, outbox) = (environment.clock, || outbox.clone());
    let on_runtime = || Arc::new(AsyncLane::new(starter.clone().on_async(), outbox(), clock, &starter.runtime));
    if !environment.threads {
        return [Some(on_runtime()), Some(on_runtime()), Some(on_runtime()), Some(on_runtime())];
    }
    let on_thread = || starter.clone().on_thread();
    let mut limits = ChildLimits::default();
    (limits.max_tasks, limits.max_size) = (options.max_tasks_per_child, options.max_memory_per_child);
    [
        Some(on_runtime()),
        Some(Arc::new(BlockingLane::new(on_thread(), outbox(), clock))),
        Some(Arc::new(CpuLane::new(on_thread(), options.lanes[LaneKind::Cpu as usize], outbox(), clock))),
        Some(Arc::new(ProcessLane::new(starter.clone(), children, limits, outbox(), clock))),
    ]
}

/// Returns the engine's settings. It makes one attempt of each task: a task queue's task is sent
/// again with its next attempt.
fn config(options: &WorkerOptions, sizes: [usize; 4], environment: Environment) -> EngineConfig<TaskTicket> {
    let mut config = EngineConfig::new(gate(options, sizes), LaneKind::Async);
    config.copy = Some(TaskTicket::clone);
    config.keep_payloads = true;
    (config.clock, config.seed) = (environment.clock, (environment.random)());
    config
}

/// Returns the gate of a worker whose lanes begin with these slots.
fn gate(options: &WorkerOptions, sizes: [usize; 4]) -> GateConfig {
    let results = 2 * options.lanes.iter().sum::<usize>().max(sizes.iter().sum());
    GateConfig::new(sizes).parking(options.parking).results(results)
}

/// What is told where nobody can note what runs.
const LENDS_AGAIN: &str = "a task that outlives its connection, or runs longer than the server waits (consumer_timeout), may be lent to \
    another worker and run twice; results in Redis or SQLite prevent that";

/// Most changes of the whole that wait to be told.
const MOST_CHANGES: usize = 1_000;

/// Stops a worker.
#[derive(Clone)]
pub struct Stopper {
    engine: Handle,
    runtime: Runtime,
    grace: Duration,
    stopping: CancelToken,
    dropped: CancelToken,
    shared: std::sync::Weak<Shared>,
}

/// Longest time that its start waits for remote control: a broker that has just gone away is no
/// reason to hold it up.
const LISTENS: Duration = Duration::from_secs(2);
/// Time that whatever was asked to end is given before it is dropped; so long does a stop wait for
/// each of its last steps, too.
const LAST: Duration = Duration::from_secs(5);

impl Stopper {
    fn new(engine: &Handle, runtime: &Runtime, grace: Duration, shared: &Arc<Shared>) -> Self {
        let (stopping, dropped) = (shared.stopping.clone(), shared.dropped.clone());
        let shared = Arc::downgrade(shared);
        Self { engine: engine.clone(), runtime: runtime.clone(), grace, stopping, dropped, shared }
    }

    /// Returns how many tasks run: those that a stop waits for.
    pub fn running(&self) -> usize {
        self.shared.upgrade().map_or(0, |shared| shared.running())
    }

    /// Claims nothing more, hands back what has not started, lets running tasks end. After the
    /// grace period it is a [cold](Self::cold) stop.
    pub fn warm(&self) {
        self.stopping.cancel();
        self.engine.drain();
        let (own, grace) = (self.clone(), self.grace);
        self.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            own.cold();
        });
    }

    /// Also asks running tasks to end; they are handed back. What has not ended five seconds later
    /// is dropped.
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

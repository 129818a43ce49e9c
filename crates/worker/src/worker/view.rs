//! What a worker looks like, what it tells of its connections and lanes, and how it is steered.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::SystemTime,
};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_brokers::{Half, News, Notice, mask};
use longshore_core::{
    Event, Phase, Reason, Receipt, Stop,
    engine::{self, Named, RunningTask},
    watch::{Command, Connection, Events, Heard, Hub, Steer, Unsupported, View, ViewKind, Waiting},
};

use super::{Stopper, intake::Intake, notice::WorkerEvent, shared::Shared, slots::LaneSlots, used};

/// The connections of a worker. They are told of by news of its broker and its result backend.
pub(crate) struct ConnectionStates {
    pub(crate) hub: Hub<WorkerEvent>,
    connections: Mutex<Vec<Connection>>,
}

impl ConnectionStates {
    /// Returns the connections to these servers, which are up until there is other news.
    pub(crate) fn new(hub: Hub<WorkerEvent>, broker: &str, results: Option<&str>) -> Arc<Self> {
        let broker = Connection::up(Half::Broker.as_str(), mask(broker));
        let results = results.map(|results| Connection::up(Half::Results.as_str(), mask(results)));
        Arc::new(Self { hub, connections: Mutex::new(std::iter::once(broker).chain(results).collect()) })
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a notice that notes news, and tells others of it.
    pub(crate) fn told(self: Arc<Self>, others: Option<Notice>) -> Notice {
        Arc::new(move |news| {
            self.hear(news);
            others.iter().for_each(|told| told(news));
        })
    }

    /// Notes news; a change of a connection's state is told.
    fn hear(&self, news: &News) {
        let Some(state) = news.state() else { return };
        let changed = {
            let mut connections = self.connections();
            let Some(connection) = connections.iter_mut().find(|connection| connection.name == news.half.as_str()) else { return };
            connection.set(state, SystemTime::now()).then(|| connection.clone())
        };
        self.hub.post(changed.map(WorkerEvent::Connection));
    }
}

/// Most tasks of which it is remembered that they were told to hold the async lane.
const MOST_STALLED: usize = 1_000;

/// Tells what the engine says of the whole: its phases, and tasks that hold the async lane, each
/// once. Ends with the engine.
pub(crate) async fn pass_on(shared: Arc<Shared>, mut events: Events<Event>) {
    let mut told: HashSet<Receipt> = HashSet::new();
    while let Some(heard) = events.next().await {
        match heard {
            Heard::Event(Event::Job { phase }) => shared.hub.post([WorkerEvent::Phase(phase)]),
            Heard::Event(Event::Stalled { receipt, held, .. }) => {
                shared.counts.stalls.fetch_add(1, Ordering::Relaxed);
                let Some(receipt) = receipt else { continue };
                if told.len() >= MOST_STALLED {
                    told.clear();
                }
                let work = shared.live().get(&receipt.0).cloned();
                if let Some(work) = work.filter(|_| told.insert(receipt)) {
                    shared.hub.post([WorkerEvent::Stalled { message: work.message.clone(), queue: work.queue.clone(), held }]);
                }
            }
            // Of tasks the worker tells itself, in its own words.
            Heard::Event(_) | Heard::Missed(_) => {}
        }
    }
}

/// A worker, as far as it is looked at and steered.
pub(crate) struct WorkerFace {
    pub(crate) shared: Arc<Shared>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) engine: engine::Handle,
    pub(crate) slots: Arc<LaneSlots>,
    pub(crate) stopper: Stopper,
    /// The queues that it served before it was paused.
    pub(crate) paused: Mutex<Option<Vec<Arc<str>>>>,
}

impl WorkerFace {
    fn paused(&self) -> MutexGuard<'_, Option<Vec<Arc<str>>>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Consumes nothing more until told to go on; what it has claimed goes on.
    fn pause(&self) {
        let mut paused = self.paused();
        if paused.is_none() {
            let serving = self.shared.consumer.serving();
            serving.iter().for_each(|queue| self.shared.consumer.serve(queue, false));
            *paused = Some(serving);
        }
    }

    fn resume(&self) {
        let queues = self.paused().take().unwrap_or_default();
        queues.iter().for_each(|queue| self.shared.consumer.serve(queue, true));
    }

    /// Returns what it looks like now; `None` when its engine has ended.
    pub(crate) async fn look(&self) -> Option<View> {
        let snapshot = self.engine.snapshot().await?;
        let shared = &self.shared;
        let mut view = {
            let live = shared.live();
            let named = |task: &RunningTask| match live.get(&task.receipt.0) {
                Some(work) => Named { name: work.message.id.clone(), label: work.task.name.to_string() },
                None => Named::default(),
            };
            let mut view = snapshot.into_view_named(ViewKind::Worker, &*shared.node, named);
            view.gauge("worker_claimed_tasks", &[], live.len() as f64);
            view
        };
        // The engine counts attempts; a task queue's words are known here.
        {
            let ends = shared.counts.ends();
            (view.counts, view.labels) = (ends.counts, ends.labels.labelled());
        }
        if self.paused().is_some() && view.phase == Phase::Running {
            view.phase = Phase::Paused;
        }
        let held = self.intake.held();
        let rate = held.iter().filter(|entry| entry.paced.is_some()).count();
        let waits = [("eta", held.len() - rate), ("rate", rate), ("alone", self.intake.waiting_suspects().len())];
        let waits = waits.into_iter().filter(|(_, tasks)| *tasks > 0);
        view.waiting.extend(waits.map(|(name, tasks)| Waiting::new(Reason::Other { name: name.into() }, tasks)));
        view.connections = shared.links.connections().clone();
        view.events_missed = shared.hub.missed() + shared.counts.events_dropped.load(Ordering::Relaxed);
        view.gauge("redelivered_total", &[], shared.counts.redelivered() as f64);
        if let Some(maker) = shared.client.maker() {
            let counts = maker.spans.counts();
            view.gauge("spans_total", &[("outcome", "sent")], counts.sent as f64);
            view.gauge("spans_total", &[("outcome", "lost")], counts.lost as f64);
        }
        if let Some(bytes) = used::resident() {
            view.gauge("process_resident_memory_bytes", &[], bytes as f64);
        }
        Some(view)
    }
}

/// The handle's side of a [`WorkerFace`].
pub(crate) struct SteeredWorker(pub(crate) Arc<WorkerFace>);

impl Steer for SteeredWorker {
    fn steer(&self, command: Command) -> Result<(), Unsupported> {
        let face = &self.0;
        match command {
            Command::Pause => face.pause(),
            Command::Resume => face.resume(),
            Command::Concurrency { lane: Some(lane), most } => face.slots.set_one(lane, most.max(1)),
            Command::Concurrency { lane: None, .. } => {
                return Err(Unsupported::new(&command, "a worker has slots for each lane: name one of async, blocking, cpu, process"));
            }
            Command::Rate { .. } => return Err(Unsupported::new(&command, "a worker's rates are its tasks': set rate_limit of a task")),
            Command::Timeout { .. } => {
                return Err(Unsupported::new(&command, "a worker's limits are its tasks': set time_limit of a task"));
            }
            Command::Drain => face.stopper.warm(),
            Command::Stop { how: Stop::Soft } => face.stopper.cold(),
            Command::Stop { how: Stop::Hard } => face.stopper.hard(),
            _ => return Err(Unsupported::new(&command, "this worker does not know it")),
        }
        Ok(())
    }

    fn view(&self) -> BoxFuture<'static, Option<View>> {
        let face = self.0.clone();
        async move { face.look().await }.boxed()
    }
}

/// Most bytes of a view that is sent as an answer of remote control.
const MOST_BYTES: usize = 256 << 10;

/// Returns a view as JSON of a bounded size: what is too long loses its labels' histograms, then
/// running tasks, then labels.
pub(crate) fn bounded(mut view: View) -> String {
    let encode = |view: &View| serde_json::to_string(view).unwrap_or_default();
    let mut text = encode(&view);
    let cuts: [fn(&mut View); 3] = [
        |view| view.labels.iter_mut().for_each(|label| (label.run.buckets, label.wait.buckets) = Default::default()),
        |view| view.cut_running(10),
        |view| view.labels.clear(),
    ];
    for cut in cuts {
        if text.len() <= MOST_BYTES {
            break;
        }
        cut(&mut view);
        text = encode(&view);
    }
    text
}

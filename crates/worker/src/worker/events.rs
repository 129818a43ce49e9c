//! What Celery's monitors hear of a worker: its heartbeat, always; what happens to tasks, when
//! somebody has asked for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use longshore_celery::{
    Map, Value,
    events::{self, Event, EventKind, Heartbeat, MOST_IN_ONE, TaskInfo},
    repr,
};
use longshore_core::{
    LaneKind,
    watch::{Detail, Events, Heard},
};
use tokio::sync::{mpsc, watch};

use super::{
    intake::Intake,
    notice::{TaskChange, TaskNotice, WorkerEvent},
    shared::{RunningTasks, Shared},
    used::{self, ProcessorShare},
};

/// Time between two heartbeats, as Celery's workers have it.
const BEAT: Duration = Duration::from_secs(2);
/// Most events that wait to be sent. Beyond, they are dropped and counted: a monitor must not hold
/// up work.
const WAITING: usize = 10_000;

/// Most queues of which a heartbeat tells.
const MOST_QUEUES: usize = 50;

/// Sends events.
pub(crate) struct MonitorFeed {
    shared: Arc<Shared>,
    tasks: AtomicBool,
    orders: mpsc::UnboundedSender<MonitorOrder>,
}

/// Order to the sender.
enum MonitorOrder {
    /// Send a heartbeat, now.
    Beat,
    /// Send what is heard of tasks from now on; nothing of them.
    Tasks(Option<Events<WorkerEvent>>),
}

impl MonitorFeed {
    /// Begins to send heartbeats; ends, with a last word, when `over` says so.
    pub(crate) fn start(teller: BeatTeller, tasks: bool, over: watch::Receiver<bool>) -> (Self, tokio::task::JoinHandle<()>) {
        let (orders, queue) = mpsc::unbounded_channel();
        let own = Self { shared: teller.shared.clone(), tasks: AtomicBool::new(false), orders };
        own.set(tasks);
        (own, tokio::spawn(send(teller, queue, over)))
    }

    /// Switches events of tasks on or off. Returns whether that was a change.
    pub(crate) fn set(&self, on: bool) -> bool {
        let changed = self.tasks.swap(on, Ordering::AcqRel) != on;
        if changed {
            let heeds = on.then(|| self.shared.hub.listen_to(Detail::Tasks, WAITING, is_told));
            let _ = self.orders.send(MonitorOrder::Tasks(heeds));
        }
        changed
    }

    /// Sends a heartbeat that was asked for.
    pub(crate) fn beat(&self) {
        let _ = self.orders.send(MonitorOrder::Beat);
    }
}

/// Sends what there is, together, and a heartbeat every two seconds.
async fn send(mut teller: BeatTeller, mut orders: mpsc::UnboundedReceiver<MonitorOrder>, mut over: watch::Receiver<bool>) {
    let shared = teller.shared.clone();
    publish(&shared, vec![EventKind::WorkerOnline(teller.beat())]).await;
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heeds: Option<Events<WorkerEvent>> = None;
    loop {
        tokio::select! {
            // What comes last may come all the time: it holds up none of the others.
            biased;
            // Remote control ends before the worker does: the last word comes all the same.
            Some(order) = orders.recv() => match order {
                MonitorOrder::Beat => {
                    // Celery's say as little where they are asked for one.
                    let beat = Heartbeat { active: None, processed: None, loadavg: None, ..teller.beat() };
                    publish(&shared, vec![EventKind::WorkerHeartbeat(beat)]).await;
                }
                MonitorOrder::Tasks(others) => heeds = others,
            },
            _ = over.changed() => break,
            _ = ticks.tick() => publish(&shared, vec![EventKind::WorkerHeartbeat(teller.beat())]).await,
            heard = next(&mut heeds) => {
                let told = gather(&shared, heard, heeds.as_mut());
                publish(&shared, told).await;
            }
        }
    }
    while let Some(heard) = heeds.as_mut().and_then(Events::try_next) {
        let told = gather(&shared, heard, heeds.as_mut());
        publish(&shared, told).await;
    }
    publish(&shared, vec![EventKind::WorkerOffline(teller.beat())]).await;
}

/// Waits for what is heard next; for ever while nothing of tasks is sent.
async fn next(heeds: &mut Option<Events<WorkerEvent>>) -> Heard<WorkerEvent> {
    if let Some(listening) = heeds
        && let Some(heard) = listening.next().await
    {
        return heard;
    }
    std::future::pending().await
}

/// Returns the events that monitors get of this, and of all else that has been heard.
fn gather(shared: &Shared, first: Heard<WorkerEvent>, mut heeds: Option<&mut Events<WorkerEvent>>) -> Vec<EventKind> {
    let mut told = Vec::new();
    let mut heard = Some(first);
    while let Some(one) = heard {
        match one {
            Heard::Event(WorkerEvent::Task(notice)) => told.extend(of_notice(&notice)),
            Heard::Event(_) => {}
            // A monitor must not hold up work.
            Heard::Missed(count) => drop(shared.counts.events_dropped.fetch_add(count, Ordering::Relaxed)),
        }
        heard = if told.len() < MOST_IN_ONE { heeds.as_mut().and_then(|heeds| heeds.try_next()) } else { None };
    }
    told
}

/// Returns whether monitors are told of it.
fn is_told(event: &WorkerEvent) -> bool {
    matches!(event, WorkerEvent::Task(notice) if !matches!(notice.what, TaskChange::Ignored | TaskChange::Replaced | TaskChange::Dead { .. } | TaskChange::Late))
}

async fn publish(shared: &Shared, told: Vec<EventKind>) {
    let timestamp = shared.environment.wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let events: Vec<Event> = told
        .into_iter()
        .map(|what| Event {
            hostname: shared.node.to_string(),
            pid: Some(std::process::id().into()),
            utcoffset: 0.0,
            clock: shared.clock().forward(),
            timestamp,
            what,
        })
        .collect();
    // Only events of tasks travel together.
    let (tasks, others): (Vec<Event>, Vec<Event>) = events.into_iter().partition(|event| event.what.is_task());
    let Ok(bus) = shared.connected.bus() else { return };
    let batches = others.chunks(1).chain(tasks.chunks(MOST_IN_ONE));
    for batch in batches {
        let (routing_key, raw) = events::encode(batch, &(shared.environment.id)());
        // Whoever does not hear it hears the next one; a broker that is away is the consumer's to
        // say.
        let _ = bus.broadcast(events::EXCHANGE, &routing_key, &raw).await;
    }
}

/// Makes heartbeats.
pub(crate) struct BeatTeller {
    shared: Arc<Shared>,
    intake: Arc<Intake>,
    /// Most messages that are claimed at once, where that is set.
    prefetch: Option<usize>,
    processors: ProcessorShare,
}

impl BeatTeller {
    /// Tells of this worker.
    pub(crate) fn new(shared: Arc<Shared>, intake: Arc<Intake>, prefetch: Option<usize>) -> Self {
        Self { shared, intake, prefetch, processors: ProcessorShare::default() }
    }

    fn beat(&mut self) -> Heartbeat {
        let running = self.shared.running_tasks();
        let active = running.lanes.iter().sum::<usize>();
        Heartbeat {
            freq: BEAT.as_secs_f64(),
            active: Some(i64::try_from(active).unwrap_or(i64::MAX)),
            processed: Some(i64::try_from(self.shared.counts.processed()).unwrap_or(i64::MAX)),
            loadavg: loadavg(),
            // Monitors compare these with what they know; the version is that of the protocol that
            // we speak.
            sw_ident: "longshore".to_owned(),
            sw_ver: env!("CARGO_PKG_VERSION").to_owned(),
            sw_sys: "Linux".to_owned(),
            account: self.account(&running),
        }
    }

    /// Returns what pages and tables want to know of this worker, mostly in the words of its reply
    /// to `stats`; nothing where that would be long: then it has to be asked for.
    fn account(&mut self, running: &RunningTasks) -> Option<Map> {
        let shared = &self.shared;
        let ended = shared.counts.by_queue();
        let serves = shared.consumer.serving();
        if ended.len().max(serves.len()).max(running.queues.len()) > MOST_QUEUES {
            return None;
        }
        let whole = |count: u64| Value::from(i64::try_from(count).unwrap_or(i64::MAX));
        let of_lanes =
            |counts: [usize; 4]| LaneKind::ALL.iter().map(|lane| (lane.as_str(), counts[*lane as usize] as i64)).collect::<Map>();
        let now = shared.environment.now();
        let mut account = Map::from_iter([
            ("uptime", Value::from(now.duration_since(shared.started).as_secs())),
            ("lanes", of_lanes(shared.load.slots()).into()),
            ("running", of_lanes(running.lanes).into()),
            ("running_by_queue", running.queues.iter().map(|(queue, count)| (&**queue, *count)).collect::<Map>().into()),
            ("queues", ended.iter().map(|(queue, count)| (&**queue, *count)).collect::<Map>().into()),
            ("serves", serves.iter().map(|queue| Value::from(&**queue)).collect::<Vec<_>>().into()),
            ("stopping", shared.stopping.is_cancelled().into()),
            ("waiting", of_lanes(running.waiting).into()),
            ("claimed", whole(shared.live().len() as u64)),
            ("held", whole(self.intake.held_count() as u64)),
            ("stalls", whole(shared.counts.stalls.load(Ordering::Relaxed))),
        ]);
        // What the system does not say is left out.
        let used = used::processor_times().map(|(user, system)| user + system);
        let facts = [("prefetch_count", self.prefetch.map(|most| most as u64)), ("rss", used::resident())];
        facts.into_iter().for_each(|(name, count)| count.into_iter().for_each(|count| account.set(name, whole(count))));
        self.processors.since_last(now, used).into_iter().for_each(|share| account.set("cpu", share));
        Some(account)
    }
}

fn loadavg() -> Option<[f64; 3]> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let mut numbers = text.split_ascii_whitespace().map_while(|word| word.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// Returns the event that monitors get of a notice; none, where it is our own affair.
fn of_notice(notice: &TaskNotice) -> Option<EventKind> {
    let uuid = notice.message.id.clone();
    Some(match &notice.what {
        TaskChange::Received => EventKind::TaskReceived(info(notice)),
        TaskChange::Started => EventKind::TaskStarted { uuid },
        TaskChange::Succeeded { runtime, result } => {
            EventKind::TaskSucceeded { uuid, result: result.clone(), runtime: runtime.as_secs_f64() }
        }
        TaskChange::Failed { exception, traceback, .. } => {
            EventKind::TaskFailed { uuid, exception: exception.clone(), traceback: traceback.clone() }
        }
        TaskChange::Retried { exception, .. } => EventKind::TaskRetried { uuid, exception: exception.clone(), traceback: None },
        TaskChange::Revoked { terminated, signal, expired } => {
            EventKind::TaskRevoked { uuid, terminated: *terminated, signum: signal.map(i64::from), expired: *expired }
        }
        TaskChange::Rejected { requeue } => EventKind::TaskRejected { uuid, requeue: *requeue },
        TaskChange::Crashed { .. } => EventKind::TaskRejected { uuid, requeue: true },
        TaskChange::Ignored | TaskChange::Replaced | TaskChange::Dead { .. } | TaskChange::Late => return None,
    })
}

fn info(notice: &TaskNotice) -> TaskInfo {
    let message = &notice.message;
    TaskInfo {
        uuid: message.id.clone(),
        name: message.shadow.clone().filter(|shadow| !shadow.is_empty()).unwrap_or_else(|| message.task.clone()),
        args: message.argsrepr.clone().or_else(|| Some(repr(&longshore_celery::Value::List(message.args.clone())))),
        kwargs: message.kwargsrepr.clone(),
        root_id: message.root_id.clone(),
        parent_id: message.parent_id.clone(),
        retries: message.retries.into(),
        eta: message.eta.map(longshore_celery::iso),
        expires: message.expires.map(longshore_celery::iso),
        queue: Some(notice.queue.to_string()),
    }
}

//! What Celery's monitors hear of a worker: its heartbeat, always; what happens to tasks, when somebody has asked for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use longshore_celery::{
    Message,
    events::{self, Beat, Event, MOST_IN_ONE, TaskInfo, What as Told},
    repr,
};
use tokio::sync::{mpsc, watch};

use super::{
    notice::{Notice, What},
    shared::Shared,
};

/// Between two heartbeats.
const BEAT: Duration = Duration::from_secs(2);
/// Most events that wait to be sent. Beyond, they are dropped and counted: a monitor must not hold up work.
const WAITING: usize = 10_000;

/// Sends events.
pub(crate) struct Events {
    shared: Arc<Shared>,
    tasks: Arc<AtomicBool>,
    beat: mpsc::Sender<Told>,
}

impl Events {
    /// Begins to send heartbeats; ends, with a last word, when `over` says so.
    pub(crate) fn start(shared: Arc<Shared>, tasks: bool, over: watch::Receiver<bool>) -> (Self, tokio::task::JoinHandle<()>) {
        let (waiting, queue) = mpsc::channel(WAITING);
        let on = Arc::new(AtomicBool::new(tasks));
        let listener = {
            let (on, waiting, shared) = (on.clone(), waiting.clone(), shared.clone());
            move |notices: &[Notice]| {
                if !on.load(Ordering::Relaxed) {
                    return;
                }
                for told in notices.iter().filter_map(of_notice) {
                    if waiting.try_send(told).is_err() {
                        shared.counts.events_dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        shared.board.listen_if(Arc::new(listener), on.clone());
        let sender = tokio::spawn(send(shared.clone(), queue, over));
        (Self { shared, tasks: on, beat: waiting }, sender)
    }

    /// Switches events of tasks on or off; whether that was a change.
    pub(crate) fn set(&self, on: bool) -> bool {
        let changed = self.tasks.swap(on, Ordering::AcqRel) != on;
        self.shared.board.refresh();
        changed
    }

    /// A heartbeat that was asked for.
    pub(crate) fn beat(&self) {
        let _ = self.beat.try_send(Told::WorkerHeartbeat(Beat { active: None, processed: None, loadavg: None, ..beat(&self.shared) }));
    }
}

/// Sends what there is, together, and a heartbeat every two seconds.
async fn send(shared: Arc<Shared>, mut queue: mpsc::Receiver<Told>, mut over: watch::Receiver<bool>) {
    publish(&shared, vec![Told::WorkerOnline(beat(&shared))]).await;
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = Vec::new();
    loop {
        tokio::select! {
            count = queue.recv_many(&mut told, MOST_IN_ONE) => {
                if count == 0 {
                    return;
                }
                publish(&shared, std::mem::take(&mut told)).await;
            }
            _ = ticks.tick() => publish(&shared, vec![Told::WorkerHeartbeat(beat(&shared))]).await,
            _ = over.changed() => break,
        }
    }
    queue.close();
    while queue.recv_many(&mut told, MOST_IN_ONE).await > 0 {
        publish(&shared, std::mem::take(&mut told)).await;
    }
    publish(&shared, vec![Told::WorkerOffline(beat(&shared))]).await;
}

async fn publish(shared: &Shared, told: Vec<Told>) {
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
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
    let batches = others.chunks(1).chain(tasks.chunks(MOST_IN_ONE));
    for batch in batches {
        let (routing_key, raw) = events::encode(batch, &uuid::Uuid::new_v4().to_string());
        // Whoever does not hear it hears the next one; a broker that is away is the consumer's to say.
        let _ = shared.broker.broadcast(events::EXCHANGE, &routing_key, &raw).await;
    }
}

fn beat(shared: &Shared) -> Beat {
    Beat {
        freq: BEAT.as_secs_f64(),
        active: Some(i64::try_from(shared.running()).unwrap_or(i64::MAX)),
        processed: Some(i64::try_from(shared.counts.processed()).unwrap_or(i64::MAX)),
        loadavg: loadavg(),
        // Monitors compare these with what they know; the version is that of the protocol that we speak.
        sw_ident: "longshore".to_owned(),
        sw_ver: env!("CARGO_PKG_VERSION").to_owned(),
        sw_sys: "Linux".to_owned(),
    }
}

fn loadavg() -> Option<[f64; 3]> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let mut numbers = text.split_ascii_whitespace().map_while(|word| word.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// What monitors are told of a notice; some are our own affair.
fn of_notice(notice: &Notice) -> Option<Told> {
    let uuid = notice.message.id.clone();
    Some(match &notice.what {
        What::Received => Told::TaskReceived(info(&notice.message)),
        What::Started => Told::TaskStarted { uuid },
        What::Succeeded { runtime, result } => Told::TaskSucceeded { uuid, result: result.clone(), runtime: runtime.as_secs_f64() },
        What::Failed { exception, traceback, .. } => Told::TaskFailed { uuid, exception: exception.clone(), traceback: traceback.clone() },
        What::Retried { exception, .. } => Told::TaskRetried { uuid, exception: exception.clone(), traceback: None },
        What::Revoked { terminated, signal, expired } => {
            Told::TaskRevoked { uuid, terminated: *terminated, signum: signal.map(i64::from), expired: *expired }
        }
        What::Rejected { requeue } => Told::TaskRejected { uuid, requeue: *requeue },
        What::Crashed { .. } => Told::TaskRejected { uuid, requeue: true },
        What::Ignored | What::Replaced | What::Dead { .. } | What::Late => return None,
    })
}

fn info(message: &Message) -> TaskInfo {
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
    }
}

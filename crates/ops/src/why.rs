//! Answer to the question why a task is not running.
//!
//! Asked in order: the result backend, the broker, and the workers where only they know. The reason
//! follows from what they said by pure functions (`in_queue`, `in_line`).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::{Doing, Found, QueueState};
use longshore_celery::{
    State, Value,
    control::{Request, read_registered},
};
use longshore_worker::{
    Client,
    remote::{PATIENCE, ask},
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    error::OpsError,
    message::{DoingOf, MessageBrief},
    reason::{LaneUse, WaitReason},
    remote::{TaskAtWorker, tasks_at_workers},
    wire::time_text,
    workers::{self, names_of},
};

/// Asks why a task is not running.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WhyRequest {
    /// The task's id.
    pub id: String,
    /// Time for which replies of workers are waited for, where only they know (1 s).
    pub patience: Duration,
}

impl WhyRequest {
    /// Asks about this task.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), patience: PATIENCE }
    }
}

/// Place of a task, and what holds it up. Serialised as `{"id", "state", "reason", …}`, with more
/// of where it is: `done` of what has ended; `queue`, `task`, `paused_by` and `doing` of what a
/// broker has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WhyAnswer {
    /// The task's id.
    pub id: String,
    /// Reason that it waits; `None` where it waits for nothing, or nobody can say.
    pub reason: Option<WaitReason>,
    /// Place where it is.
    pub place: TaskPlace,
}

/// Place of a task: its result, a worker or a broker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskPlace {
    /// It has ended, or its result says something that only its end would change.
    Ended {
        /// The result's state.
        state: State,
        /// Moment at which it ended.
        done: Option<SystemTime>,
    },
    /// Only its worker knows it: it was acknowledged before it began.
    Worker(TaskAtWorker),
    /// A broker has its message.
    Broker {
        /// The message and what it does.
        found: Box<Found>,
        /// Its queue.
        queue: Option<Box<QueueState>>,
        /// Account of the worker that holds it, if there is one and it answers.
        worker: Option<TaskAtWorker>,
    },
}

impl WhyAnswer {
    /// Returns what the task does, in one word: `waiting`, `later`, `held` or `dead` in a broker;
    /// `active`, `reserved`, `scheduled` or `ended` at a worker that answers; else the result's
    /// state (`SUCCESS`).
    pub fn state(&self) -> &str {
        match &self.place {
            TaskPlace::Ended { state, .. } => state.as_str(),
            TaskPlace::Worker(worker) | TaskPlace::Broker { worker: Some(worker), .. } => worker.stage.word(),
            TaskPlace::Broker { found, .. } => match found.doing {
                Doing::Waiting { .. } => "waiting",
                Doing::Later { .. } => "later",
                Doing::Held { .. } => "held",
                Doing::Dead { .. } => "dead",
            },
        }
    }
}

impl Serialize for WhyAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("state", self.state())?;
        map.serialize_entry("reason", &self.reason)?;
        match &self.place {
            TaskPlace::Ended { done, .. } => map.serialize_entry("done", &done.map(time_text))?,
            TaskPlace::Worker(_) => {}
            TaskPlace::Broker { found, queue, .. } => {
                map.serialize_entry("queue", &found.queue)?;
                map.serialize_entry("task", &MessageBrief::read(&found.raw))?;
                map.serialize_entry("paused_by", &queue.as_ref().and_then(|queue| queue.paused.as_deref()))?;
                map.serialize_entry("doing", &DoingOf(&found.doing))?;
            }
        }
        map.end()
    }
}

/// Finds a task and what holds it up: one answer for each place that it is in, mostly one.
///
/// The broker looks through its queues for one that has not ended, which costs their length.
///
/// # Errors
/// [`OpsError::unknown`] for one that nobody knows; the broker or the result backend cannot be
/// reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn why(client: &Client, request: &WhyRequest) -> Result<Vec<WhyAnswer>, OpsError> {
    let id = &request.id;
    let connected = client.connected();
    // What has ended lies in no queue.
    if let Some(stored) = client.result(id).stored().await?.filter(|stored| stored.state.is_ready()) {
        let place = TaskPlace::Ended { state: stored.state, done: stored.date_done };
        return Ok(vec![WhyAnswer { id: id.clone(), reason: None, place }]);
    }
    // Where the broker lets nobody look, the results and the workers know what they know.
    let found = match &connected.inspect {
        Some(inspect) => inspect.find(id).await?,
        None => Vec::new(),
    };
    // What was finished meanwhile has a result.
    let stored = client.result(id).stored().await?;
    if let Some(stored) = stored.filter(|stored| stored.state.is_ready() || found.is_empty()) {
        let place = TaskPlace::Ended { state: stored.state, done: stored.date_done };
        return Ok(vec![WhyAnswer { id: id.clone(), reason: None, place }]);
    }
    if found.is_empty() {
        // One that was acknowledged before it began is known to its worker alone.
        let worker = at_worker(client, id).await.ok_or_else(|| OpsError::unknown(connected, id))?;
        return Ok(vec![WhyAnswer { id: id.clone(), reason: worker.waits.clone(), place: TaskPlace::Worker(worker) }]);
    }
    let mut answers = Vec::new();
    for found in found {
        let states = client.broker().queues(&[Arc::from(found.queue.as_str())]).await?;
        let queue = states.into_iter().find(|state| state.name == found.queue);
        answers.push(of_message(client, request, found, queue).await);
    }
    Ok(answers)
}

/// Says what holds up a message that a broker has. Workers are asked where only they know.
async fn of_message(client: &Client, request: &WhyRequest, found: Found, queue: Option<QueueState>) -> WhyAnswer {
    let (mut worker, mut reason) = (None, in_queue(&found.doing, queue.as_ref()));
    match &found.doing {
        Doing::Held { .. } => {
            worker = at_worker(client, &request.id).await;
            reason = worker.as_ref().and_then(|worker| worker.waits.clone());
        }
        Doing::Waiting { .. } if reason.is_none() => {
            let task = MessageBrief::read(&found.raw).task;
            reason = Some(in_line(&found.queue, &task, &serving(client, request.patience).await));
        }
        _ => {}
    }
    let place = TaskPlace::Broker { found: Box::new(found), queue: queue.map(Box::new), worker };
    WhyAnswer { id: request.id.clone(), reason, place }
}

/// Asks for a task where only its worker may know it. Who cannot be asked has said nothing.
async fn at_worker(client: &Client, id: &str) -> Option<TaskAtWorker> {
    tasks_at_workers(client, &[id]).await.ok()?.remove(id)
}

/// Returns why a message waits as far as its queue says it; `None` where the workers decide.
fn in_queue(doing: &Doing, queue: Option<&QueueState>) -> Option<WaitReason> {
    let paused = queue.and_then(|queue| Some(WaitReason::Paused { by: queue.paused.clone()?, since: queue.paused_since }));
    match doing {
        Doing::Waiting { .. } => paused,
        Doing::Later { due } => Some(paused.unwrap_or(WaitReason::Eta { due: Some(*due) })),
        Doing::Held { .. } | Doing::Dead { .. } => None,
    }
}

/// Queues, lanes and tasks that one worker serves, as it answers.
#[derive(Clone, Debug, Default)]
struct Serving {
    queues: Vec<String>,
    /// Lanes of a worker of ours; empty of others.
    lanes: Vec<LaneUse>,
    /// Lane of each task of a worker of ours, by the task's name.
    lane_of: BTreeMap<String, String>,
}

/// Asks the workers what they serve. Where they cannot be asked it is as if none were there.
async fn serving(client: &Client, patience: Duration) -> Vec<Serving> {
    let lane = Request::new("registered").argument("taskinfoitems", vec!["lane"]);
    let (queues, stats, tasks) = tokio::join!(
        ask(client.connected(), Request::new("active_queues"), patience),
        ask(client.connected(), Request::new("stats"), patience),
        ask(client.connected(), lane, patience),
    );
    let (stats, tasks) = (stats.unwrap_or_default(), tasks.unwrap_or_default());
    let reply_of = |replies: &[(String, Value)], node: &str| replies.iter().find(|(from, _)| from == node).map(|(_, reply)| reply.clone());
    let of_node = |(node, queues): (String, Value)| {
        let lanes = reply_of(&stats, &node).map(|stats| workers::lanes_of(&node, &stats)).unwrap_or_default();
        let tasks = reply_of(&tasks, &node).map(|tasks| read_registered(&tasks)).unwrap_or_default();
        let lane_of = tasks.into_iter().filter_map(|task| Some((task.task.clone(), task.item("lane")?.to_owned()))).collect();
        Serving { queues: names_of(&queues), lanes, lane_of }
    };
    queues.unwrap_or_default().into_iter().map(of_node).collect()
}

/// Returns why a task waits in a queue that is not paused: nobody serves it, every slot of its lane
/// is taken at all who do, or it is not its turn yet. A worker that does not tell its lanes
/// (Celery's) may have a slot free.
fn in_line(queue: &str, task: &str, workers: &[Serving]) -> WaitReason {
    let serving: Vec<&Serving> = workers.iter().filter(|worker| worker.queues.iter().any(|name| name == queue)).collect();
    if serving.is_empty() {
        return WaitReason::Unserved;
    }
    let full = |worker: &&Serving| {
        let lane = worker.lane_of.get(task)?;
        worker.lanes.iter().find(|of| of.lane == *lane && of.is_full()).cloned()
    };
    match serving.iter().map(full).collect() {
        Some(taken) => WaitReason::Slots { taken },
        None => WaitReason::Turn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(node: &str, queues: &[&str], lanes: &[(&str, u64, u64)]) -> Serving {
        let lane = |(lane, running, slots): &(&str, u64, u64)| LaneUse {
            node: node.to_owned(),
            lane: (*lane).to_owned(),
            running: *running,
            slots: *slots,
            waiting: None,
        };
        Serving {
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            lanes: lanes.iter().map(lane).collect(),
            lane_of: lanes.iter().map(|(lane, ..)| (format!("on.{lane}"), (*lane).to_owned())).collect(),
        }
    }

    #[test]
    fn what_waits_in_a_line_waits_for_a_worker_a_slot_or_its_turn() {
        let full = worker("full", &["q"], &[("process", 2, 2), ("async", 1, 9)]);
        let free = worker("free", &["q"], &[("process", 1, 2), ("async", 9, 9)]);
        let celerys = worker("celery", &["q"], &[]);
        let elsewhere = worker("elsewhere", &["r"], &[("process", 0, 2)]);
        for (task, workers, word, taken) in [
            ("on.process", vec![], "unserved", 0),
            ("on.process", vec![&elsewhere], "unserved", 0),
            ("on.process", vec![&full], "slots", 1),
            ("on.process", vec![&full, &elsewhere], "slots", 1),
            ("on.process", vec![&full, &full], "slots", 2),
            ("on.process", vec![&full, &free], "line", 0),
            ("on.process", vec![&full, &celerys], "line", 0),
            ("on.async", vec![&full], "line", 0),
            ("on.async", vec![&free], "slots", 1),
            ("nobody.knows", vec![&full], "line", 0),
        ] {
            let workers: Vec<Serving> = workers.into_iter().cloned().collect();
            let reason = in_line("q", task, &workers);
            let told = if let WaitReason::Slots { taken } = &reason { taken.len() } else { 0 };
            assert_eq!((reason.word(), told), (word, taken), "{task} {workers:?}");
        }
    }

    #[test]
    fn a_pause_comes_before_every_other_reason() {
        let paused = QueueState { paused: Some("ops@here".into()), ..QueueState::default() };
        let running = QueueState::default();
        let waiting = Doing::Waiting { place: 1, of: 1, since: None };
        let later = Doing::Later { due: SystemTime::UNIX_EPOCH };
        let held = Doing::Held { by: None, since: None };
        let dead = Doing::Dead { reason: "x".into() };
        for (doing, queue, word) in [
            (&waiting, Some(&paused), Some("paused")),
            (&waiting, Some(&running), None),
            (&waiting, None, None),
            (&later, Some(&paused), Some("paused")),
            (&later, Some(&running), Some("eta")),
            (&held, Some(&paused), None),
            (&dead, Some(&paused), None),
        ] {
            assert_eq!(in_queue(doing, queue).map(|reason| reason.word()), word, "{doing:?}");
        }
    }
}

//! What is held of a queue: lent and not acknowledged. By whom, and since when.
//!
//! A broker that lets anybody look says which messages are lent; workers say what they do with
//! them. Where the broker lets nobody look (RabbitMQ), workers alone are asked.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use longshore_brokers::{Doing, Found, mask};
use longshore_celery::{Value, args_repr, control::Request};
use longshore_worker::{Client, remote::ask};
use serde::Serialize;

use crate::{
    error::OpsError,
    message::{MessageBrief, SHOWN},
    remote::{TaskAtWorker, moment, tasks_at},
    wire,
};

/// Time for replies of workers. Whoever takes longer is busy, and the rest is shown.
const REPLIES: Duration = Duration::from_millis(800);
/// Most workers that are asked for one queue.
const MOST_ASKED: usize = 50;

/// Asks what is held of a queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeldRequest {
    /// The queue.
    pub queue: String,
    /// The most messages that are answered with (50).
    pub most: usize,
    /// The workers that serve it: they are asked what they do with it. None are asked where it is
    /// empty.
    pub workers: Vec<String>,
}

impl HeldRequest {
    /// Asks about one queue, and no worker.
    pub fn new(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), most: 50, workers: Vec::new() }
    }

    /// Also asks these workers.
    #[must_use]
    pub fn workers(self, workers: Vec<String>) -> Self {
        Self { workers, ..self }
    }
}

/// A part of what is held of a queue, the longest held first as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HeldList {
    /// Messages that are held.
    pub held: Vec<HeldMessage>,
    /// True where there may be more than these.
    pub more: bool,
    /// Reason that nothing, or not all, is known, as a sentence.
    pub hidden: Option<String>,
}

/// A message that is lent. Whatever nobody says is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HeldMessage {
    /// The task's id; empty where the message cannot be read.
    pub id: String,
    /// The task's name; empty where the message cannot be read.
    pub task: String,
    /// Its arguments as Python shows them, at most 128 characters.
    pub args: String,
    /// The worker that has it.
    pub worker: Option<String>,
    /// What it does there, in Celery's word: `active` (it runs), `reserved` (it waits for a slot),
    /// `scheduled` (it waits for its time).
    pub stage: Option<&'static str>,
    /// Moment since which it runs, or else is held.
    #[serde(serialize_with = "wire::some_moment")]
    pub since: Option<SystemTime>,
    /// Moment until which others leave it to its worker.
    #[serde(serialize_with = "wire::some_moment")]
    pub lease: Option<SystemTime>,
}

impl HeldMessage {
    fn of(found: &Found, now: SystemTime) -> Self {
        let brief = MessageBrief::read(&found.raw);
        let (worker, at) = match &found.doing {
            Doing::Held { by, since } => (by.clone(), *since),
            _ => (None, None),
        };
        // What lies ahead is until when others leave it alone.
        let (since, lease) = (at.filter(|at| *at <= now), at.filter(|at| *at > now));
        Self { id: brief.id, task: brief.task, args: brief.args, worker, stage: None, since, lease }
    }

    /// Reads an entry of a reply to `active`, `reserved` or `scheduled`. `None`: it is of another
    /// queue, or acknowledged, and so not held.
    fn told(node: &str, stage: &'static str, entry: &Value, queue: &str) -> Option<Self> {
        let entry = entry.get("request").unwrap_or(entry);
        let of = entry.get("queue").or_else(|| entry.get("delivery_info")?.get("routing_key")).and_then(Value::as_str)?;
        let is_done = matches!(entry.get("acknowledged"), Some(Value::Bool(true)));
        if of != queue || is_done {
            return None;
        }
        let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned).filter(|text| !text.is_empty());
        Some(Self {
            id: text("id").unwrap_or_default(),
            task: text("name").or_else(|| text("type")).unwrap_or_default(),
            args: entry.get("args").and_then(Value::as_list).map(|args| args_repr(args, SHOWN)).unwrap_or_default(),
            worker: Some(node.to_owned()),
            stage: Some(stage),
            since: moment(entry.get("time_start")),
            lease: None,
        })
    }

    /// Adds what a worker says of it.
    fn add(&mut self, at: &TaskAtWorker) {
        self.worker.get_or_insert_with(|| at.node.clone());
        self.stage = Some(at.stage.word());
        self.since = at.since.or(self.since);
    }
}

/// Looks what is held of a queue.
///
/// It costs one look at what is lent, and one question to the workers; where one of those does not
/// reply, most of a second.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn list(client: &Client, request: &HeldRequest) -> Result<HeldList, OpsError> {
    let asked: Vec<String> = request.workers.iter().take(MOST_ASKED).cloned().collect();
    let mut list = match &client.connected().inspect {
        Some(inspect) => {
            let (found, now) = (inspect.held(&request.queue, request.most + 1).await?, SystemTime::now());
            let mut held: Vec<HeldMessage> = found.iter().map(|found| HeldMessage::of(found, now)).collect();
            let ids: Vec<&str> = held.iter().map(|held| held.id.as_str()).filter(|id| !id.is_empty()).collect();
            // What a worker does not say is unknown; the rest is shown.
            let at = if ids.is_empty() { HashMap::new() } else { tasks_at(client, asked, &ids, REPLIES).await.unwrap_or_default() };
            held.iter_mut().for_each(|held| at.get(&held.id).into_iter().for_each(|at| held.add(at)));
            HeldList { held, ..HeldList::default() }
        }
        None => at_workers(client, request, asked).await?,
    };
    list.held.sort_by_key(|held| (held.since.is_none(), held.since, held.lease));
    list.more = list.held.len() > request.most;
    list.held.truncate(request.most);
    Ok(list)
}

/// Asks workers alone.
async fn at_workers(client: &Client, request: &HeldRequest, asked: Vec<String>) -> Result<HeldList, OpsError> {
    let url = mask(client.broker().url()).to_string();
    if asked.is_empty() {
        let hidden = format!("{url} shows nobody what is held, and no worker that answers serves this queue");
        return Ok(HeldList { hidden: Some(hidden), ..HeldList::default() });
    }
    let ask = |method| ask(client.connected(), Request::new(method).to(asked.clone()), REPLIES);
    let (active, reserved, scheduled) = tokio::join!(ask("active"), ask("reserved"), ask("scheduled"));
    let replies = [("active", active?), ("reserved", reserved?), ("scheduled", scheduled?)];
    let mute = asked.iter().filter(|node| replies.iter().any(|(_, from)| !from.iter().any(|(other, _)| other == *node)));
    let mute: Vec<&str> = mute.map(String::as_str).collect();
    let hidden = (!mute.is_empty())
        .then(|| format!("{url} shows nobody what is held, and {} did not say it within {} ms", mute.join(", "), REPLIES.as_millis()));
    let mut ids = BTreeSet::new();
    let entries = replies.iter().flat_map(|(stage, from)| from.iter().map(move |(node, reply)| (*stage, node, reply)));
    let held = entries
        .flat_map(|(stage, node, reply)| {
            let entries = reply.as_list().unwrap_or_default().iter();
            entries.filter_map(move |entry| HeldMessage::told(node, stage, entry, &request.queue))
        })
        // Between two of these questions a task may have begun.
        .filter(|held| ids.insert(held.id.clone()))
        .collect();
    Ok(HeldList { held, more: false, hidden })
}

#[cfg(test)]
mod tests {
    use longshore_celery::{Encoding, Message};

    use super::*;

    #[test]
    fn a_time_that_lies_ahead_is_a_lease_and_one_that_has_passed_is_a_beginning() {
        let now = SystemTime::now();
        let (past, ahead) = (now - Duration::from_secs(5), now + Duration::from_secs(5));
        let raw = Message { id: "i".into(), task: "t".into(), ..Message::default() }.encode(Encoding::Json);
        for (at, since, lease) in [(None, None, None), (Some(past), Some(past), None), (Some(ahead), None, Some(ahead))] {
            let found = Found { queue: "q".into(), doing: Doing::Held { by: Some("w@h".into()), since: at }, raw: raw.clone() };
            let held = HeldMessage::of(&found, now);
            assert_eq!((held.id.as_str(), held.task.as_str(), held.worker.as_deref()), ("i", "t", Some("w@h")));
            assert_eq!((held.since, held.lease), (since, lease));
        }
    }

    #[test]
    fn what_a_worker_has_acknowledged_or_has_of_another_queue_is_not_held() {
        let read = |stage, json: &str| HeldMessage::told("c@h", stage, &Value::parse(json.as_bytes(), 16).unwrap(), "q");
        let of_q = r#""delivery_info": {"routing_key": "q"}"#;
        let held =
            read("active", &format!(r#"{{"id": "i", "name": "t", "args": [1], "time_start": 1000.5, "acknowledged": false, {of_q}}}"#));
        let held = held.unwrap();
        assert_eq!((held.id.as_str(), held.task.as_str(), held.args.as_str(), held.stage), ("i", "t", "(1,)", Some("active")));
        assert_eq!(held.since, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500)));
        assert_eq!(read("scheduled", &format!(r#"{{"eta": "soon", "request": {{"id": "i", "type": "t", {of_q}}}}}"#)).unwrap().task, "t");
        for other in [
            format!(r#"{{"id": "i", "acknowledged": true, {of_q}}}"#),
            r#"{"id": "i", "delivery_info": {"routing_key": "other"}}"#.to_owned(),
            format!(r#"{{"id": "i", "queue": "other", {of_q}}}"#),
            "7".to_owned(),
        ] {
            assert_eq!(read("active", &other), None, "{other}");
        }
    }
}

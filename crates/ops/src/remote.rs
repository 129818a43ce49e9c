//! Workers' accounts of tasks: ours in full, Celery's as far as they know.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use longshore_celery::{Value, args_repr, control::Request, kwargs_repr};
use longshore_worker::{
    Client,
    remote::{PATIENCE, ask_until},
};

use crate::{
    error::OpsError,
    message::{SHOWN, cut},
    reason::{LaneUse, WaitReason},
};

/// A worker's account of a task that it has.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TaskAtWorker {
    /// The worker's node name.
    pub node: String,
    /// The task's stage there.
    pub stage: WorkerStage,
    /// Moment at which it began, if it runs.
    pub since: Option<SystemTime>,
    /// Reason that it waits, if it waits.
    pub waits: Option<WaitReason>,
    /// The task's name.
    pub task: Option<String>,
    /// The queue that it came from; of Celery's workers its routing key, which is mostly the same.
    pub queue: Option<String>,
    /// Its arguments as Python shows them, at most 128 characters.
    pub args: Option<String>,
}

/// Stage of a task at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerStage {
    /// It runs.
    Active,
    /// It waits for a free slot.
    Reserved,
    /// It waits for its time.
    Scheduled,
    /// It has just ended, which its worker is about to say.
    Ended,
}

impl WorkerStage {
    /// Returns Celery's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Reserved => "reserved",
            Self::Scheduled => "scheduled",
            Self::Ended => "ended",
        }
    }

    fn of(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "reserved" => Self::Reserved,
            "scheduled" => Self::Scheduled,
            _ => Self::Ended,
        }
    }
}

impl TaskAtWorker {
    /// Returns whether it runs.
    pub fn is_running(&self) -> bool {
        self.stage == WorkerStage::Active
    }

    /// Reads a worker's reply to `query_task`; `None` where it does not have the task.
    fn read(node: &str, reply: &Value, id: &str) -> Option<Self> {
        let known = reply.get(id)?.as_list()?;
        let (stage, info) = (WorkerStage::of(known.first()?.as_str()?), known.get(1)?);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned).filter(|text| !text.is_empty());
        let args = info.get("args").and_then(Value::as_list).map(|args| args_repr(args, SHOWN));
        let kwargs = info.get("kwargs").and_then(Value::as_map).filter(|kwargs| !kwargs.is_empty());
        let kwargs = kwargs.map(|kwargs| format!(" {}", kwargs_repr(kwargs, SHOWN))).unwrap_or_default();
        Some(Self {
            node: node.to_owned(),
            stage,
            since: moment(info.get("time_start")),
            waits: waits(node, stage, info.get("waits")),
            task: text(info.get("type")).or_else(|| text(info.get("name"))),
            queue: text(info.get("delivery_info").and_then(|info| info.get("routing_key"))),
            args: args.map(|args| cut(&format!("{args}{kwargs}"), SHOWN)),
        })
    }
}

/// Reads seconds since 1970.
pub(crate) fn moment(value: Option<&Value>) -> Option<SystemTime> {
    let seconds = Duration::try_from_secs_f64(value?.as_f64()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(seconds)
}

/// Returns what a task waits for at a worker. Workers of ours say it (`waits`); of Celery's it
/// follows from what the task does there.
fn waits(node: &str, stage: WorkerStage, said: Option<&Value>) -> Option<WaitReason> {
    let of = |name: &str| said.and_then(|said| said.get(name));
    let word = of("for").and_then(Value::as_str);
    let number = |name: &str| of(name).and_then(Value::as_i64).and_then(|number| u64::try_from(number).ok());
    match (stage, word) {
        (WorkerStage::Active | WorkerStage::Ended, _) => None,
        (WorkerStage::Reserved, Some("alone")) => {
            let crashes = number("crashes").and_then(|crashes| u32::try_from(crashes).ok());
            Some(WaitReason::Alone { crashes: crashes.unwrap_or(1) })
        }
        (WorkerStage::Reserved, _) => {
            let lane = of("lane").and_then(Value::as_str);
            let use_of = |(lane, running, slots): (&str, u64, u64)| LaneUse {
                node: node.to_owned(),
                lane: lane.to_owned(),
                running,
                slots,
                waiting: None,
            };
            let taken = lane.zip(number("running")).zip(number("slots")).map(|((lane, running), slots)| use_of((lane, running, slots)));
            Some(WaitReason::Slots { taken: taken.into_iter().filter(LaneUse::is_full).collect() })
        }
        (WorkerStage::Scheduled, Some("rate")) => {
            let rate = of("rate").and_then(Value::as_str).map(str::to_owned);
            Some(WaitReason::Rate { rate, due: moment(of("until")) })
        }
        (WorkerStage::Scheduled, _) => Some(WaitReason::Eta { due: moment(of("until")) }),
    }
}

/// Asks workers which of these tasks they have. What was acknowledged before it began is known to
/// nobody else; nor is it known where remote control is off. Where not every task is found, the
/// answer takes a second, which is how long replies are waited for.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn tasks_at_workers(client: &Client, ids: &[&str]) -> Result<HashMap<String, TaskAtWorker>, OpsError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let request = Request::new("query_task").argument("ids", ids.to_vec());
    let at = |id: &str, from: &[(String, Value)]| from.iter().find_map(|(node, reply)| TaskAtWorker::read(node, reply, id));
    let from = ask_until(client.connected(), request, PATIENCE, |from| ids.iter().all(|id| at(id, from).is_some())).await?;
    Ok(ids.iter().filter_map(|id| Some(((*id).to_owned(), at(id, &from)?))).collect())
}

/// Asks these workers which of these tasks they have, for so long; none are asked where none are
/// named.
pub(crate) async fn tasks_at(
    client: &Client,
    nodes: Vec<String>,
    ids: &[&str],
    within: Duration,
) -> Result<HashMap<String, TaskAtWorker>, OpsError> {
    if nodes.is_empty() {
        return Ok(HashMap::new());
    }
    let most = nodes.len();
    let request = Request::new("query_task").argument("ids", ids.to_vec()).to(nodes);
    let at = |id: &str, from: &[(String, Value)]| from.iter().find_map(|(node, reply)| TaskAtWorker::read(node, reply, id));
    let enough = |from: &[(String, Value)]| from.len() >= most || ids.iter().all(|id| at(id, from).is_some());
    let from = ask_until(client.connected(), request, within, enough).await?;
    Ok(ids.iter().filter_map(|id| Some(((*id).to_owned(), at(id, &from)?))).collect())
}

#[cfg(test)]
mod tests {
    use longshore_celery::Map;

    use super::*;

    #[test]
    fn a_worker_says_what_a_task_does_there() {
        let reply = r#"{"a": ["active", {"id": "a", "type": "t", "args": [1], "time_start": 1000.5, "delivery_info": {"routing_key": "q"}}],
            "b": ["reserved", {"id": "b", "time_start": null}], "c": 7}"#;
        let reply = Value::parse(reply.as_bytes(), 16).unwrap();
        let at = |id: &str| TaskAtWorker::read("w@h", &reply, id);
        let running = at("a").unwrap();
        assert_eq!(running.since, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500)));
        assert!(running.is_running() && running.waits.is_none());
        assert_eq!((running.task.as_deref(), running.queue.as_deref(), running.args.as_deref()), (Some("t"), Some("q"), Some("(1,)")));
        assert_eq!(at("b").unwrap().waits, Some(WaitReason::Slots { taken: Vec::new() }));
        assert_eq!((at("c"), at("d")), (None, None));
    }

    #[test]
    fn a_worker_says_why_a_task_waits_there() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let lane = |running| LaneUse { node: "w@h".into(), lane: "process".into(), running, slots: 2, waiting: None };
        for (stage, said, want) in [
            ("active", r#"{"for": "slot"}"#, None),
            ("ready", "{}", None),
            ("reserved", r#"{"for": "alone", "crashes": 2}"#, Some(WaitReason::Alone { crashes: 2 })),
            ("reserved", r#"{"for": "alone"}"#, Some(WaitReason::Alone { crashes: 1 })),
            (
                "reserved",
                r#"{"for": "slot", "lane": "process", "slots": 2, "running": 2}"#,
                Some(WaitReason::Slots { taken: vec![lane(2)] }),
            ),
            ("reserved", r#"{"for": "slot", "lane": "process", "slots": 2, "running": 1}"#, Some(WaitReason::Slots { taken: vec![] })),
            ("reserved", "null", Some(WaitReason::Slots { taken: vec![] })),
            (
                "scheduled",
                r#"{"for": "rate", "rate": "10/m", "until": 1005.0}"#,
                Some(WaitReason::Rate { rate: Some("10/m".into()), due: at(1005) }),
            ),
            ("scheduled", r#"{"for": "eta", "until": 1090.0}"#, Some(WaitReason::Eta { due: at(1090) })),
            ("scheduled", "null", Some(WaitReason::Eta { due: None })),
        ] {
            let info = Map::from_iter([("waits", Value::parse(said.as_bytes(), 8).unwrap())]);
            let entry = Value::List(vec![stage.into(), Value::Map(info)]);
            let told = TaskAtWorker::read("w@h", &Value::Map(Map::from_iter([("i", entry)])), "i").unwrap();
            assert_eq!(told.waits, want, "{stage} {said}");
        }
    }
}

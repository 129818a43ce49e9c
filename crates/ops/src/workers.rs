//! Running workers, ours and Celery's: who is there, and what they are told to do.

use std::{collections::BTreeMap, time::Duration};

use longshore_brokers::mask;
use longshore_celery::{Map, Value, control::Request};
use longshore_core::{Rate, watch::View};
use longshore_worker::{
    Client,
    remote::{PATIENCE, ask, tell},
};
use serde::Serialize;

use crate::{error::OpsError, reason::LaneUse};

/// The command by which a worker of ours tells its view, as JSON.
const VIEW: &str = "longshore_view";

/// Asks which workers are there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkersRequest {
    /// Only these nodes; all where it is empty.
    pub nodes: Vec<String>,
    /// Time for which replies are waited for (1 s). Where nodes are named, the answer comes as soon
    /// as all of them have replied.
    pub patience: Duration,
}

impl Default for WorkersRequest {
    fn default() -> Self {
        Self { nodes: Vec::new(), patience: PATIENCE }
    }
}

/// One worker, as it tells of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its node name.
    pub node: String,
    /// Its process.
    pub pid: i64,
    /// Number of tasks that it can run at once, on all lanes together.
    pub slots: i64,
    /// Number of tasks that it has taken since it started.
    pub processed: i64,
    /// Time since it started, in whole seconds when serialised.
    #[serde(rename = "uptime", serialize_with = "whole_seconds")]
    pub uptime: Duration,
    /// The queues that it serves.
    pub queues: Vec<String>,
    /// Its lanes with what runs on each; empty (and not serialised) for one of Celery's, which has
    /// none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<LaneUse>,
    /// True of one of longshore's, which can be asked for its [view](views).
    #[serde(skip)]
    pub is_ours: bool,
    /// Number of messages of each queue that have come to their end there; `None` for one of
    /// Celery's, which does not count so.
    #[serde(skip)]
    pub ended: Option<BTreeMap<String, u64>>,
}

fn whole_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_secs())
}

/// One worker's reply.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerReply {
    /// Its node name.
    pub node: String,
    /// Its reply in Celery's words: `{"ok": …}`, `{"error": …}`, or what was asked for.
    pub reply: Value,
}

impl WorkerReply {
    /// Returns why the worker did not do it; `None` where it did.
    pub fn error(&self) -> Option<&str> {
        self.reply.get("error").and_then(Value::as_str)
    }
}

/// All that one worker says of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerDetail {
    /// Its replies by the name of the command, in Celery's words: `stats`, `active_queues`,
    /// `registered`, `active`, `reserved`, `scheduled`, `revoked`, `conf`.
    #[serde(flatten)]
    pub said: Map,
}

/// One store: a broker, or a result backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StoreInfo {
    /// Its URL, without its password.
    pub url: String,
    /// Its name and version.
    pub version: String,
    /// Time of one round trip, in milliseconds.
    pub round_trip_ms: f64,
}

/// Both stores of a client.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stores {
    /// The broker, where tasks wait.
    pub broker: StoreInfo,
    /// The result backend, where results are stored.
    pub results: StoreInfo,
}

/// Something that workers are told to do.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WorkerAction {
    /// Stop warmly: what runs ends first. Who stops does not reply.
    Shutdown,
    /// Run so many slots more, or fewer where the number is negative.
    Grow(i64),
    /// Scale by themselves between these numbers of slots; what is absent stays.
    Autoscale {
        /// The most slots.
        max: Option<i64>,
        /// The fewest slots.
        min: Option<i64>,
    },
    /// Serve a queue too.
    Serve {
        /// The queue.
        queue: String,
    },
    /// Serve a queue no more.
    Leave {
        /// The queue.
        queue: String,
    },
    /// Start a task's calls at most so often, each worker by itself.
    SetRate {
        /// The task's name.
        task: String,
        /// The rate; `None`: no limit.
        rate: Option<Rate>,
    },
    /// End a task's calls after so long.
    SetTimeLimit {
        /// The task's name.
        task: String,
        /// Time after which a call is told to end; `None`: no limit.
        soft: Option<Duration>,
        /// Time after which it is ended; `None`: no limit.
        hard: Option<Duration>,
    },
    /// Call tasks off: they are not started any more, nor by workers that come later.
    Revoke {
        /// The tasks' ids.
        ids: Vec<String>,
        /// Also end those that run, with this signal.
        signal: Option<String>,
    },
    /// Any other command of Celery's remote control.
    Command(Request),
}

/// Report of what came of an action, by worker.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WorkerDone {
    /// These workers replied.
    Replied(Vec<WorkerReply>),
    /// These workers were there and were told; they do not reply.
    Told(Vec<String>),
}

impl WorkerAction {
    /// Returns the action that a request of Celery's stands for.
    pub fn of(request: Request) -> Self {
        match request.method.as_str() {
            "shutdown" => Self::Shutdown,
            _ => Self::Command(request),
        }
    }

    /// Returns the request that says it in Celery's words.
    pub(crate) fn request(&self) -> Request {
        let text = |value: &str| Value::from(value);
        match self {
            Self::Shutdown => Request::new("shutdown"),
            Self::Grow(more) if *more >= 0 => Request::new("pool_grow").argument("n", *more),
            Self::Grow(more) => Request::new("pool_shrink").argument("n", more.saturating_neg()),
            Self::Autoscale { max, min } => {
                let bounds = [("max", max), ("min", min)].into_iter();
                bounds
                    .filter_map(|(name, bound)| Some((name, (*bound)?)))
                    .fold(Request::new("autoscale"), |to, (name, bound)| to.argument(name, bound))
            }
            Self::Serve { queue } => Request::new("add_consumer").argument("queue", text(queue)),
            Self::Leave { queue } => Request::new("cancel_consumer").argument("queue", text(queue)),
            Self::SetRate { task, rate } => {
                Request::new("rate_limit").argument("task_name", text(task)).argument("rate_limit", text(&rate_words(*rate)))
            }
            Self::SetTimeLimit { task, soft, hard } => {
                let seconds = |limit: &Option<Duration>| Value::from(limit.map(|limit| limit.as_secs_f64()));
                Request::new("time_limit").argument("task_name", text(task)).argument("soft", seconds(soft)).argument("hard", seconds(hard))
            }
            Self::Revoke { ids, signal } => {
                let request = Request::new("revoke").argument("task_id", ids.clone());
                match signal {
                    Some(signal) => request.argument("terminate", true).argument("signal", text(signal)),
                    None => request,
                }
            }
            Self::Command(request) => request.clone(),
        }
    }
}

/// Returns a rate in Celery's words: `10/s`, `30/m`, `5/h`; `0` is no limit.
fn rate_words(rate: Option<Rate>) -> String {
    let Some(rate) = rate else { return "0".to_owned() };
    match rate.per.as_secs_f64() {
        60.0 => format!("{}/m", rate.count),
        3600.0 => format!("{}/h", rate.count),
        seconds => format!("{}/s", rate.count / seconds),
    }
}

/// Looks which workers are there, in the order of their names.
///
/// # Errors
/// [`OpsError::NoWorkers`]; the broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn list(client: &Client, request: &WorkersRequest) -> Result<Vec<WorkerInfo>, OpsError> {
    let to = |method: &str| Request::new(method).to(request.nodes.clone());
    let (stats, queues) = tokio::join!(
        ask(client.connected(), to("stats"), request.patience),
        ask(client.connected(), to("active_queues"), request.patience),
    );
    let (stats, queues) = (stats?, queues?);
    if stats.is_empty() {
        return Err(OpsError::NoWorkers);
    }
    let queues_of = |node: &str| queues.iter().find(|(other, _)| other == node).map(|(_, queues)| names_of(queues));
    Ok(stats.iter().map(|(node, stats)| info(node, stats, queues_of(node).unwrap_or_default())).collect())
}

/// Asks one worker for all that it says of itself.
///
/// # Errors
/// As [`list`].
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn show(client: &Client, node: &str) -> Result<WorkerDetail, OpsError> {
    let mut said = Map::default();
    for method in ["stats", "active_queues", "registered", "active", "reserved", "scheduled", "revoked", "conf"] {
        let replies = ask(client.connected(), Request::new(method).to([node]), PATIENCE).await?;
        let Some((_, value)) = replies.into_iter().next() else { return Err(OpsError::NoWorkers) };
        said.set(method, value);
    }
    Ok(WorkerDetail { said })
}

/// Asks workers whether one of them knows a task. `None` where nobody answers within this time, so
/// that it is unknown.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn knows(client: &Client, task: &str, within: Duration) -> Result<Option<bool>, OpsError> {
    let replies = ask(client.connected(), Request::new("registered"), within).await?;
    Ok((!replies.is_empty()).then(|| replies.iter().any(|(_, names)| is_registered(names, task))))
}

/// Returns whether a reply to `registered` names a task: `name`, or `name [rate_limit=10/s]`.
fn is_registered(names: &Value, task: &str) -> bool {
    let names = names.as_list().unwrap_or_default().iter().filter_map(Value::as_str);
    names.map(|name| name.split_once(" [").map_or(name, |(name, _)| name)).any(|name| name == task)
}

/// Asks workers one of Celery's questions; nobody need reply.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn inspect(client: &Client, question: Request, whom: &WorkersRequest) -> Result<Vec<WorkerReply>, OpsError> {
    let replies = ask(client.connected(), question.to(whom.nodes.clone()), whom.patience).await?;
    Ok(replies.into_iter().map(|(node, reply)| WorkerReply { node, reply }).collect())
}

/// Tells workers to do something, and collects their replies. What is called off is remembered by
/// the broker too, for workers that come later.
///
/// # Errors
/// [`OpsError::NoWorkers`] where workers are to stop and none is there; the broker cannot be
/// reached, or refuses: then it is unknown who was told.
///
/// # Cancel safety
/// What is cancelled may have been told.
pub async fn act(client: &Client, action: &WorkerAction, whom: &WorkersRequest) -> Result<WorkerDone, OpsError> {
    let request = action.request().to(whom.nodes.clone());
    if *action == WorkerAction::Shutdown {
        // Who stops does not reply, so it is asked first who is there.
        let there = inspect(client, Request::new("ping"), whom).await?;
        if there.is_empty() {
            return Err(OpsError::NoWorkers);
        }
        tell(client.connected(), request).await?;
        return Ok(WorkerDone::Told(there.into_iter().map(|reply| reply.node).collect()));
    }
    if request.method == "revoke"
        && let Some(ids) = request.arguments.get("task_id").and_then(Value::as_list)
    {
        // For workers that start later, too.
        let ids: Vec<String> = ids.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        client.connected().shared()?.revoke(&ids).await?;
    }
    Ok(WorkerDone::Replied(inspect(client, request, whom).await?))
}

/// Calls both stores.
///
/// # Errors
/// One of them cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn stores(client: &Client) -> Result<Stores, OpsError> {
    let info = |url: &str, (version, took): (String, Duration)| StoreInfo {
        url: mask(url).to_string(),
        version,
        round_trip_ms: took.as_secs_f64() * 1e3,
    };
    let broker = info(client.broker().url(), client.broker().ping().await?);
    Ok(Stores { broker, results: info(client.results().url(), client.results().ping().await?) })
}

/// A worker of ours as it looks at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerView {
    /// Its node name.
    pub node: String,
    /// Its view: lanes, what runs and waits, counts and times by queue and task, connections.
    pub view: View,
}

/// Asks longshore's workers what they look like. Celery's are not asked, nor do workers of before
/// answer that did not know the question.
///
/// # Errors
/// As [`list`].
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn views(client: &Client, request: &WorkersRequest) -> Result<Vec<WorkerView>, OpsError> {
    // Celery's workers log an error where a command is unknown to them, so it is asked first whose
    // is who.
    let there = list(client, request).await?;
    let ours: Vec<String> = there.into_iter().filter(|worker| worker.is_ours).map(|worker| worker.node).collect();
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let replies = ask(client.connected(), Request::new(VIEW).to(ours), request.patience).await?;
    Ok(replies.iter().filter_map(|(node, reply)| view_of(node, reply)).collect())
}

/// Reads a reply to [`VIEW`]; `None` for a worker that does not know the question, or is at its
/// end.
fn view_of(node: &str, reply: &Value) -> Option<WorkerView> {
    let view = serde_json::from_str(reply.get("ok")?.as_str()?).ok()?;
    Some(WorkerView { node: node.to_owned(), view })
}

/// Reads from a reply to `stats` whether the worker is one of longshore's.
fn is_ours(stats: &Value) -> bool {
    let implementation = stats.get("pool").and_then(|pool| pool.get("implementation")).and_then(Value::as_str);
    implementation.is_some_and(|name| name.starts_with("longshore"))
}

/// Reads the queues' names of a reply to `active_queues`.
pub(crate) fn names_of(queues: &Value) -> Vec<String> {
    let queues = queues.as_list().unwrap_or_default();
    queues.iter().filter_map(|queue| Some(queue.get("name")?.as_str()?.to_owned())).collect()
}

/// Reads the lanes of a reply to `stats`; none for a worker of Celery's.
pub(crate) fn lanes_of(node: &str, stats: &Value) -> Vec<LaneUse> {
    let count = |of: &str, lane: &str| u64::try_from(stats.get(of)?.get(lane)?.as_i64()?).ok();
    let lanes = stats.get("lanes").and_then(Value::as_map).into_iter().flat_map(Map::iter);
    lanes
        .filter_map(|(lane, _)| {
            let (slots, running) = (count("lanes", lane)?, count("running", lane)?);
            Some(LaneUse { node: node.to_owned(), lane: lane.to_owned(), running, slots, waiting: count("waiting", lane) })
        })
        .collect()
}

/// Reads how many messages of each queue a worker has ended, from a reply to `stats`.
pub(crate) fn ended_of(stats: &Value) -> Option<BTreeMap<String, u64>> {
    counts_of(stats, "queues")
}

/// Reads how many tasks of each queue a worker runs, from a reply to `stats`; `None` for one that
/// does not say it: Celery's, and one of before.
pub(crate) fn running_of(stats: &Value) -> Option<BTreeMap<String, u64>> {
    counts_of(stats, "running_by_queue")
}

/// Reads counts by name.
fn counts_of(stats: &Value, of: &str) -> Option<BTreeMap<String, u64>> {
    let counts = stats.get(of)?.as_map()?;
    Some(counts.iter().filter_map(|(name, count)| Some((name.to_owned(), u64::try_from(count.as_i64()?).ok()?))).collect())
}

/// Returns how many processes a pool of Celery's has. Its `max-concurrency` stays what it was at
/// the start, however the pool grew or shrank.
fn pool_slots(pool: &Value) -> Option<i64> {
    let is_celerys = pool.get("implementation").and_then(Value::as_str).is_some_and(|name| name.starts_with("celery."));
    let processes = pool.get("processes").filter(|_| is_celerys)?.as_list()?;
    i64::try_from(processes.len()).ok().filter(|count| *count > 0)
}

/// Reads a worker's own account, from a reply to `stats`.
pub(crate) fn info(node: &str, stats: &Value, queues: Vec<String>) -> WorkerInfo {
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_i64).unwrap_or_default();
    let total = stats.get("total").and_then(Value::as_map);
    let lanes = lanes_of(node, stats);
    // A heartbeat's account has no pool.
    let all_lanes = || lanes.iter().map(|lane| i64::try_from(lane.slots).unwrap_or(i64::MAX)).sum();
    WorkerInfo {
        node: node.to_owned(),
        pid: number(stats, "pid"),
        slots: stats.get("pool").map_or_else(all_lanes, |pool| pool_slots(pool).unwrap_or_else(|| number(pool, "max-concurrency"))),
        processed: total.map_or(0, |total| total.iter().filter_map(|(_, count)| count.as_i64()).sum()),
        uptime: Duration::from_secs(u64::try_from(number(stats, "uptime")).unwrap_or_default()),
        queues,
        lanes,
        is_ours: is_ours(stats),
        ended: ended_of(stats),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_becomes_the_command_that_celerys_workers_know() {
        let set = |rate| WorkerAction::SetRate { task: "t".into(), rate };
        for (action, method, want) in [
            (WorkerAction::Shutdown, "shutdown", "{}"),
            (WorkerAction::Grow(3), "pool_grow", r#"{"n": 3}"#),
            (WorkerAction::Grow(-2), "pool_shrink", r#"{"n": 2}"#),
            (WorkerAction::Autoscale { max: Some(8), min: None }, "autoscale", r#"{"max": 8}"#),
            (WorkerAction::Serve { queue: "q".into() }, "add_consumer", r#"{"queue": "q"}"#),
            (WorkerAction::Leave { queue: "q".into() }, "cancel_consumer", r#"{"queue": "q"}"#),
            (
                set(Some(Rate { per: Duration::from_secs(60), ..Rate::per_second(10.0) })),
                "rate_limit",
                r#"{"task_name": "t", "rate_limit": "10/m"}"#,
            ),
            (set(Some(Rate::per_second(2.5))), "rate_limit", r#"{"task_name": "t", "rate_limit": "2.5/s"}"#),
            (
                WorkerAction::SetTimeLimit { task: "t".into(), soft: Some(Duration::from_millis(1_500)), hard: None },
                "time_limit",
                r#"{"task_name": "t", "soft": 1.5, "hard": null}"#,
            ),
            (set(None), "rate_limit", r#"{"task_name": "t", "rate_limit": "0"}"#),
            (WorkerAction::Revoke { ids: vec!["a".into()], signal: None }, "revoke", r#"{"task_id": ["a"]}"#),
            (
                WorkerAction::Revoke { ids: vec!["a".into()], signal: Some("KILL".into()) },
                "revoke",
                r#"{"task_id": ["a"], "terminate": true, "signal": "KILL"}"#,
            ),
        ] {
            let request = action.request();
            let got = String::from_utf8(Value::Map(request.arguments).to_json()).unwrap();
            assert_eq!((request.method.as_str(), got.as_str()), (method, want), "{action:?}");
        }
    }

    #[test]
    fn a_task_is_known_by_its_whole_name() {
        let names = Value::parse(br#"["shop.add", "shop.slow [rate_limit=10/s]", 7]"#, 8).unwrap();
        for (task, known) in [("shop.add", true), ("shop.slow", true), ("shop.ad", false), ("shop.slow [rate_limit=10/s]", false)] {
            assert_eq!(is_registered(&names, task), known, "{task}");
        }
        assert!(!is_registered(&Value::Null, "shop.add"));
    }

    #[test]
    fn a_view_is_read_where_there_is_one() {
        let mut view = View::default();
        view.name = "w@h".into();
        let json = serde_json::to_string(&view).unwrap();
        let ok = |text: &str| Value::Map(Map::from_iter([("ok", Value::from(text))]));
        assert_eq!(view_of("w@h", &ok(&json)).map(|read| (read.node, read.view.name)), Some(("w@h".into(), "w@h".into())));
        // A worker of before, one at its end, and one that is asked by somebody else.
        let error = Value::Map(Map::from_iter([("error", Value::from("KeyError('longshore_view')"))]));
        for reply in [error, ok("no json"), Value::Null] {
            assert_eq!(view_of("w@h", &reply), None, "{reply:?}");
        }
    }

    #[test]
    fn a_worker_is_known_as_far_as_it_tells_of_itself() {
        let value = |json: &str| Value::parse(json.as_bytes(), 16).unwrap();
        let ours = value(
            r#"{"pid": 7, "uptime": 90, "pool": {"max-concurrency": 12, "implementation": "longshore: lanes"}, "total": {"a": 2, "b": 3}, "queues": {"q": 5},
                "lanes": {"process": 2, "async": 10}, "running": {"process": 2, "async": 0}}"#,
        );
        let known = info("w@h", &ours, vec!["q".into()]);
        let json = serde_json::to_string(&known).unwrap();
        assert!(json.starts_with(r#"{"node":"w@h","pid":7,"slots":12,"processed":5,"uptime":90,"queues":["q"],"lanes":[{"#), "{json}");
        let lanes: Vec<_> = known.lanes.iter().map(|lane| (lane.lane.as_str(), lane.running, lane.slots, lane.is_full())).collect();
        assert_eq!(lanes, [("process", 2, 2, true), ("async", 0, 10, false)]);
        assert_eq!(known.ended.as_ref().unwrap()["q"], 5);
        let celerys = info("c@h", &value(r#"{"total": {}, "pool": {"max-concurrency": 4}}"#), Vec::new());
        assert_eq!((celerys.slots, celerys.lanes.len(), &celerys.ended), (4, 0, &None));
        assert!(known.is_ours && !celerys.is_ours);
        // A pool that has grown since it began.
        let pool = r#"{"total": {}, "pool": {"implementation": "celery.concurrency.prefork:TaskPool", "max-concurrency": 4, "processes": [7, 8, 9, 10, 11]}}"#;
        assert_eq!(info("c@h", &value(pool), Vec::new()).slots, 5);
        let json = r#"{"node":"c@h","pid":0,"slots":4,"processed":0,"uptime":0,"queues":[]}"#;
        assert_eq!(serde_json::to_string(&celerys).unwrap(), json);
        assert_eq!(names_of(&value(r#"[{"name": "q"}, {"name": "r"}, 5]"#)), ["q", "r"]);
        assert_eq!(names_of(&Value::Null), [""; 0]);
    }
}

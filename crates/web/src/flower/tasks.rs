//! Tasks and their results, as Flower tells them.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use jiff::civil::DateTime;
use longshore_celery::repr;
use longshore_ops::{
    OpsError,
    tasks::{self, TaskInfo, TaskStanding, TasksRequest},
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{FlowerDoor, Refused, Told, argument, bad_request, filter, parsed, search};
use crate::{
    error::WebError,
    frame::PageRequest,
    history::{SortKey, ToldQuery, ToldTask},
};

/// Most tasks of one answer.
const MOST: i64 = 10_000;
/// Longest time for which a result is waited.
const LONGEST_WAIT: f64 = 60.0;
/// Time for a store of results.
const STORE_WITHIN: Duration = Duration::from_secs(10);
/// Sentence for answers that stand on the broker and the results alone.
const NO_HISTORY: &str = "times, retries and ended tasks without a result: no history is kept here";

/// Tasks by their ids, in an order.
pub(super) struct ById(Vec<ToldTask>);

impl Serialize for ById {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|task| {
            let mut members = serde_json::to_value(task).unwrap_or_default();
            // A list leaves out a worker that is not known.
            if let (None, Some(members)) = (&task.worker, members.as_object_mut()) {
                members.remove("worker");
            }
            (&task.uuid, members)
        }))
    }
}

fn sort(request: &PageRequest) -> Result<Option<(SortKey, bool)>, WebError> {
    let Some(text) = argument(request, "sort_by").filter(|text| !text.is_empty()) else { return Ok(None) };
    let key = match text.trim_start_matches('-') {
        "name" => SortKey::Name,
        "state" => SortKey::State,
        "received" => SortKey::Received,
        "started" => SortKey::Started,
        _ => return Err(bad_request(format!("Invalid sort_by '{text}', expected one of name, received, started, state"))),
    };
    Ok(Some((key, text.starts_with('-'))))
}

/// Reads a time of the local clock.
fn moment(request: &PageRequest, name: &str) -> Result<Option<String>, WebError> {
    let wrong = || bad_request("Invalid received_start or received_end, expected format 'YYYY-MM-DD HH:MM'".to_owned());
    let text = argument(request, name).filter(|text| !text.is_empty());
    let read = |text| DateTime::strptime("%Y-%m-%d %H:%M", text).map(|time| time.strftime("%Y-%m-%d %H:%M").to_string());
    text.map(|text| read(text).map_err(|_| wrong())).transpose()
}

fn query(request: &PageRequest, hide_args: bool) -> Result<ToldQuery, Refused> {
    let whole = |name: &str| parsed(request, name, "int", |text| text.parse::<i64>().ok());
    let (limit, offset) = (whole("limit")?, whole("offset")?);
    let sort = sort(request)?;
    let matching = argument(request, "search").map(search::read).transpose();
    let matching = matching.map_err(Refused::Search)?.flatten();
    Ok(ToldQuery {
        task: filter(request, "taskname"),
        worker: filter(request, "workername"),
        state: filter(request, "state"),
        received: [moment(request, "received_start")?, moment(request, "received_end")?],
        matching,
        sort,
        offset: offset.unwrap_or(0),
        limit: limit.unwrap_or(MOST).clamp(0, MOST),
        hide_args,
    })
}

/// Answers tasks by their ids.
pub(super) async fn list(door: Arc<FlowerDoor>, request: Arc<PageRequest>) -> Result<Told<ById>, Refused> {
    let query = query(&request, door.hide_args)?;
    // Who asks for so many wants no more.
    let wants_all = argument(&request, "limit").is_none_or(|limit| limit.parse().is_ok_and(|limit: i64| limit > MOST));
    let (tasks, rest, lacks) = match &door.deployment.feed.history {
        Some(history) => {
            let (tasks, rest) = history.told(query).await?;
            (tasks, rest, None)
        }
        None => {
            let (tasks, rest) = of_broker(&door, &query).await?;
            (tasks, rest, Some(NO_HISTORY))
        }
    };
    Ok(Told { facts: ById(tasks), left_out: if wants_all { rest } else { 0 }, lacks })
}

/// Answers the names of tasks that were seen.
pub(super) async fn types(door: Arc<FlowerDoor>, _request: Arc<PageRequest>) -> Result<Told<Value>, Refused> {
    let (names, lacks) = match &door.deployment.feed.history {
        Some(history) => (history.names().await?, None),
        None => {
            let mut names: Vec<String> = known(&door).await?.into_iter().filter_map(|task| task.task).collect();
            names.sort_unstable();
            names.dedup();
            (names, Some(NO_HISTORY))
        }
    };
    Ok(Told { facts: json!({"task-types": names}), left_out: 0, lacks })
}

/// Answers one task: from the history, or else from whoever has it.
pub(super) async fn info(door: Arc<FlowerDoor>, request: Arc<PageRequest>) -> Result<Told<ToldTask>, Refused> {
    let id = request.param("id");
    if let Some(history) = &door.deployment.feed.history
        && let Some(told) = history.told_one(id, door.hide_args).await?
    {
        return Ok(told.into());
    }
    match tasks::show(&door.deployment.client, id).await {
        Ok(found) => {
            let lacks = Some("times and retries: the history has heard nothing of this task");
            Ok(Told { facts: told(&found.info, door.hide_args), left_out: 0, lacks })
        }
        Err(OpsError::UnknownTask { .. } | OpsError::UnseenTask { .. }) => {
            Err(WebError::new(StatusCode::NOT_FOUND, format!("Unknown task '{id}'")).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns tasks that the broker, its workers and the store of results know.
async fn known(door: &FlowerDoor) -> Result<Vec<TaskInfo>, WebError> {
    let mut request = TasksRequest::default();
    request.most = usize::try_from(MOST).unwrap_or(usize::MAX);
    Ok(tasks::list(&door.deployment.client, &request).await?.tasks)
}

async fn of_broker(door: &FlowerDoor, query: &ToldQuery) -> Result<(Vec<ToldTask>, i64), WebError> {
    if query.matching.is_some() {
        return Err(WebError::new(StatusCode::SERVICE_UNAVAILABLE, "a search needs the history, and none is kept here"));
    }
    let mut found: Vec<ToldTask> = known(door).await?.iter().map(|info| told(info, door.hide_args)).collect();
    let is = |wanted: &Option<String>, has: Option<&str>| {
        wanted.as_ref().is_none_or(|wanted| has.is_some_and(|has| has.to_lowercase() == wanted.to_lowercase()))
    };
    found.retain(|task| {
        is(&query.task, task.name.as_deref()) && is(&query.worker, task.worker.as_deref()) && is(&query.state, Some(&task.state))
    });
    if let Some((key, down)) = query.sort {
        found.sort_by(|one, other| {
            let order = match key {
                SortKey::Name => one.name.cmp(&other.name),
                SortKey::State => one.state.cmp(&other.state),
                SortKey::Received | SortKey::Started => std::cmp::Ordering::Equal,
            };
            let order = order.then_with(|| one.uuid.cmp(&other.uuid));
            if down { order.reverse() } else { order }
        });
    }
    let count = |number: i64| usize::try_from(number.max(0)).unwrap_or(usize::MAX);
    let mut tasks = found.split_off(count(query.offset).min(found.len()));
    let rest = tasks.len().saturating_sub(count(query.limit));
    tasks.truncate(count(query.limit));
    Ok((tasks, i64::try_from(rest).unwrap_or(i64::MAX)))
}

/// Tells of a task what is known without a history.
fn told(info: &TaskInfo, hide_args: bool) -> ToldTask {
    let state = match info.standing {
        TaskStanding::Held => "RECEIVED",
        TaskStanding::Started => "STARTED",
        TaskStanding::Retry => "RETRY",
        TaskStanding::Success => "SUCCESS",
        TaskStanding::Failure | TaskStanding::Dead => "FAILURE",
        TaskStanding::Revoked => "REVOKED",
        _ => "PENDING",
    };
    let stored = info.stored.as_ref().filter(|_| state == "SUCCESS" && !hide_args);
    let at = info.at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    ToldTask {
        uuid: info.id.clone(),
        name: info.task.clone(),
        state: state.to_owned(),
        args: info.args.clone().filter(|_| !hide_args),
        worker: info.worker.clone(),
        result: stored.map(|stored| repr(&stored.result)),
        exception: info.error.clone().filter(|_| matches!(state, "FAILURE" | "RETRY")),
        traceback: info.stored.as_ref().and_then(|stored| stored.traceback.clone()).filter(|_| !hide_args),
        timestamp: at.map(|at| at.as_secs_f64()),
        routing_key: info.queue.clone(),
        ..ToldTask::default()
    }
}

/// Answers state and result of a task.
pub(super) async fn result(door: Arc<FlowerDoor>, request: Arc<PageRequest>) -> Result<Told<Value>, Refused> {
    let id = request.param("id");
    let wait = parsed(&request, "timeout", "float", |text| text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()))?;
    let wait = wait.unwrap_or(0.0).clamp(0.0, LONGEST_WAIT);
    let answer = door.deployment.client.result(id);
    if wait > 0.0 {
        // A time that is over is no error.
        if let Ok(Err(error)) = timeout(Duration::from_secs_f64(wait), answer.ended()).await {
            return Err(OpsError::from(error).into());
        }
    }
    let unavailable = |_| WebError::new(StatusCode::SERVICE_UNAVAILABLE, "the store of results has not answered");
    let stored = timeout(STORE_WITHIN, answer.stored()).await.map_err(unavailable)?.map_err(OpsError::from)?;
    let mut told = Map::new();
    told.insert("task-id".to_owned(), id.into());
    let state = stored.as_ref().map_or("PENDING", |stored| stored.state.as_str());
    told.insert("state".to_owned(), state.into());
    if let Some(stored) = stored.as_ref().filter(|stored| stored.state.is_ready()) {
        let value = match stored.exception() {
            Some(exception) => exception.to_string().into(),
            None => serde_json::from_slice(&stored.result.to_json()).unwrap_or_default(),
        };
        told.insert("result".to_owned(), if door.hide_args { Value::Null } else { value });
        if state == "FAILURE" {
            told.insert("traceback".to_owned(), stored.traceback.clone().filter(|_| !door.hide_args).into());
        }
    }
    Ok(Value::Object(told).into())
}

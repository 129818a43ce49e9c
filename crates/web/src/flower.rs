//! Flower's routes that read, so that scripts written for it work here: the same paths, parameters,
//! members and refusals. They tell what the dashboard knows: its history, its broker, its workers.
//!
//! Changes are asked for under `/api/v1`, whose requests no page of another site can send.
//!
//! - `flower/tasks.rs`: tasks and results; `flower/search.rs`: Flower's search
//! - `flower/workers.rs`: workers and queues

mod search;
mod tasks;
mod workers;

use std::{future::Future, sync::Arc};

use axum::{
    Extension, Json,
    extract::{OriginalUri, RawPathParams, RawQuery},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde::Serialize;
use serde_json::json;

use self::workers::Inspected;
use crate::{
    api::{Operation, Routes},
    deployment::Deployment,
    error::WebError,
    frame::{Frame, PageRequest},
};

/// Header that counts tasks which an answer left out because there were too many.
const LEFT_OUT: HeaderName = HeaderName::from_static("longshore-left-out");
/// Header that says what an answer lacks.
const LACKS: HeaderName = HeaderName::from_static("longshore-lacks");

/// Knowledge that the routes share.
struct FlowerDoor {
    deployment: Arc<Deployment>,
    hide_args: bool,
    inspected: Inspected,
}

/// An answer, with what it lacks.
struct Told<T> {
    facts: T,
    /// Number of tasks that were left out because there are too many.
    left_out: i64,
    /// Reason that members are missing.
    lacks: Option<&'static str>,
}

impl<T> From<T> for Told<T> {
    fn from(facts: T) -> Self {
        Self { facts, left_out: 0, lacks: None }
    }
}

/// Refusal of a question, in one of Flower's two ways.
enum Refused {
    /// A sentence, as text.
    Text(WebError),
    /// What is wrong with a search: a sentence, as JSON.
    Search(String),
}

impl<E: Into<WebError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Text(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Text(error) => {
                let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
                error.with_headers((error.status, [kind], error.message.clone()).into_response())
            }
            Self::Search(said) => (StatusCode::BAD_REQUEST, Json(json!({"error": said}))).into_response(),
        }
    }
}

/// Returns the routes.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let door =
        Arc::new(FlowerDoor { deployment: deployment.clone(), hide_args: frame.guard.options.hide_args, inspected: Inspected::default() });
    let workers = Operation::get("/api/workers", "As Flower: workers with their replies to inspection")
        .query("refresh", "1: ask them now; else what they answered within the last half minute")
        .query("status", "1: only whether each is there")
        .query("workername", "this worker alone; asked now it tells of its tasks, too")
        .answers("FlowerWorkers")
        .asks()
        .refuses(&[400, 404]);
    let tasks = Operation::get("/api/tasks", "As Flower: tasks by their ids")
        .query("limit", "the most tasks that are answered with, at most 10000")
        .query("offset", "tasks that are passed over")
        .query("sort_by", "name, state, received or started; with - before it the other way round")
        .query("workername", "tasks of this worker")
        .query("taskname", "tasks of this name")
        .query("state", "tasks in this state: FAILURE, STARTED, …; LOST: their worker is gone")
        .query("received_start", "tasks received at this time or later: 2026-11-21 12:00")
        .query("received_end", "tasks not received later than this")
        .query("search", "words; field:value; AND, OR and groups")
        .answers("FlowerTasks")
        .asks()
        .refuses(&[400]);
    let types = Operation::get("/api/task/types", "As Flower: names of tasks that were seen").answers("FlowerTypes").asks();
    let lengths =
        Operation::get("/api/queues/length", "As Flower: how many messages wait in each queue").answers("FlowerQueues").refuses(&[503]);
    let info = Operation::get("/api/task/info/{id}", "As Flower: one task").answers("FlowerTask").asks().refuses(&[404]);
    let result = Operation::get("/api/task/result/{id}", "As Flower: a task's state and result")
        .query("timeout", "seconds to wait for its end, at most 60")
        .answers("FlowerResult")
        .asks();
    let health = Operation::get("/healthcheck", "As Flower: the process can serve").of_type("text/plain").answers("Text");
    Routes::new()
        .api(workers, answer(&door, workers::list))
        .api(tasks, answer(&door, tasks::list))
        .api(types, answer(&door, tasks::types))
        .api(lengths, answer(&door, workers::lengths))
        .api(info, answer(&door, tasks::info))
        .api(result, answer(&door, tasks::result))
        .api(health, get(async || "OK"))
}

fn answer<A, F, T>(door: &Arc<FlowerDoor>, ask: A) -> MethodRouter
where
    A: Fn(Arc<FlowerDoor>, Arc<PageRequest>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Told<T>, Refused>> + Send + 'static,
    T: Serialize,
{
    let door = door.clone();
    get(move |OriginalUri(uri): OriginalUri, params: RawPathParams, RawQuery(query): RawQuery, Extension(caller)| {
        let asked = ask(door.clone(), Arc::new(PageRequest::new(&uri, &params, query.as_deref(), caller)));
        async move { asked.await.and_then(|told| written(&told)).unwrap_or_else(IntoResponse::into_response) }
    })
}

fn written<T: Serialize>(told: &Told<T>) -> Result<Response, Refused> {
    // Written at once: in a value of JSON the members would lose their order.
    let body = serde_json::to_vec(&told.facts)?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    if told.left_out > 0 {
        headers.insert(LEFT_OUT, told.left_out.into());
    }
    if let Some(lacks) = told.lacks {
        headers.insert(LACKS, HeaderValue::from_static(lacks));
    }
    Ok((headers, body).into_response())
}

fn bad_request(message: String) -> WebError {
    WebError::new(StatusCode::BAD_REQUEST, message)
}

/// Returns a parameter without blanks around it: of several the last one.
fn argument<'a>(request: &'a PageRequest, name: &str) -> Option<&'a str> {
    request.query.iter().rev().find(|(field, _)| field == name).map(|(_, value)| value.trim())
}

/// Returns a parameter that filters; empty ones and `All` do not.
fn filter(request: &PageRequest, name: &str) -> Option<String> {
    argument(request, name).filter(|text| !text.is_empty() && *text != "All").map(str::to_owned)
}

/// Reads a parameter of another type.
///
/// # Errors
/// It is none, in Flower's words.
fn parsed<T>(request: &PageRequest, name: &str, kind: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, WebError> {
    let wrong = |text: &str| bad_request(format!("Invalid argument '{text}' of type '{kind}'"));
    argument(request, name).map(|text| read(text).ok_or_else(|| wrong(text))).transpose()
}

fn flag(request: &PageRequest, name: &str) -> Result<bool, WebError> {
    let read = |text: &str| match text.to_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Some(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Some(false),
        _ => None,
    };
    Ok(parsed(request, name, "bool", read)?.unwrap_or(false))
}

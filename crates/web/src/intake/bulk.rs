//! Many tasks in one request: JSON Lines in, JSON Lines out, in step. Nothing is read before what
//! was read is sent and its answers are taken.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Extension, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use longshore_worker::{PreparedTask, TraceContext};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Intake, KEY,
    lengths::NotNow,
    lines::LineReader,
    once::AskedOnce,
    order::{self, TaskOrder},
};
use crate::{error::WebError, guard::Caller};

/// Most tasks that go to the broker in one call.
const BATCH: usize = 128;
/// Longest time for which a line waits for room.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Takes JSON Lines and answers each.
pub(super) async fn send_all(State(intake): State<Intake>, caller: Option<Extension<Caller>>, headers: HeaderMap, body: Body) -> Response {
    if let Err(error) = check(&headers) {
        return error.json();
    }
    let reader = LineReader::new(body, intake.0.options.longest_task);
    let trace = order::trace_of(&headers);
    let caller = caller.map(|Extension(caller)| caller.name.into_owned()).unwrap_or_default();
    let bulk = BulkSending { intake, caller, reader, trace, lines: VecDeque::new(), waits_since: None, is_over: false };
    let answers = stream::unfold(bulk, |mut bulk| async move {
        let some = bulk.some().await?;
        Some((Ok::<_, Infallible>(Bytes::from(some)), bulk))
    });
    let mut response = Body::from_stream(answers).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

fn check(headers: &HeaderMap) -> Result<(), WebError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let said = "many tasks are sent as Content-Type: application/x-ndjson, one a line; a single one to POST /api/v1/tasks/NAME";
        return Err(WebError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, said));
    }
    if headers.contains_key(KEY) {
        return Err(WebError::unprocessable("an Idempotency-Key belongs to one task: write it as idempotency_key into its line"));
    }
    Ok(())
}

/// A line on its way: the task that it asks for, or why there is none.
type LineOnWay = (u64, Result<BulkTask, WebError>);

/// A task of a line.
enum BulkTask {
    /// It goes to the broker together with others.
    Prepared(PreparedTask),
    /// It is sent under a key, once, and so alone.
    Once(Box<(AskedOnce, TaskOrder)>),
    /// It was sent alone, under this id.
    Sent(String),
}

/// State of a request.
struct BulkSending {
    intake: Intake,
    /// Name of whoever asks.
    caller: String,
    reader: LineReader,
    /// The trace that the request belongs to, and each of its tasks.
    trace: Option<TraceContext>,
    /// Lines that were read.
    lines: VecDeque<LineOnWay>,
    /// Time since which the first of them waits for room.
    waits_since: Option<Instant>,
    is_over: bool,
}

impl BulkSending {
    /// Returns the next answers; `None` when all lines have theirs.
    async fn some(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        if self.lines.is_empty() {
            match self.reader.some(BATCH).await {
                Ok(lines) if lines.is_empty() => return None,
                Ok(lines) => {
                    self.lines = lines.into_iter().map(|(number, line)| (number, line.and_then(|line| self.read(&line)))).collect();
                }
                Err(error) => return Some(self.end(&error)),
            }
        }
        let admitted = self.admitted().await;
        Some(self.sent(admitted).await)
    }

    /// Reads what a line asks for.
    fn read(&self, line: &[u8]) -> Result<BulkTask, WebError> {
        let order = TaskOrder::of_line(line, self.trace.as_ref())?;
        match AskedOnce::of(&self.caller, &order, &HeaderMap::new(), line.trim_ascii())? {
            Some(asked) => Ok(BulkTask::Once(Box::new((asked, order)))),
            None => Ok(BulkTask::Prepared(self.intake.prepare(order)?)),
        }
    }

    /// Takes the lines that may be sent now, one at least.
    async fn admitted(&mut self) -> Vec<LineOnWay> {
        let mut admitted = Vec::new();
        while let Some((number, line)) = self.lines.pop_front() {
            let task = match line {
                Ok(BulkTask::Prepared(task)) => task,
                // What stands before it is sent before it.
                Ok(BulkTask::Once(_)) if !admitted.is_empty() => {
                    self.lines.push_front((number, line));
                    break;
                }
                Ok(BulkTask::Once(once)) => {
                    admitted.push((number, send_once(self.intake.clone(), once.0, once.1).await));
                    break;
                }
                other => {
                    admitted.push((number, other));
                    continue;
                }
            };
            match self.intake.admit(&task).await {
                Ok(()) => admitted.push((number, Ok(BulkTask::Prepared(task)))),
                Err(NotNow::Unknown(error)) => {
                    admitted.push((number, Err(error)));
                    break;
                }
                Err(NotNow::Full(error, wait)) => {
                    // What has room does not wait for what has none.
                    if !admitted.is_empty() {
                        self.lines.push_front((number, Ok(BulkTask::Prepared(task))));
                        break;
                    }
                    let since = *self.waits_since.get_or_insert_with(Instant::now);
                    if since.elapsed() + wait > LONGEST_WAIT {
                        admitted.push((number, Err(error.retry_after(wait))));
                    } else {
                        self.lines.push_front((number, Ok(BulkTask::Prepared(task))));
                        sleep(wait).await;
                        continue;
                    }
                }
            }
            self.waits_since = None;
        }
        admitted
    }

    /// Sends them and returns their answers.
    async fn sent(&mut self, admitted: Vec<LineOnWay>) -> String {
        let prepared = |(_, line): &LineOnWay| match line {
            Ok(BulkTask::Prepared(task)) => Some(task.clone()),
            _ => None,
        };
        let tasks: Vec<PreparedTask> = admitted.iter().filter_map(prepared).collect();
        let together = if tasks.is_empty() { Ok(()) } else { self.intake.put(&tasks).await };
        let mut answers = String::new();
        let mut away = None;
        for (number, line) in admitted {
            let ended = match (line, &together) {
                (Err(error), _) => Err(error),
                (Ok(BulkTask::Sent(id)), _) => Ok(id),
                (Ok(BulkTask::Prepared(task)), Ok(())) => Ok(task.id().to_owned()),
                // Refused as a whole, they are tried one by one: a bad one harms nobody but itself.
                (Ok(BulkTask::Prepared(task)), Err(error)) if !is_away(error) && tasks.len() > 1 => {
                    self.intake.put(std::slice::from_ref(&task)).await.map(|()| task.id().to_owned())
                }
                (Ok(BulkTask::Prepared(_)), Err(error)) => Err(error.clone()),
                // It is sent before it comes here.
                (Ok(BulkTask::Once(once)), _) => self.intake.send_surely_once(once.0, once.1).await,
            };
            let answer = match ended {
                Ok(id) => json!({"line": number, "id": id}),
                Err(error) => {
                    let answer = json!({"line": number, "error": told(&error)});
                    away = away.or(Some(error).filter(is_away));
                    answer
                }
            };
            answers.push_str(&format!("{answer}\n"));
        }
        if let Some(error) = away {
            answers.push_str(&self.end(&error));
        }
        answers
    }

    /// Reads no further, and says why.
    fn end(&mut self, error: &WebError) -> String {
        self.is_over = true;
        let mut error = error.clone();
        error.message = format!("nothing further was read: {}", error.message);
        format!("{}\n", json!({"error": told(&error)}))
    }
}

/// Sends a task under its key; waits for room, but not for ever.
async fn send_once(intake: Intake, asked: AskedOnce, order: TaskOrder) -> Result<BulkTask, WebError> {
    let since = Instant::now();
    loop {
        match intake.send_surely_once(asked.clone(), order.clone()).await {
            Err(error) if error.status == StatusCode::TOO_MANY_REQUESTS => match error.retry_after {
                Some(wait) if since.elapsed() + wait <= LONGEST_WAIT => sleep(wait).await,
                _ => return Err(error),
            },
            sent => return sent.map(BulkTask::Sent),
        }
    }
}

fn is_away(error: &WebError) -> bool {
    error.status == StatusCode::SERVICE_UNAVAILABLE
}

fn told(error: &WebError) -> serde_json::Value {
    match error.retry_after_seconds() {
        Some(seconds) => json!({"status": error.status.as_u16(), "message": error.message, "retry_after": seconds}),
        None => json!({"status": error.status.as_u16(), "message": error.message}),
    }
}

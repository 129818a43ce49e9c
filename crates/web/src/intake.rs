//! The door through which programs send tasks over HTTP, and fetch their results.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/v1/tasks/NAME`, arguments as JSON | 202 with the id, when the broker has confirmed |
//! | `POST /api/v1/tasks`, JSON Lines | an answer a line, in step |
//! | `GET /api/v1/tasks/ID?wait=10s` | state and result |
//!
//! - `intake/order.rs`: what a body asks for
//! - `intake/meter.rs`, `intake/lengths.rs`: what may be sent now
//! - `intake/lines.rs`, `intake/bulk.rs`: many in one request
//! - `intake/once.rs`: a task is sent once under an `Idempotency-Key`
//! - `intake/wait.rs`: results, and waiting for them

mod bulk;
mod lengths;
mod lines;
mod meter;
mod once;
mod order;
mod wait;

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use longshore_core::{ErrorKind, Rate};
use longshore_worker::{Client, ClientError, PreparedTask};
use tokio::time::{Instant, timeout};

use self::{
    lengths::{NotNow, QueueLengths},
    meter::Meter,
    once::AskedOnce,
    order::TaskOrder,
};
use crate::{
    api::{Operation, Routes},
    error::WebError,
    guard::Caller,
};

/// Time for the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Time after which a broker that does not answer counts as away.
const BROKER_WITHIN: Duration = Duration::from_secs(15);
/// Time after which it is worth to try a broker again that was away.
const AWAY_FOR: Duration = Duration::from_secs(2);

/// Place of all tasks.
const TASKS: &str = "/api/v1/tasks";
/// Header under which a task is sent once, however often it is asked for.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Limits of what is let in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IntakeOptions {
    /// A leaky bucket for all that is sent: it leaks at this rate, and holds as many as the burst
    /// says.
    pub rate: Option<Rate>,
    /// Most tasks that may wait in a queue.
    pub most_waiting: Option<u64>,
    /// Longest body of one task, in bytes.
    pub longest_task: usize,
    /// Results are not shown, only states.
    pub hide_results: bool,
}

impl Default for IntakeOptions {
    fn default() -> Self {
        Self { rate: None, most_waiting: None, longest_task: 1 << 20, hide_results: false }
    }
}

/// Number of tasks that were let in, and of those that were told to come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntakeCounts {
    /// Tasks that were let in.
    pub sent: u64,
    /// Tasks for which there was no room. One that waits for room counts each time that it asks.
    pub refused: u64,
    /// Time of the first one that was let in.
    pub first: Option<std::time::Instant>,
    /// Time of the last one that asked.
    pub last: Option<std::time::Instant>,
    /// Time in which the leaky bucket was empty between the two.
    pub idle: Duration,
}

impl IntakeCounts {
    fn add(&mut self, is_admitted: bool, now: std::time::Instant) {
        if is_admitted {
            self.sent += 1;
            self.first = self.first.or(Some(now));
        } else {
            self.refused += 1;
        }
        self.last = self.last.max(Some(now));
    }
}

/// Takes tasks over HTTP and sends them. Cheap to clone; clones share their limits.
#[derive(Clone, Debug)]
pub struct Intake(Arc<IntakeDoor>);

#[derive(Debug)]
struct IntakeDoor {
    client: Client,
    options: IntakeOptions,
    counts: Mutex<IntakeCounts>,
    meter: Option<Meter>,
    lengths: Option<QueueLengths>,
}

impl Intake {
    /// Makes one that sends by this client.
    #[must_use]
    pub fn new(client: Client, options: IntakeOptions) -> Self {
        let meter = options.rate.map(Meter::new);
        let lengths = options.most_waiting.map(QueueLengths::new);
        Self(Arc::new(IntakeDoor { client, options, counts: Mutex::default(), meter, lengths }))
    }

    /// Returns what was let in and what was not so far.
    #[must_use]
    pub fn counts(&self) -> IntakeCounts {
        let idle = self.0.meter.as_ref().map_or(Duration::ZERO, Meter::idle);
        IntakeCounts { idle, ..*self.0.counts.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Returns its limits.
    pub(crate) fn options(&self) -> &IntakeOptions {
        &self.0.options
    }

    /// Returns its routes, for any site; one that `hides` arguments and results shows states alone.
    pub(crate) fn routes(&self, hides: bool) -> Routes {
        let many = Operation::post(TASKS, "Sends many tasks, one on each line; each line is answered, in step")
            .takes("application/x-ndjson", "TaskLines")
            .of_type("application/x-ndjson")
            .header("traceparent", "the trace that the tasks belong to, as W3C's Trace Context says")
            .header("tracestate", "the same")
            .answers("Lines");
        let one = order::HEADERS.iter().fold(
            Operation::post("/api/v1/tasks/{task}", "Sends a task; answered when the broker has confirmed it"),
            |operation, (header, field)| operation.header(header, field),
        );
        let one = one
            .header("idempotency-key", "under this key the task is sent once within a day, however often it is asked for")
            .header("traceparent", "the trace that the task belongs to, as W3C's Trace Context says")
            .header("tracestate", "the same")
            .takes("application/json", "TaskOrder")
            .status(202)
            .answers("TaskAccepted")
            .reads()
            .asks()
            .refuses(&[429, 501]);
        let result = Operation::get("/api/v1/tasks/{task}", "A task's state and result, at once or when it has ended")
            .query("wait", "how long to wait for its end: 10s, 500ms, 1m; at most a minute")
            .answers("TaskResult")
            .asks()
            .refuses(&[422]);
        Routes::new()
            .api(many, post(bulk::send_all).with_state(self.clone()))
            .api(one, post(send).with_state(self.clone()))
            .api(result, get(wait::result).with_state((self.clone(), hides || self.0.options.hide_results)))
    }

    /// Lets a task in, or says when it may be asked again.
    async fn admit(&self, task: &PreparedTask) -> Result<(), NotNow> {
        // The bucket is asked for the time after the look at the queue, which may take seconds.
        let metered = || match &self.0.meter {
            Some(meter) => meter.offer(Instant::now().into_std()).map_err(|wait| self.full(wait)),
            None => Ok(()),
        };
        let admitted = match &self.0.lengths {
            Some(lengths) => lengths.admit(&self.0.client, task.queue(), metered).await,
            None => metered(),
        };
        let now = Instant::now().into_std();
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).add(admitted.is_ok(), now);
        admitted
    }

    fn full(&self, wait: Duration) -> NotNow {
        let said = match self.0.options.rate {
            Some(rate) => format!(
                "more tasks come than are let in: {} in {} s, and {} at once; there is room again in {:.3} s",
                rate.count,
                rate.per.as_secs_f64(),
                rate.burst,
                wait.as_secs_f64()
            ),
            None => "more tasks come than are let in".to_owned(),
        };
        NotNow::Full(too_many(said), wait)
    }

    /// Writes a task out.
    fn prepare(&self, order: TaskOrder) -> Result<PreparedTask, WebError> {
        self.0.client.prepare(order.into_signature()).map_err(|error| WebError::unprocessable(error.to_string()))
    }

    /// Sends tasks; when this resolves the broker has them.
    async fn put(&self, tasks: &[PreparedTask]) -> Result<(), WebError> {
        within(self.0.client.send_prepared(tasks)).await
    }

    async fn take(&self, caller: &str, task: &str, headers: &HeaderMap, body: Body) -> Result<String, WebError> {
        require_json(headers)?;
        let body = self.read(body).await?;
        let order = TaskOrder::of_body(task, headers, &body)?;
        if let Some(asked) = AskedOnce::of(caller, &order, headers, &body)? {
            return self.send_surely_once(asked, order).await;
        }
        let prepared = self.prepare(order)?;
        self.admit(&prepared).await.map_err(NotNow::into_error)?;
        self.put(std::slice::from_ref(&prepared)).await?;
        Ok(prepared.id().to_owned())
    }

    async fn read(&self, body: Body) -> Result<Bytes, WebError> {
        let most = self.0.options.longest_task;
        match timeout(BODY_WITHIN, Limited::new(body, most).collect()).await {
            Ok(Ok(read)) => Ok(read.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let said = format!("a task has at most {most} bytes: store what is large elsewhere, and send where it is");
                Err(WebError::new(StatusCode::PAYLOAD_TOO_LARGE, said))
            }
            Ok(Err(error)) => Err(WebError::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))),
            Err(_) => {
                let said = format!("the body did not come within {} s: nothing was sent", BODY_WITHIN.as_secs());
                Err(WebError::new(StatusCode::REQUEST_TIMEOUT, said))
            }
        }
    }
}

/// Takes a task and sends it.
async fn send(State(intake): State<Intake>, Path(task): Path<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Caller>().map_or("", |caller| &caller.name);
    match intake.take(caller, &task, &parts.headers, body).await {
        Ok(id) => accepted(&id),
        Err(error) => error.json(),
    }
}

fn accepted(id: &str) -> Response {
    // Ids are mostly as plain as they are here.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut place = String::with_capacity(TASKS.len() + 1 + id.len());
    place.push_str(TASKS);
    place.push('/');
    let body = if id.bytes().all(is_plain) {
        place.push_str(id);
        ["{\"id\":\"", id, "\"}"].concat()
    } else {
        for byte in id.bytes() {
            if is_plain(byte) {
                place.push(char::from(byte));
            } else {
                let _ = write!(place, "%{byte:02X}");
            }
        }
        serde_json::json!({ "id": id }).to_string()
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::ACCEPTED;
    // With those that each answer has (`guard.rs`).
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(place) = HeaderValue::try_from(place) {
        headers.insert(header::LOCATION, place);
    }
    response
}

/// Refuses a body that says it is something else than one JSON text.
fn require_json(headers: &HeaderMap) -> Result<(), WebError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let said = "one task is sent as Content-Type: application/json; JSON Lines go to POST /api/v1/tasks";
    Err(WebError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, said))
}

/// Says that more comes than is let in.
fn too_many(said: String) -> WebError {
    WebError::new(StatusCode::TOO_MANY_REQUESTS, said)
}

/// Waits for the broker, for a while.
async fn within<T>(asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, WebError> {
    match timeout(BROKER_WITHIN, asked).await {
        Ok(answer) => answer.map_err(|error| of_client(&error)),
        Err(_) => Err(no_answer()),
    }
}

/// Says that the broker did not answer in time.
fn no_answer() -> WebError {
    let said = format!("the broker has not answered for {} s: whether the task was sent is unknown", BROKER_WITHIN.as_secs());
    WebError::new(StatusCode::SERVICE_UNAVAILABLE, said).retry_after(AWAY_FOR)
}

/// Says what a client could not do.
fn of_client(error: &ClientError) -> WebError {
    match error {
        ClientError::Broker(error) => of_broker(error),
        other => WebError::unprocessable(other.to_string()),
    }
}

/// Says what a broker, or the store of results, could not do.
fn of_broker(error: &longshore_brokers::BrokerError) -> WebError {
    match error.kind {
        ErrorKind::Transient => WebError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).retry_after(AWAY_FOR),
        _ => WebError::new(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

#[cfg(test)]
mod tests;

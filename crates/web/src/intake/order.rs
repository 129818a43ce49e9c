//! What a body asks to be sent.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderName};
use longshore_celery::{Map, Value};
use longshore_worker::{Signature, TraceContext};

use crate::error::WebError;

/// Deepest nesting of arguments.
const DEEPEST: usize = 128;
/// Longest name of a task or a queue, and longest id, in bytes.
const LONGEST_NAME: usize = 255;
/// Longest time ahead: further no calendar is asked.
const FURTHEST: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Headers that stand for fields of a body.
pub(super) const HEADERS: [(&str, &str); 6] = [
    ("longshore-id", "id"),
    ("longshore-queue", "queue"),
    ("longshore-priority", "priority"),
    ("longshore-eta", "eta"),
    ("longshore-countdown", "countdown"),
    ("longshore-expires", "expires"),
];
/// Names of those headers, made once.
pub(super) const HEADER_NAMES: [HeaderName; 6] = [
    HeaderName::from_static(HEADERS[0].0),
    HeaderName::from_static(HEADERS[1].0),
    HeaderName::from_static(HEADERS[2].0),
    HeaderName::from_static(HEADERS[3].0),
    HeaderName::from_static(HEADERS[4].0),
    HeaderName::from_static(HEADERS[5].0),
];
const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// Fields that a body may have, for people.
const FIELDS: &str = "args, kwargs, id, queue, priority, eta, countdown, expires, idempotency_key";
/// Field of a body that says what the header `Idempotency-Key` says.
const KEY_FIELD: &str = "idempotency_key";

/// Returns the trace that a request belongs to.
pub(super) fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let told = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    told(PARENT).and_then(|parent| TraceContext::parse(parent, told(STATE)))
}

/// A task that somebody asks to be sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TaskOrder {
    task: String,
    args: Vec<Value>,
    kwargs: Map,
    pub(super) id: Option<String>,
    queue: Option<String>,
    priority: Option<u8>,
    eta: Option<SystemTime>,
    countdown: Option<Duration>,
    expires: Option<ExpiryTime>,
    /// Key under which it is sent once.
    key: Option<String>,
    /// The trace that the request belongs to.
    trace: Option<TraceContext>,
}

/// Latest time at which a task may start.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ExpiryTime {
    At(SystemTime),
    In(Duration),
}

impl TaskOrder {
    /// Reads a body that belongs to the task of this name.
    pub(super) fn of_body(task: &str, headers: &HeaderMap, body: &[u8]) -> Result<Self, WebError> {
        let mut order = Self { task: name("the task", task)?, trace: trace_of(headers), ..Self::default() };
        let fields = if body.iter().all(u8::is_ascii_whitespace) { Map::default() } else { object(body)? };
        for (field, value) in fields.0 {
            if field == "task" {
                return Err(WebError::unprocessable(
                    "the task is named by the path: POST /api/v1/tasks/NAME; without NAME, one on each line",
                ));
            }
            order.set(&field, value)?;
        }
        for (name, (header, field)) in HEADER_NAMES.iter().zip(HEADERS) {
            let Some(value) = headers.get(name) else { continue };
            let text = value.to_str().map_err(|_| WebError::unprocessable(format!("the header {header} is not plain text")))?;
            if order.has(field) {
                return Err(WebError::unprocessable(format!("{field} stands in the body and in the header {header}: leave one out")));
            }
            // Numbers are numbers in a header, too; an id or a queue may look like one.
            let number = || Value::parse(text.trim().as_bytes(), 1).ok().filter(|value| value.as_f64().is_some());
            let value = if matches!(field, "id" | "queue") { None } else { number() };
            order.set(field, value.unwrap_or_else(|| Value::Text(text.trim().to_owned())))?;
        }
        order.checked()
    }

    /// Reads a line of a bulk, which names its task and belongs to the trace of its request.
    pub(super) fn of_line(line: &[u8], trace: Option<&TraceContext>) -> Result<Self, WebError> {
        let mut order = Self { trace: trace.cloned(), ..Self::default() };
        for (field, value) in object(line)?.0 {
            match (field.as_str(), value) {
                ("task", Value::Text(task)) => order.task = name("task", &task)?,
                ("task", other) => return Err(wrong("task", "a text", &other)),
                (field, value) => order.set(field, value)?,
            }
        }
        if order.task.is_empty() {
            return Err(WebError::unprocessable("the line names no task: {\"task\": \"shop.price\", \"args\": [1]}"));
        }
        order.checked()
    }

    /// Returns its task's name.
    pub(super) fn task(&self) -> &str {
        &self.task
    }

    /// Returns the key under which it is to be sent once, as the body says it.
    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Returns the task, to be sent so.
    pub(super) fn into_signature(self) -> Signature {
        let mut signature = Signature::named(self.task);
        for arg in &self.args {
            signature = signature.arg(arg);
        }
        for (name, value) in self.kwargs.iter() {
            signature = signature.kwarg(name, value);
        }
        if let Some(trace) = &self.trace {
            signature = signature.header("traceparent", trace.parent());
            if let Some(state) = trace.state() {
                signature = signature.header("tracestate", state);
            }
        }
        if let Some(id) = self.id {
            signature = signature.task_id(id);
        }
        if let Some(queue) = self.queue {
            signature = signature.queue(queue);
        }
        if let Some(priority) = self.priority {
            signature = signature.priority(priority);
        }
        if let Some(eta) = self.eta {
            signature = signature.eta(eta);
        }
        if let Some(countdown) = self.countdown {
            signature = signature.countdown(countdown);
        }
        match self.expires {
            Some(ExpiryTime::At(at)) => signature.expires_at(at),
            Some(ExpiryTime::In(after)) => signature.expires_in(after),
            None => signature,
        }
    }

    fn has(&self, field: &str) -> bool {
        match field {
            "id" => self.id.is_some(),
            "queue" => self.queue.is_some(),
            "priority" => self.priority.is_some(),
            "eta" => self.eta.is_some(),
            "countdown" => self.countdown.is_some(),
            _ => self.expires.is_some(),
        }
    }

    fn set(&mut self, field: &str, value: Value) -> Result<(), WebError> {
        if value.is_null() {
            return Ok(());
        }
        match (field, value) {
            ("args", Value::List(args)) => self.args = args,
            ("args", other) => return Err(wrong(field, "a list", &other)),
            ("kwargs", Value::Map(kwargs)) => self.kwargs = kwargs,
            ("kwargs", other) => return Err(wrong(field, "an object", &other)),
            ("id", Value::Text(id)) => self.id = Some(name(field, &id)?),
            ("queue", Value::Text(queue)) => self.queue = Some(name(field, &queue)?),
            (KEY_FIELD, Value::Text(key)) => self.key = Some(name(field, key.trim())?),
            ("id" | "queue" | KEY_FIELD, other) => return Err(wrong(field, "a text", &other)),
            ("priority", value) => {
                let priority = value.as_i64().and_then(|priority| u8::try_from(priority).ok());
                self.priority = Some(priority.ok_or_else(|| wrong(field, "a whole number from 0 to 255", &value))?);
            }
            ("eta", value) => self.eta = Some(moment(&value).ok_or_else(|| wrong(field, MOMENT, &value))?),
            ("countdown", value) => self.countdown = Some(seconds(&value).ok_or_else(|| wrong(field, "a number of seconds", &value))?),
            ("expires", value) => {
                let expires = seconds(&value).map(ExpiryTime::In).or_else(|| moment(&value).map(ExpiryTime::At));
                self.expires = Some(expires.ok_or_else(|| wrong(field, &format!("a number of seconds, or {MOMENT}"), &value))?);
            }
            (other, _) => return Err(WebError::unprocessable(format!("a task has no field {:?}; it has {FIELDS}", shortened(other)))),
        }
        Ok(())
    }

    fn checked(self) -> Result<Self, WebError> {
        if self.eta.is_some() && self.countdown.is_some() {
            return Err(WebError::unprocessable("eta and countdown both say when it may start: leave one out"));
        }
        Ok(self)
    }
}

/// A moment, for people.
const MOMENT: &str = "a time with its zone, such as 2026-11-21T12:00:00Z";

fn object(json: &[u8]) -> Result<Map, WebError> {
    match Value::parse(json, DEEPEST) {
        Ok(Value::Map(map)) => Ok(map),
        Ok(other) => Err(WebError::unprocessable(format!("expected an object with {FIELDS}; found {}", other.kind()))),
        Err(error) => Err(WebError::unprocessable(error.to_string())),
    }
}

fn wrong(field: &str, expected: &str, found: &Value) -> WebError {
    let found = match found {
        Value::Text(text) => format!("{:?}", shortened(text)),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        other => other.kind().to_owned(),
    };
    WebError::unprocessable(format!("{field} is {expected}, not {found}"))
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Checks the name of a task or a queue, or an id.
pub(super) fn name(what: &str, text: &str) -> Result<String, WebError> {
    if text.is_empty() || text.len() > LONGEST_NAME || text.chars().any(char::is_control) {
        return Err(WebError::unprocessable(format!("{what} has 1 to {LONGEST_NAME} bytes and no control characters")));
    }
    Ok(text.to_owned())
}

fn moment(value: &Value) -> Option<SystemTime> {
    let at: jiff::Timestamp = value.as_str()?.parse().ok()?;
    Some(at.into())
}

fn seconds(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_f64()?).ok().filter(|time| *time <= FURTHEST)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use longshore_worker::{Client, Settings};

    use super::*;

    fn headers(rows: &[(&'static str, &str)]) -> HeaderMap {
        rows.iter().map(|(name, value)| (axum::http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_body_that_asks_for_nonsense_is_told_what_is_wrong_with_it() {
        let rows = [
            ("[1]", "found a list"),
            ("{\"args\":[1]", "not JSON: it ends at byte 11"),
            ("\u{feff}{}", "not JSON"),
            ("{\"args\":{\"a\":1}}", "args is a list, not an object"),
            ("{\"kwargs\":[1]}", "kwargs is an object, not a list"),
            ("{\"priority\":256}", "priority is a whole number from 0 to 255, not 256"),
            ("{\"priority\":1.5}", "not 1.5"),
            ("{\"eta\":\"tomorrow\"}", "eta is a time with its zone, such as 2026-11-21T12:00:00Z, not \"tomorrow\""),
            ("{\"eta\":\"2026-11-21T12:00:00\"}", "with its zone"),
            ("{\"countdown\":-1}", "countdown is a number of seconds, not -1"),
            ("{\"countdown\":1e300}", "countdown is a number of seconds"),
            ("{\"countdown\":NaN}", "countdown is a number of seconds"),
            ("{\"expires\":\"x\"}", "expires is a number of seconds, or a time"),
            ("{\"eta\":\"2026-11-21T12:00:00Z\",\"countdown\":1}", "leave one out"),
            ("{\"id\":7}", "id is a text, not 7"),
            ("{\"idempotency_key\":7}", "idempotency_key is a text, not 7"),
            ("{\"idempotency_key\":\" \"}", "idempotency_key has 1 to 255 bytes"),
            ("{\"id\":\"\"}", "id has 1 to 255 bytes"),
            ("{\"queue\":\"a\\nb\"}", "no control characters"),
            ("{\"task\":\"x\"}", "named by the path"),
            ("{\"arguments\":[1]}", "a task has no field \"arguments\"; it has args, kwargs"),
        ];
        for (body, expected) in rows {
            let error = TaskOrder::of_body("add", &HeaderMap::new(), body.as_bytes()).unwrap_err();
            assert!(error.status == 422 && error.message.contains(expected), "{body}: {error}");
        }
        let deep = format!("{{\"args\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        assert!(TaskOrder::of_body("add", &HeaderMap::new(), deep.as_bytes()).unwrap_err().message.contains("128 levels"));
        assert!(TaskOrder::of_body(&"x".repeat(256), &HeaderMap::new(), b"").unwrap_err().message.contains("255"));
    }

    #[test]
    fn fields_may_stand_in_headers_and_not_in_both() {
        let empty = HeaderMap::new();
        let body = br#"{"args":[],"id":"7","queue":"q","priority":3,"countdown":1.5,"expires":60}"#;
        let all = headers(&[
            ("longshore-id", "7"),
            ("longshore-queue", " q "),
            ("longshore-priority", "3"),
            ("longshore-countdown", "1.5"),
            ("longshore-expires", "60"),
        ]);
        assert_eq!(TaskOrder::of_body("add", &all, b"").unwrap(), TaskOrder::of_body("add", &empty, body).unwrap());
        let eta = headers(&[("longshore-eta", "2026-11-21T12:00:00+01:00")]);
        let same = TaskOrder::of_body("add", &empty, br#"{"eta":"2026-11-21T11:00:00Z"}"#).unwrap();
        assert_eq!(TaskOrder::of_body("add", &eta, b"{}").unwrap(), same);
        let both = TaskOrder::of_body("add", &all, br#"{"queue":"q"}"#).unwrap_err();
        assert!(both.message.contains("in the body and in the header longshore-queue"), "{both}");
        let wrong = TaskOrder::of_body("add", &headers(&[("longshore-priority", "high")]), b"").unwrap_err();
        assert_eq!(wrong.message, "priority is a whole number from 0 to 255, not \"high\"");
    }

    #[test]
    fn a_line_names_its_task() {
        let line = TaskOrder::of_line(br#"{"task":"add","args":[1,2],"kwargs":null}"#, None).unwrap();
        assert_eq!(line, TaskOrder::of_body("add", &HeaderMap::new(), br#"{"args":[1,2]}"#).unwrap());
        for (line, expected) in [("{}", "names no task"), ("{\"task\":1}", "task is a text, not 1"), ("7", "found"), ("{", "not JSON")] {
            let error = TaskOrder::of_line(line.as_bytes(), None).unwrap_err();
            assert!(error.message.contains(expected), "{line}: {error}");
        }
    }

    #[tokio::test]
    async fn numbers_that_no_double_holds_arrive_as_they_were() {
        let client = Client::connect(&Settings::new("memory://order")).unwrap();
        let body = br#"{"args":[123456789012345678901234567890],"kwargs":{"n":0.1}}"#;
        let order = TaskOrder::of_body("add", &HeaderMap::new(), body).unwrap();
        let wire = order.into_signature().into_wire().unwrap();
        assert_eq!(wire.args, [Value::Big("123456789012345678901234567890".into())]);
        assert_eq!(wire.kwargs.get("n"), Some(&Value::Float(0.1)));
        assert_eq!(client.prepare::<Value>(wire.into()).unwrap().queue(), "celery");
    }
}

//! Events as they come: a page with the last ones, and a stream for programs.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::RawQuery,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use longshore_core::CancelToken;
use minijinja::{context, value::Serde};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    api::{Operation, Routes},
    deployment::Deployment,
    error::WebError,
    events::EventFilter,
    frame::{Frame, Page, PageRequest, in_query, page, read_query},
    heard::HeardEvent,
    live::OpenStream,
};

/// Events of the page.
const SHOWN: usize = 200;
/// Most events that are sent together.
const TOGETHER: usize = 200;
/// Time between two parts of a stream, so that many events travel together.
const PAUSE: Duration = Duration::from_millis(100);
/// Time after which a stream says that it is still there.
const SAY_WITHIN: Duration = Duration::from_secs(10);

/// Returns the page, and the stream.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let (live, feed) = (frame.clone(), deployment.clone());
    let streamed = get(move |RawQuery(query): RawQuery, headers: HeaderMap| {
        let (frame, deployment) = (live.clone(), feed.clone());
        async move { tail(&frame, deployment, query.as_deref().unwrap_or_default(), &headers) }
    });
    let described = Operation::get("/api/v1/events", "Events of workers as they come, until whoever listens goes")
        .query("kind", "events of these kinds, with blanks between them")
        .query("task", "events of this task name")
        .query("worker", "events of this worker")
        .query("id", "events of this task")
        .header("last-event-id", "goes on behind this one")
        .of_type("text/event-stream")
        .answers("Text")
        .refuses(&[503]);
    Routes::new().route("/events", page(frame, deployment, show)).api(described, streamed)
}

fn filter<'a>(get: impl Fn(&str) -> Option<&'a str>) -> EventFilter {
    let text = |name: &str| get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    EventFilter {
        kinds: text("kind")
            .map(|kinds| kinds.split([' ', ',']).filter(|kind| !kind.is_empty()).map(str::to_owned).collect())
            .unwrap_or_default(),
        task: text("task"),
        worker: text("worker"),
        id: text("id"),
    }
}

async fn show(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let feed = &deployment.feed;
    feed.watch();
    let events = feed.tail.latest(&filter(|name| request.query(name)), SHOWN);
    let says: Vec<String> = events.iter().map(|event| event.says()).collect();
    let fields: BTreeMap<&str, String> =
        ["kind", "task", "worker", "id"].into_iter().map(|name| (name, request.query(name).unwrap_or_default().to_owned())).collect();
    let is_paused = request.query("paused").is_some();
    let again: String =
        fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("&{name}={}", in_query(value))).collect();
    let context = context! {
        events => events.iter().map(|event| Serde(HeardEvent::clone(event))).collect::<Vec<_>>(), says, again, is_paused,
        fields,
        enables => feed.enables(), has_history => feed.history.is_some(), heard => feed.tail.last(),
    };
    Ok(Page::new("events.html", "Events", context))
}

/// Answers with events as they come: those after `Last-Event-ID`, or from now on.
fn tail(frame: &Frame, deployment: Arc<Deployment>, query: &str, headers: &HeaderMap) -> Response {
    let query = read_query(query);
    let filter = filter(|name| query.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str()));
    let open = match frame.live.open() {
        Ok(open) => open,
        Err(error) => return error.json(),
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let feed = &deployment.feed;
    feed.watch();
    let (changes, last) = (feed.tail.listen(), last.unwrap_or_else(|| feed.tail.last()));
    let tail = OpenTail { deployment, filter, last, changes, stop: frame.live.stop.clone(), _open: open };
    let parts =
        stream::unfold(tail, |mut tail| async move { tail.next().await.map(|part| (Ok::<_, Infallible>(Bytes::from(part)), tail)) });
    let mut response = Body::from_stream(parts).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// A stream of events to somebody.
struct OpenTail {
    deployment: Arc<Deployment>,
    filter: EventFilter,
    last: u64,
    changes: watch::Receiver<u64>,
    stop: CancelToken,
    _open: OpenStream,
}

impl OpenTail {
    /// Waits for what comes next. `None`: the server is stopping.
    async fn next(&mut self) -> Option<String> {
        let stop = self.stop.clone();
        tokio::select! {
            part = self.part() => Some(part),
            () = stop.cancelled() => None,
        }
    }

    async fn part(&mut self) -> String {
        loop {
            let feed = &self.deployment.feed;
            feed.watch();
            let part = feed.tail.after(self.last, &self.filter, TOGETHER);
            self.last = part.last;
            let mut text = String::new();
            if part.missed > 0 {
                text.push_str(&format!("event: missed\ndata: {}\n\n", json!({"count": part.missed})));
            }
            for event in &part.events {
                let data = serde_json::to_string(&**event).unwrap_or_default();
                let kind: String = event.kind.chars().filter(|c| !c.is_control()).collect();
                text.push_str(&format!("id: {}\nevent: {kind}\ndata: {data}\n\n", event.number));
            }
            if !text.is_empty() {
                sleep(PAUSE).await;
                return text;
            }
            if timeout(SAY_WITHIN, self.changes.changed()).await.is_err() {
                // A client that has gone is noticed when it is written to.
                return ":\n\n".to_owned();
            }
            sleep(PAUSE).await;
        }
    }
}

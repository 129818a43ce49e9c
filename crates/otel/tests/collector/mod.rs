//! A collector: it takes spans over OTLP and keeps them. Its messages are decoded by
//! `opentelemetry-proto`.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode as SpanStatus},
};
use prost::Message;

/// A span that was received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty where it has none.
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) kind: String,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) status: String,
    /// Description of the status.
    pub(crate) said: String,
    pub(crate) events: Vec<String>,
    attributes: HashMap<String, String>,
}

impl Received {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

impl From<Span> for Received {
    fn from(span: Span) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let status = span.status.clone().unwrap_or_default();
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            state: span.trace_state.clone(),
            kind: span.kind().as_str_name().trim_start_matches("SPAN_KIND_").to_owned(),
            began: span.start_time_unix_nano,
            ended: span.end_time_unix_nano,
            status: match status.code() {
                SpanStatus::Unset => "UNSET",
                SpanStatus::Ok => "OK",
                SpanStatus::Error => "ERROR",
            }
            .to_owned(),
            said: status.message,
            events: span.events.iter().map(|event| event.name.clone()).collect(),
            attributes: texts(&span.attributes),
            name: span.name,
        }
    }
}

fn texts(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(&attribute.value))).collect()
}

/// What it has received, and how it answers.
#[derive(Default)]
struct Kept {
    requests: Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>,
    status: AtomicU16,
    after: Duration,
}

/// A collector on a port of its own, until its runtime ends.
#[derive(Clone)]
pub(crate) struct Collector {
    address: SocketAddr,
    kept: Arc<Kept>,
}

async fn take(State(kept): State<Arc<Kept>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    tokio::time::sleep(kept.after).await;
    let status = StatusCode::from_u16(kept.status.load(Ordering::Relaxed)).unwrap();
    let request = ExportTraceServiceRequest::decode(body).expect("it is a request of OTLP");
    if status.is_success() {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        kept.requests.lock().unwrap().push((headers, request));
    }
    status
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::answering(200, Duration::ZERO).await
    }

    /// One that answers so, after this time.
    pub(crate) async fn answering(status: u16, after: Duration) -> Self {
        let kept = Arc::new(Kept { status: AtomicU16::new(status), after, ..Kept::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/v1/traces", post(take)).with_state(kept.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, kept }
    }

    pub(crate) fn answer(&self, status: u16) {
        self.kept.status.store(status, Ordering::Relaxed);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self) -> MutexGuard<'_, Vec<(HeaderMap, ExportTraceServiceRequest)>> {
        self.kept.requests.lock().unwrap()
    }

    /// All spans so far, in the order in which they began.
    pub(crate) fn spans(&self) -> Vec<Received> {
        let requests = self.requests();
        let scopes = requests.iter().flat_map(|(_, request)| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
        let mut spans: Vec<Received> = scopes.flat_map(|scope| scope.spans.iter().cloned()).map(Received::from).collect();
        spans.sort_by_key(|span| span.began);
        spans
    }

    /// An attribute of the first resource.
    pub(crate) fn resource(&self, name: &str) -> Option<String> {
        let requests = self.requests();
        let resource = requests.first()?.1.resource_spans.first()?.resource.clone()?;
        texts(&resource.attributes).remove(name)
    }

    /// A header of the first request.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        Some(self.requests().first()?.0.get(name)?.to_str().ok()?.to_owned())
    }
}

/// Runs a test of this program again, with these variables of the environment beside the
/// collector's address. Returns once it has passed.
pub(crate) async fn again(test: &'static str, collector: &Collector, variables: &'static [(&'static str, &'static str)]) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored"]).envs(variables.iter().copied()).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

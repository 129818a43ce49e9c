//! A span of ours as OpenTelemetry's semantic conventions for messaging have it.
//!
//! Where the conventions put the destination into the name, the task stands, as OpenTelemetry's
//! instrumentation of Celery has it: a queue has tasks of many kinds. The queue is
//! `messaging.destination.name`.

use std::{borrow::Cow, str::FromStr, time::SystemTime};

use longshore_celery::TraceContext;
use longshore_worker::{SpanEnd, SpanError, SpanKind, TaskSpan};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{self, Event, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// Returns who made the spans.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("longshore").with_version(env!("CARGO_PKG_VERSION")).build()
}

/// Returns a span as exporters take it.
pub(crate) fn data(span: TaskSpan, scope: &InstrumentationScope) -> SpanData {
    let (operation, kind) = match span.kind {
        SpanKind::Send => ("send", trace::SpanKind::Producer),
        SpanKind::Run => ("run", trace::SpanKind::Consumer),
        _ => ("wait", trace::SpanKind::Internal),
    };
    let attributes = attributes(&span, operation);
    let (status, events) = end(&span.end, span.ended);
    // A client does not know where its `traceparent` came from; what a worker sends, it sends from
    // a task of its own.
    let is_remote = !(span.kind == SpanKind::Send && span.node.is_some());
    SpanData {
        span_context: context(&span.place),
        parent_span_id: span.parent.as_ref().map_or(SpanId::INVALID, |parent| SpanId::from(parent.span_id())),
        parent_span_is_remote: span.parent.is_some() && is_remote,
        span_kind: kind,
        name: Cow::Owned(format!("{operation} {}", span.task)),
        start_time: span.began,
        end_time: span.ended,
        attributes,
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status,
        instrumentation_scope: scope.clone(),
    }
}

fn context(place: &TraceContext) -> SpanContext {
    let state = place.state().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    SpanContext::new(TraceId::from(place.trace_id()), SpanId::from(place.span_id()), TraceFlags::SAMPLED, false, state)
}

fn attributes(span: &TaskSpan, operation: &'static str) -> Vec<KeyValue> {
    let (system, host, port) = server(&span.broker);
    let mut attributes = vec![
        KeyValue::new("messaging.system", system),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.destination.name", span.queue.to_string()),
        KeyValue::new("messaging.message.id", span.id.clone()),
        KeyValue::new("celery.task_name", span.task.clone()),
    ];
    match span.kind {
        SpanKind::Send => attributes.push(KeyValue::new("messaging.operation.type", "send")),
        SpanKind::Run => attributes.push(KeyValue::new("messaging.operation.type", "process")),
        _ => {}
    }
    attributes.extend(host.map(|host| KeyValue::new("server.address", host)));
    attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    attributes.extend(span.node.as_ref().map(|node| KeyValue::new("messaging.client.id", node.to_string())));
    if span.retries > 0 {
        attributes.push(KeyValue::new("celery.retries", i64::from(span.retries)));
    }
    match &span.end {
        SpanEnd::Error(error) | SpanEnd::Retry(error) => attributes.push(KeyValue::new("error.type", error.kind.clone())),
        SpanEnd::Other(how) => attributes.push(KeyValue::new("longshore.outcome", *how)),
        _ => {}
    }
    attributes
}

/// Returns how a span ended: a status, and an event of an error or a retry.
fn end(end: &SpanEnd, at: SystemTime) -> (Status, SpanEvents) {
    let mut events = SpanEvents::default();
    let status = match end {
        SpanEnd::Error(error) => {
            events.events.push(exception("exception", error, at));
            Status::error(error.message.clone())
        }
        SpanEnd::Retry(error) => {
            events.events.push(exception("retry", error, at));
            Status::error(format!("will be tried again: {}", error.message))
        }
        // The conventions leave it unset where nothing went wrong.
        _ => Status::Unset,
    };
    (status, events)
}

fn exception(name: &'static str, error: &SpanError, at: SystemTime) -> Event {
    let mut attributes =
        vec![KeyValue::new("exception.type", error.kind.clone()), KeyValue::new("exception.message", error.message.clone())];
    attributes.extend(error.traceback.clone().map(|traceback| KeyValue::new("exception.stacktrace", traceback)));
    Event::new(name, at, attributes, 0)
}

/// Returns system, host and port of a broker's URL.
fn server(url: &str) -> (Cow<'static, str>, Option<String>, Option<u16>) {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    let system = match scheme {
        "amqp" | "amqps" | "pyamqp" => "rabbitmq".into(),
        "rediss" | "redis+socket" => "redis".into(),
        other => Cow::Owned(other.to_owned()),
    };
    // Files and memory have no server.
    if !matches!(&*system, "rabbitmq" | "redis") {
        return (system, None, None);
    }
    // Of several servers the first.
    let authority = rest.trim_start_matches('/').split(['/', '?', ';', ',']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port.parse().ok()),
        _ => (authority, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (system, Some(host.to_owned()).filter(|host| !host.is_empty()), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_url_names_system_and_server() {
        for (url, system, host, port) in [
            ("redis://127.0.0.1:6379/0", "redis", Some("127.0.0.1"), Some(6379)),
            ("rediss://user:***@cache.example:6380/1", "redis", Some("cache.example"), Some(6380)),
            ("amqp://guest:***@rabbit.example//", "rabbitmq", Some("rabbit.example"), None),
            ("redis://[::1]:7000", "redis", Some("::1"), Some(7000)),
            ("sqlite:shop.db", "sqlite", None, None),
            ("memory://x", "memory", None, None),
        ] {
            assert_eq!(server(url), (system.into(), host.map(str::to_owned), port), "{url}");
        }
    }
}

//! Spans of tasks: sent, waited, run. They are kept until somebody collects them, who tells
//! whatever keeps traces (`longshore-otel` does); without that nothing is made.
//!
//! A span is plain data. Its place is a `traceparent`, which travels among the headers of messages.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use longshore_brokers::BrokerError;
use longshore_celery::{Message, TraceContext};
use tokio::sync::mpsc;

/// Longest id or name that a span carries, in bytes: what waits in the queue is bounded whatever
/// senders write.
const LONGEST_NAME: usize = 256;
/// Longest message or traceback of its error.
const LONGEST_TEXT: usize = 4_096;

/// Part of a task's way that a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanKind {
    /// A message is written and sent, until the broker has it.
    Send,
    /// A worker has the task, which waits for a slot.
    Wait,
    /// An attempt.
    Run,
}

/// End of what a span is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanEnd {
    /// As it was wished for.
    Ok,
    /// With this error.
    Error(SpanError),
    /// With another attempt, which was sent.
    Retry(SpanError),
    /// In another way, in a word: `revoked`, `replaced`, `rejected`, `handed back`.
    Other(&'static str),
}

/// Error of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpanError {
    /// Its type, which is one of few: `ValueError`, `TimeLimitExceeded`.
    pub kind: String,
    /// All of it, for people.
    pub message: String,
    /// Traceback, where there is one.
    pub traceback: Option<String>,
}

impl SpanError {
    /// Makes one of an exception as results have it: `ValueError('no such id')`, `ValueError: no
    /// such id`.
    pub(crate) fn of(exception: &str, traceback: Option<&str>) -> Self {
        let kind = exception.split(['(', ':']).next().unwrap_or_default().trim();
        let kind = if kind.is_empty() || kind.contains(char::is_whitespace) { "Exception" } else { kind };
        Self {
            kind: cut(kind, LONGEST_NAME),
            message: cut(exception, LONGEST_TEXT),
            traceback: traceback.map(|text| cut(text, LONGEST_TEXT)),
        }
    }

    /// Makes one of this kind.
    pub(crate) fn new(kind: impl Into<String>, message: &str) -> Self {
        Self { kind: kind.into(), message: cut(message, LONGEST_TEXT), traceback: None }
    }
}

/// Returns the beginning of a text.
fn cut(text: &str, longest: usize) -> String {
    text[..text.floor_char_boundary(longest)].to_owned()
}

/// A part of a task's way, with its place in a trace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskSpan {
    /// What it is about.
    pub kind: SpanKind,
    /// Its place: trace, own id, and flags.
    pub place: TraceContext,
    /// Place of the span that it belongs to; `None`: it begins its trace.
    pub parent: Option<TraceContext>,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// The task's id.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// Queue that its message goes to, or came from.
    pub queue: Arc<str>,
    /// Number of attempts before this one.
    pub retries: u32,
    /// Worker that ran it; none where it was sent by a client.
    pub node: Option<Arc<str>>,
    /// URL of the broker, without its password.
    pub broker: Arc<str>,
    /// How it ended.
    pub end: SpanEnd,
}

/// Numbers of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpanCounts {
    /// Spans that a collector has confirmed.
    pub sent: u64,
    /// Spans that nobody got: there was no room for them, or no collector took them.
    pub lost: u64,
}

/// Where spans go. Cheap to clone; clones share one queue, which never holds up who puts something
/// into it.
#[derive(Clone)]
pub struct Spans {
    inner: Arc<SpansInner>,
}

struct SpansInner {
    queue: mpsc::Sender<TaskSpan>,
    begins: Box<dyn Fn(u128) -> bool + Send + Sync>,
    sent: AtomicU64,
    lost: AtomicU64,
}

impl Spans {
    /// Makes a queue for at most so many spans, with its other end. `begins` decides by its id
    /// whether a trace that begins here is recorded; of all others their `traceparent` says it.
    pub fn queue(capacity: usize, begins: impl Fn(u128) -> bool + Send + Sync + 'static) -> (Self, mpsc::Receiver<TaskSpan>) {
        let (queue, spans) = mpsc::channel(capacity.max(1));
        let inner = SpansInner { queue, begins: Box::new(begins), sent: AtomicU64::new(0), lost: AtomicU64::new(0) };
        (Self { inner: Arc::new(inner) }, spans)
    }

    /// Returns how many were sent and lost so far.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        SpanCounts { sent: self.inner.sent.load(Ordering::Relaxed), lost: self.inner.lost.load(Ordering::Relaxed) }
    }

    /// Notes spans that a collector has confirmed.
    pub fn note_sent(&self, spans: u64) {
        self.inner.sent.fetch_add(spans, Ordering::Relaxed);
    }

    /// Notes spans that no collector took.
    pub fn note_lost(&self, spans: u64) {
        self.inner.lost.fetch_add(spans, Ordering::Relaxed);
    }

    /// Returns a place below this one, or at the beginning of a trace. Below one that is not
    /// recorded it is that one.
    pub(crate) fn below(&self, parent: Option<&TraceContext>) -> TraceContext {
        match parent {
            Some(parent) if parent.is_recorded() => parent.below(fastrand::u64(1..)),
            Some(parent) => parent.clone(),
            None => {
                let trace = fastrand::u128(1..);
                TraceContext::begin(trace, fastrand::u64(1..), (self.inner.begins)(trace))
            }
        }
    }

    /// Puts a span into the queue; where that is full it is counted. One that is not recorded is
    /// left out.
    pub(crate) fn put(&self, span: TaskSpan) {
        if span.place.is_recorded() && self.inner.queue.try_send(span).is_err() {
            self.note_lost(1);
        }
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// The spans of a client or a worker: the queue, and all that is the same in each of them.
#[derive(Clone, Debug)]
pub(crate) struct SpanMaker {
    pub(crate) spans: Spans,
    pub(crate) broker: Arc<str>,
    pub(crate) node: Option<Arc<str>>,
}

impl SpanMaker {
    /// Begins the span of a message that is about to be written: it names that span from then on,
    /// whose parent is what it named before.
    pub(crate) fn sending(&self, message: &mut Message, queue: &str) -> TaskSpan {
        let parent = TraceContext::of(&message.headers);
        let place = self.spans.below(parent.as_ref());
        place.put(&mut message.headers);
        self.span(SpanKind::Send, (place, parent), message, &Arc::from(queue))
    }

    /// Makes a span that begins and ends now, and is told to nobody yet.
    pub(crate) fn span(
        &self,
        kind: SpanKind,
        (place, parent): (TraceContext, Option<TraceContext>),
        message: &Message,
        queue: &Arc<str>,
    ) -> TaskSpan {
        let now = SystemTime::now();
        TaskSpan {
            kind,
            place,
            parent,
            began: now,
            ended: now,
            id: cut(&message.id, LONGEST_NAME),
            task: cut(&message.task, LONGEST_NAME),
            queue: queue.clone(),
            retries: message.retries,
            node: self.node.clone(),
            broker: self.broker.clone(),
            end: SpanEnd::Ok,
        }
    }
}

/// Spans of messages that are on their way to the broker; none, and nothing to do, where no spans
/// are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct SendSpans(Vec<TaskSpan>);

impl SendSpans {
    /// Begins the span of a message, where spans are made.
    pub(crate) fn begin(&mut self, maker: Option<&SpanMaker>, message: &mut Message, queue: &str) {
        self.0.extend(maker.map(|maker| maker.sending(message, queue)));
    }

    /// Adds those of messages that go in the same call.
    pub(crate) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Ends them: the broker has the messages, or this was said of them.
    pub(crate) fn end(self, maker: Option<&SpanMaker>, sent: Result<(), &BrokerError>) {
        let Some(maker) = maker else { return };
        let now = SystemTime::now();
        for mut span in self.0 {
            span.ended = now;
            if let Err(error) = sent {
                span.end = SpanEnd::Error(SpanError::new(format!("{:?}", error.kind), &error.message));
            }
            maker.spans.put(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn maker(capacity: usize, begins: bool) -> (SpanMaker, mpsc::Receiver<TaskSpan>) {
        let (spans, queue) = Spans::queue(capacity, move |_| begins);
        (SpanMaker { spans, broker: "memory://".into(), node: None }, queue)
    }

    #[test]
    fn a_message_names_the_span_that_sends_it_below_what_it_named() {
        let (maker, _queue) = maker(1, true);
        let mut message = Message::default();
        let parent = TraceContext::parse(RECORDED, Some("v=1")).unwrap();
        parent.put(&mut message.headers);
        let span = maker.sending(&mut message, "q");
        assert_eq!((span.parent.as_ref(), TraceContext::of(&message.headers)), (Some(&parent), Some(span.place.clone())));
        assert_eq!((span.place.trace_id(), span.place.state()), (parent.trace_id(), Some("v=1")));
        assert_ne!(span.place.span_id(), parent.span_id());
    }

    #[test]
    fn what_is_not_recorded_costs_no_span_and_stays_so() {
        let (maker, mut queue) = maker(1, false);
        let mut message = Message::default();
        let first = maker.sending(&mut message, "q");
        assert!(first.parent.is_none() && first.place.parent().ends_with("-00"));
        let second = maker.sending(&mut message, "q");
        assert_eq!(second.place, first.place);
        maker.spans.put(second);
        assert!(queue.try_recv().is_err());
        assert_eq!(maker.spans.counts(), SpanCounts::default());
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted() {
        let (maker, _queue) = maker(2, true);
        for _ in 0..5 {
            let mut spans = SendSpans::default();
            spans.begin(Some(&maker), &mut Message::default(), "q");
            spans.end(Some(&maker), Ok(()));
        }
        assert_eq!(maker.spans.counts(), SpanCounts { sent: 0, lost: 3 });
    }

    #[test]
    fn an_error_is_of_few_types() {
        for (exception, kind) in [
            ("ValueError('x')", "ValueError"),
            ("ValueError: no such id", "ValueError"),
            ("TimeLimitExceeded(3.0)", "TimeLimitExceeded"),
            ("it went wrong for 17", "Exception"),
            ("", "Exception"),
        ] {
            assert_eq!(SpanError::of(exception, None).kind, kind, "{exception}");
        }
    }
}

//! What a collector of traces sees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use longshore_core::{Job, RetryPolicy, trace};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_core::span::Current;

type Fields = BTreeMap<String, String>;

#[derive(Default)]
struct Seen {
    /// Spans by number.
    spans: BTreeMap<u64, (Fields, &'static Metadata<'static>)>,
    /// Messages with their fields, and the span that they were told in.
    events: Vec<(String, Fields, Option<u64>)>,
    /// Spans that were entered and not left, by thread.
    inside: BTreeMap<String, Vec<u64>>,
}

/// Keeps all that it is told of this target and of these tests.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Seen>>, Arc<AtomicU64>);

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

fn thread() -> String {
    format!("{:?}", std::thread::current().id())
}

impl Subscriber for Collector {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        of.target() == "longshore" || of.target() == "tracing"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.1.fetch_add(1, Ordering::Relaxed) + 1;
        let mut fields = Fields::new();
        span.record(&mut Reader(&mut fields));
        fields.insert("span".to_owned(), span.metadata().name().to_owned());
        self.0.lock().unwrap().spans.insert(id, (fields, span.metadata()));
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        values.record(&mut Reader(&mut self.0.lock().unwrap().spans.get_mut(&span.into_u64()).unwrap().0));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Reader(&mut fields));
        let message = fields.remove("message").unwrap_or_default();
        let mut seen = self.0.lock().unwrap();
        let inside = seen.inside.get(&thread()).and_then(|spans| spans.last().copied());
        seen.events.push((message, fields, inside));
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().inside.entry(thread()).or_default().push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let left = self.0.lock().unwrap().inside.get_mut(&thread()).unwrap().pop();
        assert_eq!(left, Some(span.into_u64()));
    }

    fn current_span(&self) -> Current {
        let seen = self.0.lock().unwrap();
        match seen.inside.get(&thread()).and_then(|spans| spans.last()) {
            Some(span) => Current::new(Id::from_u64(*span), seen.spans[span].1),
            None => Current::none(),
        }
    }
}

#[test]
fn each_attempt_runs_in_a_span_of_its_own_and_the_typed_events_are_told() {
    let collector = Collector::default();
    tracing::subscriber::set_global_default(collector.clone()).unwrap();
    let fails_once = || {
        let failed = AtomicBool::new(false);
        move |n: u64| {
            trace::name(&format!("task {n}"));
            tracing::info!(n, "inside");
            if n == 2 && !failed.swap(true, Ordering::Relaxed) { Err("once") } else { Ok(n) }
        }
    };
    let asleep = |n: u64| async move {
        tokio::task::yield_now().await;
        trace::name(&format!("task {n}"));
        tracing::info!(n, "inside");
        Ok::<_, String>(n)
    };
    let jobs = [("async", Job::new(asleep), 3), ("blocking", Job::blocking(fails_once()), 4), ("cpu", Job::cpu(fails_once()), 4)];
    for (lane, job, attempts) in jobs {
        let (events, job) = job.params(1..4).retry(RetryPolicy::times(1)).events(1_000);
        let told = std::thread::spawn(move || trace::follow(events));
        assert_eq!(job.run().ok(), 3, "{lane}");
        told.join().unwrap();
        let seen = std::mem::take(&mut *collector.0.lock().unwrap());
        assert_eq!(seen.spans.len(), attempts, "{lane}");
        let of = |message: &str| seen.events.iter().filter(|event| event.0 == message).collect::<Vec<_>>();
        for (_, fields, span) in of("inside") {
            let (span, _) = &seen.spans[&span.expect("a handler is in its span")];
            let want = [("span", "attempt"), ("lane", lane), ("id", &fields["n"]), ("name", &format!("task {}", fields["n"]))];
            want.iter().for_each(|(field, value)| assert_eq!(span[*field], *value, "{lane}: {field}"));
        }
        assert_eq!((of("inside").len(), of("admitted").len(), of("ended").len()), (attempts, attempts, attempts), "{lane}");
        let failed: Vec<_> = of("ended").into_iter().filter(|(_, fields, _)| fields["outcome"] == "failed").collect();
        assert_eq!(failed.len(), attempts - 3, "{lane}: those that were followed by another one");
        assert!(failed.iter().all(|(_, fields, _)| fields["id"] == "2" && fields.contains_key("again")), "{lane}");
        assert!(!of("phase").is_empty(), "{lane}");
    }
}

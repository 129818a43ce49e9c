//! Spans as a collector gets them: of chains through two workers, of what was sent in bulk, of
//! failures and retries.
#![expect(clippy::unwrap_used, reason = "a test")]

mod collector;

use std::{collections::HashMap, time::Duration};

use collector::{Collector, Received};
use futures_util::stream;
use longshore_celery::Value;
use longshore_otel::{Otlp, OtlpSettings};
use longshore_worker::{App, Client, Failure, Signature, Spans, Task, TraceContext, Worker, WorkerOptions, chain};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const SOON: Duration = Duration::from_secs(20);

fn app(url: &str, spans: &Spans) -> App {
    App::new()
        .broker(url)
        .told(None)
        .spans(spans.clone())
        .task(Task::future(
            "shop.first",
            |context, _| async move { Ok(context.trace().map_or(Value::Null, |trace| trace.parent().into())) },
        ))
        .task(Task::future("shop.second", |_, _| async { Ok(2.into()) }))
        .task(Task::future("shop.parent", |context, _| async move {
            context
                .send(Signature::<Value>::named("shop.second").queue("far"))
                .await
                .map_err(|error| Failure::error("E", error.to_string()))?;
            Ok(Value::Null)
        }))
        .task(Task::future("shop.fails", |_, _| async { Err(Failure::error("ValueError", "no such id")) }))
        .task(Task::future("shop.flaky", |context, _| async move {
            if context.retries() == 0 { Err(context.retry_in(Duration::from_millis(1))) } else { Ok(1.into()) }
        }))
}

async fn worker(url: &str, spans: &Spans, queue: &str) -> Worker {
    let mut options = WorkerOptions::new(format!("{queue}@here"));
    options.queues = vec![queue.to_owned()];
    Worker::start(app(url, spans), options).await.unwrap()
}

/// Runs what `send` sends with two workers, `near` and `far`. Returns the spans that were received.
async fn received(collector: &Collector, url: &str, send: impl AsyncFnOnce(Client)) -> Vec<Received> {
    let otlp = begin(collector);
    let spans = otlp.spans();
    let workers = [worker(url, &spans, "near").await, worker(url, &spans, "far").await];
    tokio::time::timeout(SOON, send(Client::of(&app(url, &spans)).unwrap())).await.expect("it is sent and done in time");
    for worker in workers {
        worker.stopper().warm();
        worker.join().await;
    }
    let counts = tokio::task::spawn_blocking(move || otlp.end(SOON)).await.unwrap();
    let received = collector.spans();
    assert_eq!((counts.sent, counts.lost), (received.len() as u64, 0));
    received
}

/// Begins to send to a collector.
fn begin(collector: &Collector) -> Otlp {
    let mut settings = OtlpSettings::to(collector.url());
    settings.delay = Duration::from_millis(50);
    Otlp::start(settings, |trouble| println!("told: {trouble}")).unwrap()
}

fn one<'a>(spans: &'a [Received], name: &str) -> &'a Received {
    let mut found = spans.iter().filter(|span| span.name == name);
    let one = found.next().unwrap_or_else(|| panic!("no span {name} among {spans:#?}"));
    assert!(found.next().is_none(), "two spans {name}");
    one
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chain_through_two_workers_is_one_trace_in_which_each_part_has_its_parent() {
    let collector = Collector::start().await;
    let spans = received(&collector, "memory://otel-chain", async |client| {
        let client = client.in_trace(TraceContext::parse(PARENT, Some("vendor=1")));
        let first = Signature::<Value>::named("shop.first").queue("near");
        let second = Signature::<Value>::named("shop.second").immutable().queue("far");
        let answer = client.send(chain([first, second])).await.unwrap();
        answer.get().await.unwrap();
    })
    .await;
    let [send, wait, run] = ["send shop.first", "wait shop.first", "run shop.first"].map(|name| one(&spans, name));
    let [send2, wait2, run2] = ["send shop.second", "wait shop.second", "run shop.second"].map(|name| one(&spans, name));
    assert_eq!(spans.len(), 6, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace == "0af7651916cd43dd8448eb211c80319c" && span.state == "vendor=1"));
    assert_eq!(send.parent, "b7ad6b7169203331");
    for (child, parent) in [(wait, send), (run, send), (send2, run), (wait2, send2), (run2, send2)] {
        assert_eq!(child.parent, parent.id, "{} is below {}", child.name, parent.name);
    }
    assert_eq!([&*send.kind, &*wait.kind, &*run.kind], ["PRODUCER", "INTERNAL", "CONSUMER"]);
    for (span, queue, node, operation) in
        [(send, "near", None, "send"), (run, "near", Some("near@here"), "run"), (run2, "far", Some("far@here"), "run")]
    {
        assert_eq!(span.text("messaging.system"), Some("memory"));
        assert_eq!(span.text("messaging.destination.name"), Some(queue));
        assert_eq!(span.text("messaging.operation.name"), Some(operation));
        assert_eq!(span.text("messaging.client.id"), node);
    }
    assert_eq!(run.text("messaging.message.id"), send.text("messaging.message.id"));
    assert!(run.began >= wait.ended && run.ended >= run.began && send2.began >= run.began);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_task_sends_is_below_its_run_and_a_task_without_a_trace_begins_one() {
    let collector = Collector::start().await;
    let spans = received(&collector, "memory://otel-child", async |client| {
        client.send(Signature::<Value>::named("shop.parent").queue("near")).await.unwrap().get().await.unwrap();
        while !collector.spans().iter().any(|span| span.name == "run shop.second") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(one(&spans, "send shop.parent").parent, "");
    assert_eq!(one(&spans, "send shop.second").parent, one(&spans, "run shop.parent").id);
    assert_eq!(spans.iter().map(|span| &span.trace).collect::<std::collections::HashSet<_>>().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_finds_its_own_span() {
    let collector = Collector::start().await;
    let mut found = String::new();
    let spans = received(&collector, "memory://otel-own", async |client| {
        let answer = client.send(Signature::<Value>::named("shop.first").queue("near")).await.unwrap();
        found = answer.get().await.unwrap().as_str().unwrap_or_default().to_owned();
    })
    .await;
    let run = one(&spans, "run shop.first");
    assert_eq!(found, format!("00-{}-{}-01", run.trace, run.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_error_and_a_retry_are_a_status_and_an_event() {
    let collector = Collector::start().await;
    let spans = received(&collector, "memory://otel-fails", async |client| {
        assert!(client.send(Signature::<Value>::named("shop.fails").queue("near")).await.unwrap().get().await.is_err());
        client.send(Signature::<Value>::named("shop.flaky").queue("near")).await.unwrap().get().await.unwrap();
    })
    .await;
    let failed = one(&spans, "run shop.fails");
    assert_eq!(
        (failed.status.as_str(), failed.text("error.type"), failed.events.as_slice()),
        ("ERROR", Some("ValueError"), &["exception".to_owned()][..])
    );
    assert!(failed.said.contains("no such id"), "{}", failed.said);
    let attempts: Vec<_> = spans.iter().filter(|span| span.name == "run shop.flaky").collect();
    let sends: Vec<_> = spans.iter().filter(|span| span.name == "send shop.flaky").collect();
    let [first, again] = attempts[..] else { panic!("{attempts:#?}") };
    let [_, resent] = sends[..] else { panic!("{sends:#?}") };
    assert_eq!((first.status.as_str(), first.events.as_slice()), ("ERROR", &["retry".to_owned()][..]));
    assert_eq!((again.status.as_str(), again.events.len()), ("UNSET", 0));
    // The next attempt is another message, which the first one has sent.
    assert_eq!((&resent.parent, &again.parent), (&first.id, &resent.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_task_of_many_that_are_sent_at_once_has_a_trace_of_its_own() {
    let collector = Collector::start().await;
    let spans = received(&collector, "memory://otel-bulk", async |client| {
        let many = (0..300).map(|_| Signature::<Value>::named("shop.second").queue("near"));
        let mut all = client.send_all(stream::iter(many));
        let mut answers = Vec::new();
        while let Some((_, sent)) = all.next().await {
            answers.push(sent.expect("it is sent"));
        }
        for answer in answers {
            answer.get().await.unwrap();
        }
    })
    .await;
    let sends: HashMap<_, _> = spans.iter().filter(|span| span.name == "send shop.second").map(|span| (&span.trace, &span.id)).collect();
    assert_eq!(sends.len(), 300);
    let runs: Vec<_> = spans.iter().filter(|span| span.name == "run shop.second").collect();
    assert!(runs.len() == 300 && runs.iter().all(|run| sends[&run.trace] == &run.parent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_trace_that_nobody_records_is_not_recorded_here_either() {
    let collector = Collector::start().await;
    let spans = received(&collector, "memory://otel-unsampled", async |client| {
        let unrecorded = client.in_trace(TraceContext::parse(&PARENT.replace("-01", "-00"), None));
        let answer = unrecorded.send(Signature::<Value>::named("shop.first").queue("near")).await.unwrap();
        // It is passed on as it is.
        assert_eq!(answer.get().await.unwrap().as_str(), Some(&*PARENT.replace("-01", "-00")));
    })
    .await;
    assert_eq!(spans.len(), 0, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sampler_of_the_environment_decides_about_traces_that_begin_here() {
    let collector = Collector::start().await;
    let variables = &[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    collector::again("sends_one_task_outside_of_a_trace_and_one_within", &collector, variables).await;
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["send shop.second"]);
    assert_eq!(collector.resource("service.name").as_deref(), Some("longshore"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_environment_names_the_service_and_the_headers() {
    let collector = Collector::start().await;
    let variables = &[
        ("OTEL_SERVICE_NAME", "shop"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"),
    ];
    collector::again("sends_one_task_outside_of_a_trace_and_one_within", &collector, variables).await;
    assert_eq!(collector.spans().len(), 2);
    assert_eq!(collector.resource("service.name").as_deref(), Some("shop"));
    assert_eq!(collector.resource("deployment.environment.name").as_deref(), Some("test"));
    assert_eq!(collector.header("x-key").as_deref(), Some("secret"));
}

#[tokio::test]
#[ignore = "a process of its own: the tests above run it, with variables of the environment"]
async fn sends_one_task_outside_of_a_trace_and_one_within() {
    let Some(otlp) = Otlp::from_environment(|trouble| panic!("{trouble}")).unwrap() else { return };
    let client = Client::of(&app("memory://otel-again", &otlp.spans())).unwrap();
    client.send(Signature::<Value>::named("shop.first").queue("near")).await.unwrap();
    let recorded = client.in_trace(TraceContext::parse(PARENT, None));
    recorded.send(Signature::<Value>::named("shop.second").queue("near")).await.unwrap();
    tokio::task::spawn_blocking(move || otlp.end(SOON)).await.unwrap();
}

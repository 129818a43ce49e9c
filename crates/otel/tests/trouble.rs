//! A collector that is away, slow, or refuses: nobody waits for it, memory is bounded, and it is
//! counted and said.
#![expect(clippy::unwrap_used, reason = "a test")]

mod collector;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use collector::Collector;
use longshore_celery::Value;
use longshore_otel::{Otlp, OtlpSettings};
use longshore_worker::{App, Client, Signature};

type Told = Arc<Mutex<Vec<String>>>;

fn begin(endpoint: String, set: impl FnOnce(&mut OtlpSettings)) -> (Otlp, Told) {
    let told = Told::default();
    let hears = told.clone();
    let mut settings = OtlpSettings::to(endpoint);
    settings.delay = Duration::from_millis(10);
    set(&mut settings);
    (Otlp::start(settings, move |text| hears.lock().unwrap().push(text.to_owned())).unwrap(), told)
}

async fn send(otlp: &Otlp, url: &str, count: usize) -> Duration {
    let client = Client::of(&App::new().broker(url).told(None).spans(otlp.spans())).unwrap();
    let began = Instant::now();
    for _ in 0..count {
        client.send(Signature::<Value>::named("shop.add")).await.unwrap();
    }
    began.elapsed()
}

fn end(otlp: Otlp, within: Duration) -> longshore_worker::SpanCounts {
    std::thread::spawn(move || otlp.end(within)).join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_loses_spans_which_is_counted_and_said_once() {
    // Nobody listens at a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (otlp, told) = begin(format!("http://user:secret@127.0.0.1:{port}"), |settings| settings.batch = 10);
    send(&otlp, "memory://otel-away", 35).await;
    let counts = end(otlp, Duration::from_secs(20));
    assert_eq!((counts.sent, counts.lost), (0, 35));
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&format!("http://127.0.0.1:{port}")) && !told[0].contains("secret"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_is_no_retry_and_no_trouble_for_tasks() {
    let collector = Collector::answering(403, Duration::ZERO).await;
    let (otlp, told) = begin(collector.url(), |_| {});
    send(&otlp, "memory://otel-refused", 5).await;
    let counts = end(otlp, Duration::from_secs(20));
    assert_eq!((counts.sent, counts.lost), (0, 5));
    assert!(told.lock().unwrap()[0].contains("403"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_collector_holds_up_nobody_and_a_bounded_number_of_spans_waits() {
    let collector = Collector::answering(200, Duration::from_secs(60)).await;
    let (otlp, _told) = begin(collector.url(), |settings| {
        (settings.queue, settings.batch, settings.timeout) = (100, 20, Duration::from_secs(60));
    });
    let took = send(&otlp, "memory://otel-slow", 5_000).await;
    // Two batches are on their way at most: one that is sent, one that is gathered.
    let lost = otlp.counts().lost;
    assert!((5_000 - 100 - 40..=5_000 - 100).contains(&lost), "{lost} are lost");
    assert!(took < Duration::from_secs(30), "5000 tasks took {took:?}");
    let began = Instant::now();
    end(otlp, Duration::from_millis(300));
    assert!(began.elapsed() < Duration::from_secs(5), "the end took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_back_gets_what_comes_then() {
    let collector = Collector::answering(503, Duration::ZERO).await;
    let (otlp, _told) = begin(collector.url(), |_| {});
    send(&otlp, "memory://otel-back", 1).await;
    while otlp.counts().lost == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    collector.answer(200);
    send(&otlp, "memory://otel-back", 3).await;
    let counts = end(otlp, Duration::from_secs(20));
    assert_eq!((counts.sent, counts.lost, collector.spans().len()), (3, 1, 3));
}

//! What spans cost: no-op tasks are drained by a worker, with and without them, and the processor
//! time of this process is divided by their number. The collector is a process of its own.
//!
//! `cargo run --release -p longshore-otel --example cost [-- redis://127.0.0.1/9 --tasks 50000]`

use std::{
    error::Error,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, routing::post};
use futures_util::stream;
use longshore_celery::Value;
use longshore_otel::{Otlp, OtlpSettings};
use longshore_worker::{App, Client, Signature, Task, TraceContext, Worker, WorkerOptions};
use tokio::sync::Notify;

/// Rounds of each way; the middle one is shown.
const ROUNDS: usize = 5;

/// Ways in which tasks are run.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Without spans.
    Off,
    /// With spans, of a trace that nobody records.
    Unrecorded,
    /// With spans that go to the collector.
    Recorded,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--collector") {
        return collect().await;
    }
    let tasks = words.iter().position(|word| word == "--tasks").and_then(|at| words.get(at + 1)).map_or(Ok(50_000), |text| text.parse())?;
    let broker = words.first().filter(|word| word.contains("://")).cloned().unwrap_or_else(|| "memory://cost".to_owned());
    let (collector, address) = collector()?;
    println!("{tasks} no-op tasks on {broker}, drained by one worker with 200 slots; processor time of this process, median of {ROUNDS}");
    // Side by side: what the machine does meanwhile hits all of them.
    let ways = [Way::Off, Way::Unrecorded, Way::Recorded];
    let mut took: Vec<Vec<(Duration, Duration, u64, u64)>> = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, took) in ways.iter().zip(&mut took) {
            took.push(round(*way, &broker, tasks, &address).await?);
        }
    }
    for (way, mut took) in ways.into_iter().zip(took) {
        took.sort();
        let (cpu, wall, sent, lost) = took[ROUNDS / 2];
        let each = cpu.as_secs_f64() * 1e6 / tasks as f64;
        println!(
            "{:<11} {each:6.2} µs a task, {:6.0} tasks/s, {sent} spans sent, {lost} lost",
            format!("{way:?}"),
            tasks as f64 / wall.as_secs_f64()
        );
    }
    drop(collector);
    Ok(())
}

/// Sends tasks, and has them drained. Returns processor time and time of the draining, and counts
/// of spans.
async fn round(way: Way, broker: &str, tasks: u64, address: &str) -> Result<(Duration, Duration, u64, u64), Box<dyn Error + Send + Sync>> {
    let otlp = match way {
        Way::Off => None,
        Way::Unrecorded | Way::Recorded => {
            let mut settings = OtlpSettings::to(address);
            settings.queue = 1 << 17;
            Some(Otlp::start(settings, |trouble| eprintln!("{trouble}"))?)
        }
    };
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let (counted, told) = (done.clone(), over.clone());
    let noop = Task::future("cost.noop", move |_, _| {
        let (counted, told) = (counted.clone(), told.clone());
        async move {
            if counted.fetch_add(1, Ordering::Relaxed) + 1 == tasks {
                told.notify_one();
            }
            Ok(Value::Null)
        }
    });
    let app = App::new().broker(broker).told(None).task(noop.with_policy(|policy| policy.ignore_result = true));
    let flags = if matches!(way, Way::Recorded) { "01" } else { "00" };
    let trace = TraceContext::parse(&format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"), None);
    let many = stream::iter((0..tasks).map(|_| Signature::<Value>::named("cost.noop")));
    // All messages name a trace: what is measured is what the worker does with it.
    let sent = Client::of(&app)?.in_trace(trace).send_all(many).finish().await;
    assert_eq!(sent.sent, tasks);
    let app = app.spans(otlp.as_ref().map(Otlp::spans));
    let (began, before) = (Instant::now(), processor_time());
    let worker = Worker::start(app, WorkerOptions::new("cost@here")).await?;
    over.notified().await;
    worker.stopper().warm();
    worker.join().await;
    let counts = match otlp {
        Some(otlp) => tokio::task::spawn_blocking(move || otlp.end(Duration::from_secs(20))).await?,
        None => longshore_worker::SpanCounts::default(),
    };
    Ok((processor_time() - before, began.elapsed(), counts.sent, counts.lost))
}

/// Returns the processor time of this process so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time, in hundredths of a second.
    let ticks: u64 = fields.get(11..13).unwrap_or_default().iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Starts a collector, which ends with its handle.
fn collector() -> Result<(Collector, String), Box<dyn Error + Send + Sync>> {
    let mut child = Command::new(std::env::current_exe()?).arg("--collector").stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut address)?;
    Ok((Collector(child), address.trim().to_owned()))
}

struct Collector(Child);

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Is a collector that throws away what it gets.
async fn collect() -> Result<(), Box<dyn Error + Send + Sync>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let router = Router::new().route("/v1/traces", post(async |_: Bytes| "")).layer(axum::extract::DefaultBodyLimit::disable());
    Ok(axum::serve(listener, router).await?)
}

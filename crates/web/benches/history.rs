//! A history of 100 000 tasks: events in, pages and searches out, and the memory that it takes.
//!
//! `cargo bench -p longshore-web --bench history`. Events come over a broker in memory from this
//! same process, so that nothing else is measured; their making counts against the rate.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures")]

use std::time::{Duration, Instant};

use longshore_celery::events::{self, Event, EventKind, TaskInfo};
use longshore_web::{HistoryOptions, Intake, IntakeOptions, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Tasks that are remembered, with three events each.
const TASKS: usize = 100_000;
/// Requests of each kind.
const ASKED: usize = 40;
/// Events a second while pages are asked for.
const FLOOD: u32 = 5_000;

fn event(clock: usize, what: EventKind) -> Event {
    let (hostname, timestamp) = (format!("w{}@h", clock % 20), 1_700_000_000.0 + clock as f64 / 1e3);
    Event { hostname, pid: Some(7), utcoffset: 0.0, clock: clock as u64, timestamp, what }
}

/// Returns the three events of a task: one of fifty fails.
fn life(number: usize) -> [Event; 3] {
    let uuid = format!("{:08x}-0000-4000-8000-{number:012x}", number.wrapping_mul(2_654_435_761) & 0xffff_ffff);
    let info = TaskInfo {
        uuid: uuid.clone(),
        name: format!("shop.task{}", number % 100),
        args: Some(format!("({number}, 'a text of about as many characters as arguments have')")),
        root_id: Some(uuid.clone()),
        queue: Some(format!("queue{}", number % 10)),
        ..TaskInfo::default()
    };
    let ends = match number % 50 {
        0 => EventKind::TaskFailed {
            uuid: uuid.clone(),
            exception: format!("ConnectionError('host{} does not answer')", number % 1_000),
            traceback: Some("Traceback (most recent call last):\n  File \"shop.py\", line 1, in task\n".repeat(4)),
        },
        _ => EventKind::TaskSucceeded { uuid: uuid.clone(), result: format!("{number}"), runtime: (number % 500) as f64 / 100.0 },
    };
    [EventKind::TaskReceived(info), EventKind::TaskStarted { uuid }, ends].map(|what| event(number, what))
}

/// Publishes the lives of these tasks, so many events a second at most.
async fn publish(client: &Client, tasks: std::ops::Range<usize>, rate: u32) {
    let (bus, begun) = (client.connected().bus().unwrap(), Instant::now());
    for (sent, first) in tasks.clone().step_by(8).enumerate() {
        let lives: Vec<Event> = (first..(first + 8).min(tasks.end)).flat_map(life).collect();
        let (key, raw) = events::encode(&lives, "tag");
        bus.broadcast(events::EXCHANGE, &key, &raw).await.unwrap();
        let due = begun + Duration::from_secs_f64((sent + 1) as f64 * 24.0 / f64::from(rate));
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Asks for a page. Returns the times of its first and its last byte, and the page.
async fn ask(address: std::net::SocketAddr, path: &str) -> (Duration, Duration, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut page = vec![0; 1];
    stream.read_exact(&mut page).await.unwrap();
    let first = begun.elapsed();
    stream.read_to_end(&mut page).await.unwrap();
    (first, begun.elapsed(), String::from_utf8_lossy(&page).into_owned())
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    format!("{} now, {} at most", line("VmRSS:"), line("VmHWM:"))
}

async fn table(address: std::net::SocketAddr, when: &str) {
    println!("\n{when}, {ASKED} requests each: first byte, middle and longest | last byte, longest");
    for path in [
        "/tasks",
        "/tasks?state=failure",
        "/tasks?task=shop.task7",
        "/tasks?error=host51+does&state=failure",
        "/tasks?error=HOST999",
        "/tasks?took=4s&worker=w3%40h",
        "/tasks?before=20000",
        "/",
        "/?span=day",
        "/events",
    ] {
        let (mut first, mut last) = (Vec::new(), Duration::ZERO);
        for _ in 0..ASKED {
            let (one, all, page) = ask(address, path).await;
            assert!(page.contains("200 OK") && !page.contains("role=\"alert\""), "{page}");
            first.push(one);
            last = last.max(all);
        }
        first.sort();
        println!("{path:44} {:>7.1?} {:>7.1?} | {last:>7.1?}", first[ASKED / 2], first[ASKED - 1]);
    }
}

#[tokio::main]
async fn main() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("history.db");
    let client = Client::connect(&Settings::new("memory://bench-history")).unwrap();
    let mut options = WebOptions::default();
    options.history = Some(HistoryOptions::new(&file));
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let serving = server.serve(Site::of_deployment(options, client.clone(), &Intake::new(client.clone(), IntakeOptions::default())));
    let address = serving.address();
    while !ask(address, "/api/v1/history").await.2.contains("200 OK") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("before: {}", memory());
    let begun = Instant::now();
    publish(&client, 0..TASKS, 20_000).await;
    let sent = begun.elapsed();
    let last = life(TASKS - 1)[0].what.task_id().unwrap().to_owned();
    while !ask(address, &format!("/api/v1/tasks/{last}/timeline")).await.2.contains("200 OK") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dropped = ask(address, "/metrics").await.2;
    let dropped = dropped.lines().find(|line| line.starts_with("longshore_events_dropped_total")).unwrap_or("?").to_owned();
    println!("{} events sent in {sent:.1?}, all written after {:.1?}; {dropped}", TASKS * 3, begun.elapsed());
    println!("file: {} MiB; memory: {}", file.metadata().unwrap().len() >> 20, memory());
    table(address, "nothing comes").await;
    let flood = tokio::spawn({
        let client = client.clone();
        async move { publish(&client, TASKS..10 * TASKS, FLOOD).await }
    });
    table(address, &format!("{FLOOD} events a second come")).await;
    flood.abort();
    let dropped = ask(address, "/metrics").await.2;
    let dropped = dropped.lines().find(|line| line.starts_with("longshore_events_dropped_total")).unwrap_or("?").to_owned();
    println!("\n{dropped}; memory: {}", memory());
    serving.stop().await;
}

//! Pages of a queue in which a million messages wait: `cargo bench -p longshore-web --bench queues
//! [-- MESSAGES]`. Needs redis-server.
//!
//! First bytes on two roads: again and again, and after a pause in which nobody looked, so that the
//! page waits for a look at the broker. The very first page waits for replies of workers as well.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures")]

#[path = "../tests/filled/mod.rs"]
mod filled;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use filled::{QUEUE, fill_redis, fill_sqlite};
use longshore_testkit::servers::Redis;
use longshore_web::{Intake, IntakeOptions, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Requests of each kind, and those after a pause.
const ASKED: usize = 100;
const ASKED_AFTER: usize = 5;
/// Time after which the page's reader has stopped looking.
const PAUSE: Duration = Duration::from_secs(7);
/// Longest time to the first byte that is good enough.
const LIMIT: Duration = Duration::from_millis(50);

/// Asks for a page. Returns the time of its first byte, and the page.
async fn ask(address: SocketAddr, path: &str) -> (Duration, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut page = vec![0; 1];
    stream.read_exact(&mut page).await.unwrap();
    let first = begun.elapsed();
    stream.read_to_end(&mut page).await.unwrap();
    let page = String::from_utf8_lossy(&page).into_owned();
    assert!(page.contains("200 OK"), "{page}");
    (first, page)
}

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
    let verdict = if longest <= LIMIT { "" } else { "  over the limit" };
    println!("{what:44} {middle:>8.1?} {longest:>8.1?}{verdict}");
}

async fn table(broker: &str, client: &Client) {
    let options = WebOptions::default();
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let serving = server.serve(Site::of_deployment(options, client.clone(), &Intake::new(client.clone(), IntakeOptions::default())));
    let (address, own) = (serving.address(), format!("/queues/{QUEUE}"));
    println!("\n{broker}: time to the first byte, middle and longest; the limit is {LIMIT:?}");
    row("/queues, the first page of all", vec![ask(address, "/queues").await.0]);
    for path in ["/queues", &own] {
        let mut times = Vec::new();
        for _ in 0..ASKED {
            let (first, page) = ask(address, path).await;
            assert!(page.contains("task-0000019") == (path == own));
            times.push(first);
            // Over some seconds, so that looks of the reader fall among them.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        row(&format!("{path}, {ASKED} times"), times);
    }
    for path in ["/queues", &own] {
        let mut times = Vec::new();
        for _ in 0..ASKED_AFTER {
            tokio::time::sleep(PAUSE).await;
            times.push(ask(address, path).await.0);
        }
        row(&format!("{path}, after a pause, {ASKED_AFTER} times"), times);
    }
    serving.stop().await;
}

#[tokio::main]
async fn main() {
    let messages = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    println!("{messages} messages wait");
    let redis = Redis::start(&[]).unwrap();
    let client = Client::connect(&Settings::new(redis.url())).unwrap();
    fill_redis(&redis, &client, messages).await;
    table("Redis", &client).await;
    drop((client, redis));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let client = Client::connect(&Settings::new(format!("sqlite:{}", path.display()))).unwrap();
    fill_sqlite(&path, &client, messages).await;
    table("SQLite", &client).await;
}

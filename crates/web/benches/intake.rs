//! The intake beside bare axum handlers that do one confirmed LPUSH, or (SQLite) one insert that is
//! committed together with those that came meanwhile: `cargo bench -p longshore-web --bench intake
//! [-- ROUNDS] [Redis|SQLite]`. Needs wrk and redis-server.
//!
//! One bare handler sends the body as it came, which no worker can run; the other reads it and
//! writes a message of Celery's by `format!`, which is the same work without any check. All servers
//! are processes of their own and take turns; medians of all rounds. Requests a second
//! are wrk's, with 64 connections; latencies are of tasks that are sent at fixed times, at half of
//! what the intake took, each from the time at which it was due.
#![expect(clippy::unwrap_used, reason = "a measuring program")]

#[path = "../examples/intake/caller.rs"]
mod caller;

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::Path, http::StatusCode, routing::post};
use base64::Engine as _;
use caller::Caller;
use longshore_testkit::servers::Redis;
use longshore_web::{Intake, IntakeOptions, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
};

const STORES: [&str; 2] = ["Redis", "SQLite"];
const SERVES: &str = "LONGSHORE_BENCH_INTAKE";
const PATH: &str = "/api/v1/tasks/shop.price";
const BODY: &str = r#"{"args":[1,"two"],"kwargs":{"three":3}}"#;
/// Connections that send at fixed times.
const CALLERS: u32 = 32;
const SECONDS: u64 = 4;

fn main() {
    if let Ok(told) = std::env::var(SERVES) {
        let (who, broker) = told.split_once(' ').unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(serve(who, broker));
        return;
    }
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(3);
    let only = std::env::args().find(|word| STORES.contains(&&**word));
    let redis = Redis::start(&[]).unwrap();
    println!("load of the machine before: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    for store in STORES.into_iter().filter(|store| only.as_deref().is_none_or(|only| only == *store)) {
        let directory = tempfile::tempdir().unwrap();
        let file = |round: usize, who: &str| format!("sqlite:{}/{who}{round}.db", directory.path().display());
        let broker = |round: usize, who: &str| if store == "Redis" { redis.url() } else { file(round, who) };
        let (mut rates, mut ratios) = ([const { Vec::new() }; 3], [const { Vec::new() }; 2]);
        for round in 0..rounds {
            let [body, message, ours] = ["bare-body", "bare-message", "ours"].map(|who| {
                let server = ServerProcess::start(who, &broker(round, who));
                let rate = wrk(&server.address, directory.path());
                drop(server);
                redis.command(&["FLUSHALL"]);
                rate
            });
            println!("{store}, round {round}: bare, the body {body:.0}/s; bare, a message {message:.0}/s; ours {ours:.0}/s");
            [body, message, ours].into_iter().zip(&mut rates).for_each(|(rate, all)| all.push(rate));
            [body, message].into_iter().zip(&mut ratios).for_each(|(rate, all)| all.push(ours / rate));
        }
        let ([body, message, ours], [of_body, of_message]) = (rates.map(median), ratios.map(median));
        println!("{store}: bare, the body {body:.0}/s; bare, a message {message:.0}/s; intake {ours:.0}/s");
        println!("{store}: medians of the ratios: {of_body:.2} of the body, {of_message:.2} of a message");
        let mut latencies = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for (place, who) in ["bare-message", "ours"].into_iter().enumerate() {
                let server = ServerProcess::start(who, &broker(round + rounds, who));
                latencies[place].push(p99(&server.address, ours / 2.0));
                drop(server);
                redis.command(&["FLUSHALL"]);
            }
        }
        let [bare, intake] = latencies.map(median);
        println!("{store}, p99 at {:.0}/s: bare {bare:.2} ms, intake {intake:.2} ms", ours / 2.0);
    }
    println!("load of the machine after: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A server in a process of its own.
struct ServerProcess {
    child: Child,
    address: String,
}

impl ServerProcess {
    fn start(who: &str, broker: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.env(SERVES, format!("{who} {broker}")).stdout(Stdio::piped()).spawn().unwrap();
        let address = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        Self { child, address }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Returns how many requests a second wrk gets through.
fn wrk(address: &str, directory: &std::path::Path) -> f64 {
    let script = directory.join("post.lua");
    let text = format!("wrk.method = 'POST'\nwrk.body = '{BODY}'\nwrk.headers['Content-Type'] = 'application/json'\n");
    std::fs::write(&script, text).unwrap();
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c64", &format!("-d{SECONDS}s"), "-s"]).arg(script).arg(format!("http://{address}{PATH}"));
    let said = String::from_utf8(command.output().expect("wrk is installed").stdout).unwrap();
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")).unwrap().trim().parse().unwrap()
}

/// Returns the 99th percentile of the latencies at this rate, in ms.
fn p99(address: &str, rate: f64) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut latencies: Vec<f64> = runtime.block_on(async {
        let begun = Instant::now() + Duration::from_millis(100);
        let every = Duration::from_secs_f64(f64::from(CALLERS) / rate);
        let callers = (0..CALLERS).map(|number| {
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut caller = Caller::connect(&address, PATH, BODY).await.unwrap();
                let mut due = begun + every.mul_f64(f64::from(number) / f64::from(CALLERS));
                let mut latencies = Vec::new();
                while due < begun + Duration::from_secs(SECONDS) {
                    tokio::time::sleep_until(due.into()).await;
                    assert_eq!(caller.send().await.unwrap().0, 202);
                    latencies.push(due.elapsed().as_secs_f64() * 1_000.0);
                    due += every;
                }
                latencies
            })
        });
        let mut all = Vec::new();
        for caller in callers.collect::<Vec<_>>() {
            all.extend(caller.await.unwrap());
        }
        all
    });
    latencies.sort_by(f64::total_cmp);
    latencies[latencies.len() * 99 / 100]
}

async fn serve(who: &str, broker: &str) {
    if who == "ours" {
        let intake = Intake::new(Client::connect(&Settings::new(broker)).unwrap(), IntakeOptions::default());
        let server = WebServer::bind("127.0.0.1:0", &WebOptions::default()).await.unwrap();
        println!("{}", server.address());
        let _serving = server.serve(Site::of_intake(WebOptions::default(), &intake));
        return std::future::pending().await;
    }
    let is_message = who == "bare-message";
    let store = match broker.strip_prefix("sqlite:") {
        Some(path) => bare_file(path),
        None => bare_redis(broker.trim_start_matches("redis://").trim_end_matches("/0")).await,
    };
    let router = Router::new().route(
        "/api/v1/tasks/{name}",
        post(move |Path(task): Path<String>, body: Bytes| {
            let store = store.clone();
            async move {
                let id = format!("00000000-0000-4000-8000-{:012x}", SENT.fetch_add(1, Ordering::Relaxed));
                let body = if is_message { message(&task, &id, &body).into() } else { body };
                let (done, confirmed) = oneshot::channel();
                store.send((body, done)).unwrap();
                confirmed.await.unwrap();
                (StatusCode::ACCEPTED, format!("{{\"id\":\"{id}\"}}"))
            }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}

/// Number of tasks that a bare handler has sent.
static SENT: AtomicU64 = AtomicU64::new(0);

/// Returns a message that a worker of Celery's would run.
fn message(task: &str, id: &str, body: &[u8]) -> String {
    let order: serde_json::Value = serde_json::from_slice(body).unwrap();
    let (args, kwargs) = (&order["args"], &order["kwargs"]);
    let embed = r#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}"#;
    let body = base64::engine::general_purpose::STANDARD.encode(format!("[{args}, {kwargs}, {embed}]"));
    format!(
        r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "{task}", "id": "{id}", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "{id}", "parent_id": null, "argsrepr": "{}", "kwargsrepr": "{}", "origin": "bare@host", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {{}}}}, "properties": {{"correlation_id": "{id}", "reply_to": "{id}", "delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "celery"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "{id}"}}}}"#,
        args.to_string().replace('"', "'"),
        kwargs.to_string().replace('"', "'"),
    )
}

type BareStore = mpsc::UnboundedSender<(Bytes, oneshot::Sender<()>)>;

/// One connection for all: what comes together is written together.
async fn bare_redis(address: &str) -> BareStore {
    let (store, mut asked) = mpsc::unbounded_channel::<(Bytes, oneshot::Sender<()>)>();
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (read, mut write) = stream.into_split();
    let waiting = Arc::new(Mutex::new(VecDeque::new()));
    let answered = waiting.clone();
    tokio::spawn(async move {
        let mut lines = tokio::io::BufReader::new(read).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            assert!(line.starts_with(':'), "{line}");
            let done: oneshot::Sender<()> = answered.lock().unwrap().pop_front().unwrap();
            let _ = done.send(());
        }
    });
    tokio::spawn(async move {
        let mut some = Vec::new();
        while asked.recv_many(&mut some, 128).await > 0 {
            let mut out = Vec::new();
            for (body, done) in some.drain(..) {
                out.extend_from_slice(format!("*3\r\n$5\r\nLPUSH\r\n$6\r\ncelery\r\n${}\r\n", body.len()).as_bytes());
                out.extend_from_slice(&body);
                out.extend_from_slice(b"\r\n");
                waiting.lock().unwrap().push_back(done);
            }
            write.write_all(&out).await.unwrap();
        }
    });
    store
}

/// One thread that commits what has come meanwhile.
fn bare_file(path: &str) -> BareStore {
    let (store, mut asked) = mpsc::unbounded_channel::<(Bytes, oneshot::Sender<()>)>();
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE tasks(n INTEGER PRIMARY KEY, raw BLOB NOT NULL)",
    )
    .unwrap();
    std::thread::spawn(move || {
        while let Some(first) = asked.blocking_recv() {
            let mut some = vec![first];
            while let Ok(next) = asked.try_recv() {
                some.push(next);
            }
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            let mut insert = conn.prepare_cached("INSERT INTO tasks(raw) VALUES (?1)").unwrap();
            for (body, _) in &some {
                insert.execute([&body[..]]).unwrap();
            }
            conn.execute_batch("COMMIT").unwrap();
            for (_, done) in some {
                let _ = done.send(());
            }
        }
    });
    store
}

//! Bad days of a dashboard: a broker that is away, frozen or restarted, workers that disappear,
//! floods, slow and wrong clients. Nothing hangs, memory is bounded, and the page says what is
//! wrong.
#![expect(clippy::unwrap_used, reason = "a test")]

mod http;

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::{Answered, ask, raw};
use longshore_brokers::OpenOptions;
use longshore_celery::events::{self, Event, EventKind, Heartbeat, TaskInfo};
use longshore_testkit::servers::Redis;
use longshore_web::{Access, HistoryOptions, Intake, IntakeOptions, Secret, Serving, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings, Signature};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

const SOON: Duration = Duration::from_secs(30);

struct Dashboard {
    client: Client,
    serving: Serving,
}

impl Dashboard {
    async fn over(broker: &str, change: impl FnOnce(&mut WebOptions)) -> Self {
        let client = Client::connect(&Settings::new(broker)).unwrap();
        let mut options = WebOptions::default();
        change(&mut options);
        let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
        let intake = Intake::new(client.clone(), IntakeOptions::default());
        let serving = server.serve(Site::of_deployment(options, client.clone(), &intake));
        Self { client, serving }
    }

    fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    async fn get(&self, path: &str) -> Answered {
        ask(self.address(), "GET", path, "", "").await
    }

    async fn until(&self, path: &str, want: &str) -> Answered {
        eventually(&format!("{path} says {want}"), async || Some(self.get(path).await).filter(|answered| answered.body.contains(want)))
            .await
    }

    async fn ready(&self, want: u16) -> Answered {
        eventually(&format!("/readyz is {want}"), async || Some(self.get("/readyz").await).filter(|answered| answered.status == want)).await
    }

    /// Publishes events of workers that are not there.
    async fn publish(&self, node: &str, timestamp: f64, what: Vec<EventKind>) {
        let bus = self.client.connected().bus().unwrap();
        let event = |(clock, what)| {
            let hostname = node.to_owned();
            Event { hostname, pid: Some(7), utcoffset: 0.0, clock: clock as u64, timestamp, what }
        };
        // As Celery does: events of tasks go together, what a worker says of itself goes alone.
        let (own, tasks): (Vec<_>, Vec<_>) = what.into_iter().partition(|what| matches!(what, EventKind::WorkerHeartbeat(_)));
        for some in own.chunks(1).chain(tasks.chunks(events::MOST_IN_ONE)) {
            let some: Vec<Event> = some.iter().cloned().enumerate().map(event).collect();
            let (key, raw) = events::encode(&some, "tag");
            bus.broadcast(events::EXCHANGE, &key, &raw).await.unwrap();
        }
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn beat() -> EventKind {
    EventKind::WorkerHeartbeat(Heartbeat {
        freq: 2.0,
        active: Some(1),
        processed: Some(5),
        sw_ident: "py-celery".to_owned(),
        ..Heartbeat::default()
    })
}

fn received(id: String, name: String) -> EventKind {
    EventKind::TaskReceived(TaskInfo { uuid: id, name, ..TaskInfo::default() })
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap() << 10
}

/// A page that somebody keeps open: what its stream says.
struct OpenPage(TcpStream);

impl OpenPage {
    async fn open(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(stream)
    }

    /// Reads until it says this.
    async fn until(&mut self, want: &str) {
        let (mut said, mut some) = (String::new(), [0; 65_536]);
        while !said.contains(want) {
            let count =
                tokio::time::timeout(SOON, self.0.read(&mut some)).await.unwrap_or_else(|_| panic!("{want} never comes: {said}")).unwrap();
            assert!(count > 0, "it ends before it says {want}: {said}");
            said.push_str(&String::from_utf8_lossy(&some[..count]));
        }
    }
}

const PAGES: [&str; 8] = ["/", "/queues", "/tasks", "/workers", "/dead", "/limits", "/schedules", "/events"];

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_at_the_start_is_said_and_shown_when_it_comes() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let url = redis.url();
    redis.kill();
    let dashboard = Dashboard::over(&url, |_| {}).await;
    assert_eq!(dashboard.get("/healthz").await.status, 200);
    let unready = dashboard.ready(503).await;
    assert!(unready.body.contains("127.0.0.1"), "{}", unready.body);
    for path in PAGES {
        let began = Instant::now();
        let answered = dashboard.get(path).await;
        assert!(answered.status == 503 || answered.status == 200, "{path}: {}", answered.status);
        assert!(began.elapsed() < Duration::from_secs(10), "{path} took {:?}", began.elapsed());
    }
    let refused = ask(dashboard.address(), "POST", "/api/v1/tasks/shop.add", "Content-Type: application/json\r\n", "{}").await;
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    redis.restart();
    dashboard.ready(200).await;
    for path in PAGES {
        dashboard.until(path, "</html>").await;
        assert_eq!(dashboard.get(path).await.status, 200, "{path}");
    }
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_or_restarts_is_told_to_open_pages_and_they_go_on_when_it_is_back() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let dashboard = Dashboard::over(&redis.url(), |_| {}).await;
    let mut page = OpenPage::open(dashboard.address(), "/").await;
    page.until("event: block").await;
    redis.freeze();
    page.until("event: trouble").await;
    let began = Instant::now();
    assert_eq!(dashboard.get("/readyz").await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(5), "/readyz took {:?}", began.elapsed());
    assert_eq!(dashboard.get("/healthz").await.status, 200);
    assert_eq!(dashboard.get("/").await.status, 503);
    redis.thaw();
    page.until("event: well").await;
    dashboard.ready(200).await;

    redis.kill();
    page.until("event: trouble").await;
    redis.restart();
    page.until("event: well").await;
    // It listens to workers again.
    eventually("the worker is heard", async || {
        dashboard.publish("later@h", now(), vec![beat()]).await;
        dashboard.get("/api/v1/workers").await.body.contains("later@h").then_some(())
    })
    .await;
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_disappears_is_shown_as_silent() {
    let Some(redis) = Redis::start(&[]) else { return };
    let dashboard = Dashboard::over(&redis.url(), |_| {}).await;
    dashboard.get("/").await;
    eventually("it is there", async || {
        dashboard.publish("gone@h", now(), vec![beat()]).await;
        dashboard.get("/workers").await.body.contains("gone@h").then_some(())
    })
    .await;
    dashboard.until("/workers", "silent for").await;
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_whose_clocks_are_wrong_are_shown_as_the_others_are() {
    let dashboard = Dashboard::over("memory://web-clocks", |options| options.history = None).await;
    dashboard.get("/").await;
    let clocks = [("past@h", 0.0), ("ahead@h", 4e9), ("before@h", -1e12), ("never@h", 1e300)];
    for (node, timestamp) in clocks {
        let id = format!("of-{node}");
        dashboard.publish(node, timestamp, vec![beat(), received(id.clone(), "t".to_owned()), EventKind::TaskStarted { uuid: id }]).await;
    }
    for (node, _) in clocks {
        dashboard.until("/workers", node).await;
    }
    for path in PAGES {
        assert_eq!(dashboard.get(path).await.status, 200, "{path}");
    }
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_workers_are_shown_in_time_and_in_bounded_memory() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("history.db");
    let dashboard = Dashboard::over("memory://web-thousand", |options| options.history = Some(HistoryOptions::new(file))).await;
    dashboard.until("/api/v1/history", "\"tasks\"").await;
    let before = resident();
    // Each with 60 tasks of names of its own.
    for worker in 0..1_000 {
        let node = format!("w{worker}@h");
        let tasks = (0..60).map(|task| received(format!("{worker}-{task}"), format!("flood.{worker}.{task}")));
        dashboard.publish(&node, now(), std::iter::once(beat()).chain(tasks).collect()).await;
    }
    dashboard.until("/workers", "w999@h").await;
    // What was not remembered is said; what was, is found.
    let told = dashboard.get("/metrics").await.body;
    let dropped: u64 = told
        .lines()
        .find_map(|line| line.strip_prefix("longshore_events_dropped_total{listener=\"dashboard\"} "))
        .map_or(0, |count| count.parse().unwrap());
    assert!(dropped == 0 || dashboard.get("/").await.body.contains("were left out"), "{dropped} events were left out, and nobody says so");
    for path in ["/", "/workers", "/tasks", "/events"] {
        let began = Instant::now();
        let answered = dashboard.get(path).await;
        // A build for tests is slow: a page of a release takes 50 ms or less (BENCHMARKS.md).
        assert!(answered.status == 200 && began.elapsed() < Duration::from_secs(3), "{path}: {} in {:?}", answered.status, began.elapsed());
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "it has grown by {} MiB", grown >> 20);
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_queues_leaves_the_numbers_bounded_and_whole_and_holds_up_no_page() {
    let dashboard = Dashboard::over("memory://web-names", |_| {}).await;
    let many = (0..25_000).map(|number| Signature::<longshore_celery::Value>::named("t").queue(format!("flood-{number}")));
    let sent = dashboard.client.send_all(futures_util::stream::iter(many)).finish().await;
    assert_eq!(sent.sent, 25_000);
    // A build for tests took longer than a minute when each queue was looked for among all of them.
    let began = Instant::now();
    let numbers = dashboard.until("/metrics", "longshore_queue_depth").await.body;
    let depths: Vec<f64> = numbers
        .lines()
        .filter_map(|line| line.strip_prefix("longshore_queue_depth{")?.split_once("} "))
        .map(|(_, depth)| depth.parse().unwrap())
        .collect();
    // A thousand have a name; all others count together, so that no sum lacks any.
    assert_eq!((depths.len(), depths.iter().sum::<f64>()), (1_001, 25_000.0));
    assert!(numbers.len() < 1 << 20 && began.elapsed() < Duration::from_secs(40), "{} bytes in {:?}", numbers.len(), began.elapsed());
    assert_eq!(dashboard.get("/queues").await.status, 200);
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_a_thousand_times_is_slowed_down_and_the_right_one_is_never_locked_out() {
    let token = "the-right-token-of-this-page";
    let dashboard = Dashboard::over("memory://web-wrong", |options| options.access = Access::Token(Secret::new(token))).await;
    let mut counts = std::collections::BTreeMap::<u16, u32>::new();
    for number in 0..1_000 {
        let header = format!("Authorization: Bearer wrong-{number:020}\r\n");
        let answered = ask(dashboard.address(), "GET", "/api/v1/overview", &header, "").await;
        if answered.status == 429 {
            assert!(answered.header("retry-after").is_some(), "{answered:?}");
        }
        *counts.entry(answered.status).or_default() += 1;
    }
    let tried = counts.get(&401).copied().unwrap_or_default();
    assert!((10..100).contains(&tried) && tried + counts.get(&429).copied().unwrap_or_default() == 1_000, "{counts:?}");
    // What is open to everybody stays so, and whoever comes with the right one gets in at once:
    // behind a proxy all come from one address.
    assert_eq!(dashboard.get("/healthz").await.status, 200);
    let right = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(ask(dashboard.address(), "GET", "/api/v1/overview", &right, "").await.status, 200);
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_long_or_never_end_are_refused_and_harm_nobody_else() {
    let dashboard = Dashboard::over("memory://web-heads", |_| {}).await;
    let address = dashboard.address();
    let long = "x".repeat(100 << 10);
    for request in [
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Many: 1\r\n".repeat(5_000)),
    ] {
        let began = Instant::now();
        let answered = raw(address, request.as_bytes()).await;
        let status = answered.as_ref().map(|answered| answered.status);
        assert!(matches!(status, None | Some(400 | 414 | 431)), "{status:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    // One that never ends is waited for ten seconds.
    let mut endless = TcpStream::connect(address).await.unwrap();
    endless.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, endless.read_to_end(&mut rest)).await.expect("it is ended").ok();
    assert_eq!(dashboard.get("/").await.status, 200);
    dashboard.serving.stop().await;
}

/// Returns how many connections of this server are established, as the kernel says.
fn established(server: SocketAddr) -> usize {
    let local = format!(":{:04X}", server.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_ours = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&local) && fields[3] == "01"
    };
    table.lines().filter(is_ours).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_a_byte_a_second_holds_no_memory_and_is_ended() {
    let dashboard = Dashboard::over("memory://web-slow", |_| {}).await;
    let many = (0..200).map(|number| Signature::<longshore_celery::Value>::named("t").arg(&"x".repeat(1_000)).queue(format!("q{number}")));
    dashboard.client.send_all(futures_util::stream::iter(many)).finish().await;
    dashboard.until("/queues", "q199").await;
    let before = resident();
    // Pages, one after the other on the same connection, and streams; nothing of them is read but
    // a byte a second.
    let mut slow = Vec::new();
    for number in 0..40 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(dashboard.address()).await.unwrap();
        let accept = if number % 2 == 0 { "text/html" } else { "text/event-stream" };
        let request =
            format!("GET /queues HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n").repeat(if number % 2 == 0 { 100 } else { 1 });
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let began = Instant::now();
    // The streams have little to say, and are still there; whoever was to take pages is ended.
    while established(dashboard.address()) > 20 {
        assert!(began.elapsed() < Duration::from_secs(60), "{} connections are left", established(dashboard.address()));
        let mut byte = [0; 1];
        for stream in &mut slow {
            let _ = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "it has grown by {} MiB", grown >> 20);
    assert_eq!(dashboard.get("/").await.status, 200);
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_idle_streams_a_thousand_are_served_and_the_others_are_told_when_to_come_again() {
    let dashboard = Dashboard::over("memory://web-idle", |_| {}).await;
    dashboard.get("/").await;
    let before = resident();
    let mut open = Vec::new();
    for _ in 0..1_000 {
        open.push(OpenPage::open(dashboard.address(), "/").await);
    }
    for page in &mut open {
        let mut head = [0; 15];
        tokio::time::timeout(Duration::from_secs(120), page.0.read_exact(&mut head)).await.expect("its head comes").unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
    let refused = ask(dashboard.address(), "GET", "/", "Accept: text/event-stream\r\nConnection: close\r\n", "").await;
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    // The page itself is there all the same.
    assert_eq!(dashboard.get("/").await.status, 200);
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "a thousand streams take {} MiB", grown >> 20);
    drop(open);
    eventually("there is room again", async || {
        let mut page = TcpStream::connect(dashboard.address()).await.unwrap();
        page.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await.unwrap();
        let mut head = [0; 15];
        page.read_exact(&mut head).await.unwrap();
        (&head == b"HTTP/1.1 200 OK").then_some(())
    })
    .await;
    dashboard.serving.stop().await;
}

/// Returns how many commands Redis has been asked for, but for those that ask this.
fn commands(redis: &Redis) -> u64 {
    let told = redis.command(&["INFO", "commandstats"]);
    let own = ["cmdstat_info:", "cmdstat_quit:", "cmdstat_publish:"];
    let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
    told.lines().filter(|line| !own.iter().any(|own| line.starts_with(own))).filter_map(calls).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_costs_the_broker_ten_commands_a_second_at_most_and_no_page_one() {
    let Some(redis) = Redis::start(&[]) else { return };
    println!("| pages open | workers | commands a second |\n|---|---|---|");
    for (tabs, workers) in [(0, 1), (0, 200), (1, 1), (1, 200), (20, 1), (20, 200)] {
        redis.command(&["FLUSHALL"]);
        let dashboard = Dashboard::over(&redis.url(), |_| {}).await;
        dashboard.ready(200).await;
        let beats = Client::connect(&Settings::new(redis.url())).unwrap();
        let beating = tokio::spawn(async move {
            let bus = beats.connected().bus().unwrap();
            for clock in 0.. {
                for worker in 0..workers {
                    let hostname = format!("w{worker}@h");
                    let event = Event { hostname, pid: Some(7), utcoffset: 0.0, clock, timestamp: now(), what: with_account() };
                    let (key, raw) = events::encode(&[event], "tag");
                    let _ = bus.broadcast(events::EXCHANGE, &key, &raw).await;
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        let mut open = Vec::new();
        for tab in 0..tabs {
            open.push(OpenPage::open(dashboard.address(), ["/", "/queues", "/workers", "/tasks"][tab % 4]).await);
        }
        // What it asks once, for a start, is no cost of each second.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let (before, began) = (commands(&redis), Instant::now());
        tokio::time::sleep(Duration::from_secs(12)).await;
        let each_second = (commands(&redis) - before) as f64 / began.elapsed().as_secs_f64();
        println!("| {tabs} | {workers} | {each_second:.1} |");
        let most = if tabs == 0 { 1.0 } else { 10.0 };
        assert!(each_second <= most, "{tabs} tabs, {workers} workers: {each_second:.1} commands a second");
        beating.abort();
        drop(open);
        dashboard.serving.stop().await;
    }
}

/// A heartbeat of a worker of ours, which tells of itself.
fn with_account() -> EventKind {
    let mut account = longshore_celery::Map::default();
    account.set("serves", longshore_celery::Value::List(vec!["celery".into()]));
    let EventKind::WorkerHeartbeat(mut own) = beat() else { unreachable!() };
    own.account = Some(account);
    EventKind::WorkerHeartbeat(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_ask_the_broker_once_a_second_however_many_they_are() {
    let Some(redis) = Redis::start(&[]) else { return };
    let dashboard = Dashboard::over(&redis.url(), |_| {}).await;
    dashboard.ready(200).await;
    // The reader looks for five seconds after its start.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let (before, began) = (commands(&redis), Instant::now());
    let mut probes = 0;
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(dashboard.get("/readyz").await.status, 200);
        probes += 1;
    }
    let asked = commands(&redis) - before;
    // Two pings each time, and what the subscription costs.
    assert!(asked <= 14, "{probes} probes in {:?} cost {asked} commands", began.elapsed());
    assert!(probes > 14, "{probes} probes prove nothing");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_worker_that_was_killed_do_not_run_for_ever_on_the_page() {
    let dir = tempfile::TempDir::new().unwrap();
    let broker = "memory://web-killed";
    let file = dir.path().join("history.db");
    let dashboard = Dashboard::over(broker, |options| options.history = Some(HistoryOptions::new(file))).await;
    dashboard.until("/api/v1/history", "\"tasks\"").await;
    // The broker lends it to that worker until its lease is over.
    let call: Signature = Signature::named("t").task_id("held");
    dashboard.client.send(call).await.unwrap();
    let consumer = dashboard.client.broker().open(OpenOptions::new("killed@h", ["celery"])).await.unwrap();
    let mut claimed = Vec::new();
    consumer.claim(1, &mut claimed).await.unwrap();
    assert_eq!(claimed.len(), 1);
    let beat = EventKind::WorkerHeartbeat(Heartbeat { freq: 1.0, active: Some(1), processed: Some(0), ..Heartbeat::default() });
    let tasks = vec![beat, received("held".to_owned(), "t".to_owned()), EventKind::TaskStarted { uuid: "held".to_owned() }];
    dashboard.publish("killed@h", now(), tasks).await;
    let page = dashboard.until("/tasks/held", "<b>started</b>").await.body;
    assert!(page.contains("Whether it runs, no worker has answered.") && !page.contains("it runs.</p>"), "{page}");
    let page = dashboard.until("/tasks/held", "<b>lost</b>").await.body;
    let head = page.split("<h1>").nth(1).and_then(|head| head.split("</h1>").next()).unwrap();
    assert!(head.contains("lost") && page.contains("Its worker is gone."), "{page}");
    dashboard.serving.stop().await;
}

//! What the dashboard remembers, over HTTP: lists, one task's steps, charts, events as they come.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{path::Path, time::Duration};

use longshore_celery::{
    Value,
    events::{self, Event, EventKind, Heartbeat, TaskInfo},
};
use longshore_web::{HistoryOptions, Intake, IntakeOptions, Serving, Site, WebOptions, WebServer};
use longshore_worker::{App, Client, Failure, Settings, Signature, Task, Worker, WorkerOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

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

    async fn remembering(broker: &str, file: &Path) -> Self {
        let history = Some(HistoryOptions::new(file));
        let own = Self::over(broker, |options| options.history = history).await;
        own.until("/api/v1/history", "\"tasks\"").await;
        own
    }

    async fn stream(&self, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.serving.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut answer = String::new();
        let mut stream = self.stream(path, "").await;
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// Waits until this page says this; returns the page.
    async fn until(&self, path: &str, want: &str) -> String {
        let mut body = String::new();
        for _ in 0..600 {
            body = self.get(path).await.1;
            if body.contains(want) {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} never says {want}: {body}");
    }

    /// Publishes events of a worker that is not there.
    async fn publish(&self, node: &str, pid: i64, what: Vec<EventKind>) {
        let bus = self.client.connected().bus().unwrap();
        for (clock, what) in what.into_iter().enumerate() {
            let (hostname, timestamp) = (node.to_owned(), 1_700_000_000.0 + clock as f64);
            let event = Event { hostname, pid: Some(pid), utcoffset: 0.0, clock: clock as u64, timestamp, what };
            let (key, raw) = events::encode(&[event], "tag");
            bus.broadcast(events::EXCHANGE, &key, &raw).await.unwrap();
        }
    }
}

fn received(id: &str, name: &str) -> EventKind {
    EventKind::TaskReceived(TaskInfo { uuid: id.to_owned(), name: name.to_owned(), ..TaskInfo::default() })
}

fn started(id: &str) -> EventKind {
    EventKind::TaskStarted { uuid: id.to_owned() }
}

fn app(broker: &str) -> App {
    let hostile = Task::future("<script>alert('name')</script>", |_, _| async {
        Err::<Value, _>(Failure::error("ValueError", "<script>alert('error')</script>"))
    });
    let mut app = App::new().task(hostile).task(Task::future("shop.ok", |_, _| async { Ok::<_, Failure>(Value::from("<img src=x>")) }));
    *app.settings_mut() = Settings::new(broker);
    app
}

const EVIL: &str = "<script>alert('name')</script>";

/// Runs a task that succeeds and one that fails, and returns when both have ended.
async fn run_two(dashboard: &Dashboard) {
    let ok: Signature = Signature::named("shop.ok").arg(&"<img src=x>").task_id("good");
    let evil: Signature = Signature::named(EVIL).arg(&"<script>alert('arg')</script>").task_id("evil");
    for call in [ok, evil] {
        let id = dashboard.client.send(call).await.unwrap().id().to_owned();
        let _ = tokio::time::timeout(Duration::from_secs(30), dashboard.client.result(&id).get()).await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_remembered_when_worker_and_results_are_gone_and_no_script_of_theirs_runs() {
    let (broker, dir) = ("memory://web-past", TempDir::new().unwrap());
    let file = dir.path().join("history.db");
    let dashboard = Dashboard::remembering(broker, &file).await;
    let mut options = WorkerOptions::new("w@h");
    options.events = true;
    let worker = Worker::start(app(broker), options).await.unwrap();
    run_two(&dashboard).await;
    dashboard.until("/tasks?state=failure", "alert(&#x27;error&#x27;)").await;
    worker.stopper().warm();
    worker.join().await;
    dashboard.serving.stop().await;

    // Another broker knows nothing of them: only the file does.
    let again = Dashboard::remembering("memory://web-past-elsewhere", &file).await;
    let list = again.until("/tasks?task=shop.*", "1 remembered").await;
    assert!(list.contains("/tasks/good") && !list.contains("/tasks/evil"), "{list}");
    let good = again.get("/tasks/good").await.1;
    for want in [
        "What follows is what the history remembers",
        "<b>received</b>",
        "<b>started</b>",
        "<b>succeeded</b>",
        "w@h",
        "task_send_sent_event",
        "It has ended",
    ] {
        assert!(good.contains(want), "{want} in {good}");
    }
    for path in [
        "/",
        "/?span=day",
        "/tasks",
        "/tasks?state=failure&error=VALUE",
        "/tasks/good",
        "/tasks/evil",
        "/events",
        "/tasks?state=x",
        "/tasks?took=never",
        "/tasks?q=error:value+state:failed",
        "/tasks?q=%3Cscript%3Ealert(1)%3C/script%3E",
        "/tasks?q=colour:%22%3Cscript%3Ealert(1)%3C/script%3E%22",
        "/times",
        "/times?span=day",
        "/tasks?sort=-took",
        "/tasks?sort=%3Cscript%3Ealert(1)%3C/script%3E",
    ] {
        let (status, body) = again.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(!body.contains("<script>alert") && !body.contains("<img src=x"), "{path}: {body}");
    }
    assert!(again.get("/tasks?took=never").await.1.contains("never: write a time such as 30s"));
    let searched = again.get("/tasks?q=alert+error:VALUE+state:failed").await.1;
    for want in ["1 remembered", "/tasks/evil", "name=\"q\" value=\"alert error:VALUE state:failed\"", "<option value=\"task:shop.ok\">"] {
        assert!(searched.contains(want), "{want} in {searched}");
    }
    let times = again.get("/times?span=day").await.1;
    assert!(times.contains("shop.ok</a>") && times.contains("(100 %)") && times.contains("task%3Ashop%2Eok%20since%3A1d"), "{times}");
    assert!(again.get("/api/v1/times").await.1.contains("\"task\":\"shop.ok\",\"ended\":1"));
    assert!(again.get("/tasks?q=args:img").await.1.contains("/tasks/good"));
    let wrong = again.get("/tasks?q=colour:red").await.1;
    assert!(wrong.contains("colour: is no field of a task") && wrong.contains("runtime:&gt;2s since:1h"), "{wrong}");
    assert!(again.get("/tasks?from=broker&q=a+word").await.1.contains("only what is remembered can be searched by it"));
    let lines = again.get("/api/v1/history/export?q=task:shop.*").await.1;
    assert!(lines.contains("\"good\"") && !lines.contains("\"evil\""), "{lines}");
    let sorted = again.get("/tasks?state=success&sort=-took").await.1;
    assert!(sorted.contains("aria-sort=\"descending\"><a href=\"/tasks?sort=took&amp;state=success\">Took</a>"), "{sorted}");
    assert!(good.contains("<dt>Logical clock<dd>"), "{good}");
    let overview = again.get("/").await.1;
    assert!(
        overview.matches("<svg class=\"chart spark\"").count() == 7 && overview.contains("aria-label=\"Tasks that ended"),
        "{overview}"
    );
    let (status, timeline) = again.get("/api/v1/tasks/good/timeline").await;
    assert!(status == 200 && timeline.contains("\"word\":\"started\"") && timeline.contains("\"state\":\"success\""), "{timeline}");
    assert_eq!((again.get("/api/v1/tasks/none/timeline").await.0, again.get("/tasks/none").await.0), (404, 404));
    assert!(again.get("/api/v1/traffic?span=day").await.1.contains("\"point_seconds\":720"));
    again.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frequent_failures_and_lost_workers_need_attention_and_lead_to_their_tasks() {
    let (broker, dir) = ("memory://web-attention", TempDir::new().unwrap());
    let dashboard = Dashboard::remembering(broker, &dir.path().join("history.db")).await;
    let fail = |id: &str, number: i64| {
        let exception = format!("status {number} <b>of</b> it");
        [received(id, "shop.price"), EventKind::TaskFailed { uuid: id.to_owned(), exception, traceback: None }]
    };
    dashboard.publish("w@h", 7, (1..=3).flat_map(|number| fail(&format!("f{number}"), 500 + number)).collect()).await;
    dashboard
        .publish("gone@h", 8, vec![EventKind::WorkerOnline(Heartbeat::default()), received("held", "shop.price"), started("held")])
        .await;
    dashboard.publish("gone@h", 8, vec![EventKind::WorkerOffline(Heartbeat::default())]).await;
    let page = dashboard.until("/", "worker gone@h was lost").await.replace("&#x2f;", "/");
    for want in ["3 × status … &lt;b&gt;of&lt;/b&gt; it of shop.price in 5 min", "ago, with 1 task</a>"] {
        assert!(page.contains(want), "{want} in {page}");
    }
    let links: Vec<&str> =
        page.split("<a href=\"").filter_map(|part| part.split('"').next()).filter(|path| path.starts_with("/tasks?q=")).collect();
    assert_eq!(links.len(), 2, "{links:?}");
    assert!(dashboard.get(links[0]).await.1.contains("/tasks/held"));
    assert!(dashboard.get(links[1]).await.1.contains("3 remembered"));
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_silent_about_its_tasks_is_asked_for_events() {
    let (broker, dir) = ("memory://web-asks", TempDir::new().unwrap());
    let dashboard = Dashboard::remembering(broker, &dir.path().join("history.db")).await;
    let worker = Worker::start(app(broker), WorkerOptions::new("w@h")).await.unwrap();
    let mut sent = 0;
    loop {
        sent += 1;
        let call: Signature = Signature::named("shop.ok").arg(&1);
        dashboard.client.send(call).await.unwrap();
        if dashboard.get("/api/v1/history?state=success").await.1.contains("shop.ok") {
            break;
        }
        assert!(sent < 600, "no event of a task in a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    worker.stopper().warm();
    worker.join().await;
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_leaves_workers_as_they_are_asks_none_and_says_so() {
    let broker = "memory://web-leaves";
    let dashboard = Dashboard::over(broker, |options| options.leaves_events = true).await;
    let mut control = dashboard.client.connected().bus().unwrap().subscribe("celery.pidbox", "#").await.unwrap();
    dashboard.get("/events").await;
    let beat = |active| EventKind::WorkerOnline(Heartbeat { freq: 2.0, active: Some(active), ..Heartbeat::default() });
    for attempt in 0..600 {
        dashboard.publish("quiet@h", 7, vec![beat(attempt)]).await;
        if dashboard.get("/events").await.1.contains("quiet@h") {
            break;
        }
        assert!(attempt < 599, "it is never heard");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Two rounds of looks at who is to be asked.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(!dashboard.get("/events").await.1.contains("Workers are asked to send"));
    while let Ok((_, raw)) = control.messages.try_recv() {
        assert!(!String::from_utf8_lossy(&raw).contains("enable_events"));
    }
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_are_hidden_are_not_even_written() {
    let (broker, dir) = ("memory://web-past-hidden", TempDir::new().unwrap());
    let file = dir.path().join("history.db");
    let hidden = async || {
        let history = Some(HistoryOptions::new(&file));
        Dashboard::over(broker, |options| (options.history, options.hide_args) = (history, true)).await
    };
    let dashboard = hidden().await;
    dashboard.until("/api/v1/history", "\"tasks\"").await;
    let told = |id: &str| {
        let (uuid, name, args) = (id.to_owned(), "shop.pay".to_owned(), Some("('4111-1111',)".to_owned()));
        let info = TaskInfo { uuid: uuid.clone(), name, args, ..TaskInfo::default() };
        vec![EventKind::TaskReceived(info), EventKind::TaskSucceeded { uuid, result: "'4111-1111'".to_owned(), runtime: 0.1 }]
    };
    dashboard.publish("w@h", 7, told("card")).await;
    dashboard.until("/tasks?state=success", "shop.pay").await;
    for path in ["/tasks/card", "/events", "/api/v1/tasks/card/timeline", "/api/v1/history"] {
        assert!(!dashboard.get(path).await.1.contains("4111"), "{path}");
    }
    assert!(dashboard.get("/tasks?q=args:4").await.1.contains("arguments and results are hidden here (--hide-args)"));
    dashboard.serving.stop().await;
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(4).any(|part| part == b"4111"));

    // What was written before they were hidden is not shown either.
    let open = Dashboard::remembering(broker, &file).await;
    open.publish("w@h", 7, told("older")).await;
    open.until("/api/v1/tasks/older/timeline", "task-succeeded").await;
    open.serving.stop().await;
    let dashboard = hidden().await;
    let shown = dashboard.until("/api/v1/tasks/older/timeline", "task-succeeded").await;
    assert!(!shown.contains("4111"), "{shown}");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_a_page_that_can_be_filtered_and_paused_and_as_a_stream() {
    let (broker, dir) = ("memory://web-tail", TempDir::new().unwrap());
    let dashboard = Dashboard::remembering(broker, &dir.path().join("history.db")).await;
    let mut stream = dashboard.stream("/api/v1/events?kind=task-failed,worker", "").await;
    let mut head = vec![0; 16];
    stream.read_exact(&mut head).await.unwrap();
    let failed = EventKind::TaskFailed { uuid: "a".to_owned(), exception: "<script>alert(1)</script>".to_owned(), traceback: None };
    dashboard
        .publish("w@h", 7, vec![received("a", "shop.add"), started("a"), failed, EventKind::WorkerOffline(Heartbeat::default())])
        .await;
    let mut text = String::new();
    let all = async {
        let mut part = vec![0; 4_096];
        while !text.contains("worker-offline") {
            let count = stream.read(&mut part).await.unwrap();
            text.push_str(&String::from_utf8_lossy(&part[..count]));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("the stream tells of them");
    assert!(text.contains("event: task-failed") && !text.contains("task-started") && text.contains("\"task\":\"shop.add\""), "{text}");
    let page = dashboard.until("/events?task=shop.*&kind=task", "task-failed").await;
    assert!(page.contains("task-started") && !page.contains("worker-offline") && !page.contains("<script>alert(1)"), "{page}");
    assert!(page.contains("data-live=\"events\"") && page.contains("/events?paused=1&amp;kind=task&amp;task=shop%2E%2A"), "{page}");
    let paused = dashboard.get("/events?paused=1&kind=task-failed").await.1;
    assert!(paused.contains("Paused") && paused.contains("task-failed") && !paused.contains("data-live=\"events\""), "{paused}");
    // Who comes again says what it has seen.
    let id = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let mut again = dashboard.stream("/api/v1/events", &format!("Last-Event-ID: {id}\r\n")).await;
    let mut part = vec![0; 8_192];
    let mut text = String::new();
    while !text.contains("event: ") {
        let count = tokio::time::timeout(Duration::from_secs(30), again.read(&mut part)).await.expect("it goes on").unwrap();
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    assert!(text.contains("event: worker-offline") && !text.contains("task-failed"), "{text}");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_kept_is_said_on_every_page_and_holds_up_none() {
    let (broker, dir) = ("memory://web-troubled", TempDir::new().unwrap());
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "no database, and somebody's own\n".repeat(50)).unwrap();
    let history = Some(HistoryOptions::new(&file));
    let dashboard = Dashboard::over(broker, |options| options.history = history).await;
    dashboard.until("/", "no SQLite file").await;
    for path in ["/queues", "/tasks", "/workers", "/dead", "/limits", "/schedules", "/events", "/tasks?from=broker"] {
        let (status, body) = dashboard.get(path).await;
        assert!(status == 200 && body.contains("the history is not kept:") && body.contains("notes.txt"), "{path}: {body}");
    }
    // A task of which the broker knows says that what is remembered cannot be read.
    let call: Signature = Signature::named("shop.add").task_id("known");
    dashboard.client.send(call).await.unwrap();
    let page = dashboard.get("/tasks/known").await.1;
    assert!(page.contains("cannot be shown: ") && !page.contains("Nothing is remembered"), "{page}");
    let (status, page) = dashboard.get("/tasks/unknown").await;
    assert!(status == 404 && page.contains("no SQLite file"), "{status} {page}");
    dashboard.publish("w@h", 7, vec![received("a", "t"), started("a")]).await;
    dashboard.until("/metrics", "longshore_events_dropped_total{listener=\"dashboard\"} 2").await;
    dashboard.until("/", "2 events were left out").await;
    dashboard.serving.stop().await;
}

/// Says to this program that it may write only small files.
const SMALL: &str = "LONGSHORE_TEST_SMALL_FILES";

#[test]
fn a_disk_that_is_full_is_said_and_holds_up_no_page() {
    if std::env::var_os(SMALL).is_some() {
        longshore_sys::files::say_when_too_large();
        return tokio::runtime::Runtime::new().unwrap().block_on(on_a_full_disk());
    }
    let name = "a_disk_that_is_full_is_said_and_holds_up_no_page";
    // 256 KiB: beyond, a write fails as on a full disk.
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "ulimit -f 512; exec \"$0\" --exact --nocapture \"$1\""]).arg(std::env::current_exe().unwrap()).arg(name);
    let done = child.env(SMALL, "1").output().unwrap();
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
}

async fn on_a_full_disk() {
    let dir = TempDir::new().unwrap();
    let dashboard = Dashboard::remembering("memory://web-full", &dir.path().join("history.db")).await;
    dashboard.publish("w@h", 7, vec![received("first", "t")]).await;
    dashboard.until("/tasks?id=first", "1 remembered").await;
    let mut said = String::new();
    for round in 0..600 {
        let tasks = (0..40).map(|number| {
            let args = Some("x".repeat(1_000));
            EventKind::TaskReceived(TaskInfo { uuid: format!("{round}-{number}"), name: "t".to_owned(), args, ..TaskInfo::default() })
        });
        dashboard.publish("w@h", 7, tasks.collect()).await;
        said = dashboard.get("/").await.1;
        if said.contains("the history is not kept") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(said.contains("ulimit -f") && said.contains("history.db"), "{said}");
    for path in ["/", "/queues", "/tasks", "/tasks?from=broker", "/workers", "/events", "/api/v1/overview"] {
        assert_eq!(dashboard.get(path).await.0, 200, "{path}");
    }
    dashboard.until("/", "events were left out").await;
    // What was written before can be read.
    let page = dashboard.get("/tasks?id=first").await.1;
    assert!(page.contains("1 remembered"), "{page}");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_on_remembered_tasks_say_which_of_them_nobody_else_knows() {
    let (broker, dir) = ("memory://web-past-act", TempDir::new().unwrap());
    let dashboard = Dashboard::remembering(broker, &dir.path().join("history.db")).await;
    let call: Signature = Signature::named("shop.add").arg(&1).task_id("here");
    dashboard.client.send(call).await.unwrap();
    dashboard.publish("w@h", 7, vec![received("gone", "shop.add"), received("here", "shop.add")]).await;
    let html = dashboard.until("/tasks?task=shop.add", "2 remembered").await;
    assert!(html.contains("name=\"past\" value=\"1\""), "{html}");
    let token = html.split("name=\"_token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let act = async |fields: &str| {
        let body = format!("_token={token}&back=/tasks&past=1&what=cancel&{fields}");
        let mut stream = TcpStream::connect(dashboard.serving.address()).await.unwrap();
        let length = body.len();
        let kind = "Content-Type: application/x-www-form-urlencoded";
        let request =
            format!("POST /tasks/act HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(act("id=gone").await.contains("not%20in%20results"));
    assert!(act("all=1&task=nobody").await.contains("no%20task%20matches"));
    assert!(act("all=1&task=shop.add").await.contains("1%20called%20off%3B%201%20are%20known"));
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_each_task_that_matches_on_a_line_of_its_own() {
    let dir = TempDir::new().unwrap();
    let dashboard = Dashboard::remembering("memory://web-export", &dir.path().join("history.db")).await;
    let name = |number: usize| if number.is_multiple_of(2) { "shop.even\n\"x\"" } else { "shop.odd" };
    // More than two pages of what an export reads at once.
    dashboard.publish("w@h", 7, (0..2_200).map(|number| received(&format!("t{number}"), name(number))).collect()).await;
    dashboard.until("/tasks?id=t2199", "1 remembered").await;
    let page = dashboard.get("/tasks?task=shop.even*").await.1;
    assert!(page.contains("/api/v1/history/export?task=shop%2Eeven%2A\" download"), "{page}");
    let (status, body) = dashboard.get("/api/v1/history/export?task=shop%2Eeven%2A").await;
    assert_eq!(status, 200, "{body}");
    // Between the lines stand the lengths of pieces.
    let tasks: Vec<serde_json::Value> =
        body.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&str> = tasks.iter().map(|task| task["id"].as_str().unwrap()).collect();
    let want: Vec<String> = (0..2_200).rev().filter(|number| number % 2 == 0).map(|number| format!("t{number}")).collect();
    assert_eq!(ids, want);
    assert_eq!(dashboard.get("/api/v1/history/export?task=nobody").await.0, 200);
    dashboard.serving.stop().await;
    // A file that cannot be read is said before the first line.
    let history = Some(HistoryOptions::new("/proc/nowhere/history.db"));
    let broken = Dashboard::over("memory://web-export-broken", |options| options.history = history).await;
    for path in ["/api/v1/history/export", "/api/v1/times"] {
        let (status, said) = broken.get(path).await;
        assert!(status == 503 && said.contains("history"), "{path}: {status} {said}");
    }
    broken.serving.stop().await;
}

//! The pages of a deployment over HTTP: what they show, and what their forms do.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore_core::Rate;
use longshore_ops::{
    limits::{KnownLimit, KnownRate},
    queues::{QueuesRequest, list},
};
use longshore_web::{Access, Auditor, HistoryOptions, Intake, IntakeOptions, Secret, Serving, Site, WebOptions, WebServer};
use longshore_worker::{App, Client, Failure, Settings, Signature, Task, Worker, WorkerOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An answer: status, headers (in small letters, and as they came) and body as text.
struct Answered {
    status: u16,
    head: String,
    sent_head: String,
    body: String,
}

struct Dashboard {
    client: Client,
    serving: Serving,
    audit: Arc<Mutex<Vec<String>>>,
}

impl Dashboard {
    async fn over(broker: &str, change: impl FnOnce(&mut WebOptions)) -> Self {
        let client = Client::connect(&Settings::new(broker)).unwrap();
        let audit: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = audit.clone();
        let mut options = WebOptions::default();
        options.audit = Some(Auditor::new(move |action| noted.lock().unwrap().push(serde_json::to_string(action).unwrap())));
        change(&mut options);
        let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
        let serving = server.serve(Site::of_deployment(options, client.clone(), &Intake::new(client.clone(), IntakeOptions::default())));
        Self { client, serving, audit }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answered {
        let mut stream = TcpStream::connect(self.serving.address()).await.unwrap();
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        Answered {
            status: head[9..12].parse().unwrap(),
            head: head.to_ascii_lowercase(),
            sent_head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answered {
        self.ask("GET", path, "", "").await
    }

    /// Sends a form of a page, with the token that stands in it. Returns what the page says then.
    async fn submit(&self, page: &str, action: &str, fields: &str) -> String {
        let html = self.get(page).await.body;
        let token = html.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap();
        let body = format!("_token={token}&back={page}&{fields}");
        let answered = self.ask("POST", action, "Content-Type: application/x-www-form-urlencoded\r\n", &body).await;
        assert_eq!(answered.status, 303, "{}", answered.body);
        let location = answered.sent_head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_owned();
        let page = self.get(&location).await.body;
        let said = page.split("role=\"status\">").find(|part| part.starts_with(|c: char| c != '<')).unwrap_or_default();
        said.split('<').next().unwrap().to_owned()
    }
}

fn app(broker: &str) -> App {
    let hostile = Task::future("<script>alert('name')</script>", |_, _| async {
        Err::<longshore_celery::Value, _>(Failure::error("ValueError", "<script>alert('error')</script>"))
    });
    let mut app = App::new().task(hostile);
    *app.settings_mut() = Settings::new(broker);
    app
}

/// Returns the parts of a page that are renewed while somebody keeps it open.
fn renewed(html: &str) -> String {
    html.split("<!--live ").skip(1).filter_map(|part| part.split("<!--/live ").next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_change_stands_in_a_part_of_its_page_that_is_renewed() {
    let (broker, dir) = ("memory://web-renewed", tempfile::TempDir::new().unwrap());
    let file = dir.path().join("history.db");
    let dashboard = Dashboard::over(broker, |options| options.history = Some(HistoryOptions::new(file))).await;
    let mut options = WorkerOptions::new("w@h");
    options.events = true;
    let worker = Worker::start(app(broker), options).await.unwrap();
    for _ in 0..200 {
        if dashboard.get("/api/v1/history").await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let call: Signature = Signature::named("<script>alert('name')</script>").task_id("evil");
    dashboard.client.send(call).await.unwrap();
    let ended = dashboard.client.result("evil");
    assert!(tokio::time::timeout(Duration::from_secs(20), ended.get()).await.expect("it ends").is_err());
    let rows: [(&str, &[&str]); 6] = [
        ("/tasks", &["/tasks/evil", "1 remembered", "aria-label=\"Kinds of tasks\"", "Retry all 1"]),
        ("/tasks?from=broker&state=failure", &["/tasks/evil", "1 match", "Retry all 1"]),
        ("/tasks/evil", &["<h1>", "How it ended", ">Retry</button>", "<b>failed</b>", "id=\"result\""]),
        ("/workers/w@h", &["id=\"active\"", "of memory", "id=\"conf\""]),
        ("/queues/celery", &["<h1>Queue celery", ">Pause</button>"]),
        ("/events", &["heard, the latest first", "/tasks/evil"]),
    ];
    for (path, wanted) in rows {
        let mut missing = Vec::new();
        for _ in 0..200 {
            let html = dashboard.get(path).await.body;
            let parts = renewed(&html);
            missing = wanted.iter().filter(|text| !parts.contains(**text)).collect();
            if missing.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(missing, Vec::<&&str>::new(), "{path}");
        // What is typed is in none: it would go with the part.
        let html = dashboard.get(path).await.body;
        assert!(!renewed(&html).contains("type=\"text\""), "{path}");
    }
    worker.stopper().warm();
    worker.join().await;
    dashboard.serving.stop().await;

    // What is wrong with the broker goes when it is well again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dashboard = Dashboard::over(&format!("redis://127.0.0.1:{port}/0?patience=0.1"), |_| {}).await;
    for path in ["/dead", "/limits", "/schedules"] {
        let html = dashboard.get(path).await.body;
        assert!(renewed(&html).contains("class=\"said bad\" role=\"alert\">"), "{path}: {html}");
    }
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_shows_what_is_there_and_no_script_of_a_task() {
    let broker = "memory://web-pages";
    let dashboard = Dashboard::over(broker, |_| {}).await;
    let worker = Worker::start(app(broker), WorkerOptions::new("w@h")).await.unwrap();
    let call: Signature = Signature::named("<script>alert('name')</script>").arg(&"<script>alert('arg')</script>").task_id("evil");
    dashboard.client.send(call).await.unwrap();
    let waits: Signature = Signature::named("<script>alert('waits')</script>").arg(&"<img src=x>").queue("<b>cold").task_id("waits");
    dashboard.client.send(waits).await.unwrap();
    let ended = dashboard.client.result("evil");
    assert!(tokio::time::timeout(Duration::from_secs(20), ended.get()).await.expect("it ends").is_err());
    for path in [
        "/",
        "/queues",
        "/tasks",
        "/tasks?state=failure",
        "/tasks/evil",
        "/tasks/waits",
        "/workers",
        "/workers/w@h",
        "/dead",
        "/limits",
        "/schedules",
        "/settings",
        "/kafka",
        "/queues/celery",
        "/queues/%3Cb%3Ecold",
        "/api/v1/overview",
        "/api/v1/queues",
        "/api/v1/tasks",
        "/api/v1/workers",
        "/api/v1/workers/w@h",
        "/api/v1/dead",
        "/api/v1/limits",
        "/api/v1/schedules",
        "/api/v1/settings",
        "/api/v1/tasks/waits/why",
        "/healthz",
        "/readyz",
    ] {
        let answered = dashboard.get(path).await;
        assert_eq!(answered.status, 200, "{path}: {}", answered.body);
        let is_json = answered.head.contains("application/json");
        assert!(is_json || !answered.body.contains("<script>alert") && !answered.body.contains("<img src=x"), "{path}: {}", answered.body);
        assert_eq!(is_json, path.starts_with("/api/"), "{path}");
    }
    assert!(dashboard.get("/tasks/waits").await.body.contains("No worker that answers serves its queue."));
    assert!(dashboard.get("/").await.body.contains("no worker serves it"));
    let worker_page = dashboard.get("/workers/w@h").await.body;
    let version = concat!("longshore ", env!("CARGO_PKG_VERSION"));
    for told in [version, "of memory", "of processor", "its async lane was held up"] {
        assert!(worker_page.contains(told), "{told} in {worker_page}");
    }
    let copies = dashboard.get("/tasks/waits").await.body;
    for way in ["longshore call -a", "curl -H", "app.send_task("] {
        assert!(copies.contains(way), "{way} in {copies}");
    }
    for path in ["/nope", "/queues/none", "/workers/none", "/tasks/none"] {
        let status = dashboard.get(path).await.status;
        assert!((404..=422).contains(&status), "{path}: {status}");
    }
    worker.stopper().warm();
    worker.join().await;
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_do_what_they_say_and_each_action_is_noted() {
    let broker = "memory://web-forms";
    let dashboard = Dashboard::over(broker, |_| {}).await;
    for id in ["a", "b", "c"] {
        let call: Signature = Signature::named("shop.add").arg(&1).task_id(id);
        dashboard.client.send(call).await.unwrap();
    }
    let state = async || list(&dashboard.client, &QueuesRequest::one("celery")).await.unwrap().remove(0);
    let said = dashboard.submit("/queues/celery", "/queues/act", "what=pause&queue=celery").await;
    assert!(said.contains("celery is paused"), "{said}");
    assert!(state().await.paused_by.unwrap().contains("(page)"));
    assert!(dashboard.submit("/queues/celery", "/queues/act", "what=resume&queue=celery").await.contains("goes on"));
    assert!(state().await.paused_by.is_none());
    assert_eq!(dashboard.submit("/tasks", "/tasks/act", "what=cancel&id=a").await, "1 called off");
    // All that match a filter of ids are those, and no others.
    let html = dashboard.get("/tasks?id=c").await.body;
    assert!(html.contains(r#"<input type="hidden" name="find" value="c">"#), "{html}");
    // How many are meant is said before, and holds.
    assert!(html.contains("All 1 that match") && html.contains(r#"name="count" value="1""#), "{html}");
    let refused = dashboard.submit("/tasks", "/tasks/act", "what=cancel&all=1&count=1").await;
    assert!(refused.contains("match by now, and it was wanted for 1"), "{refused}");
    assert_eq!(dashboard.submit("/tasks", "/tasks/act", "what=cancel&all=1&count=1&find=c").await, "1 called off");
    assert!(
        dashboard
            .submit("/tasks/b", "/tasks/act", "what=send&task=shop.add&args=%5B7%5D&kwargs=%7B%7D&queue=other")
            .await
            .starts_with("sent as ")
    );
    assert_eq!(list(&dashboard.client, &QueuesRequest::one("other")).await.unwrap()[0].waiting, 1);
    assert!(
        dashboard.submit("/queues/celery", "/queues/act", "what=move&queue=celery&to=other").await.contains("went from celery to other")
    );
    assert!(dashboard.submit("/queues/other", "/queues/act", "what=purge&queue=other").await.contains("thrown away"));
    assert_eq!(list(&dashboard.client, &QueuesRequest::one("other")).await.unwrap()[0].waiting, 0);
    // Refusals are said, and noted.
    assert!(dashboard.submit("/tasks", "/tasks/act", "what=retry").await.contains("no task is ticked"));
    assert!(dashboard.submit("/queues/celery", "/queues/act", "what=explode&queue=celery").await.contains("no action explode"));
    let audit = dashboard.audit.lock().unwrap().clone();
    assert_eq!(audit.len(), 10, "{audit:#?}");
    assert!(audit[0].contains(r#""who":"anybody on this machine","from":"127.0.0.1","what":"pause","to":"celery""#), "{}", audit[0]);
    assert!(audit[9].contains(r#""refused":"#), "{}", audit[9]);
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_hidden_and_nothing_changes_where_that_was_asked_for() {
    let dashboard = Dashboard::over("memory://web-hidden", |options| {
        options.hide_args = true;
        options.read_only = true;
    })
    .await;
    let call: Signature = Signature::named("shop.pay").arg(&"4111-1111").task_id("card");
    dashboard.client.send(call).await.unwrap();
    for path in ["/tasks", "/tasks/card", "/queues/celery", "/api/v1/tasks", "/api/v1/tasks/card/detail", "/api/v1/queues/celery/next"] {
        let answered = dashboard.get(path).await;
        assert_eq!(answered.status, 200, "{path}");
        assert!(
            !answered.body.contains("4111")
                && !answered.body.contains("Copy as")
                && !answered.body.contains("method=\"post\" action=\"/queues/act\""),
            "{path}: {}",
            answered.body
        );
    }
    let answered =
        dashboard.ask("POST", "/queues/act", "Content-Type: application/x-www-form-urlencoded\r\n", "what=purge&queue=celery").await;
    assert_eq!(answered.status, 403);
    assert_eq!(list(&dashboard.client, &QueuesRequest::one("celery")).await.unwrap()[0].waiting, 1);
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_kafka_says_how_to_get_it() {
    let dashboard = Dashboard::over("memory://web-no-kafka", |_| {}).await;
    let page = dashboard.get("/kafka").await.body;
    let said = if cfg!(feature = "kafka") { "No Kafka is looked at" } else { "built without Kafka" };
    assert!(page.contains(said) && page.contains("longshore dashboard --kafka HOST:PORT") && !page.contains("href=\"/kafka\""), "{page}");
    assert_eq!(dashboard.get("/api/v1/kafka/groups").await.status, 404);
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_the_limits_that_processes_share() {
    let dashboard = Dashboard::over("memory://web-limits", |_| {}).await;
    assert!(!dashboard.get("/metrics").await.body.contains("\nlongshore_limit_per_second{"));
    assert!(dashboard.submit("/tasks", "/limits/act", "what=set&limit=api&rate=2%2Fs").await.starts_with("api is 2"));
    let shared = dashboard.client.connected().shared().unwrap();
    shared.reserve("api", Rate::per_second(2.0), 100).await.unwrap();
    // What somebody has changed is seen by the next scrape.
    dashboard.submit("/tasks", "/limits/act", "what=set&limit=other&rate=30%2Fm").await;
    let text = dashboard.get("/metrics").await.body;
    for line in ["longshore_limit_per_second{limit=\"api\"} 2.0", "longshore_limit_per_second{limit=\"other\"} 0.5"] {
        assert!(text.lines().any(|found| found == line), "{line}\n in\n{text}");
    }
    let ahead = text.lines().find_map(|line| line.strip_prefix("longshore_limit_ahead_seconds{limit=\"api\"} ")).expect("a row");
    assert!((1.0..60.0).contains(&ahead.parse::<f64>().unwrap()), "{ahead}");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queues_page_shows_what_is_held_by_whom_and_how_long_it_was() {
    let broker = "memory://web-held";
    let dashboard = Dashboard::over(broker, |_| {}).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = gate.clone();
    let held = Task::future("<script>alert('held')</script>", move |_, _| {
        let gate = waits.clone();
        async move {
            drop(gate.acquire().await);
            Ok::<_, Failure>(longshore_celery::Value::Null)
        }
    });
    let mut app = App::new().task(held);
    *app.settings_mut() = Settings::new(broker);
    let worker = Worker::start(app, WorkerOptions::new("w@h")).await.unwrap();
    let call: Signature = Signature::named("<script>alert('held')</script>").arg(&"<img src=x>").task_id("runs");
    dashboard.client.send(call).await.unwrap();
    let mut body = String::new();
    for _ in 0..200 {
        body = dashboard.get("/queues/celery").await.body;
        if body.contains("</span> running") && body.contains("href=\"/tasks/runs\"") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let held = body.split("<h2 id=\"held\">").nth(1).unwrap().split("</section>").next().unwrap();
    assert!(held.contains("href=\"/workers/w%40h\"") && held.contains("</span> running") && held.contains("ago</time>"), "{held}");
    assert!(!body.contains("<script>alert") && !body.contains("<img src=x"), "{body}");
    let json: serde_json::Value = serde_json::from_str(&dashboard.get("/api/v1/queues/celery/held").await.body).unwrap();
    let first = &json["held"][0];
    assert_eq!(
        (&first["id"], &first["worker"], &first["stage"], &json["more"]),
        (&"runs".into(), &"w@h".into(), &"active".into(), &false.into())
    );
    // The depth was looked at, and its age is that of nothing.
    assert!(body.contains("aria-label=\"Waiting: at most") && body.contains("aria-label=\"Age of the oldest: at most"), "{body}");
    let levels: serde_json::Value = serde_json::from_str(&dashboard.get("/api/v1/queues/celery/levels").await.body).unwrap();
    assert_eq!((&levels["point_seconds"], levels["points"].as_array().unwrap().len()), (&5.into(), 120));
    assert!(levels["points"][119]["waiting"].is_u64(), "{levels}");
    gate.close();
    worker.stopper().warm();
    worker.join().await;
    // A queue of which nobody knows has no page.
    dashboard.client.send(Signature::<longshore_celery::Value>::named("waits")).await.unwrap();
    for _ in 0..200 {
        body = dashboard.get("/queues/celery").await.body;
        if body.contains("<p class=\"empty\">Nothing is.</p>") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("what has ended is held for ever: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_configuration_are_listed_and_set_before_anybody_uses_them() {
    let dashboard = Dashboard::over("memory://web-known-limits", |options| {
        let mut api = KnownLimit::new("api<b>");
        (api.rate, api.concurrency, api.by) = (Some(Rate::per_second(5.0)), Some(3), Some("{host}".to_owned()));
        let mut task = KnownRate::new("shop.add");
        task.rate = Some(Rate::per_second(2.0));
        options.limits.limits.push(api);
        options.limits.rates.push(task);
    })
    .await;
    let page = dashboard.get("/limits").await.body;
    for told in ["api&lt;b&gt;", "5&#x2f;s", "configuration", "3 in each process", "for each <code>{host}</code>", "shop.add", "2&#x2f;s"] {
        assert!(page.contains(told), "{told} in {page}");
    }
    let said = dashboard.submit("/limits", "/limits/act", "what=set&limit=api%3Cb%3E&rate=30/m").await;
    assert!(said.contains("is 30&#x2f;min for all who share it"), "{said}");
    let limits: serde_json::Value = serde_json::from_str(&dashboard.get("/api/v1/limits").await.body).unwrap();
    let set = limits.as_array().unwrap().iter().find(|limit| limit["limit"] == "api<b>").unwrap();
    assert_eq!((&set["set_by"], &set["own"]["rate"], &set["rate"]), (&"all".into(), &"5/s".into(), &"30/min".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_say_what_the_server_does_and_what_was_done_there_and_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    let dashboard = Dashboard::over("memory://web-settings", |options| {
        let mut history = HistoryOptions::new(&file);
        history.most_tasks = 77;
        options.history = Some(history);
        let (user, password) = ("ann".to_owned(), Secret::new("hush hush hush"));
        options.access = Access::Basic { user, password };
    })
    .await;
    let ann = "Authorization: Basic YW5uOmh1c2ggaHVzaCBodXNo\r\n";
    let json = format!("{ann}Content-Type: application/json\r\n");
    let paused = dashboard.ask("POST", "/api/v1/queues/%3Cscript%3Ealert(1)/pause", &json, "{}").await;
    assert_eq!(paused.status, 200, "{}", paused.body);
    assert_eq!(dashboard.ask("POST", "/api/v1/workers/none@h/grow", &json, r#"{"slots":1}"#).await.status, 404);
    let page = dashboard.ask("GET", "/settings", ann, "").await.body;
    let (listens, path) = (dashboard.serving.address().to_string(), file.display().to_string().replace('/', "&#x2f;"));
    for told in
        ["memory:", "ann, with a password", "of at most 77", "no limit", &listens, &path, "&lt;script&gt;alert(1)", "pause", "127.0.0.1"]
    {
        assert!(page.contains(told), "{told} in {page}");
    }
    assert!(!page.contains("hush") && !page.contains("<script>alert"), "{page}");
    let told = dashboard.ask("GET", "/api/v1/settings", ann, "").await.body;
    let settings: serde_json::Value = serde_json::from_str(&told).unwrap();
    let actions = settings["actions"].as_array().unwrap();
    assert_eq!(
        (actions.len(), &actions[1]["what"], &actions[1]["who"], &actions[0]["what"]),
        (2, &"pause".into(), &"ann".into(), &"grow".into())
    );
    assert!(actions[0]["refused"].is_string() && actions[1].get("refused").is_none() && !told.contains("hush"), "{told}");
    assert_eq!((&settings["history"]["most_tasks"], &settings["read_only"]), (&77.into(), &false.into()));
}

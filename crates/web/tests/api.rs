//! The OpenAPI document against the handlers: each operation is asked, each answer is held against
//! its schema, and each refusal that the document names is brought about.
#![expect(clippy::unwrap_used, reason = "a test")]

mod http;
#[cfg(feature = "kafka")]
#[path = "api/kafka.rs"]
mod kafka;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use http::{Answered, ask};
use longshore_brokers::{Consumer, End, Finish, OpenOptions};
use longshore_core::Rate;
use longshore_ops::schedules::{self, ScheduleAction};
use longshore_web::{Access, Auditor, HistoryOptions, Intake, IntakeOptions, Readiness, Secret, Serving, Site, WebOptions, WebServer};
use longshore_worker::{App, Client, Failure, Schedule, Settings, Signature, Task, Timing, Worker, WorkerOptions};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Refusals that take longer than a test, or that need what is not here; each has a test elsewhere:
/// `intake/tests.rs` (501), and `guard/tests.rs` (408).
const ELSEWHERE: [u16; 2] = [408, 501];

/// Answers with a test of their own in `history.rs`: of a stream, which has no end, and of a file
/// that cannot be read.
const IN_HISTORY: [(&str, u16); 6] = [
    ("get /api/v1/tasks/{task}/timeline", 200),
    ("get /api/v1/events", 200),
    ("get /api/v1/events", 503),
    ("get /api/v1/history", 503),
    ("get /api/v1/traffic", 503),
    ("get /api/v1/tasks/{task}/timeline", 503),
];

/// A request: the operation that is meant, and what is sent.
#[derive(Clone, Debug)]
struct Asked {
    operation: String,
    path: String,
    headers: String,
    body: String,
}

impl Asked {
    fn new(method: &str, operation: &str, path: &str, body: &str) -> Self {
        let headers = if method == "POST" { "Content-Type: application/json\r\n" } else { "" };
        Self {
            operation: format!("{} {operation}", method.to_lowercase()),
            path: path.to_owned(),
            headers: headers.to_owned(),
            body: body.to_owned(),
        }
    }

    fn get(operation: &str, path: &str) -> Self {
        Self::new("GET", operation, path, "")
    }

    fn post(operation: &str, path: &str, body: &str) -> Self {
        Self::new("POST", operation, path, body)
    }

    fn method(&self) -> &str {
        if self.operation.starts_with("post ") { "POST" } else { "GET" }
    }

    fn is_post(&self) -> bool {
        self.method() == "POST"
    }

    fn headers(&self, headers: &str) -> Self {
        Self { headers: headers.to_owned(), ..self.clone() }
    }

    fn body(&self, body: &str) -> Self {
        Self { body: body.to_owned(), ..self.clone() }
    }

    fn path(&self, path: String) -> Self {
        Self { path, ..self.clone() }
    }

    async fn send(&self, address: SocketAddr) -> Answered {
        ask(address, self.method(), &self.path, &self.headers, &self.body).await
    }
}

/// The document of a site, and what of it was seen.
struct Described {
    document: Value,
    seen: BTreeSet<(String, u16)>,
}

impl Described {
    async fn of(address: SocketAddr, headers: &str) -> Self {
        let answered = ask(address, "GET", "/api/v1/openapi.json", headers, "").await;
        assert_eq!(answered.status, 200, "{}", answered.body);
        Self { document: serde_json::from_str(&answered.body).unwrap(), seen: BTreeSet::new() }
    }

    /// Returns all operations: `get /api/v1/queues`.
    fn operations(&self) -> BTreeMap<String, Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let of = |(path, item): (&String, &Value)| {
            let item = item.as_object().unwrap().clone();
            let path = path.clone();
            item.into_iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        };
        paths.iter().flat_map(of).collect()
    }

    fn describes(&self, operation: &str, status: u16) -> bool {
        self.operations().get(operation).is_some_and(|operation| !operation["responses"][status.to_string()].is_null())
    }

    /// Holds an answer against what is said of it.
    fn check(&mut self, operation: &str, answered: &Answered) {
        let described = self.operations().remove(operation).unwrap_or_else(|| panic!("{operation} is not described"));
        let response = &described["responses"][answered.status.to_string()];
        assert!(!response.is_null(), "{operation} answers {} and does not say so: {}", answered.status, answered.body);
        let (kind, content) = response["content"].as_object().unwrap().iter().next().unwrap();
        let told = answered.header("content-type").unwrap_or_default();
        assert_eq!(told.split(';').next().unwrap(), kind, "{operation}: {}", answered.status);
        let body = match kind.as_str() {
            "application/json" => serde_json::from_str(&answered.body).unwrap_or_else(|error| panic!("{operation}: {error}")),
            _ => Value::String(answered.body.clone()),
        };
        let mut schema = content["schema"].clone();
        schema["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&body).map(|error| format!("{error} at {}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{operation} {}: {wrong:#?}\n{body:#}", answered.status);
        if answered.status == 429 {
            assert!(answered.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        }
        self.seen.insert((operation.to_owned(), answered.status));
    }

    async fn ask(&mut self, address: SocketAddr, asked: &Asked, status: u16) {
        let answered = asked.send(address).await;
        assert_eq!(answered.status, status, "{asked:?}: {}", answered.body);
        self.check(&asked.operation, &answered);
    }

    /// Returns what was described and not seen.
    fn unseen(&self) -> Vec<(String, u16)> {
        let mut unseen = Vec::new();
        for (operation, described) in self.operations() {
            for status in described["responses"].as_object().unwrap().keys() {
                let status: u16 = status.parse().unwrap();
                let is_elsewhere = ELSEWHERE.contains(&status) || IN_HISTORY.contains(&(operation.as_str(), status));
                if !is_elsewhere && !self.seen.contains(&(operation.clone(), status)) {
                    unseen.push((operation.clone(), status));
                }
            }
        }
        unseen
    }
}

async fn deployment(broker: &str, options: WebOptions, limits: IntakeOptions) -> (Client, Serving) {
    let client = Client::connect(&Settings::new(broker)).unwrap();
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let intake = Intake::new(client.clone(), limits);
    let serving = server.serve(Site::of_deployment(options, client.clone(), &intake));
    (client, serving)
}

async fn send(client: &Client, task: &str, id: &str, queue: &str) {
    let call: Signature = Signature::named(task).arg(&"secret").task_id(id).queue(queue);
    client.send(call).await.unwrap();
}

/// Sends these tasks to a queue that nobody serves, and makes dead letters of all in it.
async fn bury(client: &Client, ids: &[&str]) {
    for id in ids {
        send(client, "shop.add", id, "grave").await;
    }
    let consumer: Arc<dyn Consumer> = client.broker().open(OpenOptions::new("gravedigger@h", ["grave"])).await.unwrap();
    let mut claimed = Vec::new();
    while claimed.len() < ids.len().max(1) {
        consumer.claim(8, &mut claimed).await.unwrap();
    }
    let dead = claimed.iter().map(|claimed| Finish {
        receipt: claimed.receipt,
        publish: Vec::new(),
        results: Vec::new(),
        part: None,
        end: End::Dead { reason: "it died 3 times".into() },
    });
    consumer.finish(&dead.collect::<Vec<_>>()).await.unwrap();
    consumer.leave().await.unwrap();
}

fn app(broker: &str) -> App {
    let add = Task::plain("shop.add", |_, _| Ok(longshore_celery::Value::Int(3)));
    let fail = Task::plain("shop.fail", |_, _| Err::<longshore_celery::Value, _>(Failure::error("ValueError", "no")));
    let mut app = App::new().task(add).task(fail);
    *app.settings_mut() = Settings::new(broker);
    app
}

/// Fills a broker with one of each: a worker, tasks that ended, wait and are dead, a schedule.
async fn fill(client: &Client, broker: &str) -> Worker {
    let worker = Worker::start(app(broker), WorkerOptions::new("w@h")).await.unwrap();
    for (task, id) in [("shop.add", "good"), ("shop.fail", "bad"), ("shop.fail", "worse")] {
        send(client, task, id, "celery").await;
        let _ = tokio::time::timeout(Duration::from_secs(30), client.result(id).get()).await.expect("it ends");
    }
    for id in ["w1", "w2", "w3", "w4", "w5"] {
        send(client, "shop.add", id, "cold").await;
    }
    bury(client, &["d1", "d2", "d3"]).await;
    let schedule = Schedule::new("hourly", Signature::named("shop.add").queue("cold"), Timing::every(Duration::from_secs(3600)).unwrap());
    schedules::act(client, &ScheduleAction::Put(Box::new(schedule.unwrap()))).await.unwrap();
    worker
}

/// Returns a request for each operation of a deployment, in an order in which all of them succeed.
fn all() -> Vec<Asked> {
    let v1 = |method: &str, operation: &str, path: &str, body: &str| {
        Asked::new(method, &format!("/api/v1/{operation}"), &format!("/api/v1/{path}"), body)
    };
    let get = |operation: &str, path: &str| v1("GET", operation, path, "");
    let post = |operation: &str, path: &str, body: &str| v1("POST", operation, path, body);
    let lines = "{\"task\":\"shop.add\",\"queue\":\"cold\"}\n{\"tusk\":1}\n";
    vec![
        Asked::get("/healthz", "/healthz"),
        Asked::get("/readyz", "/readyz"),
        Asked::get("/metrics", "/metrics"),
        get("openapi.json", "openapi.json"),
        get("overview", "overview"),
        get("queues", "queues"),
        get("queues/{queue}/next", "queues/cold/next?count=2"),
        get("tasks", "tasks"),
        get("tasks", "tasks?state=success&since=1h"),
        get("tasks/{task}/detail", "tasks/good/detail"),
        get("tasks/{task}/detail", "tasks/w1/detail"),
        get("tasks/{task}/why", "tasks/bad/why"),
        get("tasks/{task}/why", "tasks/w1/why"),
        get("tasks/{task}/why", "tasks/d1/why"),
        get("tasks/{task}", "tasks/good"),
        get("tasks/{task}", "tasks/none?wait=1ms"),
        get("workers", "workers"),
        get("workers/{node}", "workers/w@h"),
        get("dead", "dead"),
        get("limits", "limits"),
        get("schedules", "schedules"),
        post("tasks/{task}", "tasks/shop.add", r#"{"queue":"cold"}"#),
        post("tasks", "tasks", lines).headers("Content-Type: application/x-ndjson\r\n"),
        post("tasks/{task}/retry", "tasks/bad/retry", ""),
        post("tasks/{task}/cancel", "tasks/w1/cancel", ""),
        post("tasks/{task}/terminate", "tasks/w2/terminate", ""),
        post("bulk/retry", "bulk/retry", r#"{"all":true,"state":"failure","task":"shop.*"}"#),
        post("bulk/cancel", "bulk/cancel", r#"{"ids":["w3"]}"#),
        post("bulk/terminate", "bulk/terminate", r#"{"ids":["w4"]}"#),
        post("queues/{queue}/pause", "queues/cold/pause", ""),
        post("queues/{queue}/resume", "queues/cold/resume", "{}"),
        post("queues/{queue}/move", "queues/cold/move", r#"{"to":"colder"}"#),
        post("queues/{queue}/purge", "queues/colder/purge", ""),
        post("dead/retry", "dead/retry", r#"{"ids":["d1"]}"#),
        post("dead/purge", "dead/purge", r#"{"task":"shop.add","error":"it died … times"}"#),
        post("limits/{limit}/set", "limits/api/set", r#"{"rate":"10/s"}"#),
        get("limits", "limits"),
        post("limits/{limit}/reset", "limits/api/reset", ""),
        post("schedules/{name}/pause", "schedules/hourly/pause", ""),
        post("schedules/{name}/resume", "schedules/hourly/resume", ""),
        post("schedules/{name}/run", "schedules/hourly/run", ""),
        post("schedules/{name}/remove", "schedules/hourly/remove", ""),
        post("workers/{node}/grow", "workers/w@h/grow", r#"{"slots":1}"#),
        post("workers/{node}/shrink", "workers/w@h/shrink", r#"{"slots":1}"#),
        post("workers/{node}/serve", "workers/w@h/serve", r#"{"queue":"more"}"#),
        post("workers/{node}/leave", "workers/w@h/leave", r#"{"queue":"more"}"#),
        post("workers/{node}/rate", "workers/w@h/rate", r#"{"task":"shop.add","rate":"5/s"}"#),
        post("workers/{node}/shutdown", "workers/w@h/shutdown", ""),
    ]
}

/// Returns what only a site with a history answers.
fn past() -> Vec<Asked> {
    let get = |operation: &str, path: &str| Asked::get(&format!("/api/v1/{operation}"), &format!("/api/v1/{path}"));
    vec![get("history", "history?since=1h"), get("traffic", "traffic?span=day")]
}

/// Returns refusals that each operation has a way of its own to.
fn refused() -> Vec<(Asked, u16)> {
    let get = |operation: &str, path: &str| Asked::get(&format!("/api/v1/{operation}"), &format!("/api/v1/{path}"));
    let post = |operation: &str, path: &str, body: &str| Asked::post(&format!("/api/v1/{operation}"), &format!("/api/v1/{path}"), body);
    let keyed = "Content-Type: application/x-ndjson\r\nIdempotency-Key: 1\r\n";
    vec![
        (get("tasks", "tasks?state=broken"), 422),
        (get("tasks/{task}", "tasks/good?wait=soon"), 422),
        (get("queues/{queue}/next", "queues/cold/next?count=many"), 422),
        (get("tasks/{task}/detail", "tasks/none/detail"), 404),
        (get("tasks/{task}/why", "tasks/none/why"), 404),
        (get("tasks/{task}/timeline", "tasks/none/timeline"), 404),
        (get("history", "history?state=broken"), 422),
        (post("bulk/retry", "bulk/retry", r#"{"ids":["none"]}"#), 404),
        (post("bulk/cancel", "bulk/cancel", r#"{"ids":["none"]}"#), 404),
        (post("bulk/terminate", "bulk/terminate", r#"{"ids":["none"]}"#), 404),
        (get("workers/{node}", "workers/none@h"), 404),
        (post("tasks/{task}", "tasks/shop.add", r#"{"arguments":[]}"#), 422),
        (post("tasks", "tasks", "").headers(keyed), 422),
        (post("tasks/{task}/retry", "tasks/none/retry", ""), 404),
        (post("tasks/{task}/cancel", "tasks/none/cancel", ""), 404),
        (post("tasks/{task}/terminate", "tasks/none/terminate", ""), 404),
        (post("dead/retry", "dead/retry", r#"{"ids":["none"]}"#), 404),
        (post("dead/purge", "dead/purge", r#"{"task":"none","error":"none"}"#), 404),
        (post("schedules/{name}/pause", "schedules/none/pause", ""), 404),
        (post("schedules/{name}/resume", "schedules/none/resume", ""), 404),
        (post("schedules/{name}/run", "schedules/none/run", ""), 404),
        (post("schedules/{name}/remove", "schedules/none/remove", ""), 404),
        (post("workers/{node}/grow", "workers/none@h/grow", r#"{"slots":1}"#), 404),
        (post("workers/{node}/shrink", "workers/none@h/shrink", r#"{"slots":1}"#), 404),
        (post("workers/{node}/serve", "workers/none@h/serve", r#"{"queue":"q"}"#), 404),
        (post("workers/{node}/leave", "workers/none@h/leave", r#"{"queue":"q"}"#), 404),
        (post("workers/{node}/rate", "workers/none@h/rate", r#"{"task":"t","rate":"1/s"}"#), 404),
    ]
}

/// Brings about what every operation may be refused for, wherever it stands.
async fn refuse_each(described: &mut Described, address: SocketAddr, all: &[Asked]) {
    for asked in all {
        let operation = asked.operation.as_str();
        if described.describes(operation, 421) {
            described.ask(address, &asked.headers(&format!("{}Host: evil.example\r\n", asked.headers)), 421).await;
        }
        if described.describes(operation, 400) {
            let template = operation.split(' ').nth(1).unwrap();
            let request = match template.contains('{') {
                true => {
                    let parts = template.split('/').map(|part| if part.starts_with('{') { "%00" } else { part });
                    asked.path(parts.collect::<Vec<_>>().join("/"))
                }
                false => asked.headers(&format!("{}Transfer-Encoding: chunked\r\n", asked.headers)).body("no chunk\r\n\r\n"),
            };
            described.ask(address, &request, 400).await;
        }
        if !asked.is_post() {
            continue;
        }
        described.ask(address, &asked.headers(&format!("{}Sec-Fetch-Site: cross-site\r\n", asked.headers)), 403).await;
        described.ask(address, &asked.headers("Content-Type: text/plain\r\n"), 415).await;
        if described.describes(operation, 413) {
            let long = format!("{{\"args\":[\"{}\"]}}", "x".repeat(300 << 10));
            described.ask(address, &asked.body(&long), 413).await;
            // What has no field of that name says so.
            described.ask(address, &asked.body(r#"{"nonsense":1}"#), 422).await;
        }
    }
}

async fn until_answered(address: SocketAddr, asked: &Asked) {
    for _ in 0..600 {
        if asked.send(address).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{asked:?}: {:?}", asked.send(address).await);
}

fn limits() -> IntakeOptions {
    let mut limits = IntakeOptions::default();
    limits.longest_task = 1_000;
    limits
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_and_refuses_as_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let broker = format!("sqlite:{}", folder.path().join("tasks.db").display());
    let mut options = WebOptions::default();
    options.history = Some(HistoryOptions::new(folder.path().join("history.db")));
    let (client, serving) = deployment(&broker, options, limits()).await;
    let address = serving.address();
    let mut described = Described::of(address, "").await;
    let (all, past) = (all(), past());
    // Its file is made meanwhile.
    until_answered(address, &past[0]).await;
    let worker = fill(&client, &broker).await;
    refuse_each(&mut described, address, &past).await;
    let timeline = Asked::get("/api/v1/tasks/{task}/timeline", "/api/v1/tasks/good/timeline");
    refuse_each(&mut described, address, &[Asked::get("/api/v1/events", "/api/v1/events"), timeline]).await;
    for asked in &past {
        described.ask(address, asked, 200).await;
    }
    // The refusals come first: nothing may have changed by them.
    refuse_each(&mut described, address, &all).await;
    for (asked, status) in refused() {
        described.ask(address, &asked, status).await;
    }
    for asked in &all {
        let status = if asked.operation == "post /api/v1/tasks/{task}" { 202 } else { 200 };
        described.ask(address, asked, status).await;
    }
    worker.join().await;

    // A broker that is away, and one that refuses.
    for (broker, status) in [("redis://127.0.0.1:1/0".to_owned(), 503), (refusing().await, 502)] {
        let (_, away) = deployment(&broker, WebOptions::default(), limits()).await;
        let asks = all.iter().filter(|asked| described.describes(&asked.operation, status));
        let answers = join_all(asks.map(async |asked| (asked, asked.send(away.address()).await))).await;
        for (asked, answered) in answers {
            assert_eq!(answered.status, status, "{asked:?}: {}", answered.body);
            described.check(&asked.operation, &answered);
        }
        away.stop().await;
    }

    // More than is let in.
    let mut narrow = limits();
    narrow.rate = Some(Rate::per_second(0.01).burst(1));
    let (_, full) = deployment("memory://api-full", WebOptions::default(), narrow).await;
    let task = Asked::post("/api/v1/tasks/{task}", "/api/v1/tasks/shop.add", "");
    described.ask(full.address(), &task, 202).await;
    described.ask(full.address(), &task, 429).await;
    // It keeps no history.
    for asked in &past {
        described.ask(full.address(), asked, 404).await;
    }
    full.stop().await;

    assert_eq!(described.unseen(), [], "described, and never brought about");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_arguments_keep_to_the_document_and_nothing_is_changed_where_that_is_forbidden() {
    let broker = "memory://api-hidden";
    let mut options = WebOptions::default();
    (options.hide_args, options.read_only) = (true, true);
    let (client, serving) = deployment(broker, options, limits()).await;
    let mut described = Described::of(serving.address(), "").await;
    let worker = fill(&client, broker).await;
    for asked in all() {
        if asked.is_post() {
            described.ask(serving.address(), &asked, 403).await;
            continue;
        }
        let answered = asked.send(serving.address()).await;
        assert!(answered.status == 200 && !answered.body.contains("secret"), "{asked:?}: {}", answered.body);
        described.check(&asked.operation, &answered);
    }
    worker.stopper().warm();
    worker.join().await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_with_a_token_describes_it_and_asks_for_it_everywhere() {
    let token = "a token of some length";
    let mut options = WebOptions::default();
    options.access = Access::Token(Secret::new(token));
    let (_, serving) = deployment("memory://api-token", options, limits()).await;
    let address = serving.address();
    let mut described = Described::of(address, &format!("Authorization: Bearer {token}\r\n")).await;
    assert_eq!(described.document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let is_open = |asked: &Asked| matches!(asked.path.as_str(), "/healthz" | "/readyz");
    for asked in all().iter().filter(|asked| !is_open(asked)) {
        described.ask(address, asked, 401).await;
    }
    let wrong = |asked: &Asked| asked.headers(&format!("{}Authorization: Bearer wrong\r\n", asked.headers));
    let first = Asked::get("/api/v1/overview", "/api/v1/overview");
    while wrong(&first).send(address).await.status == 401 {}
    for asked in all().iter().filter(|asked| !is_open(asked)) {
        described.ask(address, &wrong(asked), 429).await;
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_describes_what_it_answers() {
    let broker = "memory://api-worker";
    let readiness = Readiness::starting();
    let options = WebOptions::default();
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let serving = server.serve(Site::of_worker(options, readiness.clone()));
    let address = serving.address();
    let mut described = Described::of(address, "").await;
    let all = [
        Asked::get("/healthz", "/healthz"),
        Asked::get("/api/v1/openapi.json", "/api/v1/openapi.json"),
        Asked::get("/readyz", "/readyz"),
        Asked::get("/metrics", "/metrics"),
        Asked::get("/api/v1/view", "/api/v1/view"),
        Asked::post("/api/v1/pause", "/api/v1/pause", ""),
        Asked::post("/api/v1/resume", "/api/v1/resume", ""),
        Asked::post("/api/v1/concurrency", "/api/v1/concurrency", r#"{"lane":"async","most":3}"#),
        Asked::post("/api/v1/drain", "/api/v1/drain", ""),
    ];
    for asked in &all[2..] {
        described.ask(address, asked, 503).await;
    }
    refuse_each(&mut described, address, &all).await;
    let worker = Worker::start(app(broker), WorkerOptions::new("w@h")).await.unwrap();
    readiness.started(worker.handle(), worker.stopping());
    let wrong = Asked::post("/api/v1/concurrency", "/api/v1/concurrency", r#"{"lane":"fast","most":3}"#);
    described.ask(address, &wrong, 422).await;
    for asked in &all {
        described.ask(address, asked, 200).await;
    }
    worker.join().await;
    assert_eq!(described.unseen(), [], "described, and never brought about");
    serving.stop().await;
}

#[tokio::test]
async fn a_site_that_takes_tasks_describes_that_alone() {
    let client = Client::connect(&Settings::new("memory://api-intake")).unwrap();
    let options = WebOptions::default();
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let serving = server.serve(Site::of_intake(options, &Intake::new(client, limits())));
    let described = Described::of(serving.address(), "").await;
    let operations: Vec<String> = described.operations().into_keys().collect();
    let expected = ["get /api/v1/openapi.json", "get /api/v1/tasks/{task}", "get /healthz", "get /readyz", "post /api/v1/tasks"];
    assert_eq!(operations[..5], expected, "{operations:?}");
    assert_eq!((operations[5].as_str(), operations.len()), ("post /api/v1/tasks/{task}", 6));
    for (method, path, status) in [("GET", "/api/v1/queues", 404), ("POST", "/api/v1/openapi.json", 405), ("GET", "/api/v1/tasks", 405)] {
        let answered = ask(serving.address(), method, path, "Content-Type: application/json\r\n", "").await;
        assert_eq!(answered.status, status, "{method} {path}");
        assert!(serde_json::from_str::<Value>(&answered.body).unwrap()["error"]["message"].is_string());
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_goes_back_as_it_was_and_the_action_is_noted() {
    let noted: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = noted.clone();
    let mut options = WebOptions::default();
    options.audit = Some(Auditor::new(move |action| told.lock().unwrap().push(serde_json::to_string(action).unwrap())));
    let (client, serving) = deployment("memory://api-dead", options, limits()).await;
    send(&client, "shop.add", "d1", "grave").await;
    let before = client.connected().inspect().unwrap().peek("grave", 9).await.unwrap();
    bury(&client, &[]).await;
    let retry = Asked::post("/api/v1/dead/retry", "/api/v1/dead/retry", r#"{"ids":["d1"]}"#);
    let done = retry.send(serving.address()).await;
    assert_eq!((done.status, done.body.as_str()), (200, r#"{"done":"1 put back into their queues","count":1}"#));
    // Whoever lends it again says so, as Kombu does; nothing else has changed.
    let text = |raw: &[Vec<u8>]| String::from_utf8(raw[0].clone()).unwrap().replace(r#", "redelivered": true"#, "");
    let after = client.connected().inspect().unwrap().peek("grave", 9).await.unwrap();
    assert_eq!(text(&after), text(&before));
    assert_eq!(retry.send(serving.address()).await.status, 404);
    let noted = noted.lock().unwrap().clone();
    assert!(noted[0].contains(r#""what":"retry","to":"d1","count":1"#), "{noted:?}");
    assert!(noted[1].contains(r#""refused":"no dead letter of task d1""#) && noted.len() == 2, "{noted:?}");
    serving.stop().await;
}

#[tokio::test]
async fn ids_of_operations_are_told_apart() {
    let (_, serving) = deployment("memory://api-ids", WebOptions::default(), limits()).await;
    let described = Described::of(serving.address(), "").await;
    let ids: Vec<Value> = described.operations().values().map(|operation| operation["operationId"].clone()).collect();
    let distinct: BTreeSet<String> = ids.iter().map(Value::to_string).collect();
    assert_eq!(ids.len(), distinct.len(), "{}", json!(ids));
    serving.stop().await;
}

/// Starts a Redis that wants a password; its URL.
async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}/0", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut asked).await {
                    let commands = asked[..read].split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"*")).count();
                    if stream.write_all(&b"-NOAUTH Authentication required.\r\n".repeat(commands)).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    url
}

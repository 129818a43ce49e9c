//! The OpenAPI document against the handlers: each operation is asked, each answer is held against
//! its schema, and each refusal that the document names is brought about.
#![expect(clippy::unwrap_used, reason = "a test")]

mod described;
mod http;
#[cfg(feature = "kafka")]
#[path = "api/kafka.rs"]
mod kafka;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use described::{Asked, Described, refuse_each};
use futures_util::future::join_all;
use http::ask;
use longshore_brokers::{Consumer, End, Finish, Key, OpenOptions, Stored};
use longshore_celery::{State, TaskResult};
use longshore_core::{LaneKind, Rate};
use longshore_ops::schedules::{self, ScheduleAction};
use longshore_web::{Access, Auditor, HistoryOptions, Intake, IntakeOptions, Readiness, Secret, Serving, Site, WebOptions, WebServer};
use longshore_worker::{App, Autoscale, Client, Failure, Schedule, Settings, Signature, Task, Timing, Worker, WorkerOptions};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

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
    let mut options = WorkerOptions::new("w@h");
    options.autoscale = Some(Autoscale { max: 4, min: 1, lanes: vec![LaneKind::Blocking] });
    let worker = Worker::start(app(broker), options).await.unwrap();
    for (task, id) in [("shop.add", "good"), ("shop.fail", "bad"), ("shop.fail", "worse")] {
        send(client, task, id, "celery").await;
        let _ = tokio::time::timeout(Duration::from_secs(30), client.result(id).get()).await.expect("it ends");
    }
    for id in ["w1", "w2", "w3", "w4", "w5"] {
        send(client, "shop.add", id, "cold").await;
    }
    // As if a worker had said that it runs.
    let runs = TaskResult { task_id: "runs".to_owned(), state: State::Started, ..TaskResult::default() };
    let stored = Stored { key: Key::Task("runs".to_owned()), doc: runs.encode(), expires: None, keep_success: true, reply_to: None };
    client.results().store(&[stored]).await.unwrap();
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
        get("queues/{queue}/held", "queues/cold/held"),
        get("queues/{queue}/levels", "queues/cold/levels"),
        get("tasks", "tasks"),
        get("tasks", "tasks?state=success&since=1h"),
        get("tasks", "tasks?q=state:success+task:shop.*"),
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
        get("settings", "settings"),
        Asked::get("/healthcheck", "/healthcheck"),
        Asked::get("/api/workers", "/api/workers?refresh=1"),
        Asked::get("/api/workers", "/api/workers?refresh=1&workername=w@h"),
        Asked::get("/api/workers", "/api/workers?status=true"),
        Asked::get("/api/queues/length", "/api/queues/length"),
        Asked::get("/api/tasks", "/api/tasks?limit=3&sort_by=-name"),
        Asked::get("/api/task/types", "/api/task/types"),
        Asked::get("/api/task/info/{id}", "/api/task/info/good"),
        Asked::get("/api/task/info/{id}", "/api/task/info/w1"),
        Asked::get("/api/task/result/{id}", "/api/task/result/bad"),
        Asked::get("/api/task/result/{id}", "/api/task/result/none?timeout=0.01"),
        post("tasks/{task}", "tasks/shop.add", r#"{"queue":"cold"}"#),
        post("tasks", "tasks", lines).headers("Content-Type: application/x-ndjson\r\n"),
        post("tasks/{task}/retry", "tasks/bad/retry", ""),
        post("tasks/{task}/cancel", "tasks/w1/cancel", ""),
        post("tasks/{task}/terminate", "tasks/w2/terminate", ""),
        post("tasks/{task}/abort", "tasks/runs/abort", ""),
        post("bulk/retry", "bulk/retry", r#"{"all":true,"state":"failure","task":"shop.*"}"#),
        post("bulk/cancel", "bulk/cancel", r#"{"ids":["w3"]}"#),
        post("bulk/cancel", "bulk/cancel", r#"{"all":true,"q":"state:waiting task:shop.add queue:cold id:w5"}"#),
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
        post("workers/{node}/time_limit", "workers/w@h/time_limit", r#"{"task":"shop.add","soft":1.5}"#),
        post("workers/{node}/autoscale", "workers/w@h/autoscale", r#"{"max":3,"min":1}"#),
        post("workers/{node}/shutdown", "workers/w@h/shutdown", ""),
    ]
}

/// Returns what only a site with a history answers.
fn past() -> Vec<Asked> {
    let get = |operation: &str, path: &str| Asked::get(&format!("/api/v1/{operation}"), &format!("/api/v1/{path}"));
    vec![
        get("history", "history?since=1h"),
        get("history", "history?q=add+state:success+runtime:%3E0s+since:1h+args:secret"),
        get("history/export", "history/export?since=1h"),
        get("history/export", "history/export?q=task:shop.*"),
        get("traffic", "traffic?span=day"),
        get("times", "times"),
        get("times", "times?span=day"),
        get("queues/{queue}/levels", "queues/cold/levels?span=day"),
    ]
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
        (get("history", "history?q=colour:red"), 422),
        (get("tasks", "tasks?q=runtime:2s"), 422),
        (post("bulk/cancel", "bulk/cancel", r#"{"all":true,"past":true,"q":"colour:red"}"#), 422),
        (get("history/export", "history/export?state=broken"), 422),
        (Asked::get("/api/task/info/{id}", "/api/task/info/none"), 404),
        (Asked::get("/api/task/result/{id}", "/api/task/result/none?timeout=soon"), 400),
        (Asked::get("/api/workers", "/api/workers?workername=none@h"), 404),
        (Asked::get("/api/workers", "/api/workers?refresh=maybe"), 400),
        (Asked::get("/api/tasks", "/api/tasks?sort_by=age"), 400),
        (Asked::get("/api/tasks", "/api/tasks?search=x"), 400),
        (post("bulk/retry", "bulk/retry", r#"{"ids":["none"]}"#), 404),
        (post("bulk/cancel", "bulk/cancel", r#"{"ids":["none"]}"#), 404),
        (post("bulk/terminate", "bulk/terminate", r#"{"ids":["none"]}"#), 404),
        (get("workers/{node}", "workers/none@h"), 404),
        (post("tasks/{task}", "tasks/shop.add", r#"{"arguments":[]}"#), 422),
        (post("tasks", "tasks", "").headers(keyed), 422),
        (post("tasks/{task}/retry", "tasks/none/retry", ""), 404),
        (post("tasks/{task}/cancel", "tasks/none/cancel", ""), 404),
        (post("tasks/{task}/terminate", "tasks/none/terminate", ""), 404),
        (post("tasks/{task}/abort", "tasks/none/abort", ""), 404),
        (post("tasks/{task}/abort", "tasks/w5/abort", ""), 422),
        (post("tasks/{task}/abort", "tasks/good/abort", ""), 422),
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
        (post("workers/{node}/time_limit", "workers/none@h/time_limit", r#"{"task":"t","hard":1}"#), 404),
        (post("workers/{node}/autoscale", "workers/none@h/autoscale", r#"{"max":3}"#), 404),
    ]
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
    let timeline = Asked::get("/api/v1/tasks/{task}/timeline", "/api/v1/tasks/told/timeline");
    // Its worker is asked to tell of tasks; what it did before that nobody knows.
    while timeline.send(address).await.status != 200 {
        send(&client, "shop.add", "told", "celery").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refuse_each(&mut described, address, &[Asked::get("/api/v1/events", "/api/v1/events"), timeline.clone()]).await;
    for asked in past.iter().chain([&timeline]) {
        described.ask(address, asked, 200).await;
    }
    // A search line finds among what is remembered what is to be done to all of it.
    let line = r#"{"all":true,"past":true,"q":"task:shop.* id:told"}"#;
    let done = Asked::post("/api/v1/bulk/retry", "/api/v1/bulk/retry", line).send(address).await;
    assert!(done.status == 422 && done.body.contains("told has succeeded"), "{}", done.body);
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
        // Who is there is asked of the page's own reader, which says only that the broker is away.
        let asks = all.iter().filter(|asked| described.describes(&asked.operation, status) && !asked.path.contains("?status="));
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
    let is_open = |asked: &Asked| matches!(asked.path.as_str(), "/healthz" | "/readyz" | "/healthcheck");
    for asked in all().iter().filter(|asked| !is_open(asked)) {
        described.ask(address, asked, 401).await;
    }
    let wrong = |asked: &Asked| asked.headers(&format!("{}Authorization: Bearer wrong\r\n", asked.headers));
    let first = Asked::get("/api/v1/overview", "/api/v1/overview");
    while wrong(&first).send(address).await.status == 401 {}
    for asked in all().iter().filter(|asked| !is_open(asked)) {
        // Every six seconds one more is let through.
        let answered = wrong(asked).send(address).await;
        let answered = if answered.status == 401 { wrong(asked).send(address).await } else { answered };
        assert_eq!(answered.status, 429, "{asked:?}: {}", answered.body);
        described.check(&asked.operation, &answered);
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

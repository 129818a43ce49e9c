use axum::extract::Request;
use futures_util::StreamExt;
use longshore_brokers::{Key, Stored};
use longshore_celery::{Limits, Message, State as TaskState, TaskResult, Value};
use longshore_worker::Settings;
use serde_json::json;

use super::*;
use crate::{Site, WebOptions, guard::guard};

/// A request: method, path, headers, body.
type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// An intake over a broker in memory, and whoever looks into it.
struct TestDoor {
    client: Client,
    site: Site,
}

impl TestDoor {
    fn new(name: &str, change: impl FnOnce(&mut IntakeOptions)) -> Self {
        Self::over(&Settings::new(format!("memory://intake-{name}")), change)
    }

    fn over(settings: &Settings, change: impl FnOnce(&mut IntakeOptions)) -> Self {
        let mut options = IntakeOptions::default();
        change(&mut options);
        let client = Client::connect(settings).unwrap();
        let intake = Intake::new(client.clone(), options);
        Self { client, site: Site::of_intake(WebOptions::default(), &intake) }
    }

    async fn ask(&self, (method, path, headers, body): Asked<'_>) -> Response {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn answer(&self, request: Request) -> Response {
        guard(self.site.guard.clone(), self.site.router.clone(), request).await
    }

    /// Sends a task without arguments; the status, and what `Retry-After` says.
    async fn send(&self, path: &str) -> (u16, Option<u64>) {
        let response = self.ask(("POST", path, &[], "")).await;
        let after = response.headers().get("retry-after").map(|after| after.to_str().unwrap().parse().unwrap());
        (response.status().as_u16(), after)
    }

    async fn messages(&self, queue: &str) -> Vec<Message> {
        let raw = self.client.connected().inspect().unwrap().peek(queue, 1_000).await.unwrap();
        raw.iter().map(|raw| Message::decode(raw, &Limits::default()).unwrap()).collect()
    }

    async fn store(&self, id: &str, state: TaskState, result: Value, traceback: Option<&str>) {
        let traceback = traceback.map(str::to_owned);
        let document = TaskResult { task_id: id.to_owned(), state, result, traceback, ..TaskResult::default() };
        let stored = Stored { key: Key::Task(id.to_owned()), doc: document.encode(), expires: None, keep_success: true, reply_to: None };
        self.client.results().store(&[stored]).await.unwrap();
    }
}

async fn json_of(response: Response) -> serde_json::Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

async fn refusal_of(response: Response) -> (u16, String) {
    let json = json_of(response).await;
    (u16::try_from(json["error"]["status"].as_u64().unwrap()).unwrap(), json["error"]["message"].as_str().unwrap().to_owned())
}

/// A place in a trace that the task then belongs to.
const TRACEPARENT: (&str, &str) = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");

#[tokio::test]
async fn a_task_is_in_the_broker_as_it_was_asked_for_when_its_id_is_answered() {
    let door = TestDoor::new("one", |_| {});
    let body = r#"{"args":[1,"two"],"kwargs":{"three":[3]},"queue":"far","priority":5,"countdown":3600,"id":"my/id 1"}"#;
    let response = door.ask(("POST", "/api/v1/tasks/shop.price", &[], body)).await;
    assert_eq!((response.status().as_u16(), response.headers()["location"].to_str().unwrap()), (202, "/api/v1/tasks/my%2Fid%201"));
    assert_eq!(json_of(response).await, json!({"id": "my/id 1"}));
    let waiting = door.client.broker().queues(&["far".into()]).await.unwrap();
    assert_eq!(waiting[0].waiting + waiting[0].later, 1, "{waiting:?}");

    let response = door.ask(("POST", "/api/v1/tasks/shop.%C3%A9t%C3%A9", &[("longshore-queue", "near"), TRACEPARENT], "")).await;
    let id = json_of(response).await["id"].as_str().unwrap().to_owned();
    let messages = door.messages("near").await;
    assert_eq!(messages[0].headers.get(TRACEPARENT.0).and_then(Value::as_str), Some(TRACEPARENT.1));
    assert_eq!((messages.len(), messages[0].task.as_str(), messages[0].id.as_str()), (1, "shop.été", id.as_str()));
    assert_eq!(id.len(), 36, "a UUID: {id}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_a_sentence_and_nothing_is_sent() {
    let door = TestDoor::new("refused", |options| options.longest_task = 100);
    let long = format!("{{\"args\":[\"{}\"]}}", "x".repeat(100));
    let ndjson = [("content-type", "application/x-ndjson")];
    let rows: [(Asked<'_>, u16, &str); 6] = [
        (("POST", "/api/v1/tasks/add", &[], &long), 413, "at most 100 bytes"),
        (("POST", "/api/v1/tasks/add", &ndjson, "{}"), 415, "JSON Lines go to POST /api/v1/tasks"),
        (("POST", "/api/v1/tasks/add", &[("content-type", "text/plain")], "{}"), 415, "application/json"),
        (("POST", "/api/v1/tasks/add", &[], "{\"arg\":[]}"), 422, "no field \"arg\""),
        (("POST", "/api/v1/tasks/add", &[], "{\"queue\":\"a\\u0006b\"}"), 422, "queue"),
        (("GET", "/api/v1/tasks/7?wait=soon", &[], ""), 422, "wait is a time"),
    ];
    for (asked, status, expected) in rows {
        let (told, message) = refusal_of(door.ask(asked).await).await;
        assert!(told == status && message.contains(expected), "{asked:?}: {told} {message}");
    }
    assert_eq!(door.messages("celery").await, []);
}

#[tokio::test(start_paused = true)]
async fn a_full_bucket_answers_429_and_whoever_comes_at_the_time_that_it_told_fits() {
    let door = TestDoor::new("meter", |options| options.rate = Some(Rate { count: 2.0, per: Duration::from_secs(5), burst: 3 }));
    for _ in 0..3 {
        assert_eq!(door.send("/api/v1/tasks/add").await, (202, None));
    }
    assert_eq!(door.send("/api/v1/tasks/add").await, (429, Some(3)), "2.5 s, rounded up");
    // What is refused for itself does not fill the bucket.
    assert_eq!(door.ask(("POST", "/api/v1/tasks/add", &[], "[]")).await.status(), 422);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(door.send("/api/v1/tasks/add").await, (202, None));
    let (status, message) = refusal_of(door.ask(("POST", "/api/v1/tasks/add", &[], "")).await).await;
    assert!(status == 429 && message.contains("2 in 5 s, and 3 at once; there is room again in 2.000 s"), "{message}");
    assert_eq!(door.messages("celery").await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_long_enough_takes_no_more_until_a_look_finds_it_shorter() {
    let door = TestDoor::new("lengths", |options| options.most_waiting = Some(2));
    let other = [("longshore-queue", "other")];
    assert_eq!(door.send("/api/v1/tasks/add").await, (202, None));
    assert_eq!(door.send("/api/v1/tasks/add").await, (202, None), "what was let in since the look counts");
    assert_eq!(door.send("/api/v1/tasks/add").await, (429, Some(1)));
    assert_eq!(door.ask(("POST", "/api/v1/tasks/add", &other, "")).await.status(), 202);
    // Within the second nobody looks again.
    door.client.broker().purge("celery").await.unwrap();
    assert_eq!(door.send("/api/v1/tasks/add").await, (429, Some(1)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(door.send("/api/v1/tasks/add").await, (202, None));
}

#[tokio::test]
async fn a_broker_that_is_away_answers_503_with_a_time_to_come_back() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = Settings::new(format!("redis://127.0.0.1:{port}/0?patience=0.1"));
    let door = TestDoor::over(&settings, |_| {});
    assert_eq!(door.send("/api/v1/tasks/add").await, (503, Some(2)));
    assert_eq!(door.ask(("GET", "/api/v1/tasks/7", &[], "")).await.status(), 503);
    let door = TestDoor::over(&settings, |options| options.most_waiting = Some(1));
    assert_eq!(door.send("/api/v1/tasks/add").await, (503, Some(2)), "the look at the queue");
}

#[tokio::test(start_paused = true)]
async fn a_result_is_answered_when_it_is_there_and_its_absence_when_the_time_is_over() {
    let door = TestDoor::new("results", |_| {});
    let pending = json!({"id": "7", "status": "PENDING", "result": null, "traceback": null});
    assert_eq!(json_of(door.ask(("GET", "/api/v1/tasks/7", &[], "")).await).await, pending);
    let begun = Instant::now();
    assert_eq!(json_of(door.ask(("GET", "/api/v1/tasks/7?wait=10s", &[], "")).await).await, pending);
    assert_eq!(begun.elapsed().as_secs(), 10);

    let asked = door.ask(("GET", "/api/v1/tasks/7?wait=30s", &[], ""));
    let stored = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        door.store("7", TaskState::Success, 42.into(), None).await;
    };
    let begun = Instant::now();
    let (response, ()) = tokio::join!(asked, stored);
    assert_eq!(json_of(response).await, json!({"id": "7", "status": "SUCCESS", "result": 42, "traceback": null}));
    assert_eq!(begun.elapsed().as_secs(), 5, "as soon as it is there");

    door.store("8", TaskState::Failure, Value::Null, Some("Traceback: …")).await;
    let failed = json_of(door.ask(("GET", "/api/v1/tasks/8?wait=30s", &[], "")).await).await;
    assert_eq!((&failed["status"], &failed["traceback"]), (&json!("FAILURE"), &json!("Traceback: …")));

    let hidden = TestDoor::new("results", |options| options.hide_results = true);
    let hidden = json_of(hidden.ask(("GET", "/api/v1/tasks/7", &[], "")).await).await;
    assert_eq!(hidden, json!({"id": "7", "status": "SUCCESS", "result": null, "traceback": null}));
}

const LINES: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

async fn lines_of(response: Response) -> Vec<serde_json::Value> {
    assert_eq!((response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()), (200, "application/x-ndjson"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[tokio::test]
async fn each_line_of_a_bulk_is_answered_in_order_and_a_bad_one_harms_nobody_but_itself() {
    let door = TestDoor::new("bulk", |options| options.longest_task = 60);
    let body = format!(
        "{}\n\n{{\"task\":\"add\"\n{}\n{}\n{}\n{}",
        r#"{"task":"add","args":[1],"id":"one"}"#,
        r#"{"args":[1]}"#,
        format_args!(r#"{{"task":"add","args":["{}"]}}"#, "x".repeat(60)),
        r#"{"task":"add","queue":"a\u0006b"}"#,
        r#"{"task":"mul","args":[2],"id":"seven"}"#,
    );
    let told = lines_of(door.ask(("POST", "/api/v1/tasks", &LINES, &body)).await).await;
    let brief: Vec<_> = told
        .iter()
        .map(|line| (line["line"].as_u64().unwrap(), line["id"].as_str().unwrap_or_default(), line["error"]["status"].as_u64()))
        .collect();
    let expected = [(1, "one", None), (3, "", Some(422)), (4, "", Some(422)), (5, "", Some(413)), (6, "", Some(422)), (7, "seven", None)];
    assert_eq!(brief, expected, "{told:?}");
    let sent: Vec<_> = door.messages("celery").await.into_iter().map(|message| (message.task, message.id)).collect();
    assert_eq!(sent, [("add".to_owned(), "one".to_owned()), ("mul".to_owned(), "seven".to_owned())]);

    let rows: [(Asked<'_>, u16, &str); 2] = [
        (("POST", "/api/v1/tasks", &[], "{}"), 415, "application/x-ndjson"),
        (("POST", "/api/v1/tasks", &[LINES[0], ("idempotency-key", "k")], ""), 422, "belongs to one task"),
    ];
    for (asked, status, expected) in rows {
        let (told, message) = refusal_of(door.ask(asked).await).await;
        assert!(told == status && message.contains(expected), "{asked:?}: {told} {message}");
    }
}

#[tokio::test]
async fn each_task_of_a_bulk_belongs_to_the_trace_of_its_request() {
    let door = TestDoor::new("bulk-trace", |_| {});
    let told = lines_of(door.ask(("POST", "/api/v1/tasks", &[LINES[0], TRACEPARENT], "{\"task\":\"a\"}\n{\"task\":\"b\"}\n")).await).await;
    assert_eq!(told.len(), 2, "{told:?}");
    let messages = door.messages("celery").await;
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert_eq!(message.headers.get(TRACEPARENT.0).and_then(Value::as_str), Some(TRACEPARENT.1), "{}", message.task);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bulk_waits_for_the_bucket_and_not_for_ever() {
    let rate = |per| Rate { count: 1.0, per: Duration::from_secs(per), burst: 2 };
    let five = "{\"task\":\"add\"}\n".repeat(5);
    let door = TestDoor::new("bulk-meter", |options| options.rate = Some(rate(10)));
    let begun = Instant::now();
    let told = lines_of(door.ask(("POST", "/api/v1/tasks", &LINES, &five)).await).await;
    assert!(told.iter().all(|line| line["id"].is_string()), "{told:?}");
    assert_eq!((told.len(), begun.elapsed().as_secs()), (5, 30), "two at once, then one each ten seconds");

    let door = TestDoor::new("bulk-slow-meter", |options| options.rate = Some(rate(3_600)));
    let begun = Instant::now();
    let told = lines_of(door.ask(("POST", "/api/v1/tasks", &LINES, &five)).await).await;
    let refused = |line: &serde_json::Value| (line["error"]["status"].as_u64(), line["error"]["retry_after"].as_u64());
    assert_eq!(told.iter().map(refused).collect::<Vec<_>>(), [[(None, None); 2].as_slice(), &[(Some(429), Some(3_600)); 3]].concat());
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_bulk_reads_no_further_than_its_answers_are_taken() {
    let door = TestDoor::new("bulk-steps", |_| {});
    let read = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let chunks = futures_util::stream::iter(0..1_000).map({
        let read = read.clone();
        move |_| {
            read.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok::<_, std::convert::Infallible>("{\"task\":\"add\"}\n".repeat(10))
        }
    });
    let request = Request::post("/api/v1/tasks").header("host", "localhost").header("content-type", "application/x-ndjson");
    let response = door.answer(request.body(Body::from_stream(chunks)).unwrap()).await;
    let mut answers = response.into_body().into_data_stream();
    assert_eq!(answers.next().await.unwrap().unwrap().iter().filter(|byte| **byte == b'\n').count(), 128);
    let (seen, sent) = (read.load(std::sync::atomic::Ordering::SeqCst), door.messages("celery").await.len());
    assert_eq!((seen, sent), (13, 128), "as many lines as go to the broker at once");
}

#[tokio::test]
async fn a_bulk_ends_with_a_reason_when_the_broker_goes_away() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let door = TestDoor::over(&Settings::new(format!("redis://127.0.0.1:{port}/0?patience=0.1")), |_| {});
    let told = lines_of(door.ask(("POST", "/api/v1/tasks", &LINES, &"{\"task\":\"add\"}\n".repeat(200))).await).await;
    assert_eq!(told.len(), 129, "one batch, and why no more");
    assert!(told.iter().all(|line| line["error"]["status"] == 503), "{told:?}");
    assert!(told[128]["line"].is_null() && told[128]["error"]["message"].as_str().unwrap().starts_with("nothing further was read: "));
}

const KEYED: [(&str, &str); 1] = [("idempotency-key", "order 7")];

#[tokio::test]
async fn the_same_key_and_body_is_one_task_also_for_two_servers_at_once_and_after_a_restart() {
    let doors: Vec<_> = (0..2).map(|_| TestDoor::new("once", |_| {})).collect();
    let asked: Asked<'_> = ("POST", "/api/v1/tasks/add", &KEYED, r#"{"args":[1]}"#);
    let at_once = futures_util::future::join_all((0..20).map(|n| doors[n % 2].ask(asked))).await;
    let mut ids = std::collections::BTreeSet::new();
    for response in at_once.into_iter().chain([TestDoor::new("once", |_| {}).ask(asked).await]) {
        assert_eq!(response.status(), 202);
        ids.insert(json_of(response).await["id"].as_str().unwrap().to_owned());
    }
    let sent: Vec<_> = doors[0].messages("celery").await.into_iter().map(|message| message.id).collect();
    assert_eq!((ids.len(), &sent), (1, &ids.into_iter().collect()));

    let others: [Asked<'_>; 3] = [
        ("POST", "/api/v1/tasks/add", &KEYED, r#"{"args":[2]}"#),
        ("POST", "/api/v1/tasks/mul", &KEYED, r#"{"args":[1]}"#),
        ("POST", "/api/v1/tasks/add", &[KEYED[0], ("longshore-queue", "q")], r#"{"args":[1]}"#),
    ];
    for other in others {
        let (status, message) = refusal_of(doors[0].ask(other).await).await;
        assert!(status == 422 && message.contains("take a new key"), "{other:?}: {status} {message}");
    }
    assert_eq!(doors[0].messages("celery").await.len(), 1);
}

/// Leaves the note that a server leaves which dies while it sends.
async fn leave_note(door: &TestDoor, id: &str) {
    let headers: HeaderMap = [(KEY, HeaderValue::from_static("order 7"))].into_iter().collect();
    let order = TaskOrder::of_body("add", &headers, b"").unwrap();
    let asked = AskedOnce::of("anybody on this machine", &order, &headers, b"").unwrap().unwrap();
    let note = asked.note(id.to_owned(), "who died".to_owned());
    let shared = door.client.connected().shared().unwrap();
    assert_eq!(shared.note_send(&note).await.unwrap(), longshore_brokers::NotedSend::First);
    shared.end_send(&note, longshore_brokers::NotedEnd::Unknown).await.unwrap();
}

#[tokio::test]
async fn a_server_that_died_between_note_and_mark_leaves_one_task_whatever_it_had_done() {
    type Left = fn(&TestDoor) -> futures_util::future::BoxFuture<'_, ()>;
    let nothing: Left = |_| Box::pin(async {});
    let waiting: Left = |door| {
        Box::pin(async {
            let task = door.client.prepare(longshore_worker::Signature::named("add").task_id("id-1")).unwrap();
            door.client.send_prepared(&[task]).await.unwrap();
        })
    };
    let ended: Left = |door| Box::pin(door.store("id-1", TaskState::Success, 1.into(), None));
    for (name, left, expected) in [("nothing", nothing, 1), ("waiting", waiting, 1), ("ended", ended, 0)] {
        let door = TestDoor::new(&format!("died-{name}"), |_| {});
        leave_note(&door, "id-1").await;
        left(&door).await;
        for _ in 0..2 {
            let response = door.ask(("POST", "/api/v1/tasks/add", &KEYED, "")).await;
            assert_eq!(json_of(response).await, json!({"id": "id-1"}), "{name}");
            assert_eq!(door.messages("celery").await.len(), expected, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_not_let_in_may_be_asked_for_again_under_its_key() {
    let door = TestDoor::new("once-meter", |options| options.rate = Some(Rate { count: 1.0, per: Duration::from_secs(5), burst: 1 }));
    assert_eq!(door.send("/api/v1/tasks/other").await.0, 202);
    let asked: Asked<'_> = ("POST", "/api/v1/tasks/add", &KEYED, "");
    assert_eq!(door.ask(asked).await.status(), 429);
    tokio::time::advance(Duration::from_secs(5)).await;
    let id = json_of(door.ask(asked).await).await;
    assert_eq!(json_of(door.ask(asked).await).await, id, "what was sent fills no bucket when it is asked for again");
    assert_eq!(door.messages("celery").await.len(), 2);
}

#[tokio::test]
async fn a_key_without_a_store_is_refused_with_what_to_add() {
    let mut settings = Settings::new("amqp://127.0.0.1:1//");
    settings.results = Some("rpc://".to_owned());
    let door = TestDoor::over(&settings, |_| {});
    let (status, message) = refusal_of(door.ask(("POST", "/api/v1/tasks/add", &KEYED, "")).await).await;
    assert!(status == 501 && message.contains("amqp://") && message.contains("add a result backend"), "{status} {message}");
    for key in ["", "  "] {
        assert_eq!(door.ask(("POST", "/api/v1/tasks/add", &[("idempotency-key", key)], "")).await.status(), 422);
    }
}

#[tokio::test]
async fn a_key_in_the_body_is_a_key_and_stands_in_one_place() {
    let door = TestDoor::new("key-field", |_| {});
    let body = |args: &str| format!(r#"{{"args":{args},"idempotency_key":" order 7 "}}"#);
    let first = json_of(door.ask(("POST", "/api/v1/tasks/add", &[], &body("[1]"))).await).await;
    assert_eq!(json_of(door.ask(("POST", "/api/v1/tasks/add", &[], &body("[1]"))).await).await, first);
    for (headers, body, expected) in [
        (&[][..], body("[2]"), "take a new key"),
        (&KEYED[..], r#"{"args":[1]}"#.to_owned(), "take a new key"),
        (&KEYED[..], body("[1]"), "leave one out"),
    ] {
        let (status, message) = refusal_of(door.ask(("POST", "/api/v1/tasks/add", headers, &body)).await).await;
        assert!(status == 422 && message.contains(expected), "{body}: {status} {message}");
    }
    assert_eq!(door.messages("celery").await.len(), 1);
    assert_eq!(door.messages("celery").await[0].id, first["id"].as_str().unwrap());
}

#[tokio::test]
async fn lines_with_a_key_are_sent_once_and_in_their_place() {
    let door = TestDoor::new("key-lines", |_| {});
    let line = |task: &str, key: &str| format!("{{\"task\":\"{task}\"{key}}}\n");
    let key = |key: &str| format!(",\"idempotency_key\":\"{key}\"");
    let body =
        [line("a", ""), line("b", &key("k1")), line("c", &key("k2")), line("d", ""), line("b", &key("k1")), line("e", &key("k1"))].concat();
    let told = lines_of(door.ask(("POST", "/api/v1/tasks", &LINES, &body)).await).await;
    let numbers: Vec<_> = told.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6], "{told:?}");
    assert!(told[1]["id"].is_string() && told[1]["id"] == told[4]["id"], "{told:?}");
    assert_eq!(told[5]["error"]["status"], 422, "{told:?}");
    let sent = async || door.messages("celery").await.into_iter().map(|message| message.task).collect::<Vec<_>>();
    assert_eq!(sent().await, ["a", "b", "c", "d"]);
    // The whole again, as whoever did not hear the answer sends it.
    let again = lines_of(door.ask(("POST", "/api/v1/tasks", &LINES, &body)).await).await;
    assert_eq!((&again[1], &again[2]), (&told[1], &told[2]));
    assert_eq!(sent().await, ["a", "b", "c", "d", "a", "d"]);
}

#[tokio::test(start_paused = true)]
async fn lines_with_a_key_wait_for_the_bucket_as_others_do() {
    let rate = Rate { count: 1.0, per: Duration::from_secs(10), burst: 1 };
    let door = TestDoor::new("key-meter", |options| options.rate = Some(rate));
    let begun = Instant::now();
    let body: String = (0..3).map(|n| format!("{{\"task\":\"add\",\"idempotency_key\":\"{n}\"}}\n")).collect();
    let told = lines_of(door.ask(("POST", "/api/v1/tasks", &LINES, &body)).await).await;
    assert!(told.iter().all(|line| line["id"].is_string()), "{told:?}");
    assert_eq!((told.len(), begun.elapsed().as_secs()), (3, 20));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_another_has_sent_while_its_queue_was_looked_at_is_not_sent_again() {
    let door = TestDoor::new("once-late", |_| {});
    let options = IntakeOptions { most_waiting: Some(9), ..IntakeOptions::default() };
    let intake = Intake::new(door.client.clone(), options);
    let look = intake.0.lengths.as_ref().unwrap().look("celery", Instant::now().into_std());
    let held = look.lock().await;
    let headers: HeaderMap = [(KEY, HeaderValue::from_static("order 7"))].into_iter().collect();
    let order = TaskOrder::of_body("add", &headers, b"").unwrap();
    let asked = || AskedOnce::of("anybody on this machine", &order, &headers, b"").unwrap().unwrap();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let note = asked().note("other".to_owned(), "another server".to_owned());
        door.client.connected().shared().unwrap().end_send(&note, longshore_brokers::NotedEnd::Sent).await.unwrap();
        drop(held);
    };
    let (sent, ()) = tokio::join!(intake.send_once(asked(), order.clone()), meanwhile);
    assert!(sent.is_ok(), "{sent:?}");
    assert_eq!(door.messages("celery").await, []);
}

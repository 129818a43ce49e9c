//! What workers on one broker share: the rates of tasks, and what was called off.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::{Broker, Connected, Key, Outgoing, connect};
use longshore_celery::{Encoding, Map, Message, State, TaskResult, Value, control};
use longshore_core::Rate;
use longshore_worker::{Acks, App, RateScope, Task, Worker, WorkerOptions};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(20);

/// A file that goes with its test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("longshore-{name}-{}-{}.db", std::process::id(), fastrand::u64(..))))
    }

    fn url(&self) -> String {
        format!("sqlite:{}?sync=normal", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-wake"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.0.display()));
        }
    }
}

/// A task that says when it began, limited over all workers.
fn limited(rate: Rate) -> (Task, mpsc::UnboundedReceiver<Instant>) {
    let (began, starts) = mpsc::unbounded_channel();
    let mut task = Task::plain("limited", move |_, _| {
        let _ = began.send(Instant::now());
        Ok(Value::Null)
    });
    task.policy.rate_limit = Some(rate);
    task.policy.rate_scope = RateScope::Shared;
    (task, starts)
}

async fn start(url: &str, name: &str, queue: &str, task: Task) -> Worker {
    let mut options = WorkerOptions::new(format!("{name}@test"));
    options.queues = vec![queue.to_owned()];
    Worker::start(App::new().broker(url).task(task), options).await.unwrap()
}

async fn stop(worker: Worker) {
    worker.stopper().warm();
    tokio::time::timeout(SOON, worker.join()).await.unwrap();
}

async fn send(broker: &dyn Broker, queue: &str, message: Message) -> String {
    let id = if message.id.is_empty() { format!("id-{}", fastrand::u64(..)) } else { message.id.clone() };
    let message = Message { id: id.clone(), routing_key: queue.to_owned(), ..message };
    // Not held back by the broker, so that a worker claims it at once and holds it, as with Redis.
    let raw = message.encode(Encoding::Json);
    broker.publish(&[Outgoing { queue: queue.into(), exchange: None, priority: 0, due: None, raw }]).await.unwrap();
    id
}

fn call(task: &str) -> Message {
    Message { task: task.to_owned(), ..Message::default() }
}

/// Asks all workers until one replies: a worker listens a moment after its start.
async fn ask(connected: &Connected, request: control::Request) -> Value {
    let oid = format!("client-{}", fastrand::u64(..));
    let bus = connected.bus().unwrap();
    let mut replies = bus.replies(&oid).await.unwrap();
    let raw = request.answered("ticket", oid).encode("tag");
    for _ in 0..100 {
        bus.broadcast(control::EXCHANGE, "", &raw).await.unwrap();
        if let Ok(reply) = tokio::time::timeout(Duration::from_millis(200), replies.messages.recv()).await {
            return control::Reply::decode(&reply.unwrap().1, 1 << 20).unwrap().from.remove(0).1;
        }
    }
    panic!("nobody replies")
}

async fn two_workers_keep_a_rate(url: &str) {
    let (task, mut starts) = limited(Rate::per_second(20.0));
    let workers = [start(url, "one", "a", task.clone()).await, start(url, "two", "b", task).await];
    let Connected { broker, .. } = connect(url, None).unwrap();
    let begin = Instant::now();
    for _ in 0..32 {
        send(&*broker, "a", call("limited")).await;
        send(&*broker, "b", call("limited")).await;
    }
    let mut last = begin;
    for _ in 0..64 {
        last = last.max(tokio::time::timeout(SOON, starts.recv()).await.unwrap().unwrap());
    }
    let took = last - begin;
    // A slot that is half a millisecond away is not waited for.
    assert!(took >= Duration::from_millis(63 * 50 - 1), "64 starts at 20 a second take 3.15 s, whoever makes them: {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    for worker in workers {
        stop(worker).await;
    }
}

#[tokio::test]
async fn two_workers_on_a_memory_keep_a_shared_rate_together() {
    two_workers_keep_a_rate("memory://shared-rate").await;
}

#[tokio::test]
async fn two_workers_on_a_file_keep_a_shared_rate_together() {
    let file = File::new("rate");
    two_workers_keep_a_rate(&file.url()).await;
}

#[tokio::test]
async fn a_shared_rate_that_is_changed_holds_for_what_waits_already() {
    let url = "memory://shared-changed";
    let (task, mut starts) = limited(Rate { count: 1.0, per: Duration::from_secs(3600), burst: 1 });
    let worker = start(url, "one", "a", task).await;
    let connected = connect(url, None).unwrap();
    let broker = connected.broker.clone();
    for _ in 0..3 {
        send(&*broker, "a", call("limited")).await;
    }
    tokio::time::timeout(SOON, starts.recv()).await.unwrap().unwrap();
    while worker.held() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = control::Request::new("rate_limit").argument("task_name", "limited").argument("rate_limit", "10/s");
    assert_eq!(ask(&connected, request).await.to_string(), r#"{"ok": "new rate limit set successfully"}"#);
    let first = tokio::time::timeout(SOON, starts.recv()).await.unwrap().unwrap();
    let second = tokio::time::timeout(SOON, starts.recv()).await.unwrap().unwrap();
    assert!(second > first);
    stop(worker).await;
}

/// A worker obeys a revocation and stops; its only successor takes up the queue.
async fn what_was_revoked_stays_so(url: &str) {
    let (task, mut starts) = limited(Rate::per_second(1000.0));
    let connected = connect(url, None).unwrap();
    let broker = connected.broker.clone();
    let results = connected.results.clone();
    let waiting = send(&*broker, "a", call("limited")).await;
    let eta = Some(SystemTime::now() + Duration::from_secs(3600));
    let later = send(&*broker, "a", Message { eta, ..call("limited") }).await;
    let before = start(url, "before", "elsewhere", task.clone()).await;
    let request = control::Request::new("revoke").argument("task_id", vec![waiting.as_str(), later.as_str()]);
    assert!(ask(&connected, request).await.to_string().contains("flagged as revoked"));
    let stamps = Map(vec![("batch".to_owned(), vec!["b7"].into())]);
    let stamped_headers = vec!["batch".to_owned()];
    let stamped = send(&*broker, "a", Message { stamps: stamps.clone(), stamped_headers, ..call("limited") }).await;
    let request = control::Request::new("revoke_by_stamped_headers").argument("headers", Value::Map(stamps));
    assert!(ask(&connected, request).await.to_string().contains("flagged as revoked"));
    assert_eq!(ask(&connected, control::Request::new("revoked")).await, vec![waiting.as_str(), later.as_str()].into(), "stamps are no ids");
    stop(before).await;
    let mut options = WorkerOptions::new("after@test");
    options.queues = vec!["a".to_owned()];
    // Nobody can tell it but the broker.
    options.remote_control = false;
    let after = Worker::start(App::new().broker(url).task(task), options).await.unwrap();
    for id in [waiting, later, stamped] {
        while !connected.inspect().unwrap().find(&id).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let doc = results.get(&[Key::Task(id)]).await.unwrap().pop().flatten().unwrap();
        assert_eq!(TaskResult::decode(&doc, 1 << 20).unwrap().state, State::Revoked);
    }
    after.stopper().warm();
    let summary = tokio::time::timeout(SOON, after.join()).await.unwrap();
    assert_eq!((summary.revoked(), summary.counts.ok), (3, 0));
    assert!(starts.try_recv().is_err(), "nothing ran");
}

#[tokio::test]
async fn what_was_revoked_stays_so_in_a_memory_when_its_only_worker_is_replaced() {
    tokio::time::timeout(SOON * 2, what_was_revoked_stays_so("memory://shared-revoked")).await.unwrap();
}

#[tokio::test]
async fn what_was_revoked_stays_so_in_a_file_when_its_only_worker_is_replaced() {
    let file = File::new("revoked");
    tokio::time::timeout(SOON * 2, what_was_revoked_stays_so(&file.url())).await.unwrap();
}

/// Whoever holds a task back until its time, `inspect scheduled` and `query_task` know it.
async fn what_waits_for_its_time_is_scheduled(url: &str, due: bool) {
    let (task, _starts) = limited(Rate::per_second(1000.0));
    let connected = connect(url, None).unwrap();
    let broker = connected.broker.clone();
    let eta = Some(SystemTime::now() + Duration::from_secs(3600));
    let message = |id: &str, queue: &str| Message { eta, id: id.to_owned(), routing_key: queue.to_owned(), ..call("limited") };
    let outgoing = |id: &str, queue: &str| {
        let raw = message(id, queue).encode(Encoding::Json);
        Outgoing { queue: queue.into(), exchange: None, priority: 0, due: eta.filter(|_| due), raw }
    };
    broker.publish(&[outgoing("mine", "a"), outgoing("not-mine", "b")]).await.unwrap();
    let worker = start(url, "one", "a", task).await;
    let known = async {
        loop {
            let scheduled = ask(&connected, control::Request::new("scheduled")).await;
            let entries = scheduled.as_list().unwrap();
            if let [only] = entries {
                return only.get("request").and_then(|request| request.get("id")).cloned();
            }
            assert!(entries.is_empty(), "{scheduled}");
        }
    };
    assert_eq!(tokio::time::timeout(SOON, known).await.unwrap(), Some("mine".into()));
    let queried = ask(&connected, control::Request::new("query_task").argument("ids", vec!["mine", "not-mine"])).await.to_string();
    assert!(queried.contains(r#""mine": ["scheduled""#) && !queried.contains("not-mine"), "{queried}");
    stop(worker).await;
}

#[tokio::test]
async fn what_waits_for_its_time_in_a_file_is_scheduled() {
    for due in [true, false] {
        let file = File::new("scheduled");
        tokio::time::timeout(SOON * 2, what_waits_for_its_time_is_scheduled(&file.url(), due)).await.unwrap();
    }
}

#[tokio::test]
async fn what_waits_for_its_time_in_a_memory_is_scheduled() {
    for (url, due) in [("memory://scheduled-there", true), ("memory://scheduled-here", false)] {
        tokio::time::timeout(SOON * 2, what_waits_for_its_time_is_scheduled(url, due)).await.unwrap();
    }
}

#[tokio::test]
async fn settings_that_are_asked_for_say_whether_messages_are_acknowledged_late() {
    for (acks, late) in [(Acks::Late, true), (Acks::Early, false)] {
        let url = format!("memory://shared-conf-{late}");
        let (mut task, _starts) = limited(Rate::per_second(1000.0));
        task.policy.acks = Some(acks);
        let worker = start(&url, "one", "a", task).await;
        let connected = connect(&url, None).unwrap();
        let conf = ask(&connected, control::Request::new("conf")).await;
        assert_eq!(conf.get("task_acks_late"), Some(&late.into()), "{conf}");
        stop(worker).await;
    }
}

#[tokio::test]
async fn a_worker_of_ours_that_greets_is_heard_and_not_answered_unless_it_asks_by_name() {
    let url = "memory://shared-greeting";
    let connected = connect(url, None).unwrap();
    let worker = start(url, "old", "a", limited(Rate::per_second(1.0)).0).await;
    let greeting = |id: &str| control::Request::new("hello").argument("from_node", "young@test").argument("revoked", vec![Value::from(id)]);
    // The worker hears, once it answers this.
    ask(&connected, greeting("from Python")).await;
    let mut replies = connected.bus().unwrap().replies("ours").await.unwrap();
    let named = control::Request { destination: Some(vec!["old@test".into()]), ..greeting("asked by name") };
    for (ticket, request) in [("one of ours", greeting("from ours")), ("named", named)] {
        let raw = request.argument("longshore", true).answered(ticket, "ours").encode("tag");
        connected.bus().unwrap().broadcast(control::EXCHANGE, "", &raw).await.unwrap();
    }
    let (_, raw) = tokio::time::timeout(SOON, replies.messages.recv()).await.unwrap().unwrap();
    let reply = control::Reply::decode(&raw, 1 << 20).unwrap();
    assert_eq!(reply.ticket.as_deref(), Some("named"));
    let known = ask(&connected, control::Request::new("revoked")).await.to_string();
    assert_eq!(known, r#"["from Python", "from ours", "asked by name"]"#);
    stop(worker).await;
}

#[tokio::test]
async fn a_worker_that_starts_learns_what_its_peers_have_revoked() {
    let url = "memory://shared-mingle";
    let connected = connect(url, None).unwrap();
    // Two workers in Python, as they reply since 5.7 and before.
    let mut requests = connected.bus().unwrap().subscribe(control::EXCHANGE, "#").await.unwrap();
    let peer = connected.bus().unwrap().clone();
    let peers = tokio::spawn(async move {
        loop {
            let (_, raw) = requests.messages.recv().await.unwrap();
            let request = control::Request::decode(&raw, 1 << 20).unwrap();
            if request.method != "hello" {
                continue;
            }
            let (to, ticket) = (request.reply_to.unwrap(), request.ticket.unwrap());
            let dated = Value::Map(Map::from_iter([("dict", Value::List(vec![1_700_000_000.5.into()]))]));
            for (node, revoked) in [("old@lab", dated), ("new@lab", vec!["list"].into())] {
                let said = Value::Map(Map::from_iter([("revoked", revoked), ("clock", 4000.into())]));
                let raw = control::Reply::new(node, said, Some(&ticket), 1).encode(&to, "tag");
                peer.reply(&to.exchange, &to.routing_key, &raw).await.unwrap();
            }
            return request.arguments;
        }
    });
    connected.shared().unwrap().revoke(&["stored".to_owned()]).await.unwrap();
    let worker = start(url, "young", "a", limited(Rate::per_second(1.0)).0).await;
    let arguments = tokio::time::timeout(SOON, peers).await.unwrap().unwrap();
    assert_eq!(arguments.get("from_node").and_then(Value::as_str), Some("young@test"));
    assert_eq!(arguments.get("revoked"), Some(&vec!["stored"].into()));
    let known = async {
        loop {
            let known = ask(&connected, control::Request::new("revoked")).await.to_string();
            if known == r#"["stored", "dict", "list"]"# {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, known).await.unwrap();
    let clock = ask(&connected, control::Request::new("clock")).await;
    assert!(clock.get("clock").and_then(Value::as_i64).unwrap() > 4000, "{clock}");
    stop(worker).await;
}

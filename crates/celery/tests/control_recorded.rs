//! Remote control as Celery 5.7 did it (`fixtures/record_control.py`): requests are read and
//! written again, commands are understood, and where a worker of Celery's replied with an error or
//! with a fixed text, so is replied here.

#![expect(clippy::unwrap_used, reason = "tests")]

use longshore_celery::{
    Map, Message, Value,
    control::{
        Addressed, Command, Consumed, Rate, Reply, ReplyTo, Request, TaskView, error, hello, ok, query_task, read_hello, registered,
        revoked, scheduled, stamps_not_terminated, stamps_revoked, terminated,
    },
};

struct Recorded {
    command: String,
    requests: Vec<Vec<u8>>,
    replies: Vec<Vec<u8>>,
}

fn recorded() -> Vec<Recorded> {
    let lines = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/control/commands.jsonl")).unwrap();
    let line = |line: &str| {
        let entry = Value::parse(line.as_bytes(), 20).unwrap();
        let raws = |name: &str| {
            let list = entry.get(name).and_then(Value::as_list).unwrap();
            list.iter().map(|raw| raw.as_str().unwrap().as_bytes().to_vec()).collect()
        };
        Recorded {
            command: entry.get("command").and_then(Value::as_str).unwrap().to_owned(),
            requests: raws("requests"),
            replies: raws("replies"),
        }
    };
    lines.lines().map(line).collect()
}

fn tag(raw: &[u8]) -> String {
    let envelope = Value::parse(raw, 20).unwrap();
    envelope.get("properties").unwrap().get("delivery_tag").and_then(Value::as_str).unwrap().to_owned()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn requests_and_replies_are_read_and_written_byte_for_byte() {
    for recorded in recorded() {
        let [raw] = &recorded.requests[..] else { panic!("{} requests", recorded.requests.len()) };
        let request = Request::decode(raw, 1 << 20).unwrap();
        assert_eq!(request.method, recorded.command);
        assert_eq!(text(&request.encode(&tag(raw))), text(raw));
        for raw in &recorded.replies {
            let reply = Reply::decode(raw, 1 << 20).unwrap();
            assert_eq!(reply.ticket, request.ticket);
            let to = request.reply_to.clone().unwrap();
            assert_eq!(text(&reply.encode(&to, &tag(raw))), text(raw));
        }
        let answered = match request.is_for("w1@lab") {
            Addressed::Yes => request.reply_to.is_some(),
            // Not supported here; Celery has Python's regular expressions.
            Addressed::Unclear(_) => true,
            Addressed::No => false,
        };
        assert_eq!(answered, !recorded.replies.is_empty(), "{}", recorded.command);
    }
}

/// What a worker that has the recorded worker's tasks replies, as far as that follows from the
/// request alone.
fn reply(command: &Command, recorded: &Value) -> Option<Value> {
    let known = |name: &str| ["lab.add", "lab.fail"].contains(&name);
    Some(match command {
        Command::Ping => ok("pong"),
        Command::Heartbeat | Command::Memsample => Value::Null,
        Command::Hello { from_node, .. } if from_node == "w1@lab" => Value::Null,
        Command::Hello { .. } => hello(&[], recorded.get("clock").and_then(Value::as_i64).unwrap().try_into().unwrap()),
        Command::RateLimit { task_name, .. } | Command::TimeLimit { task_name: Some(task_name), .. } if !known(task_name) => {
            error("unknown task")
        }
        Command::RateLimit { rate_limit, .. } if rate_limit.per_second == 0.0 => ok("rate limit disabled successfully"),
        Command::RateLimit { .. } => ok("new rate limit set successfully"),
        Command::TimeLimit { .. } => ok("time limits set successfully"),
        Command::PoolGrow { .. } => ok("pool will grow"),
        Command::AddConsumer { queue, .. } => ok(format!("add consumer {queue}")),
        Command::CancelConsumer { queue } => ok(format!("no longer consuming from {queue}")),
        Command::Revoke { terminate: true, .. } => terminated(&[]),
        // A set: in any order.
        Command::Revoke { ids, .. } if ids.len() == 1 => revoked(ids),
        Command::RevokeByStampedHeaders { headers, terminate: true, .. } => stamps_not_terminated(headers),
        Command::RevokeByStampedHeaders { headers, .. } => stamps_revoked(headers),
        _ => return None,
    })
}

#[test]
fn commands_are_understood_and_refused_as_celery_does() {
    let (mut replied, mut refused) = (0, 0);
    for recorded in recorded() {
        let request = Request::decode(&recorded.requests[0], 1 << 20).unwrap();
        let theirs = recorded.replies.first().map(|raw| Reply::decode(raw, 1 << 20).unwrap().from[0].1.clone());
        match (Command::read(&request), theirs) {
            (Ok(command), Some(theirs)) => {
                if let Some(ours) = reply(&command, &theirs) {
                    assert_eq!(ours, theirs, "{command:?}");
                    replied += 1;
                }
            }
            (Ok(_), None) => {}
            (Err(ours), theirs) => {
                assert_eq!(Some(ours), theirs, "{}", recorded.command);
                refused += 1;
            }
        }
    }
    assert!(replied >= 20 && refused >= 8, "{replied} replied, {refused} refused");
}

#[test]
fn what_is_told_of_tasks_and_queues_is_what_celery_tells() {
    let find = |command: &str, nth: usize| {
        let found = recorded().into_iter().filter(|recorded| recorded.command == command).nth(nth).unwrap();
        Reply::decode(&found.replies[0], 1 << 20).unwrap().from[0].1.clone()
    };
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_f64);
    let message = |info: &Value| Message {
        id: info.get("id").and_then(Value::as_str).unwrap().to_owned(),
        task: info.get("type").and_then(Value::as_str).unwrap().to_owned(),
        args: info.get("args").and_then(Value::as_list).unwrap_or_default().to_vec(),
        routing_key: "celery".into(),
        ..Message::default()
    };
    let view = |message: &Message, info: &Value, safe: bool| {
        let time_start = number(info, "time_start");
        let pid = info.get("worker_pid").and_then(Value::as_i64);
        TaskView { message, queue: &message.routing_key, node: "w1@lab", time_start, acknowledged: time_start.is_some(), worker_pid: pid }
            .to_value(safe)
    };
    for info in find("active", 0).as_list().unwrap().iter().chain(find("reserved", 0).as_list().unwrap()) {
        assert_eq!(&view(&message(info), info, false), info);
    }
    let safe = find("active", 1);
    let shown = safe.as_list().unwrap();
    assert_eq!(shown.len(), 2);
    for info in shown {
        let mut message = message(info);
        let seconds = info.get("args").and_then(Value::as_str).unwrap().trim_matches(['(', ')', ',']).parse::<i64>().unwrap();
        message.args = vec![seconds.into()];
        assert_eq!(&view(&message, info, true), info);
    }
    let waiting = &find("scheduled", 0).as_list().unwrap()[0].clone();
    let request = waiting.get("request").unwrap();
    let eta = waiting.get("eta").and_then(Value::as_str).unwrap().parse::<jiff::Timestamp>().unwrap();
    let later = Message { eta: Some(eta.into()), ..message(request) };
    let later =
        TaskView { message: &later, queue: &later.routing_key, node: "w1@lab", time_start: None, acknowledged: false, worker_pid: None };
    assert_eq!(&scheduled(&later, None), waiting);
    assert_eq!(&scheduled(&TaskView { message: &Message { eta: None, ..later.message.clone() }, ..later }, Some(eta.into())), waiting);
    let moved = TaskView { queue: "elsewhere", ..later }.to_value(false);
    assert_eq!(moved.get("queue").and_then(Value::as_str), Some("elsewhere"), "Celery has no word for that");
    assert_eq!(query_task([("scheduled", later, None)]), find("query_task", 1));
    let queues = find("active_queues", 1);
    for (queue, name) in queues.as_list().unwrap().iter().zip(["celery", "images", "images2"]) {
        assert_eq!(queue.get("name").and_then(Value::as_str), Some(name));
        assert_eq!(&Consumed::named(name).to_value(), queue);
    }
    let names = find("registered", 0);
    assert!(names.as_list().unwrap().contains(&registered("lab.limited", &[("rate_limit", "2/s".into())])));
    assert!(names.as_list().unwrap().contains(&registered("lab.add", &[])));
}

#[test]
fn rates_are_read_as_celery_reads_them() {
    let rate = |said: &str| Rate::read(&said.into()).map(|rate| rate.per_second);
    assert_eq!((rate("10"), rate("10/s"), rate("120/m"), rate("7200/h"), rate("")), (Ok(10.0), Ok(10.0), Ok(2.0), Ok(2.0), Ok(0.0)));
    assert_eq!(Rate::read(&0.5.into()).unwrap().per_second, 0.5);
    assert!(Rate::read(&Value::List(Vec::new())).is_err());
}

#[test]
fn what_is_no_request_is_an_error() {
    for raw in ["", "{}", r#"{"body": "e30="}"#, r#"{"body": "{\"method\": \"ping\", \"arguments\": 7}"}"#] {
        assert!(Request::decode(raw.as_bytes(), 1 << 20).is_err(), "{raw}");
    }
    let bare = Request::decode(br#"{"body": "{\"method\": \"ping\"}"}"#, 1 << 20).unwrap();
    assert_eq!(bare, Request { arguments: Map::default(), ..Request::new("ping") });
    assert_eq!(bare.answered("t", "o").reply_to.unwrap(), ReplyTo { exchange: "reply.celery.pidbox".into(), routing_key: "o".into() });
}

#[test]
fn what_a_node_replies_to_hello_is_read_as_it_is_now_and_as_it_was_up_to_5_6() {
    let now = r#"{"revoked": ["a", "b"], "clock": 7}"#;
    let before = r#"{"revoked": {"a": [1700000000.5], "b": [1700000001.5, 2]}, "clock": 7}"#;
    for (said, expected) in [
        (now, Some((vec!["a".to_owned(), "b".to_owned()], 7))),
        (before, Some((vec!["a".to_owned(), "b".to_owned()], 7))),
        (r#"{"revoked": [], "clock": "x"}"#, Some((vec![], 0))),
        ("null", None),
        (r#"{"error": "no"}"#, None),
        (r#"{"revoked": 5}"#, None),
    ] {
        assert_eq!(read_hello(&Value::parse(said.as_bytes(), 8).unwrap()), expected, "{said}");
    }
    assert_eq!(read_hello(&hello(&["a".to_owned()], 9)), Some((vec!["a".to_owned()], 9)));
}

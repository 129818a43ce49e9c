use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    BadMessage, CHILD_CRASHES, Compression, Encoding, Limits, Message, MessageFault, crashes_of, mark_crashed, mark_redelivered, sent_at,
};
use crate::{Map, Value, WireSignature};

const EMBED: &str = r#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}"#;

/// A message around these headers (besides task and id) and this body.
fn around(headers: &str, body: &str) -> String {
    envelope(&format!(r#"{{"lang": "py", "task": "labapp.add", "id": "f165a433"{headers}}}"#), &STANDARD.encode(body))
}

fn envelope(headers: &str, body: &str) -> String {
    format!(
        r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {headers}, "properties": {{"correlation_id": "f165a433",
        "reply_to": "34eb1bf0", "delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "celery"}}, "priority": 0, "body_encoding": "base64",
        "delivery_tag": "677a26e5"}}}}"#
    )
}

fn good() -> String {
    around("", &format!("[[2, 3], {{}}, {EMBED}]"))
}

fn decode(raw: &str) -> Result<Message, BadMessage> {
    Message::decode(raw.as_bytes(), &Limits::default())
}

fn bad(raw: &str) -> BadMessage {
    decode(raw).expect_err(raw)
}

#[test]
fn a_message_is_read() {
    let message = decode(&good()).unwrap();
    assert_eq!(message.task, "labapp.add");
    assert_eq!(message.id, "f165a433");
    assert_eq!(message.args, [Value::Int(2), Value::Int(3)]);
    assert_eq!(message.routing_key, "celery");
    assert_eq!(message.reply_to.as_deref(), Some("34eb1bf0"));
    assert_eq!(message.correlation_id, None, "it is the id");
    assert_eq!(message.chain, None);
}

#[test]
fn a_delivery_tag_of_ours_says_when_it_was_written_and_comes_once() {
    let tag = || {
        let raw = Message { task: "t".into(), id: "i".into(), ..Message::default() }.encode(Encoding::Json);
        let envelope = Value::parse(&raw, 16).unwrap();
        envelope.get("properties").unwrap().get("delivery_tag").unwrap().as_str().unwrap().to_owned()
    };
    let age = sent_at(&tag()).unwrap().elapsed().unwrap();
    assert!(age < Duration::from_secs(5), "{age:?}");
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || (0..2000).map(|_| tag()).collect::<Vec<_>>())).collect();
    let tags: std::collections::HashSet<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(tags.len(), 8000);
    // Celery's say nothing, and what is no tag does neither.
    for tag in ["677a26e5-fb2f-4634-8a24-e432329fb97b", "", "nonsense"] {
        assert_eq!(sent_at(tag), None, "{tag}");
    }
}

#[test]
fn what_is_encoded_is_decoded() {
    let next = WireSignature {
        task: "labapp.mul".into(),
        args: vec![Value::Int(4)],
        immutable: true,
        subtask: "chord".into(),
        ..WireSignature::default()
    };
    let message = Message {
        task: "labapp.addß".into(),
        id: "1".into(),
        root_id: Some("0".into()),
        group: Some("g".into()),
        group_index: Some(3),
        retries: 2,
        eta: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_219_333_362_734)),
        expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_333)),
        soft_time_limit: Some(Duration::from_millis(1500)),
        time_limit: Some(Duration::from_secs(60)),
        ignore_result: Some(true),
        argsrepr: Some("(2, 3)".into()),
        replaced_task_nesting: 1,
        stamped_headers: vec!["tags".into()],
        stamps: Map::from_iter([("tags", "a")]),
        headers: Map::from_iter([("x-foo", "bar")]),
        properties: Map::from_iter([("app_id", Value::from("a1")), ("timestamp", 5.into())]),
        correlation_id: Some("another".into()),
        priority: Some(5),
        routing_key: "images".into(),
        redelivered: true,
        args: vec![Value::Null, Value::Float(1e300), Value::Escaped("\\ud800".into()), Value::Big("123456789012345678901234567890".into())],
        kwargs: Map::from_iter([("a", vec![true])]),
        callbacks: vec![next.clone()],
        errbacks: vec![next.clone(), next.clone()],
        chain: Some(vec![]),
        chord: Some(next.into()),
        ..Message::default()
    };
    let again = Message::decode(&message.encode(Encoding::Json), &Limits::default()).unwrap();
    assert_eq!(again, message);
    let msgpack = Limits { msgpack: true, ..Limits::default() };
    let packed = message.encode(Encoding::MsgPack);
    assert!(memchr::memmem::find(&packed, b"application/json").is_some(), "MessagePack cannot say these arguments");
    let plain = Message { args: vec![Value::Null, Value::Float(1e300), u64::MAX.into()], ..message };
    let packed = plain.encode(Encoding::MsgPack);
    assert!(memchr::memmem::find(&packed, b"application/x-msgpack").is_some());
    assert_eq!(Message::decode(&packed, &msgpack).unwrap(), plain);
}

#[test]
fn what_is_optional_may_be_absent_or_null() {
    let nulls =
        r#", "eta": null, "expires": "", "group_index": null, "retries": null, "timelimit": null, "stamped_headers": null, "stamps": null"#;
    for headers in ["", nulls] {
        for embed in ["{}", "null", EMBED] {
            let message = decode(&around(headers, &format!("[[], {{}}, {embed}]"))).unwrap();
            assert_eq!(message.retries, 0);
            assert_eq!(message.time_limit, None);
        }
    }
    let raw =
        good().replace(r#""body_encoding": "base64","#, "").replace(&STANDARD.encode(format!("[[2, 3], {{}}, {EMBED}]")), "[[7],{},{}]");
    assert_eq!(decode(&raw).unwrap().args, [Value::Int(7)], "a body that is not encoded");
}

#[test]
fn times_and_limits_are_read_in_every_form() {
    for (eta, micros) in [
        ("2026-11-21T00:02:13.362734+00:00", 1_795_219_333_362_734),
        ("2026-11-21T00:02:13Z", 1_795_219_333_000_000),
        ("2026-11-21T00:02:13", 1_795_219_333_000_000),
        ("2026-11-21 00:02:13", 1_795_219_333_000_000),
        ("2026-11-21T02:02:13.5+02:00", 1_795_219_333_500_000),
    ] {
        let message = decode(&around(&format!(r#", "eta": "{eta}", "timelimit": [60, 1.5]"#), "[[], {}, {}]")).unwrap();
        assert_eq!(message.eta, Some(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)), "{eta}");
        assert_eq!(message.time_limit, Some(Duration::from_secs(60)));
        assert_eq!(message.soft_time_limit, Some(Duration::from_millis(1500)));
    }
}

#[test]
fn pythons_last_times_are_read() {
    let year_9999 = SystemTime::UNIX_EPOCH + Duration::from_secs(8029 * 365 * 86_400);
    for expires in ["9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999999", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-11:00"] {
        let message = decode(&around(&format!(r#", "expires": "{expires}""#), "[[], {}, {}]")).unwrap();
        assert!(message.expires.is_some_and(|at| at > year_9999), "{expires}: {:?}", message.expires);
        // It travels on with a retry, to the microsecond.
        let again = decode(std::str::from_utf8(&message.encode(Encoding::Json)).unwrap()).unwrap();
        assert!(again.expires.is_some_and(|at| at > year_9999));
    }
    assert!(decode(&around(r#", "expires": "10000-01-01T00:00:00""#, "[[], {}, {}]")).is_err());
}

#[test]
fn one_signature_alone_is_a_callback_and_no_chain() {
    let link = r#"{"task": "labapp.add", "args": [1]}"#;
    let of = |name: &str| decode(&around("", &format!(r#"[[], {{}}, {{"{name}": {link}}}]"#)));
    assert_eq!(of("callbacks").unwrap().callbacks.len(), 1);
    let bad = of("chain").unwrap_err();
    assert!(bad.reason.contains("chain") && bad.reason.contains("a list of signatures"), "{bad}");
}

#[test]
fn a_message_of_protocol_1_is_read() {
    let body = r#"{"task": "old.add", "id": "11", "args": [1], "kwargs": {"b": 2}, "retries": 3, "eta": "2026-11-21T00:02:13", "expires": null, "utc": true,
        "taskset": "g", "timelimit": [null, 5], "errbacks": null, "chord": null, "callbacks": [{"task": "labapp.add"}]}"#;
    let message = decode(&envelope("{}", &STANDARD.encode(body))).unwrap();
    assert_eq!((message.task.as_str(), message.id.as_str(), message.retries), ("old.add", "11", 3));
    assert_eq!(message.group.as_deref(), Some("g"));
    assert_eq!(message.callbacks.len(), 1);
    assert_eq!(message.soft_time_limit, Some(Duration::from_secs(5)));
    assert_eq!(message.kwargs.get("b"), Some(&Value::Int(2)));
}

#[test]
fn a_message_that_cannot_be_run_says_why_and_whose_it_is() {
    use MessageFault::{Compression, ContentType, Malformed, TooLarge, Unreadable};
    let body = |body: &str| around("", body);
    let header = |header: &str| around(&format!(", {header}"), "[[], {}, {}]");
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let signature = |sig: &str| body(&format!(r#"[[], {{}}, {{"callbacks": {sig}}}]"#));
    let compressed = |how: &str| header(&format!(r#""compression": "{how}""#));
    let typed = |name: &str| good().replace("application/json", name);
    let table: &[(&str, MessageFault, String, &str)] = &[
        ("two elements", Malformed, body("[[], {}]"), "a list of three"),
        ("four elements", Malformed, body("[[], {}, {}, {}]"), "found 4"),
        ("no list", Malformed, body("17"), "expected a list, found an integer"),
        ("an object under protocol 2", Malformed, body("{}"), "expected a list"),
        ("arguments", Malformed, body(r#"["ab", {}, {}]"#), "[0]: expected a list, found a text"),
        ("keyword arguments", Malformed, body("[[], [], {}]"), "[1]: expected an object"),
        ("what follows", Malformed, body("[[], {}, []]"), "[2]: expected an object"),
        ("callbacks", Malformed, signature(r#""labapp.add""#), "callbacks"),
        ("a callback", Malformed, signature("[1]"), "[2].callbacks[0]"),
        ("a callback without a task", Malformed, signature("[{}]"), "without a task"),
        ("a callback's args", Malformed, signature(r#"[{"task": "a", "args": 1}]"#), "callbacks[0].args"),
        ("a body cut short", Unreadable, body("[[], {}, {"), "not JSON"),
        ("something after the body", Unreadable, body("[[], {}, {}] 1"), "nothing more"),
        (
            "not UTF-8",
            Unreadable,
            envelope(r#"{"task": "labapp.add", "id": "f165a433"}"#, &STANDARD.encode(b"[[\"\xff\"], {}, {}]")),
            "UTF-8",
        ),
        ("truncated base64", Unreadable, good().replace(r#"{"body": "W1"#, r#"{"body": "W"#), "base64"),
        ("no base64", Unreadable, good().replace(r#"{"body": "W1"#, r#"{"body": "%%"#), "base64"),
        ("another body_encoding", Unreadable, good().replace(r#""base64""#, r#""base32""#), "base32"),
        ("a body that is no text", Malformed, good().replace(r#"{"body": "#, r#"{"body": 1, "was": "#), "body: expected a text"),
        ("no body", Malformed, good().replace(r#"{"body""#, r#"{"nobody""#), "no body"),
        ("no delivery_tag", Malformed, good().replace("delivery_tag", "tag"), "properties.delivery_tag"),
        ("no delivery_info", Malformed, good().replace("delivery_info", "info"), "properties.delivery_info"),
        ("no content-type", Malformed, good().replace("content-type", "content"), "no content-type"),
        ("content-encoding", Unreadable, good().replace(r#""utf-8""#, r#""utf-16""#), "utf-16"),
        ("pickle", ContentType, typed("application/x-python-serialize"), "pickle"),
        ("yaml", ContentType, typed("application/x-yaml"), "YAML"),
        ("msgpack", ContentType, typed("application/x-msgpack"), "MessagePack"),
        ("unknown type", ContentType, typed("text/html"), "text/html"),
        ("bzip2", Compression, compressed("application/x-bz2"), "bzip2"),
        ("xz", Compression, compressed("application/x-lzma"), "xz"),
        ("brotli", Compression, compressed("application/x-brotli"), "brotli"),
        ("unknown compression", Compression, compressed("lzo"), "lzo"),
        ("not zlib", Unreadable, compressed("application/x-gzip"), "application/x-gzip"),
        ("not zstd", Unreadable, compressed("application/zstd"), "application/zstd"),
        ("expires", Malformed, header(r#""expires": "tomorrow""#), "headers.expires: expected a time"),
        ("eta", Malformed, header(r#""eta": 12"#), "headers.eta: expected a text, found an integer"),
        ("retries", Malformed, header(r#""retries": -1"#), "headers.retries"),
        ("retries as a text", Malformed, header(r#""retries": "1""#), "headers.retries: expected an integer, found a text"),
        ("a limit", Malformed, header(r#""timelimit": ["1", null]"#), "headers.timelimit: expected seconds"),
        ("a negative limit", Malformed, header(r#""timelimit": [-1, null]"#), "found -1"),
        ("no number", Malformed, header(r#""timelimit": [NaN, null]"#), "timelimit"),
        ("an infinite limit", Malformed, header(r#""timelimit": [null, 1e999]"#), "timelimit"),
        ("one limit", Malformed, header(r#""timelimit": [1]"#), "two limits"),
        ("stamps", Malformed, header(r#""stamps": []"#), "headers.stamps"),
        ("stamped_headers", Malformed, header(r#""stamped_headers": [1]"#), "headers.stamped_headers"),
        ("group", Malformed, header(r#""group": {}"#), "headers.group"),
        ("group_index", Malformed, header(r#""group_index": "0""#), "headers.group_index"),
        ("ignore_result", Malformed, header(r#""ignore_result": 1"#), "headers.ignore_result"),
        ("priority", Malformed, good().replace(r#""priority": 0"#, r#""priority": "high""#), "properties.priority"),
        ("routing_key", Malformed, good().replace(r#""routing_key": "celery""#, r#""routing_key": 1"#), "delivery_info.routing_key"),
        ("deep arguments", TooLarge, body(&format!("[[{}], {{}}, {{}}]", deep(10_000))), "128 levels"),
        ("a deep header", TooLarge, header(&format!(r#""x": {}"#, deep(10_000))), "128 levels"),
        ("many arguments", TooLarge, body(&format!("[[{}0], {{}}, {{}}]", "0,".repeat(10_000))), "10000 arguments"),
        ("many values", TooLarge, body(&format!("[[[{}0]], {{}}, {{}}]", "0,".repeat(1_000_000))), "1000000 values"),
        ("many values in a header", TooLarge, header(&format!(r#""x": [{}0]"#, "0,".repeat(1_000_000))), "1000000 values"),
        ("50 MB", TooLarge, body(&format!("[[\"{}\"], {{}}, {{}}]", " ".repeat(50_000_000))), "bytes"),
    ];
    for (what, wrong, raw, reason) in table {
        let bad = bad(raw);
        assert_eq!(bad.wrong, *wrong, "{what}: {bad}");
        assert!(bad.reason.contains(reason), "{what}: {bad}");
        assert!(bad.reason.len() < 300, "{what}: {bad}");
        assert_eq!(bad.task.as_deref(), Some("labapp.add"), "{what}");
        assert_eq!(bad.id.as_deref(), Some("f165a433"), "{what}");
    }
}

#[test]
fn what_can_be_read_of_a_message_is_told() {
    let table = [
        ("not JSON", "hello".to_owned(), None, None),
        ("nothing", String::new(), None, None),
        ("a list", "[]".to_owned(), None, None),
        ("no id", good().replace(r#""id": "f165a433""#, r#""x": 1"#), Some("labapp.add"), Some("f165a433")),
        ("no task", good().replace(r#""task": "labapp.add", "#, ""), None, Some("f165a433")),
        ("cut short", good().split_once("delivery_mode").unwrap().0.to_owned(), Some("labapp.add"), Some("f165a433")),
        ("protocol 1", envelope("{}", &STANDARD.encode(r#"{"task": "a", "id": "b", "args": 1}"#)), Some("a"), Some("b")),
        ("a lone surrogate", good().replace("labapp.add", r"\ud800"), None, Some("f165a433")),
    ];
    for (what, raw, task, id) in table {
        let bad = bad(&raw);
        assert_eq!((bad.task.as_deref(), bad.id.as_deref()), (task, id), "{what}: {bad}");
    }
}

#[test]
fn a_body_that_is_compressed_when_it_is_written_is_read_again() {
    let message = Message { task: "t".into(), id: "i".into(), args: vec!["x".repeat(10_000).as_str().into()], ..Message::default() };
    let plain = message.encode(Encoding::Json);
    for (how, name) in [(Compression::Zlib, "application/x-gzip"), (Compression::Zstd, "application/zstd")] {
        assert_eq!((Compression::named(name), Compression::named("bzip2")), (Some(how), None));
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let raw = message.encode_as(encoding, Some(how));
            assert!(raw.len() < plain.len() / 5 && memchr::memmem::find(&raw, name.as_bytes()).is_some());
            let read = Message::decode(&raw, &Limits { msgpack: true, ..Limits::default() }).unwrap();
            assert_eq!(read.args, message.args);
        }
    }
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[test]
fn compressed_bodies_are_unpacked_up_to_the_limit() {
    let body = b"[[2, 3], {}, {}]";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body).unwrap();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let packed = |how: &str, bytes: &[u8]| {
        envelope(&format!(r#"{{"task": "labapp.add", "id": "1", "compression": "{how}"}}"#), &STANDARD.encode(bytes))
    };
    let gzip = gzip.finish().unwrap();
    for (how, bytes) in [("application/x-gzip", zlib(body)), ("application/x-gzip", gzip), ("application/zstd", zstd(body))] {
        assert_eq!(decode(&packed(how, &bytes)).unwrap().args.len(), 2, "{how}");
    }
    let bomb = [b"[[\"".as_slice(), &vec![b' '; 70 << 20], b"\"], {}, {}]"].concat();
    for (how, bytes) in [("application/x-gzip", zlib(&bomb)), ("application/zstd", zstd(&bomb))] {
        let bad = bad(&packed(how, &bytes));
        assert_eq!(bad.wrong, MessageFault::TooLarge, "{how}: {bad}");
        assert!(bad.reason.contains("67108864"), "{how}: {bad}");
        // The limit is met on the way: what comes after it is not even looked at.
        let cut = bytes.len() - bytes.len() / 50;
        assert_eq!(self::bad(&packed(how, &bytes[..cut])).wrong, MessageFault::TooLarge, "{how}, cut");
    }
}

fn child_crashes(raw: &[u8]) -> i64 {
    let value = Value::parse(raw, 9).unwrap();
    value.get("headers").and_then(|headers| headers.get(CHILD_CRASHES)).and_then(Value::as_i64).unwrap_or(0)
}

#[test]
fn the_count_of_children_that_died_is_read_and_is_no_header_of_the_task() {
    let raw = around("", "[[], {}, {}]");
    let crashed = Message::decode(&mark_crashed(raw.as_bytes(), 1, 2).unwrap(), &Limits::default()).unwrap();
    let before = decode(&raw).unwrap();
    assert_eq!((crashed.child_crashes, before.child_crashes), (2, 0));
    assert_eq!(crashed.headers, before.headers);
    let next = crashed.encode(Encoding::Json);
    assert_eq!(Message::decode(&next, &Limits::default()).unwrap().child_crashes, 0, "another attempt is another message");
    let odd = around(r#", "longshore-child-crashes": ["many"]"#, "[[], {}, {}]");
    assert_eq!(decode(&odd).unwrap().child_crashes, 0);
}

#[test]
fn a_message_that_goes_back_is_marked_and_nothing_else_in_it_changes() {
    let raw = around(r#", "x": "\ud800", "redelivered": false"#, "[[1e400, NaN], {}, {}]");
    let before = decode(&raw).unwrap();
    let marked = mark_redelivered(raw.as_bytes(), Some(2)).unwrap();
    assert_eq!(crashes_of(&marked), 2);
    let again = mark_redelivered(&marked, Some(3)).unwrap();
    assert_eq!(crashes_of(&again), 3);
    assert_eq!(crashes_of(&mark_redelivered(&again, None).unwrap()), 3, "they are kept");
    let value = Value::parse(&again, 128).unwrap();
    assert_eq!(value.get("headers").and_then(|headers| headers.get("redelivered")), Some(&Value::Bool(true)));
    let info = value.get("properties").and_then(|properties| properties.get("delivery_info")).unwrap();
    assert_eq!(info.get("redelivered"), Some(&Value::Bool(true)));
    let after = Message::decode(&again, &Limits::default()).unwrap();
    assert_eq!(after.headers, before.headers);
    assert!(after.redelivered && !before.redelivered);
    assert_eq!(after.encode(Encoding::Json).len(), Message { redelivered: true, ..before }.encode(Encoding::Json).len());

    for (raw, marked) in [
        (r#"{"properties":{}}"#, r#"{"properties":{"delivery_info": {"redelivered": true}}, "headers": {"redelivered": true}}"#),
        (
            r#"{"headers":null,"properties":{"delivery_info":null}}"#,
            r#"{"headers":{"redelivered": true},"properties":{"delivery_info":{"redelivered": true}}}"#,
        ),
        (
            r#"{"headers":{"a":1},"headers":{"b":2},"properties":{"delivery_info":{}}}"#,
            r#"{"headers":{"a":1},"headers":{"b":2, "redelivered": true},"properties":{"delivery_info":{"redelivered": true}}}"#,
        ),
    ] {
        assert_eq!(String::from_utf8(mark_redelivered(raw.as_bytes(), None).unwrap()).unwrap(), marked);
    }
    let crashed = mark_redelivered(br#"{"headers":{},"properties":{"delivery_info":{}}}"#, Some(1)).unwrap();
    assert_eq!(crashes_of(&crashed), 1);
    let both = mark_crashed(&crashed, 5, 2).unwrap();
    assert_eq!((crashes_of(&both), child_crashes(&both)), (5, 2));
    let workers = mark_redelivered(&both, Some(6)).unwrap();
    assert_eq!((crashes_of(&workers), child_crashes(&workers)), (6, 2), "whoever counts the one leaves the other alone");
    let forgotten = mark_crashed(&workers, 0, 0).unwrap();
    assert_eq!((crashes_of(&forgotten), child_crashes(&forgotten)), (0, 0));
    let never = br#"{"headers":{"redelivered":true},"properties":{"delivery_info":{"redelivered":true}}}"#;
    assert_eq!(mark_crashed(never, 0, 0).unwrap(), never, "no count is written where there is none");
    assert!(Value::parse(&crashed, 9).is_ok());
    for raw in ["", "[]", "{}", "{} x", r#"{"headers":1,"properties":{}}"#, r#"{"headers":{},"properties":[]}"#] {
        mark_redelivered(raw.as_bytes(), Some(1)).expect_err(raw);
    }
}

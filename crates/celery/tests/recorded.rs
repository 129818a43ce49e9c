//! What a real Celery wrote (`fixtures/record_messages.py`) is understood, and written back the
//! same.
#![expect(clippy::unwrap_used, reason = "a test's panic is its answer")]

use std::{fs, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use longshore_celery::{
    Encoding, Exception, GroupResult, Limits, Map, Message, MessageFault, MessageParts, TaskResult, Value, args_repr, crashes_of,
    kwargs_repr, mark_redelivered, repr, short_repr,
};

fn fixtures(folder: &str) -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let mut all: Vec<(String, Value)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), Value::parse(&fs::read(&path).unwrap(), 128).unwrap())
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(all.len() > 20, "the fixtures are there");
    all
}

fn raw(fixture: &Value) -> Vec<u8> {
    match (fixture.get("raw"), fixture.get("base64")) {
        (Some(Value::Text(raw)), _) => raw.clone().into_bytes(),
        (_, Some(Value::Text(packed))) => STANDARD.decode(packed).unwrap(),
        _ => panic!("neither raw nor base64"),
    }
}

fn text(value: Option<&String>) -> Value {
    value.map(String::as_str).into()
}

/// The messages, without those that are refused.
fn messages() -> Vec<(String, Value, Message)> {
    let limits = Limits::default().with_msgpack(true);
    let mut read = Vec::new();
    for (name, fixture) in fixtures("messages").into_iter().filter(|(name, _)| name != "reprs") {
        let refused = match name.as_str() {
            "serializer_pickle" => Some((MessageFault::ContentType, "pickle")),
            "serializer_yaml" => Some((MessageFault::ContentType, "YAML")),
            "compression_bzip2" => Some((MessageFault::Compression, "bzip2")),
            "compression_lzma" => Some((MessageFault::Compression, "xz")),
            "compression_brotli" => Some((MessageFault::Compression, "brotli")),
            _ => None,
        };
        match (refused, Message::decode(&raw(&fixture), &limits)) {
            (None, Ok(message)) => read.push((name, fixture, message)),
            (Some((wrong, named)), Err(bad)) => {
                assert_eq!(bad.wrong, wrong, "{name}");
                assert!(bad.reason.contains(named), "{name}: {bad}");
                assert_eq!(bad.task.as_deref(), Some("labapp.add"), "{name}");
                assert_eq!(bad.id.as_deref(), fixture.get("expect").and_then(|expect| expect.get("id")).and_then(Value::as_str), "{name}");
            }
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
    assert!(read.len() > 40);
    read
}

#[test]
fn recorded_messages_say_what_was_sent() {
    for (name, fixture, message) in messages() {
        let again = Value::parse(&message.encode(Encoding::Json), 128).unwrap();
        let headers = again.get("headers").unwrap();
        for (member, expected) in fixture.get("expect").unwrap().as_map().unwrap().iter() {
            let signatures = |list: &[longshore_celery::WireSignature]| {
                Value::List(list.iter().map(longshore_celery::WireSignature::to_value).collect())
            };
            let found = match member {
                "id" if expected.is_null() => continue,
                "id" => text(Some(&message.id)),
                "task" => text(Some(&message.task)),
                "args" => Value::List(message.args.clone()),
                "kwargs" => Value::Map(message.kwargs.clone()),
                "headers" => Value::Map(message.headers.clone()),
                "stamps" => Value::Map(message.stamps.clone()),
                "stamped_headers" => message.stamped_headers.clone().into(),
                "callbacks" => signatures(&message.callbacks),
                "errbacks" => signatures(&message.errbacks),
                "chain" => message.chain.as_deref().map(signatures).into(),
                "chain_args" => {
                    message.chain.as_ref().unwrap().iter().map(|link| Value::List(link.args.clone())).collect::<Vec<_>>().into()
                }
                "chord_task" => text(message.chord.as_ref().map(|chord| &chord.task)),
                "routing_key" => text(Some(&message.routing_key)),
                "exchange" => text(Some(&message.exchange)),
                "root_id" => text(message.root_id.as_ref()),
                "parent_id" => text(message.parent_id.as_ref()),
                "group" => text(message.group.as_ref()),
                "shadow" => text(message.shadow.as_ref()),
                "reply_to" => text(message.reply_to.as_ref()),
                "correlation_id" => text(message.correlation_id.as_ref()),
                "group_index" => message.group_index.into(),
                "retries" => i64::from(message.retries).into(),
                "priority" => message.priority.map(i64::from).into(),
                "ignore_result" => message.ignore_result.into(),
                "redelivered" => message.redelivered.into(),
                "eta" | "expires" => headers.get(member).unwrap().clone(),
                "time_limit" => headers.get("timelimit").unwrap().as_list().unwrap()[0].clone(),
                "soft_time_limit" => headers.get("timelimit").unwrap().as_list().unwrap()[1].clone(),
                other => panic!("{name} expects {other}"),
            };
            assert_eq!(found.to_string(), expected.to_string(), "{name}: {member}");
        }
        match name.as_str() {
            "countdown" => assert!(message.eta.is_some()),
            "expires_seconds" => assert!(message.expires.is_some()),
            _ => {}
        }
    }
}

#[test]
fn recorded_messages_are_written_back_the_same() {
    for (name, fixture, message) in messages() {
        let before = Value::parse(&raw(&fixture), 128).unwrap();
        let encoded = message.encode(Encoding::Json);
        assert_eq!(
            Message::decode(&encoded, &Limits::default()).as_ref().map(|again| format!("{again:?}")),
            Ok(format!("{message:?}")),
            "{name}"
        );
        let after = Value::parse(&encoded, 128).unwrap();
        // What is left out on purpose: who wrote it, how it was compressed, and nulls.
        let told = |value: &Value, apart: &[&str]| -> Vec<(String, String)> {
            let members = value.as_map().unwrap().iter().filter(|(name, value)| !apart.contains(name) && !value.is_null());
            let mut members: Vec<_> = members.map(|(name, value)| (name.to_owned(), value.to_string())).collect();
            members.sort();
            members
        };
        // In the texts to be shown lone surrogates are replaced, and a naive time becomes one in
        // UTC.
        if !name.starts_with("protocol_1") && name != "odd_texts" && name != "eta_naive" {
            let headers = |value: &Value| told(value.get("headers").unwrap(), &["lang", "compression"]);
            assert_eq!(headers(&after), headers(&before), "{name}");
        }
        let properties = |value: &Value| told(value.get("properties").unwrap(), &["delivery_tag", "delivery_mode", "expiration"]);
        assert_eq!(properties(&after), properties(&before), "{name}");
        let body = |value: &Value| STANDARD.decode(value.get("body").unwrap().as_str().unwrap()).unwrap();
        if !["serializer_msgpack", "compression", "protocol_1"].iter().any(|other| name.starts_with(other)) {
            assert_eq!(String::from_utf8(body(&after)), String::from_utf8(body(&before)), "{name}");
        }
        if name.starts_with("serializer_msgpack") && !name.ends_with("bytes") {
            let packed = Value::parse(&message.encode(Encoding::MsgPack), 128).unwrap();
            assert_eq!(body(&packed), body(&before), "{name}");
            assert_eq!(packed.get("content-type"), before.get("content-type"), "{name}");
        }
    }
}

#[test]
fn recorded_messages_are_marked_as_kombu_marks_them() {
    for (name, fixture, message) in messages() {
        let raw = raw(&fixture);
        assert_eq!(crashes_of(&raw), 0, "{name}");
        let marked = mark_redelivered(&raw, Some(1)).unwrap();
        assert_eq!(crashes_of(&marked), 1, "{name}");
        let marked = Message::decode(&marked, &Limits::default().with_msgpack(true)).unwrap();
        let expected = Message { redelivered: true, ..message };
        assert_eq!(format!("{marked:?}"), format!("{expected:?}"), "{name}");
    }
    let restored = fixtures("messages").into_iter().find(|(name, _)| name == "restored").unwrap().1;
    assert_eq!(mark_redelivered(&raw(&restored), None).unwrap(), raw(&restored), "as kombu wrote it");
}

#[test]
fn recorded_results_are_read_and_written_back_the_same() {
    for (name, fixture) in fixtures("results") {
        let raw = raw(&fixture);
        let expect = fixture.get("expect").unwrap();
        if name == "group_saved" {
            let group = GroupResult::decode(&raw, 1 << 20).unwrap();
            assert_eq!(group.tree.to_value(), *expect.get("group").unwrap());
            assert_eq!(group.encode(), raw);
            continue;
        }
        if name == "compressed_bzip2" {
            let error = TaskResult::decode(&raw, 1 << 20).unwrap_err().to_string();
            assert!(error.contains("application/x-bz2"), "{error}");
            continue;
        }
        let result = TaskResult::decode(&raw, 1 << 20).unwrap();
        let exception = result.exception().unwrap_or_default();
        for (member, expected) in expect.as_map().unwrap().iter() {
            let found = match member {
                "state" => result.state.as_str().into(),
                "task_id" => text(Some(&result.task_id)),
                "traceback" => text(result.traceback.as_ref()),
                "result" => result.result.clone(),
                "children" => result.children.clone(),
                "group_id" => text(result.group_id.as_ref()),
                "parent_id" => text(result.parent_id.as_ref()),
                "exc_type" => text(Some(&exception.exc_type)),
                "exc_module" => text(Some(&exception.exc_module)),
                "repr" => exception.to_string().into(),
                "extended" => {
                    let extended = result.extended.clone().unwrap();
                    let mut members = Map::from_iter([
                        ("name", text(extended.name.as_ref())),
                        ("args", extended.args),
                        ("kwargs", extended.kwargs),
                        ("worker", text(extended.worker.as_ref())),
                        ("retries", extended.retries.into()),
                        ("queue", text(extended.queue.as_ref())),
                    ]);
                    if !extended.stamps.is_empty() {
                        members.set("stamps", extended.stamps);
                    }
                    members.into()
                }
                other => panic!("{name} expects {other}"),
            };
            assert_eq!(found.to_string(), expected.to_string(), "{name}: {member}");
        }
        assert_eq!(result.date_done.is_some(), result.state.is_ready(), "{name}");
        if result.state.is_exception() {
            assert_eq!(exception.to_value(), result.result, "{name}");
        }
        let again = result.encode();
        if name.starts_with("compressed") {
            assert_eq!(TaskResult::decode(&again, 1 << 20), Ok(result), "{name}");
        } else {
            assert_eq!(String::from_utf8(again), String::from_utf8(raw), "{name}");
        }
    }
}

#[test]
fn exceptions_are_made_as_celery_makes_them() {
    let of = |name: &str| {
        let fixture = fixtures("results").into_iter().find(|(other, _)| other == name).unwrap().1;
        TaskResult::decode(&raw(&fixture), 1 << 20).unwrap().exception().unwrap()
    };
    let value_error = Exception::new("builtins", "ValueError", vec!["kaboom".into(), 42.into()]);
    assert_eq!(of("failure"), value_error);
    assert_eq!(of("not_registered"), Exception::not_registered("no.such"));
    assert_eq!(of("time_limit"), Exception::time_limit_exceeded(1.0));
    assert_eq!(of("time_limit_float"), Exception::time_limit_exceeded(1.5));
    assert_eq!(of("soft_time_limit"), Exception::soft_time_limit_exceeded());
    assert_eq!(of("worker_lost"), Exception::worker_lost("Worker exited prematurely: signal 9 (SIGKILL) Job: 156."));
    assert_eq!(of("revoked_expired"), Exception::revoked("expired"));
    assert_eq!(of("reject"), Exception::reject("no", false));
    assert_eq!(of("max_retries"), Exception::max_retries_exceeded("Can't retry labapp.add[the-id] args:[1] kwargs:{}"));
    assert_eq!(of("chord_error"), Exception::chord("the-id", &value_error));
    assert_eq!(of("retry"), Exception::builtin("KeyError", "again"));
}

#[test]
fn values_are_shown_as_python_shows_them() {
    let reprs = fixtures("messages").into_iter().find(|(name, _)| name == "reprs").unwrap().1;
    let mut wrong = Vec::new();
    let mut check = |what: String, found: String, expected: &Value| {
        let expected = expected.as_str().unwrap();
        if found != expected {
            wrong.push(format!("{what}\n  found    {found}\n  expected {expected}\n"));
        }
    };
    for shown in reprs.get("tagged").unwrap().as_list().unwrap() {
        let value = Value::parse(shown.get("value").unwrap().as_str().unwrap().as_bytes(), 128).unwrap();
        check(format!("repr of {value}"), repr(&value), shown.get("repr").unwrap());
    }
    for shown in reprs.get("values").unwrap().as_list().unwrap() {
        let value = Value::parse(shown.get("value").unwrap().as_str().unwrap().as_bytes(), 128).unwrap();
        check(format!("repr of {value}"), repr(&value), shown.get("repr").unwrap());
        for how in ["short", "args", "two", "kwargs"] {
            for cut in shown.get(how).unwrap().as_list().unwrap() {
                let [length, expected] = cut.as_list().unwrap() else { panic!("{cut}") };
                let length = usize::try_from(length.as_i64().unwrap()).unwrap();
                let found = match how {
                    "short" => short_repr(&value, length),
                    "args" => args_repr(std::slice::from_ref(&value), length),
                    "two" => args_repr(&[value.clone(), Value::Int(2)], length),
                    _ => kwargs_repr(&Map::from_iter([("a", value.clone())]), length),
                };
                check(format!("{how} of {value} at {length}"), found, expected);
            }
        }
    }
    assert!(wrong.is_empty(), "{} are shown otherwise\n{}", wrong.len(), wrong[..wrong.len().min(12)].join(""));
}

/// Where something is written otherwise, it says the same.
#[test]
fn recorded_messages_come_out_of_their_parts_as_they_were() {
    let limits = Limits::default().with_msgpack(true);
    let mut exact = 0;
    for (name, fixture) in fixtures("messages").into_iter().filter(|(name, _)| name != "reprs") {
        let raw = raw(&fixture);
        let parts = MessageParts::from_envelope(&raw, 128).unwrap_or_else(|bad| panic!("{name}: {bad}"));
        let envelope = parts.to_envelope();
        if envelope == raw {
            exact += 1;
        } else {
            println!("{name} is written otherwise");
            assert_eq!(Message::decode(&envelope, &limits), Message::decode(&raw, &limits), "{name}");
        }
    }
    println!("{exact} byte for byte");
    assert!(exact > 20, "{exact}");
}

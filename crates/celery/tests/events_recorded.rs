//! Events as a worker and a client of Celery 5.7 published them (`fixtures/record_control.py`):
//! read, and written again.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use longshore_celery::{
    Map, Value,
    events::{Event, EventKind, decode, encode},
};

fn recorded() -> Vec<(String, Vec<u8>)> {
    let lines = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/events/events.jsonl")).unwrap();
    let line = |line: &str| {
        let entry = Value::parse(line.as_bytes(), 20).unwrap();
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap().to_owned();
        (text("key"), text("raw").into_bytes())
    };
    lines.lines().map(line).collect()
}

#[test]
fn events_of_celery_are_read_and_written_byte_for_byte() {
    let mut kinds = BTreeSet::new();
    for (key, raw) in recorded() {
        let events = decode(&raw, 1 << 20).unwrap();
        let envelope = Value::parse(&raw, 20).unwrap();
        let tag = envelope.get("properties").and_then(|properties| properties.get("delivery_tag")).and_then(Value::as_str).unwrap();
        // Asked for a heartbeat, Celery writes the 5 in it without a fraction.
        let asked = matches!(&events[..], [Event { what: EventKind::WorkerHeartbeat(beat), .. }] if beat.active.is_none());
        if !asked && (key != "task.multi" || events.len() > 1) {
            let (our_key, ours) = encode(&events, tag);
            assert_eq!(our_key, key);
            assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(raw).unwrap());
        }
        for event in events {
            assert!(!matches!(event.what, EventKind::Other { .. }), "{event:?}");
            assert_eq!(Event::from_value(event.to_value()).unwrap(), event);
            kinds.insert(event.what.kind().to_owned());
        }
    }
    assert!(kinds.len() >= 9, "{kinds:?}");
}

#[test]
fn kinds_that_nobody_knows_are_kept() {
    let mut fields = Map::from_iter([("hostname", Value::from("w1@lab")), ("id", "1".into()), ("topic", "task".into())]);
    fields.set("type", "worker-elect");
    let event = Event::from_value(fields.into()).unwrap();
    assert_eq!(event.routing_key(), "worker.elect");
    assert_eq!(event.to_value().get("topic").and_then(Value::as_str), Some("task"));
}

#[test]
fn what_is_no_event_is_an_error() {
    for raw in ["", "[]", "{}", r#"{"body": "e30="}"#, r#"{"body": "{}"}"#, r#"{"body": "7", "content-type": "application/x-yaml"}"#] {
        assert!(decode(raw.as_bytes(), 1 << 20).is_err(), "{raw}");
    }
    let long = format!(r#"{{"body": "{}"}}"#, " ".repeat(100));
    assert!(decode(long.as_bytes(), 50).is_err_and(|error| error.to_string().contains("50 are accepted")));
}

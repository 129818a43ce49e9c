//! What holds for all values and messages, and for all bytes that could be mistaken for them.
#![expect(clippy::unwrap_used, reason = "a test's panic is its answer")]

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use longshore_celery::{
    Encoding, GroupResult, Limits, Map, Message, MessageParts, TaskResult, Value, WireSignature, crashes_of, mark_redelivered,
};
use proptest::{collection::vec, option, prelude::*};

/// Values without NaN, which is equal to nothing.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        "-?[1-9][0-9]{19,60}".prop_map(|digits| Value::Big(digits.into())),
        any::<f64>().prop_filter("equal to itself", |number| !number.is_nan()).prop_map(Value::Float),
        ".*".prop_map(Value::Text),
        "[a-zß\\x00]{0,3}".prop_map(|text| Value::Text(text + "\u{1f600}\"\\/\u{7f}")),
        "(\\\\ud[89a-f][0-9a-f]{2}[a-z]?){1}".prop_map(|escaped| Value::Escaped(escaped.into())),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| prop_oneof![vec(inner.clone(), 0..6).prop_map(Value::List), map(inner).prop_map(Value::Map)])
}

fn map(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map> {
    vec((".{0,6}", inner), 0..5).prop_map(Map)
}

fn time() -> impl Strategy<Value = SystemTime> {
    (0u64..4_102_444_800_000_000).prop_map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
}

fn signature() -> impl Strategy<Value = WireSignature> {
    let subtask = prop_oneof![Just(""), Just("chain"), Just("group"), Just("chord"), Just("xmap")];
    ("[a-z.ß\"]{1,9}", vec(value(), 0..3), map(value()), map(value()), subtask, any::<bool>()).prop_map(
        |(task, args, kwargs, options, subtask, immutable)| WireSignature {
            task,
            args,
            kwargs,
            options,
            subtask: subtask.into(),
            immutable,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let ids = (".{1,9}", ".{1,9}", option::of(".*"), option::of(".*"), option::of(".*"), option::of(any::<i64>()));
    let limits = (any::<u32>(), option::of(time()), option::of(time()), option::of(1u32..), option::of(1u64..u64::from(u32::MAX)));
    let shown = (option::of(".*"), option::of(".*"), option::of(".*"), option::of(".*"), option::of(any::<bool>()), any::<i64>());
    let tags = (vec(".*", 0..3), map(value()), map(value()), option::of(".+"), option::of(".+"));
    let place = (option::of(0u8..=9), ".*", ".*", any::<bool>());
    let links = (vec(signature(), 0..2), vec(signature(), 0..2), option::of(vec(signature(), 0..2)), option::of(signature()));
    (ids, limits, shown, tags, place, vec(value(), 0..4), map(value()), links).prop_map(
        |(ids, limits, shown, tags, place, args, kwargs, links)| Message {
            task: ids.0,
            id: ids.1.clone(),
            root_id: ids.2,
            parent_id: ids.3,
            group: ids.4,
            group_index: ids.5,
            retries: limits.0,
            eta: limits.1,
            expires: limits.2,
            // Limits are floats of seconds on the wire: quarters are exact.
            soft_time_limit: limits.3.map(|quarters| Duration::from_millis(250) * quarters),
            time_limit: limits.4.map(Duration::from_secs),
            ignore_result: shown.4,
            shadow: shown.0,
            argsrepr: shown.1,
            kwargsrepr: shown.2,
            origin: shown.3,
            replaced_task_nesting: shown.5,
            stamped_headers: tags.0,
            stamps: tags.1,
            headers: Map(tags.2.0.into_iter().map(|(name, value)| (format!("x-{name}"), value)).collect()),
            properties: Map::from_iter([("app_id", Value::from(tags.3.clone())), ("user_id", place.1.clone().into())]),
            reply_to: tags.3,
            correlation_id: tags.4.filter(|other| *other != ids.1),
            priority: place.0.or(Some(0)),
            exchange: place.1,
            routing_key: place.2,
            redelivered: place.3,
            child_crashes: 0,
            args,
            kwargs,
            callbacks: links.0,
            errbacks: links.1,
            chain: links.2,
            chord: links.3.map(Into::into),
        },
    )
}

fn limits() -> Limits {
    Limits::default().with_msgpack(true)
}

/// Recorded messages and results, to be spoilt.
fn recorded() -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let names =
        ["messages/plain", "messages/chord_0", "messages/protocol_1", "messages/stamps", "messages/retry", "messages/chain_with_chord"];
    let packed =
        ["messages/serializer_msgpack_bytes", "messages/compression_zlib", "messages/compression_zstd", "messages/compression_msgpack"];
    let results = ["results/failure", "results/extended_stamps", "results/children", "results/group_saved"];
    let of = |name: &&str| {
        let fixture = Value::parse(&std::fs::read(folder.join(format!("{name}.json"))).unwrap(), 128).unwrap();
        fixture.get("raw").and_then(Value::as_str).unwrap().as_bytes().to_vec()
    };
    names.iter().chain(&packed).chain(&results).map(of).collect()
}

/// Everything that reads bytes from outside.
fn read_all(bytes: &[u8]) {
    let limits = limits();
    let mut states = HashSet::new();
    if let Ok(message) = Message::decode(bytes, &limits) {
        let again = Message::decode(&message.encode(Encoding::MsgPack), &limits);
        states.insert(again.is_ok());
    }
    if let Ok(result) = TaskResult::decode(bytes, 1 << 20) {
        assert!(TaskResult::decode(&result.encode(), 1 << 21).is_ok());
    }
    if let Ok(value) = Value::parse(bytes, 128) {
        assert!(Value::parse(&value.to_json(), 128).is_ok());
    }
    let _ = GroupResult::decode(bytes, 1 << 20);
    let _ = crashes_of(bytes);
    if let Ok(parts) = MessageParts::from_envelope(bytes, 128) {
        // As bytes: a number that is none is not equal to itself.
        let envelope = parts.to_envelope();
        assert_eq!(MessageParts::from_envelope(&envelope, 128).unwrap().to_envelope(), envelope);
    }
    if let Ok(marked) = mark_redelivered(bytes, Some(3)) {
        assert_eq!(crashes_of(&marked), 3);
    }
}

proptest! {
    #[test]
    fn values_are_read_as_they_were_written(value in value()) {
        let json = value.to_json();
        prop_assert!(json.is_ascii());
        prop_assert_eq!(Value::parse(&json, 128).unwrap(), value.clone());
        prop_assert_eq!(Value::parse(value.to_string().as_bytes(), 128).unwrap(), value.clone());
        prop_assert_eq!(Value::from_serialize(&value).unwrap(), value.clone());
    }

    #[test]
    fn values_without_a_name_twice_go_through_types(value in value()) {
        let through: Value = value.clone().to().unwrap();
        prop_assert!(through == value || through.to_json().len() < value.to_json().len());
    }

    #[test]
    fn messages_are_read_as_they_were_written(message in message()) {
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let raw = message.encode(encoding);
            prop_assert_eq!(&Message::decode(&raw, &limits()).unwrap(), &message);
            let marked = mark_redelivered(&raw, Some(7)).unwrap();
            prop_assert_eq!(crashes_of(&marked), 7);
            prop_assert_eq!(Message::decode(&marked, &limits()).unwrap(), Message { redelivered: true, ..message.clone() });
        }
    }

    #[test]
    fn a_message_says_the_same_in_parts_as_in_its_envelope(message in message()) {
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let raw = message.encode(encoding);
            let parts = MessageParts::from_envelope(&raw, 128).unwrap();
            let envelope = parts.to_envelope();
            prop_assert_eq!(Message::decode(&envelope, &limits()).unwrap(), message.clone());
            prop_assert_eq!(MessageParts::from_envelope(&envelope, 128).unwrap(), parts);
        }
    }

    #[test]
    fn bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }

    #[test]
    fn something_like_json_is_read_or_refused(text in "[\\[\\]{}\",:0-9eE.+\\-\\\\ndutflsraNIiy ]{0,60}") {
        read_all(text.as_bytes());
    }

    #[test]
    fn spoilt_messages_are_read_or_refused(
        which in 0usize..14,
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..5), 1..5),
    ) {
        let mut bytes = recorded().swap_remove(which);
        for (at, byte, how) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, byte),
                _ => bytes.insert(at, b"{}[]\",:0\\n"[usize::from(byte) % 10]),
            }
        }
        read_all(&bytes);
    }

    /// The same under the base64: what only those see who read bodies.
    #[test]
    fn spoilt_bodies_are_read_or_refused(
        which in 0usize..10,
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<bool>(),
    ) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let mut envelope = Value::parse(&recorded().swap_remove(which), 128).unwrap();
        let mut body = STANDARD.decode(envelope.get("body").and_then(Value::as_str).unwrap()).unwrap();
        for (at, byte) in edits {
            let at = at.index(body.len());
            body[at] = byte;
            if cut {
                body.truncate(at + 1);
            }
        }
        if let Value::Map(map) = &mut envelope {
            map.set("body", STANDARD.encode(body));
        }
        read_all(&envelope.to_json());
    }
}

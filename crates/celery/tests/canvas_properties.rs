//! What holds for every canvas: nothing panics whatever comes in, and what is promised is sent,
//! once.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use longshore_celery::{
    Exception, Map, Message, ResultTree, Value, WireSignature,
    canvas::{
        CanvasError, ChordOutcome, ChordParts, ChordStart, Context, ErrbackStyle, Plan, after_failure, after_success, apply, chain, chord,
        chord_complete, group, replace,
    },
    control, events,
};
use proptest::{collection::vec, prelude::*};

fn context() -> Context<'static> {
    Context { oid: "oid", origin: "gen1@here", now: SystemTime::UNIX_EPOCH, parent: None, trace: None, defaults: &|_| None }
}

fn ids() -> impl FnMut() -> String {
    let mut last = 0;
    move || {
        last += 1;
        format!("id{last}")
    }
}

/// Canvases as people make them.
fn canvas() -> impl Strategy<Value = WireSignature> {
    let leaf = (0..9_i64, any::<bool>()).prop_map(|(n, immutable)| {
        let task = WireSignature::new("add").arg(n);
        if immutable { task.immutable() } else { task }
    });
    leaf.prop_recursive(5, 60, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..4).prop_map(chain),
            vec(inner.clone(), 1..4).prop_map(group),
            (vec(inner.clone(), 1..4), inner.clone()).prop_map(|(header, body)| chord(header, body)),
            (inner.clone(), inner).prop_map(|(first, next)| first.then(next)),
        ]
    })
}

/// Whether a chord whose body ends in a group is followed by another chord. There Celery, and so
/// we, run the rest once for each member of the group.
fn repeats(value: &Value) -> bool {
    let members = |name: &str| value.get("kwargs").and_then(|kwargs| kwargs.get(name));
    let list = |name: &str| members(name).and_then(Value::as_list).unwrap_or_default();
    let here = list("tasks").split_last().is_some_and(|(_, before)| kind(value) == "chain" && before.iter().any(ends_in_group));
    let all = list("tasks").iter().chain(list("header")).chain(members("body"));
    here || all.into_iter().any(repeats)
}

fn kind(value: &Value) -> &str {
    value.get("subtask_type").and_then(Value::as_str).unwrap_or_default()
}

fn ends_in_group(value: &Value) -> bool {
    let kwargs = value.get("kwargs");
    let body = || kwargs.and_then(|kwargs| kwargs.get("body"));
    match kind(value) {
        "chord" => body().is_some_and(|body| kind(body) == "group" || ends_in_group(body)),
        "chain" => {
            let tasks = kwargs.and_then(|kwargs| kwargs.get("tasks")).and_then(Value::as_list);
            tasks.and_then(<[_]>::last).is_some_and(|last| kind(last) == "group" || ends_in_group(last))
        }
        _ => false,
    }
}

/// A chord on its way: how many parts it has, and those that have ended.
type Headers = HashMap<String, (u64, BTreeMap<(Option<i64>, String), Value>)>;

/// Runs everything that comes of a canvas, each task with success: all the ids that were sent.
fn run_all(plan: Plan, fresh: &mut dyn FnMut() -> String) -> Vec<String> {
    let (mut sent, mut queue, mut headers) = (Vec::new(), VecDeque::new(), Headers::new());
    let mut take = |plan: Plan, queue: &mut VecDeque<Message>, headers: &mut Headers| {
        let mut start = |start: ChordStart| {
            headers.insert(start.group, (start.size, BTreeMap::new()));
        };
        for send in plan.sends {
            send.before.into_iter().for_each(&mut start);
            sent.push(send.message.id.clone());
            queue.push_back(send.message);
        }
        plan.starts.into_iter().for_each(start);
    };
    take(plan, &mut queue, &mut headers);
    while let Some(message) = queue.pop_front() {
        take(after_success(&message, &Value::Int(1), &context(), fresh).unwrap(), &mut queue, &mut headers);
        let (Some(body), Some(id)) = (&message.chord, &message.group) else { continue };
        let (size, parts) = headers.get_mut(id).unwrap_or_else(|| panic!("{id} was never started"));
        let member = Value::List(vec![1.into(), message.id.as_str().into(), "SUCCESS".into(), 1.into()]);
        assert!(parts.insert((message.group_index, message.id.clone()), member).is_none());
        assert!(parts.len() as u64 <= *size, "{id} has more parts than {size}");
        if parts.len() as u64 == *size {
            let parts: Vec<Value> = parts.values().cloned().collect();
            let outcome = chord_complete(&message, body, &ChordParts::Counted(&parts), &context(), fresh, &|_| ErrbackStyle::Id).unwrap();
            let ChordOutcome::Body(plan) = outcome else { panic!("a chord failed without a failed part") };
            take(plan, &mut queue, &mut headers);
        }
    }
    // A group at the end of a chain inside a header names the header's chord under its own id too,
    // as in Celery; such chords have no parts at all.
    for (id, (size, parts)) in headers {
        assert!(parts.is_empty() || parts.len() as u64 == size, "{id} is still waiting: {} of {size}", parts.len());
    }
    sent
}

fn leaves(tree: &ResultTree, into: &mut Vec<String>) {
    match &tree.children {
        Some(children) => children.iter().for_each(|child| leaves(child, into)),
        None => into.push(tree.id.clone()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 700, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_id_that_is_promised_is_sent_exactly_once(canvas in canvas()) {
        prop_assume!(!repeats(&canvas.to_value()));
        let mut fresh = ids();
        let plan = apply(&canvas, &[], &context(), &mut fresh).unwrap();
        let mut promised = Vec::new();
        plan.result.iter().for_each(|tree| leaves(tree, &mut promised));
        let sent = run_all(plan, &mut fresh);
        let once: HashSet<&String> = sent.iter().collect();
        prop_assert_eq!(once.len(), sent.len(), "an id was sent twice");
        for id in promised {
            prop_assert!(once.contains(&id), "{} was promised and never sent", id);
        }
    }

    #[test]
    fn whatever_a_signature_is_nothing_panics(value in anything()) {
        let Ok(signature) = WireSignature::from_value(value) else { return Ok(()) };
        let mut fresh = ids();
        let message = Message {
            id: "m".into(),
            group: Some("g".into()),
            callbacks: vec![signature.clone(), signature.clone()],
            errbacks: vec![signature.clone()],
            chain: Some(vec![signature.clone(), signature.clone()]),
            chord: Some(signature.clone().into()),
            ..Message::default()
        };
        let args = [Value::Int(1)];
        for plan in [
            apply(&signature, &args, &context(), &mut fresh),
            after_success(&message, &args[0], &context(), &mut fresh),
            replace(&message, &signature, &context(), &mut fresh),
        ].into_iter().flatten() {
            for send in plan.sends {
                send.message.encode(longshore_celery::Encoding::Json);
            }
        }
        let _ = after_failure(&message, &Exception::builtin("ValueError", "x"), None, &context(), &mut fresh, &|_| ErrbackStyle::Id);
        let parts = [Value::List(vec![1.into(), "p".into(), "FAILURE".into(), Value::Null])];
        let _ = chord_complete(&message, &signature, &ChordParts::Counted(&parts), &context(), &mut fresh, &|_| ErrbackStyle::Id);
        let _ = signature.clone().then(signature.clone()).link(signature.clone()).link_error(signature.clone()).immutable().stamp("s", 1);
    }

    #[test]
    fn whatever_bytes_come_nothing_panics(raw in vec(any::<u8>(), 0..200), body in anything()) {
        let _ = events::decode(&raw, 1000);
        let _ = control::Request::decode(&raw, 1000);
        let envelope = Value::Map(Map::from_iter([("body", String::from_utf8_lossy(&body.to_json()).into_owned())])).to_json();
        let _ = events::decode(&envelope, 1 << 20);
        let _ = control::Reply::decode(&envelope, 1 << 20);
        if let Ok(request) = control::Request::decode(&envelope, 1 << 20) {
            let _ = control::Command::read(&request);
            let _ = request.is_for("w1@lab");
        }
    }
}

/// Values that look like signatures, requests and events, and often are not quite.
fn anything() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 34] = [
        "task",
        "args",
        "kwargs",
        "options",
        "subtask_type",
        "immutable",
        "tasks",
        "header",
        "body",
        "link",
        "link_error",
        "chord",
        "chain",
        "group_id",
        "group_index",
        "task_id",
        "countdown",
        "eta",
        "expires",
        "priority",
        "stamped_headers",
        "headers",
        "root_id",
        "group",
        "celery.chord",
        "add",
        "method",
        "arguments",
        "revoke",
        "n",
        "rate_limit",
        "time_limit",
        "destination",
        "type",
    ];
    let word = (0..WORDS.len()).prop_map(|at| WORDS[at]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 120, 6, move |inner| {
        let signature = (
            prop_oneof![Just(Value::Null), Just("chain".into()), Just("group".into()), Just("chord".into())],
            vec(inner.clone(), 0..4),
            inner.clone(),
            vec((word.clone(), inner.clone()), 0..4),
            vec(inner.clone(), 0..2),
        );
        prop_oneof![
            1 => vec(inner.clone(), 0..5).prop_map(Value::List),
            1 => vec((word.clone(), inner.clone()), 0..6).prop_map(|members| Value::Map(members.into_iter().collect())),
            5 => signature.prop_map(|(kind, members, body, options, args)| {
                let members = Value::List(members);
                let kwargs = Map::from_iter([("tasks", members.clone()), ("header", members), ("body", body)]);
                Value::Map(Map::from_iter([
                    ("task", Value::from("add")),
                    ("args", args.into()),
                    ("kwargs", kwargs.into()),
                    ("options", options.into_iter().collect::<Map>().into()),
                    ("subtask_type", kind),
                ]))
            }),
        ]
    })
}

#[test]
fn a_long_chain_is_sent_and_its_results_are_named_as_far_back_as_anybody_reads() {
    let tasks = (0..20_000).map(|_| WireSignature::new("add").arg(1));
    let sent = apply(&group([chain(tasks), WireSignature::new("add")]), &[], &context(), &mut ids()).unwrap();
    let mut parents = 0;
    let mut node = &sent.result.unwrap().children.unwrap()[0];
    while let Some(parent) = &node.parent {
        (node, parents) = (parent, parents + 1);
    }
    assert_eq!(parents, 100);
    assert_eq!(sent.sends[0].message.chain.as_ref().unwrap().len(), 19_999);
}

#[test]
fn what_would_come_to_gigabytes_is_refused() {
    let header = (0..20_000).map(|_| WireSignature::new("add"));
    let large = chord(header, WireSignature::new("sum").arg("x".repeat(100_000)));
    let refused = apply(&large, &[], &context(), &mut ids()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "what it would send at once comes to about 1910 MiB, and 512 MiB are sent at most; make its parts fewer or smaller"
    );
}

/// A task, and then groups of it, each as wide as the others.
fn groups(width: usize, levels: usize) -> WireSignature {
    let wide = || group(vec![WireSignature::new("add").immutable(); width]);
    chain(std::iter::once(WireSignature::new("add")).chain(std::iter::repeat_with(wide).take(levels)))
}

#[test]
fn a_chain_of_groups_takes_no_more_than_the_bytes_that_are_sent() {
    // What is not shared, or carried by tasks that are yet to come, would be 25 to the power of 10
    // of it.
    for (width, levels) in [(2, 2), (3, 10), (5, 8), (25, 10)] {
        let mut fresh = ids();
        let first = apply(&groups(width, levels), &[], &context(), &mut fresh).unwrap().sends.remove(0).message;
        let next = after_success(&first, &Value::Int(1), &context(), &mut fresh).unwrap().sends;
        assert_eq!(next.len(), width);
        let body = next[0].message.chord.as_ref().unwrap();
        for send in &next {
            assert!(Arc::ptr_eq(body, send.message.chord.as_ref().unwrap()), "each part has a body of its own");
            let bytes = send.message.encode(longshore_celery::Encoding::Json).len();
            assert!(bytes < 1_500 + 400 * width * levels, "{bytes} bytes for {levels} groups of {width}");
        }
        let sent = run_all(apply(&groups(width, levels), &[], &context(), &mut fresh).unwrap(), &mut fresh);
        assert_eq!(sent.len(), width * levels + 1);
    }
}

#[test]
fn what_multiplies_is_seen_before_it_is_made() {
    let long = || WireSignature::new("add").arg("x".repeat(1_000)).immutable();
    let wide = |width| group((0..width).map(|_| long()));
    let rows = [
        ("a group, and what follows it", chain([long(), wide(1_000), wide(1_000)])),
        ("a chord, and what follows it", chain([chord(vec![long(); 1_000], long()), chain(vec![long(); 1_000])])),
        ("a chord in a chord's header", chord(vec![chord(vec![long(); 30], long()); 30], long().arg("x".repeat(1_000_000)))),
        ("late in a chain", chain([wide(1), wide(1), wide(1_000), wide(1_000), long()])),
        ("late in a body", chord([long()], chain([wide(1), wide(1_000), wide(1_000)]))),
    ];
    for (name, canvas) in rows {
        let refused = apply(&canvas, &[], &context(), &mut ids());
        assert!(matches!(refused, Err(CanvasError::TooLarge { bytes }) if bytes > 512 << 20), "{name}");
    }
    // As many tasks one group after the other, each of which is sent alone.
    let fits = chain(std::iter::repeat_with(|| wide(50)).take(20));
    assert!(apply(&fits, &[], &context(), &mut ids()).is_ok());
}

#[test]
fn signatures_that_are_nested_too_deeply_are_refused() {
    let mut deep = WireSignature::new("add");
    for _ in 0..100 {
        deep = WireSignature { kwargs: Map::from_iter([("tasks", Value::List(vec![deep.to_value()]))]), ..group([]) };
    }
    assert_eq!(apply(&deep, &[], &context(), &mut ids()), Err(CanvasError::TooDeep));
}

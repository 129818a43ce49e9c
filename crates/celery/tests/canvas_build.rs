//! Canvases built in Rust are the canvases that Celery builds of the same parts; and what is better
//! here than there.

use std::time::{Duration, SystemTime};

use longshore_celery::{
    Exception, Map, Message, Value, WireSignature,
    canvas::{
        CanvasError, ChordOutcome, ChordParts, Context, ErrbackStyle, add_to_chord, after_failure, after_success, apply, chain, chord,
        chord_complete, group, replace, retry, retry_as,
    },
};

fn add(numbers: &[i64]) -> WireSignature {
    WireSignature::new("lab.add").args(numbers.iter().copied())
}

fn sum() -> WireSignature {
    WireSignature::new("lab.tsum")
}

fn echo() -> WireSignature {
    WireSignature::new("lab.echo")
}

fn errback() -> WireSignature {
    WireSignature::new("lab.eb")
}

/// Values whose members are in order, whatever they were written in.
fn sorted(value: &Value) -> Value {
    match value {
        Value::List(list) => Value::List(list.iter().map(sorted).collect()),
        Value::Map(map) => {
            let mut members: Vec<(String, Value)> = map.iter().map(|(name, value)| (name.to_owned(), sorted(value))).collect();
            members.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Map(Map(members))
        }
        other => other.clone(),
    }
}

#[test]
fn what_is_built_here_is_what_celery_builds() {
    let recorded = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/canvas/shapes.jsonl")).unwrap();
    let recorded: Vec<Value> = recorded.lines().map(|line| Value::parse(line.as_bytes(), 500).unwrap()).collect();
    let rows = [
        ("task", add(&[1, 2])),
        ("task_link", add(&[1, 2]).link(add(&[10]))),
        ("chain3", chain([add(&[1, 2]), add(&[3]), add(&[4])])),
        ("chain3", add(&[1, 2]).then(add(&[3])).then(add(&[4]))),
        ("chain3", add(&[1, 2]).then(add(&[3]).then(add(&[4])))),
        ("chain_immutable", chain([add(&[1, 2]), add(&[3, 3]).immutable(), add(&[4])])),
        ("chain_of_chains", chain([chain([add(&[1, 2]), add(&[3])]), chain([add(&[4]), add(&[5])]), add(&[6])])),
        ("chain_linked", chain([add(&[1, 2]), add(&[3])]).link(add(&[100])).link(add(&[200]))),
        ("chain_errback", chain([add(&[1, 2]), WireSignature::new("lab.fail"), add(&[3])]).link_error(errback())),
        ("chain_group_middle", chain([add(&[1, 2]), group([add(&[3]), add(&[4])]), sum()])),
        ("chain_group_middle_then_more", chain([add(&[1, 2]), group([add(&[3]), add(&[4])]), sum(), add(&[5]), add(&[6])])),
        ("chain_group_first", chain([group([add(&[3, 1]), add(&[4, 1])]), sum()])),
        ("chain_two_groups", chain([group([add(&[1, 1]), add(&[2, 2])]), group([add(&[3]), add(&[4])]), sum()])),
        ("chain_single_group", chain([add(&[1, 2]), group([add(&[3])]), add(&[4])])),
        ("chain_empty_group", chain([add(&[1, 2]), group([]), add(&[4])])),
        ("chain_chord_more", chain([add(&[1, 2]), chord([add(&[3]), add(&[4])], sum()), add(&[5]), add(&[6])])),
        ("group_nested", group([add(&[1, 1]), group([add(&[2, 2]), add(&[3, 3])]), add(&[4, 4])])),
        ("chord", chord([add(&[1, 2]), add(&[3, 4])], sum())),
        ("chord_linked", chord([add(&[1, 2]), add(&[3, 4])], sum()).link(add(&[1]))),
        ("chord_body_group_errback", {
            let body = group([sum(), chain([sum(), add(&[1])])]).link_error(errback());
            chord([add(&[1, 2]), WireSignature::new("lab.fail")], body)
        }),
        ("chain_stamped", chain([add(&[1, 2]), add(&[3]), group([add(&[4]), add(&[5])])]).stamp("mon", "abc")),
        ("chord_then", {
            let chord = chord([add(&[1, 2]), add(&[3, 4])], sum());
            chord.then(add(&[1])).then(group([add(&[2]), add(&[3])])).then(sum())
        }),
        ("group_then", {
            let group_ = group([add(&[1, 2]), add(&[3, 4])]);
            group_.then(sum()).then(group([add(&[2]), add(&[3])])).then(sum()).then(add(&[1]))
        }),
        ("chord_body_group", chord([add(&[1, 2]), add(&[3, 4])], group([sum(), echo()]))),
    ];
    for (name, ours) in rows {
        let theirs = recorded.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name)).unwrap();
        assert_eq!(sorted(&ours.to_value()), sorted(theirs.get("signature").unwrap()), "{name}");
    }
}

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

fn failed_part(id: &str) -> Value {
    let exception = Exception::builtin("ValueError", "kaboom").to_value();
    Value::List(vec![1.into(), id.into(), "FAILURE".into(), exception])
}

#[test]
fn a_chord_that_fails_in_the_header_of_another_fails_that_one_too() {
    let inner = chord([add(&[1])], sum());
    let sent = apply(&chord([inner, add(&[2])], sum()), &[], &context(), &mut ids()).unwrap().sends;
    let part = &sent[0].message;
    let parts = [failed_part(&part.id)];
    let body = part.chord.clone().unwrap();
    let outcome = chord_complete(part, &body, &ChordParts::Counted(&parts), &context(), &mut ids(), &|_| ErrbackStyle::Id).unwrap();
    let ChordOutcome::Error(failure) = outcome else { panic!("it did not fail") };
    let (task, exception) = &failure.failed[0];
    assert_eq!(exception.to_string(), format!("ChordError(\"Dependency {} raised ValueError('kaboom')\")", part.id));
    let outer = task.part.as_ref().unwrap();
    assert_eq!(Some(&outer.group), sent[1].message.group.as_ref());
    assert_eq!(Some(&outer.chord), sent[1].message.chord.as_ref());
}

#[test]
fn whoever_waits_for_the_body_of_a_body_is_told() {
    let sent = apply(&chord([add(&[1])], chord([add(&[2])], sum())), &[], &context(), &mut ids()).unwrap();
    let waited_for = sent.result.unwrap().id;
    let part = &sent.sends[0].message;
    let parts = [failed_part(&part.id)];
    let body = part.chord.clone().unwrap();
    let outcome = chord_complete(part, &body, &ChordParts::Counted(&parts), &context(), &mut ids(), &|_| ErrbackStyle::Id).unwrap();
    let ChordOutcome::Error(failure) = outcome else { panic!("it did not fail") };
    assert!(failure.failed.iter().any(|(task, _)| task.id == waited_for));
}

#[test]
fn a_canvas_works_as_an_errback() {
    let message = Message { id: "failed".into(), errbacks: vec![chain([errback(), add(&[1])])], ..Message::default() };
    let plan =
        after_failure(&message, &Exception::builtin("ValueError", "x"), None, &context(), &mut ids(), &|_| ErrbackStyle::Id).unwrap().plan;
    let sent = &plan.sends[0].message;
    assert_eq!((sent.task.as_str(), &sent.args[..], sent.chain.as_ref().unwrap().len()), ("lab.eb", &["failed".into()][..], 1));
}

#[test]
fn an_errback_is_told_what_it_takes() {
    let told = |name: &str| if name == "lab.eb3" { ErrbackStyle::Error } else { ErrbackStyle::Id };
    let three = || WireSignature::new("lab.eb3");
    let error = Exception::builtin("ValueError", "kaboom");
    let stored = error.to_value();
    let message = Message {
        id: "failed".into(),
        task: "lab.fail".into(),
        root_id: Some("root".into()),
        args: vec![7.into()],
        errbacks: vec![errback(), three(), three().immutable()],
        ..Message::default()
    };
    let follows = after_failure(&message, &error, Some("in line 1"), &context(), &mut ids(), &told).unwrap();
    let sent: Vec<&Message> = follows.plan.sends.iter().map(|send| &send.message).collect();
    let names: Vec<(&str, usize)> = sent.iter().map(|message| (message.task.as_str(), message.args.len())).collect();
    assert_eq!(names, [("lab.eb3", 3), ("lab.eb3", 0), ("lab.eb", 1)]);
    let [request, exception, traceback] = &sent[0].args[..] else { panic!("not three") };
    assert_eq!((exception, traceback.as_str()), (&stored, Some("in line 1")));
    for (name, value) in [("id", "failed".into()), ("task", "lab.fail".into()), ("args", vec![7].into()), ("root_id", "root".into())] {
        assert_eq!(request.get(name), Some(&value), "{name}");
    }
    assert_eq!(sent[2].args, ["failed".into()]);
    assert_eq!((sent[0].parent_id.as_deref(), sent[0].root_id.as_deref()), (Some("failed"), Some("root")));
    assert_eq!(follows.plan.children.len(), 2);

    // A chord's body was never sent: of its request the id is known.
    let sent = apply(&chord([add(&[1])], sum().task_id("body").link_error(three())), &[], &context(), &mut ids()).unwrap().sends;
    let part = &sent[0].message;
    let parts = [failed_part(&part.id)];
    let body = part.chord.clone().unwrap();
    let outcome = chord_complete(part, &body, &ChordParts::Counted(&parts), &context(), &mut ids(), &told).unwrap();
    let ChordOutcome::Error(failure) = outcome else { panic!("it did not fail") };
    let (failed, error) = &failure.failed[0];
    let args = &failure.plan.sends[0].message.args;
    assert_eq!((args[0].get("id"), &args[1], &args[2]), (Some(&failed.id.as_str().into()), &error.to_value(), &Value::Null));
    assert_eq!(failed.children, failure.plan.children);
    assert_eq!(failed.children.len(), 1);
}

#[test]
fn the_priority_of_a_chords_body_survives_a_chain() {
    let sent = apply(&chain([add(&[1]), chord([add(&[2])], sum().priority(7))]), &[], &context(), &mut ids()).unwrap().sends;
    let next = after_success(&sent[0].message, &Value::Int(1), &context(), &mut ids()).unwrap().sends;
    assert_eq!(next[0].message.chord.as_ref().unwrap().options.get("priority"), Some(&Value::Int(7)));
}

#[test]
fn a_chain_that_begins_with_a_group_hands_its_arguments_to_the_members() {
    let mut first = WireSignature { kwargs: Map::default(), ..chain([]) };
    first.kwargs.set("tasks", Value::List(vec![group([add(&[1]), add(&[2])]).to_value(), sum().to_value()]));
    let message = Message { id: "m".into(), callbacks: vec![first], ..Message::default() };
    let sent = after_success(&message, &Value::Int(9), &context(), &mut ids()).unwrap().sends;
    assert_eq!(sent.iter().map(|send| send.message.args.clone()).collect::<Vec<_>>(), [[9.into(), 1.into()], [9.into(), 2.into()]]);
}

#[test]
fn options_say_when_where_and_how_long() {
    let second = Duration::from_secs(1);
    let task = add(&[1]).queue("images").priority(3).countdown(5 * second).expires_in(60 * second).time_limit(second).header("x", 1);
    let sent = &apply(&task, &[], &context(), &mut ids()).unwrap().sends[0];
    assert_eq!(sent.routing.queue.as_deref(), Some("images"));
    let message = &sent.message;
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str(), message.priority), ("", "images", Some(3)));
    assert_eq!(message.eta, Some(SystemTime::UNIX_EPOCH + 5 * second));
    assert_eq!(message.expires, Some(SystemTime::UNIX_EPOCH + 60 * second));
    assert_eq!((message.time_limit, message.headers.get("x")), (Some(second), Some(&Value::Int(1))));
    let eta = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
    assert_eq!(apply(&add(&[1]).eta(eta), &[], &context(), &mut ids()).unwrap().sends[0].message.eta, Some(eta));
    let never = add(&[1]).option("eta", "tomorrow");
    assert_eq!(apply(&never, &[], &context(), &mut ids()).unwrap_err().to_string(), "eta of the signature of lab.add is no time");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let task = Message { id: "m".into(), ..Message::default() };
    let refused = |plan: Result<_, CanvasError>| matches!(plan, Err(CanvasError::Refused(_)));
    assert!(refused(replace(&task, &chain([]), &context(), &mut ids())));
    assert!(refused(replace(&task, &add(&[1]).option("chord", sum().to_value()), &context(), &mut ids())));
    assert!(refused(add_to_chord(&task, &add(&[1]), &context(), &mut ids())));
    let mut bodiless = chord([add(&[1])], sum());
    bodiless.kwargs.set("body", Value::Null);
    assert!(refused(apply(&bodiless, &[], &context(), &mut ids())));
}

#[test]
fn the_next_attempt_is_the_same_task() {
    let task = Message {
        id: "m".into(),
        task: "lab.add".into(),
        retries: 1,
        chain: Some(vec![sum()]),
        callbacks: vec![add(&[1])],
        redelivered: true,
        argsrepr: Some("(1,)".into()),
        ..Message::default()
    };
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    let next = retry(&task, Some(when));
    let expected =
        Message { retries: 2, eta: Some(when), root_id: Some("m".into()), parent_id: Some("m".into()), redelivered: false, ..task.clone() };
    assert_eq!(next, expected);
}

#[test]
fn the_next_attempt_has_the_arguments_and_options_of_another_call_of_it() {
    let task = Message {
        id: "m".into(),
        task: "lab.add".into(),
        expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)),
        ..Message::default()
    };
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let call = WireSignature::new("lab.add").arg(2).kwarg("y", 3);
    let (next, queue) = retry_as(&task, when, &call, now).unwrap();
    assert_eq!((next.args, next.kwargs, next.eta, queue), (vec![Value::Int(2)], Map::from_iter([("y", 3)]), Some(when), None));
    assert_eq!((next.argsrepr.as_deref(), next.kwargsrepr.as_deref()), (Some("(2,)"), Some("{'y': 3}")));
    assert_eq!((next.retries, next.id.as_str(), next.expires), (1, "m", task.expires));
    let call = call.queue("q").priority(3).countdown(Duration::from_secs(1)).expires_in(Duration::from_secs(2)).header("h", 1);
    let (next, queue) = retry_as(&task, when, &call, now).unwrap();
    assert_eq!((queue.as_deref(), next.priority), (Some("q"), Some(3)));
    assert_eq!((next.eta, next.expires), (Some(now + Duration::from_secs(1)), Some(now + Duration::from_secs(2))));
    assert_eq!(next.headers.get("h"), Some(&Value::Int(1)));
    let endless = WireSignature::new("lab.add").option("expires", Value::Null);
    assert_eq!(retry_as(&task, when, &endless, now).unwrap().0.expires, None);
    for (call, says) in [
        (WireSignature::new("lab.sum"), "a retry is another attempt of lab.add, and not lab.sum"),
        (chain([add(&[1]), add(&[1])]), "a retry is another attempt of lab.add, and not celery.chain"),
        (add(&[1]).link(sum()), "a retry of lab.add cannot have the option link"),
        (add(&[1]).option("expires", "tomorrow"), "expires of the signature of lab.add is no time"),
    ] {
        let error = retry_as(&task, when, &call, now).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

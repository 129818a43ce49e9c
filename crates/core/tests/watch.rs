//! The face of everything that runs: views that travel, events, handles.

mod common;

use std::time::Duration;

use common::{Signal, ends};
use longshore_core::{
    Event, Executor, Job, LaneKind, Phase, Pipeline, Rate, Reason, Stage, Stop, TaskError,
    watch::{Command, Connection, Heard, LinkState, Refused, View, ViewKind, Waiting},
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_view_travels_as_json_and_comes_back_as_it_was() {
    let (sender, job) = Job::blocking(|n: u32| if n == 3 { Err("three") } else { Ok(n) }).count_by("parity", |_| "any").sender(10);
    let running = job.rate(Rate::per_second(1000.0)).start();
    for n in 0..6 {
        sender.send(n).await.unwrap();
    }
    sender.drained().await.unwrap();
    let mut view = running.view().await.unwrap();
    view.connections.push(Connection::up("broker", "redis://:***@localhost"));
    view.gauge("lag", &[("topic", "orders")], 7.0);
    view.refusal = Some(Refused::new(Reason::Pace { rate: Rate::per_second(2.0) }, Some(Duration::from_millis(500))));
    let lost = [
        Reason::Empty,
        Reason::Results { capacity: 3 },
        Reason::Lane { lane: LaneKind::Cpu },
        Reason::Key { key: "k".into() },
        Reason::Limit { name: "host".into(), value: "a".into() },
        Reason::Other { name: "eta".into() },
    ];
    view.waiting.extend(lost.map(|reason| Waiting::new(reason, 1)));
    let text = serde_json::to_string(&view).unwrap();
    let back: View = serde_json::from_str(&text).unwrap();
    assert_eq!(back.waiting, view.waiting);
    assert_eq!(back.labels, view.labels);
    assert_eq!((back.counts, back.refusal, back.connections.len()), (view.counts, view.refusal, 1));
    // What is read by programs in other languages: seconds, and names.
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["version"], &value["kind"], &value["phase"]), (&json!(1), &json!("job"), &json!("running")));
    assert_eq!((&value["counts"]["ok"], &value["counts"]["failed"]), (&json!(5), &json!(1)));
    assert_eq!(
        value["refusal"],
        json!({ "reason": { "reason": "pace", "rate": { "count": 2.0, "per": 1.0, "burst": 1 } }, "until_in": 0.5 })
    );
    assert_eq!((&value["connections"][0]["state"], &value["connections"][0]["name"]), (&json!("up"), &json!("broker")));
    let label = &value["labels"][0];
    assert_eq!((&label["kind"], &label["value"], &label["run"]["count"]), (&json!("parity"), &json!("any"), &json!(6)));
    assert_eq!(label["run"]["buckets"].as_array().unwrap().last().unwrap(), &json!([3600.0, 6]));
    assert_eq!(value["run"]["histogram"]["buckets"].as_array().unwrap().last().unwrap(), &json!([3600.0, 6]));
    drop(sender);
    running.join().await;
}

#[test]
fn what_a_newer_version_says_is_read_as_far_as_it_is_known() {
    let newer = json!({
        "version": 2, "kind": "spaceship", "colour": "red", "counts": { "ok": 3, "vaporised": 1 },
        "waiting": [{ "reason": { "reason": "gravity", "pull": 9.8 }, "tasks": 2 }],
        "labels": [{ "kind": "queue", "value": "mail" }],
    });
    let view: View = serde_json::from_value(newer).unwrap();
    assert_eq!((view.version, view.kind, view.counts.ok, view.counts.done()), (2, ViewKind::Other, 3, 3));
    assert_eq!(view.waiting[0].reason, Reason::Other { name: "gravity".into() });
    for (text, command) in [
        (json!({ "command": "pause" }), Command::Pause),
        (json!({ "command": "concurrency", "lane": "cpu", "most": 8 }), Command::Concurrency { lane: Some(LaneKind::Cpu), most: 8 }),
        (json!({ "command": "concurrency", "most": 8 }), Command::Concurrency { lane: None, most: 8 }),
        (json!({ "command": "rate" }), Command::Rate { rate: None }),
        (json!({ "command": "timeout", "timeout": 1.5 }), Command::Timeout { timeout: Some(Duration::from_millis(1500)) }),
        (json!({ "command": "stop", "how": "hard" }), Command::Stop { how: Stop::Hard }),
    ] {
        assert_eq!(serde_json::from_value::<Command>(text).unwrap(), command);
    }
}

#[test]
fn a_connection_is_a_state_and_only_a_change_of_it_is_news() {
    let mut connection = Connection::up("broker", "redis://localhost");
    let began = connection.since;
    let at = |seconds| began + Duration::from_secs(seconds);
    let lost = |reason: &str| LinkState::Lost { reason: reason.to_owned() };
    for (second, state, news, since, reconnects) in [
        (1, LinkState::Up, false, 0, 0),
        (2, lost("refused"), true, 2, 0),
        (3, lost("no route"), false, 2, 0),
        (4, LinkState::Refused { reason: "READONLY".into() }, true, 4, 0),
        (5, LinkState::Up, true, 5, 1),
        (6, lost("reset"), true, 6, 1),
        (7, LinkState::Up, true, 7, 2),
    ] {
        assert_eq!(connection.set(state.clone(), at(second)), news, "second {second}");
        assert_eq!((&connection.state, connection.since, connection.reconnects), (&state, at(since), reconnects), "second {second}");
    }
}

#[test]
fn an_executor_is_viewed_heard_and_steered_whatever_lanes_it_uses() {
    ends(|| {
        let pool = Executor::builder().workers(LaneKind::Blocking, 2).build();
        let mut events = pool.events(1_000);
        let handle = pool.handle();
        let open = std::sync::Arc::new(Signal::default());
        let waits: Vec<_> = (0..3)
            .map(|_| {
                pool.blocking().submit({
                    let open = open.clone();
                    move || open.wait()
                })
            })
            .collect();
        assert_eq!(pool.futures().submit(async { 1 }).wait().unwrap(), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let view = loop {
            let view = runtime.block_on(pool.view());
            if view.lane(LaneKind::Blocking).is_some_and(|lane| lane.running == 2) && view.counts.ok == 1 && view.active() == 2 {
                break view;
            }
        };
        assert_eq!((view.kind, view.phase, view.parts.len(), view.active()), (ViewKind::Executor, Phase::Running, 2, 2));
        let lane = view.lane(LaneKind::Blocking).unwrap();
        assert_eq!((lane.slots, lane.running), (2, 2));
        assert!(handle.steer(Command::Rate { rate: None }).unwrap_err().to_string().contains("an executor has no rate"));
        handle.set_concurrency(Some(LaneKind::Blocking), 3);
        while runtime.block_on(handle.view()).unwrap().lane(LaneKind::Blocking).unwrap().running < 3 {}
        open.open();
        waits.into_iter().for_each(|wait| wait.wait().unwrap());
        assert_eq!(pool.close().ok(), 4);
        assert!(runtime.block_on(handle.view()).is_none(), "it is over");
        let ended =
            std::iter::from_fn(|| events.blocking_next()).filter(|heard| matches!(heard, Heard::Event(Event::Ended { .. }))).count();
        assert_eq!(ended, 4);
    });
}

#[tokio::test]
async fn a_pipeline_shows_its_stages_and_tells_its_phases() {
    let slow = Stage::new(|n: u32| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if n == 2 { Err(TaskError::new("two", "two")) } else { Ok(n) }
    });
    let running = Pipeline::from_iter(0_u32..).stage(slow.name("slow").workers(3).on_error(longshore_core::OnError::Skip)).start();
    let mut events = running.events(10);
    let handle = running.handle();
    while handle.view().await.unwrap().counts.ok < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let view = running.view();
    assert_eq!((view.kind, view.phase, view.counts.failed, view.parts.len()), (ViewKind::Pipeline, Phase::Running, 1, 2));
    let stage = &view.parts[1];
    let lane = stage.lane(LaneKind::Async).unwrap();
    assert_eq!((stage.kind, stage.name.as_str(), lane.slots), (ViewKind::Stage, "slow", 3));
    assert!(stage.run.histogram.count >= 20 && stage.run.quantiles.p50 >= Duration::from_millis(1), "{:?}", stage.run);
    assert!(stage.gauges.iter().any(|gauge| gauge.name == "stage_seconds" && gauge.labels["state"] == "busy" && gauge.value > 0.0));
    assert!(handle.steer(Command::Pause).is_err());
    handle.drain();
    assert!(running.join().await.outputs >= 20);
    assert!(handle.view().await.is_none());
    let mut phases = Vec::new();
    while let Some(Heard::Event(Event::Job { phase })) = events.next().await {
        phases.push(phase);
    }
    assert_eq!(phases, [Phase::Draining, Phase::Done]);
}

#[test]
fn labels_are_counted_beside_the_loop_and_a_function_that_panics_ends_nothing() {
    let report = ends(|| {
        let job = Job::new(|n: u64| async move { Ok::<_, String>(n) });
        job.count_by("boom", |n: &u64| if *n == 5 { panic!("no label") } else { "fine" }).params(0..100).run()
    });
    assert_eq!((report.ok(), report.failed()), (100, 0));
}

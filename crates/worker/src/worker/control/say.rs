//! Puts answers in Celery's words.

use std::time::{SystemTime, UNIX_EPOCH};

use longshore_brokers::mask;
use longshore_celery::{
    Map, Message, Value,
    control::{self, Consumed, Stats, TaskView},
    repr,
};
use longshore_core::LaneKind;

use super::{
    answer::{ControlAnswer, ControlDone, ControlFacts, KnownTask, StatsFacts, WaitsFor},
    told::{registered, said, settings},
};
use crate::worker::{shared::Shared, used, view::bounded, work::ClaimedTask};

/// Puts an answer in Celery's words.
pub(super) fn say(answer: ControlAnswer, shared: &Shared, clock: u64) -> Value {
    match answer {
        ControlAnswer::Nothing => Value::Null,
        ControlAnswer::Done(done) => done_words(&done),
        ControlAnswer::Facts(facts) => facts_words(facts, shared, clock),
    }
}

/// Says what was done, or why not, as Celery's workers do. Pure.
fn done_words(done: &ControlDone) -> Value {
    let refused = |kind: &str, why: &str| control::error(&format!("{kind}({})", repr(&why.into())));
    match done {
        ControlDone::Pong => control::ok("pong"),
        ControlDone::UnknownTask => control::error("unknown task"),
        ControlDone::RateSet { limited: true } => control::ok("new rate limit set successfully"),
        ControlDone::RateSet { limited: false } => control::ok("rate limit disabled successfully"),
        ControlDone::TimeLimitSet => control::ok("time limits set successfully"),
        ControlDone::Grown { more: true } => control::ok("pool will grow"),
        ControlDone::Grown { more: false } => control::ok("pool will shrink"),
        ControlDone::Rescaled { max, min } => control::ok(format!("autoscale now max={max} min={min}")),
        ControlDone::NoAutoscale => refused("ValueError", "Autoscale not enabled"),
        ControlDone::NoRestart => refused("ValueError", "Pool restarts not enabled"),
        ControlDone::Serving { queue, before: true } => control::ok(format!("already consuming from {}", quoted(queue))),
        ControlDone::Serving { queue, before: false } => control::ok(format!("add consumer {queue}")),
        ControlDone::OtherBinding { queue } => {
            let text = format!(
                "add_consumer: queue {queue} is not bound to another exchange or routing key here, nor with a type but direct; bind it where its \
                 tasks are sent, then add it by its name alone"
            );
            refused("NotImplementedError", &text)
        }
        ControlDone::BadQueue { why } => refused("ValueError", why),
        ControlDone::Left { queue } => control::ok(format!("no longer consuming from {queue}")),
        ControlDone::Events { on: true, changed: true } => control::ok("task events enabled"),
        ControlDone::Events { on: true, changed: false } => control::ok("task events already enabled"),
        ControlDone::Events { on: false, changed: true } => control::ok("task events disabled"),
        ControlDone::Events { on: false, changed: false } => control::ok("task events already disabled"),
        ControlDone::Revoked(ids) => control::revoked(ids),
        ControlDone::Terminated(ids) => control::terminated(ids),
        ControlDone::StampsRevoked(headers) => control::stamps_revoked(headers),
        ControlDone::StampsNotTerminated(headers) => control::stamps_not_terminated(headers),
    }
}

/// Quotes a name as Celery does here, whatever is in it.
fn quoted(name: &str) -> String {
    format!("'{name}'")
}

/// Says what was looked up.
fn facts_words(facts: ControlFacts, shared: &Shared, clock: u64) -> Value {
    match facts {
        ControlFacts::Claimed { works, safe } => Value::List(works.iter().map(|work| view(shared, work).to_value(safe)).collect()),
        ControlFacts::Held(held) => {
            Value::List(held.iter().map(|task| control::scheduled(&waiting(shared, &task.message), task.due)).collect())
        }
        ControlFacts::Known(tasks) => control::query_task(tasks.iter().map(|task| match task {
            KnownTask::Claimed { work, waits: None } => ("active", view(shared, work), None),
            KnownTask::Claimed { work, waits: Some(waits) } => ("reserved", view(shared, work), Some(waits_words(waits))),
            KnownTask::Held { task, waits } => ("scheduled", waiting(shared, &task.message), Some(waits_words(waits))),
        })),
        ControlFacts::Revoked(ids) => ids.into(),
        ControlFacts::Registered { tasks, items } => {
            let told = tasks.iter().filter_map(|(name, rate)| {
                let task = shared.app.task_named(name)?;
                Some(registered(task, shared.app.registry().acks_of(&task.policy), *rate, &items))
            });
            Value::List(told.collect())
        }
        ControlFacts::Queues(queues) => Value::List(queues.iter().map(|queue| Consumed::named(queue.to_string()).to_value()).collect()),
        ControlFacts::Settings { slots, with_defaults } => control::settings(settings(&shared.app, slots), with_defaults),
        ControlFacts::Stats(facts) => stats(facts, shared.broker.url(), clock),
        ControlFacts::View(Some(view)) => control::ok(bounded(*view)),
        ControlFacts::View(None) => control::error("this worker is at its end"),
        ControlFacts::Report => control::ok(format!(
            "\nsoftware -> celery:5.7.0 (protocol 2, by longshore:{}) rust\nplatform -> system:Linux\nsettings -> transport:{} results:{}\n",
            env!("CARGO_PKG_VERSION"),
            mask(shared.broker.url()),
            mask(shared.results.url()),
        )),
        ControlFacts::Clock => Value::Map(Map::from_iter([("clock", Value::from(clock))])),
        ControlFacts::Hello(revoked) => control::hello(&revoked, clock),
    }
}

/// Says what a task waits for: `waits` in its entry. Celery's clients pass over it.
fn waits_words(waits: &WaitsFor) -> Map {
    let of = |count: usize| Value::from(count as i64);
    let at = |at: &Option<SystemTime>| Value::from(at.map(seconds));
    match waits {
        WaitsFor::Alone { crashes } => Map::from_iter([("for", Value::from("alone")), ("crashes", (*crashes).into())]),
        WaitsFor::Slot { lane, slots, running } => {
            Map::from_iter([("for", Value::from("slot")), ("lane", lane.as_str().into()), ("slots", of(*slots)), ("running", of(*running))])
        }
        WaitsFor::Eta { until } => Map::from_iter([("for", Value::from("eta")), ("until", at(until))]),
        WaitsFor::Rate { rate, until } => {
            let mut words = Map::from_iter([("for", Value::from("rate")), ("until", at(until))]);
            if let Some(rate) = rate {
                words.set("rate", said(*rate));
            }
            words
        }
    }
}

/// Says what a worker has done, with members of ours behind Celery's.
fn stats(facts: StatsFacts, url: &str, clock: u64) -> Value {
    let concurrency = facts.slots.iter().sum::<usize>() as u64;
    let mut broker = Map::default();
    broker.set("url", mask(url));
    broker.set("hostname", host_of(url));
    broker.set("port", port_of(url));
    broker.set("transport", url.split(':').next().unwrap_or_default());
    let stats = Stats {
        total: facts.by_task.into_iter().map(|(task, count)| (task.to_string(), count)).collect(),
        pid: std::process::id().into(),
        clock,
        uptime: facts.uptime,
        implementation: "longshore: lanes".to_owned(),
        concurrency,
        processes: vec![std::process::id().into()],
        prefetch_count: facts.prefetch,
        broker,
        rusage: rusage(),
    };
    let mut value = stats.to_value();
    if let Value::Map(map) = &mut value {
        let of_lanes =
            |counts: [usize; 4]| LaneKind::ALL.iter().map(|lane| (lane.as_str(), counts[*lane as usize] as i64)).collect::<Map>();
        map.set("lanes", of_lanes(facts.slots));
        map.set("running", of_lanes(facts.running));
        // So that whoever only counts need not ask for the tasks themselves (`active`).
        map.set("running_by_queue", facts.running_by_queue.iter().map(|(queue, count)| (&**queue, *count)).collect::<Map>());
        map.set("held", facts.held as i64);
        if let Some(scale) = facts.scale {
            let bounds = [("max", scale.max), ("min", scale.min), ("current", scale.current), ("qty", scale.claimed)];
            map.set("autoscaler", bounds.into_iter().map(|(name, number)| (name, number as i64)).collect::<Map>());
        }
        // How many messages of each queue have come to their end here.
        map.set("queues", facts.by_queue.iter().map(|(queue, count)| (&**queue, *count)).collect::<Map>());
    }
    value
}

/// Returns seconds since 1970.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Describes a claimed task.
fn view<'a>(shared: &'a Shared, work: &'a ClaimedTask) -> TaskView<'a> {
    let start = work.started();
    TaskView {
        message: &work.message,
        queue: &work.queue,
        node: &shared.node,
        time_start: start.map(|start| seconds(start.at)),
        acknowledged: work.acked.load(std::sync::atomic::Ordering::Acquire),
        worker_pid: start.map(|_| std::process::id().into()),
    }
}

/// Describes a task that is held for its time.
fn waiting<'a>(shared: &'a Shared, message: &'a Message) -> TaskView<'a> {
    TaskView { message, queue: &message.routing_key, node: &shared.node, time_start: None, acknowledged: false, worker_pid: None }
}

fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    rest.split(['/', ':', '?']).next().unwrap_or_default().to_owned()
}

fn port_of(url: &str) -> Option<i64> {
    let rest = url.split_once("://")?.1;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let authority = rest.split(['/', '?']).next()?;
    Some(authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(6379))
}

/// Returns what the system says that this process used.
fn rusage() -> Map {
    let mut map = Map::default();
    let Some((user, system)) = used::processor_times() else { return map };
    map.set("utime", user);
    map.set("stime", system);
    // As the system counts it, in units of 1024 bytes.
    map.set("maxrss", used::peak().and_then(|bytes| i64::try_from(bytes / 1024).ok()));
    map
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longshore_core::Rate;

    use super::*;

    fn json(value: Value) -> String {
        String::from_utf8(value.to_json()).unwrap()
    }

    /// Each row as a Celery worker of 5.7 says it.
    #[test]
    fn what_was_done_is_said_in_celerys_words() {
        let ids = || vec!["a".to_owned()];
        let queue = || "q".to_owned();
        for (done, want) in [
            (ControlDone::Pong, r#"{"ok": "pong"}"#),
            (ControlDone::UnknownTask, r#"{"error": "unknown task"}"#),
            (ControlDone::RateSet { limited: true }, r#"{"ok": "new rate limit set successfully"}"#),
            (ControlDone::RateSet { limited: false }, r#"{"ok": "rate limit disabled successfully"}"#),
            (ControlDone::TimeLimitSet, r#"{"ok": "time limits set successfully"}"#),
            (ControlDone::Grown { more: true }, r#"{"ok": "pool will grow"}"#),
            (ControlDone::Grown { more: false }, r#"{"ok": "pool will shrink"}"#),
            (ControlDone::Rescaled { max: 8, min: 2 }, r#"{"ok": "autoscale now max=8 min=2"}"#),
            (ControlDone::NoAutoscale, r#"{"error": "ValueError('Autoscale not enabled')"}"#),
            (ControlDone::NoRestart, r#"{"error": "ValueError('Pool restarts not enabled')"}"#),
            (ControlDone::Serving { queue: queue(), before: true }, r#"{"ok": "already consuming from 'q'"}"#),
            (ControlDone::Serving { queue: queue(), before: false }, r#"{"ok": "add consumer q"}"#),
            (ControlDone::BadQueue { why: "it's taken".into() }, r#"{"error": "ValueError(\"it's taken\")"}"#),
            (ControlDone::Left { queue: queue() }, r#"{"ok": "no longer consuming from q"}"#),
            (ControlDone::Events { on: true, changed: true }, r#"{"ok": "task events enabled"}"#),
            (ControlDone::Events { on: true, changed: false }, r#"{"ok": "task events already enabled"}"#),
            (ControlDone::Events { on: false, changed: true }, r#"{"ok": "task events disabled"}"#),
            (ControlDone::Events { on: false, changed: false }, r#"{"ok": "task events already disabled"}"#),
            (ControlDone::Revoked(ids()), r#"{"ok": "tasks {'a'} flagged as revoked"}"#),
            (ControlDone::Terminated(ids()), r#"{"ok": "terminate: a"}"#),
            (ControlDone::Terminated(Vec::new()), r#"{"ok": "terminate: tasks unknown"}"#),
        ] {
            assert_eq!(json(done_words(&done)), want, "{done:?}");
        }
        let other = json(done_words(&ControlDone::OtherBinding { queue: queue() }));
        assert!(other.starts_with(r#"{"error": "NotImplementedError('add_consumer: queue q is not bound"#), "{other}");
    }

    #[test]
    fn a_reason_to_wait_is_said_with_its_numbers() {
        let until = Some(UNIX_EPOCH + Duration::from_secs(7));
        let rate = Some(Rate { per: Duration::from_secs(60), ..Rate::per_second(10.0) });
        for (waits, want) in [
            (WaitsFor::Alone { crashes: 2 }, r#"{"for": "alone", "crashes": 2}"#),
            (
                WaitsFor::Slot { lane: LaneKind::Process, slots: 2, running: 1 },
                r#"{"for": "slot", "lane": "process", "slots": 2, "running": 1}"#,
            ),
            (WaitsFor::Eta { until }, r#"{"for": "eta", "until": 7.0}"#),
            (WaitsFor::Eta { until: None }, r#"{"for": "eta", "until": null}"#),
            (WaitsFor::Rate { rate, until }, r#"{"for": "rate", "until": 7.0, "rate": "10/m"}"#),
            (WaitsFor::Rate { rate: None, until: None }, r#"{"for": "rate", "until": null}"#),
        ] {
            assert_eq!(json(waits_words(&waits).into()), want, "{waits:?}");
        }
    }

    #[test]
    fn a_servers_name_and_port_are_read_from_its_url() {
        for (url, host, port) in [
            ("redis://:***@far.example:7000/1", "far.example", Some(7000)),
            ("redis://far.example/1", "far.example", Some(6379)),
            ("sqlite:tasks.db", "sqlite", None),
        ] {
            assert_eq!((host_of(url).as_str(), port_of(url)), (host, port), "{url}");
        }
    }
}

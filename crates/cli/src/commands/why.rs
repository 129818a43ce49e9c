//! `longshore why`: why is this task not running?

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::{Doing, Found, QueueState};
use longshore_celery::{Value, control::Request};
use serde_json::{Value as Json, json};

use crate::{
    queue::{
        Fault, Place,
        remote::{PATIENCE, ask, at_workers, serves},
        show::{Brief, clock, plain, time, until, whereabouts},
        wait::unserved,
    },
    units::show_duration,
};

/// What a task waits for, if it waits for anything.
#[derive(Debug, PartialEq)]
struct Why {
    /// What it does, in one word.
    state: &'static str,
    /// What it waits for, in one word.
    reason: Option<&'static str>,
    /// Both, for people.
    text: String,
}

/// Says where a task is, and what holds it up. 9 for one that nobody knows.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(id: &str, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let found = place.broker().find(id).await?;
    // What was finished between two looks has a result.
    let stored = place.client.result(id).stored().await?;
    if let Some(stored) = stored.filter(|stored| stored.state.is_ready() || found.is_empty()) {
        let done = stored.date_done.map(|at| format!(" at {}", time(at))).unwrap_or_default();
        let text = format!("has ended: {}{done} (longshore result {id})", stored.state);
        let reason = Json::Null;
        match place.json {
            true => writeln!(
                out,
                "{}",
                json!({ "id": id, "state": stored.state.as_str(), "reason": reason, "text": text, "done": stored.date_done.map(time) })
            )?,
            false => writeln!(out, "it {text}")?,
        }
        return Ok(0);
    }
    if found.is_empty() {
        // One that was acknowledged before it began is known to its worker alone.
        let Why { state, reason, text } = at_worker(id, place, SystemTime::now()).await.ok_or_else(unknown)?;
        match place.json {
            true => writeln!(out, "{}", json!({ "id": id, "state": state, "reason": reason, "text": text }))?,
            false => writeln!(out, "it {text}")?,
        }
        return Ok(0);
    }
    for found in &found {
        let states = place.broker().queues(&[Arc::from(found.queue.as_str())]).await?;
        let state = states.iter().find(|state| state.name == found.queue);
        let why = why(id, found, state, place).await;
        match place.json {
            true => writeln!(out, "{}", document(id, found, state.and_then(|state| state.paused.as_deref()), &why))?,
            false => writeln!(out, "it {}", why.text)?,
        }
    }
    Ok(0)
}

/// What holds a task up. Workers are asked where only they know.
async fn why(id: &str, found: &Found, queue: Option<&QueueState>, place: &Place) -> Why {
    let now = SystemTime::now();
    let mut text = whereabouts(found, queue, now);
    let paused = queue.is_some_and(|queue| queue.paused.is_some());
    match &found.doing {
        Doing::Waiting { since, .. } => {
            if let Some(age) = since.and_then(|since| now.duration_since(since).ok()) {
                text = aged(&text, age);
            }
            if paused {
                return Why { state: "waiting", reason: Some("paused"), text };
            }
            let (hint, reason) = in_line(found, place).await;
            text.push_str(&hint);
            Why { state: "waiting", reason: Some(reason), text }
        }
        Doing::Later { .. } => Why { state: "later", reason: Some(if paused { "paused" } else { "eta" }), text },
        Doing::Dead { .. } => Why { state: "dead", reason: None, text },
        Doing::Held { .. } => at_worker(id, place, now).await.unwrap_or(Why { state: "held", reason: None, text }),
    }
}

/// With its age behind its place: `waits in queue cpu, 14th of 689 (age 3m12s); …`.
fn aged(text: &str, age: Duration) -> String {
    let (place, rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    format!("{place} (age {}){rest}", show_duration(Duration::from_secs(age.as_secs())))
}

/// What a task waits for that lies in a queue which is not paused: that somebody serves it, that a slot is free at those who do, or just its turn.
async fn in_line(found: &Found, place: &Place) -> (String, &'static str) {
    let lane = Request::new("registered").argument("taskinfoitems", vec!["lane"]);
    let (queues, stats, tasks) = tokio::join!(
        ask(place.broker(), Request::new("active_queues"), PATIENCE),
        ask(place.broker(), Request::new("stats"), PATIENCE),
        ask(place.broker(), lane, PATIENCE),
    );
    let queues = queues.unwrap_or_default();
    let serving: Vec<&str> = queues.iter().filter(|(_, queues)| serves(queues, &found.queue)).map(|(node, _)| node.as_str()).collect();
    if serving.is_empty() {
        return (unserved(&found.queue), "unserved");
    }
    let (stats, tasks) = (stats.unwrap_or_default(), tasks.unwrap_or_default());
    let of = |replies: &'_ [(String, Value)], node: &str| replies.iter().find(|(from, _)| from == node).map(|(_, reply)| reply.clone());
    let task = Brief::of(&found.raw).task;
    let full: Option<Vec<String>> = serving
        .iter()
        .map(|node| {
            let lane = lane_of(&of(&tasks, node)?, &task)?;
            full(&of(&stats, node)?, &lane).map(|(running, slots)| format!("{}: {lane}, {running} of {slots}", plain(node)))
        })
        .collect();
    match full {
        Some(full) => (format!("; every slot of its lane is taken ({})", full.join("; ")), "slots"),
        None => (String::new(), "line"),
    }
}

/// The lane of a task, from what a worker of ours replied to `registered`: `shop.add [lane=process]`.
fn lane_of(registered: &Value, task: &str) -> Option<String> {
    let tasks = registered.as_list()?.iter().filter_map(Value::as_str);
    let mut lanes = tasks.filter_map(|known| known.strip_prefix(task)?.strip_prefix(" [lane=")?.strip_suffix(']'));
    lanes.next().map(plain)
}

/// How many run on a lane of a worker, and its slots, if they are all taken.
fn full(stats: &Value, lane: &str) -> Option<(i64, i64)> {
    let count = |of: &str| stats.get(of)?.get(lane)?.as_i64();
    let (running, slots) = (count("running")?, count("lanes")?);
    (running >= slots).then_some((running, slots))
}

/// What the worker that has it says of it.
async fn at_worker(id: &str, place: &Place, now: SystemTime) -> Option<Why> {
    let known = at_workers(place.broker(), &[id]).await.ok()?.remove(id)?;
    Some(told(&known.node, &known.doing, &known.info, now))
}

/// What a worker said of it.
fn told(node: &str, state: &str, info: &Value, now: SystemTime) -> Why {
    let node = plain(node);
    let at = |value: Option<&Value>| {
        let seconds = Duration::try_from_secs_f64(value?.as_f64()?).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let waits = info.get("waits");
    let of = |name: &str| waits.and_then(|waits| waits.get(name));
    let number = |name: &str| of(name).and_then(Value::as_i64);
    let due = at(of("until")).map(|due| format!(": due {}, {}", clock(due), until(due, now))).unwrap_or_default();
    let (state, reason, text) = match (state, of("for").and_then(Value::as_str)) {
        ("active", _) => {
            let since = at(info.get("time_start")).map(|at| format!(" since {}", clock(at))).unwrap_or_default();
            ("active", None, format!("runs at {node}{since}"))
        }
        ("reserved", Some("alone")) => {
            let crashes = number("crashes").unwrap_or(1);
            let died = if crashes == 1 { "one that ran it has died".to_owned() } else { format!("{crashes} that ran it have died") };
            ("reserved", Some("alone"), format!("waits at {node} until it may run alone: {died}"))
        }
        ("reserved", _) => {
            let lane = of("lane").and_then(Value::as_str).map(plain);
            let taken = match (lane, number("running"), number("slots")) {
                (Some(lane), Some(running), Some(slots)) if running >= slots => {
                    format!(": every slot of its lane is taken ({lane}, {running} of {slots})")
                }
                _ => String::new(),
            };
            ("reserved", Some("slots"), format!("waits for a free slot at {node}{taken}"))
        }
        ("scheduled", Some("rate")) => {
            let rate = of("rate").and_then(Value::as_str).map(|rate| format!(" of {}", plain(rate))).unwrap_or_default();
            ("scheduled", Some("rate"), format!("waits at {node} for its rate{rate}{due}"))
        }
        ("scheduled", _) => {
            let text = if due.is_empty() { "waits for its time at" } else { "waits for its ETA at" };
            ("scheduled", Some("eta"), format!("{text} {node}{due}"))
        }
        _ => ("ended", None, format!("has ended at {node}, which is about to say so")),
    };
    Why { state, reason, text }
}

/// Nobody knows it.
pub(super) fn unknown() -> Fault {
    Fault { code: 9, message: "unknown id: not in results, queues, unacked or schedules".to_owned() }
}

fn document(id: &str, found: &Found, paused: Option<&str>, why: &Why) -> Json {
    let mut document = json!({
        "id": id,
        "state": why.state,
        "reason": why.reason,
        "text": why.text,
        "queue": found.queue,
        "task": Brief::of(&found.raw).json(),
        "paused_by": paused,
    });
    let doing = match &found.doing {
        Doing::Waiting { place, of, since } => json!({ "waiting": { "place": place, "of": of, "since": since.map(time) } }),
        Doing::Later { due } => json!({ "later": { "due": time(*due) } }),
        Doing::Held { by, since } => json!({ "held": { "by": by, "since": since.map(time) } }),
        Doing::Dead { reason } => json!({ "dead": { "reason": reason } }),
    };
    document["doing"] = doing;
    document
}

#[cfg(test)]
mod tests {
    use longshore_celery::Map;

    use super::*;

    fn said(state: &str, waits: &[(&str, Value)]) -> Why {
        let waits: Map = waits.iter().map(|(name, value)| (*name, value.clone())).collect();
        let info = Value::Map(Map::from_iter([("waits", Value::from(waits))]));
        told("w@h", state, &info, SystemTime::UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn what_a_worker_says_of_a_task_that_waits_there_is_told_with_its_reason() {
        let why = said("reserved", &[("for", "slot".into()), ("lane", "process".into()), ("slots", 2.into()), ("running", 2.into())]);
        let text = "waits for a free slot at w@h: every slot of its lane is taken (process, 2 of 2)";
        assert_eq!(why, Why { state: "reserved", reason: Some("slots"), text: text.into() });
        let why = said("reserved", &[("for", "alone".into()), ("crashes", 2.into())]);
        let text = "waits at w@h until it may run alone: 2 that ran it have died";
        assert_eq!(why, Why { state: "reserved", reason: Some("alone"), text: text.into() });
        let why = said("scheduled", &[("for", "rate".into()), ("rate", "10/m".into()), ("until", 1005.0.into())]);
        assert_eq!((why.state, why.reason), ("scheduled", Some("rate")));
        assert!(why.text.starts_with("waits at w@h for its rate of 10/m: due ") && why.text.ends_with(", in 5s"), "{}", why.text);
        let why = said("scheduled", &[("for", "eta".into()), ("until", 1090.0.into())]);
        assert!(why.text.starts_with("waits for its ETA at w@h: due ") && why.text.ends_with(", in 1m30s"), "{}", why.text);
    }

    #[test]
    fn what_a_worker_of_celerys_says_is_told_without_what_it_does_not_know() {
        assert_eq!(told("w@h", "reserved", &Value::Map(Map::default()), SystemTime::now()).text, "waits for a free slot at w@h");
        assert_eq!(told("w@h", "scheduled", &Value::Null, SystemTime::now()).text, "waits for its time at w@h");
        assert_eq!(told("w\u{1b}@h", "active", &Value::Null, SystemTime::now()).text, "runs at w\u{fffd}@h");
    }

    #[test]
    fn the_age_stands_behind_the_place() {
        let age = Duration::from_millis(192_700);
        assert_eq!(aged("waits in queue cpu, 14th of 689; retried", age), "waits in queue cpu, 14th of 689 (age 3m12s); retried");
        assert_eq!(aged("waits in queue cpu, 1st of 1", Duration::ZERO), "waits in queue cpu, 1st of 1 (age 0s)");
    }

    #[test]
    fn a_lane_is_full_when_as_many_run_as_it_has_slots() {
        let registered = Value::parse(br#"["shop.add [lane=process]", "shop.adder [lane=async]"]"#, 8).unwrap();
        assert_eq!(lane_of(&registered, "shop.add").as_deref(), Some("process"));
        assert_eq!(lane_of(&registered, "shop"), None);
        let stats =
            |running| Value::parse(format!(r#"{{"lanes": {{"process": 2}}, "running": {{"process": {running}}}}}"#).as_bytes(), 8).unwrap();
        assert_eq!((full(&stats(2), "process"), full(&stats(1), "process"), full(&stats(2), "cpu")), (Some((2, 2)), None, None));
    }
}

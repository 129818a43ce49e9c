//! `longshore why`: why is this task not running?

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use longshore_brokers::{Doing, Found, QueueState};
use longshore_ops::{
    LaneUse, OpsError, TaskAtWorker, WaitReason, WorkerStage,
    why::{TaskPlace, WhyAnswer, WhyRequest, why},
};
use serde_json::Value as Json;

use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{clock, json_line, plain, time, until, whereabouts},
        wait::unserved,
    },
    units::show_duration,
};

/// Says where a task is, and what holds it up. 9 for one that nobody knows.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(id: &str, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    for answer in why(&place.client, &WhyRequest::new(id)).await? {
        let text = sentence(&answer, SystemTime::now());
        match place.json {
            true => json_line(out, &document(&answer, text)?)?,
            false => writeln!(out, "it {text}")?,
        }
    }
    Ok(Exit::Done)
}

/// Returns the answer for programs: its members, with the sentence behind the reason.
fn document(answer: &WhyAnswer, text: String) -> Result<Json, Fault> {
    let Json::Object(members) = serde_json::to_value(answer).map_err(std::io::Error::from)? else { return Ok(Json::Null) };
    let mut document = serde_json::Map::new();
    for (name, member) in members {
        let last = name == "reason";
        document.insert(name, member);
        if last {
            document.insert("text".to_owned(), Json::from(text.as_str()));
        }
    }
    Ok(Json::Object(document))
}

/// Returns an answer in a sentence whose subject is the task.
fn sentence(answer: &WhyAnswer, now: SystemTime) -> String {
    match &answer.place {
        TaskPlace::Ended { state, done } => {
            let done = done.map(|at| format!(" at {}", time(at))).unwrap_or_default();
            format!("has ended: {state}{done} (longshore result {})", answer.id)
        }
        TaskPlace::Worker(worker) | TaskPlace::Broker { worker: Some(worker), .. } => at_worker(worker, now),
        TaskPlace::Broker { found, queue, .. } => in_broker(found, queue.as_deref(), answer.reason.as_ref(), now),
        _ => "is where this version of longshore does not know it".to_owned(),
    }
}

/// Returns where a message is and what it waits for.
fn in_broker(found: &Found, queue: Option<&QueueState>, reason: Option<&WaitReason>, now: SystemTime) -> String {
    let mut text = whereabouts(found, queue, now);
    let Doing::Waiting { since, .. } = &found.doing else { return text };
    if let Some(age) = since.and_then(|since| now.duration_since(since).ok()) {
        text = aged(&text, age);
    }
    match reason {
        Some(WaitReason::Unserved) => text.push_str(&unserved(&found.queue)),
        Some(WaitReason::Slots { taken }) => {
            let taken: Vec<String> = taken.iter().map(|lane| format!("{}: {}", plain(&lane.node), of_lane(lane))).collect();
            text.push_str(&format!("; every slot of its lane is taken ({})", taken.join("; ")));
        }
        // A pause stands in the text already; its turn comes by itself.
        _ => {}
    }
    text
}

/// Puts its age behind its place: `waits in queue cpu, 14th of 689 (age 3m12s); …`.
fn aged(text: &str, age: Duration) -> String {
    let (place, rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    format!("{place} (age {}){rest}", show_duration(Duration::from_secs(age.as_secs())))
}

fn of_lane(lane: &LaneUse) -> String {
    format!("{}, {} of {}", plain(&lane.lane), lane.running, lane.slots)
}

/// Returns what a worker says of a task, with the reason that it gives.
fn at_worker(worker: &TaskAtWorker, now: SystemTime) -> String {
    let node = plain(&worker.node);
    let due = |due: &Option<SystemTime>| due.map(|due| format!(": due {}, {}", clock(due), until(due, now))).unwrap_or_default();
    match (&worker.waits, worker.stage) {
        (Some(WaitReason::Alone { crashes }), _) => {
            let died = if *crashes == 1 { "one that ran it has died".to_owned() } else { format!("{crashes} that ran it have died") };
            format!("waits at {node} until it may run alone: {died}")
        }
        (Some(WaitReason::Slots { taken }), _) => {
            let taken = taken.first().map(|lane| format!(": every slot of its lane is taken ({})", of_lane(lane))).unwrap_or_default();
            format!("waits for a free slot at {node}{taken}")
        }
        (Some(WaitReason::Rate { rate, due: at }), _) => {
            let rate = rate.as_ref().map(|rate| format!(" of {}", plain(rate))).unwrap_or_default();
            format!("waits at {node} for its rate{rate}{}", due(at))
        }
        (Some(WaitReason::Eta { due: at @ Some(_) }), _) => format!("waits for its ETA at {node}{}", due(at)),
        (Some(_), _) => format!("waits for its time at {node}"),
        (None, WorkerStage::Active) => {
            let since = worker.since.map(|at| format!(" since {}", clock(at))).unwrap_or_default();
            format!("runs at {node}{since}")
        }
        (None, _) => format!("has ended at {node}, which is about to say so"),
    }
}

/// Returns what is said of an id that nobody knows.
pub(super) fn unknown(place: &Place) -> Fault {
    OpsError::unknown(place.connected(), "").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_stands_behind_the_place() {
        let age = Duration::from_millis(192_700);
        assert_eq!(aged("waits in queue cpu, 14th of 689; retried", age), "waits in queue cpu, 14th of 689 (age 3m12s); retried");
        assert_eq!(aged("waits in queue cpu, 1st of 1", Duration::ZERO), "waits in queue cpu, 1st of 1 (age 0s)");
    }
}

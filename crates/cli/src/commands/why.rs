//! `longshore why`: why is this task not running?

use std::{io::Write, sync::Arc, time::SystemTime};

use longshore_brokers::{Doing, Found};
use serde_json::{Value as Json, json};

use crate::queue::{
    Fault, Place,
    remote::at_workers,
    show::{Brief, time, whereabouts},
};

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
        match place.json {
            true => writeln!(out, "{}", json!({ "id": id, "state": stored.state.as_str(), "done": stored.date_done.map(time) }))?,
            false => writeln!(out, "it has ended: {}{done} (longshore result {id})", stored.state)?,
        }
        return Ok(0);
    }
    if found.is_empty() {
        return Err(unknown());
    }
    for found in &found {
        let states = place.broker().queues(&[Arc::from(found.queue.as_str())]).await?;
        let state = states.iter().find(|state| state.name == found.queue);
        match place.json {
            true => writeln!(out, "{}", document(found, state.and_then(|state| state.paused.as_deref())))?,
            false => {
                let at = if matches!(found.doing, Doing::Held { .. }) { at_worker(id, place).await } else { None };
                writeln!(out, "it {}", at.unwrap_or_else(|| whereabouts(found, state, SystemTime::now())))?;
            }
        }
    }
    Ok(0)
}

/// What the worker that has it says of it.
async fn at_worker(id: &str, place: &Place) -> Option<String> {
    at_workers(place.broker(), &[id]).await.ok()?.get(id).map(ToString::to_string)
}

/// Nobody knows it.
pub(super) fn unknown() -> Fault {
    Fault { code: 9, message: "unknown id: not in results, queues, unacked or schedules".to_owned() }
}

fn document(found: &Found, paused: Option<&str>) -> Json {
    let mut document = json!({ "queue": found.queue, "task": Brief::of(&found.raw).json(), "paused_by": paused });
    let doing = match &found.doing {
        Doing::Waiting { place, of } => json!({ "waiting": { "place": place, "of": of } }),
        Doing::Later { due } => json!({ "later": { "due": time(*due) } }),
        Doing::Held { by, since } => json!({ "held": { "by": by, "since": since.map(time) } }),
        Doing::Dead { reason } => json!({ "dead": { "reason": reason } }),
    };
    document["doing"] = doing;
    document
}

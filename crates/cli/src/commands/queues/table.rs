//! Queues for people, and for programs.

use std::{io::Write, time::SystemTime};

use longshore_brokers::QueueState;
use serde_json::{Value as Json, json};

use super::flow::Flows;
use crate::{
    queue::show::{clock, plain, time},
    units::{show_count, show_duration},
};

/// What nobody knows.
const UNKNOWN: &str = "–";
/// A pause that is older is told with its day.
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Lent to workers, to be run as soon as may be: those that run, and those that are next.
fn held(state: &QueueState) -> u64 {
    state.held.saturating_sub(state.held_for_later)
}

/// To be run at a time that is still to come, whether a worker holds it until then or the broker.
fn eta(state: &QueueState) -> u64 {
    state.held_for_later + state.later
}

pub(super) fn json(state: &QueueState, flows: &Flows) -> Json {
    let flow = flows.of(&state.name);
    json!({
        "queue": state.name,
        "waiting": state.waiting,
        "held": held(state),
        "running": flow.running,
        "eta": eta(state),
        "dead": state.dead,
        "dead_dropped": state.dead_dropped,
        "oldest_seconds": state.oldest.map(|age| age.as_secs_f64()),
        "oldest_at_least": state.oldest_at_least,
        "in_per_second": flow.incoming,
        "out_per_second": flow.outgoing,
        "workers": flow.workers,
        "window_seconds": flows.window.as_secs_f64(),
        "paused_by": state.paused,
        "paused_since": state.paused_since.map(time),
    })
}

pub(super) fn write(states: &[QueueState], flows: &Flows, out: &mut dyn Write) -> std::io::Result<()> {
    if states.is_empty() {
        return writeln!(out, "no queues yet: a task that is sent makes one");
    }
    let wide = states.iter().map(|state| state.name.chars().count()).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "{:<wide$}  {:>9} {:>7} {:>7} {:>7} {:>6} {:>8} {:>8} {:>8} {:>8}  STATE",
        "QUEUE", "WAITING", "HELD", "RUNNING", "ETA", "DEAD", "OLDEST", "IN/s", "OUT/s", "WORKERS"
    )?;
    for state in states {
        let least = if state.oldest_at_least { "≥" } else { "" };
        let oldest = state.oldest.map_or_else(|| UNKNOWN.to_owned(), |age| format!("{least}{}", show_duration(age)));
        let [waiting, held, eta, dead] = [state.waiting, held(state), eta(state), state.dead].map(show_count);
        let flow = flows.of(&state.name);
        let running = flow.running.map_or_else(|| UNKNOWN.to_owned(), show_count);
        let rate = |rate: Option<f64>| rate.map_or_else(|| UNKNOWN.to_owned(), |rate| format!("{rate:.1}"));
        let workers = flow.workers.map_or_else(|| UNKNOWN.to_owned(), |count| count.to_string());
        writeln!(
            out,
            "{:<wide$}  {waiting:>9} {held:>7} {running:>7} {eta:>7} {dead:>6} {oldest:>8} {:>8} {:>8} {workers:>8}  {}",
            plain(&state.name),
            rate(flow.incoming),
            rate(flow.outgoing),
            standing(state, SystemTime::now())
        )?;
    }
    Ok(())
}

/// `running`, or `paused by ops@laptop 12:00:41`.
pub(super) fn standing(state: &QueueState, now: SystemTime) -> String {
    let Some(by) = &state.paused else { return "running".to_owned() };
    let since = match state.paused_since {
        None => String::new(),
        Some(since) if now.duration_since(since).unwrap_or_default() < DAY => format!(" {}", clock(since)),
        Some(since) => format!(" {}", time(since)),
    };
    format!("paused by {}{since}", plain(by))
}

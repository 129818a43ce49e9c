//! Queues for people.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use longshore_ops::queues::QueueInfo;

use crate::{
    queue::show::{clock, plain, time},
    units::{show_count, show_duration},
};

/// Sign for what nobody knows.
const UNKNOWN: &str = "–";
/// Age of a pause from which on it is told with its day.
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn write(queues: &[QueueInfo], out: &mut dyn Write) -> std::io::Result<()> {
    if queues.is_empty() {
        return writeln!(out, "no queues yet: a task that is sent makes one");
    }
    let wide = queues.iter().map(|queue| queue.name.chars().count()).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "{:<wide$}  {:>9} {:>7} {:>7} {:>7} {:>6} {:>8} {:>8} {:>8} {:>8}  STATE",
        "QUEUE", "WAITING", "HELD", "RUNNING", "ETA", "DEAD", "OLDEST", "IN/s", "OUT/s", "WORKERS"
    )?;
    for queue in queues {
        let least = if queue.oldest_at_least { "≥" } else { "" };
        let oldest = queue.oldest.map_or_else(|| UNKNOWN.to_owned(), |age| format!("{least}{}", show_duration(age)));
        let [waiting, held, eta, dead] = [queue.waiting, queue.held, queue.eta, queue.dead].map(show_count);
        let running = queue.running.map_or_else(|| UNKNOWN.to_owned(), show_count);
        let rate = |rate: Option<f64>| rate.map_or_else(|| UNKNOWN.to_owned(), |rate| format!("{rate:.1}"));
        let workers = queue.workers.map_or_else(|| UNKNOWN.to_owned(), |count| count.to_string());
        writeln!(
            out,
            "{:<wide$}  {waiting:>9} {held:>7} {running:>7} {eta:>7} {dead:>6} {oldest:>8} {:>8} {:>8} {workers:>8}  {}",
            plain(&queue.name),
            rate(queue.in_per_second),
            rate(queue.out_per_second),
            standing(queue, SystemTime::now())
        )?;
    }
    Ok(())
}

/// Returns `running`, or `paused by ops@laptop 12:00:41`.
fn standing(queue: &QueueInfo, now: SystemTime) -> String {
    let Some(by) = &queue.paused_by else { return "running".to_owned() };
    let since = match queue.paused_since {
        None => String::new(),
        Some(since) if now.duration_since(since).unwrap_or_default() < DAY => format!(" {}", clock(since)),
        Some(since) => format!(" {}", time(since)),
    };
    format!("paused by {}{since}", plain(by))
}

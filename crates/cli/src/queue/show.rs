//! Messages, ages and places for people.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use longshore_brokers::{Doing, Found, QueueState};
use longshore_ops::{MessageBrief, TaskAtWorker, WorkerStage};
use serde::Serialize;

use crate::units::show_duration;

pub use longshore_ops::{cut, time_text as time};

/// Returns a message on one line: `shop.add[1f0c…] (2, 3)`.
pub fn brief(message: &MessageBrief) -> String {
    match &message.unreadable {
        Some(reason) => format!("unreadable: {}", plain(reason)),
        None => format!("{}[{}] {}", plain(&message.task), plain(&message.id), plain(&message.args)),
    }
}

/// Writes an answer as one line of JSON.
///
/// # Errors
/// Those of `out`.
pub fn json_line(out: &mut dyn Write, answer: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    writeln!(out)
}

/// Text that can do nothing to a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|each| if each.is_control() { '\u{fffd}' } else { each }).collect()
}

/// The time of day here, for people.
pub fn clock(at: SystemTime) -> String {
    let Ok(at) = jiff::Timestamp::try_from(at) else { return String::new() };
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// `1st`, `2nd`, `14th`.
pub fn ordinal(number: u64) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// Names whoever pauses a queue: this user on this machine.
pub fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|user| !user.is_empty());
    format!("{}@{}", user.unwrap_or_else(|| "someone".to_owned()), host())
}

/// This machine's name.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// Says where a task is, in a sentence.
pub fn whereabouts(found: &Found, queue: Option<&QueueState>, now: SystemTime) -> String {
    let name = plain(&found.queue);
    let mut text = match &found.doing {
        Doing::Waiting { place, of, .. } => format!("waits in queue {name}, {} of {of}", ordinal(*place)),
        Doing::Later { due } => format!("is held back in queue {name} until {}, {}", clock(*due), until(*due, now)),
        Doing::Held { by, since } => {
            let by = by.as_deref().map_or_else(|| "a worker".to_owned(), plain);
            let since = since.map(|since| format!(" since {}", clock(since))).unwrap_or_default();
            format!("was taken from queue {name} by {by}{since}: it runs there, or waits for a free slot or its time")
        }
        Doing::Dead { reason } => format!("is a dead letter of queue {name}: {}", plain(reason)),
    };
    let brief = MessageBrief::read(&found.raw);
    if let (Doing::Held { .. }, Some(eta)) = (&found.doing, brief.eta.filter(|eta| *eta > now)) {
        text.push_str(&format!("; its ETA is {}, {}", clock(eta), until(eta, now)));
    }
    if brief.retries > 0 && !matches!(found.doing, Doing::Dead { .. }) {
        text.push_str(&format!("; retried {} {}", brief.retries, if brief.retries == 1 { "time" } else { "times" }));
    }
    if let Some((queue, by)) = queue
        .and_then(|queue| Some((queue, queue.paused.as_deref()?)))
        .filter(|_| matches!(found.doing, Doing::Waiting { .. } | Doing::Later { .. }))
    {
        let since = queue.paused_since.map(|since| format!(" since {}", clock(since))).unwrap_or_default();
        text.push_str(&format!("; the queue is paused by {}{since}", plain(by)));
    }
    text
}

/// Returns what a task does at its worker, in a sentence.
pub fn at_worker(at: &TaskAtWorker) -> String {
    let node = plain(&at.node);
    match (at.stage, at.since) {
        (WorkerStage::Active, Some(since)) => format!("runs at {node} since {}", clock(since)),
        (WorkerStage::Active, None) => format!("runs at {node}"),
        (WorkerStage::Reserved, _) => format!("waits for a free slot at {node}"),
        (WorkerStage::Scheduled, _) => format!("waits for its time at {node}"),
        _ => format!("has ended at {node}, which is about to say so"),
    }
}

/// `in 2m3s`, or `now`.
pub fn until(due: SystemTime, now: SystemTime) -> String {
    due.duration_since(now)
        .ok()
        .filter(|left| *left > Duration::ZERO)
        .map_or_else(|| "now".to_owned(), |left| format!("in {}", show_duration(left)))
}

#[cfg(test)]
mod tests {
    use longshore_celery::Message;

    use super::*;

    #[test]
    fn places_are_counted_as_people_do() {
        let ordinals = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111, 113].map(ordinal);
        assert_eq!(ordinals.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th 113th");
    }

    #[test]
    fn what_cannot_be_read_is_shown_as_that_and_does_nothing_to_the_terminal() {
        assert!(brief(&MessageBrief::read(b"\x1b[2Jnonsense")).starts_with("unreadable: "));
        let message = Message { id: "\u{1b}[2J".into(), task: "t".into(), args: vec![1.into()], ..Message::default() };
        let text = brief(&MessageBrief::read(&message.encode(longshore_celery::Encoding::Json)));
        assert_eq!(text, "t[\u{fffd}[2J] (1,)");
    }

    #[test]
    fn a_sentence_says_where_a_task_is_and_what_holds_it_up() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let raw = Message { id: "i".into(), task: "t".into(), retries: 2, ..Message::default() }.encode(longshore_celery::Encoding::Json);
        let found = |doing| Found { queue: "cpu".into(), doing, raw: raw.clone() };
        let paused = QueueState { paused: Some("ops@laptop".into()), ..QueueState::default() };
        let waiting = found(Doing::Waiting { place: 14, of: 689, since: None });
        assert_eq!(
            whereabouts(&waiting, Some(&paused), now),
            "waits in queue cpu, 14th of 689; retried 2 times; the queue is paused by ops@laptop"
        );
        let later = whereabouts(&found(Doing::Later { due: now + Duration::from_secs(90) }), None, now);
        assert!(later.contains(", in 1m30s"), "{later}");
        let held = whereabouts(&found(Doing::Held { by: Some("w1@vm".into()), since: None }), Some(&paused), now);
        assert_eq!(held, "was taken from queue cpu by w1@vm: it runs there, or waits for a free slot or its time; retried 2 times");
        assert_eq!(whereabouts(&found(Doing::Dead { reason: "x".into() }), None, now), "is a dead letter of queue cpu: x");
    }
}

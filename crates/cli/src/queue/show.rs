//! Messages, ages and places for people.

use std::time::{Duration, SystemTime};

use longshore_brokers::{Doing, Found, QueueState};
use longshore_celery::{BadMessage, Limits, Message, REPR_LENGTH, args_repr, kwargs_repr};
use serde_json::{Value as Json, json};

use crate::units::show_duration;

/// So much of a task's arguments is shown.
const ARGS: usize = 128;

/// What is shown of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Brief {
    /// The task's id.
    pub id: String,
    /// Its name.
    pub task: String,
    /// Its arguments, as Python shows them, not all if there are many.
    pub args: String,
    /// How often it was retried.
    pub retries: u32,
    /// Not to be started before.
    pub eta: Option<SystemTime>,
    /// Why it cannot be read.
    pub bad: Option<String>,
}

impl Brief {
    /// Reads a message as far as it can be read.
    pub fn of(raw: &[u8]) -> Self {
        match Message::decode(raw, &Limits::default()) {
            Ok(message) => {
                Self { args: args_of(&message), id: message.id, task: message.task, retries: message.retries, eta: message.eta, bad: None }
            }
            Err(BadMessage { reason, task, id, .. }) => {
                Self { id: id.unwrap_or_default(), task: task.unwrap_or_default(), bad: Some(reason), ..Self::default() }
            }
        }
    }

    /// `shop.add[1f0c…] (2, 3)`.
    pub fn text(&self) -> String {
        match &self.bad {
            Some(reason) => format!("unreadable: {}", plain(reason)),
            None => format!("{}[{}] {}", plain(&self.task), plain(&self.id), plain(&self.args)),
        }
    }

    /// The same for programs.
    pub fn json(&self) -> Json {
        json!({ "id": self.id, "task": self.task, "args": self.args, "retries": self.retries, "eta": self.eta.map(time), "unreadable": self.bad })
    }
}

/// A task's arguments, as far as they are shown.
pub fn args_of(message: &Message) -> String {
    let args = message.argsrepr.clone().unwrap_or_else(|| args_repr(&message.args, REPR_LENGTH));
    let kwargs = message.kwargsrepr.clone().unwrap_or_else(|| kwargs_repr(&message.kwargs, REPR_LENGTH));
    let both = match (args.as_str(), kwargs.as_str()) {
        (_, "{}" | "") => args,
        ("()" | "[]" | "", _) => kwargs,
        _ => format!("{args} {kwargs}"),
    };
    cut(&both, ARGS)
}

/// The beginning of a text.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Text that can do nothing to a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|each| if each.is_control() { '\u{fffd}' } else { each }).collect()
}

/// A time for programs, in UTC.
pub fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
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

/// Who pauses a queue: this user on this machine.
pub fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|user| !user.is_empty());
    format!("{}@{}", user.unwrap_or_else(|| "someone".to_owned()), host())
}

/// This machine's name.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// Where a task is, in a sentence.
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
    let brief = Brief::of(&found.raw);
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

/// `in 2m3s`, or `now`.
pub fn until(due: SystemTime, now: SystemTime) -> String {
    due.duration_since(now)
        .ok()
        .filter(|left| *left > Duration::ZERO)
        .map_or_else(|| "now".to_owned(), |left| format!("in {}", show_duration(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_as_people_do() {
        let ordinals = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111, 113].map(ordinal);
        assert_eq!(ordinals.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th 113th");
    }

    #[test]
    fn what_cannot_be_read_is_shown_as_that_and_does_nothing_to_the_terminal() {
        assert!(Brief::of(b"\x1b[2Jnonsense").text().starts_with("unreadable: "));
        let message = Message { id: "\u{1b}[2J".into(), task: "t".into(), args: vec![1.into()], ..Message::default() };
        let text = Brief::of(&message.encode(longshore_celery::Encoding::Json)).text();
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

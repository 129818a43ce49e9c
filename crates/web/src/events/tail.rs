//! The last events, for whoever watches: a ring that all read, so that a slow reader costs nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::heard::HeardEvent;

/// Most events that are kept.
const MOST: usize = 2_000;
/// Most bytes that they take: an event with a traceback may have 40 KB.
const MOST_BYTES: usize = 8 << 20;
/// Most tasks whose names are remembered, since most events tell only an id.
const MOST_NAMES: usize = 20_000;

/// The last events.
#[derive(Debug)]
pub(crate) struct EventTail {
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<HeardEvent>>,
    bytes: usize,
    last: u64,
    names: HashMap<String, String>,
    /// The ids in the order in which they came.
    order: VecDeque<String>,
}

/// Filter of events that somebody wants to see; all of it has to be true.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventFilter {
    /// Kinds, or their beginnings: `task-failed`, `task`.
    pub(crate) kinds: Vec<String>,
    /// Name of the task; with `*` at its end, what it begins with.
    pub(crate) task: Option<String>,
    /// Name of the worker, likewise.
    pub(crate) worker: Option<String>,
    /// Id of the task.
    pub(crate) id: Option<String>,
}

impl EventFilter {
    /// Returns whether this one is meant.
    pub(crate) fn means(&self, event: &HeardEvent) -> bool {
        let is_kind =
            |wanted: &String| event.kind == *wanted || event.kind.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('-'));
        let is_named = |pattern: &String, name: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        (self.kinds.is_empty() || self.kinds.iter().any(is_kind))
            && self.task.as_ref().is_none_or(|task| is_named(task, event.task.as_deref().unwrap_or_default()))
            && self.worker.as_ref().is_none_or(|worker| is_named(worker, &event.worker))
            && self.id.as_ref().is_none_or(|id| event.id.as_ref() == Some(id))
    }
}

/// Events for a reader, and how many it missed because it came too late.
#[derive(Debug, Default)]
pub(crate) struct TailPart {
    pub(crate) events: Vec<Arc<HeardEvent>>,
    pub(crate) missed: u64,
    /// Number of the last event that was looked at.
    pub(crate) last: u64,
}

impl Default for EventTail {
    fn default() -> Self {
        Self { ring: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl EventTail {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event: numbers it, and adds the task's name where it is known.
    pub(crate) fn take(&self, mut event: HeardEvent) -> Arc<HeardEvent> {
        let mut ring = self.ring();
        ring.last += 1;
        event.number = ring.last;
        if let Some(id) = &event.id {
            match &event.task {
                Some(name) => ring.remember(id, name),
                None => event.task = ring.names.get(id).cloned(),
            }
        }
        let event = Arc::new(event);
        ring.bytes += event.bytes();
        ring.events.push_back(event.clone());
        while ring.events.len() > MOST || ring.bytes > MOST_BYTES {
            let Some(oldest) = ring.events.pop_front() else { break };
            ring.bytes -= oldest.bytes();
        }
        event
    }

    /// Says that there is something new.
    pub(crate) fn tell(&self) {
        let last = self.ring().last;
        self.last.send_if_modified(|told| std::mem::replace(told, last) != last);
    }

    /// Returns a way to hear when there is something new.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// Returns what came after this number, the oldest first, at most so many.
    pub(crate) fn after(&self, number: u64, filter: &EventFilter, most: usize) -> TailPart {
        let ring = self.ring();
        let first = ring.events.front().map_or(ring.last + 1, |event| event.number);
        // A number that lies ahead is one of another server, or of this one before it was started
        // anew.
        let number = if number > ring.last { first.saturating_sub(1) } else { number };
        let mut part = TailPart { missed: first.saturating_sub(number + 1), last: ring.last, ..TailPart::default() };
        let behind = usize::try_from((number + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        for event in ring.events.iter().skip(behind) {
            if part.events.len() == most {
                part.last = event.number - 1;
                break;
            }
            if filter.means(event) {
                part.events.push(event.clone());
            }
        }
        part
    }

    /// Returns the last ones, the latest first.
    pub(crate) fn latest(&self, filter: &EventFilter, most: usize) -> Vec<Arc<HeardEvent>> {
        self.ring().events.iter().rev().filter(|event| filter.means(event)).take(most).cloned().collect()
    }

    /// Returns the number of the last event.
    pub(crate) fn last(&self) -> u64 {
        self.ring().last
    }
}

impl Ring {
    fn remember(&mut self, id: &str, name: &str) {
        if self.names.insert(id.to_owned(), name.to_owned()).is_none() {
            self.order.push_back(id.to_owned());
            if self.order.len() > MOST_NAMES
                && let Some(oldest) = self.order.pop_front()
            {
                self.names.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, id: &str, task: Option<&str>) -> HeardEvent {
        HeardEvent {
            kind: kind.to_owned(),
            id: Some(id.to_owned()),
            task: task.map(str::to_owned),
            worker: "w@h".to_owned(),
            ..HeardEvent::default()
        }
    }

    #[test]
    fn a_reader_that_comes_late_is_told_how_many_it_missed() {
        let tail = EventTail::default();
        for _ in 0..MOST + 10 {
            tail.take(event("task-started", "a", None));
        }
        let part = tail.after(4, &EventFilter::default(), 100);
        assert_eq!((part.missed, part.events.len(), part.last), (6, 100, 110));
        let rest = tail.after(part.last, &EventFilter::default(), MOST);
        assert_eq!((rest.missed, rest.events.len(), rest.last), (0, MOST - 100, MOST as u64 + 10));
        assert_eq!(tail.after(rest.last, &EventFilter::default(), 10).events.len(), 0);
        // A number of a server that was there before this one.
        assert_eq!(tail.after(1 << 40, &EventFilter::default(), 10).events.len(), 10);
    }

    #[test]
    fn events_that_tell_only_an_id_get_the_name_and_filters_use_it() {
        let tail = EventTail::default();
        tail.take(event("task-received", "a", Some("shop.add")));
        tail.take(event("task-started", "a", None));
        tail.take(event("task-received", "b", Some("mail.send")));
        let with = |change: fn(&mut EventFilter)| {
            let mut filter = EventFilter::default();
            change(&mut filter);
            tail.latest(&filter, 10).iter().map(|event| event.number).collect::<Vec<_>>()
        };
        assert_eq!(with(|filter| filter.task = Some("shop.*".to_owned())), [2, 1]);
        assert_eq!(with(|filter| filter.kinds = vec!["task-received".to_owned()]), [3, 1]);
        assert_eq!(with(|filter| filter.kinds = vec!["worker".to_owned(), "task".to_owned()]), [3, 2, 1]);
        assert_eq!(with(|filter| filter.kinds = vec!["tas".to_owned()]), [0; 0]);
        assert_eq!(with(|filter| (filter.worker, filter.id) = (Some("w@*".to_owned()), Some("b".to_owned()))), [3]);
    }

    #[test]
    fn long_events_are_kept_within_bytes_and_readers_are_told_how_many_they_missed() {
        let tail = EventTail::default();
        for _ in 0..MOST {
            tail.take(HeardEvent { traceback: Some("x".repeat(32 << 10)), ..event("task-failed", "a", None) });
        }
        let kept = tail.latest(&EventFilter::default(), MOST);
        let bytes: usize = kept.iter().map(|event| event.bytes()).sum();
        assert!(bytes <= MOST_BYTES && bytes > MOST_BYTES / 2 && tail.ring().bytes == bytes, "{bytes}");
        assert_eq!(tail.after(0, &EventFilter::default(), 1).missed, (MOST - kept.len()) as u64);
        for _ in 0..MOST {
            tail.take(event("task-started", "a", None));
        }
        assert_eq!(tail.latest(&EventFilter::default(), 2 * MOST).len(), MOST, "short ones are kept by number");
    }

    #[test]
    fn names_are_remembered_within_bounds() {
        let tail = EventTail::default();
        for number in 0..MOST_NAMES + 5 {
            tail.take(event("task-received", &format!("{number}"), Some("t")));
        }
        let ring = tail.ring();
        assert_eq!((ring.names.len(), ring.order.len(), ring.names.contains_key("0")), (MOST_NAMES, MOST_NAMES, false));
    }
}

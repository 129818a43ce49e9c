//! Queues that take nothing for now, and when each is tried again. Pure.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Wait after the first refusal; each one more doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait before a queue is tried again.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct HeldQueue {
    reason: String,
    wait: Duration,
    until: SystemTime,
    told: bool,
}

/// Queues that have refused what was last sent to them.
#[derive(Debug, Default)]
pub(super) struct HeldQueues(HashMap<Arc<str>, HeldQueue>);

impl HeldQueues {
    /// Returns until when nothing is sent to a queue; `None`: it is tried.
    pub(super) fn until(&self, queue: &str, now: SystemTime) -> Option<SystemTime> {
        self.0.get(queue).map(|held| held.until).filter(|until| *until > now)
    }

    /// Notes that a queue has taken nothing. Returns when it is tried again, and whether that is
    /// told: once of a queue, and once of all that give the same reason.
    pub(super) fn hold(&mut self, queue: &Arc<str>, reason: &str, now: SystemTime) -> (SystemTime, bool) {
        // A queue that nobody has tried for long has no schedule any more.
        self.0.retain(|_, held| held.until + 2 * LONGEST > now);
        let is_known = self.0.values().any(|held| held.reason == reason);
        let before = self.0.get(queue).map(|held| (held.wait, held.told));
        let (wait, told) = before.map_or((FIRST, false), |(wait, told)| ((2 * wait).min(LONGEST), told));
        let is_news = before.is_none() && !is_known;
        let held = HeldQueue { reason: reason.to_owned(), wait, until: now + wait, told: told || is_news };
        self.0.insert(queue.clone(), held);
        (now + wait, is_news)
    }

    /// Notes that a queue has taken something. Returns whether that is told.
    pub(super) fn free(&mut self, queue: &str) -> bool {
        self.0.remove(queue).is_some_and(|held| held.told)
    }

    /// Forgets all. Returns whether there were any.
    pub(super) fn clear(&mut self) -> bool {
        let were = !self.0.is_empty();
        self.0.clear();
        were
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000) + Duration::from_millis(millis)
    }

    #[test]
    fn a_queue_is_tried_ever_later_up_to_thirty_seconds_and_told_once() {
        let (mut held, queue) = (HeldQueues::default(), Arc::<str>::from("full"));
        let (mut now, mut waits) = (0, Vec::new());
        for turn in 0..9 {
            let (until, is_news) = held.hold(&queue, "it is full", at(now));
            assert_eq!(is_news, turn == 0);
            assert_eq!((held.until("full", at(now)), held.until("full", until), held.until("other", at(now))), (Some(until), None, None));
            let wait = until.duration_since(at(now)).unwrap().as_millis();
            waits.push(wait);
            now += u64::try_from(wait).unwrap();
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert!(held.free("full") && !held.free("full") && !held.clear());
    }

    #[test]
    fn a_thousand_queues_with_one_reason_are_told_once_when_it_begins_and_once_when_it_ends() {
        let mut held = HeldQueues::default();
        let queues: Vec<Arc<str>> = (0..1000).map(|number| format!("q{number}").into()).collect();
        let told = queues.iter().filter(|queue| held.hold(queue, "no memory", at(0)).1).count();
        assert!(held.hold(&"full".into(), "full is full", at(0)).1, "another reason is news");
        let back = queues.iter().filter(|queue| held.free(queue)).count();
        assert_eq!((told, back), (1, 1));
    }

    #[test]
    fn a_queue_that_no_schedule_names_any_more_is_forgotten() {
        let mut held = HeldQueues::default();
        held.hold(&"gone".into(), "a", at(0));
        held.hold(&"other".into(), "b", at(61_000));
        assert_eq!(held.0.len(), 1);
    }
}

//! Ids that must not run any more.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use longshore_brokers::{MOST_REVOKED as MOST, REVOKED_FOR as FOR};

/// Ids and stamps that must not run any more: at most 50 000, each for three hours; the oldest are forgotten first. A stamp stands among the ids, here and in
/// the broker, as a text that no id is.
#[derive(Default)]
pub(crate) struct Revoked {
    since: HashMap<String, Instant>,
    order: VecDeque<(Instant, String)>,
}

/// What a stamp begins with among ids, and what parts its name from its value.
const STAMP: &str = "stamp\u{1f}";
const PART: char = '\u{1f}';

/// A stamp's value, among ids.
pub(crate) fn stamp(name: &str, value: &str) -> String {
    format!("{STAMP}{name}{PART}{value}")
}

impl Revoked {
    pub(crate) fn add(&mut self, id: &str, now: Instant) {
        if self.since.insert(id.to_owned(), now).is_none() {
            self.order.push_back((now, id.to_owned()));
        }
        while let Some((at, _)) = self.order.front()
            && (self.order.len() > MOST || now.saturating_duration_since(*at) > FOR)
        {
            if let Some((_, id)) = self.order.pop_front() {
                self.since.remove(&id);
            }
        }
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        !self.since.is_empty() && self.since.contains_key(id)
    }

    /// Whether a stamp of this name and one of these values is revoked.
    pub(crate) fn has_stamp<'a>(&self, name: &str, mut values: impl Iterator<Item = &'a str>) -> bool {
        !self.since.is_empty() && values.any(|value| self.since.contains_key(&stamp(name, value)))
    }

    /// The ids, without stamps: what Celery's workers tell each other.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.order.iter().filter(|(_, id)| !id.starts_with(STAMP)).map(|(_, id)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn revoked_ids_are_forgotten_after_three_hours_and_beyond_fifty_thousand() {
        let mut revoked = Revoked::default();
        let start = Instant::now();
        revoked.add("first", start);
        for n in 0..MOST {
            revoked.add(&n.to_string(), start + Duration::from_secs(1));
        }
        assert!(!revoked.has("first") && revoked.has("0"));
        revoked.add("late", start + FOR + Duration::from_secs(2));
        assert_eq!(revoked.ids(), ["late"]);
    }

    #[test]
    fn a_stamp_is_revoked_by_any_of_its_values() {
        let mut revoked = Revoked::default();
        ["a", "b"].into_iter().for_each(|value| revoked.add(&stamp("tags", value), Instant::now()));
        assert!(revoked.ids().is_empty());
        assert!(revoked.has_stamp("tags", ["x", "b"].into_iter()));
        assert!(!revoked.has_stamp("tags", ["x"].into_iter()) && !revoked.has_stamp("other", ["a"].into_iter()));
    }
}

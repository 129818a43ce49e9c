//! The schedules that are run, and which is due next. Pure.

use std::{collections::BTreeSet, time::SystemTime};

use longshore_brokers::ScheduleRow;
use longshore_schedule::NextDue;

use crate::schedule::Schedule;

/// One schedule that is run.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) schedule: Schedule,
    pub(super) since: SystemTime,
    last: Option<SystemTime>,
    seed: u64,
    next: Option<NextDue>,
    /// When that is tried: its time, or later where its queue takes nothing for now.
    tried: SystemTime,
}

/// All schedules that are run.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    /// When each is tried, and its place.
    order: BTreeSet<(SystemTime, usize)>,
    /// Number of due times that were computed.
    #[cfg(test)]
    computed: usize,
}

impl Table {
    /// Reads what the store keeps. Returns, beside the table, those that cannot be read, and why.
    pub(super) fn read(rows: Vec<ScheduleRow>, now: SystemTime) -> (Self, Vec<(String, String)>) {
        let (mut table, mut unread) = (Self::default(), Vec::new());
        for row in rows.into_iter().filter(|row| row.paused.is_none()) {
            match Schedule::decode(&row.name, &row.spec) {
                Ok(schedule) => {
                    let seed = schedule.seed();
                    table.entries.push(Entry { schedule, since: row.since, last: row.last, seed, next: None, tried: now });
                    table.compute(table.entries.len() - 1, now);
                }
                Err(why) => unread.push((row.name, why)),
            }
        }
        (table, unread)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns when something is to be sent next.
    pub(super) fn next_at(&self) -> Option<SystemTime> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Returns what is to be sent now, the longest due first: its place and its due time.
    pub(super) fn due(&mut self, now: SystemTime) -> Option<(usize, NextDue)> {
        loop {
            let (_, place) = *self.order.first().filter(|(at, _)| *at <= now)?;
            let next = self.entries[place].next?;
            if next.until.is_none_or(|until| now < until) {
                return Some((place, next));
            }
            // It may have been missed by now: the schedule says what of it is sent.
            self.compute(place, now);
            if let Some(next) = self.entries[place].next.filter(|next| next.at <= now) {
                return Some((place, next));
            }
        }
    }

    pub(super) fn entry(&self, place: usize) -> &Entry {
        &self.entries[place]
    }

    /// Notes that a due time is over.
    pub(super) fn done(&mut self, place: usize, due: SystemTime, now: SystemTime) {
        self.entries[place].last = Some(due);
        self.compute(place, now);
    }

    /// Puts off what is due of a schedule, whose queue takes nothing for now.
    pub(super) fn put_off(&mut self, place: usize, until: SystemTime) {
        let entry = &mut self.entries[place];
        self.order.remove(&(entry.tried, place));
        entry.tried = until;
        self.order.insert((until, place));
    }

    /// Finds what is due next of one schedule.
    fn compute(&mut self, place: usize, now: SystemTime) {
        let entry = &mut self.entries[place];
        self.order.remove(&(entry.tried, place));
        entry.next = entry.schedule.spec.next(entry.since, entry.last, now, entry.seed);
        if let Some(next) = entry.next {
            entry.tried = next.at;
            self.order.insert((next.at, place));
        }
        #[cfg(test)]
        {
            self.computed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Signature;
    use longshore_schedule::Timing;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000 + seconds)
    }

    fn row(name: &str, every: u64, last: Option<u64>) -> ScheduleRow {
        let timing = Timing::every(Duration::from_secs(every)).unwrap();
        let spec = Schedule::new(name, Signature::named("t"), timing).unwrap().encode();
        ScheduleRow { name: name.to_owned(), spec, since: at(0), last: last.map(at), sent: None, fired: 0, paused: None }
    }

    #[test]
    fn the_longest_due_comes_first_and_each_once() {
        let mut paused = row("paused", 1, None);
        paused.paused = Some(("me".to_owned(), at(0)));
        let mut odd = row("odd", 1, None);
        odd.spec = b"{}".to_vec();
        let (mut table, unread) = Table::read(vec![row("a", 10, None), row("b", 7, Some(7)), paused, odd], at(8));
        assert_eq!((table.len(), unread.len()), (2, 1));
        assert_eq!((table.next_at(), table.due(at(9))), (Some(at(10)), None));
        let mut sent = Vec::new();
        while let Some((place, next)) = table.due(at(21)) {
            sent.push((table.entry(place).schedule.name.clone(), next.due, next.skips));
            table.done(place, next.due, at(21));
        }
        assert_eq!(sent, [("a".to_owned(), at(20), true), ("b".to_owned(), at(21), true)]);
        assert_eq!(table.next_at(), Some(at(28)));
    }

    #[test]
    fn one_that_is_put_off_lets_the_others_pass_and_what_was_missed_by_then_is_left_out() {
        let (mut table, _) = Table::read(vec![row("a", 10, None), row("b", 10, None)], at(0));
        let (place, _) = table.due(at(10)).unwrap();
        assert_eq!(table.entry(place).schedule.name, "a");
        table.put_off(place, at(31));
        let (other, next) = table.due(at(10)).unwrap();
        assert_eq!(table.entry(other).schedule.name, "b");
        table.done(other, next.due, at(10));
        assert_eq!((table.due(at(19)), table.next_at()), (None, Some(at(20))));
        table.done(other, at(40), at(19));
        assert_eq!((table.due(at(30)), table.next_at()), (None, Some(at(31))));
        let (_, next) = table.due(at(31)).unwrap();
        assert_eq!((next.due, next.skips), (at(30), true));
    }

    /// However many are due at once: the clock goes on while they are sent.
    #[test]
    fn a_due_time_is_computed_once_when_it_is_sent_and_not_for_each_that_is_sent_before() {
        let rows = (0..1000).map(|number| row(&format!("s{number}"), 60, None)).collect();
        let (mut table, _) = Table::read(rows, at(0));
        table.computed = 0;
        for turn in 1..=1000 {
            let now = at(60) + Duration::from_millis(turn);
            let (place, next) = table.due(now).unwrap();
            assert_eq!(next.due, at(60));
            table.done(place, next.due, now);
        }
        assert_eq!((table.due(at(119)), table.next_at(), table.computed), (None, Some(at(120)), 1000));
        // Nobody was there for ten minutes: the latest is sent of each, which is found once.
        table.computed = 0;
        for turn in 1..=1000 {
            let now = at(725) + Duration::from_millis(turn);
            let (place, next) = table.due(now).unwrap();
            assert_eq!((next.due, next.skips), (at(720), true));
            table.done(place, next.due, now);
        }
        assert_eq!((table.due(at(730)), table.computed), (None, 2000));
    }
}

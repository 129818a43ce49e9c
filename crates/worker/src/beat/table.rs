//! The schedules that are run, and which is due next. Pure.

use std::time::SystemTime;

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
}

/// All schedules that are run.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
}

impl Table {
    /// Reads what the store keeps. Returns, beside the table, those that cannot be read, and why.
    pub(super) fn read(rows: Vec<ScheduleRow>, now: SystemTime) -> (Self, Vec<(String, String)>) {
        let (mut entries, mut unread) = (Vec::new(), Vec::new());
        for row in rows.into_iter().filter(|row| row.paused.is_none()) {
            match Schedule::decode(&row.name, &row.spec) {
                Ok(schedule) => {
                    let seed = schedule.seed();
                    let next = schedule.spec.next(row.since, row.last, now, seed);
                    entries.push(Entry { schedule, since: row.since, last: row.last, seed, next });
                }
                Err(why) => unread.push((row.name, why)),
            }
        }
        (Self { entries }, unread)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns when something is to be sent next.
    pub(super) fn next_at(&self) -> Option<SystemTime> {
        self.entries.iter().filter_map(|entry| entry.next).map(|next| next.at).min()
    }

    /// Returns what is to be sent now, the longest due first: its place and its due time.
    pub(super) fn due(&mut self, now: SystemTime) -> Option<(usize, NextDue)> {
        // What has become due may have been missed by now: the schedule says what of it is sent.
        for entry in self.entries.iter_mut().filter(|entry| entry.next.is_some_and(|next| next.due <= now)) {
            entry.next = entry.schedule.spec.next(entry.since, entry.last, now, entry.seed);
        }
        let due = self.entries.iter().enumerate().filter_map(|(place, entry)| Some((place, entry.next.filter(|next| next.at <= now)?)));
        due.min_by_key(|(_, next)| next.at)
    }

    pub(super) fn entry(&self, place: usize) -> &Entry {
        &self.entries[place]
    }

    /// Notes that a due time is over.
    pub(super) fn done(&mut self, place: usize, due: SystemTime, now: SystemTime) {
        let entry = &mut self.entries[place];
        entry.last = Some(due);
        entry.next = entry.schedule.spec.next(entry.since, entry.last, now, entry.seed);
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
}

//! Schedules as rows, and what each call changes of them. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use crate::halves::{Fired, Firing, ScheduleRow};

/// All schedules of a store that keeps them as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ScheduleRows {
    pub(crate) rows: BTreeMap<String, ScheduleRow>,
    /// Count of the changes that a scheduler has to see.
    pub(crate) version: u64,
}

/// Cuts a time to the millisecond.
fn whole(at: SystemTime) -> SystemTime {
    let millis = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

impl ScheduleRows {
    /// Keeps a schedule. Returns whether anything has changed.
    pub(crate) fn put(&mut self, name: &str, spec: &[u8], at: SystemTime) -> bool {
        match self.rows.get_mut(name) {
            Some(row) if row.spec == spec => return false,
            Some(row) => (row.spec, row.since) = (spec.to_owned(), whole(at)),
            None => {
                let (name, spec, since) = (name.to_owned(), spec.to_owned(), whole(at));
                self.rows.insert(name.clone(), ScheduleRow { name, spec, since, last: None, sent: None, fired: 0, paused: None });
            }
        }
        self.version += 1;
        true
    }

    /// Changes what a schedule says, where it says `before`. Returns whether it did.
    pub(crate) fn amend(&mut self, name: &str, before: &[u8], spec: &[u8]) -> bool {
        let Some(row) = self.rows.get_mut(name).filter(|row| row.spec == before) else { return false };
        row.spec = spec.to_owned();
        self.version += 1;
        true
    }

    /// Forgets a schedule. Returns whether there was one.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let was = self.rows.remove(name).is_some();
        self.version += u64::from(was);
        was
    }

    /// Pauses a schedule or resumes it. Returns whether there is such a schedule.
    pub(crate) fn pause(&mut self, name: &str, by: Option<&str>, at: SystemTime) -> bool {
        let Some(row) = self.rows.get_mut(name) else { return false };
        if let Some(by) = by {
            row.paused = Some((by.to_owned(), whole(at)));
        } else if row.paused.take().is_some() {
            row.since = whole(at);
            row.last = row.last.map(|last| last.min(row.since));
        } else {
            return true;
        }
        self.version += 1;
        true
    }

    /// Says what becomes of a due time that its leader fires: [`Fired::Done`] where it may be sent.
    pub(crate) fn judge(&self, firing: &Firing) -> Fired {
        match self.rows.get(&firing.name) {
            None => Fired::Changed,
            Some(row) if row.last.is_some_and(|last| last >= whole(firing.due)) => Fired::Already,
            Some(row) if row.paused.is_some() || row.since != whole(firing.since) => Fired::Changed,
            Some(_) => Fired::Done,
        }
    }

    /// Notes that a due time was sent.
    pub(crate) fn note(&mut self, firing: &Firing) {
        if let Some(row) = self.rows.get_mut(&firing.name) {
            (row.last, row.sent, row.fired) = (Some(whole(firing.due)), Some(whole(firing.at)), row.fired + 1);
        }
    }
}

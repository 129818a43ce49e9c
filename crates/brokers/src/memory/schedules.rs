//! Schedules, and who fires them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use crate::halves::{Fired, Firing, Leading, ScheduleBook, ScheduleRow, SchedulerName};

#[derive(Default)]
pub(crate) struct MemorySchedules {
    rows: BTreeMap<String, ScheduleRow>,
    /// Who leads, and until when.
    leader: Option<(SchedulerName, Instant)>,
    version: u64,
}

/// Cuts a time to the millisecond.
fn whole(at: SystemTime) -> SystemTime {
    let millis = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

impl MemorySchedules {
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

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let was = self.rows.remove(name).is_some();
        self.version += u64::from(was);
        was
    }

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

    fn leading(&self) -> Option<&SchedulerName> {
        self.leader.as_ref().filter(|(_, until)| *until > Instant::now()).map(|(leader, _)| leader)
    }

    pub(crate) fn book(&self) -> ScheduleBook {
        ScheduleBook { leader: self.leading().map(|leader| leader.node.clone()), rows: self.rows.values().cloned().collect() }
    }

    pub(crate) fn lead(&mut self, scheduler: &SchedulerName, term: Duration) -> Leading {
        match self.leading() {
            Some(leader) if leader.token != scheduler.token => Leading::Theirs { node: leader.node.clone() },
            _ => {
                self.leader = Some((scheduler.clone(), Instant::now() + term));
                Leading::Ours { version: self.version }
            }
        }
    }

    pub(crate) fn resign(&mut self, scheduler: &SchedulerName) {
        self.leader.take_if(|(leader, _)| leader.token == scheduler.token);
    }

    pub(crate) fn fire(&mut self, firing: &Firing) -> Fired {
        if self.leading().is_none_or(|leader| leader.token != firing.scheduler.token) {
            return Fired::NotLeading;
        }
        let Some(row) = self.rows.get_mut(&firing.name) else { return Fired::Changed };
        let due = whole(firing.due);
        if row.last.is_some_and(|last| last >= due) {
            return Fired::Already;
        }
        if row.paused.is_some() || row.since != whole(firing.since) {
            return Fired::Changed;
        }
        (row.last, row.sent, row.fired) = (Some(due), Some(whole(firing.at)), row.fired + 1);
        Fired::Done
    }
}

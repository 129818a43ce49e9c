//! Schedules, and who fires them.

use std::time::{Duration, Instant, SystemTime};

use crate::{
    halves::{Fired, Firing, Leading, ScheduleBook, SchedulerName},
    schedule_rows::ScheduleRows,
};

#[derive(Default)]
pub(crate) struct MemorySchedules {
    all: ScheduleRows,
    /// Who leads, and until when.
    leader: Option<(SchedulerName, Instant)>,
}

impl MemorySchedules {
    pub(crate) fn put(&mut self, name: &str, spec: &[u8], at: SystemTime) -> bool {
        self.all.put(name, spec, at)
    }

    pub(crate) fn amend(&mut self, name: &str, before: &[u8], spec: &[u8]) -> bool {
        self.all.amend(name, before, spec)
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.all.remove(name)
    }

    pub(crate) fn pause(&mut self, name: &str, by: Option<&str>, at: SystemTime) -> bool {
        self.all.pause(name, by, at)
    }

    fn leading(&self) -> Option<&SchedulerName> {
        self.leader.as_ref().filter(|(_, until)| *until > Instant::now()).map(|(leader, _)| leader)
    }

    pub(crate) fn book(&self) -> ScheduleBook {
        ScheduleBook { leader: self.leading().map(|leader| leader.node.clone()), rows: self.all.rows.values().cloned().collect() }
    }

    pub(crate) fn lead(&mut self, scheduler: &SchedulerName, term: Duration) -> Leading {
        match self.leading() {
            Some(leader) if leader.token != scheduler.token => Leading::Theirs { node: leader.node.clone() },
            _ => {
                self.leader = Some((scheduler.clone(), Instant::now() + term));
                Leading::Ours { version: self.all.version }
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
        let fired = self.all.judge(firing);
        if fired == Fired::Done {
            self.all.note(firing);
        }
        fired
    }
}

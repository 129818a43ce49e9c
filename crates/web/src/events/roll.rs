//! Workers as their events show them: who is there, who is silent, who tells nothing of its tasks.
//! Pure: what it says is done elsewhere.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Time of silence after which a worker is asked, at the least.
const SILENT: Duration = Duration::from_secs(10);
/// Time that it has for an answer; then it is gone.
const ANSWERS: Duration = Duration::from_secs(6);
/// Time after which a worker is asked for events a second time: Celery's say that they are there
/// before they hear requests.
const TWICE: Duration = Duration::from_secs(3);
/// Time after which a worker that ends tasks and tells nothing of them is asked again to do so.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Tasks that it has to end meanwhile for that to be sure.
const ENDED: i64 = 3;
/// Most workers that are known.
const MOST: usize = 10_000;

/// A worker.
#[derive(Debug)]
struct Member {
    pid: Option<i64>,
    heard: Instant,
    freq: Duration,
    /// It was asked whether it is there.
    asked: Option<Instant>,
    /// It was asked to send events of tasks.
    told: Option<Instant>,
    /// It was asked a second time.
    is_told_twice: bool,
    /// Tasks that it had ended when the last event of a task came, or when it was asked for them.
    processed: Option<i64>,
    /// It ends tasks, and sends no events of them.
    is_mute: bool,
}

/// All workers that are heard.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    members: BTreeMap<String, Member>,
}

/// Next thing to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RollCall {
    /// They are silent: are they there?
    pub(crate) ask: Vec<String>,
    /// They did not answer.
    pub(crate) gone: Vec<String>,
    /// They have not been asked for events of their tasks.
    pub(crate) enable: Vec<String>,
}

impl Roll {
    fn member(&mut self, node: &str, now: Instant) -> Option<&mut Member> {
        if self.members.len() >= MOST && !self.members.contains_key(node) {
            return None;
        }
        let fresh = Member {
            pid: None,
            heard: now,
            freq: Duration::ZERO,
            asked: None,
            told: None,
            is_told_twice: false,
            processed: None,
            is_mute: false,
        };
        Some(self.members.entry(node.to_owned()).or_insert(fresh))
    }

    /// A worker held tasks when somebody last looked: it has to be heard, or it is gone.
    pub(crate) fn expect(&mut self, node: &str, now: Instant) {
        self.member(node, now);
    }

    /// A heartbeat came.
    pub(crate) fn beat(&mut self, node: &str, pid: Option<i64>, freq: f64, processed: Option<i64>, now: Instant) {
        let Some(member) = self.member(node, now) else { return };
        (member.heard, member.asked) = (now, None);
        member.freq = Duration::try_from_secs_f64(freq).unwrap_or_default().min(Duration::from_secs(60));
        if member.pid != pid {
            // Another process knows of no request to the one before.
            (member.pid, member.told, member.processed, member.is_mute) = (pid, None, processed, false);
            member.is_told_twice = false;
        }
        if let (Some(before), Some(now_ended)) = (member.processed, processed) {
            member.is_mute |= now_ended - before >= ENDED && member.told.is_none_or(|told| now - told >= SILENT);
        }
        member.processed = member.processed.or(processed);
    }

    /// An event of a task came.
    pub(crate) fn task(&mut self, node: &str, now: Instant) {
        if let Some(member) = self.members.get_mut(node) {
            (member.heard, member.asked, member.is_mute, member.processed) = (now, None, false, None);
        }
    }

    /// It says that it goes.
    pub(crate) fn leave(&mut self, node: &str) {
        self.members.remove(node);
    }

    /// Returns what is to be done, and takes it for done. `enables`: events of tasks are wanted.
    pub(crate) fn call(&mut self, enables: bool, now: Instant) -> RollCall {
        let mut call = RollCall::default();
        for (node, member) in &mut self.members {
            let silence = now - member.heard;
            if member.asked.is_some_and(|asked| now - asked >= ANSWERS) {
                call.gone.push(node.clone());
            } else if member.asked.is_none() && silence >= SILENT.max(member.freq * 4) {
                member.asked = Some(now);
                call.ask.push(node.clone());
            }
            let is_due = match member.told.map(|told| now - told) {
                None => true,
                Some(since) => !member.is_told_twice && since >= TWICE || member.is_mute && since >= ASK_AGAIN,
            };
            if enables && is_due && silence < SILENT {
                member.is_told_twice = member.told.is_some();
                (member.told, member.processed) = (Some(now), None);
                call.enable.push(node.clone());
            }
        }
        for node in &call.gone {
            self.members.remove(node);
        }
        call
    }

    /// Takes back that these were asked: the request did not go out.
    pub(crate) fn not_asked(&mut self, call: &RollCall, now: Instant) {
        for node in &call.ask {
            if let Some(member) = self.members.get_mut(node) {
                (member.asked, member.heard) = (None, now);
            }
        }
        for node in &call.enable {
            if let Some(member) = self.members.get_mut(node) {
                member.told = None;
            }
        }
    }

    /// Returns those that end tasks and send no events of them.
    pub(crate) fn mute(&self) -> Vec<String> {
        self.members.iter().filter(|(_, member)| member.is_mute).map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_silent_worker_is_asked_and_is_gone_when_it_does_not_answer() {
        let (mut roll, start) = (Roll::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        roll.expect("held@h", at(0));
        roll.beat("a@h", Some(1), 2.0, Some(0), at(0));
        roll.beat("slow@h", Some(1), 30.0, Some(0), at(0));
        assert_eq!(roll.call(false, at(9)), RollCall::default());
        assert_eq!(roll.call(false, at(10)).ask, names(&["a@h", "held@h"]));
        roll.beat("a@h", Some(1), 2.0, Some(0), at(12));
        assert_eq!(roll.call(false, at(16)), RollCall { gone: names(&["held@h"]), ..RollCall::default() });
        // A request that did not go out proves nothing.
        let call = roll.call(false, at(22));
        assert_eq!(call.ask, names(&["a@h"]));
        roll.not_asked(&call, at(22));
        assert_eq!(roll.call(false, at(30)), RollCall::default());
        assert_eq!(roll.call(false, at(32)).ask, names(&["a@h"]));
        assert_eq!(roll.call(false, at(38)).gone, names(&["a@h"]));
        assert_eq!(roll.call(false, at(119)), RollCall::default());
        assert_eq!(roll.call(false, at(120)).ask, names(&["slow@h"]));
    }

    #[test]
    fn each_process_is_asked_for_events_twice_and_one_that_stays_mute_now_and_then() {
        let (mut roll, start) = (Roll::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        roll.beat("a@h", Some(1), 2.0, Some(10), at(0));
        assert_eq!(roll.call(false, at(0)), RollCall::default());
        assert_eq!(roll.call(true, at(1)).enable, names(&["a@h"]));
        assert_eq!(roll.call(true, at(2)), RollCall::default());
        roll.beat("a@h", Some(1), 2.0, Some(10), at(3));
        assert_eq!((roll.call(true, at(4)).enable, roll.call(true, at(8))), (names(&["a@h"]), RollCall::default()));
        roll.beat("a@h", Some(1), 2.0, Some(13), at(9));
        roll.beat("a@h", Some(1), 2.0, Some(20), at(11));
        assert!(roll.mute().is_empty(), "it has just been asked");
        roll.beat("a@h", Some(1), 2.0, Some(20), at(14));
        assert_eq!(roll.mute(), names(&["a@h"]));
        roll.beat("a@h", Some(1), 2.0, Some(21), at(60));
        assert_eq!((roll.call(true, at(60)), roll.call(true, at(64)).enable), (RollCall::default(), names(&["a@h"])));
        roll.task("a@h", at(65));
        assert!(roll.mute().is_empty());
        roll.beat("a@h", Some(2), 2.0, Some(0), at(66));
        assert_eq!(roll.call(true, at(66)).enable, names(&["a@h"]));
        roll.leave("a@h");
        assert_eq!(roll.call(true, at(300)), RollCall::default());
    }
}

//! Calls tasks off.

use std::sync::Arc;

use longshore_brokers::{Key, Stored};
use longshore_celery::{Exception, Map, State, TaskResult, Value};
use longshore_core::LaneKind;

use super::{RemoteControl, answer::ControlDone};
use crate::worker::{
    revoked::{stamp, values},
    work::ClaimedTask,
};

impl RemoteControl {
    pub(super) async fn revoke(&self, ids: Vec<String>, terminate: bool, signal: Option<&str>) -> ControlDone {
        self.shared.call_off(&ids);
        // For workers that are not there yet. Where the broker cannot take it now, those that are
        // there still know.
        self.keep(&ids).await;
        let ended = self.end(|work| ids.contains(&work.message.id), terminate, signal);
        let waiting: Vec<&String> = ids.iter().filter(|id| !ended.running.contains(id)).collect();
        self.tell_revoked(&waiting, "revoked").await;
        self.tell_revoked(&ended.on_threads.iter().collect::<Vec<_>>(), "terminated").await;
        self.end_held(&ids).await;
        if terminate { ControlDone::Terminated(ended.running) } else { ControlDone::Revoked(ids) }
    }

    async fn keep(&self, ids: &[String]) {
        if let Ok(store) = self.shared.connected.shared() {
            let _ = store.revoke(ids).await;
        }
    }

    pub(super) async fn revoke_stamps(&self, headers: Map, terminate: bool, signal: Option<&str>) -> ControlDone {
        let stamps: Vec<String> =
            headers.0.iter().flat_map(|(name, stamps)| values(stamps).iter().map(move |value| stamp(name, value))).collect();
        self.shared.call_off(&stamps);
        // As with ids: for workers that are not there yet.
        self.keep(&stamps).await;
        let ended = self.end(|work| self.shared.is_revoked(&work.message), terminate, signal);
        match (terminate, ended.running.is_empty()) {
            (false, _) => ControlDone::StampsRevoked(headers),
            (true, true) => ControlDone::StampsNotTerminated(headers),
            (true, false) => ControlDone::Terminated(ended.running),
        }
    }

    /// Marks the claimed tasks that are meant as called off, and ends those that run where that is
    /// wanted.
    fn end(&self, is_meant: impl Fn(&ClaimedTask) -> bool, terminate: bool, signal: Option<&str>) -> EndedTasks {
        let mut ended = EndedTasks::default();
        for work in self.shared.works() {
            if is_meant(&work) {
                work.revoke(terminate.then(|| number_of(signal)));
                ended.add(&work, terminate);
            }
        }
        ended
    }

    /// Whoever waits for a task whose result nobody will get is told at once.
    async fn tell_revoked(&self, ids: &[&String], why: &str) {
        if ids.is_empty() {
            return;
        }
        let shared = &self.shared;
        let keys: Vec<Key> = ids.iter().map(|id| Key::Task((*id).clone())).collect();
        let Ok(stored) = shared.results.get(&keys).await else { return };
        let expires = shared.app.settings().result_expires;
        let documents: Vec<Stored> = keys
            .into_iter()
            .zip(stored)
            .zip(ids)
            .filter(|((_, doc), _)| {
                let state = doc.as_ref().and_then(|doc| TaskResult::decode(doc, shared.limits.body).ok()).map(|result| result.state);
                matches!(state, None | Some(State::Pending | State::Retry | State::Received))
                    || (why == "terminated" && state == Some(State::Started))
            })
            .map(|((key, _), id)| {
                let result = TaskResult {
                    task_id: (*id).clone(),
                    state: State::Revoked,
                    result: Exception::revoked(why).to_value(),
                    children: Value::List(Vec::new()),
                    date_done: Some(shared.environment.wall()),
                    ..TaskResult::default()
                };
                Stored { key, doc: result.encode(), expires, keep_success: true, reply_to: None }
            })
            .collect();
        if !documents.is_empty() {
            let _ = shared.results.store(&documents).await;
        }
    }
}

/// Claimed tasks that were called off while they ran.
#[derive(Default)]
struct EndedTasks {
    running: Vec<String>,
    /// Those of them that run on threads, and go on if they do not listen.
    on_threads: Vec<String>,
}

impl EndedTasks {
    fn add(&mut self, work: &Arc<ClaimedTask>, terminate: bool) {
        let Some(start) = work.started() else { return };
        self.running.push(work.message.id.clone());
        // A thread cannot be ended: its handler is told, and goes on if it does not listen. Nobody
        // waits for that.
        if terminate && matches!(start.lane, LaneKind::Blocking | LaneKind::Cpu) {
            self.on_threads.push(work.message.id.clone());
        }
    }
}

/// Returns the number of a signal: `SIGTERM` (the default), `KILL`, `9`.
fn number_of(signal: Option<&str>) -> u8 {
    let name = signal.unwrap_or("SIGTERM");
    let name = name.strip_prefix("SIG").unwrap_or(name);
    match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "KILL" => 9,
        "USR1" => 10,
        "USR2" => 12,
        "TERM" => 15,
        other => other.parse().unwrap_or(15),
    }
}

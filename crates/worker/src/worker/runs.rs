//! Notes of what runs here, in the store that all share: for brokers that may lend a message to
//! another worker while this one lives and runs it.
//!
//! What runs for longer than a moment is noted, and again and again while it runs. Whoever is lent
//! a message that was lent before looks for a note first. A short task costs nothing.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use longshore_brokers::SharedState;

use super::{shared::Shared, work::ClaimedTask};

/// Time for which a note holds: what a dead worker ran starts elsewhere after it.
const HOLDS: Duration = Duration::from_secs(60);
/// Time between two looks whether what we hold may be another's; one in so many is a round of
/// notes.
const LOOK: Duration = Duration::from_secs(1);
const ROUNDS: u32 = 10;
/// Time after which another worker's task is looked at again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Time for which what was lent before waits for a note of whoever runs it, twice what that takes.
pub(crate) const NOTED_WITHIN: Duration = Duration::from_secs(2);
/// Most receipts that are remembered to have waited.
const MOST_WAITED: usize = 100_000;

/// Notes of one worker.
pub(crate) struct RunNotes {
    store: Arc<dyn SharedState>,
    /// Names this process: a node's name may come again.
    worker: String,
    noted: Mutex<HashSet<String>>,
    /// Receipts of messages that were lent before, and have waited for a note of whoever runs them.
    waited: Mutex<HashSet<u64>>,
}

impl RunNotes {
    pub(crate) fn new(store: Arc<dyn SharedState>, worker: String) -> Self {
        Self { store, worker, noted: Mutex::default(), waited: Mutex::default() }
    }

    /// Returns whether a message that was lent before has waited long enough for whoever runs it to
    /// say so. The first time it has not.
    pub(crate) fn has_waited(&self, receipt: u64) -> bool {
        let mut waited = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is taken back meanwhile is forgotten with the others.
        if waited.len() > MOST_WAITED {
            waited.clear();
        }
        let has = waited.remove(&receipt);
        if !has {
            waited.insert(receipt);
        }
        has
    }

    /// Notes that these are about to run here. Returns for each whether it is ours to run: not
    /// where another worker runs it. Where nobody can be asked, it is ours.
    pub(crate) async fn claim(&self, ids: &[String]) -> Vec<bool> {
        let ours = self.store.note_runs(&self.worker, ids, HOLDS).await.unwrap_or_else(|_| vec![true; ids.len()]);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.extend(ids.iter().zip(&ours).filter(|(_, ours)| **ours).map(|(id, _)| id.clone()));
        ours
    }

    /// Keeps the notes of a worker true until it is over.
    pub(crate) async fn keep(self: Arc<Self>, shared: Arc<Shared>) {
        let (mut term, mut rounds) = (shared.term(), 0_u32);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = shared.term();
            rounds += 1;
            if now != std::mem::replace(&mut term, now) {
                // Messages may be on their way to others just now: all are noted.
                self.round(&shared, Duration::ZERO).await;
            } else if rounds % ROUNDS == 0 {
                self.round(&shared, LOOK * ROUNDS).await;
            }
        }
    }

    async fn round(&self, shared: &Shared, least: Duration) {
        let now = shared.environment.now();
        let runs = |work: &Arc<ClaimedTask>| work.started().is_some_and(|start| now.duration_since(start.since) >= least);
        let running: HashSet<String> = shared.works().iter().filter(|work| runs(work)).map(|work| work.message.id.clone()).collect();
        let live: HashSet<String> = shared.works().iter().map(|work| work.message.id.clone()).collect();
        let (keep, over): (Vec<String>, Vec<String>) = {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            let over: Vec<String> = noted.iter().filter(|id| !live.contains(*id)).cloned().collect();
            over.iter().for_each(|id| {
                noted.remove(id);
            });
            (running.union(&noted).cloned().collect(), over)
        };
        if !keep.is_empty() {
            self.claim(&keep).await;
        }
        if !over.is_empty() {
            // What is not taken back is over by itself.
            let _ = self.store.forget_runs(&self.worker, &over).await;
        }
    }
}

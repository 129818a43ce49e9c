//! Notes of what runs here, in the store that all share: for brokers that may lend a message to
//! another worker while this one lives and runs it.
//!
//! What runs for longer than a moment is noted, and again and again while it runs. Whoever is lent
//! a message that was lent before looks for a note first. A short task costs nothing.
//!
//! A suspect is noted in another way, too, before it starts: who dies with it leaves that note,
//! and whoever is lent the message next counts such notes. So a message that kills its workers is
//! buried also where the broker does not count deaths.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use longshore_brokers::{BrokerError, SharedState};
use longshore_core::ErrorKind;

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
/// Time for which a worker's death is held against the suspect that it ran.
const BLAMED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Name of whoever only looks at notes.
const NOBODY: &str = "";
/// Most receipts that are remembered to have waited.
const MOST_WAITED: usize = 100_000;

/// Notes of one worker.
pub(crate) struct RunNotes {
    store: Arc<dyn SharedState>,
    /// Names this process: a node's name may come again.
    worker: String,
    /// Locked while the store is told, so that no note is taken back that was made meanwhile.
    noted: tokio::sync::Mutex<HashSet<String>>,
    /// Ids that are taken in now, with how often.
    taken_in: Arc<Mutex<HashMap<String, u32>>>,
    /// Receipts of messages that were lent before, and have waited for a note of whoever runs them.
    waited: Mutex<HashSet<u64>>,
}

/// Ids that are on their way from a claim to what is live. Until it is dropped, no note of theirs
/// is taken back.
pub(crate) struct TakenIn {
    all: Arc<Mutex<HashMap<String, u32>>>,
    ids: Vec<String>,
}

impl Drop for TakenIn {
    fn drop(&mut self) {
        let mut all = locked(&self.all);
        for id in &self.ids {
            if let Some(count) = all.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    all.remove(id);
                }
            }
        }
    }
}

/// Ids of the tasks of a worker.
struct TaskIds {
    /// Those that have run for so long that they are noted.
    running: HashSet<String>,
    /// All that are claimed and have not ended.
    live: HashSet<String>,
}

impl TaskIds {
    fn of(shared: &Shared, least: Duration) -> Self {
        let (now, works) = (shared.environment.now(), shared.works());
        let runs = |work: &&Arc<ClaimedTask>| work.started().is_some_and(|start| now.duration_since(start.since) >= least);
        let id = |work: &Arc<ClaimedTask>| work.message.id.clone();
        Self { running: works.iter().filter(runs).map(id).collect(), live: works.iter().map(id).collect() }
    }
}

/// Returns the name of the note that a suspect leaves which was blamed so often before.
fn blame(id: &str, crashes: u32) -> String {
    format!("{id}#{crashes}")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RunNotes {
    pub(crate) fn new(store: Arc<dyn SharedState>, worker: String) -> Self {
        Self { store, worker, noted: tokio::sync::Mutex::default(), taken_in: Arc::default(), waited: Mutex::default() }
    }

    /// Returns whether a message that was lent before has waited long enough for whoever runs it to
    /// say so. The first time it has not.
    pub(crate) fn has_waited(&self, receipt: u64) -> bool {
        let mut waited = locked(&self.waited);
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

    /// Begins to take these in. What is returned is to be kept until they are live, or given up;
    /// beside it, for each, whether another copy of it is being taken in just now.
    pub(crate) fn take_in(&self, ids: Vec<String>) -> (TakenIn, Vec<bool>) {
        let mut all = locked(&self.taken_in);
        let mut count = |id: &String| {
            let copies = all.entry(id.clone()).or_default();
            *copies += 1;
            *copies > 1
        };
        let are_copies = ids.iter().map(&mut count).collect();
        drop(all);
        (TakenIn { all: self.taken_in.clone(), ids }, are_copies)
    }

    /// Notes that these are about to run here, or do. Returns for each whether it is ours to run:
    /// not where another worker runs it. Where the store refuses to say, it is ours.
    ///
    /// # Errors
    /// Transient: the store is away, and nobody can say.
    pub(crate) async fn claim(&self, ids: &[String]) -> Result<Vec<bool>, BrokerError> {
        let mut noted = self.noted.lock().await;
        let ours = match self.store.note_runs(&self.worker, ids, HOLDS).await {
            Err(error) if error.kind == ErrorKind::Transient => return Err(error),
            said => said.unwrap_or_else(|_| vec![true; ids.len()]),
        };
        noted.extend(ids.iter().zip(&ours).filter(|(_, ours)| **ours).map(|(id, _)| id.clone()));
        Ok(ours)
    }

    /// Notes that a suspect is about to start: it is blamed if this worker dies now.
    pub(crate) async fn accuse(&self, id: &str, crashes: u32) {
        // Where that cannot be noted, one death more goes unseen.
        let _ = self.store.note_runs(&self.worker, &[blame(id, crashes)], BLAMED_FOR).await;
    }

    /// Takes back what was noted of suspects, by their ids and crashes: they have ended.
    pub(crate) async fn acquit(&self, suspects: impl Iterator<Item = (&str, u32)>) {
        let notes: Vec<String> = suspects.map(|(id, crashes)| blame(id, crashes)).collect();
        if !notes.is_empty() {
            let _ = self.store.forget_runs(&self.worker, &notes).await;
        }
    }

    /// Returns how many workers have died with each of these suspects, up to so many.
    pub(crate) async fn deaths(&self, suspects: &[(&str, u32)]) -> Vec<u32> {
        let notes: Vec<String> = suspects.iter().flat_map(|(id, most)| (1..=*most).map(|number| blame(id, number))).collect();
        // A note for no time changes nothing, and says whether there is another's.
        let free = self.store.note_runs(NOBODY, &notes, Duration::ZERO).await.unwrap_or_default();
        let mut free = free.into_iter();
        let mut count = |most: &u32| free.by_ref().take(*most as usize).map(|is_free| u32::from(!is_free)).sum();
        suspects.iter().map(|(_, most)| count(most)).collect()
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
                self.round(|| TaskIds::of(&shared, Duration::ZERO)).await;
            } else if rounds % ROUNDS == 0 {
                self.round(|| TaskIds::of(&shared, LOOK * ROUNDS)).await;
            }
        }
    }

    async fn round(&self, look: impl FnOnce() -> TaskIds) {
        let keep: Vec<String> = {
            let mut noted = self.noted.lock().await;
            // First those that are taken in: who is none of them any more is live by now, if ever.
            let taken_in: HashSet<String> = locked(&self.taken_in).keys().cloned().collect();
            let TaskIds { running, live } = look();
            let over: Vec<String> = noted.extract_if(|id| !live.contains(id) && !taken_in.contains(id)).collect();
            if !over.is_empty() {
                // What is not taken back is over by itself.
                let _ = self.store.forget_runs(&self.worker, &over).await;
            }
            running.union(&noted).cloned().collect()
        };
        if !keep.is_empty() {
            // A store that is away is told again in the next round.
            let _ = self.claim(&keep).await;
        }
    }
}

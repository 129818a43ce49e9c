//! State that all workers share beside messages: the slots of rates, and the ids that are called
//! off.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use longshore_core::Rate;

use super::sends::MemorySends;
use crate::{
    halves::{LimitState, MOST_REVOKED, REVOKED_FOR},
    rates::{self, Bucket, Slot},
};

#[derive(Default)]
pub(crate) struct MemoryShared {
    rates: HashMap<String, u64>,
    /// Buckets that were set, by limit.
    set: BTreeMap<String, Bucket>,
    revoked: VecDeque<(Instant, String)>,
    /// Who runs the task of an id, and until when that holds.
    runs: HashMap<String, (String, Instant)>,
    pub(crate) sends: MemorySends,
}

impl MemoryShared {
    pub(crate) fn reserve(&mut self, limit: &str, bucket: Bucket, count: usize) -> Vec<Slot> {
        let bucket = self.set.get(rates::limit_of(limit)).copied().unwrap_or(bucket);
        let stored = self.rates.entry(limit.to_owned()).or_default();
        let (next, slots) = bucket.reserve(*stored, rates::now(), count);
        *stored = next;
        slots
    }

    pub(crate) fn set_limit(&mut self, limit: &str, rate: Option<Rate>) {
        match rate {
            Some(rate) => drop(self.set.insert(limit.to_owned(), Bucket::of(rate))),
            None => drop(self.set.remove(limit)),
        }
    }

    pub(crate) fn limits(&self) -> Vec<LimitState> {
        let now = rates::now();
        let used = self.rates.iter().filter(|(_, next)| **next > now).map(|(name, _)| name);
        let names: BTreeSet<&String> = used.chain(self.set.keys()).collect();
        let state = |name: &String| LimitState {
            name: name.clone(),
            set: self.set.get(rates::limit_of(name)).map(|bucket| bucket.rate()),
            ahead: Duration::from_micros(self.rates.get(name).copied().unwrap_or(0).saturating_sub(now)),
        };
        names.into_iter().map(state).collect()
    }

    pub(crate) fn revoke(&mut self, ids: &[String]) {
        let now = Instant::now();
        let mut seen: HashSet<&String> = ids.iter().collect();
        self.revoked.retain(|(at, id)| now.duration_since(*at) < REVOKED_FOR && !seen.contains(id));
        self.revoked.extend(ids.iter().filter(|id| seen.remove(id)).map(|id| (now, id.clone())));
        let beyond = self.revoked.len().saturating_sub(MOST_REVOKED);
        self.revoked.drain(..beyond);
    }

    pub(crate) fn revoked(&self) -> Vec<String> {
        self.revoked.iter().filter(|(at, _)| at.elapsed() < REVOKED_FOR).map(|(_, id)| id.clone()).collect()
    }

    pub(crate) fn note_runs(&mut self, worker: &str, ids: &[String], time: Duration) -> Vec<bool> {
        let now = Instant::now();
        self.runs.retain(|_, (_, until)| *until > now);
        let note = |id: &String| {
            let (by, until) = self.runs.entry(id.clone()).or_insert_with(|| (worker.to_owned(), now));
            let is_ours = by == worker;
            if is_ours {
                *until = now + time;
            }
            is_ours
        };
        ids.iter().map(note).collect()
    }

    pub(crate) fn forget_runs(&mut self, worker: &str, ids: &[String]) {
        self.runs.retain(|id, (by, _)| by != worker || !ids.contains(id));
    }
}

//! What all workers share beside messages: the slots of rates, and the ids that are called off.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Instant,
};

use crate::{
    broker::{MOST_REVOKED, REVOKED_FOR},
    rates::{self, Bucket, Slot},
};

#[derive(Default)]
pub(crate) struct Shared {
    rates: HashMap<String, u64>,
    revoked: VecDeque<(Instant, String)>,
}

impl Shared {
    pub(crate) fn reserve(&mut self, limit: &str, bucket: Bucket, count: usize) -> Vec<Slot> {
        let stored = self.rates.entry(limit.to_owned()).or_default();
        let (next, slots) = bucket.reserve(*stored, rates::now(), count);
        *stored = next;
        slots
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
}

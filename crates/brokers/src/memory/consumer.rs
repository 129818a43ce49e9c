//! Claiming from memory, and waiting for something to claim.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_core::{Receipt, source::Fetched};

use super::{Memory, ready};
use crate::{
    broker::{Consumer, OpenOptions},
    error::BrokerError,
    message::{Claimed, End, Ended, Finish},
    names,
    results::PartState,
    rotation::Rotation,
};

pub(crate) struct MemoryConsumer {
    memory: Arc<Memory>,
    owner: u64,
    node: Arc<str>,
    turns: Rotation,
    closed: AtomicBool,
}

impl MemoryConsumer {
    pub(crate) fn new(memory: Arc<Memory>, options: OpenOptions) -> Self {
        let owner = memory.lock().number();
        Self {
            memory,
            owner,
            node: options.node.into(),
            turns: Rotation::new(options.queues, options.order),
            closed: AtomicBool::new(false),
        }
    }

    fn finish_one(&self, finish: &Finish) -> Ended {
        self.memory.step(|state| {
            let receipt = finish.receipt.0;
            if state.held.get(&receipt).is_none_or(|held| held.owner != self.owner) {
                return Ended::Refused;
            }
            if let Some(reason) = names::refused_among("", &finish.publish) {
                return Ended::Impossible { reason };
            }
            finish.publish.iter().for_each(|message| state.publish(message));
            finish.results.iter().for_each(|stored| state.documents.store(stored));
            if let Some(part) = &finish.part
                && let ours @ PartState::Ours { .. } = state.documents.part(part)
            {
                return Ended::Complete(ours);
            }
            if finish.end == End::Keep {
                return Ended::Done;
            }
            if let Some(held) = state.held.remove(&receipt) {
                match &finish.end {
                    End::Back { front } => state.back(held.message, *front),
                    End::Dead { reason } | End::Junk { reason } => state.bury(held.message, reason.clone()),
                    End::Ack | End::Keep => {}
                }
            }
            Ended::Done
        })
    }
}

impl Consumer for MemoryConsumer {
    fn claim<'a>(&'a self, room: usize, into: &'a mut Vec<Claimed>) -> BoxFuture<'a, Result<Fetched, BrokerError>> {
        async move {
            loop {
                let changed = self.memory.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.closed.load(Ordering::Acquire) {
                    return Ok(Fetched::End);
                }
                let (before, due) = (into.len(), {
                    let mut state = self.memory.lock();
                    state.claim(room, &self.turns, self.owner, &self.node, into);
                    state.later.keys().next().map(|(due, _)| *due)
                });
                if into.len() > before || room == 0 {
                    return Ok(Fetched::More);
                }
                // Times of the day may be set anew: look again once a second at least.
                let wait = due.map_or(Duration::from_secs(1), |due| due.duration_since(SystemTime::now()).unwrap_or_default());
                let _ = tokio::time::timeout(wait.min(Duration::from_secs(1)), changed).await;
            }
        }
        .boxed()
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.memory.changed.notify_waiters();
    }

    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        let state = self.memory.lock();
        let one =
            |receipt: &Receipt| state.held.get(&receipt.0).filter(|held| held.owner == self.owner).map(|held| held.message.raw.clone());
        ready(receipts.iter().map(one).collect())
    }

    fn finish<'a>(&'a self, batch: &'a [Finish]) -> BoxFuture<'a, Result<Vec<Ended>, BrokerError>> {
        ready(batch.iter().map(|finish| self.finish_one(finish)).collect())
    }

    fn accuse<'a>(&'a self, running: &'a [Receipt]) -> BoxFuture<'a, Result<(), BrokerError>> {
        for (number, held) in self.memory.lock().held.iter_mut().filter(|(_, held)| held.owner == self.owner) {
            held.accused = running.contains(&Receipt(*number));
        }
        ready(())
    }

    fn serve(&self, queue: &str, on: bool) {
        self.turns.serve(queue, on);
        self.memory.changed.notify_waiters();
    }

    fn serving(&self) -> Vec<Arc<str>> {
        self.turns.order()
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.close();
        self.memory.step(|state| state.give_back(self.owner, false));
        ready(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.memory.step(|state| state.give_back(self.owner, true));
    }
}

//! Claiming from the file, and waiting for something to claim.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_core::{ErrorKind, Receipt, source::Fetched};
use rusqlite::Connection;

use super::{
    owners::{self, Owner},
    queues::{self, Look},
    store::Store,
};
use crate::{
    broker::{Consumer, OpenOptions},
    error::BrokerError,
    lease::Lease,
    message::{Claimed, Ended, Finish},
    rotation::Rotation,
};

/// Longest time between two looks of an idle consumer that nothing wakes.
const SAFETY: Duration = Duration::from_secs(1);
/// First pause after the file was busy for longer than SQLite's patience.
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) struct SqliteConsumer {
    store: Arc<Store>,
    owner: Arc<Owner>,
    turns: Arc<Rotation>,
    closed: AtomicBool,
    /// The last claim left room: there may be nothing.
    drained: AtomicBool,
}

impl SqliteConsumer {
    /// Registers in the file, so that the lease runs.
    pub(crate) async fn open(store: Arc<Store>, options: OpenOptions) -> Result<Self, BrokerError> {
        let owner = Owner::new(options.node, options.lease);
        let registering = Arc::clone(&owner);
        store.write(move |step| owners::registered(step, &registering)).await?;
        store.shared.serves.store(true, Ordering::Relaxed);
        let turns = Arc::new(Rotation::new(options.queues, options.order));
        Ok(Self { store, owner, turns, closed: AtomicBool::new(false), drained: AtomicBool::new(true) })
    }

    /// Returns the longest time between two looks: where the bell is heard, whoever may have
    /// forgotten to ring it.
    fn safety(&self) -> Duration {
        if self.store.shared.bell.is_heard() { (self.owner.lease / 3).max(SAFETY) } else { SAFETY }
    }

    async fn take(&self, room: usize) -> Result<Vec<Claimed>, BrokerError> {
        let (owner, turns) = (Arc::clone(&self.owner), Arc::clone(&self.turns));
        let claim = self.store.write(move |step| match owners::registered(step, &owner)? {
            Some(number) => queues::claim(step, number, &turns, room),
            None => Ok(Vec::new()),
        });
        claim.await
    }

    /// Looks at the file, as soon as it can be read.
    async fn look<T: Send + 'static, L>(&self, look: impl Fn() -> L) -> Result<T, BrokerError>
    where
        L: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let shared = &self.store.shared;
        let seen = patiently(|| async {
            let seen = self.store.read(look()).await;
            if let Err(error) = seen.as_ref()
                && is_waited_for(error)
            {
                shared.is_unreadable(&error.message);
            }
            seen
        });
        let seen = seen.await?;
        shared.is_readable();
        Ok(seen)
    }
}

/// Says whether it is over for now, and not for good.
fn is_waited_for(error: &BrokerError) -> bool {
    matches!(error.kind, ErrorKind::Transient | ErrorKind::Unwritable)
}

/// Waits for a file that is busy, or cannot be written now: nothing was done.
async fn patiently<T, F: Future<Output = Result<T, BrokerError>>>(mut step: impl FnMut() -> F) -> Result<T, BrokerError> {
    let mut pause = AGAIN;
    loop {
        match step().await {
            Err(error) if is_waited_for(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(SAFETY);
            }
            done => return done,
        }
    }
}

impl Consumer for SqliteConsumer {
    fn claim<'a>(&'a self, room: usize, into: &'a mut Vec<Claimed>) -> BoxFuture<'a, Result<Fetched, BrokerError>> {
        async move {
            loop {
                let changed = self.store.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.closed.load(Ordering::Acquire) {
                    return Ok(Fetched::End);
                }
                if room == 0 {
                    return Ok(Fetched::More);
                }
                let mut wait = self.safety();
                let look = if self.drained.load(Ordering::Relaxed) {
                    let look = || {
                        let order = self.turns.order();
                        move |conn: &Connection| queues::look(conn, order)
                    };
                    self.look(look).await?
                } else {
                    Look::Something
                };
                match look {
                    Look::Nothing(due) => {
                        // Times of the day may be set anew, so no wait is long.
                        wait = wait.min(due.map_or(wait, |due| due.duration_since(SystemTime::now()).unwrap_or_default()));
                    }
                    Look::Something => {
                        let claimed = patiently(|| self.take(room)).await?;
                        self.drained.store(claimed.len() < room, Ordering::Relaxed);
                        if !claimed.is_empty() {
                            into.extend(claimed);
                            return Ok(Fetched::More);
                        }
                        // Another one was faster; the next look tells for how long to wait.
                        continue;
                    }
                }
                let _ = tokio::time::timeout(wait, changed).await;
            }
        }
        .boxed()
    }

    fn lease(&self) -> Option<Arc<Lease>> {
        Some(self.owner.renewal.clone())
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.store.shared.changed.notify_waiters();
    }

    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        let load = || {
            let (owner, receipts) = (self.owner.number(), receipts.to_vec());
            move |conn: &Connection| queues::load(conn, owner, &receipts)
        };
        async move { self.look(load).await }.boxed()
    }

    fn finish<'a>(&'a self, batch: &'a [Finish]) -> BoxFuture<'a, Result<Vec<Ended>, BrokerError>> {
        async move {
            let batch: Arc<[Finish]> = batch.into();
            patiently(|| {
                let (batch, owner) = (Arc::clone(&batch), Arc::clone(&self.owner));
                self.store.write(move |step| queues::finish_all(step, owner.number(), &batch))
            })
            .await
        }
        .boxed()
    }

    fn accuse<'a>(&'a self, running: &'a [Receipt]) -> BoxFuture<'a, Result<(), BrokerError>> {
        patiently(move || {
            let (owner, running) = (Arc::clone(&self.owner), running.to_vec());
            self.store.write(move |step| queues::accuse(step.conn, owner.number(), &running))
        })
        .boxed()
    }

    fn serve(&self, queue: &str, on: bool) {
        self.turns.serve(queue, on);
        self.store.shared.changed.notify_waiters();
    }

    fn serving(&self) -> Vec<Arc<str>> {
        self.turns.order()
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.close();
        let owner = Arc::clone(&self.owner);
        self.store.write(move |step| owners::leave(step, &owner)).boxed()
    }
}

//! A consumer on a connection of its own.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use longshore_celery::crashes_of;
use longshore_core::{Receipt, source::Fetched};

use super::{
    ready,
    server::{Delivery, Parcel, Server},
};
use crate::{
    broker::{Consumer, OpenOptions},
    error::BrokerError,
    lease::Lease,
    message::{Claimed, End, Ended, Finish},
    names,
    rotation::Rotation,
};

/// Deliveries that are not acknowledged yet. A server hands none out a second time, so their bytes
/// are kept here, for those that wait for their time.
#[derive(Default)]
struct Unacked(Mutex<HashMap<u64, (Arc<str>, Parcel)>>);

impl Unacked {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Arc<str>, Parcel)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct RehearsalConsumer {
    server: Arc<Server>,
    connection: AtomicU64,
    unacked: Unacked,
    turns: Rotation,
    /// A new term begins with each connection: what was delivered on another is anybody's.
    lease: Arc<Lease>,
    closed: AtomicBool,
}

impl RehearsalConsumer {
    pub(super) fn new(server: Arc<Server>, options: OpenOptions) -> Self {
        let connection = AtomicU64::new(server.connect());
        let lease = Arc::new(Lease::new(Duration::MAX));
        Self {
            server,
            connection,
            unacked: Unacked::default(),
            turns: Rotation::new(options.queues, options.order),
            lease,
            closed: AtomicBool::new(false),
        }
    }

    fn connection(&self) -> u64 {
        self.connection.load(Ordering::Acquire)
    }

    /// Connects anew, if the connection is lost.
    fn reconnect(&self) {
        if !self.server.is_open(self.connection()) {
            self.lease.lose();
            self.unacked.lock().clear();
            self.connection.store(self.server.connect(), Ordering::Release);
        }
    }

    /// Takes what is there, from each queue in its turn.
    fn take(&self, room: usize, into: &mut Vec<Claimed>) {
        let end = into.len() + room;
        while into.len() < end {
            let connection = self.connection();
            let next = self.turns.order().into_iter().find_map(|queue| Some((self.server.get(connection, &queue)?, queue)));
            let Some((Delivery { tag, parcel }, queue)) = next else { break };
            self.turns.served(&queue);
            let raw = parcel.body.raw();
            into.push(Claimed {
                receipt: Receipt(tag),
                queue: queue.clone(),
                crashes: crashes_of(&raw).max(parcel.lost),
                raw,
                redelivered: parcel.redelivered,
                given: false,
            });
            self.unacked.lock().insert(tag, (queue, parcel));
        }
    }

    fn finish_one(&self, finish: &Finish) -> Ended {
        let tag = finish.receipt.0;
        if !self.server.has(self.connection(), tag) {
            return Ended::Refused;
        }
        if let Some(reason) = names::refused_among("", &finish.publish) {
            return Ended::Impossible { reason };
        }
        if finish.part.is_some() || !finish.results.is_empty() {
            return Ended::Impossible { reason: "this broker keeps no results".to_owned() };
        }
        // What is confirmed is there; if this ends before the acknowledgement, it is sent again.
        finish.publish.iter().for_each(|out| self.server.publish(&out.queue, Parcel::new(out.raw.clone(), out.priority)));
        if finish.end == End::Keep {
            return Ended::Done;
        }
        if let End::Back { front: true } = finish.end {
            self.unacked.lock().remove(&tag);
            self.server.nack(tag);
            return Ended::Done;
        }
        let Some((queue, parcel)) = self.unacked.lock().remove(&tag) else { return Ended::Refused };
        let again = || parcel.fresh();
        match &finish.end {
            End::Back { .. } => self.server.publish(&queue, again()),
            End::Dead { reason } | End::Junk { reason } => {
                let headers = super::dead_headers(tag, reason);
                self.server.publish(&super::dead_queue(&queue), again().with(headers));
            }
            End::Ack | End::Keep => {}
        }
        self.server.ack(tag);
        Ended::Done
    }
}

impl Consumer for RehearsalConsumer {
    fn claim<'a>(&'a self, room: usize, into: &'a mut Vec<Claimed>) -> BoxFuture<'a, Result<Fetched, BrokerError>> {
        Box::pin(async move {
            loop {
                let changed = self.server.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.closed.load(Ordering::Acquire) {
                    return Ok(Fetched::End);
                }
                self.reconnect();
                let before = into.len();
                self.take(room, into);
                if into.len() > before || room == 0 {
                    return Ok(Fetched::More);
                }
                changed.await;
            }
        })
    }

    fn lease(&self) -> Option<Arc<Lease>> {
        Some(self.lease.clone())
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.server.changed.notify_waiters();
    }

    fn load<'a>(&'a self, receipts: &'a [Receipt]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        let (unacked, connection) = (self.unacked.lock(), self.connection());
        let held = |tag: &u64| self.server.has(connection, *tag);
        let one = |receipt: &Receipt| unacked.get(&receipt.0).filter(|_| held(&receipt.0)).map(|(_, parcel)| parcel.body.raw());
        ready(receipts.iter().map(one).collect())
    }

    fn finish<'a>(&'a self, batch: &'a [Finish]) -> BoxFuture<'a, Result<Vec<Ended>, BrokerError>> {
        ready(batch.iter().map(|finish| self.finish_one(finish)).collect())
    }

    fn serve(&self, queue: &str, on: bool) {
        self.turns.serve(queue, on);
        self.server.changed.notify_waiters();
    }

    fn serving(&self) -> Vec<Arc<str>> {
        self.turns.order()
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.close();
        let tags: Vec<u64> = self.unacked.lock().drain().map(|(tag, _)| tag).collect();
        tags.into_iter().filter(|tag| self.server.has(self.connection(), *tag)).for_each(|tag| self.server.nack(tag));
        ready(())
    }
}

impl Drop for RehearsalConsumer {
    fn drop(&mut self) {
        self.server.lose(self.connection());
    }
}

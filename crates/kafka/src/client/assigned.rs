//! One partition that is assigned to us: its queue, its ledger, and what is read of it.

use std::{
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    Offset,
    consumer::base_consumer::PartitionQueue,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Headers as _, Message as _},
};

use super::ClientHooks;
use crate::{
    intake::{KeyNumbers, KeyTable, Limits},
    ledger::{Ledger, Taken},
    options::Order,
    record::{BATCH_BYTES, BatchBuilder, Batches, PartitionLease, Record},
    trouble::Affected,
    view::Intake,
};

/// One partition that is assigned to us.
pub(crate) struct AssignedPartition {
    pub(crate) lease: Arc<PartitionLease>,
    pub(crate) ledger: Ledger,
    queue: PartitionQueue<ClientHooks>,
    /// Set by the client when something comes into an empty queue.
    nonempty: Arc<AtomicBool>,
    pub(crate) names: KeyNumbers,
    /// The number of the partition itself, where its records keep one order.
    pub(crate) own: Option<NonZeroU32>,
    /// The offset of the next record.
    pub(crate) position: i64,
    /// A record that was read and may not be started yet.
    held: Option<(i64, Record)>,
    /// Number of offsets that the ledger had finished when it refused that one: until it has
    /// finished more, it need not be asked again.
    refused_at: u64,
    /// A key of which too many stand in line.
    hot: Option<NonZeroU32>,
    pub(crate) batches: Batches,
    pub(crate) commit: Committed,
    /// The end of the partition, as the broker told it last.
    pub(crate) high: Option<i64>,
    pub(crate) at_end: bool,
    /// The client tells once that it cannot be read, and never that it can again; so it is asked at
    /// this time.
    pub(crate) ask_again: Option<Instant>,
    /// Offset at which it goes on when it is asked, as far as that is known.
    pub(crate) next: Offset,
    pub(crate) paused: bool,
    /// It is being taken from us, and not read any more.
    pub(crate) leaving: bool,
}

/// Value in place of what the ledger had finished: it was not asked for this record yet.
const LARGE: u64 = u64::MAX;

/// State of a partition's commits: what the broker has accepted, and what was sent to it.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Offset that the broker has accepted.
    pub(crate) offset: Option<i64>,
    /// Number of offsets that the ledger had finished when a commit was last sent.
    pub(crate) sent: u64,
    /// Number of offsets that the ledger had finished when the last accepted commit was sent.
    pub(crate) accepted: u64,
    /// Characters of the metadata then.
    pub(crate) metadata: usize,
}

/// Records gathered from one partition, and what else reading it brought.
#[derive(Default)]
pub(crate) struct Reading {
    /// Of the records gathered: offset and key.
    pub(crate) fresh: Vec<(i64, Option<NonZeroU32>)>,
    pub(crate) gather: BatchBuilder,
    pub(crate) read: u64,
    pub(crate) known: u64,
    /// Result of the client's last poll: well, or the reason why the partition cannot be read.
    pub(crate) state: Option<Result<(), Code>>,
    /// A header was left out.
    pub(crate) bad_header: bool,
    /// The partition begins anew: the log was cut, or the topic made again.
    pub(crate) backwards: Option<i64>,
}

impl AssignedPartition {
    pub(crate) fn new(
        lease: Arc<PartitionLease>,
        ledger: Ledger,
        queue: PartitionQueue<ClientHooks>,
        nonempty: Arc<AtomicBool>,
        own: Option<NonZeroU32>,
        committed: Option<i64>,
        next: Offset,
    ) -> Self {
        Self {
            position: committed.unwrap_or_default(),
            commit: Committed { offset: committed, ..Committed::default() },
            lease,
            ledger,
            queue,
            nonempty,
            names: KeyNumbers::default(),
            own,
            held: None,
            refused_at: 0,
            hot: None,
            batches: Batches::default(),
            high: None,
            at_end: false,
            ask_again: None,
            next,
            paused: false,
            leaving: false,
        }
    }

    /// Returns true if there may be something to read that may be read now.
    pub(crate) fn is_readable(&mut self, keys: &KeyTable, limits: &Limits) -> bool {
        if let Some(key) = self.hot {
            if keys.in_flight(key) > limits.of_key_again() {
                return false;
            }
            self.hot = None;
        }
        let ready = if self.held.is_some() { self.ledger.finished() != self.refused_at } else { self.nonempty.load(Ordering::Acquire) };
        !self.leaving && ready
    }

    /// Has it looked into at the next turn, whatever its queue has told.
    pub(crate) fn look(&self) {
        self.nonempty.store(true, Ordering::Release);
    }

    /// Returns how many records, of its hot key or of any, must end before it goes on; `None` if it
    /// waits for none.
    pub(crate) fn waits_for(&self, keys: &KeyTable, limits: &Limits) -> Option<usize> {
        if self.held.is_some() && !self.leaving {
            return Some(1);
        }
        self.hot.map(|key| keys.in_flight(key).saturating_sub(limits.of_key_again()).max(1))
    }

    /// Reads up to `room` records into a batch of their own.
    pub(crate) fn read(&mut self, room: usize, order: Order, keys: &mut KeyTable, limits: &Limits, into: &mut Reading) {
        // A record that was kept back comes first: offsets are taken in the order in which they
        // were read.
        if let Some((offset, record)) = self.held.take() {
            match self.ledger.take(offset) {
                Taken::TooFar => {
                    self.refused_at = self.ledger.finished();
                    self.held = Some((offset, record));
                    return;
                }
                Taken::New => {
                    // One that the ledger has refused was counted when it was read.
                    into.read += u64::from(self.refused_at == LARGE);
                    into.gather.push(offset, record.timestamp().unwrap_or(-1), record.key(), record.value());
                    record.headers().for_each(|(name, value)| into.gather.header(name, value));
                    let key = number(order, record.key(), self.own, keys, &mut self.names);
                    into.fresh.push((offset, key));
                    enter(&mut self.hot, key, keys, limits);
                }
                Taken::AlreadyDone => into.known += 1,
                Taken::Backwards => {
                    into.backwards = Some(offset);
                    return;
                }
            }
        }
        while into.gather.len() < room && !into.gather.is_full() && self.hot.is_none() {
            let Some(message) = self.queue.poll(Duration::ZERO) else {
                // What came between that look and this store is found by another look.
                if self.nonempty.swap(false, Ordering::AcqRel) {
                    continue;
                }
                break;
            };
            let message = match message {
                // The client was told to report the end, which is no error: the partition can be
                // read.
                Err(KafkaError::PartitionEOF(_)) => {
                    self.at_end = true;
                    into.state = Some(Ok(()));
                    continue;
                }
                Err(error) => {
                    self.at_end = false;
                    into.state = Some(Err(error.rdkafka_error_code().unwrap_or(Code::Fail)));
                    continue;
                }
                Ok(message) => message,
            };
            into.state = Some(Ok(()));
            let offset = message.offset();
            if into.gather.len() > 0 && message.payload_len() + message.key_len() > BATCH_BYTES {
                // What is small would keep it in memory for as long as it is in work itself.
                let mut alone = BatchBuilder::default();
                copy(&message, &mut alone, &mut into.bad_header);
                self.held = Some((offset, alone.finish(&self.lease).record(0)));
                self.refused_at = LARGE;
                self.position = offset + 1;
                self.next = Offset::Offset(self.position);
                self.at_end = false;
                return;
            }
            match self.ledger.take(offset) {
                Taken::New => {
                    copy(&message, &mut into.gather, &mut into.bad_header);
                    let key = number(order, message.key(), self.own, keys, &mut self.names);
                    into.fresh.push((offset, key));
                    into.read += 1;
                    enter(&mut self.hot, key, keys, limits);
                }
                Taken::AlreadyDone => into.known += 1,
                Taken::TooFar => {
                    // It is kept here, because the client does not give it a second time.
                    let mut alone = BatchBuilder::default();
                    copy(&message, &mut alone, &mut into.bad_header);
                    self.held = Some((offset, alone.finish(&self.lease).record(0)));
                    self.refused_at = self.ledger.finished();
                    into.read += 1;
                }
                Taken::Backwards => into.backwards = Some(offset),
            }
            self.position = offset + 1;
            self.next = Offset::Offset(self.position);
            self.at_end = false;
            // Nothing is read past such a record: what follows would overtake it.
            if self.held.is_some() || into.backwards.is_some() {
                return;
            }
        }
    }

    /// Begins anew at this offset: what is in work belongs to a log that is no more.
    pub(crate) fn begin_anew(&mut self, offset: i64, most_characters: usize) {
        self.lease.revoked.store(true, Ordering::Relaxed);
        self.lease =
            Arc::new(PartitionLease { topic: self.lease.topic.clone(), partition: self.lease.partition, revoked: AtomicBool::new(false) });
        self.ledger = Ledger::with_limit(offset, None, most_characters);
        (self.commit.sent, self.commit.accepted) = (0, 0);
        self.next = Offset::Offset(offset);
        self.batches.clear();
        (self.held, self.hot) = (None, None);
    }

    /// Names the partition, for what is wrong with it.
    pub(crate) fn affected(&self) -> Affected {
        Affected::Partition { topic: self.lease.topic.to_string(), partition: self.lease.partition }
    }

    /// Returns how many records are done and not committed.
    pub(crate) fn uncommitted(&self) -> u64 {
        self.ledger.finished().saturating_sub(self.commit.accepted)
    }

    /// Returns true if nothing is left to read, as far as is known.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at_end && self.held.is_none() && !self.nonempty.load(Ordering::Acquire)
    }

    /// Returns whether all that could be read is done and committed. What is behind the commit, if
    /// anything is, is no record: the mark that ends a transaction, or what was aborted.
    pub(crate) fn is_done(&self) -> bool {
        self.is_at_end() && self.ledger.incomplete() == 0 && self.commit.offset.is_some_and(|offset| offset >= self.ledger.position())
    }

    /// Returns the state of its reading, with the reason if it is not read.
    pub(crate) fn intake(&self) -> Intake {
        match () {
            () if self.ask_again.is_some() => Intake::Unreadable,
            () if self.paused => Intake::Paused,
            () if self.held.is_some() => Intake::TooFar,
            () if self.hot.is_some() => Intake::HotKey,
            () if self.is_at_end() => Intake::AtEnd,
            () => Intake::Open,
        }
    }
}

/// Counts a record for its key; when that has as many as it may have, the partition waits for it.
fn enter(hot: &mut Option<NonZeroU32>, key: Option<NonZeroU32>, keys: &mut KeyTable, limits: &Limits) {
    if let Some(key) = key
        && keys.add(key) >= limits.of_key()
    {
        *hot = Some(key);
    }
}

/// Returns the number under which a record keeps its order. Records without a key keep none.
fn number(order: Order, key: Option<&[u8]>, own: Option<NonZeroU32>, keys: &mut KeyTable, names: &mut KeyNumbers) -> Option<NonZeroU32> {
    match order {
        Order::None => None,
        Order::Partition => own,
        Order::Key => key.map(|key| keys.number_of(names, key)),
    }
}

fn copy(message: &BorrowedMessage<'_>, into: &mut BatchBuilder, bad_header: &mut bool) {
    into.push(message.offset(), message.timestamp().to_millis().unwrap_or(-1), message.key(), message.payload());
    if let Some(headers) = message.headers() {
        // The client crate panics where a header's name is not UTF-8.
        let copied = catch_unwind(AssertUnwindSafe(|| headers.iter().for_each(|header| into.header(header.key, header.value))));
        *bad_header |= copied.is_err();
    }
}

//! A record as a handler sees it, and the batch that it travels in.
//!
//! What is read from one partition in one go is copied into one batch: one buffer for all keys and
//! values. A record is a place in it, sixteen bytes wide, and costs no allocation. A record that
//! stays long keeps its batch, which is why a batch is small (16 KiB).

use std::{
    collections::VecDeque,
    fmt, str,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use longshore_core::TaskError;

/// Bytes at which a batch ends, so that the last record of it that is still in work pins little.
pub(crate) const BATCH_BYTES: usize = 16 * 1024;
/// Records at which a batch ends.
pub(crate) const BATCH_RECORDS: usize = 128;

/// One record, lent by its partition until it is done. Clones are the same record.
#[derive(Clone)]
pub struct Record {
    batch: Arc<Batch>,
    at: u32,
}

/// A partition, for as long as it is assigned to us without a break.
#[derive(Debug)]
pub(crate) struct PartitionLease {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// It belongs to somebody else now.
    pub(crate) revoked: AtomicBool,
}

/// Records of one partition that were read together.
pub(crate) struct Batch {
    lease: Arc<PartitionLease>,
    data: Vec<u8>,
    entries: Vec<BatchEntry>,
    headers: Vec<HeaderAt>,
}

struct BatchEntry {
    offset: i64,
    timestamp: i64,
    /// Index of its key's first byte in the batch's data; the value follows.
    at: u32,
    /// [`NONE`]: it has none.
    key: u32,
    value: u32,
    headers: (u32, u32),
    state: AtomicU8,
}

struct HeaderAt {
    at: u32,
    name: u32,
    value: u32,
}

const NONE: u32 = u32::MAX;

/// It waits for an attempt.
const WAITING: u8 = 0;
/// An attempt has begun, and no other one is waited for yet.
const BEGUN: u8 = 1;
/// Nobody wants it any more.
const WITHDRAWN: u8 = 2;

impl Record {
    fn entry(&self) -> &BatchEntry {
        &self.batch.entries[self.at as usize]
    }

    /// Returns its topic.
    pub fn topic(&self) -> &str {
        &self.batch.lease.topic
    }

    /// Returns its partition.
    pub fn partition(&self) -> i32 {
        self.batch.lease.partition
    }

    /// Returns its place in the partition.
    pub fn offset(&self) -> i64 {
        self.entry().offset
    }

    /// Returns the time at which it was produced, or appended (the topic's setting), in
    /// milliseconds since 1970.
    pub fn timestamp(&self) -> Option<i64> {
        Some(self.entry().timestamp).filter(|at| *at >= 0)
    }

    /// Returns its key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        let entry = self.entry();
        self.batch.bytes(entry.at, entry.key)
    }

    /// Returns its value; a record without one is a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        let entry = self.entry();
        let key = if entry.key == NONE { 0 } else { entry.key };
        self.batch.bytes(entry.at + key, entry.value)
    }

    /// Returns its value as text; empty if there is none.
    ///
    /// # Errors
    /// It is not UTF-8: an error of kind `invalid`, which no retry can help.
    pub fn text(&self) -> Result<&str, TaskError> {
        let value = self.value().unwrap_or_default();
        str::from_utf8(value).map_err(|error| TaskError::invalid(format!("the value of {self} is not UTF-8: {error}")))
    }

    /// Returns its headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let (first, count) = self.entry().headers;
        let headers = &self.batch.headers[first as usize..(first + count) as usize];
        headers.iter().map(|header| {
            let name = self.batch.bytes(header.at, header.name).unwrap_or_default();
            (str::from_utf8(name).unwrap_or_default(), self.batch.bytes(header.at + header.name, header.value))
        })
    }

    /// Returns the memory that it takes, about, in bytes.
    pub(crate) fn bytes(&self) -> u32 {
        const OWN: u32 = 64;
        let part = |len: u32| if len == NONE { 0 } else { len };
        let entry = self.entry();
        let (first, count) = entry.headers;
        let headers = &self.batch.headers[first as usize..(first + count) as usize];
        let headers = headers.iter().map(|header| OWN + header.name + part(header.value));
        headers.fold(OWN + part(entry.key), u32::saturating_add).saturating_add(part(entry.value))
    }

    /// Returns true if its partition was taken from us meanwhile: another member will process this
    /// record, whatever becomes of it here.
    pub fn is_revoked(&self) -> bool {
        self.batch.lease.revoked.load(Ordering::Relaxed)
    }

    /// Marks the begin of an attempt; `false`: it was withdrawn, and must not be run.
    #[inline]
    pub(crate) fn begin(&self) -> bool {
        let state = &self.entry().state;
        match state.load(Ordering::Acquire) {
            WAITING => state.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok(),
            state => state == BEGUN,
        }
    }

    /// Returns true if it was withdrawn.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.entry().state.load(Ordering::Acquire) == WITHDRAWN
    }

    /// Notes that it waits for its next attempt, and nothing of it runs.
    pub(crate) fn rest(&self) {
        let _ = self.entry().state.compare_exchange(BEGUN, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Withdraws it if it waits for an attempt.
    fn withdraw(&self) -> bool {
        self.entry().state.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// `topic[partition]@offset`, as in messages.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic(), self.partition(), self.offset())
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({self})")
    }
}

impl Batch {
    fn bytes(&self, at: u32, len: u32) -> Option<&[u8]> {
        if len == NONE { None } else { self.data.get(at as usize..at as usize + len as usize) }
    }

    /// Returns the first offset in it.
    pub(crate) fn first(&self) -> i64 {
        self.entries.first().map_or(0, |entry| entry.offset)
    }

    /// Returns the record at this offset.
    pub(crate) fn find(self: &Arc<Self>, offset: i64) -> Option<Record> {
        let at = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        Some(Record { batch: self.clone(), at: u32::try_from(at).ok()? })
    }

    pub(crate) fn record(self: &Arc<Self>, at: u32) -> Record {
        Record { batch: self.clone(), at }
    }
}

/// The batches of a partition of which something may still be in work, oldest first.
#[derive(Default)]
pub(crate) struct Batches(VecDeque<Weak<Batch>>);

impl Batches {
    pub(crate) fn push(&mut self, batch: &Arc<Batch>) {
        while self.0.front().is_some_and(|batch| batch.strong_count() == 0) {
            self.0.pop_front();
        }
        self.0.push_back(Arc::downgrade(batch));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the record at this offset, if anybody still holds it.
    pub(crate) fn record(&self, offset: i64) -> Option<Record> {
        let batch = self.0.iter().rev().filter_map(Weak::upgrade).find(|batch| batch.first() <= offset);
        batch.and_then(|batch| batch.find(offset))
    }

    /// Withdraws the record at this offset, if it waits for an attempt. One whose batch nobody
    /// holds any more has ended, and what became of it is on its way: to withdraw that would be to
    /// do it again.
    pub(crate) fn withdraw(&self, offset: i64) -> bool {
        self.record(offset).is_some_and(|record| record.withdraw())
    }
}

/// Gathers what is read.
#[derive(Default)]
pub(crate) struct BatchBuilder {
    data: Vec<u8>,
    entries: Vec<BatchEntry>,
    headers: Vec<HeaderAt>,
}

impl BatchBuilder {
    /// Adds a record; its headers follow with [`header`](BatchBuilder::header).
    pub(crate) fn push(&mut self, offset: i64, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let at = size(self.data.len());
        self.data.extend_from_slice(key.unwrap_or_default());
        self.data.extend_from_slice(value.unwrap_or_default());
        let len = |bytes: Option<&[u8]>| bytes.map_or(NONE, |bytes| size(bytes.len()));
        let headers = (size(self.headers.len()), 0);
        self.entries.push(BatchEntry { offset, timestamp, at, key: len(key), value: len(value), headers, state: AtomicU8::new(WAITING) });
    }

    /// Adds a header to the last record.
    pub(crate) fn header(&mut self, name: &str, value: Option<&[u8]>) {
        let Some(entry) = self.entries.last_mut() else { return };
        entry.headers.1 += 1;
        let at = size(self.data.len());
        self.data.extend_from_slice(name.as_bytes());
        self.data.extend_from_slice(value.unwrap_or_default());
        self.headers.push(HeaderAt { at, name: size(name.len()), value: value.map_or(NONE, |value| size(value.len())) });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_RECORDS || self.data.len() >= BATCH_BYTES
    }

    /// Returns what was gathered as a batch, and begins anew.
    pub(crate) fn finish(&mut self, lease: &Arc<PartitionLease>) -> Arc<Batch> {
        let (records, bytes) = (self.entries.len(), self.data.len());
        let batch = Batch {
            lease: lease.clone(),
            data: std::mem::replace(&mut self.data, Vec::with_capacity(bytes)),
            entries: std::mem::replace(&mut self.entries, Vec::with_capacity(records)),
            headers: std::mem::take(&mut self.headers),
        };
        Arc::new(batch)
    }
}

/// A batch is far from 4 GiB: one record more than [`BATCH_BYTES`], and a record has at most 2 GiB,
/// half of what the wire allows.
fn size(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(NONE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Arc<PartitionLease> {
        Arc::new(PartitionLease { topic: "orders".into(), partition: 3, revoked: AtomicBool::new(false) })
    }

    #[test]
    fn a_batch_gives_back_what_was_put_into_it() {
        let mut gather = BatchBuilder::default();
        gather.push(7, 1_000, Some(b"anna"), Some(b"{}"));
        gather.header("trace", Some(b"\xff"));
        gather.header("empty", None);
        gather.push(9, -1, None, None);
        gather.push(12, 3, Some(b""), Some(b"\xff\xfe"));
        let batch = gather.finish(&lease());
        assert_eq!((batch.first(), gather.len()), (7, 0));
        let first = batch.record(0);
        assert_eq!((first.topic(), first.partition(), first.offset(), first.timestamp()), ("orders", 3, 7, Some(1_000)));
        assert_eq!((first.key(), first.text().expect("text")), (Some(&b"anna"[..]), "{}"));
        assert_eq!(first.headers().collect::<Vec<_>>(), [("trace", Some(&b"\xff"[..])), ("empty", None)]);
        let tombstone = batch.find(9).expect("it is there");
        assert_eq!((tombstone.key(), tombstone.value(), tombstone.timestamp(), tombstone.headers().count()), (None, None, None, 0));
        let last = batch.find(12).expect("it is there");
        assert_eq!((last.key(), last.value()), (Some(&b""[..]), Some(&b"\xff\xfe"[..])));
        let error = last.text().expect_err("that is no text");
        assert_eq!((error.kind(), error.again()), ("invalid", longshore_core::Again::Never));
        assert!(error.message().contains("orders[3]@12"), "{error}");
        assert!(batch.find(8).is_none());
        assert_eq!([first.bytes(), tombstone.bytes(), last.bytes()], [64 + 6 + 64 + 6 + 64 + 5, 64, 64 + 2]);
    }

    #[test]
    fn what_is_withdrawn_does_not_begin_and_what_has_begun_is_not_withdrawn() {
        let mut gather = BatchBuilder::default();
        (0..3).for_each(|offset| gather.push(offset, 0, None, None));
        let batch = gather.finish(&lease());
        let [a, b, c] = [0, 1, 2].map(|at| batch.record(at));
        assert!(a.begin() && a.begin(), "an attempt, and another one");
        assert!(!a.withdraw());
        assert!(b.withdraw() && !b.begin());
        assert!(c.begin());
        c.rest();
        assert!(c.withdraw() && !c.begin(), "it waited for another attempt");
        b.rest();
        assert!(b.is_withdrawn(), "for good");
        let [_, _, again] = [0, 1, 2].map(|at| batch.record(at));
        assert!(!again.begin(), "clones are the same record");
    }

    #[test]
    fn what_has_ended_and_is_not_settled_yet_is_not_withdrawn() {
        let mut gather = BatchBuilder::default();
        let mut batches = Batches::default();
        gather.push(0, 0, None, None);
        gather.push(1, 0, None, None);
        let first = gather.finish(&lease());
        gather.push(2, 0, None, None);
        let second = gather.finish(&lease());
        batches.push(&first);
        batches.push(&second);
        assert!(first.record(0).begin());
        assert!(!batches.withdraw(0), "it runs");
        assert!(batches.withdraw(1), "it waits");
        assert!(second.record(0).begin());
        drop(second);
        assert!(!batches.withdraw(2), "it has run, nobody holds it any more, and its settlement comes");
        assert!(!batches.withdraw(7), "there is none");
    }
}

//! Exactly once, from topic to topic: what handlers return is written in the transaction that
//! commits the records it came from.
//!
//! Handlers produce nothing themselves. What they return is staged until the next commit, which is
//! one transaction: these outputs, positions and maps of what is done beyond, all or nothing
//! (KIP-447: the group's generation tells members from those that believe they are still some). No
//! lock is shared with handlers, and records that end out of order are exact too, because the map
//! travels in the same transaction. A transaction that is aborted is made again from the same
//! outputs; handlers do not run again for it.

use std::sync::{Arc, atomic::Ordering};

use crate::record::PartitionLease;

/// A record that a handler returns, to be written exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The topic.
    pub topic: String,
    /// The partition; `None`: by the key, without a key any.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in this order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// In milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
}

impl Output {
    /// Makes a record with a key and a value.
    pub fn new(topic: impl Into<String>, key: Option<&[u8]>, value: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), key: key.map(<[u8]>::to_vec), value: Some(value.into()), ..Self::default() }
    }
}

/// An output that waits for its transaction.
pub(crate) struct StagedOutput {
    pub(crate) output: Output,
    /// Lease of the partition of the record that it was made of.
    pub(crate) lease: Arc<PartitionLease>,
}

impl StagedOutput {
    /// Returns true if the partition is still ours; if not, its record is done again by another
    /// member, and so is this.
    pub(crate) fn is_ours(&self) -> bool {
        !self.lease.revoked.load(Ordering::Relaxed)
    }
}

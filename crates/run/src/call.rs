//! A record on its way, and the records of one call.

use std::sync::Arc;

use crate::record::Record;

/// A record on its way, with what the journal calls it.
#[derive(Debug)]
pub(crate) struct Item {
    /// The record.
    pub record: Record,
    /// Its key.
    pub key: u128,
    /// Records with the same key that stood before it in the input.
    pub nth: u32,
}

/// The records of one call, which the engine knows as one task: one, unless they share calls.
pub(crate) type Call = Arc<[Item]>;

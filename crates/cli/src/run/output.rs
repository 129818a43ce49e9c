//! Where results go: a projection of the journal.

pub mod queue;
pub use queue::Feed;

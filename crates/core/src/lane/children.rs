//! Children that serve many tasks: how they are kept, replaced and ended, whatever is said to them.
//!
//! Layout:
//! - `limits.rs`: [`ChildLimits`], and when a child is worn.
//! - `kept.rs`: one living child, with what its limits are about. `link.rs`: how it is talked to.
//! - `blame.rs`: which task a death is charged to, and as what.
//! - `queue.rs`: the work that waits, and the threads that take it.
//!
//! `lane/README.md` says how the pieces stand to each other.

pub(crate) mod blame;
mod kept;
mod limits;
mod link;
mod queue;

pub use limits::ChildLimits;

pub(crate) use kept::{KeptChild, LOOK};
pub(crate) use link::ChildLink;
pub(crate) use queue::{Waited, WorkQueue};

//! Children that serve many tasks: how they are kept, replaced and ended, whatever is said to them.
//!
//! Layout:
//! - `limits.rs`: [`ChildLimits`], and when a child is worn.
//! - `kept.rs`: one living child, with what its limits are about.
//! - `link.rs`: how a child is talked to. `lines.rs`, `frames.rs`: in lines, in frames. `talk.rs`:
//!   its three streams.
//! - `blame.rs`: which task a death is charged to, and as what; what is due of a task that runs.
//! - `seat.rs`: one child after the other, and the work that they have.
//! - `pool.rs`: [`ChildPool`], for callers that wait. `lane.rs`: [`ChildLane`], for an engine.
//! - `queue.rs`: the work that waits, and the threads that take it.
//!
//! `lane/README.md` says how the pieces stand to each other.

pub(crate) mod blame;
mod frames;
mod kept;
mod lane;
mod limits;
mod lines;
mod link;
mod pool;
mod queue;
mod seat;
mod talk;

use std::time::Duration;

pub use frames::{FrameLink, Frames};
pub use lane::{ChildHandler, ChildLane};
pub use limits::ChildLimits;
pub use lines::{LineLink, Lines};
pub use link::{ChildKind, ChildLink, Resting, Said, TalkLink, Woken};
pub use pool::{ChildCall, ChildPool, TakenSlot};
pub use seat::ChildAnswer;

pub(crate) use kept::{KeptChild, LOOK};
pub(crate) use queue::{Waited, WorkQueue};

/// The time between a child's being asked to end and its being killed.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// The time that a child has for its own end after its input has ended.
const FAREWELL: Duration = Duration::from_secs(5);

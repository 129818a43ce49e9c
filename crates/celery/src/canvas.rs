//! Canvas: chains, groups and chords, as Celery's workers and clients send them. Pure: ids and the
//! time come from the caller.
//!
//! What is sent is what Celery 5.7 sends, option by option, but for what would lose something
//! there:
//! - a chord that fails in another's header fails that one too, as does the body of a chord that is
//!   a chord's body (there they wait for ever);
//! - a chord in a group that ends a chain in another chord's header stays a part of that one (there
//!   it waits for ever, too);
//! - the priority of a chord's body survives being the next link of a chain;
//! - arguments for a chain that begins with a group reach its members;
//! - canvases work as errbacks.
//!
//! And as in Celery, a chord whose body ends in a group, followed by another chord in a chain, runs
//! the rest once for each member of that group.
//!
//! Layout:
//! - `canvas/tree.rs`: a signature with its parts at hand
//! - `canvas/freeze.rs`: giving everything its id, before anything is sent
//! - `canvas/steps.rs`: the steps of a chain
//! - `canvas/apply.rs`: a signature → what is sent
//! - `canvas/send.rs`: options → one message
//! - `canvas/size.rs`: what would come to too much
//! - `canvas/queues.rs`: the queues that its parts name
//! - `canvas/after.rs`: what a finished task sends on, and whom its failure reaches
//! - `canvas/chord.rs`: a complete chord
//! - `canvas/replace.rs`: a task that puts another in its place, that adds to its chord, that is to
//!   run again
//! - `canvas/builtin.rs`: the built-in tasks that are plain functions
//! - `canvas/build.rs`: signatures in Rust

mod after;
mod apply;
mod build;
mod builtin;
mod chord;
mod freeze;
mod plan;
mod queues;
mod replace;
mod send;
mod size;
mod steps;
mod tree;

pub use after::{ErrbackStyle, FailedPart, FailedTask, FailurePlan, after_failure, after_success};
pub use apply::apply;
pub use build::{chain, chord, group};
pub use builtin::{Builtin, accumulate, chunks, map_calls};
pub use chord::{ChordFailure, ChordOutcome, ChordParts, chord_complete, joined};
pub use plan::{CanvasError, ChordStart, Context, Parent, Plan, PlannedSend, Routing};
pub use queues::refused_part;
pub use replace::{add_to_chord, replace, retry, retry_as};

/// The deepest nesting of signatures in signatures that is followed.
pub(crate) const DEEPEST: usize = 64;

/// Most bytes, about, that several messages sent at once may have in common.
pub(crate) const MOST_COPIED: u64 = 512 << 20;

/// Most results before a result that are named in its place.
pub(crate) const MOST_PARENTS: usize = 100;

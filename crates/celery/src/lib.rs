//! Celery's wire format: bytes ⇄ types. No sockets and no clocks in here; what needs the time or an
//! id is given it.
//!
//! Layout:
//! - `value.rs`: JSON as Python writes it (NaN, huge integers, lone surrogates), tagged values
//! - `message.rs`: a task as it travels: protocol 2 (and reading 1), body, compression
//! - `result.rs`: what is stored of a task, and of a group
//! - `repr.rs`: values as Python shows them
//! - `signature.rs`: a task that is yet to be sent, alone or in a canvas
//! - `canvas.rs`: chains, groups, chords: what is sent when, and when something fails
//! - `events.rs`: what workers tell of themselves and of tasks
//! - `control.rs`: remote control: requests, commands, replies
//! - `glob.rs`: patterns of names

pub mod canvas;
pub mod control;
pub mod events;
mod glob;
mod message;
mod repr;
mod result;
mod signature;
mod trace;
mod value;

pub use glob::glob;
pub use message::{
    BadMessage, CHILD_CRASHES, CRASHES, Compression, Encoding, Limits, Message, MessageFault, MessageParts, Stub, crashes_of, mark_crashed,
    mark_redelivered, sent_at,
};
pub use repr::{REPR_LENGTH, args_repr, kwargs_repr, repr, short_repr};
pub use result::{Exception, Extended, FailedRequest, GroupResult, ResultTree, State, TaskResult};
pub use signature::{Subtask, WireSignature};
pub use trace::TraceContext;
pub use value::{Map, Value, ValueError};

/// Reads a time as Celery writes it, or as Python's users do (with `Z`, or without an offset, which
/// is UTC). `None` for what is no time.
pub fn parse_iso(iso: &str) -> Option<std::time::SystemTime> {
    message::times::parse(iso)
}

/// A time as Celery writes it: `2026-11-21T00:02:13.362734+00:00`.
pub fn iso(time: std::time::SystemTime) -> String {
    message::times::format(time)
}

//! Celery's wire format: bytes ⇄ types. No sockets and no clocks in here; what needs the time or an id is given it.
//!
//! Layout:
//! - `value.rs`: JSON as Python writes it (NaN, huge integers, lone surrogates), tagged values
//! - `message.rs`: a task as it travels: protocol 2 (and reading 1), body, compression
//! - `signature.rs`: a task that is yet to be sent, alone or in a canvas

mod message;
mod signature;
mod value;

pub use message::{BadMessage, CRASHES, Encoding, Limits, Message, Wrong, crashes_of, mark_redelivered};
pub use signature::{Signature, Subtask};
pub use value::{Map, Value, ValueError};

//! What every source, sink and lane must do. A new one passes its suite before it lands.
//!
//! Each suite is a function that takes a constructor; the tests beside the implementation (or
//! `tests/conformance.rs` for those of the core) call it.

pub mod lane;
pub mod sink;
pub mod source;

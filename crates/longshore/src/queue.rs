//! The task queue: all its names. What programs use most stands at the root of the crate, too.

pub use longshore_worker::*;

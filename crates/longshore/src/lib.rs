//! longshore
pub use longshore_core::*;

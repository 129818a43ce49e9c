//! sys
mod clock;
mod priority;
pub use clock::*;
pub use priority::*;

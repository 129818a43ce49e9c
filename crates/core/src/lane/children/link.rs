//! What a pool of children needs to know of one of them, whatever it is told and says.

use std::time::Duration;

use longshore_sys::isolated::resident_bytes;

use crate::lane::child::Child;

/// A living child, and the way to talk to it. What is sent and said differs from link to link: a
/// shared board for functions of this program, lines and frames for other programs.
pub(crate) trait ChildLink {
    /// The process: its end, its group.
    fn child(&self) -> &Child;

    /// How many pieces of work it has that it has not answered.
    fn in_flight(&self) -> usize;

    /// Lets it end by itself in this time, when it has nothing to do; kills what is left.
    fn retire(self, farewell: Option<Duration>);

    /// Returns the memory that it holds now, in bytes.
    fn resident(&self) -> u64 {
        resident_bytes(self.child().pid()).unwrap_or(0)
    }
}

//! Whoever hears what a command writes, while it runs.

use std::{fmt, os::fd::BorrowedFd};

/// One of the two streams that a command writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Hears what one command writes, while it runs.
///
/// Nothing here waits but [`finish`](Self::finish). A command whose listener has no room is read no
/// further, so that it waits on its pipe and nothing is held for it; its time goes on.
pub trait OutputListener: fmt::Debug + Send + Sync {
    /// Takes bytes in the order in which the command wrote them to this stream.
    fn hear(&self, stream: OutputStream, bytes: &[u8]);

    /// Returns what becomes readable when there is room again; `None` while there is some.
    fn full(&self) -> Option<BorrowedFd<'_>>;

    /// Hears that nothing more comes, and waits until all has reached whoever it is for. Returns
    /// whether it has: it may give up when everything stops.
    fn finish(&self, is_stopping: &dyn Fn() -> bool) -> bool;
}

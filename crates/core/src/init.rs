//! What a program's `main` begins with, if its children shall die with it.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::lane::child::Children;

static DONE: AtomicBool = AtomicBool::new(false);

/// To be called first thing in `main`, before any thread and any open file, by programs that use the process lane: it lets this executable be started
/// again as the guardian that kills the children of a dead program. Without it the lane works, but children outlive a program that is killed.
pub fn init() {
    longshore_sys::guardian::main_if_asked();
    DONE.store(true, Ordering::Release);
}

/// A registry of children, guarded if the program called [`init`].
pub(crate) fn children() -> io::Result<Children> {
    if DONE.load(Ordering::Acquire) { Children::guarded(&[]) } else { Children::new() }
}

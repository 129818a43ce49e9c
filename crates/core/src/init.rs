//! What a program's `main` begins with, if its children shall die with it.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::lane::{
    child::Children,
    isolated::{self, Functions},
};

static DONE: AtomicBool = AtomicBool::new(false);

/// To be called first thing in `main`, before any thread and any open file, by programs that use
/// the process lane: it lets this executable be started again as the guardian that kills the
/// children of a dead program. Without it the lane works, but children outlive a program that is
/// killed.
///
/// Programs whose functions run in child processes call [`init_with`] instead.
pub fn init() {
    init_with(Functions::new());
}

/// [`init`] for programs that run functions of their own in child processes
/// ([`Job::isolated`](crate::Job::isolated)): it also lets this executable be started again as such
/// a child, which then never comes back from here. What `main` does before it, every child does
/// too.
///
/// The same functions must be added at each start, in the same order, whatever the arguments and
/// the environment are. Called again, it adds further ones.
///
/// ```standalone_crate
/// use longshore_core::{Functions, ChildLimits, Job};
///
/// fn divide(n: u64) -> Result<u64, String> {
///     match n {
///         3 => std::process::abort(), // ends its child process, and no other task
///         n => Ok(100 / n),           // dividing by zero panics
///     }
/// }
///
/// fn main() {
///     longshore_core::init_with(Functions::new().with(divide));
///
///     let outcomes = Job::isolated(divide, ChildLimits::default()).params(0..5).collect().outcomes;
///     let words: Vec<_> = outcomes.iter().map(|outcome| outcome.word().as_str()).collect();
///     assert_eq!(words, ["panicked", "ok", "ok", "killed", "ok"]);
/// }
/// ```
pub fn init_with(functions: Functions) {
    longshore_sys::guardian::main_if_asked();
    isolated::add(functions);
    isolated::serve::main_if_asked();
    DONE.store(true, Ordering::Release);
}

/// Makes a registry of children, guarded if the program called [`init`]. A guardian keeps the
/// descriptors in `keep` open until it is done.
///
/// # Errors
/// The system gives us no process or no descriptor.
pub fn children(keep: &[BorrowedFd<'_>]) -> io::Result<Children> {
    if DONE.load(Ordering::Acquire) { Children::guarded(keep) } else { Children::new() }
}

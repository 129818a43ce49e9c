//! What is broken in the lesson's Python programs, and what stands against it here: a test for
//! each.
//!
//! Two of the mistakes do not get as far as a test, because they do not compile: a misspelt name,
//! and an argument where a tuple was meant. They stand in the guide, as examples that must not
//! compile. `benches/seeds/` has the programs, repaired.

#[path = "lesson/endings.rs"]
mod endings;
#[path = "lesson/queues.rs"]
mod queues;
#[path = "lesson/work.rs"]
mod work;

use std::{
    sync::{Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// The lesson's templates are short; so are ours, or they are none.
#[test]
fn each_of_the_three_templates_of_the_guide_has_fifteen_lines_at_most() {
    let blocks: Vec<usize> =
        include_str!("../guide/start.md").split("```").skip(1).step_by(2).map(|code| code.trim().lines().count()).collect();
    // What stands behind the templates is no template.
    assert!(blocks.len() >= 3 && blocks[..3].iter().all(|lines| *lines <= 15), "{blocks:?}");
}

/// Time on a paused clock. It passes when nothing else can happen, so that after an hour everything
/// that could happen has happened.
const HOUR: Duration = Duration::from_secs(3600);

/// Runs `work` on a thread of its own: what hangs fails here instead of hanging.
fn ends<O: Send + 'static>(work: impl FnOnce() -> O + Send + 'static) -> O {
    let (send, receive) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = send.send(work());
    });
    match receive.recv_timeout(Duration::from_secs(30)) {
        Ok(output) => output,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => panic!("it ended without an answer"),
        },
    }
}

/// Closed until it is opened, then open for ever.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = self.1.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

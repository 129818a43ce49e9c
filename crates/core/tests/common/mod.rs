//! What the tests of jobs share.
#![allow(clippy::unwrap_used, reason = "in tests; the lint knows only functions that are tests themselves")]
#![allow(dead_code, reason = "not every test file needs everything")]

use std::{
    sync::{Condvar, Mutex, mpsc},
    time::Duration,
};

/// Runs `work` on a thread of its own and fails if it does not end: a hang is a failure, not a hang
/// of the tests.
pub(crate) fn ends<O: Send + 'static>(work: impl FnOnce() -> O + Send + 'static) -> O {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = send.send(work());
    });
    match receive.recv_timeout(Duration::from_secs(20)) {
        Ok(output) => output,
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("the work ended without an answer and without a panic"))
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
    }
}

/// A gate for threads: closed until it is opened, for ever.
#[derive(Default)]
pub(crate) struct Signal(Mutex<bool>, Condvar);

impl Signal {
    pub(crate) fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    pub(crate) fn wait(&self) {
        let mut open = self.0.lock().unwrap();
        while !*open {
            open = self.1.wait(open).unwrap();
        }
    }
}

/// Opens when it is dropped, so that a failed assertion does not leave threads behind.
pub(crate) struct OpenAtEnd<'a>(pub(crate) &'a Signal);

impl Drop for OpenAtEnd<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Waits until something is so, which happens soon or never.
pub(crate) fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

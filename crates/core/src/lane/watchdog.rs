//! Names the task that holds a loop of the async lane: on a thread of its own, because the loop
//! cannot say it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::lane::async_::{IN_PASSING, LoopState};

/// Time for which a task may hold a loop before it is named.
pub(crate) const STALL: Duration = Duration::from_millis(100);
/// The time between looks.
const LOOK: Duration = Duration::from_millis(20);

/// Ends its thread when it is dropped.
pub(crate) struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches these loops: `stalled` gets the task and how long it has held its loop, once for
    /// each time, and the task alone when that is over; `nudge` is called while any loop is held,
    /// so that work can go elsewhere. `None` when no thread can be had: then nobody watches.
    pub(crate) fn start(
        loops: Vec<Arc<LoopState>>,
        stalled: impl Fn(u64, Option<Duration>) + Send + 'static,
        nudge: impl Fn() + Send + 'static,
    ) -> Option<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = {
            let stop = stop.clone();
            move || {
                let mut seen = vec![(0, 0, Instant::now(), false); loops.len()];
                while !stop.load(Ordering::Acquire) {
                    thread::park_timeout(LOOK);
                    for (state, (task, polls, since, named)) in loops.iter().zip(&mut seen) {
                        let now = (state.task.load(Ordering::Relaxed), state.polls.load(Ordering::Relaxed));
                        if now != (*task, *polls) || now.0 == 0 {
                            if *named {
                                stalled(*task, None);
                            }
                            (*task, *polls, *since, *named) = (now.0, now.1, Instant::now(), false);
                            continue;
                        }
                        nudge();
                        let held = since.elapsed();
                        if held >= STALL && *task != IN_PASSING && !*named {
                            *named = true;
                            stalled(*task, Some(held));
                        }
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("longshore-watch".to_owned()).spawn(watch).ok()?;
        Some(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Not joined: its last look may post to a mailbox, never to anything that we hold.
        }
    }
}

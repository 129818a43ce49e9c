//! Result handlers: a callback for each finished task, behind the job's result queue.
//!
//! Callbacks begin on threads of their own (as many as there are handlers), so that a slow one,
//! even one that never returns, holds up neither the runtime nor fetching nor settlement; the
//! result queue then fills, and when it is full workers wait. A single handler that has proved
//! quick is called where results arrive, which saves handing them over; if it becomes slow it goes
//! back to its thread.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Notify;

use crate::{
    clock::{Clock, Lap},
    error::SinkError,
    outcome::panic_text,
    sink::{Room, Sink},
    task::Finished,
};

/// A batch of callbacks that takes longer than this, several times in a row, moves to threads; ten
/// times as long, at once.
const QUICK: Duration = Duration::from_millis(2);
/// Number of times in a row.
const STRIKES: u32 = 3;
/// Number of callbacks in a row, none longer than [`PROMPT`], that prove that they are
/// quick.
const PROOF: u32 = 64;
/// The longest that a callback may take for that. Longer than a thread is set aside for on a quiet
/// machine would be no proof.
const PROMPT: Duration = Duration::from_micros(200);

/// Called for each finished task, once.
pub type OnTaskComplete<T, R> = Arc<dyn Fn(&Finished<T, R>) + Send + Sync>;
/// Gets each finished task after its callback.
pub type Then<T, R> = Arc<dyn Fn(Finished<T, R>) + Send + Sync>;

/// Callbacks that panicked.
#[derive(Debug, Default)]
pub struct Panics {
    count: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Panics {
    /// Returns how many.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns what the first one said.
    pub fn first(&self) -> Option<String> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, text: String) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }
}

/// The sink of a job in this process.
pub struct Callbacks<T, R> {
    shared: Arc<CallbackThreads<T, R>>,
    handlers: usize,
    threaded: bool,
    strikes: u32,
}

struct CallbackThreads<T, R> {
    callback: Option<OnTaskComplete<T, R>>,
    then: Option<Then<T, R>>,
    panics: Arc<Panics>,
    state: Mutex<CallbackQueue<T, R>>,
    wake: Condvar,
    idle: Notify,
}

struct CallbackQueue<T, R> {
    queue: VecDeque<Finished<T, R>>,
    room: Option<Room>,
    busy: usize,
    threads: Vec<thread::JoinHandle<()>>,
    closed: bool,
    /// Callbacks in a row that were prompt.
    prompt: u32,
}

impl<T: Send + 'static, R: Send + 'static> Callbacks<T, R> {
    /// Calls `callback` for each finished task, with at most `handlers` calls at once (1: in turn,
    /// never overlapping), then hands the task to `then`.
    pub fn new(callback: Option<OnTaskComplete<T, R>>, then: Option<Then<T, R>>, handlers: usize, panics: Arc<Panics>) -> Self {
        let threaded = callback.is_some();
        Self {
            shared: Arc::new(CallbackThreads {
                callback,
                then,
                panics,
                state: Mutex::new(CallbackQueue {
                    queue: VecDeque::new(),
                    room: None,
                    busy: 0,
                    threads: Vec::new(),
                    closed: false,
                    prompt: 0,
                }),
                wake: Condvar::new(),
                idle: Notify::new(),
            }),
            handlers: handlers.max(1),
            threaded,
            strikes: 0,
        }
    }

    fn accept_inline(&mut self, batch: &mut Vec<Finished<T, R>>, room: &Room) {
        let count = batch.len();
        let lap = Lap::begin(Clock::SYSTEM);
        self.shared.handle_all(batch);
        room.release(count);
        let took = lap.elapsed();
        self.strikes = if took > QUICK { self.strikes + 1 } else { 0 };
        self.threaded = self.strikes >= STRIKES || took > QUICK * 10;
    }

    fn accept_on_threads(&mut self, batch: &mut Vec<Finished<T, R>>, room: &Room) {
        let mut state = self.shared.lock();
        state.room.get_or_insert_with(|| room.clone());
        state.queue.extend(batch.drain(..));
        while state.threads.len() < self.handlers.min(state.queue.len() + state.busy) {
            let shared = self.shared.clone();
            let name = format!("results-{}", state.threads.len());
            match thread::Builder::new().name(name).spawn(move || shared.serve()) {
                Ok(thread) => state.threads.push(thread),
                Err(_) => break,
            }
        }
        if state.threads.is_empty() {
            // No thread to be had: better here than not at all.
            batch.extend(state.queue.drain(..));
            drop(state);
            self.accept_inline(batch, room);
            return;
        }
        drop(state);
        self.shared.wake.notify_all();
    }
}

impl<T, R> CallbackThreads<T, R> {
    fn lock(&self) -> MutexGuard<'_, CallbackQueue<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn handle(&self, finished: Finished<T, R>) {
        if let Some(callback) = &self.callback {
            callback(&finished);
        }
        if let Some(then) = &self.then {
            then(finished);
        }
    }

    /// Handles a batch, which is drained. What panics is counted, and the next one follows.
    fn handle_all(&self, batch: &mut Vec<Finished<T, R>>) {
        let count = |panic: Box<dyn Any + Send>| self.panics.add(panic_text(&*panic));
        if let (Some(callback), None) = (&self.callback, &self.then) {
            // Where they are: to move each would take longer than a quick callback.
            let mut rest = batch.iter();
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| rest.by_ref().for_each(|finished| callback(finished)))) {
                count(panic);
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| batch.clear())) {
                count(panic);
            }
            return;
        }
        let mut rest = batch.drain(..);
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| rest.by_ref().for_each(|finished| self.handle(finished)))) {
            count(panic);
        }
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let Some(finished) = state.queue.pop_front() else {
                self.idle.notify_one();
                if state.closed {
                    return;
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            let room = state.room.clone();
            drop(state);
            let began = Instant::now();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.handle(finished))) {
                self.panics.add(panic_text(&*panic));
            }
            let prompt = began.elapsed() <= PROMPT;
            if let Some(room) = room {
                room.release(1);
            }
            state = self.lock();
            state.busy -= 1;
            state.prompt = if prompt { state.prompt.saturating_add(1) } else { 0 };
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Sink<T, R> for Callbacks<T, R> {
    fn accept<'a>(&'a mut self, batch: &'a mut Vec<Finished<T, R>>, room: &'a Room) -> BoxFuture<'a, Result<(), SinkError>> {
        if self.threaded && self.handlers == 1 {
            let mut state = self.shared.lock();
            // Only when nothing is left on the thread: callbacks stay in turn.
            if state.prompt >= PROOF && state.queue.is_empty() && state.busy == 0 {
                state.prompt = 0;
                self.threaded = false;
                self.strikes = 0;
            }
        }
        if self.threaded {
            self.accept_on_threads(batch, room);
        } else {
            self.accept_inline(batch, room);
        }
        std::future::ready(Ok(())).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        async move {
            loop {
                let idle = self.shared.idle.notified();
                {
                    let mut state = self.shared.lock();
                    if state.queue.is_empty() && state.busy == 0 {
                        state.closed = true;
                        break;
                    }
                }
                idle.await;
            }
            self.shared.wake.notify_all();
            // They wait for nothing but this. When the job is over, so is the callback: what it
            // holds has been dropped.
            let threads = std::mem::take(&mut self.shared.lock().threads);
            threads.into_iter().for_each(|thread| drop(thread.join()));
            Ok(())
        }
        .boxed()
    }
}

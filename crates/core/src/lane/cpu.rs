//! The cpu lane: as many threads as cores, at a lower priority, so that work on the async lane
//! stays on time.
//!
//! Tiny items must not pay for a hand-over each: a thread takes as many from the queue as make up
//! about `CHUNK` of measured work, and reports them together. The lane tells the engine how much it
//! wants to hold, so that long items are not taken before a thread is free for them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    cancel::CancelToken,
    clock::Clock,
    lane::{Context, Lane, Outbox, Stop, SyncHandler, called},
    outcome::Outcome,
    stamp::Stamp,
    task::{Attempt, Finished},
};

/// The work that a thread takes at once, when items are tiny.
const CHUNK: Duration = Duration::from_micros(200);
/// The most items in a chunk.
const MOST: usize = 512;
/// Items that take longer than this are measured one by one; shorter ones share what their chunk
/// took.
const TINY: Duration = Duration::from_micros(2);
/// Number by which the threads are nicer than the rest of the program. At 5 and more, sleeps on the
/// async lane come as punctually as on an idle machine.
pub const NICE: i32 = 10;

/// The cpu lane.
pub struct CpuLane<T, R>(Arc<CpuPool<T, R>>);

struct CpuPool<T, R> {
    handler: SyncHandler<T, R>,
    outbox: Outbox<T, R>,
    clock: Clock,
    threads: usize,
    state: Mutex<CpuState<T>>,
    wake: Condvar,
    /// Number of attempts that the lane wants to hold.
    capacity: AtomicUsize,
}

struct CpuState<T> {
    queue: VecDeque<Attempt<T>>,
    idle: usize,
    started: usize,
    alive: usize,
    stop: bool,
    closed: bool,
    token: CancelToken,
}

impl<T: Send + 'static, R: Send + 'static> CpuLane<T, R> {
    /// Makes a lane with this many threads, which start when there is work.
    pub fn new(handler: SyncHandler<T, R>, threads: usize, outbox: Outbox<T, R>, clock: Clock) -> Self {
        let threads = threads.max(1);
        Self(Arc::new(CpuPool {
            handler,
            outbox,
            clock,
            threads,
            state: Mutex::new(CpuState {
                queue: VecDeque::new(),
                idle: 0,
                started: 0,
                alive: 0,
                stop: false,
                closed: false,
                token: CancelToken::new(),
            }),
            wake: Condvar::new(),
            capacity: AtomicUsize::new(threads),
        }))
    }
}

impl<T: Send + 'static, R: Send + 'static> Lane<T, R> for CpuLane<T, R> {
    fn start(&self, batch: &mut Vec<Attempt<T>>) {
        let pool = &self.0;
        let mut state = pool.lock();
        state.queue.extend(batch.drain(..));
        let waiting = state.queue.len();
        let wake = waiting.min(state.idle);
        while state.idle < waiting && state.started < pool.threads {
            let (index, own) = (state.started, pool.clone());
            let spawned = thread::Builder::new().name(format!("cpu-{index}")).spawn(move || own.serve(index as u32));
            state.started += 1;
            match spawned {
                Ok(_) => state.alive += 1,
                Err(error) if state.alive == 0 => {
                    state.started = 0;
                    let why = format!("no thread for the cpu lane: {error}");
                    let mut lost = state.queue.drain(..).map(|attempt| attempt.unstarted(Outcome::Lost(why.clone()))).collect();
                    pool.outbox.finish(&mut lost);
                }
                Err(_) => {}
            }
            if state.alive >= waiting {
                break;
            }
        }
        drop(state);
        for _ in 0..wake {
            pool.wake.notify_one();
        }
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.0.capacity.load(Ordering::Relaxed))
    }

    fn stop(&self, _how: Stop) {
        let mut state = self.0.lock();
        state.stop = true;
        state.token.cancel();
        let mut ended = state.queue.drain(..).map(|attempt| attempt.unstarted(Outcome::Cancelled)).collect();
        drop(state);
        self.0.outbox.finish(&mut ended);
    }
}

impl<T, R> Drop for CpuLane<T, R> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl<T, R> CpuPool<T, R> {
    fn lock(&self) -> MutexGuard<'_, CpuState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static, R: Send + 'static> CpuPool<T, R> {
    fn serve(self: Arc<Self>, index: u32) {
        // Without the right to be nicer (there is none in some sandboxes) the lane works all the
        // same.
        let _ = longshore_sys::priority::set_thread_background(NICE);
        let mut chunk: Vec<Attempt<T>> = Vec::with_capacity(MOST);
        let mut done: Vec<Finished<T, R>> = Vec::with_capacity(MOST);
        // A mean of what an item takes, in nanoseconds; the first ones are taken one at a time.
        let mut each = CHUNK.as_nanos() as f64;
        loop {
            let mut state = self.lock();
            while state.queue.is_empty() {
                if state.closed {
                    return;
                }
                state.idle += 1;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
            let want = ((CHUNK.as_nanos() as f64 / each) as usize).clamp(1, MOST);
            // Never more than a fair share: the last items of a job are for all threads.
            let take = want.min(state.queue.len().div_ceil(self.threads)).max(1);
            chunk.extend(state.queue.drain(..take));
            let (token, stopped) = (state.token.clone(), state.stop);
            drop(state);

            let cpu_before = longshore_sys::clock::thread_cpu_time();
            let start = Stamp::from(self.clock.now());
            let mut now = start;
            let tiny = each < TINY.as_nanos() as f64;
            let mut context: Option<Context> = None;
            for attempt in chunk.drain(..) {
                if stopped {
                    done.push(attempt.unstarted(Outcome::Cancelled));
                    continue;
                }
                let limit = attempt.limit();
                let Attempt { task, payload, .. } = attempt;
                let context = context.get_or_insert_with(|| Context {
                    id: 0,
                    attempt: 0,
                    lane: task.lane,
                    slot: index,
                    timeout: None,
                    cancel: token.clone(),
                });
                (context.id, context.attempt, context.timeout) = (task.id, task.attempt, limit);
                let outcome = called(&self.handler, context, payload);
                let started = now;
                if !tiny {
                    now = self.clock.now().into();
                }
                let outcome = match limit {
                    // It cannot be ended, but it is not on time either.
                    Some(limit) if !tiny && now.since(started) > limit => Outcome::TimedOut { limit },
                    _ => outcome,
                };
                done.push(Finished { slot: index, task, outcome, started, ended: now, cpu: None });
            }
            let end = Stamp::from(self.clock.now());
            let count = done.len().max(1) as u32;
            let cpu = longshore_sys::clock::thread_cpu_time().saturating_sub(cpu_before) / count;
            let mean = end.since(start) / count;
            for (nth, finished) in done.iter_mut().enumerate() {
                finished.cpu = Some(cpu.into());
                if tiny {
                    finished.started = start + mean * nth as u32;
                    finished.ended = finished.started + mean;
                }
            }
            let last = mean.as_nanos().max(1) as f64;
            // Quick to believe in longer items, slower to believe in shorter ones: a chunk that is
            // too long holds up its neighbours.
            each = if last > each { last } else { each * 0.5 + last * 0.5 };
            self.hold(each);
            self.outbox.finish(&mut done);
        }
    }

    /// Says how much the lane wants to hold: a chunk that runs and one or two that wait for each
    /// thread; nothing but what runs when items are long.
    fn hold(&self, each: f64) {
        let chunk = ((CHUNK.as_nanos() as f64 / each) as usize).clamp(1, MOST);
        let ahead = if each > 10_000_000.0 {
            1
        } else if chunk == 1 {
            2
        } else {
            // Rounded, so that it does not change with every chunk.
            3 * chunk.next_power_of_two()
        };
        self.capacity.store(self.threads * ahead, Ordering::Relaxed);
    }
}

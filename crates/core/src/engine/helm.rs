//! The engine's two tasks, its loop and its outside, done by whoever has just brought them
//! something.
//!
//! A wake-up that crosses threads costs microseconds, as much as dozens of tiny tasks, and the
//! runtime wakes a sleeping thread for every few switches between tasks. So a loop of the async
//! lane, when it has ended some attempts, does not wake the engine: it takes the helm for a turn
//! and finds new attempts in its queue. A [`Helm`] is a task of the runtime all the same, which is
//! woken by everybody else.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use crate::{
    clock::{Clock, Lap},
    engine::Summary,
    error::SinkError,
    sync::{AtomicUsize, AtomicWaker, Mutex},
};

#[cfg(all(test, longshore_loom))]
mod loom_tests;

/// It is to be polled.
const WOKEN: usize = 1;
/// Somebody polls it, and looks afterwards whether it has been woken again.
const RUNNING: usize = 2;
/// Whoever set this looks soon whether it has been woken.
const HELD: usize = 4;
/// Its output is there.
const OVER: usize = 8;
/// Its task was dropped.
const CLOSED: usize = 16;

/// Most polls of one who took the helm in passing, before the rest is left to the task.
const POLLS: usize = 4;

/// Work that is a task of the runtime ([`Helm::task`]), and that others may do in its place.
pub(crate) struct Helm<O> {
    state: AtomicUsize,
    /// Locked by whoever set `RUNNING`; by others only when nobody can set it any more.
    work: Mutex<HelmWork<O>>,
    task: AtomicWaker,
}

enum HelmWork<O> {
    Going(BoxFuture<'static, O>),
    Over(thread::Result<O>),
    Gone,
}

impl<O: Send + 'static> Helm<O> {
    pub(super) fn new(work: impl Future<Output = O> + Send + 'static) -> Arc<Self> {
        Arc::new(Self { state: AtomicUsize::new(WOKEN), work: Mutex::new(HelmWork::Going(Box::pin(work))), task: AtomicWaker::new() })
    }

    /// Returns what the runtime has to run. Panics where the work does.
    pub(super) fn task(self: &Arc<Self>) -> impl Future<Output = O> + Send + 'static {
        Task(self.clone())
    }

    /// Does what there is to do now, instead of waking the task. If somebody is about it already,
    /// they go on with it.
    pub(super) fn turn(self: &Arc<Self>) {
        self.state.fetch_or(WOKEN, Ordering::AcqRel);
        self.run();
    }

    /// From now until [`release`](Helm::release) whoever wakes it leaves that to us.
    fn hold(&self) {
        self.state.fetch_or(HELD, Ordering::AcqRel);
    }

    /// Returns true if it was woken, and nobody is about it: the caller has to see to it.
    fn release(&self) -> bool {
        self.state.fetch_and(!HELD, Ordering::AcqRel) & (WOKEN | RUNNING) == WOKEN
    }

    fn run(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        for _ in 0..POLLS {
            if self.state.fetch_or(RUNNING, Ordering::AcqRel) & (RUNNING | CLOSED) != 0 {
                return;
            }
            self.state.fetch_and(!WOKEN, Ordering::AcqRel);
            self.poll(&mut Context::from_waker(&waker));
            let before = self.state.fetch_and(!RUNNING, Ordering::AcqRel);
            if before & CLOSED != 0 {
                *self.work.lock() = HelmWork::Gone;
            }
            if before & (WOKEN | HELD | CLOSED) != WOKEN {
                return;
            }
        }
        self.task.wake();
    }

    fn poll(&self, cx: &mut Context<'_>) {
        let mut work = self.work.lock();
        let HelmWork::Going(future) = &mut *work else { return };
        let output = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic),
        };
        *work = HelmWork::Over(output);
        drop(work);
        self.state.fetch_or(OVER, Ordering::AcqRel);
        self.task.wake();
    }

    fn output(&self) -> Option<thread::Result<O>> {
        if self.state.load(Ordering::Acquire) & OVER == 0 {
            return None;
        }
        match std::mem::replace(&mut *self.work.lock(), HelmWork::Gone) {
            HelmWork::Over(output) => Some(output),
            HelmWork::Going(_) | HelmWork::Gone => None,
        }
    }
}

impl<O: Send + 'static> Wake for Helm<O> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever runs or holds it looks again.
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & (WOKEN | RUNNING | HELD) == 0 {
            self.task.wake();
        }
    }
}

/// The task on the runtime.
struct Task<O: Send + 'static>(Arc<Helm<O>>);

impl<O: Send + 'static> Future for Task<O> {
    type Output = O;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O> {
        let helm = &self.0;
        helm.task.register(cx.waker());
        if helm.state.load(Ordering::Acquire) & WOKEN != 0 {
            helm.run();
        }
        match helm.output() {
            None => Poll::Pending,
            Some(Ok(output)) => Poll::Ready(output),
            Some(Err(panic)) => resume_unwind(panic),
        }
    }
}

/// The work holds wakers, which hold the helm: so it has to be let go.
impl<O: Send + 'static> Drop for Task<O> {
    fn drop(&mut self) {
        if self.0.state.fetch_or(CLOSED, Ordering::AcqRel) & RUNNING == 0 {
            let work = std::mem::replace(&mut *self.0.work.lock(), HelmWork::Gone);
            drop(work);
        }
    }
}

/// If the outside takes longer than this several times in a row where a lane does it, it is left to
/// its own task for a while: another thread gains more than waking it costs.
const QUICK: Duration = Duration::from_micros(30);
/// Times in a row. (Once may be a thread that was set aside.)
const STRIKES: usize = 3;
/// For how long.
const REST: Duration = Duration::from_millis(20);

/// The engine as a lane sees it.
pub(crate) struct Crew {
    pub(super) engine: Arc<Helm<Summary>>,
    pub(super) outside: Arc<Helm<Result<(), SinkError>>>,
    clock: Clock,
    /// Times in a row that the outside was slow.
    strikes: AtomicUsize,
    /// The last time that it was.
    slow: Mutex<Instant>,
}

impl Crew {
    pub(super) fn new(engine: Arc<Helm<Summary>>, outside: Arc<Helm<Result<(), SinkError>>>, clock: Clock) -> Self {
        Self { engine, outside, clock, strikes: AtomicUsize::new(0), slow: Mutex::new(clock.now()) }
    }

    /// Does what the engine has to do now. With `all`, also what its outside has to do, if that is
    /// usually quick: it runs user code (callbacks, iterators), so nothing else may depend on the
    /// caller meanwhile.
    pub(crate) fn turn(&self, all: bool) {
        self.outside.hold();
        self.engine.turn();
        if !self.outside.release() {
            return;
        }
        if !(all && self.is_quick()) {
            self.outside.task.wake();
            return;
        }
        let lap = Lap::begin(self.clock);
        self.outside.run();
        if lap.elapsed() > QUICK {
            *self.slow.lock() = self.clock.now();
            self.strikes.fetch_add(1, Ordering::Relaxed);
        } else if self.strikes.load(Ordering::Relaxed) > 0 {
            self.strikes.store(0, Ordering::Relaxed);
        }
    }

    fn is_quick(&self) -> bool {
        if self.strikes.load(Ordering::Relaxed) < STRIKES {
            return true;
        }
        let rested = self.clock.now().duration_since(*self.slow.lock()) > REST;
        if rested {
            self.strikes.store(0, Ordering::Relaxed);
        }
        rested
    }
}

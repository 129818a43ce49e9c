//! One attempt on a loop of the async lane: its box, its polls, its end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use longshore_sys::place::push_made;

use crate::{
    clock::Stopwatch,
    lane::{AsyncHandler, FutureBox, panic_text},
    outcome::Outcome,
    stamp::{Span, Stamp},
    task::{EngineTask, Finished},
    trace::AttemptSpan,
};

/// Bytes of boxes that a loop keeps for later attempts, and the most boxes.
const SPARE_BYTES: usize = 1 << 20;
const SPARE: usize = 1024;

/// Reason why an attempt is ended from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    TimedOut,
    Cancelled,
}

/// Boxes for the handler's futures that are used again.
pub(super) struct SpareBoxes<T, R> {
    handler: AsyncHandler<T, R>,
    spare: Vec<FutureBox<T, R>>,
    most: usize,
}

impl<T: Send + 'static, R: Send + 'static> SpareBoxes<T, R> {
    pub(super) fn new(handler: AsyncHandler<T, R>) -> Self {
        Self { handler, spare: Vec::new(), most: SPARE }
    }

    #[inline]
    pub(super) fn take(&mut self) -> FutureBox<T, R> {
        self.spare.pop().unwrap_or_else(|| self.make())
    }

    #[cold]
    fn make(&mut self) -> FutureBox<T, R> {
        let place = self.handler.place();
        self.most = (SPARE_BYTES / size_of_val(&*place).max(1)).clamp(1, SPARE);
        place
    }

    /// Takes back a box that is empty.
    #[inline]
    pub(super) fn give(&mut self, place: FutureBox<T, R>) {
        if self.spare.len() < self.most {
            self.spare.push(place);
        }
    }
}

/// One attempt that is pending.
pub(super) struct RunningAttempt<T, R> {
    /// Empty as soon as the attempt has ended.
    pub(super) place: FutureBox<T, R>,
    pub(super) task: EngineTask<T>,
    pub(super) limit: Option<Span>,
    pub(super) started: Stamp,
    /// It is to be ended at its next poll.
    pub(super) end: Option<End>,
    /// On-CPU time so far, for the few attempts where it is measured.
    pub(super) cpu: Option<Duration>,
    pub(super) span: AttemptSpan,
}

impl<T, R> RunningAttempt<T, R> {
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Option<Outcome<R>> {
        if let Some(end) = self.end {
            let outcome = match end {
                End::TimedOut => Outcome::TimedOut { limit: self.limit.map(Duration::from).unwrap_or_default() },
                End::Cancelled => Outcome::Cancelled,
            };
            return Some(match clear(&mut self.place) {
                Ok(()) => outcome,
                Err(panic) => Outcome::Panicked(panic),
            });
        }
        let mut ended = None;
        let Self { place, cpu, span, .. } = self;
        poll_attempt(place, cpu, |place| span.within(|| place.as_mut().poll(cx)), &mut ended);
        ended
    }

    #[inline]
    pub(super) fn finish(self, outcome: Outcome<R>, ended: Stamp) -> (Finished<T, R>, FutureBox<T, R>) {
        let Self { place, task, started, cpu, .. } = self;
        (Finished { slot: task.slot, task, outcome, started, ended, cpu: cpu.map(Span::from) }, place)
    }

    pub(super) fn deadline(&self) -> Option<Stamp> {
        self.limit.map(|limit| self.started + Duration::from(limit)).filter(|_| self.end.is_none())
    }
}

/// Drops what is in a box. A panic of its destructor comes back as text.
pub(super) fn clear<T, R>(place: &mut FutureBox<T, R>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| place.as_mut().clear())).map_err(|panic| panic_text(&*panic))
}

/// Receives how an attempt ended.
pub(super) trait Ending<R> {
    /// The attempt has a result. Called where the result is, which is not moved again.
    fn ok(&mut self, cpu: Option<Duration>, result: R);

    /// The attempt ended in another way.
    fn other(&mut self, cpu: Option<Duration>, outcome: Outcome<R>);
}

/// Polls an attempt; a panic is an outcome. `over` gets the outcome of one that is over, which
/// leaves its box empty.
#[inline(always)]
pub(super) fn poll_attempt<T, R>(
    place: &mut FutureBox<T, R>,
    cpu: &mut Option<Duration>,
    poll: impl FnOnce(&mut FutureBox<T, R>) -> Poll<Outcome<R>>,
    over: &mut impl Ending<R>,
) {
    let before = cpu.map(|_| longshore_sys::clock::thread_cpu_time());
    let count = |cpu: &mut Option<Duration>| {
        if let (Some(cpu), Some(before)) = (cpu, before) {
            *cpu += longshore_sys::clock::thread_cpu_time().saturating_sub(before);
        }
    };
    let polled = catch_unwind(AssertUnwindSafe(|| {
        // The outcome stays where the future wrote it until its kind is known: what was just
        // written in pieces, a processor cannot read in one without waiting.
        match poll(place) {
            Poll::Pending => count(cpu),
            Poll::Ready(Outcome::Ok(result)) => {
                count(cpu);
                over.ok(*cpu, result);
            }
            Poll::Ready(other) => {
                count(cpu);
                over.other(*cpu, other);
            }
        }
    }));
    if let Err(panic) = polled {
        let _ = clear(place);
        count(cpu);
        over.other(*cpu, Outcome::Panicked(panic_text(&*panic)));
    }
}

/// An attempt at its first poll: it is over then, or it is kept.
pub(super) struct Fresh<'a, T, R> {
    pub(super) waiting: Option<EngineTask<T>>,
    pub(super) started: Stamp,
    pub(super) now: &'a mut Stamp,
    pub(super) watch: &'a mut Stopwatch,
    pub(super) done: &'a mut Vec<Finished<T, R>>,
}

impl<T, R> Fresh<'_, T, R> {
    #[inline(always)]
    fn over(&mut self, cpu: Option<Duration>, outcome: impl FnOnce() -> Outcome<R>) {
        // The time is asked for once an attempt: its end is the start of the next.
        let ended = self.watch.now();
        *self.now = ended;
        let (started, waiting, cpu) = (self.started, &mut self.waiting, cpu.map(Span::from));
        push_made(self.done, || {
            let Some(task) = waiting.take() else { unreachable!("an attempt ends once") };
            Finished { slot: task.slot, task, outcome: outcome(), started, ended, cpu }
        });
    }
}

impl<T, R> Ending<R> for Fresh<'_, T, R> {
    #[inline(always)]
    fn ok(&mut self, cpu: Option<Duration>, result: R) {
        self.over(cpu, || Outcome::Ok(result));
    }

    #[cold]
    fn other(&mut self, cpu: Option<Duration>, outcome: Outcome<R>) {
        if self.waiting.is_some() {
            self.over(cpu, || outcome);
        }
    }
}

impl<R> Ending<R> for Option<Outcome<R>> {
    #[inline(always)]
    fn ok(&mut self, _cpu: Option<Duration>, result: R) {
        *self = Some(Outcome::Ok(result));
    }

    #[cold]
    fn other(&mut self, _cpu: Option<Duration>, outcome: Outcome<R>) {
        *self = Some(outcome);
    }
}

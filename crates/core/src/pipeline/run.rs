//! A pipeline that runs: what its parts share, how it is stopped, and how one waits for its end.

use std::{
    sync::{
        Arc, Condvar, Mutex as StdMutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

use crate::{
    cancel::CancelToken,
    clock::Clock,
    error::TaskError,
    event::{Event, Phase},
    pipeline::{
        meter::Meter,
        queue::StageQueue,
        report::{Report, bottleneck},
    },
    sync::Mutex,
    watch::Hub,
};

/// Which item stopped a pipeline, or failed in it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The stage's name.
    pub stage: String,
    /// The number of the source's item, from 1. Outputs of one item have its number, a group that
    /// of its first item; 0 when no item is to blame.
    pub number: u64,
    /// Attempts that were made.
    pub attempts: u32,
    /// Its error.
    pub error: TaskError,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, number, attempts, error } = self;
        match (number, attempts) {
            (0, _) => write!(f, "stage `{stage}`: {error}"),
            (_, 0 | 1) => write!(f, "stage `{stage}`, item {number}: {error}"),
            _ => write!(f, "stage `{stage}`, item {number}, after {attempts} attempts: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Degree to which a pipeline is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Halt {
    /// It runs.
    No,
    /// Nothing new starts, what runs ends.
    Soft,
    /// Nothing new starts, pending futures are dropped.
    Hard,
}

/// Things that are stopped when the pipeline is.
trait Stops: Send + Sync {
    fn stop(&self);
    fn left(&self) -> u64;
}

impl<T: Send> Stops for StageQueue<T> {
    fn stop(&self) {
        StageQueue::stop(self);
    }

    fn left(&self) -> u64 {
        StageQueue::left(self)
    }
}

/// State that the parts of a running pipeline share.
pub(super) struct PipelineRun {
    halt: AtomicU8,
    /// Cancelled when it stops for whatever reason; and when it is cancelled.
    pub(super) stopped: CancelToken,
    pub(super) cancelled: CancelToken,
    /// Parts (tasks and threads) that have not ended, and who waits for that.
    live: AtomicUsize,
    ended: CancelToken,
    pub(super) events: Hub<Event>,
    clock: Clock,
    began: Instant,
    inner: Mutex<RunEnd>,
    /// Threads that sleep out a pause.
    pause: StdMutex<()>,
    pauses: Condvar,
}

#[derive(Default)]
struct RunEnd {
    failure: Option<Failure>,
    wall: Option<Duration>,
    stages: Vec<(Arc<Meter>, Option<Arc<dyn Stops>>)>,
    outputs: Option<Arc<dyn Stops>>,
    /// Of the loops on the runtime.
    bells: Vec<Arc<AtomicWaker>>,
}

/// A part of a running pipeline; the pipeline has ended when all of them are dropped.
pub(super) struct PipelinePart(Arc<PipelineRun>);

impl Drop for PipelinePart {
    fn drop(&mut self) {
        if self.0.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            let wall = self.0.clock.now().saturating_duration_since(self.0.began);
            self.0.inner.lock().wall = Some(wall);
            self.0.ended.cancel();
            self.0.events.post([Event::Job { phase: Phase::Done }]);
            self.0.events.close();
        }
    }
}

impl PipelineRun {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            halt: AtomicU8::new(0),
            stopped: CancelToken::new(),
            cancelled: CancelToken::new(),
            live: AtomicUsize::new(0),
            ended: CancelToken::new(),
            events: Hub::new(),
            clock,
            began: clock.now(),
            inner: Mutex::default(),
            pause: StdMutex::default(),
            pauses: Condvar::new(),
        })
    }

    pub(super) fn part(self: &Arc<Self>) -> PipelinePart {
        self.live.fetch_add(1, Ordering::AcqRel);
        PipelinePart(self.clone())
    }

    /// A stage, in the order of the pipeline, and the queue in front of it.
    pub(super) fn add_stage<T: Send + 'static>(&self, meter: Arc<Meter>, queue: Option<Arc<StageQueue<T>>>) {
        let queue = queue.map(|queue| queue as Arc<dyn Stops>);
        self.inner.lock().stages.push((meter, queue.clone()));
        if let Some(queue) = queue
            && self.halt() != Halt::No
        {
            queue.stop();
        }
    }

    pub(super) fn set_outputs<T: Send + 'static>(&self, queue: Arc<StageQueue<T>>) {
        self.inner.lock().outputs = Some(queue);
    }

    pub(super) fn add_bell(&self) -> Arc<AtomicWaker> {
        let bell = Arc::new(AtomicWaker::new());
        self.inner.lock().bells.push(bell.clone());
        bell
    }

    #[inline]
    pub(super) fn halt(&self) -> Halt {
        match self.halt.load(Ordering::Acquire) {
            0 => Halt::No,
            1 => Halt::Soft,
            _ => Halt::Hard,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Resolves when every part has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Stops because of this failure; the first one counts.
    pub(super) fn fail(&self, failure: Failure) {
        self.inner.lock().failure.get_or_insert(failure);
        self.stop(Halt::Soft);
    }

    pub(super) fn stop(&self, how: Halt) {
        if self.halt.fetch_max(how as u8, Ordering::AcqRel) < how as u8 {
            let phase = if how == Halt::Hard { Phase::Cancelling } else { Phase::Draining };
            self.events.post([Event::Job { phase }]);
        }
        if how == Halt::Hard {
            self.cancelled.cancel();
        }
        let (queues, bells): (Vec<_>, Vec<_>) = {
            let inner = self.inner.lock();
            let queues = inner.stages.iter().filter_map(|(_, queue)| queue.clone()).chain(inner.outputs.clone());
            (queues.collect(), inner.bells.clone())
        };
        queues.iter().for_each(|queue| queue.stop());
        // After the queues: a source that is left behind on its thread brings nothing more once its
        // part has ended, so that the report adds up.
        self.stopped.cancel();
        bells.iter().for_each(|bell| bell.wake());
        drop(self.pause.lock().unwrap_or_else(PoisonError::into_inner));
        self.pauses.notify_all();
    }

    /// Lets this thread sleep, until a stop at the longest. `false`: it was stopped.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let began = Instant::now();
        let mut guard = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.halt() != Halt::No {
                return false;
            }
            let Some(rest) = time.checked_sub(began.elapsed()).filter(|rest| !rest.is_zero()) else { return true };
            guard = self.pauses.wait_timeout(guard, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the stages, in their order, each with what waits in front of it.
    pub(super) fn meters(&self) -> Vec<(Arc<Meter>, u64)> {
        let parts = self.inner.lock().stages.clone();
        parts.into_iter().map(|(meter, queue)| (meter, queue.map_or(0, |queue| queue.left()))).collect()
    }

    pub(super) fn report(&self) -> Report {
        let inner = self.inner.lock();
        let wall = inner.wall.unwrap_or_else(|| self.clock.now().saturating_duration_since(self.began));
        let failure = inner.failure.clone();
        let parts = inner.stages.clone();
        let unread = inner.outputs.as_ref().map_or(0, |queue| queue.left());
        drop(inner);
        let stages: Vec<_> = parts.iter().map(|(meter, queue)| meter.report(queue.as_ref().map_or(0, |queue| queue.left()))).collect();
        Report {
            bottleneck: bottleneck(&stages, wall),
            outputs: stages.last().map_or(0, |stage| stage.items_out),
            unread,
            cancelled: self.halt() == Halt::Hard,
            failure,
            stages,
            wall,
        }
    }
}

/// Asks a running pipeline for its report, during its run and after it, and cancels it. Clones are
/// one.
#[derive(Clone)]
pub struct Reporter(pub(super) Arc<PipelineRun>);

impl Reporter {
    /// Ends the pipeline now: nothing new starts, pending futures are dropped, functions on threads
    /// run to their end and their outputs are dropped. Does not wait. A pipeline that has ended is
    /// left as it is.
    pub fn cancel(&self) {
        if !self.0.has_ended() {
            self.0.stop(Halt::Hard);
        }
    }

    /// Returns what the pipeline has done so far.
    pub fn report(&self) -> Report {
        self.0.report()
    }
}

/// A pipeline that runs. Dropping it leaves the pipeline running.
pub struct RunningPipeline(pub(super) Arc<PipelineRun>);

impl RunningPipeline {
    /// Returns what asks for its report; that goes on after the end.
    pub fn reporter(&self) -> Reporter {
        Reporter(self.0.clone())
    }

    /// Waits until every stage has ended, and says what they did. Dropping this future leaves the
    /// pipeline running.
    pub async fn join(self) -> Report {
        self.0.ended().await;
        self.0.report()
    }
}

#[cfg(all(test, not(longshore_loom)))]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{Pipeline, Stage};

    /// The item in whose middle the pipeline is stopped. By then the worker takes several at a
    /// time, and there are more behind it.
    const LAST: u32 = 5_000;

    #[test]
    fn a_worker_that_knows_of_a_stop_takes_nothing_more_although_its_queue_does_not_know_yet() {
        let ((reached, reaches), (resume, resumes)) = (mpsc::channel(), mpsc::channel::<()>());
        let resumes = StdMutex::new(resumes);
        let stage = Stage::blocking(move |n: u32| {
            if n == LAST {
                reached.send(()).unwrap();
                resumes.lock().unwrap().recv().unwrap();
            }
            Ok::<_, String>(n)
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (mut outputs, _running) = Pipeline::from_iter(1..).stage(stage.queue(64)).outputs();
        let run = outputs.run().clone();
        let (tell, told) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            // To the end, or to the first one that should not be there.
            let read: Vec<u32> = std::iter::from_fn(|| outputs.blocking_next()).take(LAST as usize + 1).collect();
            tell.send(read).unwrap();
        });
        reaches.recv().unwrap();
        // Whoever stops the pipeline gets as far as the halt, and not to the queues.
        let queues = run.inner.lock();
        let stopping = {
            let run = run.clone();
            std::thread::spawn(move || run.stop(Halt::Soft))
        };
        while run.halt() == Halt::No {
            std::thread::yield_now();
        }
        resume.send(()).unwrap();
        let read = told.recv().unwrap();
        drop(queues);
        stopping.join().unwrap();
        reader.join().unwrap();
        assert!(read.into_iter().eq(1..=LAST), "something was started after the stop, or is missing");
    }
}

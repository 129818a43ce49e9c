//! A sample is run and timed, first one item after another, then at growing concurrency on the
//! lanes that suit it.
//!
//! The handler really runs, many times: measure work that may be done more than once.

pub(crate) mod ladder;
pub(crate) mod memory;
mod others;
mod runs;
mod solo;

use std::{
    fmt,
    future::Future,
    hint::black_box,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use longshore_core::{LaneKind, lane::cpu::NICE};

use crate::{
    Advice, Place,
    decide::{Kind, Measured, Overhead, decide, model},
};
use ladder::Ladder;
pub use others::Moment;
use runs::Work;

/// Time that measuring may take, unless told otherwise.
pub const BUDGET: Duration = Duration::from_secs(2);
/// The most workers that are tried, unless told otherwise, on threads and on the async lane.
const MOST: [usize; 2] = [64, 1024];

/// The reason why there is no advice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// There was nothing to measure with.
    #[error("the sample is empty: give it at least one item")]
    Empty,
    /// The handler panicked.
    #[error("the handler panicked on item {item} of the sample: {text}")]
    Panicked {
        /// The item, from 0.
        item: usize,
        /// Text of the error.
        text: String,
    },
    /// A result was not what [`Measure::expect`] wants.
    #[error("item {item} of the sample ended with a result that is not as expected: what fails at once tells nothing of what works")]
    Unexpected {
        /// The item, from 0.
        item: usize,
    },
    /// The system gave us no thread or no runtime.
    #[error("cannot measure: {0}")]
    System(String),
    /// A command could not be started, or failed.
    #[error("{0}")]
    Command(String),
}

/// Figures that were measured, and the advice that follows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Measurement {
    /// The figures; [`decide`] makes the same advice of it again, or another after changing it (its
    /// `count`, say).
    pub measured: Measured,
    /// The advice.
    pub advice: Advice,
    /// Time that it took.
    pub took: Duration,
    /// Number of items that were run for it.
    pub runs: u64,
}

/// Measures a plain function on a sample, and advises: [`Measure`] with all its defaults.
///
/// The function runs many times, for up to 2 s, and must not need an order of its items.
///
/// # Errors
/// The sample is empty, or the function panics.
/// ```
/// use longshore_advise::advise;
///
/// // Work that takes no time is best done where it is.
/// let advice = advise(|n: u64| n + 1, (0..100).collect()).unwrap();
/// assert!(advice.speed_up.likely >= 1.0);
/// println!("{}, {} at once, in chunks of {}", advice.place, advice.workers, advice.chunk);
/// ```
pub fn advise<T, R>(function: impl Fn(T) -> R + Send + Sync + 'static, sample: Vec<T>) -> Result<Advice, MeasureError>
where
    T: Clone + Send + Sync + 'static,
    R: 'static,
{
    Measure::of(sample).run(function).map(|measurement| measurement.advice)
}

/// The same for an async function, which is measured on the async lane.
///
/// Blocks the calling thread; inside a runtime call it from a thread for blocking work.
///
/// # Errors
/// The sample is empty, or the function panics.
/// ```
/// use std::time::Duration;
/// use longshore_advise::advise_async;
///
/// let wait = |_: u32| tokio::time::sleep(Duration::from_millis(5));
/// let advice = advise_async(wait, (0..200).collect()).unwrap();
/// assert!(advice.workers > 1, "{advice:?}");
/// ```
pub fn advise_async<T, F, R>(function: impl Fn(T) -> F + Send + Sync + 'static, sample: Vec<T>) -> Result<Advice, MeasureError>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = R> + Send + 'static,
    R: Send + 'static,
{
    Measure::of(sample).run_async(function).map(|measurement| measurement.advice)
}

/// A measurement that is to be made.
///
/// A sample is run again from its start when it is used up. As no more items run at once than the
/// sample has, no item ever runs twice at the same time: a sample should have as many items as may
/// run at once.
///
/// ```
/// use std::time::Duration;
/// use longshore_advise::Measure;
///
/// let files: Vec<Vec<u8>> = vec![vec![7; 4096]; 8];
/// let measurement = Measure::of(files)
///     .count(100_000) // the job will have so many
///     .budget(Duration::from_millis(300))
///     .payload(|file| file.len() as u64)
///     .run(|file| file.iter().map(|byte| u64::from(*byte)).sum::<u64>())
///     .unwrap();
/// assert!(measurement.measured.payload >= 4096);
/// println!("{}", measurement.advice.reasons.join("\n"));
/// ```
#[must_use = "nothing is measured until it is run"]
pub struct Measure<T, R = ()> {
    sample: Vec<T>,
    budget: Duration,
    count: Option<u64>,
    most: Option<usize>,
    cores: Option<usize>,
    payload: Option<Box<dyn Fn(&T) -> u64>>,
    expect: Option<Arc<dyn Fn(&R) -> bool + Send + Sync>>,
}

impl<T, R> fmt::Debug for Measure<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measure").field("sample", &self.sample.len()).field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl<T, R> Measure<T, R>
where
    T: Clone + Send + Sync + 'static,
    R: 'static,
{
    /// Begins a measurement with these items.
    pub fn of(sample: Vec<T>) -> Self {
        Self { sample, budget: BUDGET, count: None, most: None, cores: None, payload: None, expect: None }
    }

    /// Sets how long it may take (2 s). What has begun is never cut off, so an item that takes
    /// longer makes it take longer.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Sets how many items the job will have; many, unless told.
    pub fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// The most workers that may be tried and advised (64 threads, or 1024 on the async lane),
    /// besides the length of the sample.
    pub fn most(mut self, workers: usize) -> Self {
        self.most = Some(workers.max(1));
        self
    }

    /// Sets how many cores are to be used; those of the machine, unless told.
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = Some(cores.max(1));
        self
    }

    /// Sets what an item holds beyond itself, in bytes: the length of what it points to.
    pub fn payload(mut self, bytes: impl Fn(&T) -> u64 + 'static) -> Self {
        self.payload = Some(Box::new(bytes));
        self
    }

    /// Sets what a good result is. Without it every result is good, and a handler whose every call
    /// fails at once looks as if it were very fast.
    /// ```
    /// use longshore_advise::{Measure, MeasureError};
    ///
    /// let measured = Measure::of(vec!["1", "2", "x"]).expect(Result::is_ok).run(|text: &str| text.parse::<u32>());
    /// assert_eq!(measured.unwrap_err(), MeasureError::Unexpected { item: 2 });
    /// ```
    pub fn expect(mut self, good: impl Fn(&R) -> bool + Send + Sync + 'static) -> Self {
        self.expect = Some(Arc::new(good));
        self
    }

    /// Measures a plain function: alone on a thread, then on the blocking lane, the cpu lane, or
    /// both.
    ///
    /// # Errors
    /// The sample is empty, an item panics or is not as expected.
    pub fn run(self, function: impl Fn(T) -> R + Send + Sync + 'static) -> Result<Measurement, MeasureError> {
        let (sample, expect) = (Arc::new(self.sample.clone()), self.expect.clone());
        let work = move |index: usize| {
            let result = black_box(function(sample[index % sample.len()].clone()));
            expect.as_ref().is_none_or(|good| good(&result))
        };
        self.measure(Kind::Plain, &Work::Plain(Arc::new(work)))
    }

    /// Measures an async function: alone on a runtime of one thread, then on the async lane.
    ///
    /// # Errors
    /// The sample is empty, an item panics or is not as expected.
    pub fn run_async<F>(self, function: impl Fn(T) -> F + Send + Sync + 'static) -> Result<Measurement, MeasureError>
    where
        F: Future<Output = R> + Send + 'static,
    {
        let (sample, expect) = (Arc::new(self.sample.clone()), self.expect.clone());
        let work = move |index: usize| {
            let (future, expect) = (function(sample[index % sample.len()].clone()), expect.clone());
            async move {
                let result = black_box(future.await);
                expect.is_none_or(|good| good(&result))
            }
            .boxed()
        };
        self.measure(Kind::Async, &Work::Async(Arc::new(work)))
    }

    fn measure(self, kind: Kind, work: &Work) -> Result<Measurement, MeasureError> {
        let (began, moment) = (Instant::now(), Moment::now());
        let items = self.sample.len();
        if items == 0 {
            return Err(MeasureError::Empty);
        }
        let own = size_of::<T>() as u64;
        let payload = self.payload.map_or(own, |bytes| own + self.sample.iter().map(&bytes).sum::<u64>() / items as u64);
        drop(self.sample);
        let overheads = overheads().to_vec();
        let until = Instant::now() + self.budget.saturating_sub(began.elapsed().min(self.budget / 4));
        let (item, memory) = solo::solo(work, items, until.saturating_duration_since(Instant::now()) / 3)?;
        let mut runs = item.timed;
        let mut measured = Measured {
            kind,
            cores: self.cores.unwrap_or_else(cores),
            count: self.count,
            most: self.most.unwrap_or(MOST[usize::from(kind == Kind::Async)]),
            payload,
            item,
            memory,
            overheads,
            sequential: Vec::new(),
            runs: Vec::new(),
            others: 0.0,
        };
        let beside_cpu_lane = model::lanes(&measured).any(|lane| lane == LaneKind::Cpu);
        // The cpu lane is nice to others. What is compared with it has to be, or it loses for its
        // manners beside them: what a thread of this nice value starts inherits it.
        as_nice_as(if beside_cpu_lane { NICE } else { 0 }, || {
            let ladder = Ladder { now: &Instant::now, sample: items, until };
            ladder.climb(&mut measured, &mut |place, workers, chunk, items| {
                runs += items as u64;
                match place {
                    Place::Sequential => solo::sequential(work, items),
                    Place::Lane(lane) => runs::run(work, lane, workers, chunk, items),
                }
            })
        })?;
        measured.others = moment.others();
        let advice = decide(&measured);
        Ok(Measurement { measured, advice, took: began.elapsed(), runs })
    }
}

/// Runs something on a thread that is so much nicer than others.
fn as_nice_as<O: Send>(nice: i32, work: impl FnOnce() -> Result<O, MeasureError> + Send) -> Result<O, MeasureError> {
    thread::scope(|scope| {
        let nicely = || {
            if nice > 0 {
                // Without the right to be nicer neither has the cpu lane it.
                let _ = longshore_sys::priority::set_thread_nice(nice);
            }
            work()
        };
        let thread = thread::Builder::new().name("measure".into()).spawn_scoped(scope, nicely);
        let thread = thread.map_err(|error| MeasureError::System(format!("no thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(MeasureError::System("the measuring thread panicked".into())))
    })
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns what the lanes take for themselves on this machine, measured once a process with tasks
/// that do nothing.
fn overheads() -> &'static [Overhead] {
    static MEASURED: OnceLock<Vec<Overhead>> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let plain = Work::Plain(Arc::new(|index| black_box(index) != usize::MAX));
        let waiting = Work::Async(Arc::new(|index| std::future::ready(black_box(index) != usize::MAX).boxed()));
        let lanes = [
            (LaneKind::Cpu, cores(), 20_000, &plain),
            (LaneKind::Blocking, 4 * cores(), 2_000, &plain),
            (LaneKind::Async, 50, 20_000, &waiting),
        ];
        let overhead = |(lane, workers, tasks, work): (LaneKind, usize, usize, &Work)| {
            let median = |items: usize, total: bool| {
                let mut times: Vec<Duration> = (0..5)
                    .filter_map(|_| {
                        let began = Instant::now();
                        let ran = runs::run(work, lane, workers, 1, items).ok()?;
                        Some(if total { began.elapsed() } else { ran.wall })
                    })
                    .collect();
                times.sort();
                times.get(times.len() / 2).copied().unwrap_or_default()
            };
            let start = median(1, true);
            Overhead { lane, start, each: median(tasks, false) / u32::try_from(tasks).unwrap_or(u32::MAX) }
        };
        lanes.into_iter().map(overhead).collect()
    })
}

#[cfg(test)]
mod tests;

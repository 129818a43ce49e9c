//! Timed runs of a sample on a lane.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use longshore_core::{Job, LaneKind, Report};

use crate::MeasureError;

/// Work that is run: an item by its number. Says whether the result was as expected.
pub(super) enum Work {
    Plain(Arc<dyn Fn(usize) -> bool + Send + Sync>),
    Async(Arc<dyn Fn(usize) -> BoxFuture<'static, bool> + Send + Sync>),
}

/// One timed run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ran {
    /// Time from the start of the job to its end.
    pub(crate) wall: Duration,
    /// Time of the slowest of a hundred tasks.
    pub(crate) p99: Duration,
}

const NONE: usize = usize::MAX;

/// Runs so many items on a lane, `chunk` of them as one task.
pub(super) fn run(work: &Work, lane: LaneKind, workers: usize, chunk: usize, items: usize) -> Result<Ran, MeasureError> {
    let unexpected = Arc::new(AtomicUsize::new(NONE));
    let noted = unexpected.clone();
    let report = match work {
        Work::Async(work) => {
            let work = work.clone();
            let job = Job::<usize, ()>::new(move |index| {
                let (item, noted) = (work(index), noted.clone());
                async move {
                    if !item.await {
                        noted.store(index, Ordering::Relaxed);
                    }
                    Ok::<_, String>(())
                }
            });
            job.params(0..items).workers(workers).run()
        }
        Work::Plain(work) => {
            let work = work.clone();
            let each = move |range: Range<usize>| {
                for index in range {
                    if !work(index) {
                        noted.store(index, Ordering::Relaxed);
                    }
                }
                Ok::<_, String>(())
            };
            let job = if lane == LaneKind::Cpu { Job::<_, ()>::cpu(each) } else { Job::blocking(each) };
            job.params((0..items).step_by(chunk).map(move |start| start..(start + chunk).min(items))).workers(workers).run()
        }
    };
    ended(&report, unexpected.load(Ordering::Relaxed))
}

fn ended(report: &Report, unexpected: usize) -> Result<Ran, MeasureError> {
    if unexpected != NONE {
        return Err(MeasureError::Unexpected { item: unexpected });
    }
    if !report.is_clean() {
        let text = report.error.clone().unwrap_or_else(|| format!("{} of {} tasks did", report.failed(), report.done()));
        return Err(MeasureError::Panicked { item: 0, text });
    }
    Ok(Ran { wall: report.wall, p99: report.run.p99 })
}

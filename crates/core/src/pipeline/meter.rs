//! What a stage counts, and for how long its workers ran, waited and were held up.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    pipeline::{report::StageReport, run::Failure},
    sync::Mutex,
    task::LaneKind,
    watch::{Counts, Spread},
};

/// The counters of one stage.
pub(super) struct Meter {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) workers: usize,
    pub(super) queue: usize,
    pub(super) paced: bool,
    /// Items handed on.
    given: AtomicU64,
    pub(super) tally: Mutex<Tally>,
}

/// Kind of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The source of the items.
    Source,
    /// A function on a lane.
    Lane(LaneKind),
    /// Items are gathered into groups.
    Batch,
    /// Each item is sent to one of several branches.
    Route,
}

/// Numbers that change with every batch.
pub(super) struct Tally {
    pub(super) taken: u64,
    pub(super) counts: Counts,
    /// Sums over the workers.
    pub(super) times: StageTimes,
    pub(super) running: usize,
    pub(super) most: usize,
    pub(super) run: Spread,
    /// The first item that failed and did not stop the pipeline.
    pub(super) first: Option<Failure>,
}

/// Use of a worker's time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StageTimes {
    pub(super) busy: Duration,
    pub(super) waiting: Duration,
    pub(super) blocked: Duration,
    pub(super) paused: Duration,
}

impl StageTimes {
    pub(super) fn sum(&self) -> Duration {
        self.busy + self.waiting + self.blocked + self.paused
    }

    /// Moves these times to others.
    #[inline]
    pub(super) fn flush(&mut self, into: &mut StageTimes) {
        let Self { busy, waiting, blocked, paused } = std::mem::take(self);
        into.busy += busy;
        into.waiting += waiting;
        into.blocked += blocked;
        into.paused += paused;
    }
}

impl Tally {
    /// Notes that so many items more run.
    #[inline]
    pub(super) fn begin(&mut self, workers: usize) {
        self.running += workers;
        self.most = self.most.max(self.running);
    }
}

impl Meter {
    pub(super) fn new(name: String, kind: Kind, workers: usize, queue: usize, paced: bool) -> Self {
        let tally = Tally {
            taken: 0,
            counts: Counts::default(),
            times: StageTimes::default(),
            running: 0,
            most: 0,
            run: Spread::new(),
            first: None,
        };
        Self { name, kind, workers, queue, paced, given: AtomicU64::new(0), tally: Mutex::new(tally) }
    }

    #[inline]
    pub(super) fn gave(&self, count: usize) {
        self.given.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// Returns what it says now; `left`: what waits in front of it.
    pub(super) fn report(&self, left: u64) -> StageReport {
        let tally = self.tally.lock();
        StageReport {
            name: self.name.clone(),
            kind: self.kind,
            workers: self.workers,
            queue: self.queue,
            paced: self.paced,
            items_in: tally.taken,
            items_out: self.given(),
            counts: tally.counts,
            left,
            busy: tally.times.busy,
            waiting: tally.times.waiting,
            blocked: tally.times.blocked,
            paused: tally.times.paused,
            run: tally.run.quantiles(),
            most: tally.most,
            first_failure: tally.first.clone(),
        }
    }
}

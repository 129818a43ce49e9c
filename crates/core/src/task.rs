//! A task on its way: lent by a source, carried through the gate and a lane, settled at the end.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    outcome::Outcome,
    retry::RetryPolicy,
    stamp::{Span, Stamp},
};

/// Kind of place where a handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum LaneKind {
    /// Futures on the async runtime. For waiting, never for computing.
    Async,
    /// A thread per running task. For calls that block.
    Blocking,
    /// As many threads as cores, at a lower priority. For computing.
    Cpu,
    /// A child process per task. For isolation and for foreign programs.
    Process,
}

impl LaneKind {
    /// All lanes; `lane as usize` is the place.
    pub const ALL: [LaneKind; 4] = [LaneKind::Async, LaneKind::Blocking, LaneKind::Cpu, LaneKind::Process];

    /// The lane's name: `async`, `blocking`, `cpu` or `process`.
    pub const fn as_str(self) -> &'static str {
        match self {
            LaneKind::Async => "async",
            LaneKind::Blocking => "blocking",
            LaneKind::Cpu => "cpu",
            LaneKind::Process => "process",
        }
    }

    /// The lane with this name.
    pub fn parse(name: &str) -> Option<LaneKind> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == name)
    }

    /// Returns how many tasks this lane runs at once unless told otherwise: async 50, blocking 4 ×
    /// cores, cpu and process as many as cores.
    pub fn default_workers(self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self {
            LaneKind::Async => 50,
            LaneKind::Blocking => 4 * cores,
            LaneKind::Cpu | LaneKind::Process => cores,
        }
    }
}

impl fmt::Display for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a delivery to its source, which alone knows what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub u64);

/// Wishes of one task that differ from its job's. A task that wants nothing carries none. See
/// [`Job::options_of`](crate::Job::options_of) for an example; a sender can say it for one task
/// with [`Sender::send_with`](crate::Sender::send_with).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// The lane to run on; the job's when absent.
    pub lane: Option<LaneKind>,
    /// Tasks of one key never overlap and keep their order.
    pub key: Option<Arc<str>>,
    /// The limit of one attempt; the job's when absent.
    pub timeout: Option<Duration>,
    /// Rule for further attempts; the job's when absent.
    pub retry: Option<Arc<RetryPolicy>>,
    /// For some of the job's limits (by their place), the value whose share this task takes.
    pub limits: Vec<(usize, Arc<str>)>,
    /// Attempts that were made before this engine saw the task (a resumed job).
    pub attempts_made: u32,
    /// The task is not run: it ends at once with this error (its lane is unknown, its input is
    /// bad).
    pub refused: Option<crate::error::TaskError>,
}

impl Options {
    /// Sets [`lane`](Self::lane).
    #[must_use]
    pub fn lane(mut self, lane: LaneKind) -> Self {
        self.lane = Some(lane);
        self
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets [`retry`](Self::retry).
    #[must_use]
    pub fn retry(mut self, policy: impl Into<Arc<RetryPolicy>>) -> Self {
        self.retry = Some(policy.into());
        self
    }

    /// Adds to [`limits`](Self::limits): the limit at this place, and the value whose share the
    /// task takes.
    #[must_use]
    pub fn limit(mut self, place: usize, value: impl Into<Arc<str>>) -> Self {
        self.limits.push((place, value.into()));
        self
    }

    /// Sets [`attempts_made`](Self::attempts_made).
    #[must_use]
    pub fn attempts_made(mut self, attempts: u32) -> Self {
        self.attempts_made = attempts;
        self
    }

    /// Sets [`refused`](Self::refused).
    #[must_use]
    pub fn refused(mut self, error: crate::error::TaskError) -> Self {
        self.refused = Some(error);
        self
    }
}

/// A task lent by a source, until it is settled.
#[derive(Debug)]
pub struct Delivery<T> {
    /// The task's number in its job, from 1, in the order of the source. Sources that merge several
    /// inputs number what they lend.
    pub id: u64,
    /// The handler's argument.
    pub payload: T,
    /// The source's name for this delivery.
    pub receipt: Receipt,
    /// Its wishes that differ from its job's.
    pub options: Option<Box<Options>>,
    /// The number of its key, where the source numbers keys: tasks of one number never overlap and
    /// keep their order, as those of one [`Options::key`] do, which then counts for nothing. The
    /// gate keeps a line for each number up to the highest, so numbers are to be small and used
    /// again. It costs no allocation and no hash.
    pub key: Option<NonZeroU32>,
}

impl<T> Delivery<T> {
    /// A delivery whose receipt is its number, with the job's options.
    pub fn new(id: u64, payload: T) -> Self {
        Self { id, payload, receipt: Receipt(id), options: None, key: None }
    }
}

/// A delivery as it waits for its first attempt.
#[derive(Debug)]
pub(crate) struct FetchedTask<T> {
    /// The delivery, as its source lent it.
    pub(crate) delivery: Delivery<T>,
    /// The lane it will run on.
    pub(crate) lane: LaneKind,
    /// Time at which it was fetched.
    pub(crate) queued: Stamp,
}

impl<T> FetchedTask<T> {
    /// Returns its first attempt, which has no slot yet.
    #[inline]
    pub(crate) fn into_attempt(self) -> Attempt<T> {
        let Self { delivery: Delivery { id, payload, receipt, options, key }, lane, queued } = self;
        let attempt = options.as_ref().map_or(0, |options| options.attempts_made) + 1;
        let task = EngineTask { id, receipt, attempt, lane, slot: 0, queued, payload: None, options, key, holds_key: false };
        Attempt { task, payload, admitted: queued, timeout: None }
    }
}

/// A task between fetch and settlement, without its payload: what the engine knows of it.
#[derive(Debug)]
pub struct EngineTask<T> {
    /// The task's number in its job, from 1.
    pub id: u64,
    /// The source's name for the delivery.
    pub receipt: Receipt,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The lane it runs on.
    pub lane: LaneKind,
    /// Its slot of the gate: no two running tasks of a lane share one.
    pub slot: u32,
    /// Time at which it was fetched.
    pub queued: Stamp,
    /// A copy of the payload, where one is kept for another attempt or for the sink.
    pub payload: Option<T>,
    pub(crate) options: Option<Box<Options>>,
    pub(crate) key: Option<NonZeroU32>,
    pub(crate) holds_key: bool,
}

impl<T> EngineTask<T> {
    pub(crate) fn options(&self) -> Option<&Options> {
        self.options.as_deref()
    }

    /// Returns true if it holds nothing but its slot while it runs.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.options.is_none() && !self.holds_key
    }

    /// The same task again, for a part of its payload. Whoever makes one sees to it that only one
    /// of them ends.
    pub(crate) fn twin(&self) -> Self {
        let Self { id, receipt, attempt, lane, slot, queued, payload: _, ref options, holds_key, key } = *self;
        Self { id, receipt, attempt, lane, slot, queued, payload: None, options: options.clone(), holds_key, key }
    }
}

/// One attempt on its way to a lane.
#[derive(Debug)]
pub struct Attempt<T> {
    /// The task as the engine knows it.
    pub task: EngineTask<T>,
    /// The handler's argument.
    pub payload: T,
    /// Time at which the gate let it pass.
    pub admitted: Stamp,
    /// Its limit.
    pub timeout: Option<Span>,
}

/// An attempt that has ended; after the last attempt also what the sink gets.
#[derive(Debug)]
pub struct Finished<T, R> {
    /// The task. Its payload is there only where a copy was kept.
    pub task: EngineTask<T>,
    /// Its outcome.
    pub outcome: Outcome<R>,
    /// Time at which the handler started; at which it was admitted, if it never did.
    pub started: Stamp,
    /// Time at which it ended.
    pub ended: Stamp,
    /// The slot of the lane that ran it (a thread of the cpu lane, else the gate's slot).
    pub slot: u32,
    /// On-CPU time, where it was measured: always on the blocking and process lanes, a chunk's
    /// share on the cpu lane, a sample on the async lane.
    pub cpu: Option<Span>,
}

impl<T, R> Finished<T, R> {
    /// The task's number in its job, from 1.
    pub fn id(&self) -> u64 {
        self.task.id
    }

    /// Returns how long the handler ran.
    pub fn run(&self) -> Duration {
        self.ended.since(self.started)
    }

    /// Returns how long the task waited from being fetched to its last attempt: in the queue, at
    /// the gate, in backoff.
    pub fn wait(&self) -> Duration {
        self.started.since(self.task.queued)
    }

    /// The result, if there is one.
    pub fn result(&self) -> Option<&R> {
        match &self.outcome {
            Outcome::Ok(result) => Some(result),
            _ => None,
        }
    }
}

impl<T> Attempt<T> {
    /// Its limit.
    #[inline]
    pub fn limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from)
    }

    /// Ends an attempt that never ran.
    pub fn unstarted<R>(self, outcome: Outcome<R>) -> Finished<T, R> {
        let at = self.admitted;
        Finished { slot: self.task.slot, task: self.task, outcome, started: at, ended: at, cpu: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_for_each_task_stays_small() {
        // These cross threads and queues several times for each task; at a million a second every
        // cache line counts.
        assert!(size_of::<EngineTask<u64>>() <= 64);
        assert!(size_of::<Attempt<u64>>() <= 88);
        // More than 128 bytes are not moved in place but by a call of `memcpy`.
        assert!(size_of::<Finished<u64, u64>>() <= 128);
    }
}

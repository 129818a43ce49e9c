//! The process lane: functions of this program in child processes, and handlers that wait for
//! programs of their own, which have a thread.

use longshore_celery::Message;
use longshore_core::{
    Attempt, CancelToken, ChildLimits, Clock, LaneKind, Outcome, TaskError,
    lane::{Context, Lane, Outbox, Stop, blocking::BlockingLane, isolated::IsolatedLane},
};

use super::{
    handlers::Starter,
    work::{AttemptResult, TaskTicket},
};
use crate::isolated::{IsolatedAnswer, IsolatedCall, isolated_entry};

/// The process lane of a worker.
pub(crate) struct ProcessLane {
    starter: Starter,
    threads: BlockingLane<TaskTicket, AttemptResult>,
    /// `Err`: why there can be no children.
    children: Result<IsolatedLane<TaskTicket, AttemptResult>, TaskError>,
    outbox: Outbox<TaskTicket, AttemptResult>,
}

impl ProcessLane {
    /// A lane with so many children at most. Without `init_app` it has none, and says so to each
    /// task that wants one.
    pub(crate) fn new(starter: Starter, size: usize, limits: ChildLimits, outbox: Outbox<TaskTicket, AttemptResult>, clock: Clock) -> Self {
        let threads = BlockingLane::new(starter.clone().on_thread(), outbox.clone(), clock);
        let children = lane_of(isolated_entry, size, limits, outbox.clone(), clock);
        Self { starter, threads, children, outbox }
    }
}

/// A lane of a function, whose type has no name.
fn lane_of<F: 'static>(
    _: F,
    size: usize,
    limits: ChildLimits,
    outbox: Outbox<TaskTicket, AttemptResult>,
    clock: Clock,
) -> Result<IsolatedLane<TaskTicket, AttemptResult>, TaskError> {
    // One at a time: what waits for its turn can still be revoked, and has not begun in anybody's
    // eyes.
    let limits = limits.at_once(1);
    IsolatedLane::between::<F, IsolatedCall, IsolatedAnswer>(|TaskTicket(work)| work.is_called_off(), size, limits, outbox, clock)
}

impl Lane<TaskTicket, AttemptResult> for ProcessLane {
    fn start(&self, batch: &mut Vec<Attempt<TaskTicket>>) {
        let (isolated, mut others): (Vec<_>, Vec<_>) = batch.drain(..).partition(|attempt| attempt.payload.0.task.policy.isolated);
        if !others.is_empty() {
            self.threads.start(&mut others);
        }
        let mut begun = Vec::with_capacity(isolated.len());
        for attempt in isolated {
            let context = Context {
                id: attempt.task.id,
                attempt: attempt.task.attempt,
                lane: LaneKind::Process,
                slot: attempt.task.slot,
                timeout: attempt.limit(),
                cancel: CancelToken::new(),
            };
            match (&self.children, self.starter.start(&attempt.payload.0, &context)) {
                (_, Some(outcome)) => self.outbox.finish_one(attempt.unstarted(outcome)),
                (Err(error), None) => self.outbox.finish_one(attempt.unstarted(Outcome::Failed(error.clone()))),
                (Ok(_), None) => begun.push(attempt),
            }
        }
        if let Ok(children) = &self.children
            && !begun.is_empty()
        {
            children.start(&mut begun);
        }
    }

    fn stop(&self, how: Stop) {
        self.threads.stop(how);
        if let Ok(children) = &self.children {
            children.stop(how);
        }
    }
}

impl From<&TaskTicket> for IsolatedCall {
    fn from(TaskTicket(work): &TaskTicket) -> Self {
        let start = work.started();
        // A child knows its place by its message.
        let placed = work.own_place().map(|place| {
            let mut message = Message::clone(&work.message);
            place.put(&mut message.headers);
            message
        });
        Self::new(placed.as_ref().unwrap_or(&work.message), start.map_or(0, |start| start.slot), start.and_then(|start| start.soft))
    }
}

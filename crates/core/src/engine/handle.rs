//! The outside of a running engine: change it, ask it, wait for it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    cancel::Stop,
    engine::stats::{RunningTask, StallSeen, Summary},
    error::SinkError,
    event::{Event, Phase},
    gate::{Reason, Refusal, pace::Rate},
    task::LaneKind,
    watch::{Detail, Events, Hub, Labelled, Timing},
};

/// Requests to the loop.
pub(crate) enum Control {
    Drain,
    Stop(Stop),
    Pause(bool),
    Concurrency(Option<LaneKind>, usize),
    Rate(Option<Rate>),
    Timeout(Option<Duration>),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// Changes and asks a running engine. Clones are one handle; nothing here blocks. After the job's
/// end it does nothing.
///
/// Products are made of engines, and of more: what people get is a
/// [`watch::Handle`](crate::watch::Handle).
#[derive(Clone)]
pub struct Handle(Arc<dyn Fn(Control) + Send + Sync>);

impl Handle {
    pub(super) fn new(send: impl Fn(Control) + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Fetches and starts no more; what runs may end. What waits goes back to its source.
    pub fn drain(&self) {
        (self.0)(Control::Drain);
    }

    /// Drains, and ends what runs.
    pub fn stop(&self, how: Stop) {
        (self.0)(Control::Stop(how));
    }

    /// Starts nothing until [`resume`](Handle::resume).
    pub fn pause(&self) {
        (self.0)(Control::Pause(true));
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        (self.0)(Control::Pause(false));
    }

    /// Changes how many may run: on one lane, or over all of them.
    pub fn set_concurrency(&self, lane: Option<LaneKind>, most: usize) {
        (self.0)(Control::Concurrency(lane, most));
    }

    /// Changes the pace; `None` for none.
    pub fn set_rate(&self, rate: Option<Rate>) {
        (self.0)(Control::Rate(rate));
    }

    /// Changes the timeout of attempts that start from now on.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        (self.0)(Control::Timeout(timeout));
    }

    /// Returns what the job looks like now. `None` when it is over.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (answer, snapshot) = oneshot::channel();
        (self.0)(Control::Snapshot(answer));
        snapshot.await.ok()
    }
}

/// Look of a job at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its phase.
    pub phase: Phase,
    /// Attempts that run.
    pub active: usize,
    /// Tasks in backoff.
    pub retrying: usize,
    /// Tasks that wait at the gate, by what they wait for.
    pub waiting: Vec<(Reason, usize)>,
    /// Reason why nothing more starts.
    pub refusal: Refusal,
    /// Tasks that run, oldest first.
    pub running: Vec<RunningTask>,
    /// The pace.
    pub rate: Option<Rate>,
    /// Most running over all lanes.
    pub concurrency: Option<usize>,
    /// The slots of each lane.
    pub lanes: [usize; 4],
    /// The time until something may pass, where the gate knows it.
    pub until_in: Option<Duration>,
    /// The task that held a loop of the async lane last.
    pub stall: Option<StallSeen>,
    /// For how long the last attempts ran.
    pub run: Timing,
    /// For how long tasks waited before that.
    pub wait: Timing,
    /// Counts and times by label.
    pub labels: Vec<Labelled>,
    /// Summary up to now.
    pub summary: Summary,
}

/// A job that runs.
pub struct Running {
    handle: Handle,
    events: Hub<Event>,
    engine: JoinHandle<Summary>,
    reporter: JoinHandle<Result<(), SinkError>>,
}

impl Running {
    pub(super) fn new(
        handle: Handle,
        events: Hub<Event>,
        engine: JoinHandle<Summary>,
        reporter: JoinHandle<Result<(), SinkError>>,
    ) -> Self {
        Self { handle, events, engine, reporter }
    }

    /// Listens to what happens from now on; keeps at most `capacity` events that are not read.
    pub fn events(&self, detail: Detail, capacity: usize) -> Events<Event> {
        self.events.listen(detail, capacity)
    }

    /// A handle on it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for its end: the source is at its end, every delivery is settled, every result has
    /// left the result queue and the sink has dealt with all.
    ///
    /// Not cancelling: dropping this future leaves the job running.
    pub async fn join(self) -> Summary {
        let mut summary = match self.engine.await {
            Ok(summary) => summary,
            Err(error) => {
                // Nobody will tell the reporter that this is the end.
                self.reporter.abort();
                return Summary::broken(format!("the engine ended: {error}"));
            }
        };
        let sink = match self.reporter.await {
            Ok(result) => result.err().map(|error| error.message),
            Err(error) => Some(format!("the reporter ended: {error}")),
        };
        if summary.error.is_none() {
            summary.error = sink;
        }
        summary
    }
}

//! What something that runs looks like at one moment: plain data.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{counts::Counts, histogram::Timing, labels::Labelled};
use crate::{
    event::Phase,
    gate::{Reason, pace::Rate},
    task::LaneKind,
    wire::{maybe_seconds, moment, seconds},
};

/// The version of what travels. It grows when a field changes its meaning, not when one is added.
pub const VERSION: u32 = 1;

/// Most running tasks that a view names.
pub const MOST_RUNNING: usize = 100;

/// Kind of thing that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ViewKind {
    /// A job in this program.
    Job,
    /// A batch of the command line, or of its library.
    Run,
    /// A worker of a task queue.
    Worker,
    /// A consumer of Kafka's records.
    Consumer,
    /// An executor.
    Executor,
    /// A pipeline.
    Pipeline,
    /// A stage of a pipeline.
    Stage,
    /// An engine of an executor.
    Lane,
    /// Something that this version has no name for.
    #[default]
    #[serde(other)]
    Other,
}

/// Look of something that runs, at one moment.
///
/// It is plain data, serialisable by serde: durations are seconds and moments are Unix seconds,
/// both in floating point. Fields that a reader does not know are ignored, and those that a writer
/// did not have are empty.
///
/// A product with more to say has a view of its own that contains this one; what is to be scraped
/// it says as a [`gauge`](View::gauge).
///
/// ```
/// use longshore_core::watch::{View, ViewKind};
///
/// let mut view = View::new(ViewKind::Consumer, "billing");
/// view.gauge("lag", &[("topic", "orders"), ("partition", "3")], 17.0);
/// assert_eq!(view.gauges[0].labels["topic"], "orders");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct View {
    /// Version of the layout: [`VERSION`].
    pub version: u32,
    /// Its kind.
    pub kind: ViewKind,
    /// Its name; empty where it has none.
    pub name: String,
    /// Time at which this was taken.
    #[serde(with = "moment")]
    pub at: SystemTime,
    /// For how long it has run.
    #[serde(with = "seconds")]
    pub age: Duration,
    /// Its phase.
    pub phase: Phase,
    /// Its lanes, those without slots left out.
    pub lanes: Vec<LaneView>,
    /// Most running over all lanes, where there is such a limit.
    pub concurrency: Option<usize>,
    /// The pace, where there is one.
    pub rate: Option<Rate>,
    /// Tasks that wait for their next attempt.
    pub retrying: usize,
    /// Other tasks that wait, and for what.
    pub waiting: Vec<Waiting>,
    /// Reason why nothing more starts now.
    pub refusal: Option<Refused>,
    /// For how long nothing started while tasks waited, by reason.
    pub waited: Vec<Waited>,
    /// Tasks that run, oldest first; at most [`MOST_RUNNING`].
    pub running: Vec<RunningView>,
    /// Number of further tasks that run.
    pub running_more: usize,
    /// Counts of what has ended.
    pub counts: Counts,
    /// For how long the last attempts ran.
    pub run: Timing,
    /// For how long tasks waited before that.
    pub wait: Timing,
    /// Counts and times by label. Those of one kind add up to all that have such a label.
    pub labels: Vec<Labelled>,
    /// Tasks that held a loop of the async lane.
    pub stalled: Stalled,
    /// Its connections to servers.
    pub connections: Vec<Connection>,
    /// Numbers that only this product has, by name, for a scrape.
    pub gauges: Vec<Gauge>,
    /// Events that listeners had no room for.
    pub events_missed: u64,
    /// Error that ends it early, if one does.
    pub error: Option<String>,
    /// Its parts: a pipeline's stages, an executor's lanes.
    pub parts: Vec<View>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            version: VERSION,
            kind: ViewKind::Other,
            name: String::new(),
            at: SystemTime::UNIX_EPOCH,
            age: Duration::ZERO,
            phase: Phase::Running,
            lanes: Vec::new(),
            concurrency: None,
            rate: None,
            retrying: 0,
            waiting: Vec::new(),
            refusal: None,
            waited: Vec::new(),
            running: Vec::new(),
            running_more: 0,
            counts: Counts::default(),
            run: Timing::default(),
            wait: Timing::default(),
            labels: Vec::new(),
            stalled: Stalled::default(),
            connections: Vec::new(),
            gauges: Vec::new(),
            events_missed: 0,
            error: None,
            parts: Vec::new(),
        }
    }
}

impl View {
    /// Returns a view, taken now, of something of which nothing else is known.
    #[must_use]
    pub fn new(kind: ViewKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), at: SystemTime::now(), ..Self::default() }
    }

    /// Returns how many tasks run.
    #[must_use]
    pub fn active(&self) -> usize {
        self.lanes.iter().map(|lane| lane.running).sum()
    }

    /// Returns the lane of this kind, if it has slots.
    #[must_use]
    pub fn lane(&self, lane: LaneKind) -> Option<&LaneView> {
        self.lanes.iter().find(|view| view.lane == lane)
    }

    /// Returns finished tasks a second, from the start to now.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        if self.age.is_zero() { 0.0 } else { self.counts.done() as f64 / self.age.as_secs_f64() }
    }

    /// Adds a number that only this product has. Whoever shows or exports views needs to know
    /// nothing of it.
    pub fn gauge(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.gauges.push(Gauge { name: name.to_owned(), labels, value });
    }

    /// Lets it name no more running tasks than this; the others are counted.
    pub fn cut_running(&mut self, most: usize) {
        let more = self.running.len().saturating_sub(most);
        self.running.truncate(most);
        self.running_more += more;
    }
}

/// A lane of something that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LaneView {
    /// The lane.
    pub lane: LaneKind,
    /// Number of tasks that it may run at once.
    pub slots: usize,
    /// Number of tasks that it runs.
    pub running: usize,
    /// Tasks that wait because this lane is full.
    pub waiting: usize,
}

impl LaneView {
    /// Returns a lane with these numbers.
    #[must_use]
    pub fn new(lane: LaneKind, slots: usize, running: usize, waiting: usize) -> Self {
        Self { lane, slots, running, waiting }
    }
}

/// Tasks that wait for the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Waiting {
    /// For what.
    pub reason: Reason,
    /// Their number.
    pub tasks: usize,
}

impl Waiting {
    /// Returns this many tasks that wait for this.
    #[must_use]
    pub fn new(reason: Reason, tasks: usize) -> Self {
        Self { reason, tasks }
    }
}

/// Reason why nothing more starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Refused {
    /// The reason.
    pub reason: Reason,
    /// After what time something may start, where that is known; else something must end first.
    #[serde(default, with = "maybe_seconds")]
    pub until_in: Option<Duration>,
}

impl Refused {
    /// Returns a refusal.
    #[must_use]
    pub fn new(reason: Reason, until_in: Option<Duration>) -> Self {
        Self { reason, until_in }
    }
}

/// For how long nothing started for one reason, while tasks waited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Waited {
    /// The reason.
    pub reason: Reason,
    /// The time, in all.
    #[serde(with = "seconds")]
    pub time: Duration,
}

impl Waited {
    /// Returns this time for this reason.
    #[must_use]
    pub fn new(reason: Reason, time: Duration) -> Self {
        Self { reason, time }
    }
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RunningView {
    /// Its number.
    pub id: u64,
    /// Name that others have for it: a message's id, a record's place; empty where there is none.
    pub name: String,
    /// Its label: a task's name, a command; empty where all are alike.
    pub label: String,
    /// Its lane.
    pub lane: LaneKind,
    /// Its slot, from 0.
    pub slot: u32,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// For how long it has held the slot.
    #[serde(with = "seconds")]
    pub age: Duration,
}

impl Default for RunningView {
    fn default() -> Self {
        Self { id: 0, name: String::new(), label: String::new(), lane: LaneKind::Async, slot: 0, attempt: 1, age: Duration::ZERO }
    }
}

/// Tasks that held a loop of the async lane, so that their neighbours could not go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stalled {
    /// Number of times that it has happened.
    pub times: u64,
    /// The latest.
    pub latest: Option<Stall>,
}

impl Stalled {
    /// Returns how often it has happened, and the latest time.
    #[must_use]
    pub fn new(times: u64, latest: Option<Stall>) -> Self {
        Self { times, latest }
    }
}

/// A task that held a loop of the async lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stall {
    /// Its number.
    pub id: u64,
    /// Name that others have for it, where there is one.
    #[serde(default)]
    pub name: String,
    /// Since when it has held the loop, or held it.
    #[serde(with = "moment")]
    pub since: SystemTime,
    /// True while it still holds it.
    #[serde(default)]
    pub holds: bool,
}

impl Stall {
    /// Returns a task that has held its loop since then, or did.
    #[must_use]
    pub fn new(id: u64, name: impl Into<String>, since: SystemTime, holds: bool) -> Self {
        Self { id, name: name.into(), since, holds }
    }
}

/// A connection to a server, or a file that stands for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connection {
    /// Its purpose: `broker`, `results`, `kafka`.
    pub name: String,
    /// The server, without its password.
    pub server: String,
    /// Its state.
    #[serde(flatten)]
    pub state: LinkState,
    /// Since when it is so.
    #[serde(with = "moment")]
    pub since: SystemTime,
    /// Number of times that it has come back after it was lost.
    #[serde(default)]
    pub reconnects: u64,
}

impl Connection {
    /// Returns a connection that is up, from now on.
    #[must_use]
    pub fn up(name: impl Into<String>, server: impl Into<String>) -> Self {
        Self { name: name.into(), server: server.into(), state: LinkState::Up, since: SystemTime::now(), reconnects: 0 }
    }

    /// Changes its state. Returns whether that was news; the same state for another reason is none.
    pub fn set(&mut self, state: LinkState, now: SystemTime) -> bool {
        let news = std::mem::discriminant(&self.state) != std::mem::discriminant(&state);
        if news {
            self.reconnects += u64::from(matches!(state, LinkState::Up));
            self.since = now;
        }
        self.state = state;
        news
    }
}

/// State of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkState {
    /// It works.
    Up,
    /// It is gone, and tried again.
    Lost {
        /// Why.
        #[serde(default)]
        reason: String,
    },
    /// The server answers, and does not do what it is told.
    Refused {
        /// Why.
        #[serde(default)]
        reason: String,
    },
}

/// A number that only one product has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gauge {
    /// Its name, in lower case with underscores; a unit at its end.
    pub name: String,
    /// Labels: what it is of.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

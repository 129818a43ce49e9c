//! What comes of a command, in plain Rust.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use longshore_celery::{Map, Message};
use longshore_core::{LaneKind, Rate, watch::View};

use crate::worker::work::ClaimedTask;

/// Result of a command.
pub(super) enum ControlAnswer {
    /// Nothing is said.
    Nothing,
    /// Something was looked up.
    Facts(ControlFacts),
    /// Something was done, or not.
    Done(ControlDone),
}

/// Facts that a command looked up.
pub(super) enum ControlFacts {
    /// Claimed tasks, with their arguments as text where that is safer.
    Claimed { works: Vec<Arc<ClaimedTask>>, safe: bool },
    /// Tasks that wait for their time.
    Held(Vec<HeldTask>),
    /// The tasks that were asked for.
    Known(Vec<KnownTask>),
    /// Ids of tasks that are called off, the oldest first.
    Revoked(Vec<String>),
    /// Tasks that are served, each with the rate that it keeps, and the attributes asked for.
    Registered { tasks: Vec<(Arc<str>, Option<Rate>)>, items: Vec<String> },
    /// Queues that are served.
    Queues(Vec<Arc<str>>),
    /// The settings, with those that nobody has set.
    Settings { slots: usize, with_defaults: bool },
    /// Counts and state of this worker.
    Stats(StatsFacts),
    /// Its view, as all that runs has one; none at its end.
    View(Option<Box<View>>),
    /// Versions and stores.
    Report,
    /// The logical clock.
    Clock,
    /// Ids that are called off, for another node that starts.
    Hello(Vec<String>),
}

/// Action that was done, or the reason why not.
#[derive(Debug, PartialEq)]
pub(super) enum ControlDone {
    /// This worker is there.
    Pong,
    /// Nobody serves a task of this name here.
    UnknownTask,
    /// The task keeps this rate now.
    RateSet { limited: bool },
    /// The task has these limits of time now.
    TimeLimitSet,
    /// There will be more slots, or fewer.
    Grown { more: bool },
    /// Autoscale keeps to these bounds.
    Rescaled { max: usize, min: usize },
    /// Autoscale is off.
    NoAutoscale,
    /// Children are not started anew by order.
    NoRestart,
    /// The queue is served from now on, or was before.
    Serving { queue: String, before: bool },
    /// The queue is bound otherwise than here.
    OtherBinding { queue: String },
    /// No queue can have this name.
    BadQueue { why: String },
    /// The queue is served no more.
    Left { queue: String },
    /// Events of tasks are sent, or not any more; or it was so before.
    Events { on: bool, changed: bool },
    /// These tasks are called off.
    Revoked(Vec<String>),
    /// These tasks ran, and are being ended.
    Terminated(Vec<String>),
    /// Tasks with one of these stamps are called off.
    StampsRevoked(Map),
    /// No task with one of these stamps runs.
    StampsNotTerminated(Map),
}

/// A task that is held for its time.
pub(super) struct HeldTask {
    pub(super) message: Message,
    /// Time at which it is due, where that is not its ETA.
    pub(super) due: Option<SystemTime>,
    /// Of this task's rate it waits for a slot.
    pub(super) paced: Option<Arc<str>>,
}

/// A task that somebody asked for.
pub(super) enum KnownTask {
    /// It is claimed; unless it waits, it runs.
    Claimed { work: Arc<ClaimedTask>, waits: Option<WaitsFor> },
    /// It is held for its time.
    Held { task: Box<HeldTask>, waits: WaitsFor },
}

/// Reason for which a task waits at this worker.
#[derive(Debug, PartialEq)]
pub(super) enum WaitsFor {
    /// Its turn to run alone: this many workers that ran it have died.
    Alone { crashes: u32 },
    /// A free slot of its lane.
    Slot { lane: LaneKind, slots: usize, running: usize },
    /// A slot of its task's rate.
    Rate { rate: Option<Rate>, until: Option<SystemTime> },
    /// Its ETA.
    Eta { until: Option<SystemTime> },
}

/// Counts and state of this worker.
pub(super) struct StatsFacts {
    /// Number of tasks of each name that it took.
    pub(super) by_task: Vec<(Arc<str>, u64)>,
    /// Number of messages of each queue that have come to their end here.
    pub(super) by_queue: Vec<(Arc<str>, u64)>,
    /// Seconds since it started.
    pub(super) uptime: u64,
    /// Slots of each lane, by `lane as usize`.
    pub(super) slots: [usize; 4],
    /// Tasks that run on each lane, by `lane as usize`.
    pub(super) running: [usize; 4],
    /// Tasks that run, by the queue that they came from.
    pub(super) running_by_queue: BTreeMap<Arc<str>, u64>,
    /// Tasks that wait for their time.
    pub(super) held: usize,
    /// The most messages that it holds at once.
    pub(super) prefetch: u64,
    /// Autoscale's bounds, if it is on.
    pub(super) scale: Option<ScaleFacts>,
}

/// State of autoscale.
pub(super) struct ScaleFacts {
    pub(super) max: usize,
    pub(super) min: usize,
    pub(super) current: usize,
    /// Tasks that are claimed.
    pub(super) claimed: usize,
}

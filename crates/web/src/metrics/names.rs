//! The families: name, unit, kind, and what they say. A counter's name gets `_total` when written.

use prometheus_client::{metrics::MetricType, registry::Unit};

/// Name of a family of numbers, and what it says.
pub(super) struct Meta {
    /// Without its unit, and without `_total`.
    pub(super) name: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
}

macro_rules! families {
    ($($family:ident: $kind:ident $name:literal $(in $unit:ident)?, $help:literal;)*) => {
        $(pub(super) const $family: Meta =
            Meta { name: $name, unit: families!(@unit $($unit)?), kind: MetricType::$kind, help: $help };)*
        /// All of them.
        pub(super) const ALL: &[Meta] = &[$($family),*];
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

families! {
    BUILD: Info "longshore_build", "The version that tells these numbers.";

    AGE: Gauge "longshore_running" in Seconds, "Time since it was started.";
    PAUSED: Gauge "longshore_paused", "1 while it is paused.";
    TASKS: Counter "longshore_tasks", "Tasks that came to an end, by outcome.";
    QUEUE_TASKS: Counter "longshore_queue_tasks", "The same tasks by the queue that they came from.";
    RETRIES: Counter "longshore_retries", "Attempts that were followed by another one.";
    HANDED_BACK: Counter "longshore_handed_back", "Tasks that went back to their source unfinished.";
    DEAD_MADE: Counter "longshore_dead_letters", "Dead letters that were made.";
    LATE: Counter "longshore_late_results", "Results that came too late and were refused.";
    TASK_RUN: Histogram "longshore_task_run" in Seconds, "How long last attempts ran.";
    TASK_WAIT: Histogram "longshore_task_wait" in Seconds, "How long tasks waited before they ran.";
    QUEUE_WAIT: Histogram "longshore_queue_wait" in Seconds, "How long tasks of a queue waited before they ran.";
    LANE_ACTIVE: Gauge "longshore_lane_active", "Tasks that run on a lane.";
    LANE_SIZE: Gauge "longshore_lane_size", "Tasks that a lane may run at once.";
    LANE_WAITING: Gauge "longshore_lane_waiting", "Tasks that wait because their lane is full.";
    RETRYING: Gauge "longshore_retrying", "Tasks that wait for their next attempt.";
    GATE_WAITING: Gauge "longshore_gate_waiting", "Tasks that wait, by what they wait for.";
    GATE_WAITED: Counter "longshore_gate_waited" in Seconds, "How long nothing started while tasks waited, by reason.";
    PACE: Gauge "longshore_pace_per_second", "Tasks that may start in a second, where a pace is kept.";
    STALLS: Counter "longshore_stalls", "How often a task held a loop of the async lane.";
    CONNECTED: Gauge "longshore_broker_connected", "1 while the connection works.";
    RECONNECTS: Counter "longshore_broker_reconnects", "How often a connection came back after it was lost.";
    EVENTS_DROPPED: Counter "longshore_events_dropped", "Events that listeners had no room for.";

    QUEUE_DEPTH: Gauge "longshore_queue_depth", "Messages that wait for a worker.";
    QUEUE_OLDEST: Gauge "longshore_queue_oldest_age" in Seconds, "Age of the oldest message that waits, as far as it is known.";
    QUEUE_HELD: Gauge "longshore_queue_held", "Messages that are lent to workers.";
    QUEUE_RUNNING: Gauge "longshore_queue_running", "Tasks of a queue that run, as workers say.";
    QUEUE_ETA: Gauge "longshore_queue_eta", "Messages whose time is still to come.";
    QUEUE_DEAD: Gauge "longshore_queue_dead", "Dead letters that are kept.";
    QUEUE_PAUSED: Gauge "longshore_queue_paused", "1 while a queue is paused.";
    QUEUE_WORKERS: Gauge "longshore_queue_workers", "Workers that serve a queue, and answer.";
    WORKER_UP: Gauge "longshore_worker_up", "1 while a worker answers, 0 while it is only remembered.";
    WORKER_SLOTS: Gauge "longshore_worker_slots", "Tasks that a worker may run at once.";
    WORKER_RUNNING: Gauge "longshore_worker_running", "Tasks that a worker runs.";
    LIMIT_RATE: Gauge "longshore_limit_per_second", "Tasks that a shared limit lets start in a second.";
    LIMIT_AHEAD: Gauge "longshore_limit_ahead" in Seconds, "How far ahead slots of a shared limit are taken: who asks now waits so long.";

    INTAKE: Counter "longshore_intake_tasks", "Tasks that came over HTTP: let in, and told to come again for want of room.";

    LEFT_OUT: Gauge "longshore_rows_left_out", "Numbers that this text has no room for.";
}

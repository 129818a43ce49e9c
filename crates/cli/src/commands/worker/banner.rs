//! Banner that a worker says at its start.

use std::net::SocketAddr;

use longshore_brokers::{QueueOrder, QueueState};
use longshore_core::LaneKind;
use longshore_worker::{App, WorkerOptions};

use super::log::Log;
use crate::{
    queue::{Place, show::plain},
    units::{show_count, show_duration},
};

/// Facts that the banner tells.
pub(super) struct Facts<'a> {
    pub(super) options: &'a WorkerOptions,
    pub(super) place: &'a Place,
    pub(super) app: &'a App,
    pub(super) version: &'a str,
    pub(super) states: &'a [QueueState],
    /// Names of tasks that programs serve, and what runs.
    pub(super) programs: &'a [(String, String)],
    /// Address of the page about it.
    pub(super) page: Option<SocketAddr>,
}

/// Returns a queue's weight as `-Q` has it, `=3`; nothing where no queue has one.
fn weight(order: &QueueOrder, queue: &str) -> String {
    let QueueOrder::Weighted(weights) = order else { return String::new() };
    let weight = weights.iter().find(|(name, _)| **name == *queue).map_or(1, |(_, weight)| *weight);
    format!("={weight}")
}

/// Most tasks that are named.
const NAMED: usize = 12;

pub(super) fn write(facts: &Facts<'_>, log: &Log) {
    let Facts { options, place, app, version, states, programs, page } = facts;
    let events = if options.events { ", events on" } else { "" };
    let control = if options.remote_control { "" } else { ", no remote control" };
    let (version_of_ours, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    log.say(format_args!("longshore {version_of_ours}  {}  pid {pid}   celery protocol 2{events}{control}", options.node));
    let (broker, results) = (place.broker().url(), place.client.results().url());
    let results = if place.broker().is_store_of(app.settings().results_url()) { String::new() } else { format!("   results {results}") };
    // Whose broker it is the URL says already.
    let version = version.split_once(' ').map_or(*version, |(_, number)| number);
    log.say(format_args!("  broker  {broker} ({version}){results}"));
    let waiting = |queue: &String| {
        let state = states.iter().find(|state| state.name == *queue);
        let paused = state.and_then(|state| state.paused.as_deref()).map(|by| format!(", paused by {}", plain(by))).unwrap_or_default();
        let name = plain(queue) + &weight(&options.order, queue);
        format!("{name} ({} waiting{paused})", show_count(state.map_or(0, |state| state.waiting)))
    };
    let order = if options.order == QueueOrder::Strict && options.queues.len() > 1 { "   strictly in this order" } else { "" };
    log.say(format_args!("  queues  {}{order}", options.queues.iter().map(waiting).collect::<Vec<_>>().join("  ")));
    // Elsewhere no workers of Celery's are beside us, or (RabbitMQ) nothing is lent for a time.
    if !["sqlite:", "memory:", "amqp", "pyamqp:"].iter().any(|scheme| broker.starts_with(scheme)) {
        let (lease, timeout) = (show_duration(options.lease), show_duration(options.visibility_timeout));
        log.say(format_args!("  leases  {lease}   visibility timeout {timeout}: no Celery on this database may have a shorter one"));
    }
    let slots = |lane: LaneKind| match options.autoscale.as_ref().filter(|scale| scale.lanes.contains(&lane)) {
        Some(scale) => format!("{lane} {} to {}", scale.min, scale.max),
        None => format!("{lane} {}", options.lanes[lane as usize]),
    };
    let lanes = LaneKind::ALL.map(slots);
    log.say(format_args!("  lanes   {}", lanes.join(" · ")));
    let named: Vec<String> = app
        .tasks()
        .into_iter()
        // Every worker has Celery's own.
        .filter(|task| !task.name.starts_with("celery."))
        .map(|task| {
            let program = programs.iter().find(|(name, _)| **name == *task.name).map(|(_, text)| plain(text));
            format!("{} → {}", plain(&task.name), program.unwrap_or_else(|| task.lane.to_string()))
        })
        .collect();
    for (at, task) in named.iter().take(NAMED).enumerate() {
        log.say(format_args!("  {:<6}  {task}", if at == 0 { "tasks" } else { "" }));
    }
    if named.len() > NAMED {
        log.say(format_args!("          and {} more (longshore tasks)", named.len() - NAMED));
    }
    if let Some(page) = page {
        log.say(format_args!("  page    http://{page}   metrics /metrics   health /healthz   ready /readyz"));
    }
}

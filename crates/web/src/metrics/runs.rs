//! What runs, from its view.

use std::collections::BTreeMap;

use longshore_core::{
    Phase, Word,
    watch::{Counts, Labelled, LinkState, OTHER, View, ViewKind},
};

use super::{
    families::{Families, RowLabels, per_second, with, word},
    names,
};

/// Adds everything that a view says. Of each kind of label it names so many.
pub(super) fn add(families: &mut Families, view: &View, most: usize) {
    add_part(families, view, &source(view), most);
}

/// Returns the label that says what runs.
fn source(view: &View) -> RowLabels {
    let kind = match view.kind {
        ViewKind::Worker => "worker",
        ViewKind::Run => "run",
        ViewKind::Consumer => "consumer",
        ViewKind::Executor => "executor",
        ViewKind::Pipeline => "pipeline",
        ViewKind::Stage => "stage",
        _ => "name",
    };
    if view.name.is_empty() { Vec::new() } else { with(&Vec::new(), kind, &view.name) }
}

fn add_part(families: &mut Families, view: &View, of: &RowLabels, most: usize) {
    families.value(&names::AGE, of.clone(), view.age.as_secs_f64());
    families.count(&names::PAUSED, of.clone(), u64::from(view.phase == Phase::Paused));
    for lane in &view.lanes {
        let labels = with(of, "lane", lane.lane.as_str());
        families.count(&names::LANE_ACTIVE, labels.clone(), lane.running as u64);
        families.count(&names::LANE_SIZE, labels.clone(), lane.slots as u64);
        families.count(&names::LANE_WAITING, labels, lane.waiting as u64);
    }
    families.count(&names::RETRYING, of.clone(), view.retrying as u64);
    for wait in &view.waiting {
        families.count(&names::GATE_WAITING, with(of, "reason", wait.reason.name()), wait.tasks as u64);
    }
    for waited in &view.waited {
        families.value(&names::GATE_WAITED, with(of, "reason", waited.reason.name()), waited.time.as_secs_f64());
    }
    if let Some(rate) = view.rate {
        families.value(&names::PACE, of.clone(), per_second(&rate));
    }
    families.count(&names::STALLS, of.clone(), view.stalled.times);
    for connection in &view.connections {
        let labels = with(of, "connection", &connection.name);
        families.count(&names::CONNECTED, labels.clone(), u64::from(connection.state == LinkState::Up));
        families.count(&names::RECONNECTS, labels, connection.reconnects);
    }
    families.count(&names::EVENTS_DROPPED, of.clone(), view.events_missed);
    families.count(&names::HANDED_BACK, of.clone(), view.counts.handed_back);
    families.count(&names::DEAD_MADE, of.clone(), view.counts.dead);
    families.count(&names::LATE, of.clone(), view.counts.late);
    add_tasks(families, view, of, most);
    for gauge in &view.gauges {
        let mut labels = of.clone();
        for (name, value) in &gauge.labels {
            // A label stands once.
            let name = word(name);
            if labels.iter().all(|(known, _)| *known != *name) {
                labels = with(&labels, name, value);
            }
        }
        families.own(&gauge.name, labels, gauge.value);
    }
    for part in &view.parts {
        add_part(families, part, &with(of, "part", &part.name), most);
    }
}

/// Adds the tasks that ended: by their labels where they have some, else all together.
fn add_tasks(families: &mut Families, view: &View, of: &RowLabels, most: usize) {
    let (queues, others): (Vec<&Labelled>, Vec<_>) = view.labels.iter().partition(|label| label.kind == "queue");
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    let mut value = |label: &Labelled| -> String {
        let named = named.entry(if label.kind == "queue" { "queue" } else { "task" }).or_default();
        *named += 1;
        if *named > most { OTHER.to_owned() } else { label.value.clone() }
    };
    for queue in queues {
        let labels = with(of, "queue", &value(queue));
        add_outcomes(families, &names::QUEUE_TASKS, &labels, &queue.counts);
        families.times(&names::QUEUE_WAIT, labels, &queue.wait);
    }
    // Kinds of labels that lie across would count each task twice.
    let kind = others.first().map(|label| label.kind.clone());
    for other in others.iter().filter(|other| Some(&other.kind) == kind.as_ref()) {
        let labels = with(of, word(&other.kind), &value(other));
        add_outcomes(families, &names::TASKS, &labels, &other.counts);
        families.count(&names::RETRIES, labels.clone(), other.counts.retries);
        families.times(&names::TASK_RUN, labels.clone(), &other.run);
        families.times(&names::TASK_WAIT, labels, &other.wait);
    }
    // A worker's tasks have names, and the first may not have ended yet.
    if others.is_empty() && view.kind != ViewKind::Worker {
        add_outcomes(families, &names::TASKS, of, &view.counts);
        families.count(&names::RETRIES, of.clone(), view.counts.retries);
        families.times(&names::TASK_RUN, of.clone(), &view.run.histogram);
        families.times(&names::TASK_WAIT, of.clone(), &view.wait.histogram);
    }
}

/// Adds how many ended in which way: `ok` and `failed` also where there are none, so that the first
/// is seen as one more.
fn add_outcomes(families: &mut Families, meta: &names::Meta, labels: &RowLabels, counts: &Counts) {
    let told = counts.by_word().filter(|(word, count)| *count > 0 || matches!(word, Word::Ok | Word::Failed));
    told.for_each(|(word, count)| families.count(meta, with(labels, "outcome", word.as_str()), count));
}

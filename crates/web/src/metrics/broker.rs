//! Queues, workers and limits, as a broker and workers tell them.

use longshore_core::watch::OTHER;
use longshore_ops::{limits::LimitInfo, overview::WorkerGlance, queues::QueueInfo};

use super::{
    MOST_NAMED, Told,
    families::{Families, RowLabels, per_second, with},
    names,
};

/// Adds what is known beside views.
pub(super) fn add(families: &mut Families, told: &Told<'_>) {
    if let Some(is_up) = told.broker {
        families.count(&names::CONNECTED, with(&Vec::new(), "connection", "broker"), u64::from(is_up));
    }
    if let Some(counts) = told.intake {
        for (outcome, count) in [("admitted", counts.sent), ("refused", counts.refused)] {
            families.count(&names::INTAKE, with(&Vec::new(), "outcome", outcome), count);
        }
    }
    if let Some(count) = told.events_left_out {
        families.count(&names::EVENTS_DROPPED, with(&Vec::new(), "listener", "dashboard"), count);
    }
    let named = |place: usize, kind: &'static str, name: &str| with(&Vec::new(), kind, if place < MOST_NAMED { name } else { OTHER });
    for (place, queue) in told.queues.iter().enumerate() {
        add_queue(families, &named(place, "queue", &queue.name), queue);
    }
    for (place, worker) in told.workers.iter().enumerate() {
        add_worker(families, &named(place, "worker", &worker.node), worker);
    }
    let limits = told.limits.iter().filter(|limit| limit.task.is_none());
    for (place, (limit, name)) in limits.filter_map(|limit| Some((limit, limit.limit.as_deref()?))).enumerate() {
        let of = named(place, "limit", name);
        let bucket = limit.bucket.as_deref().filter(|_| place < MOST_NAMED);
        add_limit(families, bucket.map_or_else(|| of.clone(), |bucket| with(&of, "bucket", bucket)), limit);
    }
}

fn add_queue(families: &mut Families, of: &RowLabels, queue: &QueueInfo) {
    families.count(&names::QUEUE_DEPTH, of.clone(), queue.waiting);
    families.count(&names::QUEUE_HELD, of.clone(), queue.held);
    families.count(&names::QUEUE_ETA, of.clone(), queue.eta);
    families.count(&names::QUEUE_DEAD, of.clone(), queue.dead);
    families.count(&names::QUEUE_PAUSED, of.clone(), u64::from(queue.paused_by.is_some()));
    // Where nothing waits nothing is old.
    let oldest = queue.oldest.or((queue.waiting == 0).then_some(std::time::Duration::ZERO));
    oldest.into_iter().for_each(|age| families.value(&names::QUEUE_OLDEST, of.clone(), age.as_secs_f64()));
    queue.running.into_iter().for_each(|tasks| families.count(&names::QUEUE_RUNNING, of.clone(), tasks));
    queue.workers.into_iter().for_each(|workers| families.count(&names::QUEUE_WORKERS, of.clone(), workers));
}

fn add_worker(families: &mut Families, of: &RowLabels, worker: &WorkerGlance) {
    families.count(&names::WORKER_UP, of.clone(), u64::from(worker.silent.is_none()));
    worker.slots.into_iter().for_each(|slots| families.count(&names::WORKER_SLOTS, of.clone(), slots));
    worker.running.into_iter().for_each(|tasks| families.count(&names::WORKER_RUNNING, of.clone(), tasks));
}

fn add_limit(families: &mut Families, of: RowLabels, limit: &LimitInfo) {
    let rate = limit.set.or(limit.own);
    rate.into_iter().for_each(|rate| families.value(&names::LIMIT_RATE, of.clone(), per_second(&rate)));
    families.value(&names::LIMIT_AHEAD, of, limit.ahead.as_secs_f64());
}

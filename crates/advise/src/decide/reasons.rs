//! Reasons of an advice, in plain words.

use longshore_core::LaneKind;

use super::{Measured, Plan, model};
use crate::{
    Bound, Place,
    show::{percent, rate, size, time},
};
use std::time::Duration;

/// Share of time that an item was kept waiting, above which the machine had other things to do.
const BUSY: f64 = 0.1;
/// Spread above which items differ much.
const DIFFER: f64 = 0.25;

pub(super) fn reasons(measured: &Measured, plans: &[Plan], chosen: &Plan) -> Vec<String> {
    let mut reasons = vec![item(measured)];
    match chosen.place {
        Place::Sequential => reasons.push(sequential(measured, plans)),
        Place::Lane(lane) => {
            reasons.extend(scaling(plans, lane));
            reasons.push(lane_reason(measured, chosen, lane));
            reasons.extend(knee(measured, chosen, lane));
            reasons.extend(told_apart(plans, chosen));
        }
    }
    if chosen.chunk > 1 {
        reasons.push(format!("an item is too small to travel alone: {} of them make one task", chosen.chunk));
    }
    // Said only where memory is what bounds the number.
    if let Some(memory) = measured.memory.filter(|_| chosen.workers >= model::by_memory(measured)) {
        reasons.push(format!(
            "one item holds {} and {} are free: no more than {} at once",
            size(memory.growth),
            size(memory.free),
            chosen.workers
        ));
    }
    // Twice the workers is what a queue holds otherwise.
    if measured.payload.saturating_mul((2 * chosen.workers * chosen.chunk) as u64) > super::QUEUED_DATA {
        reasons.push(format!("an item's data is {}: a short queue", size(measured.payload)));
    }
    let item = &measured.item;
    if model::busy(measured) {
        reasons.push(format!(
            "the machine was busy: others had {} of its CPU time; measure again when they are done",
            percent(measured.others)
        ));
    }
    let queued = item.queued.as_secs_f64() / item.wall.as_secs_f64().max(1e-9);
    // A machine that others keep busy has been told of above.
    if queued > BUSY && !model::busy(measured) {
        reasons.push(format!(
            "the machine was busy: {} of the time an item was ready and others ran; less sure than it looks",
            percent(queued)
        ));
    }
    if item.spread > DIFFER {
        reasons.push(format!("items differ by {} or more: a larger sample would be surer", percent(item.spread)));
    }
    reasons
}

fn item(measured: &Measured) -> String {
    let item = &measured.item;
    let alone = Duration::from_secs_f64(item.alone());
    let waits = 1.0 - item.share();
    let (alone, cpu) = (time(alone), time(item.cpu));
    match Bound::of_share(item.share()) {
        Bound::Cpu => format!("an item takes {alone}, {} of it on a CPU: CPU-bound", percent(item.share())),
        Bound::Io => format!("an item takes {alone}, {cpu} of it on a CPU, so it waits {} of the time: I/O-bound", percent(waits)),
        _ => format!("an item takes {alone}, {cpu} of it on a CPU, and waits {} of the time: mixed", percent(waits)),
    }
}

fn sequential(measured: &Measured, plans: &[Plan]) -> String {
    if measured.count == Some(1) {
        return "one item cannot be spread".into();
    }
    let best = plans.iter().filter(|plan| plan.place != Place::Sequential).min_by(|a, b| a.cost(measured).total_cmp(&b.cost(measured)));
    let alone = plans.first().map_or(0.0, |plan| plan.cost(measured));
    match (best, measured.count) {
        (Some(best), Some(_)) => format!(
            "one after another takes {}; on the {} lane it would {} {}",
            seconds(alone),
            best.place,
            if best.measured { "take" } else { "hardly take less than" },
            seconds(best.cost(measured))
        ),
        (Some(best), None) => format!("one after another {} go through, on the {} lane {}", rate(1.0 / alone), best.place, rate(best.rate)),
        (None, _) => "no lane was measured".into(),
    }
}

fn seconds(seconds: f64) -> String {
    time(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// `measured on the blocking lane: ×1.0 at 1, ×2.0 at 2, ×3.9 at 4`.
fn scaling(plans: &[Plan], lane: LaneKind) -> Option<String> {
    let alone = plans.first().map_or(1.0, |plan| 1.0 / plan.rate);
    let points: Vec<String> = plans
        .iter()
        .filter(|plan| plan.place == Place::Lane(lane) && plan.measured)
        .map(|plan| format!("×{:.1} at {}", plan.rate * alone, plan.workers))
        .collect();
    (!points.is_empty()).then(|| format!("measured on the {lane} lane: {}", points.join(", ")))
}

fn lane_reason(measured: &Measured, chosen: &Plan, lane: LaneKind) -> String {
    let share = measured.item.share();
    if !chosen.measured && model::reckoned(measured) && measured.runs.iter().any(|run| run.lane == lane) {
        return format!("{} workers follow from a single item: what was measured says little on a busy machine", chosen.workers);
    }
    if !chosen.measured {
        return format!(
            "{} workers follow from a single item: the time did not reach to measure more; a larger budget would",
            chosen.workers
        );
    }
    match lane {
        LaneKind::Cpu => format!("computing goes as fast as there are cores: {}", measured.cores),
        LaneKind::Async if share >= 0.5 => {
            "it computes for most of its time, and on the async lane that holds up everything else there: as a plain function it belongs on the cpu lane"
                .into()
        }
        _ if share < 0.1 => "while one waits, others can run: workers cost little".into(),
        _ if share < 0.95 => format!("{} at once keep the {} cores busy while some wait", chosen.workers, measured.cores),
        _ => format!("it computes: no more at once than the {} cores", measured.cores),
    }
}

/// Says which way on another lane might as well be faster, as far as the runs tell.
fn told_apart(plans: &[Plan], chosen: &Plan) -> Option<String> {
    let others = plans.iter().filter(|plan| ![chosen.place, Place::Sequential].contains(&plan.place) && plan.measured && chosen.measured);
    let best = others.max_by(|a, b| a.rate.total_cmp(&b.rate)).filter(|plan| plan.high >= chosen.low && chosen.high >= plan.low)?;
    let of = |plan: &Plan| format!("{} ({} to {})", rate(plan.rate), rate(plan.low), rate(plan.high));
    let (here, there) = (of(chosen), of(best));
    Some(format!("these runs do not tell it from the {} lane with {}: {here} and {there}", best.place, best.workers))
}

/// Says what the next number of workers brought, or that nobody knows.
fn knee(measured: &Measured, chosen: &Plan, lane: LaneKind) -> Option<String> {
    if !chosen.measured || lane == LaneKind::Cpu {
        return None;
    }
    let runs: Vec<_> = measured.runs.iter().filter(|run| run.lane == lane).collect();
    let at = runs.iter().position(|run| run.workers == chosen.workers)?;
    let Some(next) = runs.get(at + 1) else {
        return Some(if chosen.workers < model::most_workers(measured) {
            format!("nothing was measured beyond {}: with a larger sample or budget more may turn out better", chosen.workers)
        } else {
            format!("it still got faster at {}, the most that was to be tried", chosen.workers)
        })
        .filter(|_| measured.count != Some(chosen.workers as u64));
    };
    let median = |rates: &[f64]| model::quantiles(rates).map_or(0.0, |(_, median, _)| median);
    let slower = next.p99.as_secs_f64() / runs[at].p99.as_secs_f64().max(1e-9);
    // Without a look below, nobody knows whether the knee is not further down.
    let knee =
        if at == 0 { "more bring little (fewer were not measured)".to_owned() } else { format!("knee measured at {}", chosen.workers) };
    Some(format!(
        "{knee}: {} at {}, {} at {}, p99 ×{slower:.1}",
        rate(chosen.rate),
        chosen.workers,
        rate(median(&next.rates)),
        next.workers
    ))
}

//! The last step of a run: what it comes to.

use std::{sync::Arc, time::Duration};

use longshore_core::{Reason, engine};
use tokio::task::spawn_blocking;

use super::{Ended, Totals};
use crate::{
    input::{Format, count_records},
    jobs::{FailureKind, failures},
    journal::{Index, PastEnd, each_past},
    open::Before,
    report::{Report, ResultsFile, SlotSummary, Waited},
    story::{Story, Storyteller},
};

/// Parts that a report is made from.
pub(crate) struct SumUp<'a> {
    pub(crate) ended: &'a Ended,
    pub(crate) totals: &'a Totals,
    pub(crate) remaining: u64,
    /// More may remain.
    pub(crate) at_least: bool,
    /// The output is a file.
    pub(crate) regular: bool,
    /// Failures of earlier sittings by class.
    pub(crate) earlier: Vec<FailureKind>,
}

/// Reads from the journal what failed in earlier sittings.
pub(crate) async fn failures_before(before: Option<&Before>, index: &Arc<Index>) -> Vec<FailureKind> {
    let Some(before) = before.filter(|before| before.resumed && index.failed() > 0) else { return Vec::new() };
    let ((path, len), index) = (before.errors.clone(), index.clone());
    let read = spawn_blocking(move || failures(&path, len, &index)).await;
    read.ok().and_then(Result::ok).unwrap_or_default()
}

/// Returns the story, with what the journal tells of earlier sittings and is still so.
pub(crate) async fn story_before(story: Option<&Storyteller>, before: Option<&Before>, index: &Arc<Index>) -> Option<Box<Story>> {
    let mut story = story?.told();
    if let Some(before) = before.filter(|before| before.resumed) {
        let ((path, len), index, sofar) = (before.errors.clone(), index.clone(), story.clone());
        let read = move || {
            let mut story = sofar;
            let add = |past: &PastEnd<'_>| {
                story.add_past(past);
                Ok(())
            };
            each_past(&path, len, &index, add).is_ok().then_some(story)
        };
        story = spawn_blocking(read).await.ok().flatten().unwrap_or(story);
    }
    Some(Box::new(story))
}

/// Sums up, over all sittings.
pub(crate) fn sum_up(of: SumUp<'_>) -> Report {
    let SumUp { ended, totals, remaining, at_least, regular, earlier } = of;
    let (opened, left, spec) = (&ended.opened, &ended.left, &ended.opened.plan.spec);
    let before = opened.before.as_ref();
    let engine = &left.engine;
    let sums = ended.tally.sums().clone();
    let mut report = Report {
        name: ended.name.clone(),
        job: opened.id.clone(),
        counts: totals.all,
        remaining,
        sittings: before.map_or(1, |before| before.sitting),
        wall: left.wall,
        run: engine.run,
        wait: engine.wait,
        waited: waited(engine, left.wall),
        held: left.held.clone(),
        slots: slots(engine),
        ok_retried: sums.ok_retried,
        failed_by_error: sums.errors.into_iter().collect(),
        samples: sums.samples,
        width: u32::try_from(left.width).unwrap_or(u32::MAX),
        durable: opened.journaled,
        stdin: ended.reads_stdin(),
        cut: sums.cut,
        max_output: spec.output.max_output,
        at_least,
        pace: spec.pace.rate.map(|rate| rate.to_string()),
        ..Report::default()
    };
    // That commands wait for a slot is what slots are for.
    report.waited.retain(|(waited, _)| *waited != Waited::Slots || ended.is_http);
    // Tasks are counted over all sittings, so time and failures must be, too, or the rate is wrong.
    if let Some(before) = before.filter(|before| before.resumed) {
        report.wall += before.spent;
        earlier.into_iter().for_each(|kind| add_up(&mut report, kind));
    }
    report.rate_per_s = report.finished() as f64 / report.wall.as_secs_f64().max(f64::EPSILON);
    report.total = totals.ended.then_some(totals.read);
    // Counted in the file itself, because lines of earlier sittings are in it as well.
    report.results = opened.plan.output.file.clone().filter(|_| regular).map(|path| {
        let lines = count_records(std::slice::from_ref(&path), Format::Lines).unwrap_or(0);
        ResultsFile { path, lines }
    });
    report
}

/// Returns the reasons for which ready tasks waited, each with its share of the run's time.
fn waited(engine: &engine::Summary, wall: Duration) -> Vec<(Waited, f64)> {
    let wall = wall.as_secs_f64().max(f64::EPSILON);
    let mut waited: Vec<(Waited, f64)> = Vec::new();
    for (reason, time) in &engine.waited {
        let Some(kind) = waited_for(reason) else { continue };
        let share = time.as_secs_f64() / wall;
        match waited.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += share,
            None => waited.push((kind, share)),
        }
    }
    waited
}

fn slots(engine: &engine::Summary) -> Vec<SlotSummary> {
    let slot = |slot: &engine::SlotUse| SlotSummary { slot: slot.slot + 1, tasks: slot.tasks, busy: slot.busy, share: slot.share };
    engine.slots.iter().map(slot).collect()
}

fn waited_for(reason: &Reason) -> Option<Waited> {
    Some(match reason {
        Reason::Pace { .. } => Waited::Pace,
        Reason::Concurrency { .. } | Reason::Lane { .. } | Reason::Limit { .. } => Waited::Slots,
        Reason::Key { .. } => Waited::Key,
        // Without a result queue a result holds its slot until it is written.
        Reason::Results { capacity: 0 } => Waited::Slots,
        Reason::Results { .. } => Waited::Results,
        Reason::Backoff { .. } => Waited::Backoff,
        Reason::Paused => Waited::Pause,
        _ => return None,
    })
}

fn add_up(report: &mut Report, kind: FailureKind) {
    let FailureKind { count, sample } = kind;
    match report.failed_by_error.iter_mut().find(|(known, _)| *known == sample.error) {
        Some((_, sum)) => *sum += count,
        None => report.failed_by_error.push((sample.error.clone(), count)),
    }
    if report.sample_of(&sample.error).is_none() {
        report.samples.push(sample);
    }
}

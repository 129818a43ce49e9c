//! A journal told as a story: as a report with charts, and as a trace for a viewer of traces.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    time::Duration,
};

use longshore_core::watch::Counts;
use serde_json::json;

use super::{JobError, StateDir, mask_text};
use crate::{
    journal::{PastEnd, each_past, file::read, info::JobInfo},
    report::{Quantiles, Report, Story},
};

/// Returns what a journal tells of a job, as the report of a run that has ended.
///
/// # Errors
/// When there is no such job, or its journal cannot be read.
pub fn report(state: &StateDir, job: &str) -> Result<Report, JobError> {
    let info = state.find(job)?;
    let contents = read(&info.path)?;
    let mut story = Story::of(mask_text(&info.header.what));
    let (mut slots, mut ok_retried) = (BTreeSet::new(), 0);
    each(&info, contents.len, &contents.index, |past| {
        story.add_past(past);
        slots.extend(past.slot);
        ok_retried += u64::from(past.attempts > 1 && past.failure.is_none());
        Ok(())
    })?;
    let [p50, p90, p95, p99] = [0.5, 0.9, 0.95, 0.99].map(|share| story.quantile(share));
    let counts: Counts = contents.index.counts();
    let wall = Duration::from_millis(contents.spent_ms).max(story.span());
    Ok(Report {
        name: info.header.name.clone().unwrap_or_else(|| info.header.job.clone()),
        job: info.header.job.clone(),
        counts,
        ok_retried,
        remaining: info.end.as_ref().map_or(contents.index.in_flight(), |end| end.unfinished),
        at_least: info.end.is_none(),
        sittings: contents.sittings,
        wall,
        rate_per_s: counts.finished() as f64 / wall.as_secs_f64().max(f64::EPSILON),
        width: u32::try_from(slots.len()).unwrap_or(u32::MAX),
        run: Quantiles { p50, p90, p95, p99, max: story.longest() },
        durable: true,
        story: Some(Box::new(story)),
        ..Report::default()
    })
}

/// Writes a job's journal as a trace that Perfetto and Chrome's viewer read: a track for each slot,
/// a slice for the last attempt of each task. Returns how many slices.
///
/// # Errors
/// When there is no such job, its journal cannot be read, or `out` cannot be written.
pub fn trace(state: &StateDir, job: &str, out: &mut impl Write) -> Result<u64, JobError> {
    let info = state.find(job)?;
    let contents = read(&info.path)?;
    let name = info.header.name.clone().unwrap_or_else(|| info.header.job.clone());
    let (mut slices, mut slots) = (0, BTreeSet::new());
    let broken = |error: io::Error| JobError::Io { path: "output".into(), cause: error.to_string() };
    let process = json!({ "name": "process_name", "ph": "M", "pid": 1, "args": { "name": format!("longshore {name}") } });
    let other = json!({ "job": info.header.job, "what": mask_text(&info.header.what), "began": info.header.started });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{other},\"traceEvents\":[\n{process}").map_err(broken)?;
    each(&info, contents.len, &contents.index, |past| {
        // What never started has no place in time, and a call is one slice.
        let (Some(started), Some(slot), 1..) = (past.since_begin, past.slot, past.call_records) else { return Ok(()) };
        if slots.insert(slot) {
            let track = json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": slot, "args": { "name": format!("slot {slot}") } });
            write!(out, ",\n{track}")?;
        }
        slices += 1;
        write!(out, ",\n{}", slice(past, started, slot))
    })?;
    out.write_all(b"\n]}\n").and_then(|()| out.flush()).map_err(broken)?;
    Ok(slices)
}

fn slice(past: &PastEnd<'_>, started: Duration, slot: u32) -> serde_json::Value {
    let mut more = json!({
        "seq": past.seq, "record": past.record, "outcome": past.word.as_str(), "attempts": past.attempts,
        "wait_ms": u64::try_from(past.wait.as_millis()).unwrap_or(u64::MAX),
    });
    if past.call_records > 1 {
        more["records"] = json!(past.call_records);
    }
    if let Some(error) = &past.failure {
        more["error"] = json!(format!("{}: {}", error.class(), error.message));
    }
    // Colours of Chrome's viewer; Perfetto colours by name.
    let colour = if past.failure.is_some() { "bad" } else { "good" };
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    json!({
        "name": format!("#{} {}", past.seq, past.word), "cat": past.word.as_str(), "ph": "X", "pid": 1, "tid": slot,
        "ts": micros(started), "dur": micros(past.run), "cname": colour, "args": more,
    })
}

fn each(info: &JobInfo, len: u64, index: &crate::journal::Index, each: impl FnMut(&PastEnd<'_>) -> io::Result<()>) -> Result<(), JobError> {
    each_past(&info.path, len, index, each).map_err(|error| JobError::Io { path: info.path.clone(), cause: error.to_string() })
}

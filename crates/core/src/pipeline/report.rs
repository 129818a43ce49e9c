//! What a pipeline did, stage by stage, and which stage held up the others.

use std::{fmt, time::Duration};

use crate::{
    pipeline::{meter::Kind, run::Failure},
    task::LaneKind,
    watch::{Counts, Quantiles},
};

/// Report of a pipeline.
///
/// As text it is a line for each stage and one for the bottleneck.
#[derive(Clone, Debug)]
pub struct Report {
    /// The source and the stages, in their order; branches one after the other.
    pub stages: Vec<StageReport>,
    /// From the start to now, or to the end.
    pub wall: Duration,
    /// Outputs of the last stage.
    pub outputs: u64,
    /// Those that their reader did not take.
    pub unread: u64,
    /// Failure that stopped the pipeline, if one did.
    pub failure: Option<Failure>,
    /// It was cancelled, or its reader went away.
    pub cancelled: bool,
    /// Which stage held up the others.
    pub bottleneck: Option<Bottleneck>,
}

impl Report {
    /// Returns true if the pipeline came to its end and no item failed in it.
    pub fn is_clean(&self) -> bool {
        self.failure.is_none() && !self.cancelled && self.stages.iter().all(|stage| stage.counts.failed == 0)
    }

    /// The stage with this name.
    pub fn stage(&self, name: &str) -> Option<&StageReport> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Items that entered the pipeline and were not brought to an end because it stopped: they
    /// waited, or were dropped on their way.
    pub fn left(&self) -> u64 {
        self.stages.iter().map(|stage| stage.left + stage.counts.cancelled).sum::<u64>() + self.unread
    }
}

/// Report of one stage. Times are sums over its workers.
#[derive(Clone, Debug)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its workers.
    pub workers: usize,
    /// The capacity of the queue in front of it.
    pub queue: usize,
    /// It has a rate.
    pub paced: bool,
    /// Items that it took.
    pub items_in: u64,
    /// Items that it handed on.
    pub items_out: u64,
    /// Counts of its items. One that failed for good, in whatever way, counts as failed; it is
    /// cancelled if its function was ended, or its retry given up, because the pipeline stopped.
    pub counts: Counts,
    /// Items in front of it that it did not take because the pipeline stopped (in a report of a
    /// running pipeline: that wait now).
    pub left: u64,
    /// Its function ran.
    pub busy: Duration,
    /// There was nothing to do.
    pub waiting: Duration,
    /// The next stage had no room.
    pub blocked: Duration,
    /// Its rate held it, or the time before another attempt.
    pub paused: Duration,
    /// Times that the function ran, each attempt by itself (tiny items share the time of their
    /// group).
    pub run: Quantiles,
    /// The most of its workers that ever were at work at once.
    pub most: usize,
    /// The first item that failed, where failures do not stop the pipeline.
    pub first_failure: Option<Failure>,
}

impl StageReport {
    /// A time as a share of what its workers had, from 0 to 1.
    fn share(&self, time: Duration, wall: Duration) -> f64 {
        let had = wall.as_secs_f64() * self.workers.max(1) as f64;
        if had > 0.0 { (time.as_secs_f64() / had).min(1.0) } else { 0.0 }
    }
}

/// Which stage the others waited for.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// Its place in [`Report::stages`]; one beyond the last is the reader of the outputs.
    pub place: usize,
    /// Its name.
    pub name: String,
    /// The share of its workers' time that it was at work or held by its rate, from 0 to 1.
    pub share: f64,
    /// Reason why it is the bottleneck, and what may help, as a sentence.
    pub reason: String,
}

/// Below this share nobody is a bottleneck.
const SLACK: f64 = 0.5;

/// The stage whose workers had least time to spare. When the last stage was held up by its reader
/// for most of the time, it is the reader.
pub(super) fn bottleneck(stages: &[StageReport], wall: Duration) -> Option<Bottleneck> {
    let load = |stage: &StageReport| stage.share(stage.busy + stage.paused, wall);
    let (place, stage) = stages.iter().enumerate().reduce(|most, next| if load(next.1) > load(most.1) { next } else { most })?;
    let last = stages.last()?;
    let reader = last.share(last.blocked, wall);
    if reader > load(stage) && reader >= SLACK {
        return Some(Bottleneck {
            place: stages.len(),
            name: "reader".to_owned(),
            share: reader,
            reason: format!(
                "the reader of the outputs: `{}` was blocked by it {} of the time → read faster, or add a stage that does the reader's work",
                last.name,
                percent(reader)
            ),
        });
    }
    let share = load(stage);
    if share < SLACK {
        return None;
    }
    let paused = stage.paused > stage.busy;
    let held = if paused { "held by its rate or its retries" } else { "busy" };
    let mut reason = format!("{} `{}`: {held} {}", stage.title(place), stage.name, percent(share));
    if stage.kind != Kind::Source {
        reason += &format!(", its workers waited {} for input", seconds(stage.waiting));
    }
    let before = place.checked_sub(1).and_then(|before| stages.get(before)).filter(|before| before.share(before.blocked, wall) >= 0.05);
    if let Some(before) = before {
        reason += &format!("; `{}` was blocked by it {} of the time", before.name, percent(before.share(before.blocked, wall)));
    }
    let advice = match (stage.kind, paused, stage.paced) {
        (Kind::Source, ..) => "the stages wait for it: a faster source, or several",
        (_, true, true) => "a higher rate",
        (_, true, false) => "fewer failures, or shorter times between attempts",
        (Kind::Lane(LaneKind::Cpu), ..) if stage.workers >= LaneKind::Cpu.default_workers() => {
            "its workers have all cores: only a cheaper function helps"
        }
        _ => "give it more workers",
    };
    Some(Bottleneck { place, name: stage.name.clone(), share, reason: format!("{reason} → {advice}") })
}

impl StageReport {
    fn title(&self, place: usize) -> String {
        if self.kind == Kind::Source { "the".to_owned() } else { format!("stage {place}") }
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        0.0 => "0 s".to_owned(),
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, stage) in self.stages.iter().enumerate() {
            let of = |time| percent(stage.share(time, self.wall));
            let lane = match stage.kind {
                Kind::Source => "source".to_owned(),
                Kind::Lane(lane) => format!("{lane} × {}", stage.workers),
                Kind::Batch => "batch".to_owned(),
                Kind::Route => "route".to_owned(),
            };
            write!(f, "{place:>2} {:<12} {lane:<13} {} in, {} out", stage.name, stage.items_in, stage.items_out)?;
            for (count, what) in [
                (stage.counts.failed, "failed"),
                (stage.counts.retries, "retries"),
                (stage.counts.cancelled, "cancelled"),
                (stage.left, "left"),
            ] {
                if count > 0 {
                    write!(f, ", {count} {what}")?;
                }
            }
            write!(f, "; busy {}, waiting {}, blocked {}", of(stage.busy), of(stage.waiting), of(stage.blocked))?;
            if !stage.paused.is_zero() {
                write!(f, ", paused {}", of(stage.paused))?;
            }
            if matches!(stage.kind, Kind::Lane(_)) {
                let Quantiles { p50, p95, p99, .. } = stage.run;
                write!(f, "; run p50 {} p95 {} p99 {}, at most {} at once", seconds(p50), seconds(p95), seconds(p99), stage.most)?;
            }
            writeln!(f)?;
            if let Some(first) = &stage.first_failure {
                writeln!(f, "   first failure: {first}")?;
            }
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "stopped: {failure}")?;
        } else if self.cancelled {
            writeln!(f, "cancelled")?;
        }
        match &self.bottleneck {
            Some(bottleneck) => write!(f, "bottleneck: {}", bottleneck.reason),
            None => write!(f, "bottleneck: none, every stage had time to spare"),
        }
    }
}

#[cfg(test)]
mod tests;

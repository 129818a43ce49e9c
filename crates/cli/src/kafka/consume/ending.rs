//! End of a consumer: the exit code, and the summary.

use std::{io::Write, time::Duration};

use longshore_kafka::{Affected, words};
use serde_json::json;

use super::{args::ConsumeArgs, fates::Failures, trouble, watch::Watched};
use crate::{
    exit::Exit,
    fault::Fault,
    global::Global,
    kafka::topics::many,
    progress::text::{self, count, precise, short},
};

/// All that is known at the end.
pub(super) struct Ended<'a> {
    pub(super) args: &'a ConsumeArgs,
    pub(super) watched: Watched,
    /// Records that failed for good, by error.
    pub(super) by_error: Vec<Failures>,
    /// Error with which stdout took no more.
    pub(super) broken: Option<std::io::ErrorKind>,
}

impl Ended<'_> {
    fn exit(&self) -> Exit {
        let (counts, error) = (&self.watched.summary.counts, &self.watched.summary.error);
        match (self.broken, self.watched.signal) {
            (Some(std::io::ErrorKind::BrokenPipe), _) => Exit::ReaderGone,
            (Some(_), _) => Exit::Unwritable,
            // A signal's code says that what was done is committed.
            _ if self.uncommitted().is_some() => Exit::Unreachable,
            (None, Some(signal)) => Exit::of_signal(signal),
            (None, None) if error.is_some() => Exit::Unreachable,
            (None, None) if counts.dead + counts.skipped > 0 => Exit::Failed,
            (None, None) => Exit::Done,
        }
    }

    /// Says how much of what is done is not committed, where that is how it ended.
    fn uncommitted(&self) -> Option<String> {
        let Watched { summary, .. } = &self.watched;
        let counts = &summary.counts;
        let still = summary.troubles.iter().find(|trouble| {
            let affected = &trouble.affected;
            trouble.until.is_none() && matches!(affected, Affected::Commits | Affected::Broker | Affected::Group)
        });
        // What was lost before is told of all the same, unless the broker was there again.
        let number = counts.uncommitted + if still.is_some() { counts.repeated } else { 0 };
        let why = still.map_or_else(String::new, |trouble| format!(" ({})", words(trouble.code)));
        let records = many(usize::try_from(number).unwrap_or(usize::MAX), "record that is", "records that are");
        (number > 0).then(|| format!("{records} done may come again: no commit of them was accepted{why}"))
    }

    /// Says how it ended, and returns the exit code.
    ///
    /// # Errors
    /// The error that ended it, if one did.
    pub(super) fn say(self, global: &Global, out: &mut dyn Write) -> Result<Exit, Fault> {
        let exit = self.exit();
        let form = match (self.args.summary.as_str(), global.voice().summary()) {
            ("text", Some(other)) => other,
            ("text", None) if global.json => "json",
            (form, _) => form,
        };
        match form {
            "none" => {}
            "json" => std::io::stderr().write_all(format!("{}\n", self.json(exit)).as_bytes())?,
            _ => std::io::stderr().write_all(self.text().as_bytes())?,
        }
        out.flush().ok();
        match (&self.watched.summary.error, exit) {
            (error, Exit::Unreachable) => {
                let said = [error.clone(), self.uncommitted()].into_iter().flatten().collect::<Vec<_>>().join("; ");
                Err(Fault::new(exit, said))
            }
            (_, Exit::Unwritable) => Err(Fault::new(exit, "stdout: cannot be written; what could not be written was not committed")),
            _ => Ok(exit),
        }
    }

    fn rate(&self) -> f64 {
        self.watched.summary.counts.done as f64 / self.watched.wall.as_secs_f64().max(0.001)
    }

    fn closings(&self) -> (u64, Duration) {
        self.watched.last.as_ref().map_or((0, Duration::ZERO), |last| (last.view.closings, last.view.closed_for))
    }

    fn text(&self) -> String {
        let Watched { summary, wall, signal, last, most_active } = &self.watched;
        let counts = &summary.counts;
        let name = self.args.topics.join(" ");
        // What failed for good is done as well, but that is said apart.
        let well = counts.done.saturating_sub(counts.dead + counts.skipped);
        let records = many(usize::try_from(well).unwrap_or(usize::MAX), "record", "records");
        let stopped = if signal.is_some() { "stopped: " } else { "" };
        let mut lines = vec![format!(" {name}  {stopped}{records} done in {}   {}", precise(*wall), text::rate(self.rate()))];
        let (closings, closed) = self.closings();
        let most = last.as_ref().map_or(self.args.max_threads, |last| last.view.max_threads);
        lines.push(format!(
            "   active at most {} (limit {})   gate closed {}× for {}   rebalances {}   commits {}",
            count(*most_active as u64),
            count(most as u64),
            count(closings),
            short(closed),
            count(counts.rebalances),
            count(counts.commits),
        ));
        let run = &summary.engine.run;
        if !run.max.is_zero() {
            let times = [("p50", run.p50), ("p90", run.p90), ("p99", run.p99), ("max", run.max)]
                .map(|(name, time)| format!("{name} {}", precise(time)));
            lines.push(format!("   run   {}", times.join("  ")));
        }
        let mut odd = Vec::new();
        for (number, what) in [
            (counts.dead, "to the dead letters"),
            (counts.skipped, "failed and skipped"),
            (summary.engine.counts.retried, "needed another attempt"),
            (counts.known, "known to be done already"),
            (counts.abandoned, "abandoned to another member"),
            (counts.unburied, "waiting for the dead-letter topic to the end (they come again)"),
            (counts.repeated, "done, and lost to another member before they were committed"),
            (counts.uncommitted, "done, and no commit of them accepted (they may come again)"),
            (counts.lost, "times thrown out of the group"),
            (counts.commits_failed, "commits failed"),
        ] {
            // Only what happened is told: of most runs nothing.
            if number > 0 {
                odd.push(format!("{} {what}", count(number)));
            }
        }
        if !odd.is_empty() {
            lines.push(format!("   {}", odd.join("   ")));
        }
        if !summary.troubles.is_empty() {
            let troubles = summary.troubles.iter().take(6).map(trouble::sum).collect::<Vec<_>>();
            lines.push(format!("   trouble:  {}", troubles.join("   ")));
        }
        if !self.by_error.is_empty() {
            let errors = self.by_error.iter().take(6).map(|failures| format!("{} {}", count(failures.count), failures.kind));
            lines.push(format!("   failed by error:  {}", errors.collect::<Vec<_>>().join("   ")));
        }
        // With that exit code the error is said behind the summary.
        if let Some(error) = summary.error.as_ref().filter(|_| self.exit() != Exit::Unreachable) {
            lines.push(format!("   {error}"));
        }
        lines.join("\n") + "\n"
    }

    fn json(&self, exit: Exit) -> serde_json::Value {
        let Watched { summary, wall, most_active, .. } = &self.watched;
        let (counts, run) = (&summary.counts, &summary.engine.run);
        let (closings, closed) = self.closings();
        let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        json!({
            "topics": self.args.topics, "group": self.args.group(), "done": counts.done, "dead": counts.dead, "skipped": counts.skipped,
            "retried": summary.engine.counts.retried, "known": counts.known, "abandoned": counts.abandoned,
            "unburied": counts.unburied, "repeated": counts.repeated, "uncommitted": counts.uncommitted, "troubles": summary.troubles, "lost": counts.lost, "rebalances": counts.rebalances,
            "commits": counts.commits, "commits_failed": counts.commits_failed, "most_active": most_active, "closings": closings,
            "closed_ms": millis(closed), "wall_ms": millis(*wall), "rate_per_s": (self.rate() * 10.0).round() / 10.0,
            "run": { "p50_ms": millis(run.p50), "p90_ms": millis(run.p90), "p99_ms": millis(run.p99), "max_ms": millis(run.max) },
            "failed_by_error": self.by_error.iter().map(|failures| (failures.kind.clone(), failures.count.into())).collect::<serde_json::Map<_, _>>(),
            "failures": self.by_error.iter().map(Failures::json).collect::<Vec<_>>(),
            "error": summary.error, "exit_code": exit.code(),
        })
    }
}

//! What a run comes to: counts, times and reasons, over all sittings of its job.

use std::{fmt, path::PathBuf, time::Duration};

use longshore_brokers::mask_text;
pub use longshore_core::engine::Quantiles;
use longshore_core::watch::Counts;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use crate::story::{HeatRow, SlowEnd, Story, StoryFailure, StoryHeat, StorySample, StoryView};
use crate::{ending::Facts, reply::Cut, text::harmless, units::round, view::RunView};

/// A finished or stopped run. Counts, rates and times are over all sittings of the job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The job's name, or its id when it has none.
    pub name: String,
    /// The job's id.
    pub job: String,
    /// Tasks by outcome.
    pub counts: Counts,
    /// Of those that needed more than one attempt: how many ended well.
    pub ok_retried: u64,
    /// Tasks that have not run, when the run stopped early; 0 when it is complete.
    pub remaining: u64,
    /// Records of the input that are not left out, once it was read to its end.
    pub total: Option<u64>,
    /// More may remain: the input was not read to its end, and nobody knows how long it is.
    pub at_least: bool,
    /// Number of times that the job was started.
    pub sittings: u32,
    /// Time that the sittings took together.
    pub wall: Duration,
    /// Tasks that ended per second of that.
    pub rate_per_s: f64,
    /// Number of tasks that could run at once.
    pub width: u32,
    /// The pace, as it was written (`100/s`).
    pub pace: Option<String>,
    /// Quantiles of the times that attempts ran.
    pub run: Quantiles,
    /// Quantiles of the times that tasks waited before they started.
    pub wait: Quantiles,
    /// Reasons for which ready tasks waited, each with the share of the wall time (0 to 1) in which
    /// some did. The order does not matter.
    pub waited: Vec<(Waited, f64)>,
    /// Part of the machine that held new starts, and for how long, in this sitting.
    pub held: Vec<(Held, Duration)>,
    /// Tasks that failed for good by their error class (`status 503`). The order does not matter.
    pub failed_by_error: Vec<(String, u64)>,
    /// One task of each of those classes, as far as it is known.
    pub samples: Vec<FailureSample>,
    /// The slots, when they were watched.
    pub slots: Vec<SlotSummary>,
    /// The file with the results, if there is one.
    pub results: Option<ResultsFile>,
    /// There is a journal, so that the job can go on and its failures can be retried.
    pub durable: bool,
    /// Part of what tasks wrote that the journal and JSON lack.
    pub cut: Cut,
    /// Most bytes of a stream that they keep.
    pub max_output: u64,
    /// Records came from stdin, so that they have to be piped in again to go on.
    pub stdin: bool,
    /// The exit code of a command line that ran this; the journal has it, too.
    pub exit_code: u8,
    /// The facts of which that code follows.
    pub facts: Facts,
    /// Sentences for people: what went wrong, and why it stopped early.
    pub words: Vec<String>,
    /// An earlier sitting had done everything; this one ran nothing.
    pub nothing_left: bool,
    /// Its course over time, where that was asked for
    /// ([`ResultSpec::story`](crate::spec::ResultSpec::story)).
    pub story: Option<Box<Story>>,
}

/// Reason for which a ready task waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waited {
    /// The rate.
    Pace,
    /// A free slot.
    Slots,
    /// Another task with its key.
    Key,
    /// Results to be written.
    Results,
    /// The next attempt's time.
    Backoff,
    /// Somebody's word, or the machine's load or memory.
    Pause,
}

impl Waited {
    /// The words behind "waited for".
    pub fn as_str(self) -> &'static str {
        match self {
            Waited::Pace => "pace",
            Waited::Slots => "slots",
            Waited::Key => "key",
            Waited::Results => "result handling",
            Waited::Backoff => "backoff",
            Waited::Pause => "a pause",
        }
    }

    /// Returns advice that would make the run faster.
    pub fn advice(self) -> &'static str {
        match self {
            Waited::Pace => "raise -r, not -j",
            Waited::Slots => "raise -j",
            Waited::Key => "a finer key lets more run at once; -j does not help",
            Waited::Results => "results are the bottleneck; a faster disk or --emit none, not -j",
            Waited::Backoff => "failures cost the time; see the errors",
            Waited::Pause => "it was paused, or the machine was full; -j does not help",
        }
    }
}

/// Part of the machine for which new starts wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Its load, with `--max-load`.
    Load,
    /// Its memory, with `--min-free-mem`.
    Memory,
}

impl Held {
    /// The flag that says so.
    pub fn flag(self) -> &'static str {
        match self {
            Held::Load => "--max-load",
            Held::Memory => "--min-free-mem",
        }
    }
}

/// One slot's share of the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotSummary {
    /// Its number.
    pub slot: u32,
    /// Attempts that it ran.
    pub tasks: u64,
    /// Time in which it was busy.
    pub busy: Duration,
    /// That as a share of the wall time, 0 to 1.
    pub share: f64,
}

/// Most bytes of a record in a [`FailureSample`].
const SAMPLE_TASK: usize = 80;
/// Most bytes of an error in a [`FailureSample`].
const SAMPLE_MESSAGE: usize = 200;

/// A task that failed, as an example of its class. Its texts are short, and can do nothing to a
/// terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureSample {
    /// The class (`exit 1`).
    pub error: String,
    /// The place of its record in the input.
    pub seq: u64,
    /// The record.
    pub task: String,
    /// The last line that it wrote to its standard error, else its error; empty where that says no
    /// more than the class.
    pub message: String,
}

impl FailureSample {
    /// Makes one. `record` may be cut already.
    pub(crate) fn new(error: &str, seq: u64, record: &[u8], message: &str, tail: Option<&str>) -> Self {
        let last = tail.and_then(|tail| tail.lines().map(str::trim).rfind(|line| !line.is_empty()));
        let says_more = |message: &&str| !(error.starts_with("exit ") && message.starts_with("exit status "));
        let message = last.or_else(|| Some(message).filter(says_more)).unwrap_or_default();
        let record = String::from_utf8_lossy(&record[..record.len().min(4 * SAMPLE_TASK)]);
        // Addresses may have a password in them.
        let shown = |text: &str, most| harmless(mask_text(text).trim_end(), most);
        Self { error: harmless(error, SAMPLE_TASK), seq, task: shown(&record, SAMPLE_TASK), message: shown(message, SAMPLE_MESSAGE) }
    }
}

impl fmt::Display for FailureSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, seq, task, message } = self;
        let space = if task.is_empty() { "" } else { " " };
        let colon = if message.is_empty() { "" } else { ": " };
        write!(f, "#{seq}{space}{task}: {error}{colon}{message}")
    }
}

/// A file of results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultsFile {
    /// Its path, as the user gave it.
    pub path: PathBuf,
    /// Its lines.
    pub lines: u64,
}

impl Report {
    /// Returns what the run looked like at its very end.
    pub fn last_view(&self) -> RunView {
        RunView {
            name: self.name.clone(),
            job: self.job.clone(),
            counts: self.counts,
            total: self.total,
            concurrency: usize::try_from(self.width).unwrap_or(usize::MAX),
            rate_per_s: self.rate_per_s,
            p50: Some(self.run.p50),
            p99: Some(self.run.p99),
            ..RunView::default()
        }
    }

    /// Returns what is left of a run that broke, as far as it was seen.
    pub(crate) fn broken(view: &RunView, why: String) -> Self {
        let facts = Facts { bug: true, ..Facts::default() };
        let (name, job) = (view.name.clone(), view.job.clone());
        Self { name, job, exit_code: facts.code(), facts, words: vec![why], ..Self::default() }
    }

    /// Returns the tasks that ran and ended: all but the cancelled and skipped ones.
    pub fn ran(&self) -> u64 {
        self.counts.ran()
    }

    /// Returns the tasks that failed for good: `failed`, `timeout`, `panicked`, `killed` and `lost`
    /// together.
    pub fn failed(&self) -> u64 {
        self.counts.failures()
    }

    /// Returns the tasks that are finished: all but the cancelled ones.
    pub fn finished(&self) -> u64 {
        self.counts.finished()
    }

    /// Failures by class, the most frequent first.
    pub fn sorted_errors(&self) -> Vec<&(String, u64)> {
        let mut errors: Vec<_> = self.failed_by_error.iter().collect();
        errors.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        errors
    }

    /// Returns a task that failed in this way.
    pub fn sample_of(&self, class: &str) -> Option<&FailureSample> {
        self.samples.iter().find(|sample| sample.error == class)
    }

    /// Writes it as one JSON object on one line, without a newline. Times are in milliseconds.
    pub fn json(&self) -> String {
        let millis = |time: Duration| json!(round(time.as_secs_f64() * 1e3));
        let quantiles = |times: &Quantiles| {
            json!({
                "p50": millis(times.p50), "p90": millis(times.p90), "p95": millis(times.p95), "p99": millis(times.p99), "max": millis(times.max)
            })
        };
        let counts: Map<String, Value> = self.counts.by_word().map(|(word, count)| (word.to_string(), json!(count))).collect();
        let waited: Map<String, Value> =
            self.waited.iter().map(|(reason, share)| (reason.as_str().replace(' ', "_"), json!(round(*share)))).collect();
        let held: Map<String, Value> =
            self.held.iter().map(|(held, time)| (held.flag().trim_start_matches('-').replace('-', "_"), millis(*time))).collect();
        let error = |(class, count): &(String, u64)| {
            let mut error = json!({ "error": class, "count": count });
            if let Some(FailureSample { seq, task, message, .. }) = self.sample_of(class) {
                error["sample"] = json!({ "seq": seq, "task": task, "message": message });
            }
            error
        };
        let errors: Vec<Value> = self.sorted_errors().into_iter().map(error).collect();
        let slots: Vec<Value> = self
            .slots
            .iter()
            .map(|slot| json!({ "slot": slot.slot, "tasks": slot.tasks, "busy_ms": millis(slot.busy), "share": round(slot.share) }))
            .collect();
        json!({
            "job": self.job,
            "name": self.name,
            "exit_code": self.exit_code,
            "finished": self.finished(),
            "remaining": self.remaining,
            "counts": counts,
            "cut": { "tasks": self.cut.tasks, "bytes": self.cut.bytes, "thrown_away": self.cut.thrown },
            "retried": self.counts.retried,
            "ok_retried": self.ok_retried,
            "sittings": self.sittings,
            "wall_ms": millis(self.wall),
            "rate_per_s": round(self.rate_per_s),
            "width": self.width,
            "pace": self.pace,
            "run_ms": quantiles(&self.run),
            "wait_ms": quantiles(&self.wait),
            "waited": waited,
            "held_ms": held,
            "failed_by_error": errors,
            "slots": slots,
            "results": self.results.as_ref().map(|results| json!({ "path": results.path.to_string_lossy(), "lines": results.lines })),
        })
        .to_string()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The run that the documentation shows.
    pub(crate) fn sample() -> Report {
        let ms = Duration::from_millis;
        let mut counts = Counts::default();
        (counts.ok, counts.failed, counts.retried) = (9_962, 38, 330);
        Report {
            name: "prices".to_owned(),
            job: "7f3a".to_owned(),
            counts,
            ok_retried: 312,
            remaining: 0,
            durable: true,
            sittings: 2,
            at_least: false,
            wall: Duration::from_secs(103),
            rate_per_s: 97.1,
            width: 50,
            pace: Some("100/s".to_owned()),
            run: Quantiles { p50: ms(409), p90: ms(803), p95: ms(1_100), p99: ms(1_910), max: ms(12_400) },
            wait: Quantiles::default(),
            waited: vec![(Waited::Slots, 0.02), (Waited::Pace, 0.71)],
            failed_by_error: vec![("connect".to_owned(), 2), ("status 503".to_owned(), 31), ("timeout".to_owned(), 5)],
            slots: vec![SlotSummary { slot: 1, tasks: 200, busy: Duration::from_secs(80), share: 0.777 }],
            results: Some(ResultsFile { path: "prices.jsonl".into(), lines: 10_000 }),
            cut: Cut::default(),
            max_output: 1 << 20,
            stdin: false,
            exit_code: 1,
            ..Report::default()
        }
    }

    #[test]
    fn a_sample_says_what_a_task_died_of_in_few_bytes() {
        let long = "x".repeat(10_000);
        for (error, record, message, tail, want) in [
            ("exit 1", "img 7.png", "exit status 1", Some("reading\ncannot open\n"), "#7 img 7.png: exit 1: cannot open"),
            ("exit 1", "img 7.png", "exit status 1", None, "#7 img 7.png: exit 1"),
            ("timeout", "a", "no end within 1s", None, "#7 a: timeout: no end within 1s"),
            ("invalid", "", "no field `id`", None, "#7: invalid: no field `id`"),
            ("exit 2", "\u{1b}[2J", "exit status 2", Some("\u{1b}]0;x\u{7}"), r"#7 \u{1b}[2J: exit 2: \u{1b}]0;x\u{7}"),
        ] {
            assert_eq!(FailureSample::new(error, 7, record.as_bytes(), message, tail).to_string(), want);
        }
        assert!(FailureSample::new("exit 1", 7, long.as_bytes(), &long, Some(&long)).to_string().len() < 320);
    }

    #[test]
    fn the_json_has_the_same_numbers() {
        let text = sample().json();
        assert!(!text.contains('\n'));
        let value: Value = serde_json::from_str(&text).unwrap();
        for (pointer, want) in [
            ("/counts/ok", json!(9962)),
            ("/counts/skipped", json!(0)),
            ("/run_ms/p99", json!(1910.0)),
            ("/waited/pace", json!(0.71)),
            ("/failed_by_error/0", json!({ "error": "status 503", "count": 31 })),
            ("/slots/0/busy_ms", json!(80_000.0)),
            ("/results/lines", json!(10_000)),
            ("/exit_code", json!(1)),
        ] {
            assert_eq!(value.pointer(pointer), Some(&want), "{pointer}");
        }
    }
}

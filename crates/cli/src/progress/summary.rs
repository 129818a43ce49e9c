//! What a run says at its end, as text and as JSON.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use clap::builder::styling::{AnsiColor, Style};
use longshore_core::Word;
pub use longshore_core::engine::Quantiles;
use serde_json::{Map, Value, json};

use super::{plain::round, text, view::paint};
use crate::{run::reply::Cut, units::show_size};

/// A finished or stopped run. Counts, rates and times are over all sittings of the job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The job's name, or its id when it has none.
    pub name: String,
    /// The job's id.
    pub job: String,
    /// Tasks by outcome; `counts[word as usize]`.
    pub counts: [u64; Word::ALL.len()],
    /// Tasks that needed more than one attempt, however they ended.
    pub retried: u64,
    /// Those of them that ended well.
    pub ok_retried: u64,
    /// Tasks that have not run, when the run stopped early; 0 when it is complete.
    pub remaining: u64,
    /// More may remain: the input was not read to its end, and nobody knows how long it is.
    pub at_least: bool,
    /// How often the job was started.
    pub sittings: u32,
    /// Time that the sittings took together.
    pub wall: Duration,
    /// Tasks that ended per second of that.
    pub rate_per_s: f64,
    /// How many tasks could run at once.
    pub width: u32,
    /// The pace, as it was written (`100/s`).
    pub pace: Option<String>,
    /// How long attempts ran.
    pub run: Quantiles,
    /// How long tasks waited before they started.
    pub wait: Quantiles,
    /// What ready tasks waited for, each with the share of the wall time (0 to 1) in which some did. The order does not matter.
    pub waited: Vec<(Waited, f64)>,
    /// Tasks that failed for good by their error class (`status 503`). The order does not matter.
    pub failed_by_error: Vec<(String, u64)>,
    /// The slots, when they were watched.
    pub slots: Vec<SlotSummary>,
    /// Where the results are.
    pub results: Option<ResultsFile>,
    /// There is a journal, so that the job can go on and its failures can be retried.
    pub durable: bool,
    /// Share of what tasks wrote that the journal and JSON lack.
    pub cut: Cut,
    /// Most bytes of a stream that they keep.
    pub max_output: u64,
    /// Records came from stdin, so that they have to be piped in again to go on.
    pub stdin: bool,
    /// What the process is going to exit with.
    pub exit_code: i32,
}

/// What a ready task waits for.
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

    /// What would make the run faster.
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

/// A file of results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultsFile {
    /// Its path, as the user gave it.
    pub path: PathBuf,
    /// Its lines.
    pub lines: u64,
}

/// Waits of a smaller share are not worth a word; advice needs more.
const MENTION: f64 = 0.05;
const ADVISE: f64 = 0.25;
/// Error classes that are listed.
const CLASSES: usize = 6;

const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const BOLD: Style = Style::new().bold();

impl Summary {
    /// How many tasks had this outcome.
    pub fn count(&self, word: Word) -> u64 {
        self.counts[word as usize]
    }

    /// Tasks that ran and ended: all but the cancelled and skipped ones.
    pub fn ran(&self) -> u64 {
        self.count(Word::Ok) + self.failed()
    }

    /// Tasks that failed for good: `failed`, `timeout`, `panicked`, `killed` and `lost` together.
    pub fn failed(&self) -> u64 {
        [Word::Failed, Word::Timeout, Word::Panicked, Word::Killed, Word::Lost].into_iter().map(|word| self.count(word)).sum()
    }

    /// Tasks that are finished: all but the cancelled ones.
    pub fn finished(&self) -> u64 {
        self.ran() + self.count(Word::Skipped)
    }

    /// The text for people, each line with its newline.
    pub fn text(&self, color: bool) -> String {
        let mut out = self.heading(color);
        if self.finished() > 0 {
            out += &self.outcomes(color);
        }
        if self.run.max > Duration::ZERO {
            let run = &self.run;
            // Writing to a String cannot fail; so it is in the rest of this file.
            let _ = write!(
                out,
                "   run   p50 {}  p90 {}  p99 {}  max {}",
                text::precise(run.p50),
                text::precise(run.p90),
                text::precise(run.p99),
                text::precise(run.max)
            );
            if let Some(waited) = self.waited_text() {
                let _ = write!(out, "      {waited}");
            }
            out.push('\n');
        }
        if !self.failed_by_error.is_empty() {
            let again = if self.durable { format!("      retry them: {}", self.again("--retry-failed")) } else { String::new() };
            let _ = writeln!(out, "   failed by error:  {}{again}", self.errors_text());
        }
        out += &self.cut_text();
        if let Some(results) = &self.results {
            let _ =
                writeln!(out, "   results {} ({} {})", results.path.display(), text::count(results.lines), plural(results.lines, "line"));
        }
        out
    }

    /// Says what is not kept of long outputs. Where nothing keeps any and the output has it all,
    /// there is nothing to say.
    fn cut_text(&self) -> String {
        let Cut { tasks, bytes, thrown } = self.cut;
        if tasks == 0 || (!self.durable && bytes > 0 && thrown == 0) {
            return String::new();
        }
        let what = match bytes {
            0 => "the rest was not read".to_owned(),
            _ if thrown == bytes => format!("{} were thrown away", show_size(bytes)),
            _ if thrown == 0 => format!("{} more are in the output, and not in the journal", show_size(bytes)),
            _ => format!("{} more are not in the journal, and {} of them nowhere", show_size(bytes), show_size(thrown)),
        };
        format!(
            "   cut  {} {} wrote more than --max-output {}: {what}\n",
            text::count(tasks),
            plural(tasks, "task"),
            show_size(self.max_output)
        )
    }

    /// Returns what to type to go on.
    fn again(&self, flag: &str) -> String {
        let pipe = if self.stdin { "pipe the same records into " } else { "" };
        format!("{pipe}longshore run {flag} {}", self.name)
    }

    fn heading(&self, color: bool) -> String {
        if self.remaining > 0 {
            let again = if self.durable { format!("  continue: {}", self.again("--resume")) } else { String::new() };
            if self.at_least {
                let (done, left) = (text::count(self.finished()), text::count(self.remaining));
                return format!(" {}  {done} done; at least {left} more to go.{again}\n", paint(color, BOLD, "stopped"));
            }
            return format!(
                " {}  {} of {} done; {} {}.{again}\n",
                paint(color, BOLD, "stopped"),
                text::count(self.finished()),
                text::count(self.finished() + self.remaining),
                text::count(self.remaining),
                if self.remaining == 1 { "remains" } else { "remain" },
            );
        }
        let sittings = match self.sittings {
            0 | 1 => String::new(),
            number => format!(" ({} sittings)", spelled(number)),
        };
        let pace = self.pace.as_ref().map(|pace| format!(", {pace}")).unwrap_or_default();
        format!(
            " {}  {} {} in {}{sittings}   {}   {} wide{pace}\n",
            paint(color, BOLD, &self.name),
            text::count(self.finished()),
            plural(self.finished(), "task"),
            text::long(self.wall),
            text::rate(self.rate_per_s),
            text::count(u64::from(self.width)),
        )
    }

    /// Outcomes that did not occur are left out, but for `ok`.
    fn outcomes(&self, color: bool) -> String {
        let mut out = String::from("   ");
        for word in Word::ALL {
            let count = self.count(word);
            if count == 0 && word != Word::Ok {
                continue;
            }
            let shown = format!("{word} {}", text::count(count));
            let style = match word {
                Word::Ok => GREEN,
                Word::Cancelled | Word::Skipped => Style::new(),
                _ => RED,
            };
            if word != Word::Ok {
                out += "   ";
            }
            out += &paint(color, style, &shown);
            if word == Word::Ok && self.ok_retried > 0 {
                let _ = write!(out, " ({} after a retry)", text::count(self.ok_retried));
            }
        }
        out.push('\n');
        out
    }

    fn waited_text(&self) -> Option<String> {
        let mut waited: Vec<_> = self.waited.iter().filter(|(_, share)| *share >= MENTION).collect();
        waited.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let (most, share) = waited.first()?;
        let mut out = String::from("waited for ");
        for (index, (reason, share)) in waited.iter().enumerate() {
            let comma = if index > 0 { ", for " } else { "" };
            let _ = write!(out, "{comma}{} {:.0}%", reason.as_str(), share * 100.0);
        }
        out += " of the time";
        if *share >= ADVISE {
            let _ = write!(out, " → {}", most.advice());
        }
        Some(out)
    }

    fn sorted_errors(&self) -> Vec<&(String, u64)> {
        let mut errors: Vec<_> = self.failed_by_error.iter().collect();
        errors.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        errors
    }

    fn errors_text(&self) -> String {
        let errors = self.sorted_errors();
        let mut shown: Vec<String> = errors.iter().take(CLASSES).map(|(class, count)| format!("{} {class}", text::count(*count))).collect();
        if errors.len() > CLASSES {
            let rest: u64 = errors.iter().skip(CLASSES).map(|(_, count)| count).sum();
            shown.push(format!("{} of {} other kinds", text::count(rest), errors.len() - CLASSES));
        }
        shown.join("   ")
    }

    /// The same as one JSON object on one line, without a newline: `--summary json` and `--summary-file`. Times are in milliseconds.
    pub fn json(&self) -> String {
        let millis = |time: Duration| json!(round(time.as_secs_f64() * 1e3));
        let quantiles = |times: &Quantiles| {
            json!({
                "p50": millis(times.p50), "p90": millis(times.p90), "p95": millis(times.p95), "p99": millis(times.p99), "max": millis(times.max)
            })
        };
        let counts: Map<String, Value> = Word::ALL.into_iter().map(|word| (word.to_string(), json!(self.count(word)))).collect();
        let waited: Map<String, Value> =
            self.waited.iter().map(|(reason, share)| (reason.as_str().replace(' ', "_"), json!(round(*share)))).collect();
        let errors: Vec<Value> = self.sorted_errors().iter().map(|(class, count)| json!({ "error": class, "count": count })).collect();
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
            "retried": self.retried,
            "ok_retried": self.ok_retried,
            "sittings": self.sittings,
            "wall_ms": millis(self.wall),
            "rate_per_s": round(self.rate_per_s),
            "width": self.width,
            "pace": self.pace,
            "run_ms": quantiles(&self.run),
            "wait_ms": quantiles(&self.wait),
            "waited": waited,
            "failed_by_error": errors,
            "slots": slots,
            "results": self.results.as_ref().map(|results| json!({ "path": results.path.to_string_lossy(), "lines": results.lines })),
        })
        .to_string()
    }
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

fn spelled(number: u32) -> String {
    const WORDS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    WORDS.get(number as usize).map_or_else(|| text::count(u64::from(number)), |word| (*word).to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The run that the documentation shows.
    pub(crate) fn sample() -> Summary {
        let ms = Duration::from_millis;
        let mut counts = [0; Word::ALL.len()];
        counts[Word::Ok as usize] = 9_962;
        counts[Word::Failed as usize] = 38;
        Summary {
            name: "prices".to_owned(),
            job: "7f3a".to_owned(),
            counts,
            retried: 330,
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
        }
    }

    #[test]
    fn the_text_looks_as_documented() {
        assert_eq!(
            sample().text(false),
            " prices  10,000 tasks in 1m43s (two sittings)   97.1/s   50 wide, 100/s\n\
             \x20  ok 9,962 (312 after a retry)   failed 38\n\
             \x20  run   p50 409ms  p90 803ms  p99 1.91s  max 12.4s      waited for pace 71% of the time → raise -r, not -j\n\
             \x20  failed by error:  31 status 503   5 timeout   2 connect      retry them: longshore run --retry-failed prices\n\
             \x20  results prices.jsonl (10,000 lines)\n"
        );
    }

    #[test]
    fn a_stopped_run_says_what_remains_and_how_to_go_on() {
        let text = Summary { remaining: 3_738, ..sample() }.text(false);
        assert!(text.starts_with(" stopped  10,000 of 13,738 done; 3,738 remain.  continue: longshore run --resume prices\n"), "{text}");
    }

    #[test]
    fn a_run_that_reads_stdin_says_to_pipe_the_same_records_in_again() {
        let text = Summary { remaining: 1, stdin: true, ..sample() }.text(false);
        assert!(text.contains("continue: pipe the same records into longshore run --resume prices\n"), "{text}");
        assert!(text.contains("retry them: pipe the same records into longshore run --retry-failed prices\n"), "{text}");
    }

    #[test]
    fn what_is_cut_of_long_outputs_is_counted() {
        for (durable, tasks, bytes, thrown, want) in [
            (true, 0, 0, 0, ""),
            (true, 1, 3 << 20, 3 << 20, "   cut  1 task wrote more than --max-output 1.0MiB: 3.0MiB were thrown away\n"),
            (
                true,
                2,
                3 << 20,
                0,
                "   cut  2 tasks wrote more than --max-output 1.0MiB: 3.0MiB more are in the output, and not in the journal\n",
            ),
            (false, 2, 3 << 20, 0, ""),
            (
                true,
                2,
                3 << 20,
                1 << 20,
                "   cut  2 tasks wrote more than --max-output 1.0MiB: 3.0MiB more are not in the journal, and 1.0MiB of them nowhere\n",
            ),
            (false, 1, 0, 0, "   cut  1 task wrote more than --max-output 1.0MiB: the rest was not read\n"),
        ] {
            let summary = Summary { durable, cut: Cut { tasks, bytes, thrown }, ..sample() };
            assert_eq!(summary.cut_text(), want);
        }
    }

    #[test]
    fn an_empty_run_has_one_line() {
        let text = Summary { name: "x".to_owned(), width: 2, ..Summary::default() }.text(false);
        assert_eq!(text, " x  0 tasks in 0µs   0/s   2 wide\n");
    }

    #[test]
    fn many_kinds_of_errors_are_summed_up() {
        let failed_by_error = (0..9).map(|n| (format!("exit {n}"), 10 - n)).collect();
        let text = Summary { failed_by_error, ..sample() }.text(false);
        assert!(text.contains("10 exit 0   9 exit 1   8 exit 2   7 exit 3   6 exit 4   5 exit 5   9 of 3 other kinds"), "{text}");
    }

    #[test]
    fn small_waits_are_not_mentioned_and_middling_ones_get_no_advice() {
        for (waited, want) in [
            (vec![(Waited::Pace, 0.04)], None),
            (vec![(Waited::Key, 0.1), (Waited::Slots, 0.2)], Some("waited for slots 20%, for key 10% of the time")),
            (vec![(Waited::Slots, 0.9)], Some("waited for slots 90% of the time → raise -j")),
        ] {
            assert_eq!(Summary { waited, ..sample() }.waited_text().as_deref(), want);
        }
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

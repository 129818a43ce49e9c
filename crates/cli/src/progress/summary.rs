//! Summary of a run at its end, as text.

use std::{fmt::Write as _, time::Duration};

use clap::builder::styling::{AnsiColor, Style};
use longshore_core::Word;
use longshore_run::{reply::Cut, report::Report, units::show_size};

use super::{text, view::paint};

/// Share of waits from which on they are worth a word; advice needs more.
const MENTION: f64 = 0.05;
const ADVISE: f64 = 0.25;
/// Most error classes that are listed.
const CLASSES: usize = 6;

const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const BOLD: Style = Style::new().bold();

/// A report, to be shown.
pub struct Summary<'a>(pub &'a Report);

impl std::ops::Deref for Summary<'_> {
    type Target = Report;

    fn deref(&self) -> &Report {
        self.0
    }
}

impl Summary<'_> {
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
        if !self.held.is_empty() {
            let held: Vec<_> = self.held.iter().map(|(held, time)| format!("{} for {}", held.flag(), text::short(*time))).collect();
            let _ = writeln!(out, "   new starts held by {}", held.join(", by "));
        }
        if !self.failed_by_error.is_empty() {
            let again = if self.durable { format!("      retry them: {}", self.again("--retry-failed")) } else { String::new() };
            let _ = writeln!(out, "   failed by error:  {}{again}", self.errors_text());
            for sample in self.sorted_errors().iter().take(CLASSES).filter_map(|(class, _)| self.sample_of(class)) {
                let _ = writeln!(out, "     e.g. {sample}");
            }
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
            let count = self.counts.of(word);
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

    fn errors_text(&self) -> String {
        let errors = self.sorted_errors();
        let mut shown: Vec<String> = errors.iter().take(CLASSES).map(|(class, count)| format!("{} {class}", text::count(*count))).collect();
        if errors.len() > CLASSES {
            let rest: u64 = errors.iter().skip(CLASSES).map(|(_, count)| count).sum();
            shown.push(format!("{} of {} other kinds", text::count(rest), errors.len() - CLASSES));
        }
        shown.join("   ")
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
    use longshore_core::watch::Counts;
    use longshore_run::report::{Quantiles, ResultsFile, SlotSummary, Waited};

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
    fn the_text_looks_as_documented() {
        assert_eq!(
            Summary(&sample()).text(false),
            " prices  10,000 tasks in 1m43s (two sittings)   97.1/s   50 wide, 100/s\n\
             \x20  ok 9,962 (312 after a retry)   failed 38\n\
             \x20  run   p50 409ms  p90 803ms  p99 1.91s  max 12.4s      waited for pace 71% of the time → raise -r, not -j\n\
             \x20  failed by error:  31 status 503   5 timeout   2 connect      retry them: longshore run --retry-failed prices\n\
             \x20  results prices.jsonl (10,000 lines)\n"
        );
    }

    #[test]
    fn a_stopped_run_says_what_remains_and_how_to_go_on() {
        let text = Summary(&Report { remaining: 3_738, ..sample() }).text(false);
        assert!(text.starts_with(" stopped  10,000 of 13,738 done; 3,738 remain.  continue: longshore run --resume prices\n"), "{text}");
    }

    #[test]
    fn a_run_that_reads_stdin_says_to_pipe_the_same_records_in_again() {
        let text = Summary(&Report { remaining: 1, stdin: true, ..sample() }).text(false);
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
            let report = Report { durable, cut: Cut { tasks, bytes, thrown }, ..sample() };
            assert_eq!(Summary(&report).cut_text(), want);
        }
    }

    #[test]
    fn an_empty_run_has_one_line() {
        let text = Summary(&Report { name: "x".to_owned(), width: 2, ..Report::default() }).text(false);
        assert_eq!(text, " x  0 tasks in 0µs   0/s   2 wide\n");
    }

    #[test]
    fn many_kinds_of_errors_are_summed_up() {
        let failed_by_error = (0..9).map(|n| (format!("exit {n}"), 10 - n)).collect();
        let text = Summary(&Report { failed_by_error, ..sample() }).text(false);
        assert!(text.contains("10 exit 0   9 exit 1   8 exit 2   7 exit 3   6 exit 4   5 exit 5   9 of 3 other kinds"), "{text}");
    }

    #[test]
    fn small_waits_are_not_mentioned_and_middling_ones_get_no_advice() {
        for (waited, want) in [
            (vec![(Waited::Pace, 0.04)], None),
            (vec![(Waited::Key, 0.1), (Waited::Slots, 0.2)], Some("waited for slots 20%, for key 10% of the time")),
            (vec![(Waited::Slots, 0.9)], Some("waited for slots 90% of the time → raise -j")),
        ] {
            assert_eq!(Summary(&Report { waited, ..sample() }).waited_text().as_deref(), want);
        }
    }
}

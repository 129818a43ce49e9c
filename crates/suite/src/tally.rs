//! What the tests said, added up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// Sums over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    /// Tests with `#[ignore]`, by its reason.
    ignored: BTreeMap<String, Vec<String>>,
    /// Each thing that was missing, and the tests that said so.
    left_out: BTreeMap<String, LeftOut>,
    /// Programs that failed, and the tests of theirs that did.
    broken: Vec<(String, Vec<String>)>,
    /// Lines that a test program has for the end.
    said: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct LeftOut {
    count: u64,
    tests: BTreeSet<String>,
}

impl Tally {
    /// Adds what one test program printed.
    pub(crate) fn add_output(&mut self, program: &str, output: &str, succeeded: bool) {
        let (mut failed, mut long) = (Vec::new(), BTreeSet::new());
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                self.passed += count(counts, "passed");
                self.failed += count(counts, "failed");
            } else if let Some((name, end)) = line.strip_prefix("test ").and_then(|test| test.rsplit_once(" ... ")) {
                long.remove(name);
                if end == "FAILED" {
                    failed.push(name.to_owned());
                } else if let Some(reason) = end.strip_prefix("ignored") {
                    let reason = reason.trim_start_matches(", ");
                    self.ignored.entry(reason.to_owned()).or_default().push(name.to_owned());
                }
            } else if let Some((name, _)) = line.strip_prefix("test ").and_then(|test| test.split_once(" has been running for over ")) {
                long.insert(name);
            } else if line.starts_with("interop: ") {
                self.said.push(line.to_owned());
            }
        }
        if !succeeded {
            failed.extend(long.into_iter().map(|name| format!("{name} (it did not end)")));
            self.broken.push((program.to_owned(), failed));
        }
    }

    /// Adds what a test wrote to the file that `LONGSHORE_LEFT_OUT` names: lines of
    /// `COUNT<tab>WHAT<tab>TEST`.
    pub(crate) fn add_left_out(&mut self, program: &str, lines: &str) {
        for line in lines.lines() {
            let mut parts = line.splitn(3, '\t');
            let count = parts.next().and_then(|count| count.parse().ok()).unwrap_or(1);
            let (what, test) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let entry = self.left_out.entry(what.to_owned()).or_default();
            entry.count += count;
            entry.tests.insert(if test.is_empty() { program.to_owned() } else { format!("{program}::{test}") });
        }
    }

    /// Returns whether no program failed.
    pub(crate) fn is_ok(&self) -> bool {
        self.broken.is_empty()
    }

    /// Returns the closing lines.
    pub(crate) fn closing(&self, took: Duration) -> String {
        Closing(self, took).to_string()
    }
}

struct Closing<'a>(&'a Tally, Duration);

/// Names of tests that a line has at most; the count says how many there are.
const NAMED: usize = 4;

impl fmt::Display for Closing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tally, took) = self;
        for (program, tests) in &tally.broken {
            writeln!(f, "FAILED {program}: {}", if tests.is_empty() { "it ended badly".to_owned() } else { tests.join(", ") })?;
        }
        for line in &tally.said {
            writeln!(f, "{line}")?;
        }
        for (reason, tests) in &tally.ignored {
            let reason = if reason.is_empty() { "" } else { &format!(" ({reason})") };
            writeln!(f, "ignored{reason}: {}: {}", tests.len(), some(tests.iter()))?;
        }
        for (what, left) in &tally.left_out {
            writeln!(f, "left out: {what}: {} tests: {}", left.count, some(left.tests.iter()))?;
        }
        let left: u64 = tally.left_out.values().map(|left| left.count).sum();
        let ignored: usize = tally.ignored.values().map(Vec::len).sum();
        let word = if tally.is_ok() { "ok" } else { "FAILED" };
        // A test that found nothing to test returned early, and its program counts it as passed.
        let Tally { passed, failed, .. } = tally;
        write!(
            f,
            "test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; {left} left out; finished in {:.2}s",
            took.as_secs_f64()
        )
    }
}

fn some<'a>(tests: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = tests.len().saturating_sub(NAMED);
    let mut text = tests.take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

/// Returns the number before a word in `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> u64 {
    let part = counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
    part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\ntest a::one ... ok\ntest two - should panic ... FAILED\ntest three ... ignored, measures\ntest four ... ignored\n\n\
        interop: 5 passed in 1.00s\ntest result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";

    #[test]
    fn what_programs_said_is_added_up_and_what_was_left_out_is_named_last() {
        let mut tally = Tally::default();
        tally.add_output("core", OUTPUT, false);
        tally.add_output("run", "test x ... ok\ntest result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n", true);
        let long = "test a has been running for over 60 seconds\n";
        tally.add_output("killed", "running 1 test\n", false);
        tally.add_output("hung", &format!("{long}test b has been running for over 60 seconds\ntest b ... ok\n"), false);
        tally.add_output("slow", long, true);
        tally.add_left_out("brokers", &"1\tredis-server is missing\tredis::a\n1\tredis-server is missing\tredis::b\n".repeat(3));
        tally.add_left_out("interop", "12\tlong: LONGSHORE_INTEROP_LONG=1\t\n");
        let lines = tally.closing(Duration::from_millis(1500));
        let expected = [
            "FAILED core: two - should panic",
            "FAILED killed: it ended badly",
            "FAILED hung: a (it did not end)",
            "interop: 5 passed in 1.00s",
            "ignored: 1: four",
            "ignored (measures): 1: three",
            "left out: long: LONGSHORE_INTEROP_LONG=1: 12 tests: interop",
            "left out: redis-server is missing: 6 tests: brokers::redis::a, brokers::redis::b",
            "test result: FAILED. 8 passed; 1 failed; 2 ignored; 18 left out; finished in 1.50s",
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let mut tally = Tally::default();
        tally.add_left_out("p", &(0..9).map(|n| format!("1\tx\tt{n}\n")).collect::<String>());
        assert!(tally.closing(Duration::ZERO).starts_with("left out: x: 9 tests: p::t0, p::t1, p::t2, p::t3 and 5 more\n"));
        assert!(tally.is_ok());
    }
}

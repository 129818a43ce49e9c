//! Jobs that are resumed: from stdin, from journals of earlier versions, and from journals that
//! have suffered.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use common::{Place, finish, run, signal, text, until, wait};
use rustix::process::Signal;

/// Runs with these bytes on stdin; the exit code and stderr.
fn piped(command: &mut Command, input: &str) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = finish(child, Duration::from_secs(60));
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn records(count: u64) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

const STDIN: [&str; 8] = ["--name", "rs", "-j", "2", "--shell", "--progress", "none", "--"];

#[test]
fn a_job_from_stdin_goes_on_only_with_the_records_that_it_had() {
    let place = Place::new();
    let mut child = place.run().args(STDIN).arg("sleep 0.1; : {}").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(records(30).as_bytes()).unwrap();
    until("the end of some tasks", Duration::from_secs(20), || place.journal_path().is_some_and(|_| place.journal().results.len() >= 4));
    signal(&child, Signal::KILL);
    assert!(wait(&mut child, Duration::from_secs(10)).is_some());
    drop(stdin);
    let done = place.journal().results.len();

    let resume = || {
        let mut command = place.run();
        command.args(["--resume", "rs", "--progress", "none"]);
        command
    };
    for (input, brought) in [(String::new(), "0 records"), (records(3), "3 records"), (String::new(), "0 records")] {
        let (code, _, stderr) = piped(&mut resume(), &input);
        assert_eq!(code, 7, "{stderr}");
        assert!(stderr.contains(&format!("job rs: stdin brought {brought}, where an earlier sitting had read")), "{stderr}");
        assert!(stderr.contains("pipe the same records in again") && stderr.contains("stopped"), "{stderr}");
        assert_eq!(place.journal().results.len(), done, "nothing more is done");
    }
    // As many, but not the same.
    let (code, _, stderr) = piped(&mut resume(), &(101..=130).map(|number| format!("{number}\n")).collect::<String>());
    assert_eq!(code, 7, "{stderr}");
    // Which of them it is depends on whether something ran when it was killed.
    let unfinished = stderr.contains("left unfinished are not on stdin") || stderr.contains("left unfinished is not on stdin");
    assert!(unfinished || stderr.contains("so that it is another input"), "{stderr}");
    let (code, _, stderr) = piped(&mut resume(), &records(30));
    assert_eq!(code, 0, "{stderr}");
    for input in [String::new(), records(30)] {
        let (code, _, stderr) = piped(&mut resume(), &input);
        assert_eq!(code, 0, "a finished job stays finished: {stderr}");
        assert!(stderr.contains("nothing left to do"), "{stderr}");
    }
}

#[test]
fn what_was_read_and_never_started_is_missed_as_well() {
    let place = Place::new();
    let input = records(10);
    // One of them stops the run, at its end: a second signal would end what still runs.
    let (code, _, stderr) = piped(place.run().args(STDIN).args(["sleep 0.2; test {} != 3 || kill -INT $PPID"]), &input);
    assert_eq!(code, 130, "{stderr}");
    assert!(stderr.contains("continue: pipe the same records into longshore run --resume rs\n"), "{stderr}");
    let done = place.journal().results.len();
    assert!((3..10).contains(&done), "{done}");
    // Exactly the records of the tasks that had begun: what had been read behind them is missing.
    let (code, _, stderr) = piped(place.run().args(["--resume", "rs"]), &records(done as u64));
    assert_eq!(code, 7, "{stderr}");
    assert!(stderr.contains("where an earlier sitting had read"), "{stderr}");
}

#[test]
fn failed_tasks_of_a_job_from_stdin_are_not_forgotten_by_an_empty_one() {
    let place = Place::new();
    let (code, _, stderr) = piped(place.run().args(STDIN).arg("test {} != 2 || test -e ok"), &records(3));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("retry them: pipe the same records into longshore run --retry-failed rs\n"), "{stderr}");
    let (code, _, stderr) = piped(place.run().args(["--retry-failed", "rs"]), "");
    assert_eq!(code, 7, "{stderr}");
    place.write("ok", "");
    let (code, _, stderr) = piped(place.run().args(["--retry-failed", "rs"]), &records(3));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(place.journal().results[&2].last().unwrap()["outcome"], "ok");
}

#[test]
fn a_file_that_lost_a_record_in_flight_is_said() {
    let place = Place::new();
    place.write("in", records(3));
    let command = || {
        let mut command = place.run();
        command.args([
            "in",
            "--name",
            "file",
            "-j",
            "1",
            "--progress",
            "none",
            "--",
            "sh",
            "-c",
            "test $0 != 2 || { kill -KILL $PPID; sleep 1; }",
        ]);
        command
    };
    assert_eq!(finish(command().spawn().unwrap(), Duration::from_secs(20)).status.code(), None);
    place.write("in", "1\n3\n");
    let (code, _, stderr) = run(&mut command());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("of the tasks that were in flight, 1 are not in the input any more"), "{stderr}");
}

/// Journals that version 0.1's first format wrote: one of a killed job that read stdin, one of a
/// killed job that read a file, one of a finished job.
const EARLIER: [(&str, &str); 3] = [
    ("4bdc", include_str!("journals/v1-stdin-4bdc.jsonl")),
    ("8987", include_str!("journals/v1-killed-8987.jsonl")),
    ("bb80", include_str!("journals/v1-finished-bb80.jsonl")),
];

#[test]
fn journals_of_the_first_format_open_and_go_on() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    for (id, journal) in EARLIER {
        place.write(&format!("state/{id}.jsonl"), journal.replace("@DIR@", &place.dir.path().display().to_string()));
    }
    place.write("in20", records(20));
    let sorted = |name: &str| {
        let mut lines: Vec<String> = place.read(name).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (code, _, stderr) = piped(place.run().args(["--resume", "rs", "--progress", "none"]), "");
    assert_eq!(code, 7, "{stderr}");
    let (code, _, stderr) = piped(place.run().args(["--resume", "rs", "-j", "20", "--summary", "text"]), &records(50));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("50 tasks"), "{stderr}");
    for (name, letter) in [("kil", "k"), ("fin", "r")] {
        let (code, _, stderr) = run(place.run().args(["--resume", name]));
        assert_eq!(code, 0, "{stderr}");
        let mut want: Vec<String> = (1..=20).map(|number| format!("{letter}{number}")).collect();
        want.sort();
        assert_eq!(sorted(&format!("{name}.out")), want, "{stderr}");
    }
}

#[test]
fn a_header_with_a_flipped_bit_is_refused_and_nothing_starts_over() {
    let place = Place::new();
    place.write("in", records(3));
    let command = || {
        let mut command = place.run();
        command.args([
            "in",
            "--name",
            "bits",
            "-j",
            "1",
            "--summary",
            "none",
            "--progress",
            "none",
            "--",
            "sh",
            "-c",
            "echo $1 >> ran",
            "sh",
            "{}",
        ]);
        command
    };
    assert_eq!(run(&mut command()).0, 0);
    let path = place.journal_path().unwrap();
    let good = fs::read(&path).unwrap();
    let header = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let ran = place.read("ran");
    let mut refused = 0;
    // Each byte of the header, another bit each; all of them take longer than a test may.
    for place_of in (0..header).step_by(7).chain([header - 1, header - 2, header - 4]) {
        let mut bad = good.clone();
        bad[place_of] ^= 1 << (place_of % 8);
        fs::write(&path, &bad).unwrap();
        let (code, _, stderr) = run(&mut command());
        assert_eq!(code, 7, "byte {place_of}: {stderr}");
        assert!(stderr.contains(".jsonl:1: ") && stderr.contains("--fresh"), "byte {place_of}: {stderr}");
        refused += 1;
    }
    assert!(refused > 40);
    assert_eq!(place.read("ran"), ran, "nothing ran again");
    let jobs = |words: &[&str]| {
        let output = Command::new(common::BIN).arg("jobs").args(words).arg("--state-dir").arg(place.path("state")).output().unwrap();
        text(&output.stdout)
    };
    assert!(jobs(&["list"]).contains("broken"), "{}", jobs(&["list"]));
    // A job of another name has nothing to do with it, and --fresh begins anew.
    let (code, _, stderr) = run(place.run().args(["in", "--name", "other", "--summary", "none", "--", "true"]));
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = run(place.run().args(["in", "--name", "bits", "--fresh", "--summary", "none", "--", "true"]));
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn the_report_of_a_job_that_was_killed_and_resumed_counts_both_sittings() {
    let place = Place::new();
    place.write("n.txt", records(40));
    let command = || {
        let mut command = place.run();
        command.args(["n.txt", "--name", "twice", "-j", "2", "--progress", "none", "--report", "report.html", "--emit", "none"]);
        // One of the first sitting fails, and one of the second.
        command.args(["--", "sh", "-c", "sleep 0.05; case $1 in 1|40) echo \"bad $1\" >&2; exit 3;; esac", "sh", "{}"]);
        command
    };
    let mut child = command().spawn().unwrap();
    until("the end of some tasks", Duration::from_secs(20), || place.journal_path().is_some_and(|_| place.journal().results.len() >= 6));
    signal(&child, Signal::KILL);
    assert!(wait(&mut child, Duration::from_secs(10)).is_some());
    let first = place.journal().results.len();
    assert!((6..40).contains(&first), "killed in the middle: {first}");
    let output = command().output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let page = place.read("report.html");
    assert!(page.contains("40: 38 ok, 2 failed") && page.contains("in 2 sittings"), "{page}");
    assert!(page.contains("exit 3 (2)") && page.contains("bad 1") && page.contains("bad 40"), "{page}");
    // What the journal alone tells of it is the same.
    let mut export = std::process::Command::new(common::BIN);
    export.args(["jobs", "export", "twice", "--as", "html", "--state-dir"]).arg(place.path("state")).env("HOME", place.dir.path());
    let exported = text(&export.output().unwrap().stdout);
    assert!(
        exported.contains("40: 38 ok, 2 failed") && exported.contains("in 2 sittings") && exported.contains("exit 3 (2)"),
        "{exported}"
    );
}

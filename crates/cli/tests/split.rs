//! `--split` over files that are larger than what it may take of memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    io::Write,
    process::{Child, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use common::{Place, results, signal, until};
use rustix::process::Signal;

/// Runs over a file of so many MiB, as CSV with a newline in quotes in each row. Returns the most
/// memory that the program took, in KiB.
fn peak(mib: u64) -> u64 {
    let place = Place::new();
    let path = place.path("big.csv");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    file.write_all(b"id,text\n").unwrap();
    let filler = "x".repeat(1000);
    let rows = mib * 1024;
    for row in 0..rows {
        writeln!(file, "{row},\"{filler}\n\"").unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();
    // Each command reads its range, then says how much its parent has taken so far.
    let script = "rows=$(grep -c '^[0-9]'); echo \"$rows $(awk '/VmHWM/ { print $2 }' /proc/$PPID/status)\"";
    let output = place.run().arg(&path).args(["--split", "1MiB", "-j", "2", "-o", "out.jsonl", "--", "sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut counted, mut most) = (0, 0);
    for (_, line) in results(&place.path("out.jsonl")) {
        let (count, peak) =
            line["value"]["stdout"].as_str().unwrap().trim().split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        counted += count.parse::<u64>().unwrap();
        most = most.max(peak.parse().unwrap());
    }
    assert_eq!(counted, rows, "rows that the commands saw");
    most
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let (small, large) = (peak(8), peak(96));
    println!("peak: {small} KiB over 8 MiB, {large} KiB over 96 MiB");
    assert!(large < small + (8 << 10), "{small} KiB over 8 MiB, {large} KiB over 96 MiB");
}

#[test]
fn a_killed_run_over_ranges_goes_on_with_those_that_are_left() {
    let place = Place::new();
    let rows: String = (0..4000).map(|row| format!("{row},\"a\n{row}\"\n")).collect();
    let path = place.write("rows.csv", format!("id,text\n{rows}"));
    let command = || {
        let mut command = place.run();
        command.arg(&path).args(["--split", "1KiB", "-j", "2", "--name", "rows", "-o", "out.jsonl", "--progress", "none"]);
        command.args(["--", "sh", "-c", "sleep 0.02; grep -c '^[0-9]*,'"]);
        command
    };
    let mut child = command().stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let lines = || place.read("out.jsonl").lines().count();
    until("some results", Duration::from_secs(20), || lines() >= 5);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    let finished: Vec<u64> = place.journal().results.keys().copied().collect();
    let output = command().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let journal = place.journal();
    let shown = results(&place.path("out.jsonl"));
    let counted: u64 = shown.values().map(|line| line["value"]["stdout"].as_str().unwrap().trim().parse::<u64>().unwrap()).sum();
    assert_eq!(counted, 4000, "each row in one range");
    assert!(!finished.is_empty() && finished.len() < shown.len(), "killed in the middle: {} of {}", finished.len(), shown.len());
    assert!(finished.iter().all(|seq| journal.starts[seq].len() == 1) && journal.started_again.is_empty(), "a finished range ran again");
    let header = "id,text\n".len() as u64;
    let end = shown.values().fold(header, |at, line| {
        assert_eq!(line["task"]["start"], at, "ranges lie side by side");
        line["task"]["end"].as_u64().unwrap()
    });
    assert_eq!(end, fs::metadata(&path).unwrap().len());
}

/// A run over blocks of stdin, and whoever feeds it.
fn over_blocks(place: &Place, input: &str) -> (Child, JoinHandle<()>) {
    let mut command = place.run();
    command.args(["-", "--split", "1KiB", "-j", "2", "--name", "blocks", "-o", "out.jsonl", "--progress", "none"]);
    command.args(["--", "sh", "-c", "sleep 0.02; grep -c '^row'"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.as_bytes().to_vec());
    // Whoever is killed reads no more.
    (child, std::thread::spawn(move || drop(stdin.write_all(&input))))
}

/// Runs over blocks of this to the end. Returns the exit code and what was said.
fn blocks(place: &Place, input: &str) -> (Option<i32>, String) {
    let (child, feeder) = over_blocks(place, input);
    let output = common::finish(child, Duration::from_secs(60));
    feeder.join().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs over blocks of this until some of them are done, and is killed.
fn killed_over_blocks(place: &Place, input: &str) {
    let (mut child, feeder) = over_blocks(place, input);
    until("some results", Duration::from_secs(20), || place.read("out.jsonl").lines().count() >= 5);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    feeder.join().unwrap();
}

fn rows(word: &str) -> String {
    (0..4000).map(|row| format!("row {word}{row}\n")).collect()
}

#[test]
fn a_killed_run_over_blocks_of_stdin_goes_on_with_those_that_are_left() {
    let (place, input) = (Place::new(), rows(""));
    killed_over_blocks(&place, &input);
    let before = place.journal();
    let finished: Vec<u64> = before.results.keys().copied().collect();
    // Nothing, and less than it had: it says so, and what is done stays as it is.
    let first = usize::try_from(before.results[&1][0]["task"]["end"].as_u64().unwrap()).unwrap();
    for less in ["", &input[..first]] {
        let (code, said) = blocks(&place, less);
        assert!(code == Some(7) && said.contains("pipe the same records in again"), "{code:?} {said}");
        assert_eq!(place.journal().results.len(), finished.len(), "{said}");
    }
    let (code, said) = blocks(&place, &input);
    assert_eq!(code, Some(0), "{said}");

    let (journal, shown) = (place.journal(), results(&place.path("out.jsonl")));
    let counted: u64 = shown.values().map(|line| line["value"]["stdout"].as_str().unwrap().trim().parse::<u64>().unwrap()).sum();
    assert_eq!(counted, 4000, "each row in one block");
    assert!(!finished.is_empty() && finished.len() < shown.len(), "killed in the middle: {} of {}", finished.len(), shown.len());
    assert!(finished.iter().all(|seq| journal.starts[seq].len() == 1) && journal.started_again.is_empty(), "a finished block ran again");
}

#[test]
fn blocks_of_another_stream_do_not_stand_for_those_that_a_killed_run_left() {
    let place = Place::new();
    killed_over_blocks(&place, &rows(""));
    let (code, said) = blocks(&place, &rows("of another stream "));
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("not on stdin"), "{said}");
}

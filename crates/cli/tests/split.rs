//! `--split` over files that are larger than what it may take of memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{fs, io::Write, time::Duration};

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

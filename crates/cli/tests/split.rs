//! `--split` over files that are larger than what it may take of memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;

use common::{Place, results};

/// Runs over a file of so many MiB, as CSV with a newline in quotes in each row. Returns the most memory that the program took, in KiB.
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

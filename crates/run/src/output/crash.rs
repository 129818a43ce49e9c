//! Runs that are killed at random instants: nothing that counted is lost, nothing is done twice,
//! and the output ends up whole.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::channel,
    time::Duration,
};

use longshore_core::Word;

use super::*;
use crate::journal::{
    Begin, Durability, End, Journal, Occurrences, ResultLine, StateDir, TaskState, format,
    tests::{result, spec, start},
};

const TASKS: u64 = 1_500;
const VARIABLE: &str = "LONGSHORE_TEST_CRASH";

fn output_spec(dir: &Path, kind: &str) -> OutputSpec {
    let file = Some(dir.join("out"));
    match kind {
        "raw" => OutputSpec { file, emit: Emit::Raw, ..OutputSpec::default() },
        "ordered" => OutputSpec { file, ordered_from: Some(0), ..OutputSpec::default() },
        _ => OutputSpec { file, ..OutputSpec::default() },
    }
}

/// Not a test: the run that the tests below kill, in a process of its own.
#[test]
#[ignore = "a part of other tests"]
fn a_run_to_be_killed() {
    let Ok(given) = std::env::var(VARIABLE) else { return };
    let (kind, dir) = given.split_once(' ').unwrap();
    let dir = Path::new(dir);
    let state = StateDir::open(Some(&dir.join("state"))).unwrap();
    let mut job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let output = Output::open(&output_spec(dir, kind), Some(&mut job), false, Hooks::default()).unwrap();
    let durability = if kind == "each" { Durability::Each } else { Durability::Batch(Duration::from_millis(5)) };
    let journal = Journal::start(&job.header.job, Some(job.journal), durability, Some(output.feed()), |_| {}).unwrap();
    let mut counted = OpenOptions::new().append(true).create(true).open(dir.join("counted")).unwrap();
    let mut seen = Occurrences::default();
    let mut due = Vec::new();
    for seq in 0..TASKS {
        // Every key stands there three times.
        let key = u128::from(seq % (TASKS / 3)) + 1;
        let nth = seen.next(key);
        match job.index.state_of(key, nth) {
            TaskState::Finished { at, .. } => output.feed().put(Item::Skipped(vec![(seq, Some(at))])),
            _ => due.push((seq, key, nth)),
        }
    }
    for tasks in due.chunks(7) {
        let (tell, told) = channel();
        let (starts, results) = (tell.clone(), tell);
        journal.starts(
            tasks.iter().map(|&(seq, key, nth)| start(seq, key, nth, 1)).collect(),
            Box::new(move |done| starts.send(done).unwrap()),
        );
        told.recv().unwrap().unwrap();
        // In another order than they started.
        let lines = tasks.iter().rev().map(|&(seq, key, nth)| ResultLine {
            raw: (kind == "raw").then(|| format!("{{\"seq\":{seq}}}\n").into_bytes().into()),
            ..result(seq, key, nth, Word::Ok)
        });
        journal.results(lines.collect(), Box::new(move |done| results.send(done).unwrap()));
        told.recv().unwrap().unwrap();
        let text: String = tasks.iter().map(|(seq, ..)| format!("{seq}\n")).collect();
        counted.write_all(text.as_bytes()).unwrap();
    }
    journal.flush().unwrap();
    output.finish(None).unwrap();
    journal.close(Some(End { end: format::now(), complete: true, exit: 0, counts: Default::default(), unfinished: 0 })).unwrap();
}

fn kill_and_resume(kind: &str) {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let spawn = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "output::crash::a_run_to_be_killed"])
            .env(VARIABLE, format!("{kind} {}", dir.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap()
    };
    for _ in 0..10 {
        let mut child = spawn();
        std::thread::sleep(Duration::from_micros(random.u64(2_000..25_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(spawn().wait().unwrap().success(), "seed {seed}");

    let numbers = |name: &str, from: &str| -> Vec<u64> {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        text.lines()
            .map(|line| line[line.find(from).unwrap() + from.len()..].trim_end_matches('}').split(',').next().unwrap().parse().unwrap())
            .collect()
    };
    let sorted = |mut list: Vec<u64>| {
        list.sort_unstable();
        list
    };
    let shown = numbers("out", if kind == "raw" { "{\"seq\":" } else { ",\"seq\":" });
    if kind == "ordered" {
        assert!(shown.is_sorted(), "seed {seed}");
    }
    assert_eq!(sorted(shown), (0..TASKS).collect::<Vec<_>>(), "seed {seed}");
    // A result that counted was never run again.
    let counted = sorted(numbers("counted", ""));
    assert!(counted.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}");
}

#[test]
fn a_killed_run_loses_nothing_and_repeats_nothing_that_counted() {
    kill_and_resume("plain");
}

#[test]
fn a_killed_run_that_syncs_each_result_loses_and_repeats_nothing() {
    kill_and_resume("each");
}

#[test]
fn a_killed_run_with_raw_output_shows_each_task_once() {
    kill_and_resume("raw");
}

#[test]
fn a_killed_ordered_run_ends_up_in_order() {
    kill_and_resume("ordered");
}

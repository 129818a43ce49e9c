//! A pace of 1 000 starts a second for ten seconds: how many start, and how evenly.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore::{Job, Rate};

use crate::harness::{Args, holds, on, runtime};

const RATE: f64 = 1000.0;
const SECONDS: f64 = 10.0;
const WINDOW: Duration = Duration::from_millis(100);

/// Total time against the ideal, and the most starts in any window.
async fn round() -> (f64, usize) {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let note = starts.clone();
    let tasks = (RATE * SECONDS) as usize;
    let job = Job::new(move |_| {
        note.lock().expect("no panic").push(Instant::now());
        async { Ok::<_, String>(()) }
    });
    let report = job.params(0..tasks).workers(50).rate(Rate::per_second(RATE)).start().join().await;
    assert_eq!(report.ok() as usize, tasks);
    let mut starts = std::mem::take(&mut *starts.lock().expect("no panic"));
    starts.sort_unstable();
    let took = (starts[tasks - 1] - starts[0]).as_secs_f64();
    let most = (0..tasks).map(|first| starts.partition_point(|at| *at < starts[first] + WINDOW) - first).max().unwrap_or(0);
    (took / ((tasks - 1) as f64 / RATE) - 1.0, most)
}

pub(crate) fn run(args: &Args) {
    let runtime = runtime();
    // Ten seconds each, and they hardly differ.
    let rounds: Vec<_> = (0..args.rounds.min(3)).map(|_| on(&runtime, round())).collect();
    let off = rounds.iter().map(|(off, _)| off.abs()).fold(0.0, f64::max) * 100.0;
    let most = rounds.iter().map(|(_, most)| *most).max().unwrap_or(0);
    let limit = 1 + (RATE * WINDOW.as_secs_f64() * 1.1) as usize;
    println!("\n1000 starts a second for 10 s, worst of {} rounds\n\n| | | limit | holds |\n|---|---|---|---|", rounds.len());
    println!("| total off by | {off:.3} % | 1 % | {} |", holds(off < 1.0));
    println!("| most starts in any 100 ms | {most} | {limit} | {} |", holds(most <= limit));
}

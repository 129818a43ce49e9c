//! A million items through three stages that do nothing.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use longshore::{Pipeline, Stage};

use crate::{
    by_hand,
    harness::{Args, Way, on, runtime, table, way},
};

async fn step(n: u64) -> Result<u64, String> {
    black_box(Ok(n + 1))
}

fn plain_step(n: u64) -> Result<u64, String> {
    black_box(Ok(n + 1))
}

async fn ours(n: u64, queue: usize, stage: impl Fn() -> Stage<u64, u64>) -> u64 {
    let stage = || stage().queue(queue);
    let sum = Arc::new(AtomicU64::new(0));
    let total = sum.clone();
    let line = Pipeline::from_iter(0..n).stage(stage()).stage(stage()).stage(stage()).output_queue(queue);
    // One writer, so a load and a store do.
    let running = line.start_for_each(move |item| total.store(total.load(Ordering::Relaxed) + item, Ordering::Relaxed));
    assert!(running.join().await.is_clean());
    sum.load(Ordering::Relaxed)
}

/// Every way must be slower than ours.
fn faster(ways: Vec<Way<'_>>) -> Vec<Way<'_>> {
    ways.into_iter().map(|way| way.limit(1.0)).collect()
}

/// Both, or the one that is named.
fn queues(args: &Args) -> impl Iterator<Item = usize> {
    let named: Vec<_> = [("64", 64), ("3", 3)].into_iter().filter(|(name, _)| args.wants(name)).map(|(_, queue)| queue).collect();
    if named.is_empty() { vec![64, 3] } else { named }.into_iter()
}

/// Tasks on an async runtime of two threads.
pub(crate) fn tasks(args: &Args) {
    let runtime = runtime();
    let n = args.tasks;
    for queue in queues(args) {
        let check = |sum: u64| assert_eq!(sum, n * (n - 1) / 2 + 3 * n);
        let mut ways = faster(vec![
            way("crossfire spsc, tasks", || check(on(&runtime, by_hand::crossfire_spsc(n, queue)))),
            way("kanal, tasks", || check(on(&runtime, by_hand::kanal_async(n, queue)))),
            way("tokio mpsc, tasks", || check(on(&runtime, by_hand::tokio_mpsc(n, queue)))),
            way("flume, tasks", || check(on(&runtime, by_hand::flume_async(n, queue)))),
            way("crossbeam, threads", || check(by_hand::crossbeam_threads(n, queue))),
        ]);
        ways.push(way("longshore", || check(on(&runtime, ours(n, queue, || Stage::new(step))))));
        table(&format!("{n} no-op items through three async stages, queues of {queue}"), ways, args, n);
    }
}

/// A thread for each stage.
pub(crate) fn threads(args: &Args) {
    let runtime = runtime();
    let n = args.tasks;
    for queue in queues(args) {
        let check = |sum: u64| assert_eq!(sum, n * (n - 1) / 2 + 3 * n);
        let mut ways = faster(vec![
            way("crossbeam, threads", || check(by_hand::crossbeam_threads(n, queue))),
            way("crossfire spsc, threads", || check(by_hand::crossfire_threads(n, queue))),
            way("kanal, threads", || check(by_hand::kanal_threads(n, queue))),
            way("flume, threads", || check(by_hand::flume_threads(n, queue))),
            way("std sync_channel, threads", || check(by_hand::std_threads(n, queue))),
        ]);
        ways.push(way("longshore", || check(on(&runtime, ours(n, queue, || Stage::blocking(plain_step))))));
        table(&format!("{n} no-op items through three blocking stages, queues of {queue}"), ways, args, n);
    }
}

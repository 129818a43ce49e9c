//! A million items through three stages that do nothing.

use std::hint::black_box;

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
    let (mut outputs, running) = Pipeline::from_iter(0..n).stage(stage()).stage(stage()).stage(stage()).output_queue(queue).outputs();
    let mut sum = 0;
    while let Some(item) = outputs.next().await {
        sum += item;
    }
    assert!(running.join().await.is_clean());
    sum
}

/// Every way must be slower than ours.
fn faster(ways: Vec<Way<'_>>) -> Vec<Way<'_>> {
    ways.into_iter().map(|way| way.limit(1.0)).collect()
}

/// Tasks on an async runtime of two threads.
pub(crate) fn tasks(args: &Args) {
    let runtime = runtime();
    let n = args.tasks;
    for queue in [64, 3] {
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
    for queue in [64, 3] {
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

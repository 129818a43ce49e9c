//! The cpu lane beside rayon: a few heavy items, and a million tiny ones.

use std::hint::black_box;

use longshore::{Executor, Job, LaneKind};
use rayon::prelude::*;

use crate::harness::{Args, on, runtime, table, way};

const CHUNKS: u64 = 64;
const LENGTH: u64 = 2_000_000;

#[inline(never)]
fn heavy(seed: u64) -> u64 {
    (seed..seed + LENGTH).fold(0, |sum, i| sum.wrapping_add(black_box(i).wrapping_mul(i)))
}

#[inline(never)]
fn tiny(seed: u64) -> u64 {
    // Each number through a black box: otherwise the compiler knows the sum.
    (0..1000).map(black_box).sum::<u64>() + seed
}

pub(crate) fn run(args: &Args) {
    let runtime = runtime();
    let executor = Executor::builder().workers(LaneKind::Cpu, 2).build();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
    let ways = vec![
        way("rayon `par_iter`", || {
            black_box(pool.install(|| (0..CHUNKS).collect::<Vec<_>>().par_iter().map(|i| heavy(*i)).collect::<Vec<_>>()));
        })
        .limit(1.05),
        way("longshore `Job`, each item a task", || {
            black_box(on(&runtime, collect(CHUNKS, heavy)));
        }),
        way("longshore `map`", || {
            black_box(executor.cpu().map(0..CHUNKS, heavy).results().expect("all ok"));
        }),
    ];
    table("64 heavy items on two threads, results collected", ways, args, CHUNKS);

    let n = args.tasks;
    let items: Vec<u64> = (0..n).collect();
    let ways = vec![
        way("rayon `par_iter` over a slice", || {
            black_box(pool.install(|| items.par_iter().map(|i| tiny(*i)).collect::<Vec<_>>()));
        })
        .limit(1.2),
        way("rayon `par_bridge` over an iterator", || {
            black_box(pool.install(|| (0..n).par_bridge().map(tiny).collect::<Vec<_>>()));
        })
        .limit(1.1),
        way("longshore `Job`, each item a task", || {
            black_box(on(&runtime, collect(n, tiny)));
        }),
        way("longshore `map`, not ordered", || {
            black_box(executor.cpu().map(0..n, tiny).unordered().results().expect("all ok"));
        }),
        way("longshore `map`", || {
            black_box(executor.cpu().map(0..n, tiny).results().expect("all ok"));
        }),
    ];
    table(&format!("{n} × sum(0..1000) on two threads, results collected"), ways, args, n);
}

async fn collect(n: u64, work: fn(u64) -> u64) -> Vec<u64> {
    let job = Job::cpu(move |i| Ok::<_, String>(work(i))).params(0..n).workers(2);
    let results = job.start_collecting().await.results().expect("all ok");
    assert_eq!(results.len() as u64, n);
    results
}

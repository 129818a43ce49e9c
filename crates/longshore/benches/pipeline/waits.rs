//! Stages that wait, against the ideal: the first and the last item's way, and the slowest stage at work all the time.

use std::time::{Duration, Instant};

use longshore::{LaneKind, Pipeline, Stage};

use crate::harness::{Args, holds, median};

/// What a pipeline with one worker a stage takes at best.
fn ideal(items: u32, waits: [Duration; 3]) -> Duration {
    let slowest = *waits.iter().max().expect("three stages");
    waits.iter().sum::<Duration>() + slowest * (items - 1)
}

fn stage(lane: LaneKind, wait: Duration) -> Stage<u32, u32> {
    let stage = match lane {
        LaneKind::Async => Stage::new(move |n| async move {
            tokio::time::sleep(wait).await;
            Ok::<_, String>(n)
        }),
        _ => Stage::blocking(move |n| {
            std::thread::sleep(wait);
            Ok::<_, String>(n)
        }),
    };
    stage.queue(3)
}

pub(crate) fn run(args: &Args) {
    println!("\nstages that wait, queues of 3, one worker each\n");
    println!("| items | waits | lane | ideal | longshore | ratio | limit | holds |\n|---|---|---|---|---|---|---|---|");
    for (items, ms) in [(8, [300, 400, 200]), (200, [3, 4, 2]), (200, [10, 10, 10])] {
        let waits = ms.map(Duration::from_millis);
        for lane in [LaneKind::Async, LaneKind::Blocking] {
            let rounds = if items == 8 { 1 } else { args.rounds.min(5) };
            let took = median(
                (0..rounds)
                    .map(|_| {
                        let began = Instant::now();
                        let report = waits.iter().fold(Pipeline::from_iter(0..items), |line, wait| line.stage(stage(lane, *wait))).run();
                        assert_eq!(report.outputs, u64::from(items));
                        began.elapsed().as_secs_f64()
                    })
                    .collect(),
            );
            let ideal = ideal(items, waits).as_secs_f64();
            let ratio = took / ideal;
            let [a, b, c] = ms;
            println!("| {items} | {a}/{b}/{c} ms | {lane} | {ideal:.3} s | {took:.3} s | {ratio:.3} | 1.05 | {} |", holds(ratio <= 1.05));
        }
    }
}

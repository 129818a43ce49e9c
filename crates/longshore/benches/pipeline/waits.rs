//! Stages that wait, against the ideal: the first and the last item's way, and the slowest stage at work all the time.

use std::time::{Duration, Instant};

use longshore::{LaneKind, Pipeline, Stage};

use crate::harness::{Args, holds, median, on, runtime};

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

/// The same by hand: a task and a channel for each stage.
async fn by_tasks(items: u32, waits: [Duration; 3]) {
    let (send, mut receive) = tokio::sync::mpsc::channel(3);
    tokio::spawn(async move {
        for item in 0..items {
            send.send(item).await.expect("a reader");
        }
    });
    for wait in waits {
        let (next, there) = tokio::sync::mpsc::channel(3);
        tokio::spawn(async move {
            while let Some(item) = receive.recv().await {
                tokio::time::sleep(wait).await;
                next.send(item).await.expect("a reader");
            }
        });
        receive = there;
    }
    while receive.recv().await.is_some() {}
}

/// The same by hand: a thread and a channel for each stage.
fn by_threads(items: u32, waits: [Duration; 3]) {
    let (send, mut receive) = crossbeam_channel::bounded(3);
    std::thread::spawn(move || {
        for item in 0..items {
            send.send(item).expect("a reader");
        }
    });
    for wait in waits {
        let (next, there) = crossbeam_channel::bounded(3);
        std::thread::spawn(move || {
            for item in receive {
                std::thread::sleep(wait);
                next.send(item).expect("a reader");
            }
        });
        receive = there;
    }
    receive.iter().for_each(drop);
}

pub(crate) fn run(args: &Args) {
    let runtime = runtime();
    println!("\nstages that wait, queues of 3, one worker each; by hand: tokio mpsc and tasks, crossbeam and threads\n");
    println!(
        "| items | waits | lane | ideal | by hand | longshore | ÷ ideal | ÷ by hand | limit | holds |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for (items, ms) in [(8, [300, 400, 200]), (200, [3, 4, 2]), (200, [10, 10, 10])] {
        let waits = ms.map(Duration::from_millis);
        for lane in [LaneKind::Async, LaneKind::Blocking] {
            let rounds = if items == 8 { 1 } else { args.rounds.min(5) };
            let time = |work: &dyn Fn()| {
                let began = Instant::now();
                work();
                began.elapsed().as_secs_f64()
            };
            let ours = || {
                let line = waits.iter().fold(Pipeline::from_iter(0..items), |line, wait| line.stage(stage(lane, *wait)));
                let report = on(&runtime, async { line.start().join().await });
                assert_eq!(report.outputs, u64::from(items));
            };
            let by_hand = || match lane {
                LaneKind::Async => on(&runtime, by_tasks(items, waits)),
                _ => by_threads(items, waits),
            };
            // Side by side, in turn: timers are late on a machine that is busy.
            let (ours, by_hand): (Vec<_>, Vec<_>) = (0..rounds).map(|_| (time(&ours), time(&by_hand))).unzip();
            let (ours, by_hand) = (median(ours), median(by_hand));
            let ideal = ideal(items, waits).as_secs_f64();
            let ratio = ours / ideal;
            let [a, b, c] = ms;
            println!(
                "| {items} | {a}/{b}/{c} ms | {lane} | {ideal:.3} s | {by_hand:.3} s | {ours:.3} s | {ratio:.3} | {:.3} | 1.05 | {} |",
                ours / by_hand,
                holds(ratio <= 1.05)
            );
        }
    }
}

//! Stages that wait, against the ideal: the first and the last item's way, and the slowest stage at
//! work all the time.

use std::time::{Duration, Instant};

use longshore::{LaneKind, Pipeline, Stage};

use crate::harness::{Args, holds, median, on, runtime};

/// What a pipeline with one worker a stage takes at best: the waits of one item, and the slowest
/// one again for each further item.
fn waits_of_the_ideal(items: u32, waits: [Duration; 3]) -> impl Iterator<Item = Duration> {
    let slowest = *waits.iter().max().expect("three stages");
    waits.into_iter().chain(std::iter::repeat_n(slowest, items as usize - 1))
}

/// The ideal as these timers allow it: its waits one after the other, and nothing else. (tokio's
/// timer rounds up to the next millisecond.)
async fn ideal_by_task(items: u32, waits: [Duration; 3]) {
    for wait in waits_of_the_ideal(items, waits) {
        tokio::time::sleep(wait).await;
    }
}

fn ideal_by_thread(items: u32, waits: [Duration; 3]) {
    waits_of_the_ideal(items, waits).for_each(std::thread::sleep);
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
    println!(
        "\nstages that wait, queues of 3, one worker each; ideal: the waits of one item, and the longest for each further one, slept one after the other; \
         by hand: tokio mpsc and tasks, crossbeam and threads\n"
    );
    println!(
        "| items | waits | lane | sum of these waits | ideal | by hand | longshore | ÷ ideal | ÷ by hand | limit | holds |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
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
            let ideal = || match lane {
                LaneKind::Async => on(&runtime, ideal_by_task(items, waits)),
                _ => ideal_by_thread(items, waits),
            };
            // Side by side, in turn: timers are late on a machine that is busy.
            let times: Vec<_> = (0..rounds).map(|_| [time(&ours), time(&by_hand), time(&ideal)]).collect();
            let of = |way: usize| median(times.iter().map(|times| times[way]).collect());
            let against = |way: usize| median(times.iter().map(|times| times[0] / times[way]).collect());
            let (ratio, sum) = (against(2), waits_of_the_ideal(items, waits).sum::<Duration>().as_secs_f64());
            let [a, b, c] = ms;
            println!(
                "| {items} | {a}/{b}/{c} ms | {lane} | {sum:.3} s | {:.3} s | {:.3} s | {:.3} s | {ratio:.3} | {:.3} | 1.05 | {} |",
                of(2),
                of(1),
                of(0),
                against(1),
                holds(ratio <= 1.05)
            );
        }
    }
}

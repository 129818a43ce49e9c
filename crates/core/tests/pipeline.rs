//! What a pipeline promises: nothing lost, order, backpressure, every way to its end, and who held
//! it up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "pipeline/endings.rs"]
mod endings;
#[path = "pipeline/lanes.rs"]
mod lanes;
#[path = "pipeline/model.rs"]
mod model;
#[path = "pipeline/shapes.rs"]
mod shapes;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{OpenAtEnd, Signal, ends, soon};
use longshore_core::{Clock, LaneKind, Pipeline, Stage, TaskError};

const MS: Duration = Duration::from_millis(1);

type Same = Result<u32, TaskError>;

fn same(n: u32) -> Same {
    Ok(n)
}

/// A stage on this lane that hands on what it gets.
fn plain(lane: LaneKind) -> Stage<u32, u32> {
    match lane {
        LaneKind::Async => Stage::new(|n| async move { same(n) }),
        LaneKind::Blocking => Stage::blocking(same),
        LaneKind::Cpu => Stage::cpu(same),
        LaneKind::Process => unreachable!("there are no such stages"),
    }
}

const LANES: [LaneKind; 3] = [LaneKind::Async, LaneKind::Blocking, LaneKind::Cpu];

#[test]
fn none_is_lost_and_none_doubled_whatever_the_lanes_and_the_number_of_workers() {
    for lane in LANES {
        for workers in [1, 4] {
            for ordered in [true, false] {
                let stage = move || {
                    let stage = plain(lane).workers(workers).queue(3);
                    if ordered { stage } else { stage.unordered() }
                };
                let collected = ends(move || Pipeline::from_iter(0..500).stage(stage()).stage(stage()).stage(stage()).collect());
                let mut outputs = collected.outputs;
                if !ordered {
                    outputs.sort_unstable();
                }
                assert_eq!(outputs, (0..500).collect::<Vec<_>>(), "{lane} × {workers}, ordered: {ordered}");
                assert!(collected.report.is_clean(), "{}", collected.report);
                for stage in &collected.report.stages {
                    assert_eq!((stage.items_in, stage.items_out, stage.counts.ok, stage.left), (500, 500, 500, 0), "{}", collected.report);
                }
            }
        }
    }
}

#[test]
fn items_that_are_still_in_the_first_stage_when_the_input_ends_come_out() {
    // The source has ended long before the first item leaves stage 1.
    for workers in [1, 4] {
        let (gate, ended) = (Arc::new(Signal::default()), Arc::new(Signal::default()));
        let source = (0..8).chain(std::iter::from_fn({
            let ended = ended.clone();
            move || {
                ended.open();
                None
            }
        }));
        let running = {
            let gate = gate.clone();
            let first = Stage::blocking(move |n: u32| {
                gate.wait();
                same(n)
            });
            std::thread::spawn(move || {
                Pipeline::from_iter(source)
                    .stage(first.workers(workers).queue(16))
                    .stage(plain(LaneKind::Blocking).workers(workers))
                    .collect()
            })
        };
        ended.wait();
        gate.open();
        assert_eq!(ends(|| running.join().unwrap()).results().unwrap(), (0..8).collect::<Vec<_>>());
    }
}

#[test]
fn an_ordered_stage_with_several_workers_keeps_the_order_when_later_items_end_first() {
    for lane in [LaneKind::Async, LaneKind::Blocking] {
        let first_ends = Arc::new(tokio::sync::Notify::new());
        let others = Arc::new(AtomicUsize::new(0));
        let work = {
            let (first_ends, others) = (first_ends.clone(), others.clone());
            move |n: u32| {
                let (first_ends, others) = (first_ends.clone(), others.clone());
                async move {
                    if n == 0 {
                        first_ends.notified().await;
                    } else if others.fetch_add(1, Ordering::SeqCst) == 6 {
                        // Item 0 is held until seven others have ended.
                        first_ends.notify_one();
                    }
                    same(n)
                }
            }
        };
        let stage = match lane {
            LaneKind::Async => Stage::new(work),
            _ => Stage::blocking(move |n| block_on(work(n))),
        };
        let collected = ends(move || Pipeline::from_iter(0..20).stage(stage.workers(4).queue(4)).collect());
        assert_eq!(collected.outputs, (0..20).collect::<Vec<_>>(), "{lane}");
    }
}

fn block_on<O>(future: impl Future<Output = O>) -> O {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn an_unordered_stage_hands_on_what_is_done_first() {
    let gate = Arc::new(Signal::default());
    let own = gate.clone();
    let stage = Stage::blocking(move |n: u32| {
        if n == 0 {
            own.wait();
        }
        same(n)
    });
    let mut outputs = Pipeline::from_iter(0..10).stage(stage.workers(2).unordered()).into_iter();
    let _open = OpenAtEnd(&gate);
    let first: Vec<u32> = outputs.by_ref().take(9).collect();
    assert_eq!(first, (1..10).collect::<Vec<_>>());
    gate.open();
    assert_eq!(outputs.next(), Some(0));
}

#[test]
fn a_stage_never_has_more_at_once_than_it_has_workers() {
    for lane in LANES {
        for workers in [1, 3] {
            let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (count, top) = (now.clone(), most.clone());
            let enter = move || {
                top.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            };
            let leave = move || {
                now.fetch_sub(1, Ordering::SeqCst);
            };
            let stage: Stage<u32, u32> = match lane {
                LaneKind::Async => Stage::new(move |n| {
                    let (enter, leave) = (enter.clone(), leave.clone());
                    async move {
                        enter();
                        tokio::task::yield_now().await;
                        leave();
                        same(n)
                    }
                }),
                lane => {
                    let work = move |n| {
                        enter();
                        std::thread::yield_now();
                        leave();
                        same(n)
                    };
                    if lane == LaneKind::Blocking { Stage::blocking(work) } else { Stage::cpu(work) }
                }
            };
            let report = ends(move || Pipeline::from_iter(0..300).stage(stage.workers(workers)).run());
            let most = most.load(Ordering::SeqCst);
            assert!((1..=workers).contains(&most), "{lane}: {most} of {workers}");
            assert!(report.stages[1].most <= workers && report.stages[1].most >= most.min(1), "{report}");
        }
    }
}

#[test]
fn a_reader_that_stops_reading_stops_the_source_and_memory_stays_bounded() {
    // Three stages with queues of 3: what is taken from the source and not read is what queues,
    // workers and windows hold.
    for lane in LANES {
        let given = Arc::new(AtomicUsize::new(0));
        let count = given.clone();
        let source = (0_u32..).inspect(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let slow = |lane| match lane {
            // Never tiny: its items are taken one by one.
            LaneKind::Async => Stage::new(|n| async move {
                tokio::time::sleep(MS).await;
                same(n)
            }),
            LaneKind::Blocking => Stage::blocking(|n| {
                std::thread::sleep(MS);
                same(n)
            }),
            _ => Stage::cpu(|n| {
                std::thread::sleep(MS);
                same(n)
            }),
        };
        let pipeline = Pipeline::from_iter(source).stage(slow(lane).workers(2).queue(3)).stage(slow(lane).queue(3)).output_queue(2);
        let outputs = pipeline.into_iter();
        let settled = || {
            let before = given.load(Ordering::SeqCst);
            std::thread::sleep(30 * MS);
            before == given.load(Ordering::SeqCst)
        };
        assert!(soon(settled));
        // Stage 1: queue 3, window of 2 workers and 3 places; stage 2: queue 3, one in hand; queue
        // of the outputs 2; the source may have one fetch in hand.
        let bound = (3 + 2 + 3) + (3 + 1 + 3) + 2 + 3;
        let given = given.load(Ordering::SeqCst);
        assert!(given <= bound, "{lane}: {given} taken from the source, {bound} expected at most");
        drop(outputs);
    }
}

#[tokio::test(start_paused = true)]
async fn stages_that_wait_reach_the_ideal_time() {
    // One item of the slowest stage after the other, and the first and the last one's way: 0.3 + 8
    // × 0.4 + 0.2 s.
    let wait = |ms: u64| {
        Stage::new(move |n: u32| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            same(n)
        })
        .queue(3)
    };
    let began = tokio::time::Instant::now();
    let pipeline =
        Pipeline::from_iter(0..8).stage(wait(300).name("load")).stage(wait(400).name("transform")).stage(wait(200).name("store"));
    let collected = pipeline.clock(Clock::TOKIO, 1).start_collecting().await;
    let took = began.elapsed();
    assert_eq!(collected.outputs, (0..8).collect::<Vec<_>>());
    assert!(took >= 3700 * MS && took <= 3720 * MS, "{took:?}");
    let report = collected.report;
    let bottleneck = report.bottleneck.as_ref().unwrap();
    assert_eq!((bottleneck.place, bottleneck.name.as_str()), (2, "transform"), "{report}");
    assert!(bottleneck.reason.ends_with("its workers waited 300.0 ms for input → give it more workers"), "{report}");
    // With a second worker there, the first stage is the slowest.
    let pipeline = Pipeline::from_iter(0..8)
        .stage(wait(300).name("load"))
        .stage(wait(400).name("transform").workers(2))
        .stage(wait(200).name("store"));
    let began = tokio::time::Instant::now();
    let report = pipeline.clock(Clock::TOKIO, 1).start().join().await;
    let took = began.elapsed();
    assert!(took >= 3000 * MS && took <= 3020 * MS, "8 × 0.3 + 0.4 + 0.2 s, not {took:?}");
    assert_eq!(report.bottleneck.as_ref().unwrap().name, "load", "{report}");
}

#[test]
fn a_pipeline_runs_from_blocking_code_from_async_code_and_inside_a_runtime() {
    let pipeline = || Pipeline::from_iter(0..100).stage(plain(LaneKind::Async)).stage(plain(LaneKind::Blocking));
    assert_eq!(ends(move || pipeline().collect()).outputs.len(), 100);
    for runtime in [
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
    ] {
        ends(move || {
            runtime.block_on(async {
                assert_eq!(pipeline().run().outputs, 100);
                assert_eq!(pipeline().start_collecting().await.outputs.len(), 100);
                let (mut outputs, running) = pipeline().outputs();
                let mut seen = BTreeSet::new();
                while let Some(output) = outputs.next().await {
                    seen.insert(output);
                }
                assert_eq!(seen.len(), 100);
                assert!(running.join().await.is_clean());
            });
        });
    }
    assert_eq!(ends(move || pipeline().into_iter().count()), 100);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    ends(move || pipeline().for_each(|n| log.lock().unwrap().push(n)));
    assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_million_items_pass_three_stages() {
    let stage = || Stage::new(|n: u64| async move { Ok::<_, String>(n + 1) }).queue(64);
    let mut sum = 0;
    let pipeline = Pipeline::from_iter(0..1_000_000_u64).stage(stage()).stage(stage()).stage(stage()).output_queue(64);
    let report = pipeline.for_each(|n| sum += n);
    assert_eq!((report.outputs, sum), (1_000_000, (3..1_000_003).sum::<u64>()), "{report}");
}

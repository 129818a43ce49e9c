//! Groups, outputs taken apart, branches, several sources.

use std::sync::{Arc, Mutex, mpsc};

use longshore_core::{Clock, LaneKind, Pipeline, Stage, pipeline::Branch};

use super::{LANES, MS, Same, ends, plain, same};

#[test]
fn groups_are_full_but_the_last_one() {
    let collected = ends(|| Pipeline::from_iter(0..10_u32).stage(plain(LaneKind::Async)).batch(4, 3_600_000 * MS).collect());
    assert_eq!(collected.outputs, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
}

#[tokio::test(start_paused = true)]
async fn a_group_waits_no_longer_than_it_was_told_after_its_first_item() {
    let (sender, pipeline) = Pipeline::from_sender(10);
    let (mut outputs, running) = pipeline.batch(3, 100 * MS).clock(Clock::TOKIO, 1).outputs();
    let began = tokio::time::Instant::now();
    tokio::time::sleep(50 * MS).await;
    sender.send(1).await.unwrap();
    tokio::time::sleep(60 * MS).await;
    sender.send(2).await.unwrap();
    assert_eq!(outputs.next().await, Some(vec![1, 2]));
    let took = began.elapsed();
    assert!(took >= 150 * MS && took < 160 * MS, "{took:?}");
    for n in 3..=6 {
        sender.send(n).await.unwrap();
    }
    assert_eq!(outputs.next().await, Some(vec![3, 4, 5]));
    drop(sender);
    assert_eq!(outputs.next().await, Some(vec![6]));
    assert_eq!(outputs.next().await, None);
    assert!(running.join().await.is_clean());
}

#[test]
fn outputs_are_taken_apart_in_order_on_every_lane() {
    for lane in LANES {
        for workers in [1, 4] {
            let stage: Stage<u32, Vec<u32>> = match lane {
                LaneKind::Async => Stage::new(|n| async move { Ok::<_, String>(vec![n; n as usize]) }),
                LaneKind::Blocking => Stage::blocking(|n| Ok::<_, String>(vec![n; n as usize])),
                _ => Stage::cpu(|n| Ok::<_, String>(vec![n; n as usize])),
            };
            let collected = ends(move || {
                Pipeline::from_iter(0..40).stage(stage.workers(workers).queue(2).flatten()).stage(plain(lane).queue(1)).collect()
            });
            let want: Vec<u32> = (0..40).flat_map(|n| vec![n; n as usize]).collect();
            assert_eq!(collected.outputs, want, "{lane} × {workers}");
            assert_eq!((collected.report.stages[1].items_in, collected.report.stages[1].items_out), (40, want.len() as u64));
        }
    }
}

#[test]
fn an_output_without_end_is_taken_apart_only_as_there_is_room() {
    let stage = Stage::blocking(|n: u32| Ok::<_, String>(n..)).flatten();
    let taken: Vec<u32> = ends(move || Pipeline::from_iter([5]).stage(stage).into_iter().take(3).collect());
    assert_eq!(taken, [5, 6, 7]);
}

#[test]
fn an_output_that_panics_while_it_is_taken_apart_stops_the_pipeline() {
    let stage = Stage::blocking(|n: u32| Ok::<_, String>((0..n).inspect(|part| assert!(*part < 2, "torn")))).flatten();
    let report = ends(move || Pipeline::from_iter(1..).stage(stage.name("parts")).run());
    let failure = report.failure.unwrap();
    assert_eq!((failure.stage.as_str(), failure.number), ("parts", 3));
    assert!(failure.to_string().contains("torn"), "{failure}");
}

fn branch(f: impl Fn(u32) -> Same + Send + Sync + 'static, name: &'static str) -> Branch<u32, u32> {
    Box::new(move |items| items.stage(Stage::blocking(f).name(name)))
}

#[test]
fn each_item_goes_to_its_branch_and_each_branch_keeps_its_order() {
    let collected = ends(|| {
        let branches = [branch(Ok, "even"), branch(|n| Ok(n + 1000), "odd")];
        Pipeline::from_iter(0..100).route(|n| (*n % 2) as usize, branches).stage(plain(LaneKind::Async)).collect()
    });
    let (odd, even): (Vec<u32>, Vec<u32>) = collected.outputs.iter().partition(|n| **n >= 1000);
    assert_eq!(even, (0..100).step_by(2).collect::<Vec<_>>());
    assert_eq!(odd, (1..100).step_by(2).map(|n| n + 1000).collect::<Vec<_>>());
    assert_eq!(collected.report.stage("odd").unwrap().counts.ok, 50);
    assert!(collected.report.is_clean());
}

#[test]
fn a_branch_that_is_not_there_stops_the_pipeline_and_is_named() {
    let report = ends(|| Pipeline::from_iter(1..).route(|n| (*n / 5) as usize, [branch(same, "only")]).run());
    let said = report.failure.unwrap().to_string();
    assert_eq!(said, "stage `route`, item 5: invalid: there is no branch 1; the branches are 0 to 0");
}

#[test]
fn several_sources_flow_into_one_pipeline() {
    let (sender, sent) = Pipeline::from_sender(2);
    let producer = std::thread::spawn(move || (0..50).for_each(|n| sender.blocking_send(n).unwrap()));
    let squares = Pipeline::from_iter(50..100_u32).stage(plain(LaneKind::Cpu));
    let collected = ends(move || Pipeline::merge([sent, squares]).stage(plain(LaneKind::Blocking).workers(4)).collect());
    producer.join().unwrap();
    let mut outputs = collected.outputs;
    outputs.sort_unstable();
    assert_eq!(outputs, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_merge_of_nothing_ends_at_once() {
    let report = ends(|| Pipeline::merge(Vec::<Pipeline<u32>>::new()).stage(plain(LaneKind::Blocking)).run());
    assert!(report.is_clean());
    assert_eq!(report.outputs, 0);
}

#[test]
fn a_sender_is_told_when_nobody_will_take_its_items() {
    let (sender, pipeline) = Pipeline::from_sender(1);
    let stage = Stage::blocking(|n: u32| if n == 3 { Err("three") } else { Ok(n) });
    let running = std::thread::spawn(move || pipeline.stage(stage).run());
    let sent = ends(move || (0..).take_while(|n| sender.blocking_send(*n).is_ok()).count());
    assert!(sent >= 4, "{sent}");
    assert_eq!(running.join().unwrap().failure.unwrap().number, 4);
}

#[test]
fn a_slow_source_hands_on_each_item_as_it_comes() {
    // The second item comes only after the first has left the pipeline.
    let (left, seen) = mpsc::channel();
    let seen = Mutex::new(seen);
    let mut n = 0;
    let source = std::iter::from_fn(move || {
        n += 1;
        if n > 1 {
            seen.lock().unwrap().recv().unwrap();
        }
        (n < 20).then_some(n)
    });
    let gone = Arc::new(Mutex::new(Vec::new()));
    let log = gone.clone();
    ends(move || {
        Pipeline::from_iter(source).stage(plain(LaneKind::Async)).for_each(|n| {
            log.lock().unwrap().push(n);
            left.send(()).unwrap();
        })
    });
    assert_eq!(*gone.lock().unwrap(), (1..20).collect::<Vec<_>>());
}

#[test]
fn the_first_item_does_not_wait_for_the_second_whatever_the_source_knows_of_its_length() {
    let (left, seen) = mpsc::channel();
    let source = (0..2).inspect(move |n: &u32| {
        if *n > 0 {
            seen.recv().unwrap();
        }
    });
    let report = ends(move || Pipeline::from_iter(source).stage(plain(LaneKind::Blocking)).for_each(|_| left.send(()).unwrap_or_default()));
    assert_eq!(report.outputs, 2);
}

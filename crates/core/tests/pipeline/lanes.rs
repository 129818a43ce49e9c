//! Rate, timeout and context of stages.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use longshore_core::{Context, LaneKind, OnError, Pipeline, Rate, Stage};

use super::{LANES, MS, Same, Signal, ends, plain, same, soon};

#[test]
fn a_rate_spaces_the_starts_of_all_workers_together() {
    for lane in LANES {
        let starts = Arc::new(Mutex::new(Vec::new()));
        let log = starts.clone();
        let note = move || log.lock().unwrap().push(Instant::now());
        let stage: Stage<u32, u32> = match lane {
            LaneKind::Async => Stage::new(move |n| {
                note();
                async move { same(n) }
            }),
            LaneKind::Blocking => Stage::blocking(move |n| {
                note();
                same(n)
            }),
            _ => Stage::cpu(move |n| {
                note();
                same(n)
            }),
        };
        let began = Instant::now();
        let report = ends(move || Pipeline::from_iter(0..11).stage(stage.workers(3).rate(Rate::per_second(200.0)).name("paced")).run());
        let starts = starts.lock().unwrap();
        // From before the first slot: on a busy machine the first start itself comes late, and the
        // others need not wait for it.
        let span = *starts.iter().max().unwrap() - began;
        assert!(starts.len() == 11 && span >= 50 * MS, "{lane}: the eleventh start at 200/s comes after 50 ms, not {span:?}");
        let paced = report.stage("paced").unwrap();
        assert!(paced.paused > Duration::ZERO, "{report}");
        assert!(report.bottleneck.as_ref().is_none_or(|one| one.name != "paced" || one.reason.ends_with("a higher rate")), "{report}");
    }
}

#[test]
fn a_timeout_on_every_lane_is_that_items_failure() {
    let gate = Arc::new(Signal::default());
    for lane in LANES {
        let held = gate.clone();
        let stage: Stage<u32, u32> = match lane {
            LaneKind::Async => Stage::new(|n| async move {
                if n == 1 {
                    std::future::pending::<()>().await;
                }
                same(n)
            }),
            LaneKind::Blocking => Stage::blocking(move |n| {
                if n == 1 {
                    held.wait();
                }
                same(n)
            }),
            // It cannot be ended; what comes too late does not count.
            _ => Stage::cpu(|n| {
                if n == 1 {
                    std::thread::sleep(400 * MS);
                }
                same(n)
            }),
        };
        let stage = stage.timeout(200 * MS).on_error(OnError::Skip).name("hangs");
        let collected = ends(move || Pipeline::from_iter(0..4).stage(stage).collect());
        assert_eq!(collected.outputs, [0, 2, 3], "{lane}");
        let first = collected.report.stage("hangs").unwrap().first_failure.clone().unwrap();
        assert_eq!((first.error.kind(), first.number), ("timeout", 2), "{lane}");
    }
    gate.open();
}

#[test]
fn threads_left_to_themselves_are_bounded_and_come_back() {
    let (gate, running) = (Arc::new(Signal::default()), Arc::new(AtomicUsize::new(0)));
    let (held, now) = (gate.clone(), running.clone());
    let stage = Stage::blocking_with_context(move |context: &Context, n: u32| {
        now.fetch_add(1, Ordering::SeqCst);
        held.wait();
        now.fetch_sub(1, Ordering::SeqCst);
        assert!(context.cancel.is_cancelled());
        same(n)
    });
    let pipeline = Pipeline::from_iter(0..10).stage(stage.timeout(2 * MS).on_error(OnError::Skip));
    let ran = std::thread::spawn(move || pipeline.run());
    // Four are left to themselves, the fifth is waited for.
    assert!(soon(|| running.load(Ordering::SeqCst) == 5));
    std::thread::sleep(20 * MS);
    assert_eq!(running.load(Ordering::SeqCst), 5);
    gate.open();
    let report = ends(move || ran.join().unwrap());
    assert!(report.stages[1].counts.failed >= 5, "{report}");
    assert!(soon(|| running.load(Ordering::SeqCst) == 0));
}

#[test]
fn the_context_tells_number_attempt_lane_and_slot() {
    let (send, seen) = mpsc::channel();
    let stage = Stage::blocking_with_context(move |context: &Context, n: u32| {
        send.send((context.id, context.attempt, context.lane, context.slot, n)).unwrap();
        same(n)
    });
    ends(move || Pipeline::from_iter([7, 8]).stage(stage).run());
    assert_eq!(seen.iter().collect::<Vec<_>>(), [(1, 1, LaneKind::Blocking, 0, 7), (2, 1, LaneKind::Blocking, 0, 8)]);
}

#[test]
fn a_stage_that_computes_holds_up_no_stage_that_waits() {
    // The cpu stage has every core; a stage on the async lane still gets its turns.
    let spin = Stage::cpu(|n: u32| -> Same {
        let began = Instant::now();
        while began.elapsed() < 5 * MS {
            std::hint::spin_loop();
        }
        Ok(n)
    });
    let cores = LaneKind::Cpu.default_workers();
    let collected = ends(move || Pipeline::from_iter(0..40).stage(spin.workers(cores)).stage(plain(LaneKind::Async)).collect());
    assert_eq!(collected.outputs, (0..40).collect::<Vec<_>>());
}

//! Every way in which a pipeline ends: by the end of its input, by an error, by its reader, by its
//! user.

use std::sync::{Arc, Mutex, mpsc};

use longshore_core::{Backoff, CancelToken, LaneKind, OnError, Pipeline, RetryPolicy, Stage, pipeline::Report};

use super::{LANES, MS, Same, Signal, ends, plain, same, soon};

/// Every item that the source gave is accounted for, at each stage.
#[track_caller]
pub(crate) fn adds_up(report: &Report) {
    for pair in report.stages.windows(2) {
        assert_eq!(pair[0].items_out, pair[1].items_in + pair[1].left, "between `{}` and `{}`:\n{report}", pair[0].name, pair[1].name);
    }
    for stage in &report.stages {
        assert_eq!(stage.items_in, stage.counts.ok + stage.counts.failed + stage.counts.cancelled, "`{}`:\n{report}", stage.name);
    }
}

/// A stage on this lane that fails, or panics, for multiples of ten.
fn picky(lane: LaneKind, panics: bool) -> Stage<u32, u32> {
    let work = move |n: u32| -> Same {
        match n % 10 {
            0 if panics => panic!("ten"),
            0 => Err("a multiple of ten".into()),
            _ => Ok(n),
        }
    };
    match lane {
        LaneKind::Async => Stage::new(move |n| async move { work(n) }),
        LaneKind::Blocking => Stage::blocking(work),
        _ => Stage::cpu(work),
    }
}

#[test]
fn the_first_error_stops_the_pipeline_and_says_which_item_of_which_stage() {
    for lane in LANES {
        for (panics, said) in [(false, "error: a multiple of ten"), (true, "panicked: ten")] {
            let collected = ends(move || {
                Pipeline::from_iter(1..)
                    .stage(plain(lane).name("first"))
                    .stage(picky(lane, panics).name("picky"))
                    .stage(plain(lane))
                    .collect()
            });
            adds_up(&collected.report);
            // Everything that came before it in order is an output or left, nothing that came after
            // it is.
            let outputs = &collected.outputs;
            assert!(outputs.len() < 10 && outputs.iter().zip(1..10).all(|(output, want)| *output == want), "{lane}: {outputs:?}");
            assert!(outputs.len() as u64 + collected.report.left() >= 9, "{lane}: {outputs:?}\n{}", collected.report);
            let failure = collected.results().unwrap_err();
            assert_eq!(failure.to_string(), format!("stage `picky`, item 10: {said}"), "{lane}");
        }
    }
}

#[test]
fn what_fails_is_skipped_and_counted_and_the_first_one_is_named() {
    for lane in LANES {
        for workers in [1, 3] {
            for panics in [false, true] {
                let stage = picky(lane, panics).workers(workers).on_error(OnError::Skip).name("picky");
                let collected = ends(move || Pipeline::from_iter(1..=100).stage(stage).collect());
                assert_eq!(collected.outputs, (1..=100).filter(|n| n % 10 != 0).collect::<Vec<_>>());
                adds_up(&collected.report);
                let picky = collected.report.stage("picky").unwrap();
                assert_eq!((picky.counts.ok, picky.counts.failed), (90, 10));
                assert_eq!(picky.first_failure.as_ref().unwrap().number % 10, 0);
                assert!(!collected.report.is_clean());
            }
        }
    }
}

#[test]
fn a_dead_letter_carries_item_number_error_and_attempts() {
    for lane in LANES {
        let letters = Arc::new(Mutex::new(Vec::new()));
        let log = letters.clone();
        let policy = RetryPolicy::times(2).backoff(Backoff::Fixed(MS));
        let stage = picky(lane, false).retry(policy).dead_letter(move |letter| log.lock().unwrap().push(letter));
        let collected = ends(move || Pipeline::from_iter(5..25).stage(stage.name("picky")).collect());
        assert_eq!(collected.outputs, (5..25).filter(|n| n % 10 != 0).collect::<Vec<_>>());
        assert_eq!(collected.report.stages[1].counts.retries, 4);
        adds_up(&collected.report);
        let letters = letters.lock().unwrap();
        let seen: Vec<_> = letters.iter().map(|letter| (letter.item, letter.number, letter.attempts, letter.error.kind())).collect();
        assert_eq!(seen, [(Some(10), 6, 3, "error"), (Some(20), 16, 3, "error")]);
        assert_eq!(letters[0].stage, "picky");
    }
}

#[test]
fn a_callback_for_dead_letters_that_panics_stops_the_pipeline() {
    for lane in LANES {
        let stage = picky(lane, false).dead_letter(|_| panic!("no post today")).name("picky");
        let report = ends(move || Pipeline::from_iter(1..).stage(stage).run());
        assert!(report.failure.as_ref().unwrap().to_string().contains("no post today"), "{report}");
        adds_up(&report);
    }
}

#[test]
fn an_item_that_fails_at_first_comes_out_in_its_place() {
    for lane in LANES {
        for workers in [1, 4] {
            let tried = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
            let work = move |n: u32| -> Same {
                // Each third item fails the first time.
                if n.is_multiple_of(3) && tried.lock().unwrap().insert(n) { Err("not yet".into()) } else { Ok(n) }
            };
            let stage: Stage<u32, u32> = match lane {
                LaneKind::Async => Stage::new(move |n| {
                    let answer = work(n);
                    async move {
                        tokio::task::yield_now().await;
                        answer
                    }
                }),
                LaneKind::Blocking => Stage::blocking(work),
                _ => Stage::cpu(work),
            };
            let policy = RetryPolicy::times(1).backoff(Backoff::Fixed(MS));
            let collected = ends(move || Pipeline::from_iter(0..30).stage(stage.workers(workers).retry(policy)).collect());
            assert_eq!(collected.outputs, (0..30).collect::<Vec<_>>(), "{lane} × {workers}");
            assert_eq!((collected.report.stages[1].counts.retries, collected.report.stages[1].counts.ok), (10, 30));
            assert!(collected.report.is_clean());
        }
    }
}

#[test]
fn a_source_that_panics_stops_the_pipeline_and_is_named() {
    let source = (0..10).inspect(|n| assert!(*n < 5, "the file is torn"));
    let report = ends(move || Pipeline::from_iter(source).stage(plain(LaneKind::Blocking)).run());
    let failure = report.failure.unwrap();
    assert_eq!(failure.stage, "source");
    assert!(failure.to_string().contains("the file is torn"), "{failure}");
}

#[test]
fn a_reader_that_goes_away_ends_a_pipeline_without_end() {
    for lane in LANES {
        let running = ends(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let running = runtime.block_on(async {
                let (mut outputs, running) = Pipeline::from_iter(0..).stage(plain(lane).workers(2)).stage(plain(lane)).outputs();
                assert_eq!(outputs.next().await, Some(0));
                assert_eq!(outputs.next().await, Some(1));
                running
            });
            runtime.block_on(running.join())
        });
        assert!(running.cancelled && running.failure.is_none(), "{running}");
        adds_up(&running);
    }
}

#[test]
fn cancelling_drops_pending_futures_and_ends_the_pipeline() {
    let (dropped, ended) = mpsc::channel();
    struct Tell(mpsc::Sender<()>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let token = CancelToken::new();
    let begun = Arc::new(Signal::default());
    let own = begun.clone();
    let stage = Stage::new(move |_: u32| {
        let tell = Tell(dropped.clone());
        own.open();
        async move {
            let _tell = tell;
            std::future::pending::<Same>().await
        }
    });
    let pipeline = Pipeline::from_iter(0..).stage(stage.workers(2)).cancel_with(&token);
    let running = std::thread::spawn(move || pipeline.run());
    begun.wait();
    token.cancel();
    let report = ends(move || running.join().unwrap());
    assert!(report.cancelled, "{report}");
    assert!(report.stages[1].counts.cancelled >= 1);
    assert_eq!(ended.iter().count() as u64, report.stages[1].counts.cancelled);
    adds_up(&report);
}

#[test]
fn cancelling_lets_a_blocking_function_end_and_starts_no_other() {
    let (begun, gate) = (Arc::new(Signal::default()), Arc::new(Signal::default()));
    let ran = Arc::new(Mutex::new(Vec::new()));
    let (own, held, log) = (begun.clone(), gate.clone(), ran.clone());
    let stage = Stage::blocking(move |n: u32| {
        own.open();
        held.wait();
        log.lock().unwrap().push(n);
        same(n)
    });
    let token = CancelToken::new();
    let pipeline = Pipeline::from_iter(0..100).stage(stage).cancel_with(&token);
    let running = std::thread::spawn(move || pipeline.run());
    begun.wait();
    token.cancel();
    // Given time, nothing more starts.
    std::thread::sleep(20 * MS);
    gate.open();
    let report = ends(move || running.join().unwrap());
    assert_eq!(*ran.lock().unwrap(), [0]);
    adds_up(&report);
}

#[test]
fn a_handle_cancels_and_tells_what_was_done_so_far() {
    ends(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = {
            let _inside = runtime.enter();
            Pipeline::from_iter(0_u32..).stage(plain(LaneKind::Blocking).name("all")).start()
        };
        let handle = running.reporter();
        assert!(soon(|| handle.report().stage("all").unwrap().counts.ok > 100));
        handle.cancel();
        let report = runtime.block_on(running.join());
        assert!(report.cancelled);
        adds_up(&report);
        // After its end, cancelling changes nothing.
        let done = {
            let _inside = runtime.enter();
            Pipeline::from_iter(0..3).stage(plain(LaneKind::Async)).start()
        };
        let handle = done.reporter();
        assert!(runtime.block_on(done.join()).is_clean());
        handle.cancel();
        assert!(!handle.report().cancelled);
    });
}

#[test]
fn a_runtime_that_ends_under_a_pipeline_leaves_no_thread_waiting() {
    let gone = Arc::new(Signal::default());
    let own = gone.clone();
    struct OpenOnDrop(Arc<Signal>);
    impl Drop for OpenOnDrop {
        fn drop(&mut self) {
            self.0.open();
        }
    }
    let open = OpenOnDrop(own);
    ends(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, pipeline) = Pipeline::from_sender(4);
        let handle = {
            let _inside = runtime.enter();
            // The thread of this stage owns `open`.
            let stage = Stage::blocking(move |n: u32| {
                let _open = &open;
                same(n)
            });
            pipeline.stage(stage).stage(plain(LaneKind::Async)).start().reporter()
        };
        sender.blocking_send(1).unwrap();
        drop(runtime);
        gone.wait();
        assert_eq!(handle.report().failure.unwrap().error.kind(), "lost");
    });
}

#[test]
fn an_input_that_falls_silent_ends_nothing() {
    let (sender, pipeline) = Pipeline::from_sender(4);
    let (send, seen) = mpsc::channel();
    let running = std::thread::spawn(move || {
        pipeline.stage(plain(LaneKind::Async)).stage(plain(LaneKind::Blocking).workers(4)).for_each(|n| send.send(n).unwrap())
    });
    sender.blocking_send(1).unwrap();
    assert_eq!(seen.recv().unwrap(), 1);
    // Nothing comes for a while; then something does.
    std::thread::sleep(50 * MS);
    assert!(!running.is_finished());
    sender.blocking_send(2).unwrap();
    assert_eq!(seen.recv().unwrap(), 2);
    drop(sender);
    assert!(ends(move || running.join().unwrap()).is_clean());
}

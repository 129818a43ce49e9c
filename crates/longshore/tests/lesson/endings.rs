//! How things end: not by silence, not for one worker of several, not by a value among the items.

use std::sync::Arc;

use longshore::{Clock, Job, Pipeline, Sender, Stage, Stop, Word};

use crate::{Gate, HOUR, ends};

/// `queue.get(timeout=1)` and `except Empty: break`: whoever is slower than a second loses what it
/// brings.
#[tokio::test(start_paused = true)]
async fn a_silent_hour_ends_no_worker_and_no_job() {
    let began = tokio::time::Instant::now();
    let job = Job::new(|n: u32| async move { Ok::<_, String>(n) }).clock(Clock::TOKIO, 1).workers(3);
    let job = job.produce(|sender: Sender<u32>| async move {
        for n in 0..3 {
            tokio::time::sleep(HOUR).await;
            sender.send(n).await.map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(())
    });
    let report = tokio::time::timeout(100 * HOUR, job.start().join()).await.unwrap();
    assert_eq!((report.ok(), report.is_clean()), (3, true));
    assert!(began.elapsed() >= 3 * HOUR);
}

/// The collector that gives up after two seconds without a result.
#[tokio::test(start_paused = true)]
async fn a_result_that_takes_an_hour_is_collected() {
    let slow = |n: u32| async move {
        tokio::time::sleep(HOUR * n).await;
        Ok::<_, String>(n)
    };
    let collected = Job::new(slow).clock(Clock::TOKIO, 1).workers(1).params([1, 0, 2]).start_collecting();
    assert_eq!(tokio::time::timeout(100 * HOUR, collected).await.unwrap().results().unwrap(), [1, 0, 2]);
}

/// One `None` for several workers: the first one takes it, and the others wait for ever.
#[test]
fn the_end_of_the_input_reaches_every_one_of_several_workers() {
    for workers in [1, 4] {
        let gate = Arc::new(Gate::default());
        let (held, opens) = (gate.clone(), gate);
        // All sixteen are with the workers and in the queue when the input ends; only then may the
        // first of them end.
        let input = (0..16).chain(std::iter::from_fn(move || {
            opens.open();
            None
        }));
        let work = move |n: u32| {
            held.pass();
            Ok::<_, String>(n)
        };
        let collected = ends(move || Job::blocking(work).workers(workers).queue(16).params(input).collect());
        assert_eq!(collected.results().unwrap(), (0..16).collect::<Vec<_>>());
    }
}

/// The same between stages: the first worker to see the end ended the next stage, while its
/// neighbours were still at work.
#[test]
fn the_end_of_the_input_loses_nothing_that_is_still_in_the_first_of_several_stages() {
    for workers in [1, 4] {
        let gate = Arc::new(Gate::default());
        let (held, opens) = (gate.clone(), gate);
        // With room for all of them in the first queue, which lets the source go on to its end.
        let input = (0..8).chain(std::iter::from_fn(move || {
            opens.open();
            None
        }));
        let first = move |n: u32| {
            held.pass();
            Ok::<_, String>(n)
        };
        let pass_on = |n: u32| Ok::<_, String>(n);
        let line = Pipeline::from_iter(input)
            .stage(Stage::blocking(first).workers(workers).queue(16))
            .stage(Stage::blocking(pass_on).workers(workers).queue(3))
            .stage(Stage::blocking(pass_on).workers(workers).queue(3));
        let collected = ends(move || line.collect());
        assert!(collected.report.is_clean(), "{}", collected.report);
        assert_eq!(collected.outputs, (0..8).collect::<Vec<_>>(), "{workers} workers");
    }
}

/// A stage that gives up after a second in which the one before it made nothing.
#[tokio::test(start_paused = true)]
async fn a_stage_waits_for_a_slow_one_before_it() {
    let slow = |n: u32| async move {
        tokio::time::sleep(HOUR).await;
        Ok::<_, String>(n)
    };
    let quick = |n: u32| async move { Ok::<_, String>(n) };
    let line = Pipeline::from_stream(futures_util::stream::iter(0..3)).stage(Stage::new(slow)).stage(Stage::new(quick));
    let collected = tokio::time::timeout(100 * HOUR, line.clock(Clock::TOKIO, 1).start_collecting()).await.unwrap();
    assert_eq!(collected.results().unwrap(), [0, 1, 2]);
}

/// The same signal from outside.
#[tokio::test(start_paused = true)]
async fn a_stop_reaches_every_one_of_several_workers() {
    let never = |_: u32| std::future::pending::<Result<(), String>>();
    let running = Job::new(never).clock(Clock::TOKIO, 1).workers(4).params(0..4).start();
    tokio::time::sleep(HOUR).await;
    running.handle().stop(Stop::Soft);
    let report = tokio::time::timeout(HOUR, running.join()).await.unwrap();
    // All four were ended, and stand as unfinished.
    assert_eq!((report.done(), report.counts.handed_back), (0, 4));
}

/// A value that means "the end" cannot be an item, and what stands behind it is lost.
#[test]
fn no_value_among_the_items_means_the_end() {
    let half = |n: Option<u32>| Ok::<_, String>(n.map(|n| n / 2));
    let collected = ends(move || Job::blocking(half).workers(2).params([Some(8), None, Some(4), None]).collect());
    assert_eq!(collected.results().unwrap(), [Some(4), None, Some(2), None]);
    let line = Pipeline::from_iter([Some(8), None, Some(4), None]).stage(Stage::blocking(half).workers(2));
    assert_eq!(ends(move || line.collect()).outputs, [Some(4), None, Some(2), None]);
}

/// `join()` waits for a `task_done()` that a failed task, or the branch of the sentinel, has left
/// out.
#[tokio::test(start_paused = true)]
async fn drained_comes_whatever_became_of_the_tasks() {
    let work = |n: u32| async move {
        match n % 4 {
            0 => Ok(n),
            1 => Err("failed".to_owned()),
            2 => panic!("panicked"),
            _ => std::future::pending().await,
        }
    };
    let (sender, job) = Job::new(work).clock(Clock::TOKIO, 1).workers(2).timeout(HOUR).sender(3);
    let running = job.start();
    for n in 0..8 {
        sender.send(n).await.unwrap();
    }
    tokio::time::timeout(100 * HOUR, sender.drained()).await.unwrap().unwrap();
    assert_eq!((sender.counts().sent, sender.counts().settled), (8, 8));
    drop(sender);
    let report = running.join().await;
    let counts = [Word::Ok, Word::Failed, Word::Panicked, Word::Timeout].map(|word| report.counts.of(word));
    assert_eq!(counts, [2, 2, 2, 2]);
}

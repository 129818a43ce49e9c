//! What a job promises: producers, queues, callbacks, reports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{OpenAtEnd, Signal, ends, soon};
use longshore_core::{
    Clock, Job, LaneKind, Limit, Options, Phase, Rate, SendError, Stop, TaskError, Word,
    source::{Source as _, queue::queue},
};

const MS: Duration = Duration::from_millis(1);

type Never = Result<u32, TaskError>;

async fn ok(n: u32) -> Never {
    Ok(n)
}

#[test]
fn defaults_are_stated() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let line = |name, value: String| (name, value);
    for (job, lane, workers) in [
        (Job::new(ok), "async", 50),
        (Job::blocking(|n: u32| -> Never { Ok(n) }), "blocking", 4 * cores),
        (Job::cpu(|n: u32| -> Never { Ok(n) }), "cpu", cores),
    ] {
        let want = [
            line("lane", lane.to_owned()),
            line("workers", format!("{lane} {workers}")),
            line("work queue", (2 * workers).to_string()),
            line("result queue", (2 * workers).to_string()),
        ];
        assert_eq!(job.describe(), want);
    }
    let mixed = Job::new(ok).on_cpu(|_, n| -> Never { Ok(n) }).workers(7).lane_workers(LaneKind::Cpu, 2).queue(3).concurrency(5);
    let want = [("lane", "async"), ("workers", "async 7"), ("workers", "cpu 2"), ("work queue", "3"), ("result queue", "10")];
    assert_eq!(mixed.describe(), want.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn a_job_without_producers_ends_at_once() {
    let report = ends(|| Job::new(ok).run());
    assert_eq!((report.done(), report.is_clean()), (0, true));
}

#[test]
fn producers_of_every_kind_feed_one_job_which_ends_when_all_have() {
    let seen = Arc::new(Mutex::new(Vec::<u32>::new()));
    let report = ends({
        let seen = seen.clone();
        move || {
            let (sender, job) = Job::new(ok)
                .params(0..100)
                .stream(futures_util::stream::iter(100..200))
                .produce(|sender| async move {
                    for n in 200..300 {
                        tokio::task::yield_now().await;
                        sender.send(n).await.map_err(|error| TaskError::new("send", error.to_string()))?;
                    }
                    Ok::<_, TaskError>(())
                })
                .on_task_complete(move |task| seen.lock().unwrap().extend(task.result()))
                .sender(5);
            let thread = std::thread::spawn(move || (300..400).for_each(|n| sender.blocking_send(n).unwrap()));
            let report = job.run();
            thread.join().unwrap();
            report
        }
    });
    let mut seen = Arc::into_inner(seen).unwrap().into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!((report.ok(), report.failed()), (400, 0));
    assert_eq!(seen, (0..400).collect::<Vec<u32>>());
}

#[test]
fn a_producer_that_fails_or_panics_is_in_the_report_and_the_job_goes_on() {
    let report = ends(|| {
        Job::new(ok)
            .params(0..10)
            .produce(|sender| async move {
                let _ = sender.send(10).await;
                Err("no more cars")
            })
            .produce(|_sender| async move {
                assert!(std::hint::black_box(false), "out of fuel");
                Ok::<_, TaskError>(())
            })
            .run()
    });
    assert_eq!(report.ok(), 11);
    let mut failed = report.failed_producers.clone();
    failed.sort();
    assert_eq!(failed, ["error: no more cars", "panicked: out of fuel"]);
    assert!(!report.is_clean());
}

#[test]
fn an_iterator_that_panics_ends_the_job_with_its_text() {
    for at in [0, 7] {
        let report = ends(move || Job::new(ok).params((0..10).inspect(move |n| assert!(*n != at, "item {at} is bad"))).run());
        // What the turn had brought before the panic is lost with it or done: never both, never a
        // hang.
        assert!(report.ok() <= u64::from(at), "{report:?}");
        let error = report.summary.error.clone().unwrap_or_default();
        assert!(error.contains("the source panicked") && error.contains(&format!("item {at} is bad")), "{error}");
    }
}

#[test]
fn the_function_that_tells_options_may_panic() {
    let report = ends(|| Job::new(ok).lane_of(|n| if *n == 3 { panic!("which lane?") } else { LaneKind::Async }).params(0..5).run());
    assert!(report.summary.error.unwrap().contains("which lane?"));
}

#[tokio::test(start_paused = true)]
async fn what_a_full_queue_refuses_comes_back() {
    let (sender, job) = Job::new(ok).workers(1).sender(2);
    assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
    assert_eq!(sender.try_send(3), Err(SendError::Full(3)));
    let began = tokio::time::Instant::now();
    assert_eq!(sender.send_timeout(4, 50 * MS).await, Err(SendError::Full(4)));
    assert_eq!(began.elapsed(), 50 * MS);
    assert_eq!(sender.send_displacing(5), Ok(Some(1)));
    let counts = sender.counts();
    assert_eq!((counts.sent, counts.refused, counts.displaced, counts.settled), (3, 2, 1, 0));
    let running = job.start();
    sender.drained().await.unwrap();
    assert_eq!(sender.counts().settled, 2);
    drop(sender);
    assert_eq!(running.join().await.ok(), 2);
}

#[test]
fn displacing_does_not_wait_for_senders_to_whom_the_free_places_are_promised() {
    ends(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, source) = queue(1);
            sender.try_send(1).unwrap();
            let waiting = tokio::spawn({
                let sender = sender.clone();
                async move { sender.send(2).await }
            });
            tokio::task::yield_now().await;
            let mut lent = Vec::new();
            source.fetch(1, &mut lent).await.unwrap();
            // The place that is free now is promised to the sender above, which has not come to
            // take it.
            assert_eq!(sender.send_displacing(3), Ok(None));
            assert_eq!(sender.send_displacing(4), Ok(Some(3)));
            waiting.await.unwrap().unwrap();
            assert_eq!(sender.try_send(5), Err(SendError::Full(5)));
            source.fetch(9, &mut lent).await.unwrap();
            // For one moment there was one more; for ever it is not.
            assert_eq!((sender.try_send(6), sender.try_send(7)), (Ok(()), Err(SendError::Full(7))));
            assert_eq!(lent.into_iter().map(|delivery| delivery.payload).collect::<Vec<_>>(), [1, 4, 2]);
        });
    });
}

#[tokio::test(start_paused = true)]
async fn drained_waits_for_all_that_was_sent_also_for_handlers_that_panic() {
    for ordered in [false, true] {
        let job = Job::new(|n: u32| async move {
            tokio::time::sleep(100 * MS).await;
            assert!(n.is_multiple_of(2), "odd");
            Ok::<_, TaskError>(n)
        });
        let job = if ordered { job.order_by(|n| n.to_string().into()) } else { job };
        let (sender, job) = job.workers(2).sender(10);
        let began = tokio::time::Instant::now();
        for n in 0..4 {
            sender.send(n).await.unwrap();
        }
        let running = job.start();
        sender.drained().await.unwrap();
        assert_eq!(began.elapsed(), 200 * MS, "ordered: {ordered}");
        drop(sender);
        let report = running.join().await;
        assert_eq!((report.ok(), report.counts.of(Word::Panicked)), (2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn drained_waits_also_when_there_are_other_producers_and_not_for_what_they_send_later() {
    let (sender, job) = Job::new(|n: u32| async move {
        tokio::time::sleep(100 * MS).await;
        Ok::<_, TaskError>(n)
    })
    .produce(|sender| async move {
        for n in 0..20 {
            sender.send(n).await.map_err(|closed| closed.to_string())?;
            tokio::time::sleep(30 * MS).await;
        }
        Ok::<_, String>(())
    })
    .sender(10);
    let began = tokio::time::Instant::now();
    sender.send(2).await.unwrap();
    let running = job.start();
    sender.drained().await.unwrap();
    assert_eq!(began.elapsed(), 100 * MS);
    drop(sender);
    assert_eq!(running.join().await.ok(), 21);
}

#[tokio::test(start_paused = true)]
async fn senders_of_a_stopped_job_are_told() {
    let (sender, job) = Job::new(|n: u32| async move {
        tokio::time::sleep(1000 * MS).await;
        Ok::<_, TaskError>(n)
    })
    .workers(1)
    .queue(1)
    .sender(1);
    let running = job.start();
    let began = tokio::time::Instant::now();
    for n in 0..3 {
        sender.send(n).await.unwrap();
    }
    let handle = running.handle();
    tokio::spawn(async move {
        tokio::time::sleep(10 * MS).await;
        handle.drain();
    });
    let refused = loop {
        if let Err(refused) = sender.send(9).await {
            break refused;
        }
    };
    assert_eq!((refused, began.elapsed()), (SendError::Closed(9), 10 * MS), "not only when the running task ends");
    assert!(sender.drained().await.is_err());
    let report = running.join().await;
    assert_eq!((report.ok(), began.elapsed()), (1, 1000 * MS));
}

/// With W workers, a result queue of C and a callback that does not return, exactly W + C tasks
/// run: their results fill the result queue, and each worker then waits with one more in its hands.
#[test]
fn a_blocked_callback_holds_no_worker_until_the_result_queue_is_full() {
    for (workers, results, handlers) in [(4, 8, 1), (1, 0, 1), (2, 4, 1), (3, 5, 2), (2, 100, 2)] {
        assert_blocked_callback(workers, results, handlers);
    }
}

fn assert_blocked_callback(workers: usize, results: usize, handlers: usize) {
    let signal = Arc::new(Signal::default());
    let ran = Arc::new(AtomicUsize::new(0));
    let total = workers + results + 50;
    ends(move || {
        let open = OpenAtEnd(&signal);
        let (blocked, counter) = (signal.clone(), ran.clone());
        let job = Job::new(move |n: usize| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<_, TaskError>(n) }
        })
        .params(0..total)
        .workers(workers)
        .result_queue(results)
        .result_handlers(handlers)
        .on_task_complete(move |_| blocked.wait());
        let job = std::thread::spawn(move || job.run());
        let want = workers + results;
        assert!(soon(|| ran.load(Ordering::SeqCst) >= want), "{} of {want} ran", ran.load(Ordering::SeqCst));
        std::thread::sleep(50 * MS);
        assert_eq!(ran.load(Ordering::SeqCst), want, "W = {workers}, C = {results}");
        drop(open);
        assert_eq!(job.join().unwrap().ok(), total as u64);
    });
}

#[test]
fn a_blocked_callback_holds_no_worker_although_the_result_queue_is_larger_than_the_work_queue() {
    assert_blocked_callback(2, 100, 1);
}

#[test]
fn callbacks_never_overlap_unless_there_are_several_handlers() {
    for handlers in [1, 4] {
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let most2 = most.clone();
        let report = ends(move || {
            Job::new(ok)
                .params(0..40)
                .result_handlers(handlers)
                .on_task_complete(move |_| {
                    most2.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(3 * MS);
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
                .run()
        });
        assert_eq!(report.ok(), 40);
        let most = most.load(Ordering::SeqCst);
        assert!(most <= handlers && (handlers == 1 || most > 1), "{most} at once with {handlers} handlers");
    }
}

#[test]
fn a_callback_that_panics_is_counted_and_stops_nothing() {
    let called = Arc::new(AtomicUsize::new(0));
    let called2 = called.clone();
    let report = ends(move || {
        Job::new(ok)
            .params(0..100)
            .on_task_complete(move |task| {
                called2.fetch_add(1, Ordering::SeqCst);
                assert!(task.id() % 10 != 0, "task {} is ugly", task.id());
            })
            .on_job_complete(|report| panic!("after {} tasks", report.done()))
            .run()
    });
    assert_eq!((report.ok(), called.load(Ordering::SeqCst)), (100, 100));
    assert_eq!((report.callback_panics, report.first_callback_panic.as_deref()), (11, Some("task 10 is ugly")));
}

#[test]
fn the_job_callback_comes_once_after_all_task_callbacks() {
    let called = Arc::new(AtomicUsize::new(0));
    let (tasks, at_end) = (called.clone(), Arc::new(Mutex::new(Vec::new())));
    let at_end2 = at_end.clone();
    ends(move || {
        Job::new(ok)
            .params(0..20)
            .on_task_complete(move |_| {
                std::thread::sleep(MS);
                called.fetch_add(1, Ordering::SeqCst);
            })
            .on_job_complete(move |report| at_end2.lock().unwrap().push((report.done(), tasks.load(Ordering::SeqCst))))
            .run();
    });
    assert_eq!(*at_end.lock().unwrap(), [(20, 20)]);
}

#[test]
fn a_lane_or_a_limit_that_the_job_does_not_have_is_that_tasks_failure() {
    let outcomes = ends(|| {
        Job::new(ok)
            .options_of(|n| match n {
                1 => Options::default().lane(LaneKind::Process),
                2 => Options::default().limit(4, "host"),
                _ => Options::default(),
            })
            .limits(vec![Limit::named("host").concurrency(1)])
            .params(0..4)
            .collect()
    });
    let errors: Vec<_> = outcomes.outcomes.iter().map(|outcome| outcome.error().map(|error| error.to_string())).collect();
    let want = [None, Some("lane: this job has no process lane"), Some("limit: this job has no limit number 4 (for `host`)"), None];
    assert_eq!(errors, want.map(|error| error.map(str::to_owned)));
}

#[test]
fn results_are_collected_in_the_order_of_their_parameters() {
    let collected = ends(|| {
        Job::new(|n: u64| async move {
            tokio::time::sleep(MS * (n as u32 * 7 % 11)).await;
            if n == 30 { Err("thirty") } else { Ok(n) }
        })
        .params(0..60)
        .collect()
    });
    let good: Vec<_> = collected.outcomes.iter().filter_map(|outcome| outcome.clone().ok()).collect();
    assert_eq!(good, (0..60).filter(|n| *n != 30).collect::<Vec<_>>());
    assert_eq!(collected.results().unwrap_err().0, 30);
}

#[tokio::test(start_paused = true)]
async fn results_come_as_they_complete() {
    let (mut results, running) = Job::new(|n: u32| async move {
        tokio::time::sleep(MS * n).await;
        Ok::<_, TaskError>(n)
    })
    .clock(Clock::TOKIO, 1)
    .params([30, 10, 20])
    .as_completed();
    let mut seen = Vec::new();
    while let Some(finished) = results.next().await {
        seen.extend(finished.result().copied());
    }
    assert_eq!(seen, [10, 20, 30]);
    assert_eq!(running.join().await.ok(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_results_may_wait_for_a_time_and_then_again() {
    let (mut results, running) = Job::new(|n: u32| async move {
        tokio::time::sleep(MS * n).await;
        Ok::<_, TaskError>(n)
    })
    .clock(Clock::TOKIO, 1)
    .params([100])
    .as_completed();
    assert!(results.next_timeout(50 * MS).await.is_err(), "nothing has come yet");
    let finished = results.next_timeout(60 * MS).await.expect("it comes now").expect("the job is not over");
    assert_eq!(finished.result(), Some(&100));
    assert!(results.next_timeout(60 * MS).await.expect("the end comes at once").is_none());
    assert_eq!(running.join().await.ok(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_results_may_be_slow_or_leave() {
    let ran = Arc::new(AtomicUsize::new(0));
    let ran2 = ran.clone();
    let (mut results, running) = Job::new(move |n: u32| {
        ran2.fetch_add(1, Ordering::SeqCst);
        ok(n)
    })
    .workers(2)
    .result_queue(3)
    .params(0..100)
    .as_completed();
    tokio::time::sleep(1000 * MS).await;
    assert_eq!(ran.load(Ordering::SeqCst), 5, "W + C");
    assert!(results.next().await.is_some());
    tokio::time::sleep(1000 * MS).await;
    assert_eq!(ran.load(Ordering::SeqCst), 6);
    drop(results);
    assert_eq!(running.join().await.ok(), 100);
}

#[test]
fn run_does_not_mind_where_it_is_called() {
    let work = || Job::new(ok).params(0..10).run().ok();
    for threads in [0, 1, 2] {
        let runtime = match threads {
            0 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
        };
        let runtime = runtime.unwrap();
        assert_eq!(ends(move || runtime.block_on(async move { work() })), 10);
    }
    assert_eq!(ends(|| Job::new(ok).params(0..3).collect().results().unwrap()), [0, 1, 2]);
}

#[test]
fn an_endless_iterator_is_asked_for_what_there_is_room_for_and_ends_when_drained() {
    let asked = Arc::new(AtomicUsize::new(0));
    let asked2 = asked.clone();
    ends(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let running = Job::new(|n: usize| async move {
                tokio::time::sleep(10 * MS).await;
                Ok::<_, TaskError>(n)
            })
            .clock(Clock::TOKIO, 1)
            .workers(3)
            .queue(4)
            .params((0..).inspect(move |_| {
                asked2.fetch_add(1, Ordering::SeqCst);
            }))
            .start();
            let handle = running.handle();
            for turn in 1..=100 {
                tokio::time::sleep(10 * MS).await;
                let asked = asked.load(Ordering::SeqCst);
                assert!(asked <= 3 * turn + 3 + 4, "{asked} asked for after {turn} turns of 3");
            }
            handle.drain();
            let report = running.join().await;
            let asked = asked.load(Ordering::SeqCst) as u64;
            assert_eq!(report.done() + report.counts.handed_back, asked);
            assert!(report.counts.handed_back <= 7, "{report:?}");
        });
    });
}

#[tokio::test(start_paused = true)]
async fn a_handle_changes_and_asks_and_does_nothing_when_all_is_over() {
    let running = Job::new(|n: u32| async move {
        tokio::time::sleep(100 * MS).await;
        Ok::<_, TaskError>(n)
    })
    .clock(Clock::TOKIO, 1)
    .workers(4)
    .params(0..20)
    .start();
    let handle = running.handle();
    tokio::time::sleep(50 * MS).await;
    let view = handle.view().await.unwrap();
    let [lane] = view.lanes.as_slice() else { panic!("{:?}", view.lanes) };
    assert_eq!((lane.lane, lane.slots, lane.running, view.running.len()), (LaneKind::Async, 4, 4, 4));
    assert_eq!(view.refusal.as_ref().unwrap().reason.to_string(), "all 4 workers busy");
    assert!(view.running.iter().all(|task| task.age == 50 * MS), "{:?}", view.running);

    handle.pause();
    tokio::time::sleep(1000 * MS).await;
    let view = handle.view().await.unwrap();
    assert_eq!((view.active(), view.counts.done(), view.phase), (0, 4, Phase::Paused));
    handle.set_concurrency(Some(LaneKind::Async), 8);
    handle.resume();
    tokio::time::sleep(50 * MS).await;
    assert_eq!(handle.view().await.unwrap().active(), 8);

    handle.set_rate(Some(Rate::per_second(100.0)));
    tokio::time::sleep(95 * MS).await;
    let view = handle.view().await.unwrap();
    assert_eq!((view.rate, view.counts.done()), (Some(Rate::per_second(100.0)), 12));
    assert!((4..=6).contains(&view.active()), "{} started in 45 ms at 100/s", view.active());

    let report = running.join().await;
    assert_eq!(report.ok(), 20);
    assert!(handle.view().await.is_none());
    handle.pause();
    handle.stop(Stop::Hard);
    assert!(handle.view().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_that_finds_itself_settles_where_the_server_begins_to_queue() {
    // Twenty at once are served in 50 ms; more have to wait.
    let running = Arc::new(AtomicUsize::new(0));
    let job = Job::new(move |_: u64| {
        let running = running.clone();
        async move {
            let load = (running.fetch_add(1, Ordering::Relaxed) + 1) as f64 / 20.0;
            tokio::time::sleep((50 * MS).mul_f64(load.max(1.0))).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, String>(())
        }
    });
    let running = job.adaptive(2, 500).params(0u64..).clock(Clock::TOKIO, 1).start();
    let handle = running.handle();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let before = handle.view().await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let after = handle.view().await.unwrap();
    let limit = after.concurrency.unwrap();
    assert!((19..=27).contains(&limit), "{limit}");
    let answered = after.counts.done() - before.counts.done();
    assert!(answered > 7_200, "{answered} of 8000");
    // Whoever sets a number gets that number.
    handle.set_concurrency(None, 7);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(handle.view().await.unwrap().concurrency, Some(7));
    handle.stop(Stop::Hard);
    running.join().await;
}

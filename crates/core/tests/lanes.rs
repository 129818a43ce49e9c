//! What lanes promise through a job: timeouts, retries, panics, stalls, rates, keys.
#![allow(clippy::unwrap_used, reason = "in tests; the lint knows only functions that are tests themselves")]

mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{OpenAtEnd, Signal, ends};
use longshore_core::{
    Again, Backoff, Clock, ErrorClass, Event, Job, LaneKind, Limit, Options, Outcome, Rate, Receipt, RetryOn, RetryPolicy, TaskError, Word,
    watch::Heard,
};

const MS: Duration = Duration::from_millis(1);

/// The times at which attempts started, on the paused clock, since the first call.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<Vec<(u32, u128)>>>, Arc<Mutex<Option<tokio::time::Instant>>>);

impl Times {
    fn note(&self, n: u32) {
        let base = *self.1.lock().unwrap().get_or_insert_with(tokio::time::Instant::now);
        self.0.lock().unwrap().push((n, base.elapsed().as_millis()));
    }

    fn all(&self) -> Vec<(u32, u128)> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn retries_follow_their_backoff() {
    let policy = |backoff| RetryPolicy::times(3).backoff(backoff);
    for (policy, want) in [
        (RetryPolicy::NONE, vec![0]),
        (policy(Backoff::Fixed(100 * MS)), vec![0, 100, 200, 300]),
        (policy(Backoff::List(vec![MS, 10 * MS])), vec![0, 1, 11, 21]),
        (policy(Backoff::Fixed(100 * MS)).give_up_after(150 * MS), vec![0, 100]),
    ] {
        let times = Times::default();
        let job = Job::new({
            let times = times.clone();
            move |n: u32| {
                times.note(n);
                async { Err::<u32, _>("no luck") }
            }
        });
        let report = job.clock(Clock::TOKIO, 1).params([7]).retry(policy.clone()).start().join().await;
        assert_eq!(times.all(), want.iter().map(|at| (7, *at)).collect::<Vec<_>>(), "{policy:?}");
        assert_eq!((report.failed(), report.summary.counts.retries), (1, want.len() as u64 - 1), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_errors_of_the_named_classes_are_tried_again() {
    let classes = vec![ErrorClass::parse("status:5xx").unwrap(), ErrorClass::kind("panicked"), ErrorClass::kind("timeout")];
    let policy = RetryPolicy::times(2).on(RetryOn::Only(classes)).backoff(Backoff::Fixed(MS));
    let attempts = Arc::new(Mutex::new(HashMap::<&str, u32>::new()));
    let attempts2 = attempts.clone();
    Job::new(move |what: &'static str| {
        *attempts2.lock().unwrap().entry(what).or_default() += 1;
        async move {
            let status = |code| Outcome::<u32>::Failed(TaskError::new("status", "").with_code(code));
            match what {
                "503" => status(503),
                "404" => status(404),
                "panic" => panic!("at once"),
                "slow" => std::future::pending().await,
                "never" => Outcome::Failed(TaskError::new("status", "").with_code(503).with_again(Again::Never)),
                "asks" => Outcome::Retry { after: Some(5 * MS), why: TaskError::new("other", "") },
                _ => Outcome::Ok(1),
            }
        }
    })
    .clock(Clock::TOKIO, 1)
    .timeout(50 * MS)
    .retry(policy)
    .params(["503", "404", "panic", "slow", "never", "asks", "fine"])
    .start()
    .join()
    .await;
    let want = [("503", 3), ("404", 1), ("panic", 3), ("slow", 3), ("never", 1), ("asks", 3), ("fine", 1)];
    assert_eq!(*attempts.lock().unwrap(), HashMap::from(want));
}

#[tokio::test(start_paused = true)]
async fn an_async_attempt_ends_at_its_timeout_and_others_go_on() {
    let collected = Job::new(|n: u32| async move {
        tokio::time::sleep(MS * n).await;
        Ok::<_, TaskError>(n)
    })
    .clock(Clock::TOKIO, 1)
    .timeout(100 * MS)
    .params([10, 99, 101, 100_000])
    .start_collecting();
    let began = tokio::time::Instant::now();
    let collected = collected.await;
    assert_eq!(began.elapsed(), 100 * MS);
    let words: Vec<_> = collected.outcomes.iter().map(Outcome::word).collect();
    assert_eq!(words, [Word::Ok, Word::Ok, Word::Timeout, Word::Timeout]);
}

#[test]
fn a_blocking_attempt_that_hangs_times_out_and_its_thread_is_replaced() {
    let signal = Arc::new(Signal::default());
    let signal2 = signal.clone();
    let report = ends(move || {
        let _open = OpenAtEnd(&signal);
        // One worker, and the first task takes its thread along.
        Job::blocking(move |n: u32| {
            if n == 0 {
                signal2.wait();
            }
            Ok::<_, TaskError>(n)
        })
        .workers(1)
        .timeout(50 * MS)
        .params(0..5)
        .run()
    });
    assert_eq!((report.counts.of(Word::Timeout), report.ok()), (1, 4));
}

#[test]
fn blocking_attempts_that_all_hang_for_a_while_all_end() {
    let report = ends(|| {
        Job::blocking(|n: u32| {
            std::thread::sleep(100 * MS);
            Ok::<_, TaskError>(n)
        })
        .workers(1)
        .timeout(5 * MS)
        .params(0..20)
        .run()
    });
    assert_eq!(report.counts.of(Word::Timeout), 20);
}

#[test]
fn blocking_attempts_that_all_hang_for_ever_all_end() {
    let signal = Arc::new(Signal::default());
    let signal2 = signal.clone();
    let report = ends(move || {
        let _open = OpenAtEnd(&signal);
        Job::blocking(move |n: u32| {
            signal2.wait();
            Ok::<_, TaskError>(n)
        })
        .workers(1)
        .timeout(5 * MS)
        .params(0..20)
        .run()
    });
    assert_eq!(report.counts.of(Word::Timeout), 20, "{report:?}");
}

#[test]
fn a_cpu_attempt_that_is_late_has_timed_out_when_it_ends() {
    let report = ends(|| {
        Job::cpu(|n: u64| {
            std::thread::sleep(MS * n as u32);
            Ok::<_, TaskError>(n)
        })
        .timeout(50 * MS)
        .params([0, 100, 0])
        .run()
    });
    assert_eq!((report.counts.of(Word::Timeout), report.ok()), (1, 2));
}

#[test]
fn a_panic_is_that_tasks_outcome_on_every_lane() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("in drop");
            }
        }
    }
    fn bang(n: u32) -> Result<u32, TaskError> {
        match n % 4 {
            1 => panic!("at {n}"),
            2 => {
                let _bomb = Bomb;
                Ok(n)
            }
            3 => std::panic::panic_any(n),
            _ => Ok(n),
        }
    }
    for lane in [LaneKind::Async, LaneKind::Blocking, LaneKind::Cpu] {
        let collected = ends(move || {
            Job::new(|n: u32| {
                // Some before there is a future, some in it.
                let early = (n < 20).then(|| bang(n));
                async move {
                    tokio::task::yield_now().await;
                    early.unwrap_or_else(|| bang(n))
                }
            })
            .on_blocking(|_, n| bang(n))
            .on_cpu(|_, n| bang(n))
            .lane_of(move |_| lane)
            .params(0..40)
            .collect()
        });
        for (n, outcome) in collected.outcomes.iter().enumerate() {
            let text = match outcome {
                Outcome::Ok(_) => "fine".to_owned(),
                Outcome::Panicked(text) => text.clone(),
                other => format!("{other:?}"),
            };
            let want = ["fine".to_owned(), format!("at {n}"), "in drop".to_owned(), "a panic that is not text".to_owned()][n % 4].clone();
            assert_eq!(text, want, "task {n} on the {lane} lane");
        }
    }
}

#[test]
fn a_future_whose_drop_panics_is_that_tasks_outcome_also_at_a_timeout() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }
    let collected = ends(|| {
        Job::new(|n: u32| async move {
            let bomb = (n == 1).then(|| Bomb);
            if n <= 1 {
                std::future::pending::<()>().await;
            }
            drop(bomb);
            Ok::<_, TaskError>(n)
        })
        .timeout(20 * MS)
        .params(0..4)
        .collect()
    });
    let words: Vec<_> = collected.outcomes.iter().map(Outcome::word).collect();
    assert_eq!(words, [Word::Timeout, Word::Panicked, Word::Ok, Word::Ok]);
}

#[test]
fn a_handler_that_blocks_the_async_lane_is_named_and_holds_up_nobody_else() {
    let report = ends(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (signal, others) = (Arc::new(Signal::default()), Arc::new(AtomicUsize::new(0)));
        let report = runtime.block_on(async move {
            let (asynchronous, blocking) = (others.clone(), others.clone());
            let blocked = signal.clone();
            let (mut happened, job) = Job::new(move |n: u32| {
                let (blocked, others) = (blocked.clone(), asynchronous.clone());
                async move {
                    if n == 0 {
                        blocked.wait();
                    }
                    tokio::time::sleep(MS).await;
                    others.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, TaskError>(n)
                }
            })
            .on_blocking(move |_, n| {
                blocking.fetch_add(1, Ordering::SeqCst);
                Ok::<_, TaskError>(n)
            })
            .lane_of(|n| if n % 2 == 0 { LaneKind::Async } else { LaneKind::Blocking })
            .events(10_000);
            let (sender, job) = job.sender(10);
            let running = job.start();
            sender.send(0).await.unwrap();
            let mut named = Vec::new();
            while named.is_empty() {
                let heard = happened.next().await.expect("the job ended, and nobody was named");
                if let Heard::Event(Event::Stalled { id, receipt, held }) = heard {
                    assert_eq!(receipt, Some(Receipt(id)), "it still runs");
                    named.push((id, held));
                }
            }
            let view = running.view().await.expect("it runs");
            let stall = view.stalled.latest.expect("it was named");
            assert_eq!((view.stalled.times, stall.id, stall.holds), (1, 1, true));
            assert!(view.at.duration_since(stall.since).unwrap() >= 100 * MS);
            assert_eq!(named[0].0, 1, "the first task");
            assert!(named[0].1 >= 100 * MS, "{named:?}");
            // What comes now goes to the other loop. The handler lets go when all others have
            // ended: never, if it held up anybody.
            for n in 1..100 {
                sender.send(n).await.unwrap();
            }
            while others.load(Ordering::SeqCst) < 99 {
                tokio::time::sleep(MS).await;
            }
            signal.open();
            drop(sender);
            running.join().await
        });
        runtime.shutdown_background();
        report
    });
    assert_eq!((report.ok(), report.stalled), (100, 1));
}

#[tokio::test(start_paused = true)]
async fn starts_keep_their_pace_exactly() {
    for (rate, want) in [
        (Rate::per_second(100.0), vec![0, 10, 20, 30, 40, 50]),
        (Rate::per_second(100.0).burst(3), vec![0, 0, 0, 10, 20, 30]),
        (Rate { count: 2.0, per: Duration::from_secs(60), burst: 1 }, vec![0, 30_000, 60_000, 90_000, 120_000, 150_000]),
    ] {
        // A task that is longer than the interval does not slow the pace.
        for long in [0, 500] {
            let times = Times::default();
            let job = Job::new({
                let times = times.clone();
                move |n: u32| {
                    times.note(n);
                    async move {
                        tokio::time::sleep(MS * long).await;
                        Ok::<_, TaskError>(n)
                    }
                }
            });
            job.clock(Clock::TOKIO, 1).rate(rate).params(0..6).start().join().await;
            let starts: Vec<_> = times.all().into_iter().map(|(_, at)| at).collect();
            assert_eq!(starts, want, "{rate:?}, tasks of {long} ms");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retries_keep_to_the_pace_too() {
    let times = Times::default();
    let job = Job::new({
        let times = times.clone();
        move |n: u32| {
            times.note(n);
            async { Err::<u32, _>("no") }
        }
    });
    let policy = RetryPolicy::times(1).backoff(Backoff::Fixed(Duration::ZERO));
    job.clock(Clock::TOKIO, 1).rate(Rate::per_second(10.0)).retry(policy).params(0..3).start().join().await;
    assert_eq!(times.all().into_iter().map(|(_, at)| at).collect::<Vec<_>>(), [0, 100, 200, 300, 400, 500]);
}

#[tokio::test(start_paused = true)]
async fn each_value_of_a_limit_has_its_own_pace_and_others_pass() {
    let times = Times::default();
    let job = Job::new({
        let times = times.clone();
        move |n: u32| {
            times.note(n);
            async move { Ok::<_, TaskError>(n) }
        }
    });
    // Even numbers are one host, odd ones another.
    job.clock(Clock::TOKIO, 1)
        .limits(vec![Limit::named("host").rate(Rate::per_second(10.0))])
        .options_of(|n| Options::default().limit(0, if n % 2 == 0 { "a" } else { "b" }))
        .params([0, 2, 4, 1, 3, 5])
        .start()
        .join()
        .await;
    let mut all = times.all();
    all.sort_unstable_by_key(|(n, at)| (*at, *n));
    assert_eq!(all, [(0, 0), (1, 0), (2, 100), (3, 100), (4, 200), (5, 200)]);
}

#[tokio::test(start_paused = true)]
async fn tasks_of_one_key_keep_their_order_also_over_retries_and_others_pass_them() {
    let times = Times::default();
    let job = Job::new({
        let (times, failed) = (times.clone(), Arc::new(AtomicUsize::new(0)));
        move |n: u32| {
            times.note(n);
            let fails = n == 0 && failed.fetch_add(1, Ordering::SeqCst) < 2;
            async move {
                tokio::time::sleep(10 * MS).await;
                if fails { Err("again") } else { Ok(n) }
            }
        }
    });
    let policy = RetryPolicy::times(5).backoff(Backoff::Fixed(100 * MS));
    job.clock(Clock::TOKIO, 1)
        .retry(policy)
        .order_by(|n| if *n < 10 { "slow" } else { "other" }.into())
        .params([0, 1, 10, 2, 11])
        .start()
        .join()
        .await;
    assert_eq!(times.all(), [(0, 0), (10, 0), (11, 10), (0, 110), (0, 220), (1, 230), (2, 240)]);
}

#[test]
fn one_job_feeds_all_lanes_and_each_runs_what_is_its_own() {
    let collected = ends(|| {
        let name = |lane: &str| Ok::<_, TaskError>(format!("{lane} {}", std::thread::current().name().unwrap_or("")));
        Job::new(move |_: u32| async move { name("async") })
            .on_blocking(move |_, _| name("blocking"))
            .on_cpu(move |_, _| name("cpu"))
            .lane_of(|n| LaneKind::ALL[*n as usize % 4])
            .params(0..40)
            .collect()
    });
    for (n, outcome) in collected.outcomes.into_iter().enumerate() {
        let said = outcome.clone().ok().unwrap_or_default();
        let fits = match n % 4 {
            0 => said.starts_with("async"),
            1 => said.starts_with("blocking blocking-"),
            2 => said.starts_with("cpu cpu-"),
            _ => outcome.error().is_some_and(|error| error.kind() == "lane"),
        };
        assert!(fits, "task {n}: {said}");
    }
}

#[test]
fn slots_and_times_are_told() {
    let report = ends(|| {
        let began = Instant::now();
        let report = Job::blocking(|n: u32| {
            std::thread::sleep(5 * MS);
            Ok::<_, TaskError>(n)
        })
        .workers(2)
        .params(0..10)
        .run();
        assert!(report.wall <= began.elapsed());
        report
    });
    let tasks: u64 = report.slots.iter().map(|slot| slot.tasks).sum();
    assert_eq!(tasks, 10);
    assert!(report.slots.len() <= 2 && report.slots.iter().all(|slot| slot.share <= 1.0), "{:?}", report.slots);
    assert!(report.run.p50 >= 5 * MS && report.wall >= 25 * MS, "{report:?}");
}

/// Nobody is held up by it any more, however long it still takes.
#[test]
fn a_task_that_has_held_a_loop_and_waits_now_holds_it_no_more() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let goes_on = Arc::new(tokio::sync::Notify::new());
        let waits = goes_on.clone();
        let (mut happened, job) = Job::new(move |_: u32| {
            let waits = waits.clone();
            async move {
                std::thread::sleep(200 * MS);
                waits.notified().await;
                Ok::<_, TaskError>(())
            }
        })
        .params([1])
        .events(100);
        let running = job.start();
        while !matches!(happened.next().await.expect("it runs"), Heard::Event(Event::Stalled { .. })) {}
        loop {
            let view = running.view().await.expect("it runs");
            let stall = view.stalled.latest.expect("it was named");
            if !stall.holds {
                assert_eq!((view.stalled.times, stall.id, view.running.len()), (1, 1, 1));
                break;
            }
            tokio::time::sleep(MS).await;
        }
        goes_on.notify_one();
        running.join().await;
    });
}

//! The loop's promises: one outcome for each attempt, whatever wakes it and however it ends.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use crate::{Job, LaneKind, Outcome, Word, lane::Stop};

/// A future that is woken from another thread, several times, and after its end.
async fn woken_from_afar(n: u64) -> Result<u64, String> {
    let waker = Arc::new(Mutex::new(None::<Waker>));
    let rung = Arc::new(AtomicUsize::new(0));
    let (bell, count) = (waker.clone(), rung.clone());
    let ringer = std::thread::spawn(move || {
        for _ in 0..3 {
            while bell.lock().expect("no panic").is_none() {
                std::thread::yield_now();
            }
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(waker) = &*bell.lock().expect("no panic") {
                waker.wake_by_ref();
            }
        }
    });
    poll_fn(|cx| {
        *waker.lock().expect("no panic") = Some(cx.waker().clone());
        if rung.load(Ordering::SeqCst) >= 2 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    drop(ringer);
    Ok(n)
}

#[test]
fn wakes_from_other_threads_and_after_the_end_lose_nothing() {
    let collected = Job::new(woken_from_afar).params(0..400).workers(7).collect();
    assert_eq!(collected.results().expect("all ok"), (0..400).collect::<Vec<_>>());
}

#[test]
fn tasks_that_suspend_many_times_all_end_and_share_few_places() {
    let collected = Job::new(|n: u64| async move {
        for _ in 0..n % 7 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_micros(n % 3 * 400)).await;
        Ok::<_, String>(n)
    })
    .params(0..3_000)
    .workers(40)
    .collect();
    assert_eq!(collected.results().expect("all ok"), (0..3_000).collect::<Vec<_>>());
}

#[test]
fn deadlines_end_those_that_are_late_and_only_those() {
    let collected = Job::new(|n: u64| async move {
        if n.is_multiple_of(3) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, String>(n)
    })
    .params(0..60)
    .workers(30)
    .timeout(Duration::from_millis(300))
    .collect();
    for (n, outcome) in collected.outcomes.iter().enumerate() {
        match outcome {
            Outcome::TimedOut { limit } => assert!(n % 3 == 0 && *limit == Duration::from_millis(300), "{n}"),
            outcome => assert!(n % 3 != 0 && outcome.is_ok(), "{n}: {outcome:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_what_is_pending() {
    let job = Job::new(|_: u64| std::future::pending::<Result<(), String>>()).params(0..).workers(20).start();
    let handle = job.handle();
    while handle.view().await.is_none_or(|view| view.active() < 20) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    handle.stop(Stop::Hard);
    let report = tokio::time::timeout(Duration::from_secs(10), job.join()).await.expect("the job ends");
    assert_eq!(report.counts.of(Word::Ok), 0);
    assert!(report.counts.handed_back >= 20, "{}", report.counts.handed_back);
}

#[test]
fn a_panic_at_any_poll_is_the_tasks_own() {
    let report = Job::new(|n: u64| async move {
        if n % 4 == 1 {
            panic!("at the first poll");
        }
        tokio::task::yield_now().await;
        if n % 4 == 2 {
            panic!("at the second");
        }
        Ok::<_, String>(n)
    })
    .params(0..400)
    .run();
    assert_eq!((report.counts.of(Word::Panicked), report.ok()), (200, 200));
}

#[test]
fn sleeps_go_on_while_a_handler_of_the_same_lane_blocks() {
    let collected = Job::new(|n: u64| async move {
        if n == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok::<_, String>(std::time::Instant::now())
    })
    .params(0..2_000)
    .workers(10)
    .lane_workers(LaneKind::Async, 10)
    .collect();
    let ends = collected.results().expect("all ok");
    // All but the few that were taken together with the one that blocks have ended before it.
    let before = ends[1..].iter().filter(|end| **end < ends[0]).count();
    assert!(before > 1_980, "{before} of 1999 ended while one blocked");
}

/// Also where a loop had called it in passing: what that loop would have run next, another one
/// runs.
#[test]
fn attempts_do_not_wait_for_a_callback_that_was_quick_and_blocks() {
    let report = Job::new(|n: u64| async move { Ok::<_, String>(n) })
        .params(0..100_000)
        .workers(50)
        .result_queue(10_000)
        .on_task_complete(|task| {
            if task.id() == 50_000 {
                std::thread::sleep(Duration::from_secs(1));
            }
        })
        .run();
    assert_eq!(report.ok(), 100_000);
    assert!(report.wait.max < Duration::from_millis(700), "an attempt waited for {:?}", report.wait.max);
}

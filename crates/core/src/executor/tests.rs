use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;

use super::*;

fn one_worker() -> Executor {
    Executor::builder().workers(LaneKind::Async, 1).workers(LaneKind::Blocking, 1).workers(LaneKind::Cpu, 1).build()
}

/// Fails instead of hanging.
fn in_time<O: Send + 'static>(work: impl FnOnce() -> O + Send + 'static) -> O {
    let (done, output) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    output.recv_timeout(Duration::from_secs(20)).expect("this hangs")
}

#[test]
fn each_lane_runs_what_is_submitted_to_it_and_the_summary_counts_it() {
    let pool = Executor::new();
    let name = || std::thread::current().name().unwrap_or_default().to_owned();
    assert!(pool.cpu().submit(name).wait().unwrap().starts_with("cpu-"));
    assert!(pool.blocking().submit(name).wait().unwrap().starts_with("blocking"));
    assert!(pool.futures().submit(async move { name() }).wait().unwrap().starts_with("longshore"));
    assert!(pool.blocking().try_submit(|_| Err::<(), _>("no")).wait().is_err());
    let closed = pool.close();
    assert_eq!((closed.ok(), closed.failed(), closed.unread), (3, 1, 0));
    assert_eq!(
        closed.lanes.iter().map(|(lane, summary)| (*lane, summary.done())).collect::<Vec<_>>(),
        [(LaneKind::Async, 1), (LaneKind::Blocking, 2), (LaneKind::Cpu, 1)]
    );
}

#[test]
fn no_more_calls_run_at_once_than_the_lane_has_workers_and_none_is_lost() {
    let pool = Executor::builder().workers(LaneKind::Blocking, 3).build();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handles: Vec<_> = (0..200)
        .map(|n| {
            let (running, most) = (running.clone(), most.clone());
            pool.blocking().submit(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                n
            })
        })
        .collect();
    assert_eq!(gather(handles).wait().unwrap(), (0..200).collect::<Vec<_>>());
    assert!(most.load(Ordering::SeqCst) <= 3);
    assert_eq!(pool.close().ok(), 200);
}

#[test]
fn a_panic_is_the_error_of_its_call_alone() {
    let pool = one_worker();
    let first = pool.cpu().submit(|| panic!("boom {}", 7));
    let second = pool.cpu().submit(|| 2);
    let third = pool.futures().submit(async { panic!("in a future") });
    let error: TaskError = first.wait().unwrap_err();
    assert_eq!((error.kind(), error.message()), ("panicked", "boom 7"));
    assert_eq!(second.wait().unwrap(), 2);
    let error: TaskError = third.wait().unwrap_err();
    assert_eq!((error.kind(), error.message()), ("panicked", "in a future"));
}

#[test]
fn waiting_inside_a_call_for_calls_of_the_same_lane_does_not_deadlock() {
    fn fib(pool: &Executor, n: u64) -> u64 {
        if n < 2 {
            return n;
        }
        let inner = pool.clone();
        let left = pool.cpu().submit(move || fib(&inner, n - 1));
        let inner = pool.clone();
        let right = pool.cpu().submit(move || fib(&inner, n - 2));
        left.wait().unwrap() + right.wait().unwrap()
    }
    assert_eq!(in_time(|| fib(&one_worker(), 12)), 144);
}

#[test]
fn a_future_that_awaits_futures_of_the_same_lane_does_not_deadlock() {
    fn sum(pool: Executor, n: u64) -> futures_util::future::BoxFuture<'static, u64> {
        async move {
            if n == 0 {
                return 0;
            }
            tokio::task::yield_now().await;
            n + pool.futures().submit(sum(pool.clone(), n - 1)).await.unwrap()
        }
        .boxed()
    }
    let total = in_time(|| {
        let pool = one_worker();
        pool.futures().submit(sum(pool.clone(), 20)).wait().unwrap()
    });
    assert_eq!(total, 210);
}

#[test]
fn threads_that_wait_for_futures_that_wait_for_threads_do_not_deadlock() {
    let total = in_time(|| {
        let pool = Executor::builder().workers(LaneKind::Blocking, 2).build();
        let both = Arc::new(Barrier::new(2));
        let parents = (0..2).map(|n| {
            let (pool, both) = (pool.clone(), both.clone());
            pool.clone().blocking().submit(move || {
                let inner = pool.clone();
                let (begun, begins) = mpsc::channel();
                let child = pool.futures().submit(async move {
                    begun.send(()).unwrap();
                    inner.blocking().submit(move || n + 1).await.unwrap()
                });
                // The child runs on its own lane, and both threads of this one are taken.
                begins.recv().unwrap();
                both.wait();
                child.wait().unwrap()
            })
        });
        gather(parents.collect::<Vec<_>>()).wait().unwrap().into_iter().sum::<i32>()
    });
    assert_eq!(total, 3);
}

#[test]
fn blocking_in_an_async_task_of_the_pool_is_a_clear_error() {
    let pool = one_worker();
    let inner = pool.clone();
    let (error, panic) = in_time(move || {
        let outer = pool.futures().submit(async move {
            let (go, gone) = mpsc::channel::<()>();
            let held = inner.blocking().submit(move || gone.recv().is_ok());
            let error = held.wait().unwrap_err();
            drop(go);
            error
        });
        let error = outer.wait().unwrap();
        let inner = pool.clone();
        let panic = pool.futures().submit(async move { inner.cpu().map(0..3, |n| n).results().unwrap() }).wait().unwrap_err();
        (error, panic)
    });
    assert_eq!(error.kind(), "deadlock");
    assert!(panic.message().contains("use its async form"), "{panic}");
}

#[test]
fn cancelling_ends_what_waits_and_what_listens() {
    let pool = one_worker();
    let (begun, begins) = mpsc::channel();
    let first = pool.blocking().try_submit(move |token: &CancelToken| {
        begun.send(()).unwrap();
        while !token.is_cancelled() {
            std::thread::yield_now();
        }
        Err::<(), _>("told to end")
    });
    begins.recv().unwrap();
    let second = pool.blocking().submit(|| ());
    let endless = pool.futures().submit(std::future::pending::<()>());
    assert!(second.is_waiting() && !first.is_finished());
    for handle in [&first, &second, &endless] {
        handle.cancel();
    }
    assert_eq!(first.wait().unwrap_err().message(), "told to end");
    assert_eq!(second.wait().unwrap_err().kind(), "cancelled");
    assert_eq!(endless.wait().unwrap_err().kind(), "cancelled");
    assert_eq!(pool.close().failed(), 3);
}

#[test]
fn dropping_the_pool_ends_every_handle() {
    let pool = one_worker();
    let running = pool.futures().submit(std::future::pending::<()>());
    let waiting = pool.futures().submit(std::future::pending::<()>());
    drop(pool);
    let kinds = in_time(move || [running.wait().unwrap_err(), waiting.wait().unwrap_err()]);
    assert!(kinds.iter().all(|error| error.kind() == "cancelled"), "{kinds:?}");
}

#[test]
fn leaving_a_scope_waits_and_a_panic_in_it_cancels() {
    let done = Arc::new(AtomicUsize::new(0));
    let count = done.clone();
    let ((), closed) = Executor::scope(|pool| {
        for _ in 0..50 {
            let (count, pool) = (count.clone(), pool.clone());
            // Submitted by a call while the scope is already being left.
            pool.clone().blocking().submit(move || pool.cpu().submit(move || count.fetch_add(1, Ordering::SeqCst)).forget()).forget();
        }
    });
    assert_eq!((done.load(Ordering::SeqCst), closed.ok()), (50, 100));

    let (gone, told) = mpsc::channel::<()>();
    let panic = std::panic::catch_unwind(move || {
        Executor::scope(|pool| {
            pool.futures()
                .submit(async move {
                    let _held = gone;
                    std::future::pending::<()>().await;
                })
                .forget();
            panic!("out");
        })
    });
    assert!(panic.is_err());
    assert!(told.recv_timeout(Duration::from_secs(20)).is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn failures_that_nobody_read_are_counted() {
    let pool = one_worker();
    pool.blocking().try_submit(|_| Err::<(), _>("first")).forget();
    let held = pool.blocking().try_submit(|_| Err::<(), _>("second"));
    pool.blocking().submit(|| ()).wait().unwrap();
    drop(held);
    let closed = pool.close();
    assert_eq!((closed.unread, closed.failed()), (2, 2));
    assert_eq!(closed.first_unread.unwrap().message(), "first");
}

#[test]
fn a_timeout_ends_a_future_and_gives_up_on_a_function() {
    let pool = Executor::builder().timeout(Duration::from_millis(30)).build();
    let (go, gone) = mpsc::channel::<()>();
    let function = pool.blocking().submit(move || gone.recv().is_ok());
    let future = pool.futures().submit(std::future::pending::<()>());
    assert_eq!(function.wait().unwrap_err().kind(), "timeout");
    assert_eq!(future.wait().unwrap_err().kind(), "timeout");
    drop(go);
    assert_eq!(pool.close().counts.timeout, 2);
}

#[test]
fn a_full_queue_and_a_closed_pool_refuse_with_their_reason() {
    let pool = Executor::builder().workers(LaneKind::Blocking, 1).queue(1).build();
    let (go, gone) = mpsc::channel::<()>();
    let held = pool.blocking().submit(move || gone.recv().is_ok());
    let mut waiting = Vec::new();
    let full = loop {
        let handle = pool.blocking().submit(|| true);
        if handle.is_finished() {
            break handle;
        }
        waiting.push(handle);
        assert!(waiting.len() < 100);
    };
    assert_eq!(full.wait().unwrap_err().kind(), "full");
    drop(go);
    assert!(!held.wait().unwrap());
    assert!(gather(waiting).wait().unwrap().into_iter().all(|ran| ran));
    let late = pool.clone();
    pool.close();
    assert_eq!(late.cpu().submit(|| ()).wait().unwrap_err().kind(), "closed");
}

#[test]
fn map_keeps_the_order_and_draws_no_more_than_it_needs() {
    let pool = Executor::builder().workers(LaneKind::Blocking, 2).build();
    let drawn = Arc::new(AtomicUsize::new(0));
    let count = drawn.clone();
    let input = (0u64..).inspect(move |_| _ = count.fetch_add(1, Ordering::SeqCst));
    let mut map = pool.blocking().map(input, |n| n * n).chunk(1);
    for n in 0..100u64 {
        assert_eq!(map.next().unwrap().unwrap(), n * n);
    }
    assert!(drawn.load(Ordering::SeqCst) <= 116, "{drawn:?}");
    drop(map);
    let all = pool.cpu().map(0..100_000u64, |n| n + 1).results().unwrap();
    assert!(all.into_iter().eq(1..=100_000));
    // What was cancelled unseen is no unread failure.
    assert_eq!(pool.close().unread, 0);
}

#[test]
fn map_works_on_every_lane_from_blocking_and_async_code_and_inside_a_runtime() {
    let pool = Executor::new();
    let doubled = |n: u32| async move { n * 2 };
    let expected: Vec<_> = (0..500).map(|n| n * 2).collect();
    assert_eq!(pool.futures().map(0..500, doubled).results().unwrap(), expected);
    assert_eq!(pool.blocking().map(0..500, |n| n * 2).results().unwrap(), expected);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        // Blocking inside a runtime that runs already: it blocks, and does not panic.
        assert_eq!(pool.cpu().map(0..500, |n| n * 2).results().unwrap(), expected);
        let streamed: Vec<u32> = pool.futures().map(0..500, doubled).stream().map(Result::unwrap).collect().await;
        assert_eq!(streamed, expected);
        let (all, closed) = Executor::scope_async(|own| async move { gather((0..3).map(|n| own.cpu().submit(move || n))).await }).await;
        assert_eq!((all.unwrap(), closed.ok()), (vec![0, 1, 2], 3));
    });
}

#[test]
fn an_unordered_map_gives_what_is_done_and_errors_still_name_their_input() {
    let pool = Executor::builder().workers(LaneKind::Blocking, 2).build();
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let mut map = pool
        .blocking()
        .try_map(0..3, move |n| match n {
            0 => Ok(gone.lock().unwrap().recv().is_ok()),
            1 => Err("one"),
            _ => Ok(true),
        })
        .chunk(1)
        .unordered();
    let early = [map.next().unwrap(), map.next().unwrap()].map(|ended| ended.map_err(|error| error.to_string()));
    assert!(early.contains(&Ok(true)) && early.contains(&Err("input 1: error: one".to_owned())), "{early:?}");
    drop(go);
    assert!(!map.next().unwrap().unwrap());
    assert!(map.next().is_none());
}

#[test]
fn map_over_two_inputs_says_when_their_lengths_differ_before_anything_runs() {
    let pool = one_worker();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = ran.clone();
    let add = move |a: u32, b: u32| {
        count.fetch_add(1, Ordering::SeqCst);
        a + b
    };
    assert_eq!(pool.cpu().map2([1, 2, 3], [10, 20, 30], add.clone()).results().unwrap(), [11, 22, 33]);
    let error = pool.cpu().map2([1, 2, 3], [10], add.clone()).results().unwrap_err();
    assert_eq!(error.to_string(), "input 0: invalid: the inputs differ in length: the first has 3, the second 1");
    assert_eq!(ran.load(Ordering::SeqCst), 3);
    // Lengths that nobody knows beforehand.
    let mut map = pool.cpu().map2((0..).take_while(|n| *n < 2), (0..).take_while(|n| *n < 5), add);
    assert_eq!((map.next().unwrap().unwrap(), map.next().unwrap().unwrap()), (0, 2));
    let error = map.next().unwrap().unwrap_err();
    assert_eq!((error.index, error.error.message()), (2, "the inputs differ in length: the first has 2, the second at least 3"));
}

#[test]
fn gather_fails_fast_and_cancels_the_rest() {
    let pool = one_worker();
    let handles = vec![
        pool.futures().try_submit::<(), Result<(), &str>>(async { std::future::pending().await }),
        pool.blocking().try_submit(|_| Err("early")),
    ];
    let error = in_time(|| gather(handles).wait().unwrap_err());
    assert_eq!((error.index, error.error.message()), (1, "early"));
    let closed = in_time(|| pool.close());
    assert_eq!((closed.failed(), closed.unread), (2, 0));
}

#[test]
fn a_reader_may_wait_for_a_time_and_have_its_handle_back() {
    let pool = one_worker();
    let (go, gone) = mpsc::channel::<()>();
    let handle = pool.blocking().submit(move || gone.recv().is_ok());
    let began = Instant::now();
    let Err((_, handle)) = handle.wait_timeout(Duration::from_millis(20)) else { panic!("it cannot be done") };
    assert!(began.elapsed() >= Duration::from_millis(20));
    drop(go);
    assert!(!handle.wait().unwrap());
}

#[test]
fn map_inside_a_call_of_the_same_lane_does_not_deadlock() {
    let all = in_time(|| {
        let pool = one_worker();
        let inner = pool.clone();
        pool.cpu()
            .map(0..10u64, move |n| inner.cpu().map(0..n, |m| m).chunk(1).results().unwrap().into_iter().sum::<u64>())
            .results()
            .unwrap()
    });
    assert_eq!(all, (0..10u64).map(|n| (0..n).sum()).collect::<Vec<u64>>());
}

#[test]
fn closing_a_pool_inside_one_of_its_calls_is_a_clear_error() {
    let pool = one_worker();
    let inner = pool.clone();
    let error = in_time(move || pool.blocking().submit(move || inner.close().ok()).wait().unwrap_err());
    assert!(error.message().contains("wait for that very call"), "{error}");
}

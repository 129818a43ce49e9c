//! A million async tasks: no-ops, and tasks that suspend once.

use std::{
    future::Future,
    hint::black_box,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream};
use hdrhistogram::Histogram;
use longshore::Job;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::harness::{Args, on, runtime, table, way};

/// Suspends once, if asked to.
struct Once(bool);

impl Future for Once {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, false) {
            cx.waker().wake_by_ref();
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

async fn task(n: u64, suspend: bool) -> Result<u64, String> {
    Once(suspend).await;
    black_box(Ok(n + 1))
}

type Boxed = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;
type Handler = Arc<dyn Fn(u64) -> Boxed + Send + Sync>;

pub(crate) fn run(args: &Args) {
    let runtime = runtime();
    let n = args.tasks;
    for suspend in [false, true] {
        for at_once in [50, 500] {
            let title = format!("{n} async tasks, {}, {at_once} at once", if suspend { "suspending once" } else { "no-op" });
            let on = |future: Pin<Box<dyn Future<Output = u64> + Send>>| assert_eq!(on(&runtime, future), n * (n + 1) / 2);
            let plain = way("bare `buffer_unordered`", || on(Box::pin(bare(n, at_once, suspend))));
            let ways = vec![
                if suspend { plain } else { plain.limit(2.5) },
                way("by hand on `buffer_unordered`, same features", || on(Box::pin(by_hand(n, at_once, suspend)))).limit(0.8),
                way("`JoinSet` + semaphore, bare", || on(Box::pin(join_set(n, at_once, suspend)))).limit(0.33),
                way("longshore", || on(Box::pin(ours(n, at_once, suspend)))),
            ];
            table(&title, ways, args, n);
        }
    }
}

async fn bare(n: u64, at_once: usize, suspend: bool) -> u64 {
    stream::iter(0..n)
        .map(|i| task(i, suspend))
        .buffer_unordered(at_once)
        .fold(0, |sum, result| async move { sum + result.expect("ok") })
        .await
}

/// What a careful user writes: panics caught, timed, statistics, a boxed handler, a callback.
async fn by_hand(n: u64, at_once: usize, suspend: bool) -> u64 {
    let handler: Handler = Arc::new(move |i| Box::pin(task(i, suspend)));
    let mut histogram = Histogram::<u32>::new_with_bounds(1, 3_600_000_000, 2).expect("bounds");
    let mut sum = 0;
    let mut on_task_complete = |result: &Result<u64, String>| sum += result.as_ref().expect("ok");
    let mut results = stream::iter(0..n)
        .map(|i| {
            let handler = handler.clone();
            async move {
                let start = Instant::now();
                let result = AssertUnwindSafe(handler(i)).catch_unwind().await.unwrap_or_else(|_| Err("panicked".to_owned()));
                (result, start.elapsed())
            }
        })
        .buffer_unordered(at_once);
    while let Some((result, took)) = results.next().await {
        histogram.saturating_record(took.as_micros() as u64);
        on_task_complete(&result);
    }
    drop(results);
    black_box(&histogram);
    sum
}

async fn join_set(n: u64, at_once: usize, suspend: bool) -> u64 {
    let slots = Arc::new(Semaphore::new(at_once));
    let mut set = JoinSet::new();
    let mut sum = 0;
    for i in 0..n {
        let slot = slots.clone().acquire_owned().await.expect("open");
        set.spawn(async move {
            let result = task(i, suspend).await;
            drop(slot);
            result
        });
        while let Some(done) = set.try_join_next() {
            sum += done.expect("no panic").expect("ok");
        }
    }
    while let Some(done) = set.join_next().await {
        sum += done.expect("no panic").expect("ok");
    }
    sum
}

async fn ours(n: u64, at_once: usize, suspend: bool) -> u64 {
    let sum = Arc::new(AtomicU64::new(0));
    let total = sum.clone();
    let report = Job::new(move |i| task(i, suspend))
        .params(0..n)
        .workers(at_once)
        .timeout(Duration::from_secs(30))
        .on_task_complete(move |done| {
            total.fetch_add(*done.result().expect("ok"), Ordering::Relaxed);
        })
        .start()
        .join()
        .await;
    assert_eq!(report.ok(), n);
    sum.load(Ordering::Relaxed)
}

//! What a task costs the engine, for a comparison of two builds:
//! `cost async|suspend|blocking|cpu|collect TASKS ROUNDS none|tasks|labels`
//! prints, for each round, nanoseconds and CPU nanoseconds a task.
//!
//! `WORKERS=500` in the environment sets how many tasks of the async lane run at once (else 50),
//! `THREADS=1` the threads of the runtime (else 2).
//!
//! The last word is who looks on: nobody, a listener that hears of each task, or a label by which
//! tasks are counted.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_core::{Job, watch::Events};
use longshore_sys::clock::process_cpu_time;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [work, tasks, rounds, ears] = words.as_slice() else { panic!("cost WORK TASKS ROUNDS EARS") };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (tasks, rounds) = (number(tasks), number(rounds));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(setting("THREADS", 2)).enable_all().build().expect("a runtime");
    for _ in 0..rounds {
        let (work, ears) = (work.clone(), ears.clone());
        let (began, used) = (Instant::now(), process_cpu_time());
        runtime.block_on(async { tokio::spawn(run(work, tasks, ears)).await.expect("no panic") });
        let each = |time: Duration| time.as_secs_f64() * 1e9 / tasks as f64;
        println!("{:.2} {:.2}", each(began.elapsed()), each(process_cpu_time() - used));
    }
}

async fn run(work: String, tasks: u64, ears: String) {
    let job = match work.as_str() {
        "async" => Job::new(|n| async move { black_box(Ok::<_, String>(n + 1)) }).workers(setting("WORKERS", 50)),
        "suspend" => Job::new(|n| async move {
            tokio::task::yield_now().await;
            black_box(Ok::<_, String>(n + 1))
        })
        .workers(setting("WORKERS", 50)),
        "blocking" | "collect" => Job::blocking(|n| black_box(Ok::<_, String>(n + 1))).workers(2),
        "cpu" => Job::cpu(|n| black_box(Ok::<_, String>(n + 1))).workers(2),
        other => panic!("no such work: {other}"),
    };
    let job = job.params(0..tasks).timeout(Duration::from_secs(30));
    let (heard, job) = match ears.as_str() {
        "none" => (None, job),
        "tasks" => {
            let (events, job) = job.events(100_000);
            (Some(std::thread::spawn(move || count(events))), job)
        }
        "labels" => (None, job.count_by("parity", |n| if n % 2 == 0 { "even" } else { "odd" })),
        other => panic!("no such ears: {other}"),
    };
    if work == "collect" {
        let results = job.start_collecting().await.results().expect("all ok");
        assert_eq!(results.len() as u64, tasks);
    } else {
        let sum = Arc::new(AtomicU64::new(0));
        let total = sum.clone();
        let job = job.on_task_complete(move |done| {
            total.fetch_add(*done.result().expect("ok"), Ordering::Relaxed);
        });
        assert_eq!(job.start().join().await.ok(), tasks);
        assert_eq!(sum.load(Ordering::Relaxed), tasks * (tasks + 1) / 2);
    }
    if let Some(heard) = heard {
        black_box(heard.join().expect("it counts"));
    }
}

fn setting(name: &str, or: usize) -> usize {
    std::env::var(name).map_or(or, |text| text.parse().expect("a number"))
}

fn count<E>(mut events: Events<E>) -> usize {
    std::iter::from_fn(|| events.blocking_next()).count()
}

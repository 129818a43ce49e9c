//! Scenarios with a queue between: producer and consumer, many workers, a pipeline, mixed work, a
//! leaky bucket.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use longshore_core::{Job, LaneKind, Pipeline, Rate, SendError, Sender, TaskError};

use crate::stage::{Settings, Shown, Stage};

fn inside<O>(work: impl Future<Output = O>) -> Result<O> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work))
}

/// One producer, one consumer, a queue of five between them, and `drained`.
pub(crate) fn producer_consumer(settings: &Settings) -> Result<Shown> {
    let count = settings.items(8);
    let mut luck = fastrand::Rng::with_seed(settings.seed);
    let mut between =
        |low: f64, high: f64| -> Vec<Duration> { (0..count).map(|_| settings.time(low + (high - low) * luck.f64())).collect() };
    let (making, working) = (between(0.1, 0.3), between(0.2, 0.5));
    let workers = settings.workers(1);
    let mut stage =
        Stage::new(format!("{count} items, made in 0.1–0.3 s and worked on in 0.2–0.5 s each, a queue of 5, {workers} consumer"));
    stage.took("make and work, one after another", making.iter().chain(&working).sum());
    let (done, drained) = stage.way("producer beside consumer", || {
        inside(async {
            let takes = working.clone();
            let (sender, job) = Job::new(move |nth: usize| {
                let takes = takes[nth];
                async move {
                    tokio::time::sleep(takes).await;
                    Ok::<_, String>(nth)
                }
            })
            .workers(workers)
            .queue(0)
            .sender(5);
            let running = job.start();
            for (nth, takes) in making.iter().enumerate() {
                sender.send(nth).await.map_err(|error| anyhow::anyhow!("{error}"))?;
                tokio::time::sleep(*takes).await;
            }
            sender.drained().await?;
            let counts = sender.counts();
            drop(sender);
            Ok::<_, anyhow::Error>((running.join().await.ok(), counts))
        })?
    })?;
    ensure!(done == count as u64 && drained.settled == done, "{done} of {count} items were worked on");
    stage.fact(format!(
        "drained: {} sent, {} settled; the end came because the producer had finished, not because the queue was empty for a while",
        drained.sent, drained.settled
    ));
    let longest = making.iter().sum::<Duration>().max(working.iter().sum());
    Ok(stage.why(format!(
        "the slower side sets the pace ({longest:.1?} of it), and the queue's five places keep the faster one from running away"
    )))
}

/// Twelve tasks of different weight, three workers, and what each of them did.
pub(crate) fn workers(settings: &Settings) -> Result<Shown> {
    let (count, workers) = (settings.items(12), settings.workers(3));
    let mut luck = fastrand::Rng::with_seed(settings.seed);
    let tasks: Vec<Duration> = (0..count).map(|_| settings.time(f64::from(luck.u8(1..=5)) * 0.2)).collect();
    let mut stage = Stage::new(format!("{count} tasks of 0.2 to 1 s, {workers} workers, a results collector"));
    stage.took("the tasks' own times, added", tasks.iter().sum());
    let collected = Arc::new(Mutex::new(Vec::new()));
    let collector = collected.clone();
    let own = tasks.clone();
    let report = stage.way(format!("blocking lane, {workers} workers"), || {
        Ok(Job::blocking(move |nth: usize| {
            sleep(own[nth]);
            Ok::<_, String>(format!("processed task {}", nth + 1))
        })
        .workers(workers)
        .params(0..count)
        .on_task_complete(move |task| {
            collector.lock().unwrap_or_else(PoisonError::into_inner).push((task.slot, task.id()));
        })
        .run())
    })?;
    let collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(report.is_clean() && collected.len() == count, "the collector has {} of {count}", collected.len());
    for slot in &report.slots {
        let own: Vec<String> = collected.iter().filter(|(by, _)| *by == slot.slot).map(|(_, id)| id.to_string()).collect();
        stage.fact(format!(
            "worker {}: {} tasks ({}), busy {:.2?}, {:.0} % of the time",
            slot.slot + 1,
            slot.tasks,
            own.join(" "),
            slot.busy,
            slot.share * 100.0
        ));
    }
    ensure!(report.slots.len() == workers.min(count), "some worker had nothing to do");
    Ok(stage.why("whoever is free takes the next task, so that the workers are done at about the same time"))
}

/// Three stages with queues of three between them.
pub(crate) fn pipeline(settings: &Settings) -> Result<Shown> {
    let (count, workers) = (settings.items(8) as u32, settings.workers(1));
    let [load, transform, store, every] = [0.3, 0.4, 0.2, 0.1].map(|seconds| settings.time(seconds));
    let title = format!("{count} items, one every {every:?}, through load {load:?}, transform {transform:?}, store {store:?}, queues of 3");
    let mut stage = Stage::new(title);
    stage.took("one after another (the stages' times, added)", (load + transform + store) * count);
    let slowest = load.max(transform / workers as u32).max(store).max(every);
    stage.took("the ideal: one item's way, and the slowest stage for each of the others", load + transform + store + slowest * (count - 1));
    let line = |name: &'static str, takes: Duration| {
        longshore_core::Stage::blocking(move |item: u32| {
            sleep(takes);
            Ok::<_, String>(item)
        })
        .name(name)
        .queue(3)
    };
    let collected = stage.way("pipeline", || {
        let items = (0..count).inspect(move |item| {
            if *item > 0 {
                sleep(every)
            }
        });
        let second = line("transform", transform).workers(workers);
        Ok(Pipeline::from_iter(items).stage(line("load", load)).stage(second).stage(line("store", store)).collect())
    })?;
    ensure!(collected.outputs == (0..count).collect::<Vec<_>>(), "not every item came out once, in order: {:?}", collected.outputs);
    for line in collected.report.to_string().lines() {
        stage.fact(line);
    }
    Ok(stage.why("all stages work at once on different items; the slowest sets the pace, and a full queue tells the one before to wait"))
}

/// Waiting and computing tasks in one queue: everything on one lane, each on its own, one after
/// another.
pub(crate) fn mixed(settings: &Settings) -> Result<Shown> {
    let waits = settings.items(50);
    let (wait, computes) = (settings.time(0.1), 8);
    let steps = steps_in(settings.time(0.1));
    let mut stage = Stage::new(format!("{waits} waits of {wait:?} and {computes} computations of about 0.1 s × scale, mixed in one queue"));
    let began = Instant::now();
    for _ in 0..waits.min(10) {
        sleep(wait);
    }
    let alone = began.elapsed().mul_f64(waits as f64 / waits.min(10) as f64);
    let began = Instant::now();
    for _ in 0..computes {
        compute(steps);
    }
    stage.took("one after another (a part of the waits, extrapolated)", alone + began.elapsed());
    let mut worst = Vec::new();
    for (name, lane) in [("everything on the async lane (wrong)", LaneKind::Async), ("each on its lane", LaneKind::Cpu)] {
        let late = stage.way(name, || {
            let collected = Job::new(move |nth: usize| async move {
                if is_computation(nth) {
                    compute(steps);
                    return Ok::<_, String>(None);
                }
                let began = Instant::now();
                tokio::time::sleep(wait).await;
                Ok(Some(began.elapsed().saturating_sub(wait)))
            })
            .on_cpu(move |_, _| {
                compute(steps);
                Ok::<_, String>(None)
            })
            .lane_of(move |nth| if is_computation(*nth) { lane } else { LaneKind::Async })
            .workers(settings.workers(waits + computes))
            .params(0..waits + computes)
            .collect();
            let late = collected.results().map_err(|(place, error)| anyhow::anyhow!("task {place}: {error}"))?;
            Ok(late.into_iter().flatten().max().unwrap_or_default())
        })?;
        worst.push(late);
        stage.fact(format!("{name}: waits came late by {late:.1?} at most"));
    }
    Ok(stage.why("a task that computes holds the loop that all waits share; on a lane of its own it holds up nobody"))
}

fn is_computation(nth: usize) -> bool {
    nth < 16 && nth % 2 == 1
}

fn compute(steps: u64) {
    std::hint::black_box((0..steps).fold(0u64, |sum, step| sum.wrapping_add(std::hint::black_box(step))));
}

/// Returns how many steps take about this time here.
fn steps_in(time: Duration) -> u64 {
    let (trial, began) = (2_000_000, Instant::now());
    compute(trial);
    (trial as f64 * time.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9)) as u64
}

/// A bucket that leaks at a constant rate, offered three times that.
pub(crate) fn leaky_bucket(settings: &Settings) -> Result<Shown> {
    let (capacity, leak) = (10, 50.0 / settings.scale.max(0.01));
    let offered = settings.items(150);
    let every = Duration::from_secs_f64(1.0 / (3.0 * leak));
    let mut stage = Stage::new(format!("{offered} tasks offered at {:.0}/s to a bucket of {capacity} that leaks {leak:.0}/s", 3.0 * leak));
    let starts = Arc::new(Mutex::new(Vec::new()));
    let log = starts.clone();
    let (done, refused) = stage.way("until the bucket was empty", || {
        inside(async {
            let job = Job::new(move |_: usize| {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                async { Ok::<_, TaskError>(()) }
            });
            let (sender, job): (Sender<usize>, _) =
                job.workers(settings.workers(50)).queue(0).rate(Rate::per_second(leak)).sender(capacity);
            let running = job.start();
            let (began, mut refused) = (tokio::time::Instant::now(), 0);
            for nth in 0..offered {
                tokio::time::sleep_until(began + every * nth as u32).await;
                match sender.try_send(nth) {
                    Ok(()) => {}
                    Err(SendError::Full(_)) => refused += 1,
                    Err(error @ SendError::Closed(_)) => anyhow::bail!("{error}"),
                }
            }
            drop(sender);
            Ok((running.join().await.ok(), refused))
        })?
    })?;
    ensure!(done + refused == offered as u64, "{done} done and {refused} refused of {offered}");
    let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut gaps: Vec<f64> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps.get((gaps.len() as f64 * share) as usize).copied().unwrap_or_default();
    stage.fact(format!("{done} leaked, {refused} refused and given back: together all {offered}"));
    stage.fact(format!(
        "between two starts: p5 {:.1} ms, p50 {:.1} ms, p95 {:.1} ms (1/leak is {:.1} ms)",
        at(0.05),
        at(0.5),
        at(0.95),
        1e3 / leak
    ));
    Ok(stage.why("what comes in bursts leaves evenly; what does not fit is told so at once, and nothing piles up"))
}

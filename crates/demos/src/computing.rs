//! Scenarios that compute: against waiting, heavy chunks, chunked data with aggregates, tiny tasks.

use std::{
    hint::black_box,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use longshore_core::{Executor, LaneKind, gather};

use crate::stage::{Settings, Shown, Stage};

/// Work of these computations in multiples of the lesson's in Python: compiled code would be over
/// before it could be seen.
const MORE: u64 = 200;

fn squares(amount: u64) -> u64 {
    (0..amount).fold(0, |sum, i| sum.wrapping_add(black_box(i).wrapping_mul(i)))
}

/// Two waits and two computations: threads help the waits, cores the computations, and the wrong
/// lane neither.
pub(crate) fn io_vs_cpu(settings: &Settings) -> Result<Shown> {
    let (wait, amount) = (settings.time(1.0), settings.amount(1_000_000 * MORE));
    let mut stage = Stage::new(format!("two waits of {wait:?}, then two sums of {amount} squares"));
    stage.way("waits, one after another", || {
        for _ in 0..2 {
            sleep(wait);
        }
        Ok(())
    })?;
    let pool = Executor::new();
    stage.way("waits, blocking lane", || Ok(gather([(); 2].map(|()| pool.blocking().submit(move || sleep(wait)))).wait()?))?;
    let waits = stage.last_speed_up();

    let one = Instant::now();
    let sum = black_box(squares(amount));
    ensure!(squares(amount) == sum, "two equal sums differ");
    let alone = one.elapsed();
    let computed = |pool: &Executor, lane: LaneKind| -> Result<Duration> {
        let began = Instant::now();
        let handles = [(); 2].map(|()| match lane {
            LaneKind::Async => pool.futures().submit(async move { squares(amount) }),
            LaneKind::Blocking => pool.blocking().submit(move || squares(amount)),
            _ => pool.cpu().submit(move || squares(amount)),
        });
        ensure!(gather(handles).wait()? == [sum, sum], "the sums differ");
        Ok(began.elapsed())
    };
    let cpu = computed(&pool, LaneKind::Cpu)?;
    let late_beside_cpu = lateness(&pool, || computed(&pool, LaneKind::Cpu))?;
    // As many loops as such a program has when nobody thinks about it: one.
    let narrow = Executor::builder().workers(LaneKind::Async, 2).build();
    let wrong = computed(&narrow, LaneKind::Async)?;
    let late_beside_wrong = lateness(&narrow, || computed(&narrow, LaneKind::Async))?;
    stage.another_comparison();
    stage.took("sums, one after another", alone);
    stage.took_beside("sums, cpu lane", cpu, late_beside_cpu);
    stage.took_beside("sums, async lane (wrong)", wrong, late_beside_wrong);
    match python(settings.amount(1_000_000)) {
        Some((alone, threads)) => {
            stage.another_comparison();
            stage.took(format!("a {MORE}th of them in Python, one after another"), alone);
            stage.took(format!("a {MORE}th of them in Python, threads"), threads);
        }
        None => stage.fact("Python threads: python3 is not there, so not measured"),
    }
    Ok(stage.why(format!(
        "waits overlap whoever waits (×{waits:.1}); computing needs cores, which Python's threads share one of, and a lane of its own, or timers are late"
    )))
}

/// Runs `work`; returns how late, at most, a timer of the pool's async lane was meanwhile.
fn lateness(pool: &Executor, work: impl FnOnce() -> Result<Duration>) -> Result<Duration> {
    let tick = Duration::from_millis(5);
    let ticker = pool.futures().submit(async move {
        let mut worst = Duration::ZERO;
        for _ in 0..20 {
            let began = Instant::now();
            tokio::time::sleep(tick).await;
            worst = worst.max(began.elapsed().saturating_sub(tick));
        }
        worst
    });
    work()?;
    Ok(ticker.wait()?)
}

/// The lesson's CPU part in Python: one after another, and on two threads.
fn python(amount: u64) -> Option<(Duration, Duration)> {
    let script = "import sys,threading,time\n\
        n=int(sys.argv[1])\n\
        f=lambda: sum(i**2 for i in range(n))\n\
        a=time.perf_counter();f();f();b=time.perf_counter()\n\
        t=[threading.Thread(target=f) for _ in range(2)]\n\
        [x.start() for x in t];[x.join() for x in t];c=time.perf_counter()\n\
        print(b-a,c-b)";
    let output = Command::new("python3").args(["-c", script, &amount.to_string()]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut seconds = text.split_whitespace().map(|number| number.parse::<f64>().ok().map(Duration::from_secs_f64));
    Some((seconds.next()??, seconds.next()??))
}

fn heavy_computation(amount: u64) -> f64 {
    (0..amount).fold(0.0, |total, i| {
        let i = i as f64;
        total + (i.sin() * i.cos() + (i + 1.0).sqrt()) * (i + 1.0).ln()
    })
}

/// Four equal chunks of heavy computation.
pub(crate) fn heavy(settings: &Settings) -> Result<Shown> {
    let (chunks, amount) = (settings.items(4), settings.amount(500_000 * MORE / 20));
    let mut stage = Stage::new(format!("{chunks} chunks of {amount} steps of sine, root and logarithm"));
    let alone = stage.way("one after another", || Ok((0..chunks).map(|_| heavy_computation(amount)).collect::<Vec<_>>()))?;
    let cores = LaneKind::Cpu.default_workers();
    let workers = settings.workers(cores);
    let pool = Executor::builder().workers(LaneKind::Cpu, workers).build();
    let together =
        stage.way(format!("cpu lane, {workers} threads"), || Ok(pool.cpu().map(vec![amount; chunks], heavy_computation).results()?))?;
    ensure!(alone == together, "the two ways computed different totals");
    Ok(stage.why(format!("computing goes as many times faster as there are cores ({cores} here), in threads: there is no lock to share, so no need of processes")))
}

#[derive(Clone, Debug, PartialEq)]
struct Aggregate {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Aggregate {
    const NOTHING: Aggregate = Aggregate { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    /// Associative, so that it does not matter which chunk is done first.
    fn and(self, other: Aggregate) -> Aggregate {
        Aggregate { count: self.count + other.count, sum: self.sum + other.sum, min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

fn chunk(start: u64, size: u64) -> Aggregate {
    (start..start + size).fold(Aggregate::NOTHING, |all, value| {
        let value = value as f64;
        let value = value * value + value.sin() * 100.0;
        all.and(Aggregate { count: 1, sum: value, min: value, max: value })
    })
}

/// Chunks of one data set, aggregated as they are done; one of them fails.
pub(crate) fn chunks(settings: &Settings) -> Result<Shown> {
    let (count, size) = (settings.items(5) as u64, settings.amount(100_000 * MORE / 10));
    let bad = count / 2;
    let starts: Vec<u64> = (0..count).map(|nth| nth * size).collect();
    let work = move |start: u64| {
        let aggregate = chunk(start, size);
        if start == bad * size { Err("its third line has no value") } else { Ok(aggregate) }
    };
    let mut stage = Stage::new(format!("{count} chunks of {size} values, one of which fails; their sum, average, smallest and largest"));
    let alone = stage
        .way("one after another", || Ok(starts.iter().filter_map(|start| work(*start).ok()).fold(Aggregate::NOTHING, Aggregate::and)))?;
    let workers = settings.workers(4).min(LaneKind::Cpu.default_workers());
    let pool = Executor::builder().workers(LaneKind::Cpu, workers).build();
    let combined = stage.way(format!("cpu lane, {workers} threads, combined as completed"), || {
        Ok(pool.cpu().try_map(starts, work).chunk(1).combine(Aggregate::NOTHING, Aggregate::and))
    })?;
    let value = &combined.value;
    ensure!((value.count, value.min, value.max) == (alone.count, alone.min, alone.max), "the aggregates differ");
    ensure!((value.sum - alone.sum).abs() <= alone.sum.abs() * 1e-9, "the sums differ: {} and {}", value.sum, alone.sum);
    let average = value.sum / value.count.max(1) as f64;
    stage.fact(format!(
        "{} values: sum {:.4e}, average {average:.4e}, smallest {:.3}, largest {:.4e}",
        value.count, value.sum, value.min, value.max
    ));
    for failed in &combined.failed {
        stage.fact(format!("chunk {} failed, and the rest is kept: {}", failed.index + 1, failed.error.message()));
    }
    Ok(stage.why("what combines in any order need not wait for its turn; a failure is listed by its chunk, not by when it came"))
}

fn tiny_computation(n: u64) -> u64 {
    (0..n).map(black_box).sum()
}

/// Ten tiny tasks, then many: alone, each submitted, in chunks.
pub(crate) fn tiny(settings: &Settings) -> Result<Shown> {
    let few = 10;
    let many = settings.items((2_000_000.0 * settings.scale) as usize);
    let pool = Executor::new();
    pool.cpu().submit(|| ()).wait()?;
    let mut stage = Stage::new(format!("{few} sums of 1000 numbers, then {many} of them"));
    let once = |count: usize| -> Vec<u64> { (0..count).map(|_| tiny_computation(1000)).collect() };
    let each = |count: usize| {
        let handles: Vec<_> = (0..count).map(|_| pool.cpu().submit(|| tiny_computation(1000))).collect();
        gather(handles).wait()
    };
    let wanted = stage.way(format!("{few}, one after another"), || Ok(once(few)))?;
    let got = stage.way(format!("{few}, each submitted to the cpu lane"), || Ok(each(few)?))?;
    ensure!(wanted == got, "the sums differ");
    stage.verdict(
        few,
        if stage.last_speed_up() < 1.0 { "stay sequential: handing one over costs more than it takes" } else { "submit them" },
    );

    let began = Instant::now();
    let wanted = once(many);
    let alone = began.elapsed();
    let began = Instant::now();
    let got = pool.cpu().map(0..many, |_| tiny_computation(1000)).results()?;
    let batched = began.elapsed();
    ensure!(wanted == got, "the sums differ");
    // A tenth of them: the point is visible, and nobody waits for it.
    let part = (many / 10).clamp(1, 50_000);
    let began = Instant::now();
    each(part)?;
    let single = began.elapsed().mul_f64(many as f64 / part as f64);
    stage.another_comparison();
    stage.took(format!("{many}, one after another"), alone);
    stage.would_take(format!("{many}, each submitted"), single, part);
    stage.took(format!("{many}, in chunks found by measuring"), batched);
    stage.verdict(many, if batched < alone { "chunks" } else { "stay sequential" });
    Ok(stage.why("a hand-over costs microseconds: ten tiny tasks are done before, a million pay for it only in chunks"))
}

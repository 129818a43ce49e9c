//! `longshore bench`: what the engine, its lanes, its pace and its children reach on this machine.

use std::{
    hint::black_box,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_core::{
    Job, Rate,
    lane::child::{self, Children, Command, Limits},
};
use serde::Serialize;

/// One measured row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// Which part is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// A million no-op tasks.
    Engine,
    /// A round trip through each lane.
    Lanes,
    /// How even a leaky bucket's starts are.
    Pace,
    /// The cost of a child process.
    Spawn,
}

/// Measures a part.
///
/// # Errors
/// What kept it from being measured.
pub fn measure(part: Part, rate: f64) -> Result<Vec<Row>, String> {
    match part {
        Part::Engine => Ok(engine()),
        Part::Lanes => Ok(lanes()),
        Part::Pace => Ok(pace(rate)),
        Part::Spawn => spawn(),
    }
}

fn row(what: &'static str, value: f64, unit: &'static str) -> Row {
    Row { what, value, unit }
}

fn engine() -> Vec<Row> {
    const N: u64 = 1_000_000;
    let mut rows = Vec::new();
    for (what, at_once) in [("no-op async task, 50 at once", 50), ("no-op async task, 500 at once", 500)] {
        let began = Instant::now();
        let report = Job::new(|n: u64| async move { Ok::<_, String>(black_box(n)) }).params(0..N).workers(at_once).run();
        debug_assert_eq!(report.ok(), N);
        rows.push(row(what, began.elapsed().as_secs_f64() * 1e9 / N as f64, "ns"));
    }
    rows
}

fn lanes() -> Vec<Row> {
    const N: u64 = 20_000;
    let each = |began: Instant| began.elapsed().as_secs_f64() * 1e6 / N as f64;
    let began = Instant::now();
    Job::<u64, u64>::new(|n| async move { Ok::<_, String>(n) }).params(0..N).workers(1).run();
    let on_async = each(began);
    let began = Instant::now();
    Job::<u64, u64>::blocking(Ok::<_, String>).params(0..N).workers(1).run();
    let blocking = each(began);
    let began = Instant::now();
    Job::<u64, u64>::cpu(Ok::<_, String>).params(0..N).run();
    let cpu = each(began);
    vec![
        row("async lane, one at a time", on_async, "µs"),
        row("blocking lane, one at a time", blocking, "µs"),
        row("cpu lane, tiny items in chunks", cpu, "µs"),
    ]
}

fn pace(rate: f64) -> Vec<Row> {
    let count = (rate * 3.0).max(10.0) as u64;
    let starts = Arc::new(Mutex::new(Vec::with_capacity(count as usize)));
    let noted = starts.clone();
    let began = Instant::now();
    Job::new(move |_: u64| {
        let noted = noted.clone();
        async move {
            if let Ok(mut noted) = noted.lock() {
                noted.push(Instant::now());
            }
            Ok::<_, String>(())
        }
    })
    .params(0..count)
    .workers(50)
    .rate(Rate::per_second(rate))
    .run();
    let wall = began.elapsed().as_secs_f64();
    let starts = starts.lock().map(|starts| starts.clone()).unwrap_or_default();
    let window = Duration::from_millis(100);
    let (mut most, mut first) = (0, 0);
    for (last, at) in starts.iter().enumerate() {
        while starts[first] + window <= *at {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    vec![
        row("asked", rate, "/s"),
        row("reached", (count - 1) as f64 / wall, "/s"),
        row("most in any 100 ms", most as f64, "starts"),
        row("ideal in 100 ms", rate / 10.0, "starts"),
    ]
}

fn spawn() -> Result<Vec<Row>, String> {
    const N: u32 = 500;
    let children = Children::new().map_err(|error| error.to_string())?;
    let command = Command { program: "true".into(), ..Command::default() };
    let cpu = AtomicU64::new(0);
    let (own, began) = (longshore_sys::clock::process_cpu_time(), Instant::now());
    for _ in 0..N {
        let output = child::run(&command, &Limits::default(), 0, &children).map_err(|error| error.to_string())?;
        cpu.fetch_add(u64::try_from(output.usage.cpu().as_micros()).unwrap_or(0), Ordering::Relaxed);
    }
    let wall = began.elapsed().as_secs_f64() * 1e3 / f64::from(N);
    let ours = (longshore_sys::clock::process_cpu_time() - own).as_secs_f64() * 1e3 / f64::from(N);
    let theirs = cpu.load(Ordering::Relaxed) as f64 / 1e3 / f64::from(N);
    Ok(vec![row("`true`, wall", wall, "ms"), row("`true`, our CPU", ours, "ms"), row("`true`, its CPU", theirs, "ms")])
}

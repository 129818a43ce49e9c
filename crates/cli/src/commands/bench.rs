//! `longshore bench`: what the engine, its lanes, its pace and its children reach on this machine,
//! and the task queue on a broker.
//!
//! Layout: here what is measured within the process; `queue.rs`: the task queue; `baseline.rs`:
//! what was measured before, and what is worse

mod baseline;
mod queue;

use std::{
    hint::black_box,
    io::Write,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use longshore_core::{
    Job, Rate,
    lane::child::{self, Children, Command, Limits},
};
use serde::Serialize;

use crate::{config::Config, exit::Exit, fault::Fault, global::Global};
use longshore_run::jobs::StateDir;

/// One measured row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the measured quantity.
    pub what: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// `longshore bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What to measure; without a word the engine, its lanes, its pace and its children
    pub part: Vec<Part>,
    /// For pace: starts a second
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// For sqlite and redis: so many tasks
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    pub tasks: u32,
    /// Compare with what was measured before: last, or a file that `--json` wrote; 4 if anything is
    /// worse by more than 10 %
    #[arg(long, value_name = "last|FILE")]
    pub baseline: Option<String>,
}

/// Parts that can be measured.
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
    /// The task queue on a file of its own, or on the one that --broker names.
    Sqlite,
    /// The task queue on the server that --broker names, under keys of its own.
    Redis,
}

/// Measures, compares if that is asked for, and keeps what was measured for the next comparison.
///
/// # Errors
/// What kept it from being measured, or compared; 6: the broker is out of reach.
pub fn run(args: &BenchArgs, config: &Config, global: &Global, state_dir: Option<&Path>, out: &mut dyn Write) -> Result<Exit, Fault> {
    let parts = if args.part.is_empty() { vec![Part::Engine, Part::Lanes, Part::Pace, Part::Spawn] } else { args.part.clone() };
    let state = StateDir::open(state_dir).map_err(Fault::from);
    let kept = state.map(|state| state.path().join("bench.jsonl"));
    let before = match &args.baseline {
        None => None,
        Some(word) if word == "last" => Some(baseline::read(kept.as_ref().map_err(Clone::clone)?, true)?),
        Some(file) => Some(baseline::read(Path::new(file), false)?),
    };
    let (mut all, mut worse) = (Vec::new(), Vec::new());
    for part in parts {
        let rows = match part {
            Part::Engine => engine(),
            Part::Lanes => lanes(),
            Part::Pace => pace(args.rate),
            Part::Spawn => spawn().map_err(|message| Fault::new(Exit::System, message))?,
            Part::Sqlite | Part::Redis => queue::measure(part == Part::Sqlite, args.tasks, config, global)?,
        };
        for row in rows {
            // Rows that were not measured then have nothing to be compared with.
            let was = before.as_ref().and_then(|before| before.get(row.what).copied());
            let change = was.and_then(|was| baseline::change(&row, was));
            worse.extend(change.filter(|change| change.is_worse).map(|_| row.what));
            write(&row, was, change, global.json, out)?;
            all.push(row);
        }
        // A part takes seconds, so its rows are shown before the next one begins.
        out.flush()?;
    }
    // What cannot be kept is no reason to have measured in vain.
    match kept.and_then(|kept| baseline::keep(&kept, &all)) {
        Ok(()) => {}
        Err(fault) => eprintln!("longshore: not kept for `--baseline last`: {fault}"),
    }
    if before.is_some_and(|before| before.is_empty()) {
        eprintln!("longshore: nothing was measured before; this is the baseline now");
    }
    if worse.is_empty() {
        return Ok(Exit::Done);
    }
    eprintln!("longshore: worse by more than 10 %: {}", worse.join(", "));
    Ok(Exit::Check)
}

fn write(row: &Row, was: Option<f64>, change: Option<baseline::Change>, json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let Row { what, value, unit } = row;
    if json {
        let share = change.map(|change| change.share);
        return writeln!(out, "{}", serde_json::json!({ "what": what, "value": value, "unit": unit, "baseline": was, "change": share }));
    }
    let compared = match (was, change) {
        (Some(was), Some(change)) => {
            format!("   was {was:.2}, {:+.1} %{}", change.share * 100.0, if change.is_worse { "  worse" } else { "" })
        }
        _ => String::new(),
    };
    writeln!(out, "{}", format!("{what:<44} {value:>12.2} {unit:<6}{compared}").trim_end())
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

//! `longshore-demos`: the scenarios that people learn concurrency from, each run several ways and
//! measured. `longshore demo` starts it where it is installed.
//!
//! A scenario is a function in a table ([`SCENARIOS`]): `waits` has those that wait, `computing`
//! those that compute, `queues` those with a queue between, `images` the images. Every way does the
//! same work and must come to the same results; nothing here is staged.

mod computing;
mod images;
mod queues;
mod server;
mod stage;
mod waits;

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
    time::Instant,
};

use anyhow::Result;
use clap::Parser;

use crate::stage::{Settings, Shown};

/// The scenarios that people learn concurrency from, each several ways, measured
#[derive(Debug, Parser)]
#[command(name = "longshore-demos", version)]
struct DemoArgs {
    /// Which: all (scaled to end within a minute), options, io-vs-cpu, urls, files, services,
    /// heavy, chunks, tiny, producer-consumer, workers, pipeline, mixed, leaky-bucket, images
    #[arg(default_value = "all")]
    name: String,
    /// Workers, instead of the scenario's own number
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Items, instead of the scenario's own number
    #[arg(long, value_name = "N")]
    items: Option<usize>,
    /// The seed of what is random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Multiply every duration and amount: 0.1 is ten times quicker
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Print one JSON object a scenario
    #[arg(long)]
    json: bool,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=100.0).contains(&scale) => Ok(scale),
        _ => Err(format!("`{text}` is not a number between 0.001 and 100")),
    }
}

type Run = fn(&Settings) -> Result<Shown>;

/// All scenarios, in the order of the lesson, and the share of its time that each takes in `all`.
const SCENARIOS: [(&str, Run, f64); 14] = [
    ("options", waits::options, 0.3),
    ("io-vs-cpu", computing::io_vs_cpu, 0.5),
    ("urls", waits::urls, 0.2),
    ("files", waits::files, 0.3),
    ("services", waits::services, 0.5),
    ("heavy", computing::heavy, 0.5),
    ("chunks", computing::chunks, 1.0),
    ("tiny", computing::tiny, 0.3),
    ("producer-consumer", queues::producer_consumer, 0.3),
    ("workers", queues::workers, 0.3),
    ("pipeline", queues::pipeline, 0.3),
    ("mixed", queues::mixed, 0.5),
    ("leaky-bucket", queues::leaky_bucket, 0.5),
    ("images", images::images, 0.1),
];

fn main() -> ExitCode {
    // Lets this program be started again as a child of the demos that run functions in processes.
    longshore_core::init_with(longshore_core::Functions::new().with(images::resize_in_child));
    let args = DemoArgs::parse();
    if args.name != "all" && !SCENARIOS.iter().any(|(name, ..)| *name == args.name) {
        let names = SCENARIOS.map(|(name, ..)| name).join(", ");
        eprintln!("longshore-demos: there is no demo `{}`; there are: all, {names}", args.name);
        return ExitCode::from(2);
    }
    match run(&args, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => ExitCode::from(141),
        Err(error) => {
            eprintln!("longshore-demos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenario of this name, or all of them scaled down.
fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<()> {
    let all = args.name == "all";
    let chosen = SCENARIOS.iter().filter(|(name, ..)| all || *name == args.name);
    let began = Instant::now();
    for (name, run, share) in chosen {
        let scale = if all { args.scale * share } else { args.scale };
        let settings = Settings { workers: args.workers, items: args.items, seed: args.seed, scale };
        let mut shown = run(&settings)?;
        shown.scenario = name;
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&shown)?)?;
        } else {
            stage::print(&shown, out)?;
        }
        out.flush()?;
    }
    if all && !args.json {
        let took = began.elapsed().as_secs_f64();
        let told = "scaled down; one of them at its full size: longshore demo NAME";
        writeln!(out, "{} scenarios in {took:.1} s, {told}", SCENARIOS.len())?;
    }
    Ok(())
}

//! `longshore demo`: the lesson's scenarios, measured.

use std::io::Write;

use crate::demo::{self, Settings};

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Which: all (scaled to end within a minute), options, io-vs-cpu, urls, files, services, heavy, chunks, tiny, producer-consumer, workers, pipeline,
    /// mixed, leaky-bucket, images
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
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=100.0).contains(&scale) => Ok(scale),
        _ => Err(format!("`{text}` is not a number between 0.001 and 100")),
    }
}

/// Runs what was asked for; the exit code.
pub fn run(args: &DemoArgs, json: bool, out: &mut dyn Write) -> u8 {
    let settings = Settings { workers: args.workers, items: args.items, seed: args.seed, scale: args.scale };
    if args.name != "all" && !demo::SCENARIOS.iter().any(|(name, ..)| *name == args.name) {
        let names = demo::SCENARIOS.map(|(name, ..)| name).join(", ");
        eprintln!("longshore: there is no demo `{}`; there are: all, {names}", args.name);
        return 2;
    }
    match demo::run(&args.name, &settings, json, out) {
        Ok(()) => 0,
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) => 141,
        Err(error) => {
            eprintln!("longshore: {error:#}");
            1
        }
    }
}

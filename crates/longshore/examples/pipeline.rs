//! An assembly line of three stages: how long it takes, how long it must take at least, and which
//! stage holds up the others.
//!
//! `cargo run --release -p longshore --example pipeline [-- --workers 2]`

mod args;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use args::{Args, Claims, ms};
use longshore::{Pipeline, Stage, pipeline::Report};

const HELP: &str = "\
Items come every 0.1 s and go through three stages: load (0.3 s), transform (0.4 s), store (0.2 s).

  --items N        items (8)
  --workers N      workers of `transform` (1)
  --queue N        items that wait in front of each stage (3)
  --scale X        shrinks every duration (1)
  --help           this text";

/// One item's time in each stage, and between two items of the source, in seconds.
const STAGES: [(&str, f64); 3] = [("load", 0.3), ("transform", 0.4), ("store", 0.2)];
const EVERY: f64 = 0.1;

struct Line {
    items: u32,
    workers: usize,
    queue: usize,
    scale: f64,
}

impl Line {
    fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.scale)
    }

    /// All items, one after another.
    fn one_after_another(&self) -> Duration {
        self.time(STAGES.iter().map(|(_, time)| time).sum()) * self.items
    }

    /// The way of one item, and the slowest part of the line for each of the others.
    fn ideal(&self) -> Duration {
        let [load, transform, store] = STAGES.map(|(_, time)| time);
        let slowest = load.max(transform / self.workers as f64).max(store).max(EVERY);
        self.time(load + transform + store + slowest * f64::from(self.items.saturating_sub(1)))
    }

    fn run(&self) -> (Vec<u32>, Report) {
        let every = self.time(EVERY);
        let items = (0..self.items).inspect(move |item| {
            if *item > 0 {
                thread::sleep(every);
            }
        });
        let stage = |place: usize| {
            let (name, time) = STAGES[place];
            let time = self.time(time);
            let work = move |item: u32| {
                thread::sleep(time);
                Ok::<_, String>(item)
            };
            Stage::blocking(work).name(name).queue(self.queue)
        };
        let mut outputs = Vec::new();
        let report = Pipeline::from_iter(items).stage(stage(0)).stage(stage(1).workers(self.workers)).stage(stage(2)).for_each(|item| {
            outputs.push(item);
        });
        (outputs, report)
    }
}

fn main() -> ExitCode {
    let args = Args::parse(HELP);
    let line = Line {
        items: args.get("--items", 8),
        workers: args.get("--workers", 1_usize).max(1),
        queue: args.get("--queue", 3),
        scale: args.scale(),
    };
    let began = Instant::now();
    let (outputs, report) = line.run();
    let took = began.elapsed();
    println!("{report}\n");
    println!("  ideal              {:>10}", ms(line.ideal()));
    println!("  this pipeline      {:>10}", ms(took));
    println!(
        "  one after another  {:>10}   {:.2} times as long\n",
        ms(line.one_after_another()),
        line.one_after_another().as_secs_f64() / took.as_secs_f64()
    );

    let mut claims = Claims::default();
    claims.check(outputs == (0..line.items).collect::<Vec<_>>(), "every item came out, once, in order");
    let over = took.as_secs_f64() / line.ideal().as_secs_f64() - 1.0;
    claims.check(over <= 0.05, &format!("within 5 % of the ideal: {:.1} %", over * 100.0));
    if line.workers == 1 && line.items >= 8 {
        let place = report.bottleneck.as_ref().map(|bottleneck| bottleneck.place);
        claims.check(place == Some(2), "stage 2 is named as the bottleneck");
    }
    claims.end()
}

//! Rounds, medians, tables.

use std::time::{Duration, Instant};

/// What the command line says.
pub struct Args {
    names: Vec<String>,
    pub rounds: usize,
    pub tasks: u64,
}

impl Args {
    pub fn parse() -> Self {
        let mut this = Self { names: Vec::new(), rounds: 9, tasks: 1_000_000 };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut number = |name: &str| args.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name} wants a number"));
            match arg.as_str() {
                "--rounds" => this.rounds = number("--rounds"),
                "--tasks" => this.tasks = number("--tasks") as u64,
                name => this.names.push(name.to_owned()),
            }
        }
        this
    }

    pub fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

/// One way of doing the work.
pub struct Way<'a> {
    pub name: &'static str,
    pub run: Box<dyn FnMut() + 'a>,
}

pub fn way<'a>(name: &'static str, run: impl FnMut() + 'a) -> Way<'a> {
    Way { name, run: Box::new(run) }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs all ways in turn, `rounds` times after one that is not counted; returns the times of each.
pub fn rounds(ways: &mut [Way<'_>], rounds: usize) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..=rounds {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            let began = Instant::now();
            (way.run)();
            if round > 0 {
                times.push(began.elapsed().as_secs_f64());
            }
        }
    }
    times
}

/// Prints each way's median time an item, and the median of ours divided by it, pair by pair. The last way is ours.
pub fn table(title: &str, ways: &mut [Way<'_>], count: usize, items: u64) -> Vec<f64> {
    let times = rounds(ways, count);
    println!("\n{title}");
    println!("| way | ns an item | ours ÷ this |\n|---|---|---|");
    let ours = times.last().expect("at least one way");
    let mut ratios = Vec::new();
    for (way, times) in ways.iter().zip(&times) {
        let ratio = median(times.iter().zip(ours).map(|(time, ours)| ours / time).collect());
        println!("| {} | {:.0} | {ratio:.2} |", way.name, median(times.clone()) * 1e9 / items as f64);
        ratios.push(ratio);
    }
    ratios
}

#[allow(dead_code, reason = "not every workload waits")]
pub const MS: Duration = Duration::from_millis(1);

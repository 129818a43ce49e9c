//! Rounds, medians, tables.

use std::time::Instant;

use tokio::runtime::Runtime;

/// What the command line says.
pub(crate) struct Args {
    names: Vec<String>,
    only: Option<String>,
    pub(crate) rounds: usize,
    pub(crate) tasks: u64,
}

impl Args {
    pub(crate) fn parse() -> Self {
        let mut this = Self { names: Vec::new(), only: None, rounds: 9, tasks: 1_000_000 };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} wants a value"));
            let number = |text: String| text.parse::<usize>().unwrap_or_else(|_| panic!("{text} is not a number"));
            match arg.as_str() {
                "--rounds" => this.rounds = number(value()).max(1),
                "--tasks" => this.tasks = number(value()) as u64,
                "--only" => this.only = Some(value()),
                name => this.names.push(name.to_owned()),
            }
        }
        this
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

/// One way of doing the work.
pub(crate) struct Way<'a> {
    name: &'static str,
    run: Box<dyn FnMut() + 'a>,
    limit: Option<f64>,
}

pub(crate) fn way<'a>(name: &'static str, run: impl FnMut() + 'a) -> Way<'a> {
    Way { name, run: Box::new(run), limit: None }
}

impl Way<'_> {
    /// Ours may take this many times as long at most.
    pub(crate) fn limit(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// Two runtime threads, as every workload here has them.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs a future on the runtime's threads (a future that is only blocked on runs beside them).
pub(crate) fn on<O: Send + 'static>(runtime: &Runtime, future: impl Future<Output = O> + Send + 'static) -> O {
    runtime.block_on(async { tokio::spawn(future).await.expect("no panic") })
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn holds(held: bool) -> &'static str {
    if held { "yes" } else { "**no**" }
}

/// What this process and its ended children have used of the processors so far, in seconds; zero
/// where /proc does not say.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_the_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // utime, stime, cutime, cstime, in ticks of 10 ms.
    behind_the_name.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Runs all ways in turn, some rounds after one that is not counted, and prints each way's median
/// time and CPU time an item and the median of ours divided by it, round by round. The last way is
/// ours.
pub(crate) fn table(title: &str, mut ways: Vec<Way<'_>>, args: &Args, items: u64) {
    if let Some(only) = &args.only {
        ways.retain(|way| way.name == only);
    }
    let (mut times, mut cpus) = (vec![Vec::new(); ways.len()], vec![Vec::new(); ways.len()]);
    for round in 0..=args.rounds {
        for ((way, times), cpus) in ways.iter_mut().zip(&mut times).zip(&mut cpus) {
            let (began, used) = (Instant::now(), cpu());
            (way.run)();
            if round > 0 {
                times.push(began.elapsed().as_secs_f64());
                cpus.push(cpu() - used);
            }
        }
    }
    println!("\n{title}\n\n| way | ns an item | CPU ns | ours ÷ this | limit | holds |\n|---|---|---|---|---|---|");
    let Some(ours) = times.last() else { return };
    for ((way, times), cpus) in ways.iter().zip(&times).zip(&cpus) {
        let ratio = median(times.iter().zip(ours).map(|(time, ours)| ours / time).collect());
        let (limit, held) = way.limit.map_or((String::new(), ""), |limit| (format!("{limit:.2}"), holds(ratio <= limit)));
        let each = |values: &[f64]| median(values.to_vec()) * 1e9 / items as f64;
        println!("| {} | {:.0} | {:.0} | {ratio:.2} | {limit} | {held} |", way.name, each(times), each(cpus));
    }
}

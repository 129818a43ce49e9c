//! A producer–consumer job with callbacks: the prices of 1 000 cars, 50 calls at a time.
//!
//! `cargo run --release -p longshore --example producer_consumer [-- --sweep]`

mod args;
#[path = "producer_consumer/server.rs"]
mod server;
#[path = "producer_consumer/sweep.rs"]
mod sweep;

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use args::{Args, Claims};
use longshore::{Job, Report, Sender, TaskError};
use server::{Server, price_of};

const HELP: &str = "\
The prices of many cars, asked from a small HTTP server that this example starts.

  --items N      calls in all (1000)
  --workers N    calls at a time (50)
  --scale X      shrinks every duration; 1 means 100 to 400 ms a call (1)
  --seed N       of the latencies (1)
  --sweep        instead: what the capacity of the work queue costs and brings
  --help         this text";

/// What every part of the example is set to.
pub(crate) struct Setting {
    items: u64,
    workers: usize,
    scale: f64,
    seed: u64,
}

impl Setting {
    /// The time between two ends of calls when all workers are busy: the mean latency over the
    /// workers.
    fn spacing(&self) -> Duration {
        Duration::from_millis(250).mul_f64(self.scale / self.workers as f64)
    }
}

/// How the result handler is set in one run.
struct Callbacks {
    name: &'static str,
    /// How long a callback takes.
    takes: Duration,
    /// The capacity of the result queue; the default when absent.
    queue: Option<usize>,
}

/// What one run showed.
struct Run {
    report: Report,
    calls_took: Duration,
    most_open: usize,
    callbacks: u64,
    most_at_once: usize,
    sum: u64,
}

impl Run {
    /// Calls a second, as the server saw them.
    fn throughput(&self) -> f64 {
        self.callbacks as f64 / self.calls_took.as_secs_f64()
    }

    fn is_whole(&self, setting: &Setting, want: u64) -> bool {
        self.report.is_clean() && self.report.ok() == setting.items && self.callbacks == setting.items && self.sum == want
    }

    /// How long workers waited because the result queue was full.
    fn waited_for_results(&self) -> Duration {
        let full = |(reason, _): &&(longshore::Reason, Duration)| matches!(reason, longshore::Reason::Results { .. });
        self.report.waited.iter().filter(full).map(|(_, time)| *time).sum()
    }
}

fn main() -> ExitCode {
    let args = Args::parse(HELP);
    let setting =
        Setting { items: args.get("--items", 1000), workers: args.get("--workers", 50), scale: args.scale(), seed: args.get("--seed", 1) };
    // reqwest wants to know who does TLS, although the server here is plain http.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if args.flag("--sweep") { sweep::run(&setting) } else { callbacks(&setting) }
}

/// The same job four times, with callbacks that take longer and longer.
fn callbacks(setting: &Setting) -> ExitCode {
    let spacing = setting.spacing();
    let small = (setting.items as usize / 10).clamp(1, 2 * setting.workers);
    let runs = [
        Callbacks { name: "quick", takes: Duration::ZERO, queue: None },
        Callbacks { name: "slow", takes: spacing.mul_f64(0.6), queue: None },
        Callbacks { name: "too slow", takes: spacing * 2, queue: Some(small) },
        Callbacks { name: "too slow, room for all", takes: spacing * 2, queue: Some(setting.items as usize) },
    ];
    println!(
        "{} calls of {:?} on average, {} at a time, one result handler\n",
        setting.items,
        spacing * setting.workers as u32,
        setting.workers
    );
    println!("callback                 each takes  result queue   calls/s  calls took   job took  workers waited");
    let mut claims = Claims::default();
    let runs = runs.map(|set| {
        let run = one(setting, &set);
        let queue = set.queue.unwrap_or(2 * setting.workers);
        println!(
            "{:<24} {:>10} {queue:>13} {:>9.0} {:>11} {:>10} {:>15}",
            set.name,
            args::ms(set.takes),
            run.throughput(),
            args::ms(run.calls_took),
            args::ms(run.report.wall),
            args::ms(run.waited_for_results()),
        );
        run
    });
    println!();
    let want: u64 = (0..setting.items).map(price_of).sum();
    for run in runs.iter().filter(|run| !run.is_whole(setting, want)) {
        println!("prices are missing or wrong: {:?}", run.report);
    }
    let whole = runs.iter().all(|run| run.is_whole(setting, want));
    claims.check(whole, &format!("in each run {} prices arrived, each once; their sum is {want}", setting.items));
    let open = runs.iter().map(|run| run.most_open).max().unwrap_or(0);
    claims.check(open <= setting.workers, &format!("never more than {} requests open (the server counted {open})", setting.workers));
    claims.check(runs.iter().all(|run| run.most_at_once == 1), "callbacks came in turn, never two at once");
    let [quick, slow, too_slow, roomy] = runs.each_ref().map(Run::throughput);
    claims.check(slow > 0.8 * quick, &format!("a slow callback slows no worker: {slow:.0} calls/s against {quick:.0}"));
    claims.check(
        too_slow < 0.8 * quick && runs[2].waited_for_results() > Duration::ZERO,
        &format!("until the result queue is full: then workers wait, {too_slow:.0} calls/s"),
    );
    claims.check(roomy > 0.8 * quick, &format!("with room for all results the same callback slows no worker: {roomy:.0} calls/s"));
    claims.end()
}

/// The job itself. Its function, its parameters, its two callbacks.
fn one(setting: &Setting, set: &Callbacks) -> Run {
    let server = Server::start(setting.seed, setting.scale);
    let (client, url) = (reqwest::Client::new(), server.url());
    let (sum, done, at_once) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new((0, 0))));
    let (all, half, takes) = (setting.items, setting.items / 2, set.takes);

    let job = Job::new(move |car: u64| {
        let call = client.get(format!("{url}/price/{car}"));
        async move {
            let reply = call.send().await.and_then(reqwest::Response::error_for_status).map_err(|error| error.to_string())?;
            reply.text().await.map_err(|error| error.to_string())?.parse::<u64>().map_err(|error| error.to_string())
        }
    })
    .workers(setting.workers)
    // Two producers: an iterator, and an async function with a sender.
    .params(0..half)
    .produce(move |cars: Sender<u64>| async move {
        for car in half..all {
            cars.send(car).await.map_err(|error| error.to_string())?;
        }
        Ok::<(), TaskError>(())
    })
    .on_task_complete({
        let (sum, done, at_once) = (sum.clone(), done.clone(), at_once.clone());
        move |task| {
            enter(&at_once);
            std::thread::sleep(takes);
            sum.fetch_add(task.result().copied().unwrap_or(0), Ordering::Relaxed);
            done.fetch_add(1, Ordering::Relaxed);
            at_once.lock().expect("no callback panics while it holds this").0 -= 1;
        }
    })
    .on_job_complete(|report| {
        if !report.is_clean() {
            println!("{} ok, {} failed; producers: {:?}", report.ok(), report.failed(), report.failed_producers);
        }
    });
    let job = match set.queue {
        Some(capacity) => job.result_queue(capacity),
        None => job,
    };
    let report = job.run();
    let most_at_once = at_once.lock().expect("no callback panics while it holds this").1;
    Run {
        report,
        calls_took: server.calls_took(),
        most_open: server.most_open(),
        callbacks: done.load(Ordering::Relaxed),
        most_at_once,
        sum: sum.load(Ordering::Relaxed),
    }
}

/// Counts callbacks that run at one time, and the most there were.
fn enter(at_once: &Mutex<(usize, usize)>) {
    let mut at_once = at_once.lock().expect("no callback panics while it holds this");
    at_once.0 += 1;
    at_once.1 = at_once.1.max(at_once.0);
}

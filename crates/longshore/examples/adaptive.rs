//! Concurrency that finds itself, against a server with a knee that moves: the engine on a
//! simulated clock, so that three minutes take a moment and every run prints the same.
//!
//! `cargo run --release --example adaptive -- [--plot adaptive.svg] [--scale 1]`
//!
//! The server answers in 50 ms up to its knee; above it everybody waits, and a little of its power
//! is lost to the crowd. The best fixed number of workers is found by trying all of a grid, for
//! each phase by itself; the job with `adaptive(1, 300)` knows nothing of it.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore::{Clock, Job, Stop};
use tokio::time::{Instant, sleep};

/// From when, and the knee from then on.
const PHASES: [(f64, f64); 3] = [(0.0, 40.0), (60.0, 15.0), (120.0, 90.0)];
const END: f64 = 180.0;
const SERVES: f64 = 0.050;
/// How much power is lost above the knee.
const CROWD: f64 = 1.15;
/// What "settled" leaves out after a change.
const SETTLING: f64 = 20.0;
const GRID: [usize; 16] = [5, 8, 10, 12, 15, 18, 22, 28, 34, 40, 46, 54, 70, 90, 110, 150];

#[derive(Default)]
struct Server {
    running: AtomicUsize,
    answered: AtomicU64,
    calls: AtomicU64,
}

impl Server {
    async fn call(&self, knee: f64) {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        let luck = 0.8 + 0.4 * fastrand::Rng::with_seed(self.calls.fetch_add(1, Ordering::Relaxed)).f64();
        let load = (running as f64 / knee).max(1.0).powf(CROWD);
        sleep(Duration::from_secs_f64(SERVES * load * luck)).await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one run looked like, second by second: the limit, and how many were answered.
struct Run {
    limits: Vec<usize>,
    answered: Vec<u64>,
}

/// Runs a job against a server whose knee is `knee(seconds)`.
fn simulate(seconds: f64, knee: impl Fn(f64) -> f64 + Send + Sync + 'static, workers: Option<usize>) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async move {
        let server = Arc::<Server>::default();
        let (began, own) = (Instant::now(), server.clone());
        let knee = Arc::new(knee);
        let job = Job::new(move |_: u64| {
            let (server, knee) = (own.clone(), knee.clone());
            async move {
                let now = began.elapsed().as_secs_f64();
                server.call(knee(now)).await;
                Ok::<_, String>(())
            }
        })
        .params(0u64..)
        .clock(Clock::TOKIO, 1);
        let job = match workers {
            Some(workers) => job.workers(workers),
            None => job.adaptive(1, 300),
        };
        let running = job.start();
        let handle = running.handle();
        let mut run = Run { limits: Vec::new(), answered: Vec::new() };
        let mut before = 0;
        while began.elapsed().as_secs_f64() < seconds {
            sleep(Duration::from_secs(1)).await;
            let limit = handle.view().await.map_or(0, |now| now.concurrency.unwrap_or(workers.unwrap_or(0)));
            let all = server.answered.load(Ordering::Relaxed);
            run.limits.push(limit);
            run.answered.push(all - before);
            before = all;
        }
        handle.stop(Stop::Hard);
        running.join().await;
        run
    })
}

fn knee_at(second: f64, scale: f64) -> f64 {
    PHASES.iter().rev().find(|(from, _)| second >= from * scale).map_or(PHASES[0].1, |(_, knee)| *knee)
}

fn mean(values: &[u64]) -> f64 {
    values.iter().sum::<u64>() as f64 / values.len().max(1) as f64
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut plot, mut scale) = (None, 1.0);
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.next()) {
            ("--plot", Some(file)) => plot = Some(file),
            ("--scale", Some(value)) => scale = value.parse::<f64>().expect("--scale wants a number").clamp(0.6, 10.0),
            _ => panic!("usage: adaptive [--plot FILE.svg] [--scale N]; the smallest scale is 0.6"),
        }
    }
    let run = simulate(END * scale, move |second| knee_at(second, scale), None);
    println!("knee  best fixed  answered/s there  adaptive, settled  share  limit  seconds to 90 %");
    let mut best_lines = Vec::new();
    for (nth, (from, knee)) in PHASES.into_iter().enumerate() {
        let tried = GRID.map(|workers| {
            let fixed = simulate(12.0, move |_| knee, Some(workers));
            (workers, mean(&fixed.answered[2..]))
        });
        let (best, most) = tried.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("a grid");
        let from = (from * scale) as usize;
        let to = PHASES.get(nth + 1).map_or(run.answered.len(), |(next, _)| (next * scale) as usize).min(run.answered.len());
        let settled = &run.answered[from + SETTLING as usize..to];
        let mut limits = run.limits[from + SETTLING as usize..to].to_vec();
        limits.sort_unstable();
        let reached = run.answered[from..to].iter().position(|answered| *answered as f64 >= 0.9 * most);
        let share = mean(settled) / most;
        let limit = limits[limits.len() / 2];
        let seconds = reached.map_or("never".to_owned(), |seconds| (seconds + 1).to_string());
        println!("{knee:>4}  {best:>10}  {most:>16.0}  {:>17.0}  {:>4.0} %  {limit:>5}  {seconds:>15}", mean(settled), share * 100.0);
        assert!(share > 0.9, "knee {knee}: {share:.2} of what the best fixed number of workers reaches");
        best_lines.push((from, to, best));
    }
    if let Some(file) = plot {
        std::fs::write(&file, svg(&run, &best_lines)).unwrap_or_else(|error| panic!("{file}: {error}"));
        println!("plot: {file}");
    }
}

/// The limit over time, with the best fixed number for each phase, and the answers a second below.
fn svg(run: &Run, best: &[(usize, usize, usize)]) -> String {
    let (wide, high, seconds) = (900.0, 220.0, run.limits.len() as f64);
    let x = |second: f64| 60.0 + second / seconds * wide;
    let most_limit = run.limits.iter().chain(best.iter().map(|(_, _, best)| best)).copied().max().unwrap_or(1) as f64 * 1.1;
    let most_answered = run.answered.iter().copied().max().unwrap_or(1) as f64 * 1.1;
    let line = |values: &mut dyn Iterator<Item = f64>, top: f64, most: f64| {
        values.enumerate().fold(String::new(), |mut points, (second, value)| {
            let _ = write!(points, "{:.1},{:.1} ", x(second as f64 + 1.0), top + high - value / most * high);
            points
        })
    };
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1000 560\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"1000\" height=\"560\" fill=\"white\"/>\n\
         <text x=\"60\" y=\"22\">at once: adaptive(1, 300) in blue, the best fixed number of each phase in grey</text>\n\
         <text x=\"60\" y=\"292\">answered a second</text>\n",
    );
    for (top, most) in [(30.0, most_limit), (300.0, most_answered)] {
        let _ = writeln!(out, "<path d=\"M60 {top}v{high}h{wide}\" fill=\"none\" stroke=\"black\"/>");
        for part in [0.0, 0.5, 1.0] {
            let y = top + high - part * high + 4.0;
            let _ = writeln!(out, "<text x=\"54\" y=\"{y}\" text-anchor=\"end\">{:.0}</text>", most * part);
        }
    }
    for (from, to, best) in best {
        let y = 30.0 + high - *best as f64 / most_limit * high;
        let _ = writeln!(out, "<path d=\"M{:.1} {y:.1}H{:.1}\" stroke=\"grey\" stroke-width=\"3\"/>", x(*from as f64), x(*to as f64));
    }
    let limits = line(&mut run.limits.iter().map(|limit| *limit as f64), 30.0, most_limit);
    let answered = line(&mut run.answered.iter().map(|answered| *answered as f64), 300.0, most_answered);
    for points in [limits, answered] {
        let _ = writeln!(out, "<polyline points=\"{points}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"1.5\"/>");
    }
    for second in (0..=run.limits.len()).step_by(30) {
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"540\" text-anchor=\"middle\">{second} s</text>", x(second as f64));
    }
    out.push_str("</svg>\n");
    out
}

//! Work that waits and work that computes, three ways: on one event loop, each on its lane, and one
//! after another.
//!
//! `cargo run --release -p longshore --example mixed_lanes`

mod args;

use std::{
    hint::black_box,
    process::ExitCode,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use args::{Args, Claims, ms};
use longshore::{Event, Job, LaneKind, Report, watch::Heard};

const HELP: &str = "\
Sleeps of 5 ms, and now and then a task that computes for 150 ms.

  --items N      tasks that wait (1000)
  --cpu N        tasks that compute, spread among them (8)
  --workers N    tasks on the async lane at a time (16)
  --scale X      shrinks the computing (1); below about 0.8 nothing holds a loop long enough for the watchdog (100 ms)
  --help         this text";

const SLEEP: Duration = Duration::from_millis(5);

/// A task of either kind.
#[derive(Clone, Copy)]
enum Work {
    Wait,
    /// So many rounds.
    Compute(u64),
}

/// How late each sleep ended, and how long each computation took.
#[derive(Default)]
struct Times {
    late: Mutex<Vec<Duration>>,
    work: Mutex<Vec<Duration>>,
}

impl Times {
    async fn wait(&self) {
        let began = Instant::now();
        tokio::time::sleep(SLEEP).await;
        self.note_sleep(began);
    }

    fn note_sleep(&self, began: Instant) {
        let late = began.elapsed().saturating_sub(SLEEP);
        self.late.lock().expect("nothing panics while it holds this").push(late);
    }

    fn compute(&self, rounds: u64) {
        let began = Instant::now();
        compute(rounds);
        self.work.lock().expect("nothing panics while it holds this").push(began.elapsed());
    }
}

/// Some arithmetic, always the same.
fn compute(rounds: u64) -> u64 {
    let mut value = 1u64;
    for round in 0..rounds {
        value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round));
    }
    value
}

/// What one way showed.
struct Way {
    late: Vec<Duration>,
    work: Duration,
    wall: Duration,
    /// The watchdog's events: task and how long it had held its loop.
    named: Vec<(u64, Duration)>,
    stalled: u64,
    whole: bool,
}

impl Way {
    fn late(&self, quantile: f64) -> Duration {
        let last = self.late.len().saturating_sub(1);
        self.late.get((last as f64 * quantile) as usize).copied().unwrap_or_default()
    }
}

fn main() -> ExitCode {
    let args = Args::parse(HELP);
    let (items, cpu, workers): (usize, usize, usize) = (args.get("--items", 1000), args.get("--cpu", 8), args.get("--workers", 16));
    // How many rounds take 150 ms here: the quickest of a few tries, so that a busy machine makes
    // them longer, not shorter.
    let quickest = (0..5)
        .map(|_| {
            let began = Instant::now();
            black_box(compute(1_000_000));
            began.elapsed()
        })
        .min()
        .unwrap_or(SLEEP);
    let rounds = (1e6 * 0.15 * args.scale() / quickest.as_secs_f64()) as u64;
    let every = (items / cpu.max(1)).max(1);
    let mut tasks = Vec::new();
    for nth in 0..items {
        tasks.push(Work::Wait);
        if nth % every == every / 2 && tasks.len() - nth <= cpu {
            tasks.push(Work::Compute(rounds));
        }
    }
    let computing: Vec<u64> = (1..).zip(&tasks).filter(|(_, work)| matches!(work, Work::Compute(_))).map(|(id, _)| id).collect();
    println!("{items} sleeps of {SLEEP:?} and {} tasks that compute, {workers} at a time\n", computing.len());

    println!("way                    sleeps late: p50       p99       max   computing      wall   the watchdog named");
    let show = |name: &str, way: Way| {
        let named: Vec<String> = way.named.iter().map(|(id, held)| format!("{id} ({held:.0?})")).collect();
        let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
        println!(
            "{name:<22} {:>16} {:>9} {:>9} {:>11} {:>9}   {named}",
            ms(way.late(0.5)),
            ms(way.late(0.99)),
            ms(way.late(1.0)),
            ms(way.work),
            ms(way.wall),
        );
        way
    };
    let inline = show("all on the async lane", on_lanes(&tasks, workers, false));
    let lanes = show("each on its lane", on_lanes(&tasks, workers, true));
    // For comparison: its sleeps are on time, and everything else waits for them.
    let turns = show("one after another", one_after_another(&tasks));
    println!();

    let mut claims = Claims::default();
    claims.check([&inline, &lanes, &turns].iter().all(|way| way.whole && way.late.len() == items), "every task of every way ended well");
    claims.check(
        inline.stalled > 0 && inline.named.iter().any(|(id, _)| computing.contains(id)),
        &format!("on the async lane the watchdog named {} times a task that held its loop; they compute: {computing:?}", inline.stalled),
    );
    claims.check(lanes.stalled < inline.stalled, &format!("each on its lane: {} times", lanes.stalled));
    claims.check(
        lanes.late(1.0) < inline.late(1.0),
        &format!("each on its lane, the latest sleep is {} late, not {}", ms(lanes.late(1.0)), ms(inline.late(1.0))),
    );
    claims.end()
}

/// One job, one queue; what computes runs on the cpu lane, or wrongly where the sleeps are.
fn on_lanes(tasks: &[Work], workers: usize, apart: bool) -> Way {
    let times = Arc::new(Times::default());
    let (waiting, computing) = (times.clone(), times.clone());
    let (mut happened, job) = Job::new(move |work| {
        let times = waiting.clone();
        async move {
            match work {
                Work::Wait => times.wait().await,
                Work::Compute(rounds) => times.compute(rounds),
            }
            Ok::<(), String>(())
        }
    })
    .on_cpu(move |_, work| {
        if let Work::Compute(rounds) = work {
            computing.compute(rounds);
        }
        Ok::<(), String>(())
    })
    .params(tasks.to_vec())
    .workers(workers)
    .events(100_000);
    let listener = thread::spawn(move || {
        let mut named = Vec::new();
        while let Some(heard) = happened.blocking_next() {
            if let Heard::Event(Event::Stalled { id, held, .. }) = heard {
                named.push((id, held));
            }
        }
        named
    });
    let report: Report = if apart {
        job.lane_of(|work| if matches!(work, Work::Compute(_)) { LaneKind::Cpu } else { LaneKind::Async }).run()
    } else {
        job.run()
    };
    way(&times, report.wall, listener.join().unwrap_or_default(), report.stalled, report.is_clean())
}

/// No lanes, no engine: the loop that anyone writes first.
fn one_after_another(tasks: &[Work]) -> Way {
    let (times, began) = (Times::default(), Instant::now());
    for work in tasks {
        match work {
            Work::Wait => {
                let began = Instant::now();
                thread::sleep(SLEEP);
                times.note_sleep(began);
            }
            Work::Compute(rounds) => times.compute(*rounds),
        }
    }
    way(&times, began.elapsed(), Vec::new(), 0, true)
}

fn way(times: &Times, wall: Duration, named: Vec<(u64, Duration)>, stalled: u64, whole: bool) -> Way {
    let mut late = std::mem::take(&mut *times.late.lock().expect("nothing panics while it holds this"));
    late.sort_unstable();
    let work = times.work.lock().expect("nothing panics while it holds this").iter().sum();
    Way { late, work, wall, named, stalled, whole }
}

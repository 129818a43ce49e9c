//! Advice against exhaustive search, on synthetic work of a known CPU share and a known cost per
//! item.
//!
//! ```text
//! cargo run --release -p longshore-advise --example grid [COST…]
//! ```
//!
//! The grid: items of 1 µs, 10 µs, … 1 s, of which 0, 25, 50, 75 and 100 % are computed (a loop
//! calibrated against the thread's CPU clock) and the rest slept. For each cell the advice is
//! measured, and then every way of this set is run: one after another; the blocking lane with 1, 2,
//! 4, … 64 workers; the cpu lane with as many workers as cores (chunks as it finds them). Ways that
//! cannot be near the best, because the sleeping or the computing alone takes longer than 1.5 times
//! what the best took, are left out. The fastest way is then run again in turns with the advised
//! one, and the median ratio of those pairs is what counts: within 15 % or not.
//!
//! Other programs spoil this: a cell begins when they leave the machine alone (or after 3 s), and
//! one during which they had more than 10 % of its CPU time is marked with a `*` and measured once
//! more, as long as there is time (4 min for the whole grid).
//!
//! Budget of an advice: 2 s, or 6 s where one item takes a second.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has failed")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use longshore_advise::{Advice, Measure, Place, map, measure::Moment};
use longshore_core::LaneKind;
use longshore_sys::clock::thread_cpu_time;

const COSTS: [(&str, Duration); 7] = [
    ("1us", Duration::from_micros(1)),
    ("10us", Duration::from_micros(10)),
    ("100us", Duration::from_micros(100)),
    ("1ms", Duration::from_millis(1)),
    ("10ms", Duration::from_millis(10)),
    ("100ms", Duration::from_millis(100)),
    ("1s", Duration::from_secs(1)),
];
const SHARES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
const WORKERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const NEAR: f64 = 0.15;
/// The share of the machine that others may have.
const DISTURBED: f64 = 0.1;
/// After so much time disturbed cells are taken as they are.
const PATIENCE: Duration = Duration::from_secs(240);

/// Rounds of a loop that take a microsecond.
fn calibrate() -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let before = thread_cpu_time();
        turn(2_000_000);
        best = best.min((thread_cpu_time() - before).as_secs_f64() / 2e6);
    }
    1e-6 / best
}

fn turn(rounds: u64) {
    let mut sum = 0_u64;
    for round in 0..rounds {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(round));
    }
}

#[derive(Clone, Copy)]
struct Work {
    rounds: u64,
    sleep: Duration,
    cost: f64,
    share: f64,
}

impl Work {
    fn run(self) {
        turn(self.rounds);
        if !self.sleep.is_zero() {
            std::thread::sleep(self.sleep);
        }
    }

    /// What no way can beat.
    fn bound(&self, way: &Advice, count: u64, cores: f64) -> f64 {
        let computing = count as f64 * self.cost * self.share / cores.min(way.workers as f64);
        (count as f64 * self.cost / way.workers as f64).max(computing)
    }

    /// So many items that the best way takes a fraction of a second, or one item's time.
    fn count(&self, cores: f64) -> u64 {
        let computed = cores / (self.cost * self.share).max(1e-9);
        let rate = (64.0 / self.cost).min(computed).min(if self.share < 1.0 { 60_000.0 } else { 1e6 });
        (rate * (0.2_f64).max(4.0 * self.cost).min(1.0)).round().max(2.0) as u64
    }
}

fn time(work: Work, way: &Advice, count: u64) -> f64 {
    let began = Instant::now();
    map(way, 0..count, move |_| work.run()).unwrap();
    began.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn name(way: &Advice) -> String {
    let chunk = if way.chunk > 1 { format!(" by {}", way.chunk) } else { String::new() };
    match way.place {
        Place::Sequential => "sequential".into(),
        place => format!("{place} {}{chunk}", way.workers),
    }
}

fn same(a: &Advice, b: &Advice) -> bool {
    (a.place, a.workers, a.chunk) == (b.place, b.workers, b.chunk)
}

fn show(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// The fastest way of the set, by the median of up to three runs of those that are near.
fn search(work: Work, count: u64, cores: usize) -> Advice {
    let mut ways = vec![Advice::to_run(Place::Sequential, 1, 1), Advice::to_run(Place::Lane(LaneKind::Cpu), cores, 1)];
    ways.extend(WORKERS.map(|workers| Advice::to_run(Place::Lane(LaneKind::Blocking), workers, 1)));
    // The most promising first, so that hopeless ones need not be run.
    ways.sort_by(|a, b| work.bound(a, count, cores as f64).total_cmp(&work.bound(b, count, cores as f64)));
    let mut timed: Vec<(Advice, Vec<f64>)> = Vec::new();
    let mut best = f64::INFINITY;
    for way in ways {
        if work.bound(&way, count, cores as f64) < 1.5 * best {
            let took = time(work, &way, count);
            best = best.min(took);
            timed.push((way, vec![took]));
        }
    }
    if best < 0.8 {
        for _ in 0..2 {
            for (way, times) in timed.iter_mut().filter(|(_, times)| times[0] < 1.3 * best) {
                times.push(time(work, way, count));
            }
        }
    }
    timed.retain(|(_, times)| times[0] < 1.3 * best);
    timed.into_iter().min_by(|(_, a), (_, b)| median(a.clone()).total_cmp(&median(b.clone()))).unwrap().0
}

/// What was found for one kind of work.
struct Cell {
    count: u64,
    advised: Advice,
    predicted: f64,
    took: f64,
    best: Advice,
    best_took: f64,
    ratio: f64,
    others: f64,
}

/// Waits until others leave the machine alone.
fn quiet() {
    for _ in 0..12 {
        let moment = Moment::now();
        std::thread::sleep(Duration::from_millis(250));
        if moment.others() < DISTURBED {
            return;
        }
    }
}

fn cell(work: Work, cores: usize) -> Cell {
    quiet();
    let moment = Moment::now();
    let count = work.count(cores as f64);
    let budget = Duration::from_secs(if work.cost >= 1.0 { 6 } else { 2 });
    let sample: Vec<u64> = (0..count.min(1024)).collect();
    let measured = Measure::of(sample).count(count).budget(budget).run(move |_| work.run()).unwrap();
    if std::env::var_os("REASONS").is_some() {
        println!("{:#?}\n{:#?}", measured.measured, measured.advice.reasons);
    }
    let advised = measured.advice;
    let predicted = advised.predicted.unwrap_or_default().as_secs_f64();
    let best = search(work, count, cores);
    let once = time(work, &advised, count);
    let (ratio, took, best_took) = if same(&advised, &best) {
        (1.0, once, once)
    } else {
        let pairs = if once < 0.6 { 5 } else { 1 };
        let pairs: Vec<(f64, f64)> = (0..pairs).map(|_| (time(work, &advised, count), time(work, &best, count))).collect();
        let of = |which: fn(&(f64, f64)) -> f64| median(pairs.iter().map(which).collect());
        (of(|(advised, best)| advised / best), of(|pair| pair.0), of(|pair| pair.1))
    };
    Cell { count, advised, predicted, took, best, best_took, ratio, others: moment.others() }
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    // The kernel may let sleeps be 50 µs late, unless a thread asks for better; threads inherit it
    // from the one that starts them.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let per_micro = calibrate();
    let began = Instant::now();
    println!("{cores} cores; a sleep of 1 µs takes {}", show(median((0..101).map(|_| nap()).collect())));
    println!(
        "{:>6} {:>5} {:>7}  {:<20} {:>9} {:>9}  {:<16} {:>9} {:>6}  within 15 %",
        "cost", "CPU", "items", "advised", "predicted", "took", "best of the set", "took", "ratio"
    );
    let (mut cells, mut near, mut foretold, mut disturbed) = (0, 0, 0, 0);
    for (label, cost) in COSTS.into_iter().filter(|(label, _)| asked.is_empty() || asked.iter().any(|asked| asked == label)) {
        for share in SHARES {
            let (cost, computed) = (cost.as_secs_f64(), cost.mul_f64(share));
            let rounds = (computed.as_secs_f64() * 1e6 * per_micro) as u64;
            let work = Work { rounds, sleep: Duration::from_secs_f64(cost) - computed, cost, share };
            let mut found = cell(work, cores);
            if found.others > DISTURBED && began.elapsed() < PATIENCE {
                let again = cell(work, cores);
                found = if again.others < found.others { again } else { found };
            }
            let cell = found;
            cells += 1;
            near += u32::from(cell.ratio <= 1.0 + NEAR);
            foretold += u32::from((cell.predicted / cell.took - 1.0).abs() <= 0.25);
            disturbed += u32::from(cell.others > DISTURBED);
            println!(
                "{label:>6} {:>4.0}% {:>7}  {:<20} {:>9} {:>9}  {:<16} {:>9} {:>6.2}  {}{}",
                share * 100.0,
                cell.count,
                name(&cell.advised),
                show(cell.predicted),
                show(cell.took),
                name(&cell.best),
                show(cell.best_took),
                cell.ratio,
                if cell.ratio <= 1.0 + NEAR { "yes" } else { "NO" },
                if cell.others > DISTURBED { " *" } else { "" }
            );
        }
    }
    let percent = |part: u32| 100.0 * f64::from(part) / f64::from(cells);
    println!(
        "{near} of {cells} cells within 15 % of the best ({:.0} %); {foretold} predictions within 25 % ({:.0} %); {disturbed} disturbed; {:.0} s",
        percent(near),
        percent(foretold),
        began.elapsed().as_secs_f64()
    );
}

fn nap() -> f64 {
    let began = Instant::now();
    std::thread::sleep(Duration::from_micros(1));
    began.elapsed().as_secs_f64()
}

//! The four gotchas of the guide, wrong and right: the same work in turn, medians of the pairs'
//! ratios.
//!
//! `cargo bench -p longshore --bench gotchas [-- --rounds 9] [--scale 1] [--only 4]`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to say")]

use std::{
    hint::black_box,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use longshore::{
    ChildLimits, Executor, Functions, Job, LaneKind, gather,
    lane::child::{Command, Stdin},
};

fn main() {
    longshore::init_with(Functions::new().with(digest_of).with(heavy_of));
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("sum") => return println!("{}", tiny(args[2].parse().unwrap())),
        Some("digest") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).unwrap();
            return println!("{}", digest(&bytes));
        }
        _ => {}
    }
    let value = |name: &str, default: f64| args.iter().position(|arg| arg == name).map_or(default, |at| args[at + 1].parse().unwrap());
    let (rounds, scale) = (value("--rounds", 9.0) as usize, value("--scale", 1.0));
    let of = |amount: f64| (amount * scale).max(1.0) as u64;

    println!("{} cores, {rounds} rounds\n", LaneKind::Cpu.default_workers());
    println!("| gotcha | wrong | right | wrong ÷ right |\n|---|---|---|---|");
    let only = value("--only", 0.0) as u32;
    let wanted = |gotcha: u32| only == 0 || only == gotcha;
    if wanted(1) {
        computing_where_things_wait(rounds, of(1_000_000.0));
    }
    if wanted(2) {
        processes_for_what_threads_do(rounds, of(16.0), of(1_000_000.0));
    }
    if wanted(3) {
        tiny_tasks_handed_over_one_by_one(rounds, of(100.0), of(200_000.0));
    }
    if wanted(4) {
        chunks_cut_by_hand(rounds, of(1_000.0));
    }
}

/// The first: an async lane that computes answers nobody while it does.
fn computing_where_things_wait(rounds: usize, steps: u64) {
    let pool = Executor::new();
    let chunks = [steps; 16];
    let (mut wrong, mut right) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        wrong.push(beside_a_timer(&pool, || pool.futures().map(chunks, |steps| async move { heavy(steps) }).results().unwrap()));
        right.push(beside_a_timer(&pool, || pool.cpu().map(chunks, heavy).results().unwrap()));
    }
    let took = |pairs: &[(f64, f64)]| pairs.iter().map(|(took, _)| *took).collect::<Vec<_>>();
    let late = |pairs: &[(f64, f64)]| pairs.iter().map(|(_, late)| *late).collect::<Vec<_>>();
    row("1, how long the computations take", "async lane", &took(&wrong), "cpu lane", &took(&right));
    row("1, how late a timer of 5 ms is beside them, at worst", "async lane", &late(&wrong), "cpu lane", &late(&right));
}

/// How long `work` takes, and how late a timer on the pool's async lane was meanwhile, at worst.
fn beside_a_timer<O>(pool: &Executor, work: impl FnOnce() -> O) -> (f64, f64) {
    let (over, tick) = (Arc::new(AtomicBool::new(false)), Duration::from_millis(5));
    let ended = over.clone();
    let timer = pool.futures().submit(async move {
        let mut worst = Duration::ZERO;
        loop {
            let began = Instant::now();
            tokio::time::sleep(tick).await;
            worst = worst.max(began.elapsed().saturating_sub(tick));
            if ended.load(Ordering::SeqCst) {
                return worst;
            }
        }
    });
    let took = timed(work);
    over.store(true, Ordering::SeqCst);
    (took, timer.wait().unwrap().as_secs_f64())
}

/// The second: a process is worth its price for what may crash, not for what computes.
fn processes_for_what_threads_do(rounds: usize, chunks: u64, steps: u64) {
    let pool = Executor::new();
    let data: Vec<Arc<[u8]>> = (0..chunks).map(|nth| (0..4 << 20).map(|at: u64| (at * 31 + nth) as u8).collect()).collect();
    let wanted: Vec<u64> = data.iter().map(|chunk| digest(chunk)).collect();
    let (mut wrong, mut kept, mut right) = (Vec::new(), Vec::new(), Vec::new());
    let children = pool.isolated(digest_of, ChildLimits::default());
    assert_eq!(children.submit(data[0].to_vec()).wait().unwrap(), wanted[0]);
    for _ in 0..rounds {
        let job = Job::commands(|chunk: &Arc<[u8]>| Command { stdin: Stdin::Bytes(chunk.to_vec()), ..this("digest", None) });
        let job = job.params(data.clone());
        let mut outputs = Vec::new();
        wrong.push(timed(|| outputs = job.collect().results().unwrap()));
        assert!(outputs.iter().zip(&wanted).all(|(output, wanted)| parsed(&output.stdout) == *wanted));
        let (sent, mut results) = (data.clone(), Vec::new());
        kept.push(timed(|| results = children.map(sent.into_iter().map(|chunk| chunk.to_vec())).results().unwrap()));
        assert_eq!(results, wanted);
        let chunks = data.clone();
        right.push(timed(|| results = pool.cpu().map(chunks, |chunk| digest(&chunk)).results().unwrap()));
        assert_eq!(results, wanted);
    }
    let name = format!("2, {chunks} chunks of 4 MiB");
    row(&name, "a process for each", &wrong, "cpu lane", &right);
    row(&name, "child processes that stay", &kept, "cpu lane", &right);

    // Nothing to send but a number, and much to compute.
    let (chunks, children) = (vec![steps; chunks as usize], pool.isolated(heavy_of, ChildLimits::default()));
    let (mut wrong, mut right) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (mut there, mut here) = (Vec::new(), Vec::new());
        wrong.push(timed(|| there = children.map(chunks.clone()).results().unwrap()));
        right.push(timed(|| here = pool.cpu().map(chunks.clone(), heavy).results().unwrap()));
        assert_eq!(there, here);
    }
    row(&format!("2, {} chunks of nothing but a number", chunks.len()), "child processes that stay", &wrong, "cpu lane", &right);
}

/// The third: handing over costs what it costs, however small the work.
fn tiny_tasks_handed_over_one_by_one(rounds: usize, few: u64, many: u64) {
    let pool = Executor::builder().queue(many as usize).build();
    let ways: [(&str, f64, &dyn Fn()); 4] = [
        ("a process for each", few as f64, &|| {
            let outputs = Job::commands(|n: &u64| this("sum", Some(*n))).params(vec![1000; few as usize]).collect().results().unwrap();
            assert!(outputs.iter().all(|output| parsed(&output.stdout) == tiny(1000)));
        }),
        ("each submitted to the cpu lane", many as f64, &|| {
            let sums = gather((0..many).map(|_| pool.cpu().submit(|| tiny(1000)))).wait().unwrap();
            assert_eq!(sums.len(), many as usize);
        }),
        ("one after another", many as f64, &|| {
            black_box((0..many).map(|_| tiny(1000)).collect::<Vec<_>>());
        }),
        ("`map`, which finds its chunks", many as f64, &|| {
            let sums = pool.cpu().map(0..many, |_| tiny(1000)).results().unwrap();
            assert_eq!(sums.len(), many as usize);
        }),
    ];
    let mut spent: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        for (spent, (_, count, work)) in spent.iter_mut().zip(&ways) {
            spent.push(timed(work) / count);
        }
    }
    let pair = |wrong: usize, right: usize| {
        row("3, each of many sums of 1000 numbers", ways[wrong].0, &spent[wrong], ways[right].0, &spent[right]);
    };
    pair(0, 2);
    pair(1, 2);
    pair(1, 3);
}

/// The fourth: a quarter of the items is not a quarter of the work.
fn chunks_cut_by_hand(rounds: usize, items: u64) {
    let pool = Executor::new();
    let growing = |item: u64| heavy(item * item / 20);
    let (mut wrong, mut right) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (mut by_hand, mut measured) = (Vec::new(), Vec::new());
        wrong.push(timed(|| by_hand = pool.cpu().map(0..items, growing).chunk(items.div_ceil(4) as usize).results().unwrap()));
        right.push(timed(|| measured = pool.cpu().map(0..items, growing).results().unwrap()));
        assert_eq!(by_hand, measured);
    }
    row(
        &format!("4, {items} items that grow, the n-th takes n² steps"),
        "four chunks of a quarter each",
        &wrong,
        "chunks found by measuring",
        &right,
    );
}

fn row(gotcha: &str, wrong: &str, wrongs: &[f64], right: &str, rights: &[f64]) {
    let ratios: Vec<f64> = wrongs.iter().zip(rights).map(|(wrong, right)| wrong / right).collect();
    let time = |times: &[f64]| match median(times) {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s => format!("{:.1} ms", s * 1e3),
    };
    println!("| {gotcha} | {wrong}: {} | {right}: {} | {:.3} |", time(wrongs), time(rights), median(&ratios));
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn timed<O>(work: impl FnOnce() -> O) -> f64 {
    let began = Instant::now();
    black_box(work());
    began.elapsed().as_secs_f64()
}

/// This program as a child: what a process pool's child does, without an interpreter that has to
/// start first.
fn this(what: &str, n: Option<u64>) -> Command {
    let mut args = vec![what.into()];
    args.extend(n.map(|n| n.to_string().into()));
    Command { program: std::env::current_exe().unwrap().into(), args, ..Command::default() }
}

fn parsed(bytes: &[u8]) -> u64 {
    String::from_utf8_lossy(bytes).trim().parse().unwrap()
}

fn heavy(steps: u64) -> f64 {
    (0..steps).fold(0.0, |total, i| {
        let i = black_box(i) as f64;
        total + (i.sin() * i.cos() + (i + 1.0).sqrt()) * (i + 1.0).ln()
    })
}

fn tiny(n: u64) -> u64 {
    (0..n).map(black_box).sum()
}

fn digest_of(bytes: Vec<u8>) -> Result<u64, String> {
    Ok(digest(&bytes))
}

fn heavy_of(steps: u64) -> Result<f64, String> {
    Ok(heavy(steps))
}

/// Some milliseconds of work over some megabytes.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

//! Functions that crash, in child processes: of a thousand tasks some abort, overflow the stack,
//! allocate or loop without end, leave processes behind, or exit. Each has its own outcome, the
//! others never notice, and nothing is left.
//!
//! `cargo run --release -p longshore --example isolated -- [--tasks 1000] [--workers 2]
//! [--timeout-ms 200] [--late-ms 100] [--memory-mib 256]`

#[path = "args/mod.rs"]
mod args;

use std::{
    fs,
    hint::black_box,
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use args::{Args, Claims, ms};
use longshore::{ChildLimits, Functions, Job, Options, Outcome};

const HELP: &str = "\
Functions in child processes, some of which do not survive it.

  --tasks N        how many tasks (1000)
  --workers N      how many children at once (2)
  --timeout-ms N   the limit of those that loop (200); of the others 50 times as much
  --late-ms N      how late a kill may be (100)
  --memory-mib N   the memory that a child may hold (256)
  --help           this text";

/// What each hundred tasks hold, and what is to become of them.
const PLAN: [(&str, u64, &str); 9] = [
    ("compute", 80, "ok"),
    ("return an error", 3, "failed: error"),
    ("panic", 3, "panicked"),
    ("abort", 3, "killed: signal 6"),
    ("overflow the stack", 3, "killed: signal 6"),
    ("exit with code 3", 2, "lost"),
    ("loop for ever", 2, "timeout"),
    ("allocate without end", 1, "failed: memory"),
    ("leave a process behind", 3, "ok"),
];

/// What task `n` does, as a place in the plan; spread out, so that every kind meets every other.
fn kind(n: u64) -> usize {
    let mut at = (n * 37) % 100;
    PLAN.iter().position(|(_, count, _)| at.checked_sub(*count).map(|rest| at = rest).is_none()).unwrap_or(0)
}

/// The function. It knows nothing of processes.
fn work(n: u64) -> Result<u64, String> {
    // What a panic says travels as its outcome; on standard error it would only disturb the table.
    std::panic::set_hook(Box::new(|_| {}));
    match PLAN[kind(n)].0 {
        "return an error" => Err(format!("no luck with {n}")),
        "panic" => panic!("{n} is too much"),
        "abort" => std::process::abort(),
        "overflow the stack" => Ok(deeper(n)),
        "exit with code 3" => std::process::exit(3),
        "loop for ever" => loop {
            black_box(n);
        },
        "allocate without end" => loop {
            black_box(vec![1_u8; 1 << 20]).leak();
        },
        "leave a process behind" => {
            Command::new("sleep").arg("1000").spawn().map_err(|error| error.to_string())?;
            Ok(n)
        }
        _ => Ok((0..1000).map(black_box).sum::<u64>() + n),
    }
}

fn deeper(n: u64) -> u64 {
    let frame = black_box([n; 256]);
    if black_box(n) == u64::MAX { 0 } else { deeper(n + 1).wrapping_add(frame[0]) }
}

fn told(outcome: &Outcome<u64>) -> String {
    match (outcome.word().as_str(), outcome.class()) {
        (word @ "failed", Some((kind, _))) => format!("{word}: {kind}"),
        (word @ "killed", Some((_, Some(signal)))) => format!("{word}: signal {signal}"),
        (word, _) => word.to_owned(),
    }
}

fn main() -> ExitCode {
    longshore::init_with(Functions::new().with(work));

    let args = Args::parse(HELP);
    let tasks: u64 = args.get("--tasks", 1000);
    let limit = Duration::from_millis(args.get("--timeout-ms", 200));
    let late = Duration::from_millis(args.get("--late-ms", 100));
    let memory: u64 = args.get::<u64>("--memory-mib", 256) << 20;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let note = seen.clone();
    let (before, start) = (resident_kib(), Instant::now());
    let report = Job::isolated(work, ChildLimits::default().memory(memory).max_tasks(200))
        .params(0..tasks)
        .workers(args.get("--workers", 2))
        // What loops meets the limit; everything else has time enough, however busy the machine is.
        .options_of(move |n| Options::default().timeout(if PLAN[kind(*n)].2 == "timeout" { limit } else { 50 * limit }))
        .on_task_complete(move |task| {
            let mut seen = note.lock().expect("no panic here");
            let place = kind(task.id() - 1);
            let told = told(&task.outcome);
            seen.as_planned += u64::from(told == PLAN[place].2);
            match task.outcome {
                Outcome::TimedOut { .. } => seen.latest_kill = seen.latest_kill.max(task.run().saturating_sub(limit)),
                Outcome::Failed(ref error) if error.kind() == "memory" => seen.memory.push(error.message().to_owned()),
                _ => {}
            }
            if task.id() % 20 == 0 {
                seen.processes = seen.processes.max(processes_of_this_run());
            }
            match seen.rows.iter_mut().find(|row| row.0 == place && row.1 == told) {
                Some(row) => row.2 += 1,
                None => seen.rows.push((place, told, 1)),
            }
        })
        .run();
    let (wall, after) = (start.elapsed(), resident_kib());

    let mut seen = std::mem::take(&mut *seen.lock().expect("no panic here"));
    seen.rows.sort();
    println!("{:24} {:18} {:>5} {:>8}", "what the tasks do", "outcome", "tasks", "planted");
    for (place, told, count) in &seen.rows {
        let planted = (0..tasks).filter(|n| kind(*n) == *place).count();
        println!("{:24} {told:18} {count:>5} {planted:>8}", PLAN[*place].0);
    }
    seen.memory.sort();
    println!("\n{tasks} tasks in {:.2} s", wall.as_secs_f64());
    if let Some(most) = seen.memory.last() {
        println!("memory: {most}");
    }
    println!("latest kill after its limit: {}", ms(seen.latest_kill));
    println!("this process held {:.1} MiB before and {:.1} MiB after", before as f64 / 1024.0, after as f64 / 1024.0);
    println!("the most processes of this run that were seen at once: {}\n", seen.processes);

    let mut claims = Claims::default();
    claims.check(seen.as_planned == tasks && report.done() == tasks, "every task has the outcome that was planted, and one only");
    claims.check(seen.latest_kill < late, &format!("what loops is killed within {late:?} of its limit"));
    claims.check(after < before + 32 * 1024, "this process's memory did not grow with what its children took");
    claims.check(seen.processes > 0 && none_is_left(), "no process of this run is left");
    claims.end()
}

#[derive(Default)]
struct Seen {
    rows: Vec<(usize, String, u64)>,
    as_planned: u64,
    latest_kill: Duration,
    memory: Vec<String>,
    processes: usize,
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// How many processes live that carry this run's marker: children, and what they have started. The
/// marker begins with this process's number.
fn processes_of_this_run() -> usize {
    let marker = format!("LONGSHORE_RUN={:x}-", std::process::id());
    let lives = |stat: &str| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            fs::read(entry.path().join("environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|part| part.starts_with(marker.as_bytes())))
        })
        .filter(|entry| fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| lives(&stat)))
        .count()
}

/// Children that have nothing to do any more are given a moment for what their program does at its
/// end.
fn none_is_left() -> bool {
    let start = Instant::now();
    while processes_of_this_run() > 0 {
        if start.elapsed() > Duration::from_secs(5) {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

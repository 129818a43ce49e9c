//! A leaky bucket in front of a consumer: tasks come in at three times the leak, leave evenly
//! spaced, and what finds the bucket full is refused.
//!
//! `cargo run --release -p longshore --example leaky_bucket [-- --overflow drop-oldest]`

mod args;

use std::{
    process::ExitCode,
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use args::{Args, Claims, ms};
use longshore::{Job, LaneKind, Rate, SendError, Sender};

const HELP: &str = "\
Tasks of two kinds (waiting and computing) fall into one bucket at three times its leak.

  --leak X         tasks that leave it a second (50)
  --capacity N     tasks that it holds (20)
  --items N        tasks that are offered (600)
  --overflow HOW   refuse, wait or drop-oldest (refuse)
  --workers N      tasks that run at once (6)
  --scale X        shrinks every duration: the leak is X times quicker (1)
  --help           this text";

/// What becomes of a task that finds the bucket full.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Overflow {
    /// It is given back to its producer.
    Refuse,
    /// Its producer waits.
    Wait,
    /// The oldest task in the bucket gives way to it.
    DropOldest,
}

impl FromStr for Overflow {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "refuse" => Ok(Overflow::Refuse),
            "wait" => Ok(Overflow::Wait),
            "drop-oldest" => Ok(Overflow::DropOldest),
            _ => Err(()),
        }
    }
}

/// What the bucket holds.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// Waits for this long.
    Wait(Duration),
    /// Computes for about this long.
    Compute(Duration),
}

/// What producers and tasks note.
#[derive(Default)]
struct Notes {
    starts: Mutex<Vec<Instant>>,
    running: AtomicUsize,
}

impl Notes {
    fn start(&self) {
        self.starts.lock().expect("nothing panics while it holds this").push(Instant::now());
        self.running.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the producer saw.
struct Offered {
    began: Instant,
    ended: Instant,
    given_back: usize,
    dropped: usize,
    /// At the moment of the last offer: tasks that had started, and those that were running.
    started: usize,
    running: usize,
    memory: (u64, u64),
}

fn main() -> ExitCode {
    let args = Args::parse(HELP);
    let (capacity, items, workers): (usize, usize, usize) =
        (args.get("--capacity", 20), args.get("--items", 600), args.get("--workers", 6));
    let leak = args.get("--leak", 50.0) / args.scale();
    let overflow = args.get("--overflow", Overflow::Refuse);
    let interval = Duration::from_secs_f64(1.0 / leak);
    println!("a bucket of {capacity} that leaks {leak} tasks a second; {items} tasks offered at {}/s; when full: {overflow:?}", 3.0 * leak);

    let notes = Arc::new(Notes::default());
    let (waiting, computing) = (notes.clone(), notes.clone());
    let (bucket, job) = Job::new(move |work: Work| {
        let notes = waiting.clone();
        async move {
            notes.start();
            if let Work::Wait(time) = work {
                tokio::time::sleep(time).await;
            }
            notes.end();
            Ok::<(), String>(())
        }
    })
    .on_cpu(move |_, work| {
        computing.start();
        let began = Instant::now();
        while matches!(work, Work::Compute(time) if began.elapsed() < time) {
            std::hint::spin_loop();
        }
        computing.end();
        Ok::<(), String>(())
    })
    .lane_of(|work| match work {
        Work::Wait(_) => LaneKind::Async,
        Work::Compute(_) => LaneKind::Cpu,
    })
    .sender(capacity);

    let producer = thread::spawn({
        let notes = notes.clone();
        move || offer(&bucket, items, interval, overflow, &notes)
    });
    // What the engine fetches ahead stands outside of the bucket: no more than free workers can
    // take.
    let report = job.concurrency(workers).queue(0).rate(Rate::per_second(leak)).run();
    let Ok(offered) = producer.join() else { return ExitCode::FAILURE };

    let starts = std::mem::take(&mut *notes.starts.lock().expect("nothing panics while it holds this"));
    let mut gaps: Vec<Duration> = starts.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).collect();
    gaps.sort_unstable();
    let (shortest, median, longest) = match gaps[..] {
        [] => (interval, interval, interval),
        _ => (gaps[0], gaps[gaps.len() / 2], gaps[gaps.len() - 1]),
    };
    println!("starts   {} in {:.2?}", starts.len(), report.wall);
    println!("spacing  ideal {}, min {}, median {}, max {}", ms(interval), ms(shortest), ms(median), ms(longest));
    println!("offered  {items} = {} run + {} given back + {} dropped", report.done(), offered.given_back, offered.dropped);
    println!(
        "memory   {:.1} MiB after a quarter of the offers, {:.1} MiB after the last\n",
        offered.memory.0 as f64 / 1024.0,
        offered.memory.1 as f64 / 1024.0
    );

    let mut claims = Claims::default();
    let ended = report.ok() as usize;
    claims.check(report.is_clean(), "every task that was taken ended well");
    claims.check(ended == starts.len() && ended + offered.given_back + offered.dropped == items, "every offered task is counted once");
    // By the end of the offers the bucket is full, and some free workers hold one more that waits
    // for its turn to leave.
    let leaked = 1 + ((offered.ended - offered.began).as_secs_f64() * leak) as usize;
    let ahead = workers.saturating_sub(offered.running);
    let lost = offered.given_back + offered.dropped;
    if overflow == Overflow::Wait {
        claims.check(lost == 0, "a producer that waits loses nothing");
    } else {
        let most = items.saturating_sub(offered.started + capacity);
        claims.check(
            (most.saturating_sub(ahead + 1)..=most + 1).contains(&lost),
            &format!(
                "{lost} found the bucket full: {items} offered − {} started − {capacity} in the bucket − 0 to {ahead} with free workers",
                offered.started
            ),
        );
        let least = items.saturating_sub(leaked + capacity + workers);
        claims.check(lost >= least, &format!("at a leak of {leaked} in that time at least {least} of {items} could find no place"));
    }
    claims.check(median.abs_diff(interval) <= interval.mul_f64(0.1) + Duration::from_millis(1), "the starts are evenly spaced");
    let span = starts.last().map_or(Duration::ZERO, |last| last.duration_since(offered.began));
    let most = 1 + (span.as_secs_f64() * leak) as usize;
    claims.check(starts.len() <= most, &format!("never more than the leak: {} starts, at most {most}", starts.len()));
    // In turn, tasks three times as long as 1/leak would make it a third.
    claims.check(starts.len() > most / 2, "tasks that run three times as long as 1/leak do not slow it");
    let grown = offered.memory.1.saturating_sub(offered.memory.0);
    claims.check(grown < 4 * 1024, &format!("memory is flat: {grown} KiB more"));
    claims.end()
}

/// Offers tasks at three times the leak.
fn offer(bucket: &Sender<Work>, items: usize, interval: Duration, overflow: Overflow, notes: &Notes) -> Offered {
    let began = Instant::now();
    let (mut given_back, mut dropped, mut after_a_quarter) = (0, 0, 0);
    for nth in 0..items {
        let due = began + interval.mul_f64(nth as f64 / 3.0);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Every fifth computes; the others wait three times as long as the time between two starts.
        let work = if nth % 5 == 4 { Work::Compute(interval / 10) } else { Work::Wait(interval * 3) };
        match overflow {
            Overflow::Refuse => match bucket.try_send(work) {
                Ok(()) => {}
                Err(SendError::Full(_work)) => given_back += 1,
                Err(SendError::Closed(_)) => break,
            },
            Overflow::Wait => {
                if bucket.blocking_send(work).is_err() {
                    break;
                }
            }
            Overflow::DropOldest => match bucket.send_displacing(work) {
                Ok(oldest) => dropped += usize::from(oldest.is_some()),
                Err(_) => break,
            },
        }
        if nth == items / 4 {
            after_a_quarter = memory_kib();
        }
    }
    let counts = bucket.counts();
    debug_assert_eq!((counts.refused as usize, counts.displaced as usize), (given_back, dropped));
    Offered {
        began,
        ended: Instant::now(),
        given_back,
        dropped,
        started: notes.starts.lock().expect("nothing panics while it holds this").len(),
        running: notes.running.load(Ordering::SeqCst),
        memory: (after_a_quarter, memory_kib()),
    }
}

/// Resident memory; 0 where the system does not say.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

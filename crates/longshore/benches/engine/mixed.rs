//! Sleeps beside computations in one job: how late the sleeps end while the cpu lane is full, and
//! what the sleeps cost the computations.

use std::{
    hint::black_box,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore::{Job, LaneKind, Stamp};
use tokio::time::sleep;

use crate::harness::{Args, holds, median, on, runtime};

const SLEEPS: u64 = 30_000;
const SLEEP: Duration = Duration::from_millis(5);
const AT_ONCE: usize = 160;
const CHUNKS: u64 = 20;
const CHUNK: Duration = Duration::from_millis(100);

fn compute(steps: u64) {
    black_box((0..steps).fold(0, |sum, i| black_box(sum + black_box(i).wrapping_mul(i))));
}

/// Steps that take one chunk's time on a free core.
fn steps_of_a_chunk() -> u64 {
    let times = (0..5).map(|_| {
        let began = Instant::now();
        compute(10_000_000);
        began.elapsed().as_secs_f64()
    });
    (10_000_000.0 * CHUNK.as_secs_f64() / times.fold(f64::MAX, f64::min)) as u64
}

#[derive(Default)]
struct Seen {
    late: Vec<Duration>,
    cpu: Option<(Stamp, Stamp)>,
}

struct Round {
    p50: f64,
    p99: f64,
    cpu: f64,
}

async fn round(sleeps: u64, chunks: u64, steps: u64) -> Round {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let note = seen.clone();
    let job = Job::new(|_| async {
        let began = Instant::now();
        sleep(SLEEP).await;
        Ok::<_, String>(began.elapsed().saturating_sub(SLEEP))
    })
    .on_cpu(move |_, _| {
        compute(steps);
        Ok::<_, String>(Duration::ZERO)
    })
    .lane_of(move |i| if *i < chunks { LaneKind::Cpu } else { LaneKind::Async })
    .params(0..chunks + sleeps)
    .workers(AT_ONCE)
    .lane_workers(LaneKind::Cpu, 2)
    .on_task_complete(move |done| {
        let mut seen = note.lock().expect("no panic");
        match done.task.lane {
            LaneKind::Cpu => {
                let (from, to) = seen.cpu.get_or_insert((done.started, done.ended));
                (*from, *to) = (done.started.min(*from), done.ended.max(*to));
            }
            _ => seen.late.extend(done.result()),
        }
    });
    assert_eq!(job.start().join().await.ok(), sleeps + chunks);
    let mut seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    seen.late.sort_unstable();
    let at = |share: f64| seen.late.get((seen.late.len() as f64 * share) as usize).map_or(0.0, |late| late.as_secs_f64() * 1e3);
    Round { p50: at(0.5), p99: at(0.99), cpu: seen.cpu.map_or(0.0, |(from, to)| to.since(from).as_secs_f64()) }
}

pub(crate) fn run(args: &Args) {
    let (runtime, steps) = (runtime(), steps_of_a_chunk());
    let mut rounds: [Vec<Round>; 3] = Default::default();
    for nth in 0..=args.rounds {
        for (rounds, (sleeps, chunks)) in rounds.iter_mut().zip([(SLEEPS, 0), (0, CHUNKS), (SLEEPS, CHUNKS)]) {
            let round = on(&runtime, round(sleeps, chunks, steps));
            if nth > 0 {
                rounds.push(round);
            }
        }
    }
    let [sleeps, chunks, both] = &rounds;
    let of = |rounds: &[Round], what: fn(&Round) -> f64| median(rounds.iter().map(what).collect());
    let ratio = |ours: &[Round], other: &[Round], what: fn(&Round) -> f64| {
        median(ours.iter().zip(other).map(|(ours, other)| what(ours) / what(other)).collect())
    };
    println!("\n30000 sleeps of 5 ms beside 20 computations of 100 ms on two threads, one job\n");
    println!("| | lateness p50, ms | p99, ms | computations, s |\n|---|---|---|---|");
    println!("| sleeps alone | {:.2} | {:.2} | |", of(sleeps, |r| r.p50), of(sleeps, |r| r.p99));
    println!("| computations alone | | | {:.3} |", of(chunks, |r| r.cpu));
    println!("| both | {:.2} | {:.2} | {:.3} |", of(both, |r| r.p50), of(both, |r| r.p99), of(both, |r| r.cpu));
    let (late, slower) = (ratio(both, sleeps, |r| r.p99), ratio(both, chunks, |r| r.cpu));
    println!("\n| | both ÷ alone | limit | holds |\n|---|---|---|---|");
    println!("| lateness p99 | {late:.2} | 1.30 | {} |", holds(late <= 1.3));
    println!("| computations | {slower:.3} | 1.080 | {} |", holds(slower <= 1.08));
}

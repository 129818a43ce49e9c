//! The engine under random circumstances. `LONGSHORE_SIM_SEED=n` replays one run,
//! `LONGSHORE_SIM_SEEDS=n` sets the number of runs, `LONGSHORE_SIM_FIRST=n` the first of them.

use std::sync::atomic::{AtomicU64, Ordering};

use longshore_testkit::simulator::{Invariant, Sabotage, Tally, Violation, simulate};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs the seeds on all cores; the violations in the order of their seeds, and what the runs were
/// like.
fn run(first: u64, count: u64, sabotage: Sabotage) -> (Vec<Violation>, Tally) {
    let next = AtomicU64::new(first);
    let work = || {
        let (mut violations, mut sum) = (Vec::new(), Tally::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || violations.len() >= 10 {
                return (violations, sum);
            }
            match simulate(seed, sabotage) {
                Err(violation) => violations.push(violation),
                Ok(tally) => {
                    sum.lent += tally.lent;
                    sum.attempts += tally.attempts;
                    sum.handed_back += tally.handed_back;
                    sum.stopped += tally.stopped;
                    sum.broken += tally.broken;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let (mut violations, mut sum) = (Vec::new(), Tally::default());
        for thread in threads {
            let (some, tally) = thread.join().expect("the simulator itself panicked");
            violations.extend(some);
            sum.lent += tally.lent;
            sum.attempts += tally.attempts;
            sum.handed_back += tally.handed_back;
            sum.stopped += tally.stopped;
            sum.broken += tally.broken;
        }
        violations.sort_by_key(|violation: &Violation| violation.seed);
        (violations, sum)
    })
}

#[test]
fn every_invariant_holds_in_every_run() {
    let (first, count) = match number("LONGSHORE_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (number("LONGSHORE_SIM_FIRST").unwrap_or(0), number("LONGSHORE_SIM_SEEDS").unwrap_or(5_000)),
    };
    let began = std::time::Instant::now();
    let (violations, tally) = run(first, count, Sabotage::None);
    println!("{count} seeds from {first} in {:?}: {tally:?}", began.elapsed());
    for violation in &violations {
        println!("{violation}");
    }
    assert!(violations.is_empty(), "{} runs broke an invariant; the first: {}", violations.len(), violations[0]);
    if count >= 1_000 {
        // Runs that are all alike would prove little.
        assert!(tally.lent > 10 * count && tally.attempts > 10 * count && tally.handed_back > count / 2, "{tally:?}");
        assert!(tally.stopped > count / 10 && tally.broken > count / 50, "{tally:?}");
    }
}

/// Who cheats is found, and for the right reason.
#[test]
fn every_planted_bug_is_found() {
    use Invariant as I;
    use Sabotage as S;
    for (sabotage, invariants) in [
        // Outcomes given to the wrong task: one ends twice, the other one never.
        (S::LaneReportsTwice, &[I::OneOutcome, I::Ends, I::OncePerTask, I::Counts][..]),
        (S::LaneDropsAttempt, &[I::Ends]),
        (S::LaneLies, &[I::OncePerTask, I::Counts]),
        (S::SinkKeepsRoom, &[I::Ends]),
        (S::SourceSettlesTwice, &[I::OneSettlement]),
        (S::SourceForgetsSettlement, &[I::OneSettlement]),
        (S::SourceSwallowsTask, &[I::OneSettlement, I::Counts]),
        (S::KeysAreHidden, &[I::Keys]),
        (S::ValuesAreHidden, &[I::Concurrency, I::Pace]),
        (S::OneSlotMore, &[I::Concurrency, I::Memory]),
        (S::PaceIsFaster, &[I::Pace]),
        (S::StopIsIgnored, &[I::Stopped]),
    ] {
        let (violations, _) = run(0, 100, sabotage);
        println!("{sabotage:?}: {:?}", violations.iter().map(|violation| violation.invariant).collect::<Vec<_>>());
        assert!(!violations.is_empty(), "{sabotage:?} goes unnoticed in 100 runs");
        for violation in violations {
            assert!(invariants.contains(&violation.invariant), "{sabotage:?} is taken for something else: {violation}");
        }
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..50 {
        let (first, second) = (simulate(seed, Sabotage::None), simulate(seed, Sabotage::None));
        assert_eq!(format!("{first:?}"), format!("{second:?}"), "seed {seed}");
    }
}

//! The whole system under a seed: real workers and real clients, a model of a broker, and faults,
//! on simulated time.
//!
//! A run is three workers and two clients, each with a runtime and clocks of its own (`clock.rs`),
//! driven by turns on one thread (`drive.rs`), 200 tasks and 20 faults (`plan.rs`). All they know
//! of each other goes through a broker and result backend that is one state (`model.rs`), over ways
//! that lose and delay what they carry (`adapter.rs`). The ledger (`ledger.rs`) knows what must
//! hold, and blames whoever breaks it by name. Blocking, cpu and process lanes are modelled: their
//! tasks are futures.
//!
//! `cargo test --profile soak -p longshore-testkit --test soak` is five times as quick as without.
//! `LONGSHORE_SOAK_SEED=n` replays a run, `LONGSHORE_SOAK_SEEDS=n` sets how many there are,
//! `LONGSHORE_SOAK_FIRST=n` the first.

mod adapter;
mod clock;
mod drive;
mod ledger;
mod mended;
mod model;
mod plan;
mod shrink;
mod tasks;

use std::sync::atomic::{AtomicU64, Ordering};

use drive::{Tally, Violation, simulate, trace};
use ledger::Invariant;
use plan::Plan;
use shrink::shrink;

/// Who cheats. Each cheat breaks an invariant, to show that it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    /// Nobody.
    None,
    /// Messages are acknowledged, and their results are stored later.
    AcknowledgedFirst,
    /// A request that got lost is taken for done.
    LostIsDone,
    /// A worker knows nothing of its lease.
    LeaseIsNotLookedAt,
    /// The broker takes the end of what was given to another one.
    LateEndIsTaken,
    /// What follows is sent again when the answer was lost.
    SentAgain,
    /// The broker does not tell what was called off.
    RevokedIsNotAsked,
    /// Whatever a dead worker held counts as accused.
    InnocentIsCounted,
    /// A chord counts what it is told, not who told it.
    PartIsCountedTwice,
    /// What goes back goes back twice.
    HandedBackTwice,
    /// The broker gives slots of a rate to whoever asks.
    RateIsIgnored,
    /// Nobody asks a broker that was started again what it thinks that he holds.
    StraysAreLeft,
    /// A lease is measured by the time of the day.
    LeaseByWall,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs the seeds on all cores, until so many have failed.
fn run(first: u64, count: u64, most: usize, sabotage: Sabotage) -> (Vec<Violation>, Tally) {
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        let (mut violations, mut sum) = (Vec::new(), Tally::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || failed.load(Ordering::Relaxed) >= most as u64 {
                return (violations, sum);
            }
            match simulate(&Plan::draw(seed), sabotage, false) {
                Ok(tally) => sum = sum + tally,
                Err(violation) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    violations.push(*violation);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let (mut violations, mut sum) = (Vec::new(), Tally::default());
        for thread in threads {
            let (some, tally) = thread.join().expect("the soak itself panicked");
            violations.extend(some);
            sum = sum + tally;
        }
        violations.sort_by_key(|violation| violation.plan.seed);
        (violations, sum)
    })
}

#[test]
fn every_promise_holds_in_every_run() {
    let (first, count) = match number("LONGSHORE_SOAK_SEED") {
        Some(seed) => (seed, 1),
        None => (number("LONGSHORE_SOAK_FIRST").unwrap_or(0), number("LONGSHORE_SOAK_SEEDS").unwrap_or(SEEDS)),
    };
    let began = std::time::Instant::now();
    let (violations, tally) = run(first, count, 10, Sabotage::None);
    let took = began.elapsed();
    println!("{} seeds from {first} in {took:?}: {:.0} a minute; {tally:?}", tally.runs, tally.runs as f64 * 60.0 / took.as_secs_f64());
    for violation in &violations {
        println!("seed {}: {:?}: {}", violation.plan.seed, violation.invariant, violation.what);
    }
    if let Some(violation) = violations.first() {
        panic!("{} runs broke a promise; the first, with no more faults than it takes:\n{}", violations.len(), shrink(violation));
    }
    if count >= 100 {
        // Runs that are all alike would prove little.
        assert!(tally.starts > 150 * count && tally.redelivered > 5 * count && tally.dead > count / 2, "{tally:?}");
    }
}

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 100;

/// Who cheats is found, and for the right reason.
#[test]
fn every_planted_bug_is_found() {
    use Invariant as I;
    use Sabotage as S;
    for (sabotage, invariants) in [
        (S::AcknowledgedFirst, &[I::ResultFirst, I::Ends, I::FollowUps, I::ChordBody][..]),
        (S::LostIsDone, &[I::Ends, I::Left, I::FollowUps, I::Counts]),
        (S::LeaseIsNotLookedAt, &[I::Own]),
        (S::LateEndIsTaken, &[I::OneEnd, I::FollowUps]),
        (S::SentAgain, &[I::FollowUps]),
        (S::RevokedIsNotAsked, &[I::Revoked]),
        (S::InnocentIsCounted, &[I::Buried]),
        (S::PartIsCountedTwice, &[I::ChordBody, I::FollowUps]),
        (S::HandedBackTwice, &[I::Once, I::Left, I::FollowUps]),
        (S::RateIsIgnored, &[I::Rate]),
        (S::StraysAreLeft, &[I::Ends, I::Left]),
        (S::LeaseByWall, &[I::Own, I::Ends]),
    ] {
        let (violations, _) = run(0, 400, 1, sabotage);
        let Some(violation) = violations.first() else { panic!("{sabotage:?} goes unnoticed in 400 runs") };
        println!("{sabotage:?}: seed {}: {:?}: {}", violation.plan.seed, violation.invariant, violation.what);
        assert!(invariants.contains(&violation.invariant), "{sabotage:?} is taken for something else: {:?}", violation.invariant);
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..number("LONGSHORE_SOAK_SEEDS").unwrap_or(SEEDS).div_ceil(20) {
        let plan = Plan::draw(seed);
        let (one, other) = (trace(&plan), trace(&plan));
        assert!(one.len() > 400, "seed {seed} tells of {} steps", one.len());
        let differ = one.iter().zip(&other).position(|(one, other)| one != other);
        assert!(
            differ.is_none(),
            "seed {seed} differs from itself:\n{:?}\n{:?}",
            one.get(differ.unwrap_or(0)),
            other.get(differ.unwrap_or(0))
        );
        assert_eq!(one.len(), other.len(), "seed {seed} ends twice");
    }
}

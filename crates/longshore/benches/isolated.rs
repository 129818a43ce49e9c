//! Functions in child processes against what a user would write instead: a loop over pipes by hand,
//! and Python's pools of processes. The same no-op, medians of interleaved rounds, one child each
//! unless said otherwise.
//!
//! `cargo bench -p longshore --bench isolated -- [pipe|python …] [--rounds 9] [--tasks 100000]
//! [--only longshore]`
//!
//! `LONGSHORE_BENCH_PYTHON` names the Python to compare with (default `python3`); loky is measured
//! if it can import it.

#[path = "engine/harness.rs"]
#[allow(dead_code, reason = "the other benchmark uses all of it")]
mod harness;
#[path = "isolated/pipe.rs"]
mod pipe;
#[path = "isolated/python.rs"]
mod python;

use longshore::{ChildLimits, Executor, Functions, Job, LaneKind};

/// The least that a task can be.
fn echo(n: u64) -> Result<u64, String> {
    Ok(n)
}

fn batches(batch: Option<u32>) -> ChildLimits {
    let mut limits = ChildLimits::default();
    limits.at_once = batch;
    limits
}

/// A job: every number comes back, each a task with its times, its statistics and its place in the
/// report.
fn job(tasks: u64, children: usize, batch: Option<u32>) -> longshore::Job<u64, u64> {
    Job::isolated(echo, batches(batch)).params(0..tasks).workers(children)
}

/// A map: every number comes back, in order, or the error of that one.
fn map(tasks: u64, children: usize, batch: Option<u32>) {
    let pool = Executor::builder().workers(LaneKind::Process, children).build();
    let results = pool.isolated(echo, batches(batch)).map(0..tasks);
    assert_eq!(results.map(Result::unwrap).sum::<u64>(), (0..tasks).sum::<u64>());
}

fn main() {
    pipe::child_if_asked();
    longshore::init_with(Functions::new().with(echo));
    let args = harness::Args::parse();
    for (name, run) in [("pipe", pipe::run as fn(&harness::Args)), ("python", python::run)] {
        if args.wants(name) {
            run(&args);
        }
    }
}

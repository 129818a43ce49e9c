//! Pipelines against hand-written ones over channels: the same work, side by side in one run,
//! medians of interleaved rounds, as ratios.
//!
//! `cargo bench -p longshore --bench pipeline -- [tasks|threads|waits …] [64|3] [--rounds 9]
//! [--tasks 1000000] [--only longshore]`

#[path = "pipeline/by_hand.rs"]
mod by_hand;
#[path = "engine/harness.rs"]
mod harness;
#[path = "pipeline/no_op.rs"]
mod no_op;
#[path = "pipeline/waits.rs"]
mod waits;

fn main() {
    let args = harness::Args::parse();
    for (name, run) in [("tasks", no_op::tasks as fn(&harness::Args)), ("threads", no_op::threads), ("waits", waits::run)] {
        if args.wants(name) {
            run(&args);
        }
    }
}

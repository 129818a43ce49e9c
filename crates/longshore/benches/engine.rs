//! The engine against what a user would write instead: the same work, side by side in one run, medians of interleaved rounds, as ratios.
//!
//! `cargo bench -p longshore --bench engine [-- async|cpu|waits|mixed|pace] [--rounds 9] [--tasks 1000000]`

#[path = "engine/async_tasks.rs"]
mod async_tasks;
#[path = "engine/harness.rs"]
mod harness;

fn main() {
    let args = harness::Args::parse();
    if args.wants("async") {
        async_tasks::run(&args);
    }
}

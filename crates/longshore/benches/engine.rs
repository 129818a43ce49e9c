//! The engine against what a user would write instead: the same work, side by side in one run,
//! medians of interleaved rounds, as ratios.
//!
//! `cargo bench -p longshore --bench engine -- [async|waits|cpu|mixed|pace …] [--rounds 9]
//! [--tasks 1000000] [--only longshore]`

#[path = "engine/async_tasks.rs"]
mod async_tasks;
#[path = "engine/cpu.rs"]
mod cpu;
#[path = "engine/harness.rs"]
mod harness;
#[path = "engine/mixed.rs"]
mod mixed;
#[path = "engine/pace.rs"]
mod pace;
#[path = "engine/waits.rs"]
mod waits;

fn main() {
    let args = harness::Args::parse();
    for (name, run) in [
        ("async", async_tasks::run as fn(&harness::Args)),
        ("waits", waits::run),
        ("cpu", cpu::run),
        ("mixed", mixed::run),
        ("pace", pace::run),
    ] {
        if args.wants(name) {
            run(&args);
        }
    }
}

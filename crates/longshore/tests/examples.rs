//! Every example, scaled down: each checks what it claims and fails when that does not hold.

#![expect(clippy::unwrap_used, reason = "a test that cannot start what it tests has failed")]

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

/// One at a time: what they claim is measured.
static TURN: Mutex<()> = Mutex::new(());

/// Cargo builds examples along with tests, but not for `cargo test --test examples` alone.
fn binary(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "longshore", "--example", name]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the example {name} does not build");
    }
    path
}

fn run(name: &str, args: &str) -> Output {
    Command::new(binary(name)).args(args.split_whitespace()).output().unwrap()
}

/// Runs an example; on a machine that is busy with other things it has three tries at its
/// measurements.
#[track_caller]
fn holds(name: &str, args: &str) -> String {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut output = run(name, args);
    for _ in 0..2 {
        if !output.status.success() {
            output = run(name, args);
        }
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {args}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_first_example_counts_its_ninety_nine_and_the_unlucky_one() {
    assert!(holds("job", "").contains("99 ok, 1 failed"));
}

#[test]
fn producers_and_consumers_keep_to_their_number_and_a_slow_callback_slows_no_worker() {
    assert!(holds("producer_consumer", "--items 100 --workers 10 --scale 0.15").contains("never more than 10 requests open"));
}

#[test]
fn the_sweep_shows_what_a_queue_costs_and_brings() {
    assert!(holds("producer_consumer", "--sweep --items 120 --workers 10 --scale 0.1").contains("The rule"));
}

#[test]
fn a_leaky_bucket_refuses_waits_or_drops_and_counts_it() {
    for overflow in ["refuse", "wait", "drop-oldest"] {
        let text = holds("leaky_bucket", &format!("--leak 200 --items 240 --overflow {overflow}"));
        assert!(text.contains("every offered task is counted once"), "{text}");
    }
}

#[test]
fn what_computes_holds_up_no_sleep_on_a_lane_of_its_own() {
    assert!(holds("mixed_lanes", "--items 160 --cpu 3").contains("the watchdog named"));
}

#[cfg(target_os = "linux")]
#[test]
fn whatever_functions_do_in_children_is_their_own_outcome_and_nothing_is_left() {
    assert!(holds("isolated", "--tasks 100 --late-ms 1000").contains("killed: signal 6"));
}

#[test]
fn a_pipeline_takes_what_its_slowest_stage_takes_and_names_it() {
    let text = holds("pipeline", "--scale 0.2");
    assert!(text.contains("bottleneck: stage 2 `transform`: busy"), "{text}");
    assert!(holds("pipeline", "--scale 0.2 --workers 2").contains("within 5 % of the ideal"));
}

#[cfg(feature = "queue")]
#[test]
fn what_a_user_of_celery_would_write_does_what_celery_does() {
    let text = holds("from_celery", "");
    for line in [
        "retry     https://shop: pages of 25, after 2 retries",
        "TimeoutError('no answer with pages of 100')",
        "control   {\"ok\": \"\"}",
        "refused   {\"error\": \"ValueError('a lot is no currency')\"}",
        "args      Ada owes 40 EUR for 2 items {\"paid\": \"no\"}",
        "CardDeclined('1234 does not cover 40')",
        "errback   shop.tasks.charge of [\"1234\", 40] failed with CardDeclined('1234 does not cover 40')",
        "route     shop.alarms.remember goes to alarms",
        "worker    4 ok, 5 retries, 2 failed",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn an_example_helps_and_refuses_what_it_does_not_know() {
    for name in ["producer_consumer", "leaky_bucket", "mixed_lanes", "isolated", "pipeline"] {
        let help = run(name, "--help");
        assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--help"), "{name}");
        assert_eq!(run(name, "--no-such-thing").status.code(), Some(2), "{name}");
    }
}

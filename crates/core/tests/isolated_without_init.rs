//! Isolated functions in a program that does not begin with `init_with`.

use longshore_core::{ChildLimits, Job};

fn square(n: u64) -> Result<u64, String> {
    Ok(n * n)
}

#[test]
fn without_init_every_task_says_what_is_missing_and_nothing_is_started() {
    let collected = Job::isolated(square, ChildLimits::default()).params(0..3).collect();
    assert_eq!((collected.report.failed(), collected.outcomes.len()), (3, 3));
    for outcome in collected.outcomes {
        let error = outcome.error().expect("an error");
        assert_eq!(error.kind(), "setup");
        assert!(error.message().contains("square") && error.message().contains("longshore::init_with"), "{error}");
    }
}

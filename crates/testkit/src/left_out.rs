//! What a test says when something that it needs is not there.

use std::io::Write as _;

/// Says that this test is left out because of what this machine lacks, and how to get it; `cargo
/// suite` names it in its closing lines.
///
/// # Panics
/// With `CI=true`, where nothing may be left out.
pub fn missing(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}");
    left_out(what, 1);
}

/// Says that so many tests are left out, and why.
pub fn left_out(why: &str, count: u64) {
    eprintln!("skipped: {why}");
    let Some(path) = std::env::var_os("LONGSHORE_LEFT_OUT") else { return };
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let line = format!("{count}\t{}\t{test}\n", why.replace(['\t', '\n'], " "));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    // One write, so that no two tests' lines are mixed.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}

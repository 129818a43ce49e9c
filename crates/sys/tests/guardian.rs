//! The guardian with real processes: whatever kills the parent, nothing of its run is left.
//!
//! The test binary plays every part: a guardian (it re-executes itself, as `main` does in a
//! program) and the parent that is killed. The parts are told apart before the test harness starts.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use longshore_sys::{
    Guardian, SlotTable,
    child::kill_group,
    guardian::{MARKER, main_if_asked},
};
use std::{
    fs::File,
    io::{BufRead, BufReader, Lines},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Runs before `main`, where a program would call [`main_if_asked`] first thing.
extern "C" fn before_main() {
    main_if_asked();
    match std::env::var("GUARDIAN_TEST_PART").as_deref() {
        Ok("parent") => parent(),
        Ok("escape") => {
            rustix::process::setsid().expect("a child of sh is no group leader");
            let error = Command::new("sleep").arg("1000").env_remove("GUARDIAN_TEST_PART").exec();
            panic!("{error}");
        }
        _ => {}
    }
}

// SAFETY: a function without arguments or result, called once before main; the standard library has
// set up its arguments by then.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Guards itself, starts one child per GUARDIAN_TEST_SCRIPT line, says "started", and waits for a
/// line; then it ends as it should.
fn parent() -> ! {
    let table = SlotTable::new().unwrap();
    let lock = File::create(std::env::var_os("GUARDIAN_TEST_LOCK").unwrap()).unwrap();
    lock.lock().unwrap();
    let guardian = Guardian::start(&table, &[lock.as_fd()]).unwrap();
    let (name, value) = guardian.marker();
    println!("guardian {}", guardian.pid());
    let mut children = Vec::new();
    for (slot, script) in std::env::var("GUARDIAN_TEST_SCRIPT").unwrap().lines().enumerate() {
        let (listed, script) = script.split_once(' ').unwrap();
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .env(name, value)
            .env_remove("GUARDIAN_TEST_PART")
            .process_group(0)
            .spawn()
            .unwrap();
        if listed == "listed" {
            table.set(u32::try_from(slot).unwrap(), child.id().cast_signed());
        }
        children.push(child);
    }
    println!("started");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for child in &mut children {
        kill_group(child.id().cast_signed(), 9).unwrap();
        child.wait().unwrap();
    }
    guardian.finish().unwrap();
    std::process::exit(0);
}

struct Run {
    parent: Child,
    lines: Lines<BufReader<ChildStdout>>,
    lock: tempfile::NamedTempFile,
    guardian: i32,
    pids: Vec<i32>,
}

impl Run {
    /// Starts a parent with these children, and waits until they have said `expect` pids.
    fn start(scripts: &str, expect: usize) -> Self {
        let lock = tempfile::NamedTempFile::new().unwrap();
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .env("GUARDIAN_TEST_PART", "parent")
            .env("GUARDIAN_TEST_LOCK", lock.path())
            .env("GUARDIAN_TEST_SCRIPT", scripts)
            .env("GUARDIAN_TEST_SELF", std::env::current_exe().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
        let (mut guardian, mut pids, mut started) = (0, Vec::new(), false);
        while !started || pids.len() < expect {
            let line = lines.next().unwrap().unwrap();
            match line.split_once(' ') {
                Some(("guardian", pid)) => guardian = pid.parse().unwrap(),
                Some(("pid", pid)) => pids.push(pid.parse().unwrap()),
                _ => started = line == "started",
            }
        }
        Self { parent, lines, lock, guardian, pids }
    }

    /// Waits as a resumed run does: until the lock of the dead one is free.
    fn wait_for_lock(&self) -> Duration {
        let start = Instant::now();
        File::open(self.lock.path()).unwrap().lock().unwrap();
        start.elapsed()
    }

    fn still_running(&self) -> Vec<i32> {
        self.pids.iter().copied().filter(|pid| runs(*pid)).collect()
    }
}

/// Whether a process runs; a zombie does not, and init may never reap it.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()), Some('Z' | 'X') | None))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A child with grandchildren, one of which ignores what can be ignored.
const FAMILY: &str = "listed echo pid $$; (trap '' TERM INT HUP; sleep 1000) & echo pid $!; sleep 1000 & echo pid $!; wait";

#[test]
fn a_parent_killed_alone_leaves_nothing_running() {
    let mut run = Run::start(&format!("{FAMILY}\n{FAMILY}\n{FAMILY}"), 9);
    assert_eq!(run.still_running().len(), 9);
    run.parent.kill().unwrap();
    let waited = run.wait_for_lock();
    assert_eq!(run.still_running(), [0; 0]);
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    run.parent.wait().unwrap();
}

#[test]
fn a_parent_killed_with_its_whole_group_leaves_nothing_running() {
    let mut run = Run::start(&format!("{FAMILY}\n{FAMILY}"), 6);
    let group = run.parent.id().cast_signed();
    for signal in [1, 2, 15] {
        // The guardian hears none of these, nor the SIGKILL: it is in another session. The parent's
        // default is to die.
        kill_group(run.guardian, signal).unwrap();
        assert!(runs(run.guardian), "signal {signal}");
    }
    kill_group(group, 9).unwrap();
    run.wait_for_lock();
    assert_eq!(run.still_running(), [0; 0]);
    run.parent.wait().unwrap();
}

#[test]
fn a_child_not_yet_in_the_table_is_found_by_its_marker() {
    let mut run = Run::start(&FAMILY.replace("listed", "unlisted"), 3);
    run.parent.kill().unwrap();
    run.wait_for_lock();
    assert_eq!(run.still_running(), [0; 0]);
    run.parent.wait().unwrap();
}

#[test]
fn a_grandchild_in_a_session_of_its_own_is_found_by_its_marker() {
    let script = "listed echo pid $$; GUARDIAN_TEST_PART=escape \"$GUARDIAN_TEST_SELF\" & echo pid $!; wait";
    let mut run = Run::start(script, 2);
    let escaped = run.pids[1];
    wait_until("the grandchild never left", || {
        std::fs::read_to_string(format!("/proc/{escaped}/stat")).is_ok_and(|stat| {
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            fields[2] == escaped.to_string() && stat.contains("(sleep)")
        })
    });
    run.parent.kill().unwrap();
    run.wait_for_lock();
    assert_eq!(run.still_running(), [0; 0]);
    run.parent.wait().unwrap();
}

#[test]
fn what_belongs_to_nobody_else_is_left_alone() {
    let mut other = Command::new("sleep").arg("1000").env(MARKER, "another-run").process_group(0).spawn().unwrap();
    let mut nobodys = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut run = Run::start(FAMILY, 3);
    run.parent.kill().unwrap();
    run.wait_for_lock();
    assert!(runs(other.id().cast_signed()) && runs(nobodys.id().cast_signed()));
    for child in [&mut other, &mut nobodys, &mut run.parent] {
        let _ = child.kill();
        child.wait().unwrap();
    }
}

#[test]
fn a_parent_that_ends_as_it_should_takes_its_guardian_along() {
    let mut run = Run::start(FAMILY, 3);
    assert!(runs(run.guardian));
    drop(run.parent.stdin.take());
    assert!(run.parent.wait().unwrap().success());
    assert!(!Path::new(&format!("/proc/{}", run.guardian)).exists(), "waited for and reaped");
    assert!(run.lines.next().is_none(), "nobody holds the pipe of the run's output any more");
    wait_until("a child still runs", || run.still_running().is_empty());
}

#[test]
fn a_run_within_a_run_is_cleaned_up_by_its_own_guardian() {
    // The inner run is a command of the outer one. Its children carry the inner marker alone.
    let inner = "listed echo pid $$; export GUARDIAN_TEST_SCRIPT='listed echo pid $$; sleep 1000'; export GUARDIAN_TEST_LOCK=$GUARDIAN_TEST_LOCK.inner; \
                 sleep 1000 | \
                 GUARDIAN_TEST_PART=parent \"$GUARDIAN_TEST_SELF\"";
    let mut run = Run::start(inner, 2);
    run.parent.kill().unwrap();
    run.wait_for_lock();
    let lock = format!("{}.inner", run.lock.path().display());
    File::open(&lock).unwrap().lock().unwrap();
    std::fs::remove_file(lock).unwrap();
    assert_eq!(run.still_running(), [0; 0]);
    run.parent.wait().unwrap();
}

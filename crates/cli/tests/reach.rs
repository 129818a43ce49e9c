//! A run that is reached from other processes: seen, steered, and not harmed by them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use common::{BIN, Place, finish, run, signal, until};
use rustix::process::Signal;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);

/// `longshore jobs …` about the runs of a place.
fn jobs(state: &Path, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(BIN);
    command.arg("jobs").args(words).arg("--state-dir").arg(state).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    run(&mut command)
}

fn view(state: &Path, job: &str) -> Value {
    let (code, out, err) = jobs(state, &["watch", job, "--once", "--json"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn sockets(state: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "sock")).collect()
}

/// Starts a run of many short tasks, two at once.
fn start(place: &Place, state: &Path, flags: &[&str]) -> Child {
    let mut command = Command::new(BIN);
    command.args(["run", "-j", "2", "--progress", "none", "--state-dir"]).arg(state).args(flags);
    command.args(["--summary", "none", "--emit", "none", "--", "sleep", ":::"]).args(vec!["0.2"; 400]);
    command.current_dir(place.dir.path()).env("HOME", place.dir.path()).stdin(std::process::Stdio::null());
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("its socket", 20 * SECOND, || sockets(state).len() == 1);
    child
}

#[test]
fn a_run_is_seen_and_steered_from_elsewhere_whether_it_has_a_journal_or_not() {
    for flags in [&["--name", "far"][..], &["--durable", "off"]] {
        let place = Place::new();
        // A socket's address has no place for so long a path.
        let state = place.path(&"long".repeat(40));
        let child = start(&place, &state, flags);
        let job = if flags.contains(&"off") { child.id().to_string() } else { "far".to_owned() };
        assert_eq!(fs::metadata(&sockets(&state)[0]).unwrap().permissions().mode() & 0o777, 0o600);
        until("two that run", 20 * SECOND, || view(&state, &job)["running"].as_array().unwrap().len() == 2);
        let (code, out, err) = jobs(&state, &["set", &job, "--concurrency", "5", "--rate", "50/s"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("concurrency=5") && out.contains("pace=50/s"), "{out}");
        until("five that run", 20 * SECOND, || view(&state, &job)["active"] == 5);
        assert_eq!(jobs(&state, &["pause", &job]).0, 0);
        until("a pause", 20 * SECOND, || view(&state, &job)["state"] == "paused" && view(&state, &job)["active"] == 0);
        assert_eq!(jobs(&state, &["resume", &job]).0, 0);
        until("that it goes on", 20 * SECOND, || view(&state, &job)["active"] != 0);
        // Without a name, the only one that runs is meant.
        assert_eq!(jobs(&state, &["watch", "--once"]).0, 0);
        assert_eq!(jobs(&state, &["cancel", &job]).0, 0);
        let output = finish(child, 30 * SECOND);
        let said = common::text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("stopped: it was cancelled"), "{said}");
        assert_eq!(sockets(&state), Vec::<PathBuf>::new(), "{flags:?}");
    }
}

#[test]
fn a_reader_sees_the_end_and_a_killed_run_leaves_a_socket_that_is_known_for_dead() {
    let place = Place::new();
    let state = place.path("state");
    let mut child = start(&place, &state, &["--name", "dies"]);
    let watcher = {
        let state = state.clone();
        std::thread::spawn(move || jobs(&state, &["watch", "dies", "--every", "100ms"]))
    };
    until("results", 20 * SECOND, || view(&state, "dies")["done"].as_u64().unwrap() > 2);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    let (code, out, err) = watcher.join().unwrap();
    assert!(code == 6 && err.contains("the run cannot be reached") && out.contains(" done="), "{code}: {out}{err}");
    assert_eq!(sockets(&state).len(), 1);
    let (code, _, err) = jobs(&state, &["pause", "dies"]);
    assert!(code == 2 && err.contains("no run of 'dies' runs here"), "{code}: {err}");
    assert_eq!(sockets(&state), Vec::<PathBuf>::new());
    // A run that ends by itself says so.
    let child = start(&place, &state, &["--name", "dies", "--until-ok", "20"]);
    let (code, out, err) = jobs(&state, &["watch", "dies", "--every", "100ms", "--json"]);
    assert_eq!(code, 0, "{err}");
    let seen: Vec<u64> = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["ok"].as_u64().unwrap()).collect();
    assert_eq!(finish(child, 30 * SECOND).status.code(), Some(0));
    let journal = place.journal();
    let ok = journal.results.values().flatten().filter(|line| line["outcome"] == "ok").count() as u64;
    assert!(seen.len() > 1 && seen.last() == Some(&ok), "{seen:?}, {ok} in the journal");
}

#[test]
fn readers_that_hang_or_talk_nonsense_harm_nobody() {
    let place = Place::new();
    let state = place.path("state");
    let child = start(&place, &state, &["--name", "calm", "--until-ok", "40"]);
    let socket = sockets(&state).remove(0);
    let connect = || UnixStream::connect(&socket).unwrap();
    let mut hung: Vec<UnixStream> = (0..10).map(|_| connect()).collect();
    for stream in &mut hung {
        stream.write_all(b"\"watch\"\n").unwrap();
    }
    let mut nonsense = connect();
    let mut lines = BufReader::new(nonsense.try_clone().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains(r#""name":"calm""#));
    nonsense.write_all(b"{\"explode\":true}\n").unwrap();
    assert!(lines.next().unwrap().unwrap().contains("not understood"));
    // A line without an end is cut off.
    let mut endless = connect();
    let many = vec![b'x'; 1 << 16];
    let began = Instant::now();
    while endless.write_all(&many).is_ok() {
        assert!(began.elapsed() < 20 * SECOND);
    }
    assert_eq!(view(&state, "calm")["name"], "calm");
    assert_eq!(finish(child, 60 * SECOND).status.code(), Some(0));
    drop(hung);
}

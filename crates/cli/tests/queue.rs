//! The task queue on bad days: jobs and workers that are killed, on the SQLite file, each a process
//! of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{BIN, Place, alive_with, signal, until, wait};
use rustix::process::Signal;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A task that says that it began, takes its time, and says that it has ended.
const TASKS: &str = r#"
[tasks.mark]
exec = ["sh", "-c", "echo start $1 >> ran; sleep $2; echo end $1 >> ran; echo $1", "sh", "{args.0}", "{args.1}"]
"#;

fn longshore(place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new(BIN);
    command.args(words).current_dir(place.dir.path()).env("HOME", place.dir.path()).env("LONGSHORE_CONFIG", "longshore.toml");
    for variable in
        ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "LONGSHORE_BROKER", "LONGSHORE_RESULTS", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"]
    {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A worker that serves. Its end is the test's business.
fn worker(place: &Place) -> Child {
    let mut command = longshore(place, &["worker", "-q", "--grace", "20s"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn said(place: &Place, what: &str) -> usize {
    place.read("ran").lines().filter(|line| line.starts_with(what)).count()
}

fn out(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_job_that_is_killed_and_resumed_sends_no_task_twice() {
    let place = Place::new();
    place.write("longshore.toml", TASKS);
    place.write("n", (1..=40).map(|n| format!("{n}\n")).collect::<String>());
    let mut worker = worker(&place);
    let words = ["n", "--task", "mark", "--args", "[{}, 0.05]", "--name", "marks", "-j", "12", "-o", "out.jsonl", "-q"];
    let mut run = place.run().args(words).spawn().unwrap();
    until("the fifth task", PATIENCE, || said(&place, "end") >= 5);
    run.kill().unwrap();
    run.wait().unwrap();
    let resumed = place.run().args(["--resume", "marks", "-q"]).output().unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_eq!(place.read("out.jsonl").lines().count(), 40);
    assert_eq!((said(&place, "start"), said(&place, "end")), (40, 40));
    signal(&worker, Signal::TERM);
    assert!(wait(&mut worker, PATIENCE).unwrap().success());
}

#[test]
fn a_job_that_is_resumed_waits_for_what_was_acknowledged_before_it_began() {
    let place = Place::new();
    place.write("longshore.toml", format!("{TASKS}\n[worker]\nacks = \"early\"\n"));
    place.write("n", "1\n2\n");
    let mut worker = worker(&place);
    let words = ["n", "--task", "mark", "--args", "[{}, 5]", "--name", "marks", "-j", "2", "-o", "out.jsonl", "-q"];
    let mut run = place.run().args(words).spawn().unwrap();
    until("both tasks", PATIENCE, || said(&place, "start") == 2);
    run.kill().unwrap();
    run.wait().unwrap();
    let resumed = place.run().args(["--resume", "marks", "-q"]).output().unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_eq!(place.read("out.jsonl").lines().count(), 2);
    assert_eq!((said(&place, "start"), said(&place, "end")), (2, 2));
    signal(&worker, Signal::TERM);
    assert!(wait(&mut worker, PATIENCE).unwrap().success());
}

#[test]
fn what_ran_when_its_worker_was_killed_is_ended_and_runs_again_at_another() {
    let place = Place::new();
    place.write("longshore.toml", TASKS);
    let mut first = worker(&place);
    let id = format!("long-{}", std::process::id());
    assert_eq!(out(&mut longshore(&place, &["call", "mark", "-a", "[\"long\", 2.5]", "--id", &id])), (0, format!("{id}\n")));
    until("the task's start", PATIENCE, || said(&place, "start") == 1);
    first.kill().unwrap();
    first.wait().unwrap();
    // The guardian ends what its worker had begun.
    until("the child's end", PATIENCE, || alive_with(&format!("LONGSHORE_TASK_ID={id}")).is_empty());
    let mut second = worker(&place);
    let (code, value) = out(&mut longshore(&place, &["result", "--wait=40s", &id]));
    assert_eq!((code, value.trim()), (0, "long"));
    assert_eq!((said(&place, "start"), said(&place, "end")), (2, 1));
    signal(&second, Signal::TERM);
    assert!(wait(&mut second, PATIENCE).unwrap().success());
}

#[test]
fn a_task_in_a_child_outlives_three_kills_of_its_worker_from_outside() {
    let place = Place::new();
    place.write("longshore.toml", TASKS);
    let id = format!("patient-{}", std::process::id());
    assert_eq!(out(&mut longshore(&place, &["call", "mark", "-a", "[\"patient\", 1]", "--id", &id])).0, 0);
    for kills in 1..=3 {
        let mut worker = worker(&place);
        until("the task's start", PATIENCE, || said(&place, "start") == kills);
        worker.kill().unwrap();
        worker.wait().unwrap();
        until("the child's end", PATIENCE, || alive_with(&format!("LONGSHORE_TASK_ID={id}")).is_empty());
    }
    let mut last = worker(&place);
    let (code, value) = out(&mut longshore(&place, &["result", "--wait=40s", &id]));
    assert_eq!((code, value.trim()), (0, "patient"));
    assert_eq!((said(&place, "start"), said(&place, "end")), (4, 1));
    signal(&last, Signal::TERM);
    assert!(wait(&mut last, PATIENCE).unwrap().success());
    assert!(!place.dir.path().join("longshore.db-wal").exists(), "the last worker leaves the file alone");
}

#[test]
fn who_listens_before_there_is_a_queue_makes_no_file_and_hears_the_first_worker() {
    let place = Place::new();
    place.write("longshore.toml", TASKS);
    let mut events = longshore(&place, &["events", "worker", "-n", "1"]).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(events.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("there is no longshore.db yet") && !place.path("longshore.db").exists(), "{said}");
    let mut worker = worker(&place);
    let told = events.wait_with_output().unwrap();
    let told = (told.status.code(), String::from_utf8_lossy(&told.stdout).into_owned());
    assert!(told.0 == Some(0) && told.1.contains(" worker-"), "{told:?}");
    signal(&worker, Signal::TERM);
    assert!(wait(&mut worker, PATIENCE).unwrap().success());
}

//! `longshore kafka consume` that is interrupted, on a real Kafka.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{BIN, Place, run, signal, until, wait};
use longshore_testkit::kafka::{name, shared};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

/// A topic, a group, and a place where commands write down what they did.
struct World {
    address: String,
    topic: String,
    group: String,
    place: Place,
}

impl World {
    /// `None` where there is no Kafka.
    fn new(records: u64) -> Option<Self> {
        let world = Self { address: shared()?, topic: name("orders"), group: name("group"), place: Place::new() };
        world.ask(&["create-topic", &world.topic, "--partitions", "2"]);
        world.ask(&["produce", &world.topic, "-n", &records.to_string(), "--progress", "none"]);
        Some(world)
    }

    fn longshore(&self, words: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command.arg("kafka").args(words).current_dir(self.place.dir.path()).env("HOME", self.place.dir.path());
        command.env("LONGSHORE_KAFKA", &self.address).env("LEDGER", self.place.path("ledger")).env_remove("XDG_CONFIG_HOME");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ask(&self, words: &[&str]) -> String {
        let (code, stdout, stderr) = run(&mut self.longshore(words));
        assert_eq!(code, 0, "{words:?}: {stderr}");
        stdout
    }

    /// Runs this script for each record, after it has written that it has begun; `ended` is for the
    /// script to say so.
    fn consume(&self, script: &str, flags: &[&str]) -> Command {
        let place = "$LONGSHORE_PARTITION/$LONGSHORE_OFFSET";
        let script = format!("ended() {{ echo \"ended {place}\" >>\"$LEDGER\"; }}; echo \"begun {place}\" >>\"$LEDGER\"; {script}");
        let mut command =
            self.longshore(&["consume", &self.topic, "-g", &self.group, "--progress", "none", "--max-threads", "4", "--order", "none"]);
        command.args(flags).args(["--", "sh", "-c", &script]);
        command
    }

    /// How often each record has come so far in the ledger.
    fn count(&self, word: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for place in self.place.read("ledger").lines().filter_map(|line| line.strip_prefix(word)) {
            *counts.entry(place.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Committed offsets in all, and whether the group has a member.
    fn lag(&self) -> (u64, bool) {
        let told = self.ask(&["lag", "-g", &self.group, "--json"]);
        let rows: Vec<serde_json::Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (rows.iter().filter_map(|row| row["committed"].as_u64()).sum(), rows.iter().any(|row| !row["member"].is_null()))
    }
}

impl World {
    /// A consumer of which four commands have begun, and which was interrupted and has said so.
    /// What it says goes to a file.
    fn interrupted(&self, script: &str, flags: &[&str]) -> Child {
        let said = File::create(self.place.path("said")).unwrap();
        let child = self.consume(script, flags).stderr(said).spawn().unwrap();
        until("the start of four commands", PATIENCE, || self.count("begun").len() == 4);
        signal(&child, Signal::INT);
        until("the end of reading", PATIENCE, || self.place.read("said").contains("stopping: nothing more is read"));
        child
    }

    /// Waits until it has ended by the interrupt; what it has said.
    fn end(&self, mut child: Child) -> String {
        let ended = wait(&mut child, PATIENCE).expect("it ends");
        let said = self.place.read("said");
        assert_eq!(ended.code(), Some(130), "{said}");
        said
    }

    /// Another member does what is left: now each record has ended once.
    fn finish(&self, records: usize) {
        let (code, _, said) = run(&mut self.consume("ended", &["--until-end"]));
        assert_eq!(code, 0, "{said}");
        let ended = self.count("ended");
        assert!(ended.len() == records && ended.values().all(|times| *times == 1), "{ended:?}");
        assert_eq!(self.lag(), (records as u64, false));
    }
}

#[test]
fn one_interrupt_commits_what_ended_leaves_the_group_and_says_so() {
    let Some(world) = World::new(40) else { return };
    // Nothing is committed before the end.
    let child = world.interrupted("while [ ! -e go ]; do sleep 0.02; done; ended", &["--commit-every", "1h"]);
    world.place.write("go", "");
    let said = world.end(child);
    assert_eq!((world.count("begun").len(), world.count("ended").len()), (4, 4), "nothing was begun after it, and what ran has ended");
    assert!(said.contains("stopped: 4 records done in"), "{said}");
    assert!(!world.lag().1, "it has left the group");
    world.finish(40);
}

#[test]
fn a_second_interrupt_ends_what_runs_and_the_next_member_does_it() {
    let Some(world) = World::new(6) else { return };
    let child = world.interrupted("[ -e go ] || exec sleep 600; ended", &[]);
    signal(&child, Signal::INT);
    let said = world.end(child);
    assert!(said.contains("ending what is in work") && said.contains("stopped: 0 records done"), "{said}");
    world.place.write("go", "");
    world.finish(6);
}

#[test]
fn a_list_of_what_runs_says_which_record_it_is_and_lag_which_process() {
    let Some(world) = World::new(8) else { return };
    let said = File::create(world.place.path("said")).unwrap();
    let mut child = world.consume("while [ ! -e go ]; do sleep 0.02; done; ended", &[]).stderr(said).spawn().unwrap();
    until("the start of four commands", PATIENCE, || world.count("begun").len() == 4);
    // As the key `s` does on a terminal.
    signal(&child, Signal::USR1);
    let listed =
        || world.place.read("said").lines().filter(|line| line.contains(&format!("{}[", world.topic)) && line.contains("]@")).count();
    until("the list of four records", PATIENCE, || listed() == 4);
    let told = world.ask(&["lag", "-g", &world.group]);
    assert!(told.contains(&format!("-{} at 127.0.0.1", child.id())), "{told}");
    world.place.write("go", "");
    until("the end of all commands", PATIENCE, || world.count("ended").len() == 8);
    signal(&child, Signal::TERM);
    assert!(wait(&mut child, PATIENCE).is_some());
}

#[test]
fn bytes_that_are_no_text_come_out_of_a_pipe_as_they_were_answered() {
    let Some(world) = World::new(3) else { return };
    let script = world.place.script("answer.sh", "while read line; do printf 'a\\377b\\n'; done");
    let flags = ["--order", "none", "--until-end", "--progress", "none", "--emit", "raw", "--pipe", script.to_str().unwrap()];
    let mut command = world.longshore(&["consume", &world.topic, "-g", &world.group]);
    let output = command.args(flags).output().unwrap();
    assert_eq!(output.stdout, b"a\xffb\n".repeat(3), "{}", String::from_utf8_lossy(&output.stderr));
}

/// On a terminal, which `script` makes.
#[test]
fn an_output_that_is_cut_is_a_failure_where_nobody_could_see_it() {
    let Some(world) = World::new(1) else { return };
    let flags = ["--until-end", "--max-output", "1KiB", "--retries", "0", "--dead-letter", "stop"];
    let shown = |group: &str, emit: &str, bytes: u64| {
        let script = format!("head -c {bytes} /dev/zero | tr '\\000' x");
        let mut command = world.longshore(&["consume", &world.topic, "-g", group, "--progress", "none", "--emit", emit]);
        run(command.args(flags).args(["--", "sh", "-c", &script]))
    };
    let (code, stdout, stderr) = shown(&name("whole"), "raw", 1024);
    assert_eq!((code, stdout.len()), (0, 1024), "{stderr}");
    let (code, stdout, stderr) = shown(&name("cut"), "raw", 1025);
    assert_eq!(stdout, "", "nothing of it is written");
    assert!(
        code != 0 && stderr.contains("an output of 1025 bytes is more than --max-output; nothing of it is written"),
        "{code}: {stderr}"
    );
    // A line of JSON says what is missing.
    let (code, stdout, stderr) = shown(&name("json"), "jsonl", 1025);
    assert!(code == 0 && stdout.contains("cut"), "{code}: {stdout} {stderr}");
}

#[test]
fn keys_turn_the_sleep_while_it_runs() {
    let Some(world) = World::new(10) else { return };
    let consume = world.longshore(&["consume", &world.topic, "-g", &world.group, "--sleep", "100ms"]);
    let words: Vec<_> = [BIN].into_iter().chain(consume.get_args().map(|word| word.to_str().unwrap())).collect();
    let mut script = Command::new("script");
    script.args(["-qfec", &words.join(" "), "/dev/null"]).env("LONGSHORE_KAFKA", &world.address).env("TERM", "xterm");
    let screen = File::create(world.place.path("screen")).unwrap();
    let mut child = script.stdin(Stdio::piped()).stdout(screen).stderr(Stdio::null()).spawn().expect("there is a script command");
    let mut keys = child.stdin.take().unwrap();
    // Once before the view is drawn, while keys are nobody's yet, and then in it.
    until("the view", PATIENCE, || world.place.read("screen").matches("sleep 100ms").count() > 1);
    for (key, shown) in [("]", "sleep 110ms"), ("[", "sleep 99ms"), ("[", "sleep 89ms")] {
        keys.write_all(key.as_bytes()).unwrap();
        until(shown, PATIENCE, || world.place.read("screen").contains(shown));
    }
    keys.write_all(b"q").unwrap();
    assert!(wait(&mut child, PATIENCE).is_some(), "it ends");
}

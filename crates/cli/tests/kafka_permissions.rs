//! `longshore kafka consume` where no terminal is, on a real Kafka that asks for permissions: what
//! it says of trouble, and what it writes exactly once.
#![cfg(feature = "kafka-tls")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs::File,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{BIN, Place, run, signal, wait};
use longshore_testkit::kafka::{Kafka, Operation, Thing};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(60);

/// A node, and a directory where what is said is kept.
struct World {
    node: Kafka,
    place: Place,
}

/// A consumer that ends with its test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

impl World {
    /// `None` where there is no Kafka.
    fn new() -> Option<Self> {
        Some(Self { node: Kafka::start_secure(&[])?, place: Place::new() })
    }

    fn longshore(&self, address: &str, words: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command.arg("kafka").args(words).current_dir(self.place.dir.path()).env("HOME", self.place.dir.path());
        command.env("LONGSHORE_KAFKA", address).env_remove("XDG_CONFIG_HOME");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ask(&self, words: &[&str]) {
        let (code, _, stderr) = run(&mut self.longshore(&self.node.address(), words));
        assert_eq!(code, 0, "{words:?}: {stderr}");
    }

    /// A topic with records that `guest` may read in the group of the same name, with a dead-letter
    /// topic.
    fn topic(&self, name: &str, records: u64) {
        self.ask(&["create-topic", name, "--partitions", "2"]);
        self.ask(&["create-topic", &format!("{name}-dlt")]);
        self.ask(&["produce", name, "-n", &records.to_string(), "--progress", "none"]);
        self.node.allow(Operation::Read, Thing::Topic(name));
        self.node.allow(Operation::Read, Thing::Group(name));
        // It is found at the start, whether it takes letters or not.
        self.node.allow(Operation::Describe, Thing::Topic(&format!("{name}-dlt")));
    }

    /// Starts a consumer as `guest`; what it says goes to the file `said`.
    fn consume(&self, topic: &str, words: &[&str]) -> Guarded {
        let words: Vec<_> = ["consume", topic, "-g", topic, "--commit-every", "100ms"].into_iter().chain(words.iter().copied()).collect();
        let said = File::create(self.place.path("said")).unwrap();
        self.longshore(&self.node.guest(), &words).stdout(Stdio::null()).stderr(said).spawn().map(Guarded).unwrap()
    }

    fn said(&self, what: &str) {
        let began = Instant::now();
        while !self.place.read("said").contains(what) {
            assert!(began.elapsed() < PATIENCE, "not said: {what}\n{}", self.place.read("said"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&self, mut child: Guarded) -> (Option<i32>, String) {
        let ended = wait(&mut child.0, PATIENCE).expect("it ends");
        (ended.code(), self.place.read("said"))
    }
}

#[test]
fn a_dead_letter_topic_that_takes_nothing_is_said_once_at_its_begin_and_once_at_its_end_in_every_form() {
    let Some(world) = World::new() else { return };
    for (form, begin, end) in [
        ("plain", "takes no letters: no permission for this", "takes letters again, after"),
        ("none", "takes no letters: no permission for this", "takes letters again, after"),
        ("json", "\"level\":\"warning\",\"kafka\":", "\"level\":\"info\",\"kafka\":"),
    ] {
        let topic = &format!("letters-{form}");
        let grave = &format!("{topic}-dlt");
        world.topic(topic, 3);
        let child = world.consume(topic, &["--progress", form, "--every", "300ms", "--retries", "0", "--", "false"]);
        world.said(begin);
        match form {
            "plain" => world.said(" burying=3 "),
            "json" => world.said("\"burying\":3,\"troubles\":[{\"what\":\"dead_letters\",\"topic\":"),
            _ => {}
        }
        // It is sent again, and refused again, without another word.
        std::thread::sleep(Duration::from_millis(2_500));
        world.node.allow(Operation::Write, Thing::Topic(grave));
        world.said(end);
        signal(&child.0, Signal::TERM);
        let (code, said) = world.end(child);
        assert_eq!(code, Some(143), "{said}");
        assert_eq!((said.matches(begin).count(), said.matches(end).count()), (1, 1), "{said}");
        assert!(said.contains("3 to the dead letters") && said.contains(&format!("trouble:  dead_letters[{grave}] ")), "{said}");
    }
    // To the end.
    world.topic("letters", 3);
    let child = world.consume("letters", &["--progress", "none", "--retries", "0", "--", "false"]);
    world.said("takes no letters");
    signal(&child.0, Signal::TERM);
    let (code, said) = world.end(child);
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("3 waiting for the dead-letter topic to the end") && !said.contains("abandoned"), "{said}");
}

#[test]
fn a_permission_that_is_withdrawn_ends_the_consumer_after_the_time_that_a_flag_names() {
    let Some(world) = World::new() else { return };
    for (topic, thing, begin, reasons) in [
        ("topic", Thing::Topic("topic"), "cannot be read: no permission for this topic", &["cannot be read any more: no permission"][..]),
        (
            "group",
            Thing::Group("group"),
            "commits are not accepted: no permission for this group",
            // Where the coordinator is asked for meanwhile, membership is refused first.
            &["cannot be committed any more: no permission", "we are no member any more: no permission"],
        ),
    ] {
        world.topic(topic, 10);
        let child = world.consume(topic, &["--progress", "plain", "--every", "200ms", "--without-permission", "6s", "--sleep", "1ms"]);
        world.said("done=10");
        world.said("committed=");
        std::thread::sleep(Duration::from_millis(500));
        world.node.withdraw(Operation::Read, thing);
        world.ask(&["produce", topic, "-n", "50", "--progress", "none"]);
        world.said(begin);
        world.said(" trouble=");
        let (code, said) = world.end(child);
        assert_eq!(code, Some(6), "{said}");
        let error = said.lines().last().unwrap();
        assert!(error.starts_with("longshore: group `") && reasons.iter().any(|reason| error.contains(reason)), "{said}");
        assert_eq!(error.contains("50 records that are done may come again"), topic == "group", "{said}");
    }
}

#[test]
fn a_stop_while_no_broker_answers_says_what_was_done_and_ends_with_the_code_for_kafka() {
    let Some(world) = World::new() else { return };
    world.topic("orders", 500);
    let words = ["--progress", "plain", "--every", "200ms", "--commit-every", "1h", "--sleep", "1ms"];
    let child = world.consume("orders", &words);
    world.said("done=500");
    world.node.freeze();
    signal(&child.0, Signal::TERM);
    let (code, said) = world.end(child);
    world.node.thaw();
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("stopped: 500 records done in"), "{said}");
    assert!(said.contains("500 records that are done may come again: no commit of them was accepted (no answer in time)"), "{said}");
}

#[test]
fn what_is_written_to_another_topic_is_there_once_whoever_is_killed() {
    let Some(world) = World::new() else { return };
    world.ask(&["create-topic", "in", "--partitions", "2"]);
    world.ask(&["create-topic", "out", "--partitions", "2"]);
    world.ask(&[
        "produce",
        "in",
        "-n",
        "200",
        "--key",
        "{{ i % 20 }}",
        "--value",
        "{{ i }}",
        "-H",
        "trace: t-{{ i }}",
        "--progress",
        "none",
    ]);
    world.node.allow(Operation::Read, Thing::Topic("in"));
    world.node.allow(Operation::Read, Thing::Group("in"));
    world.node.allow(Operation::Write, Thing::Topic("out"));
    let words = ["--to", "out", "--member", "m1", "--dead-letter", "skip", "--max-threads", "4", "--progress", "plain", "--every", "100ms"];
    // Two lines of a record with an odd number, none of every tenth.
    let script = "read n; case $n in *0) ;; *[13579]) echo $n-a; echo $n-b ;; *) echo $n-a ;; esac; sleep 0.02";
    let words: Vec<_> = words.into_iter().chain(["--until-end", "--", "sh", "-c", script]).collect();

    let (code, said) = world.end(world.consume("in", &words));
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("cannot begin transactions as `in-m1`: no permission for this transactional id"), "{said}");
    world.node.allow(Operation::Write, Thing::TransactionalId("in-m1"));
    for done in [20, 60] {
        let child = world.consume("in", &words);
        let so_far = |said: &str| said.rsplit(" done=").next().and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
        let began = Instant::now();
        while so_far(&world.place.read("said")) < done {
            assert!(began.elapsed() < PATIENCE, "{}", world.place.read("said"));
            std::thread::sleep(Duration::from_millis(10));
        }
        signal(&child.0, Signal::KILL);
        world.end(child);
    }
    let (code, said) = world.end(world.consume("in", &words));
    assert_eq!(code, Some(0), "{said}");

    let mut read = world.longshore(&world.node.address(), &["consume", "out", "--until-end", "-q", "--emit", "jsonl"]);
    let (_, out, _) = run(&mut read);
    let rows: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut found: Vec<_> = rows.iter().map(|row| row["value"].as_str().unwrap().to_owned()).collect();
    let mut wanted: Vec<_> = (0..200)
        .flat_map(|n| match n % 10 {
            0 => vec![],
            odd if odd % 2 == 1 => vec![format!("{n}-a"), format!("{n}-b")],
            _ => vec![format!("{n}-a")],
        })
        .collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    for row in &rows {
        let n: u32 = row["value"].as_str().unwrap().split('-').next().unwrap().parse().unwrap();
        assert_eq!((&row["key"], &row["headers"]["trace"]), (&(n % 20).to_string().into(), &format!("t-{n}").into()), "{row}");
    }
}

#[test]
fn a_topic_to_write_to_is_another_one_that_is_there() {
    let Some(world) = World::new() else { return };
    world.ask(&["create-topic", "in"]);
    for (words, code, why) in [
        (&["consume", "in", "--to", "in"][..], 2, "that topic is read, too"),
        (&["consume", "in", "--to", "out", "--sleep", "1s"], 2, "a sleep brings nothing"),
        (&["consume", "in", "--to", "out"], 6, "cannot write to topic `out`: there is no such topic"),
    ] {
        let (ended, _, said) = run(&mut world.longshore(&world.node.address(), words));
        assert!(ended == code && said.contains(why), "{words:?}: {ended} {said}");
    }
}

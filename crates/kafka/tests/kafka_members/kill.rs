//! A member that is killed at random, again and again.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use longshore_core::TaskError;
use longshore_kafka::{Consumer, Handler, Order, Record, Settings};
use longshore_testkit::kafka::{name, shared};

use crate::common::{Book, Place, Topic, done_by, sized};

/// What says to this program, started again, that it is the member: address, topic, group, ledger,
/// and whether to stop at the end.
const ROLE: &str = "LONGSHORE_TEST_MEMBER";
const AT_ONCE: usize = 64;

/// Not a test by itself: the member in a process of its own.
#[test]
fn member() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split('|').collect();
    let [address, topic, group, ledger, until_end] = words[..] else { panic!("{role}") };
    // Whoever started us is gone when our input ends.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    let ledger = Mutex::new(File::options().create(true).append(true).open(ledger).unwrap());
    let ledger = std::sync::Arc::new(ledger);
    let consumer = Consumer::new(Settings::parse(address).unwrap(), group, [topic]).member("killed").order(Order::Key);
    let mut consumer = consumer.max_threads(AT_ONCE).commit_every(Duration::from_millis(100));
    if until_end == "true" {
        consumer = consumer.until_end();
    }
    let handler = Handler::new(move |record: Record| {
        let ledger = ledger.clone();
        async move {
            let say = |letter: &str| {
                let line = format!("{letter} {} {}\n", record.partition(), record.offset());
                ledger.lock().unwrap().write_all(line.as_bytes()).unwrap();
            };
            say("begun");
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..60))).await;
            say("done");
            Ok::<_, TaskError>(())
        }
    });
    let summary = consumer.run(handler).unwrap();
    assert_eq!(summary.error, None);
}

fn start(topic: &Topic, group: &str, book: &Book, until_end: bool) -> Child {
    let role = format!("{}|{}|{group}|{}|{until_end}", topic.address, topic.name, book.0.display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kill::member"]).env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn a_member_that_is_killed_again_and_again_skips_nothing_and_repeats_nothing_that_was_committed() {
    let Some(address) = shared() else { return };
    let (rounds, records) = sized((5, 20_000), (100, 200_000));
    let topic = Topic::filled(&address, "killed", 8, records, 1_000);
    let (group, directory) = (name("killed"), tempfile::tempdir().unwrap());
    let (mut known, mut done) = (BTreeSet::<Place>::new(), BTreeSet::<Place>::new());
    let (mut attempts, mut most_open) = (0, 0);
    for round in 0..=rounds {
        let book = Book(directory.path().join(format!("round-{round}")));
        let mut member = start(&topic, &group, &book, round == rounds);
        let _input = member.stdin.take();
        if round == rounds {
            let status = member.wait().unwrap();
            assert!(status.success(), "the last member: {status}");
        } else {
            let started = Instant::now();
            while book.is_empty() {
                assert!(started.elapsed() < Duration::from_secs(60), "round {round}: a new member began nothing within a minute");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(fastrand::u64(0..1_500)));
            member.kill().unwrap();
            member.wait().unwrap();
        }
        let begun = book.count("begun");
        attempts += begun.values().sum::<usize>();
        let again: Vec<_> = begun.keys().filter(|place| known.contains(place)).collect();
        assert!(again.is_empty(), "round {round}: begun again although it was committed as done: {again:?}");
        let twice: Vec<_> = begun.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "round {round}: begun twice by one member: {twice:?}");
        done.extend(book.count("done").into_keys());
        let told = done_by(&topic, &topic.committed(&group));
        let missing: Vec<_> = told.difference(&done).collect();
        assert!(missing.is_empty(), "round {round}: committed and not done: {missing:?}");
        let forgotten: Vec<_> = known.difference(&told).collect();
        assert!(forgotten.is_empty(), "round {round}: a commit forgot what an earlier one had: {forgotten:?}");
        most_open = most_open.max(begun.keys().filter(|place| !told.contains(*place)).count());
        known = told;
    }
    let skipped: Vec<_> = topic.places().filter(|place| !done.contains(place)).collect();
    assert!(skipped.is_empty(), "skipped: {skipped:?}");
    for (committed, end) in topic.committed(&group).iter().zip(topic.ends()) {
        assert_eq!((committed.offset, committed.metadata.as_str()), (Some(end), ""));
    }
    println!(
        "{rounds} kills, {records} records: 0 skipped, {} repeated, at most {most_open} begun and not committed at a kill",
        attempts - records
    );
}

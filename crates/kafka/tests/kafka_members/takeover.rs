//! A group that is taken over from Confluent's Parallel Consumer, and given back to it.
//!
//! Its jars are those of `PARALLEL_CONSUMER`, a folder with `libs/*.jar`; `Member.java` beside this
//! file is the program that uses it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_core::TaskError;
use longshore_kafka::{Consumer, Handler, Order, Record, Settings};
use longshore_testkit::kafka::{name, shared};

use crate::common::{Place, Topic, done_by};

const RECORDS: usize = 20_000;
const PARTITIONS: i32 = 3;

/// The folder of jars. Nobody has it by chance, so its lack is no failure.
fn parallel_consumer() -> Option<PathBuf> {
    let home = std::env::var_os("PARALLEL_CONSUMER").filter(|home| !home.is_empty());
    if home.is_none() {
        eprintln!(
            "skipped: set PARALLEL_CONSUMER to a folder with libs/*.jar of Confluent's Parallel Consumer and its dependencies (Java 17's JDK is needed)"
        );
    }
    home.map(PathBuf::from)
}

/// Runs until so many records are done; each `fail_every`-th fails.
fn theirs(home: &Path, topic: &Topic, group: &str, ledger: &Path, stop_after: usize, fail_every: i64) {
    let mut command = Command::new("java");
    command.arg("-cp").arg(home.join("libs/*")).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka_members/Member.java"));
    command.args([&topic.address, &topic.name, group, "UNORDERED"]).arg(ledger);
    command.args([stop_after.to_string(), fail_every.to_string()]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What it says that it did.
fn lines(ledger: &Path) -> BTreeMap<Place, usize> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(ledger).unwrap_or_default().lines() {
        let (partition, offset) = line.split_once(' ').unwrap();
        *counts.entry((partition.parse().unwrap(), offset.parse().unwrap())).or_default() += 1;
    }
    counts
}

/// Runs to the end, or until so many records are done, while each `stuck_every`-th never ends.
fn ours(topic: &Topic, group: &str, stop_after: Option<usize>, stuck_every: i64) -> BTreeMap<Place, usize> {
    let (done, count) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicUsize::new(0)));
    let (book, counted) = (done.clone(), count.clone());
    let handler = Handler::new(move |record: Record| {
        let (book, counted) = (book.clone(), counted.clone());
        async move {
            if stuck_every > 0 && record.offset() % stuck_every == stuck_every / 2 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..3_000))).await;
            *book.lock().unwrap().entry((record.partition(), record.offset())).or_default() += 1;
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, TaskError>(())
        }
    });
    let consumer = Consumer::new(Settings::parse(&topic.address).unwrap(), group, [topic.name.as_str()]);
    let mut consumer = consumer.order(Order::None).max_threads(200).grace(Duration::from_millis(200));
    if stop_after.is_none() {
        consumer = consumer.until_end();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let summary = runtime.block_on(async {
        let running = consumer.start(handler).await.unwrap();
        if let Some(most) = stop_after {
            while count.load(Ordering::Relaxed) < most {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            running.handle().stop();
        }
        running.join().await
    });
    assert_eq!(summary.error, None);
    std::mem::take(&mut done.lock().unwrap())
}

/// Each record was done once by one of the two.
fn once(topic: &Topic, theirs: &BTreeMap<Place, usize>, ours: &BTreeMap<Place, usize>) {
    let twice: Vec<_> = theirs.iter().chain(ours).filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "done twice by one: {twice:?}");
    let both: Vec<_> = theirs.keys().filter(|place| ours.contains_key(place)).collect();
    assert!(both.is_empty(), "done by both: {both:?}");
    let none: Vec<_> = topic.places().filter(|place| !theirs.contains_key(place) && !ours.contains_key(place)).collect();
    assert!(none.is_empty(), "skipped: {none:?}");
}

#[test]
fn a_group_is_taken_over_from_parallel_consumer_without_repeating_what_was_finished() {
    let (Some(home), Some(address)) = (parallel_consumer(), shared()) else { return };
    let topic = Topic::filled(&address, "over", PARTITIONS, RECORDS, 1_000);
    let (group, directory) = (name("over"), tempfile::tempdir().unwrap());
    let ledger = directory.path().join("theirs");
    theirs(&home, &topic, &group, &ledger, 9_000, 97);
    let first = lines(&ledger);
    let committed = topic.committed(&group);
    let open: usize = committed.iter().map(|committed| committed.beyond().incomplete()).sum();
    assert!(open > 50, "much is open below what is done: {committed:?}");
    assert_eq!(done_by(&topic, &committed).len(), first.len());
    let second = ours(&topic, &group, None, 0);
    once(&topic, &first, &second);
    println!("Parallel Consumer {} records, then longshore {}: each once", first.len(), second.len());
}

#[test]
fn a_group_is_given_back_to_parallel_consumer_without_repeating_what_was_finished() {
    let (Some(home), Some(address)) = (parallel_consumer(), shared()) else { return };
    let topic = Topic::filled(&address, "back", PARTITIONS, RECORDS, 1_000);
    let (group, directory) = (name("back"), tempfile::tempdir().unwrap());
    let first = ours(&topic, &group, Some(9_000), 97);
    let committed = topic.committed(&group);
    let open: usize = committed.iter().map(|committed| committed.beyond().incomplete()).sum();
    assert!(open > 50, "much is open below what is done: {committed:?}");
    assert_eq!(done_by(&topic, &committed).len(), first.len());
    let ledger = directory.path().join("theirs");
    theirs(&home, &topic, &group, &ledger, RECORDS - first.len(), 0);
    let second = lines(&ledger);
    once(&topic, &second, &first);
    println!("longshore {} records, then Parallel Consumer {}: each once", first.len(), second.len());
}

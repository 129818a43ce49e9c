//! Bad days: of the broker, of what is committed, of records, of whoever may not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore_core::{Backoff, RetryPolicy, TaskError};
use longshore_kafka::{Consumer, ConsumerSummary, Handler, Order, Record, Settings};
use longshore_testkit::kafka::{Kafka, name, shared};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::common::{Place, Topic, config};

type Done = Arc<Mutex<BTreeMap<Place, usize>>>;

fn member(topic: &Topic, group: &str) -> Consumer {
    Consumer::new(Settings::parse(&topic.address).unwrap(), group, [topic.name.as_str()])
}

/// A handler that takes a while, and what it did.
fn counting(wait: Duration) -> (Handler<()>, Done) {
    let done = Done::default();
    let book = done.clone();
    let handler = Handler::new(move |record: Record| {
        let book = book.clone();
        async move {
            tokio::time::sleep(wait).await;
            *book.lock().unwrap().entry((record.partition(), record.offset())).or_default() += 1;
            Ok::<_, TaskError>(())
        }
    });
    (handler, done)
}

/// Runs to the end, and says what was done, how often each.
fn all_of(consumer: Consumer) -> (ConsumerSummary, BTreeMap<Place, usize>) {
    let (handler, done) = counting(Duration::ZERO);
    let summary = consumer.until_end().run(handler).unwrap();
    (summary, std::mem::take(&mut done.lock().unwrap()))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

#[test]
fn foreign_and_damaged_metadata_is_said_and_the_group_goes_on_at_the_committed_offset() {
    let Some(address) = shared() else { return };
    let topic = Topic::filled(&address, "foreign", 1, 100, 10);
    let streams = "AQAAAYzLxo8A";
    let huge_run = "ZX////9/////";
    for metadata in [streams, "billing-7 was here", "bwAAAIAA", "c2Nvcm4=", "é", huge_run] {
        let group = name("foreign");
        topic.commit(&group, &[(0, 40, metadata)]);
        let (summary, done) = all_of(member(&topic, &group));
        assert_eq!(summary.error, None, "{metadata}");
        assert!(done.keys().copied().eq((40..100).map(|offset| (0, offset))), "{metadata}: {done:?}");
        assert_eq!(topic.committed(&group)[0].offset, Some(100));
    }
}

#[test]
fn a_map_that_was_committed_is_gone_by_to_the_letter() {
    let Some(address) = shared() else { return };
    let topic = Topic::filled(&address, "map", 1, 100, 10);
    let group = name("map");
    // Three not done, two done, one not, five done, two not, one done.
    topic.commit(&group, &[(0, 40, "bAAO2CcA")]);
    let (_, done) = all_of(member(&topic, &group));
    let expected = [40, 41, 42, 45, 51, 52].into_iter().chain(54..100);
    assert!(done.keys().copied().eq(expected.map(|offset| (0, offset))), "{done:?}");
}

#[test]
fn a_broker_that_takes_little_metadata_loses_nothing_and_stops_nobody() {
    let Some(node) = Kafka::start(&[("offset.metadata.max.bytes", "64")]) else { return };
    let topic = Topic::filled(&node.address(), "little", 2, 6_000, 1_000);
    let group = name("little");
    let done = Done::default();
    let book = done.clone();
    let handler = Handler::new(move |record: Record| {
        let book = book.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
            *book.lock().unwrap().entry((record.partition(), record.offset())).or_default() += 1;
            Ok::<_, TaskError>(())
        }
    });
    let consumer = member(&topic, &group).order(Order::None).max_threads(200).max_in_flight(2_000).commit_every(Duration::from_millis(20));
    let began = std::time::Instant::now();
    let summary = consumer.until_end().run(handler).unwrap();
    println!("64 characters a commit: {:?}, {:?}", began.elapsed(), summary.counts);
    assert_eq!(summary.error, None);
    assert!(done.lock().unwrap().values().all(|times| *times == 1));
    assert_eq!(done.lock().unwrap().len(), 6_000);
    for (committed, end) in topic.committed(&group).iter().zip(topic.ends()) {
        assert_eq!((committed.offset, committed.metadata.as_str()), (Some(end), ""));
    }
}

#[test]
fn a_broker_that_is_killed_or_frozen_under_load_is_waited_for() {
    let Some(mut node) = Kafka::start(&[]) else { return };
    let topic = Topic::filled(&node.address(), "broker", 4, 3_000, 300);
    let group = name("broker");
    let (handler, done) = counting(Duration::from_millis(50));
    let runtime = runtime();
    let running = runtime.block_on(member(&topic, &group).max_threads(20).start(handler)).unwrap();
    let count = || done.lock().unwrap().len();
    let reaches = |most: usize| {
        let began = std::time::Instant::now();
        while count() < most {
            let waited = began.elapsed();
            assert!(
                waited < Duration::from_secs(90),
                "{} are done, not {most}: {:?}",
                count(),
                runtime.block_on(running.handle().snapshot())
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    reaches(300);
    node.kill();
    std::thread::sleep(Duration::from_secs(2));
    node.restart();
    topic.fill(3_000..4_500, 300);
    reaches(3_300);
    node.freeze();
    std::thread::sleep(Duration::from_secs(8));
    node.thaw();
    topic.fill(4_500..5_000, 300);
    reaches(5_000);
    running.handle().stop();
    let summary = runtime.block_on(running.join());
    assert_eq!(summary.error, None);
    let committed = topic.committed(&group);
    assert!(committed.iter().zip(topic.ends()).all(|(committed, end)| committed.offset == Some(end)), "{committed:?}");
    let repeats = done.lock().unwrap().values().filter(|times| **times > 1).count();
    println!("killed and frozen: {repeats} of 5000 repeated; {:?}", summary.counts);
    assert!(repeats <= 400, "{repeats} repeated: more than can be in flight");
}

#[test]
fn a_handler_slower_than_the_longest_poll_interval_keeps_its_place() {
    let Some(address) = shared() else { return };
    let topic = Topic::filled(&address, "slow", 2, 6, 6);
    let (handler, done) = counting(Duration::from_secs(9));
    let settings = Settings::parse(&address).unwrap().with("max.poll.interval.ms=3000").unwrap().with("session.timeout.ms=3000").unwrap();
    let settings = settings.with("heartbeat.interval.ms=300").unwrap();
    let consumer = Consumer::new(settings, name("slow"), [topic.name.as_str()]).max_threads(10).until_end();
    let summary = consumer.run(handler).unwrap();
    assert_eq!((summary.error, summary.counts.lost), (None, 0));
    let done = done.lock().unwrap();
    assert!(done.len() == 6 && done.values().all(|times| *times == 1), "{done:?}");
}

#[test]
fn records_that_panic_hang_or_are_no_text_are_buried_and_the_others_are_done() {
    let Some(address) = shared() else { return };
    let topic = Topic::new(&address, "bad", 2);
    let producer: BaseProducer = config(&address).set("message.max.bytes", "1000000").create().unwrap();
    let large = vec![b'x'; 900_000];
    for number in 0..40_usize {
        let value: &[u8] = match number {
            3 => b"panic",
            7 => b"hang",
            11 => b"\xff\xfe no text",
            15 => &large,
            _ => b"good",
        };
        let record = BaseRecord::<str, [u8]>::to(&topic.name).payload(value);
        let key = format!("k{}", number % 5);
        // Every other one has no key.
        let record = if number % 2 == 0 { record.key(&key) } else { record };
        producer.send(record).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    let done = Done::default();
    let book = done.clone();
    let handler = Handler::new(move |record: Record| {
        let book = book.clone();
        async move {
            match record.text()? {
                "panic" => panic!("as it was told"),
                "hang" => std::future::pending().await,
                _ => *book.lock().unwrap().entry((record.partition(), record.offset())).or_default() += 1,
            }
            Ok::<_, TaskError>(())
        }
    });
    let consumer = member(&topic, &name("bad"))
        .timeout(Duration::from_millis(500))
        .retry(RetryPolicy::times(1).backoff(Backoff::Fixed(Duration::from_millis(50))));
    let summary = consumer.until_end().run(handler).unwrap();
    assert_eq!((summary.error, summary.counts.dead, done.lock().unwrap().len()), (None, 3, 37));
    let buried = Topic { address, name: format!("{}-dlt", topic.name), partitions: 2 };
    assert_eq!(buried.ends().iter().sum::<i64>(), 3);
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let Some(address) = shared() else { return };
    let (handler, _) = counting(Duration::ZERO);
    let missing = name("missing");
    let consumer = Consumer::new(Settings::parse(&address).unwrap(), name("group"), [missing.as_str()]);
    let text = failure(consumer, handler);
    assert!(text.contains(&missing), "{text}");
}

/// Why it does not run.
fn failure(consumer: Consumer, handler: Handler<()>) -> String {
    match consumer.until_end().run(handler) {
        Err(error) => error.to_string(),
        Ok(summary) => summary.error.expect("it should not run"),
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_wrong_password_a_wrong_certificate_and_a_lack_of_permission_are_said() {
    let Some(node) = Kafka::start_secure(&[]) else { return };
    let topic = Topic::filled(&node.address(), "secret", 1, 10, 10);
    let at = |who: &str, more: &str| format!("kafkas://{who}@{}/?ca={}{more}", node.secure_address(), node.ca().display());
    let run = |address: &str| {
        let consumer = Consumer::new(Settings::parse(address).unwrap(), name("secret"), [topic.name.as_str()]);
        failure(consumer, counting(Duration::ZERO).0)
    };
    let (summary, done) =
        all_of(Consumer::new(Settings::parse(&at("admin:admin-secret", "")).unwrap(), name("right"), [topic.name.as_str()]));
    assert_eq!((summary.error, done.len()), (None, 10));
    let wrong = run(&at("admin:wrong-secret", ""));
    assert!(wrong.to_lowercase().contains("password") && !wrong.contains("wrong-secret"), "{wrong}");
    let powerless = run(&at("guest:guest-secret", ""));
    assert!(powerless.contains("may not") || powerless.to_lowercase().contains("permission"), "{powerless}");
    let unknown_ca = run(&format!("kafkas://admin:admin-secret@{}", node.secure_address()));
    assert!(unknown_ca.to_lowercase().contains("certificate"), "{unknown_ca}");
}

//! Bad days of one member.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_core::{Backoff, Outcome, RetryPolicy, TaskError};
use longshore_kafka::{Affected, Consumer, ConsumerSummary, DeadLetter, GateState, Handler, Order, Record, Settings};
use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::help::{Log, Topic, wait_for};

fn quickly(retries: u32) -> RetryPolicy {
    RetryPolicy::times(retries).backoff(Backoff::Fixed(Duration::from_millis(5)))
}

#[test]
fn what_fails_for_good_is_buried_with_its_story_and_holds_up_nobody() {
    let Some(topic) = Topic::new(2) else { return };
    topic.produce(200, 20);
    let log = Log::default();
    let seen = log.clone();
    let handler = Handler::<()>::new(move |record: Record| {
        let seen = seen.clone();
        async move {
            match seen.add(&record) {
                13 => Outcome::Failed(TaskError::new("status", "the shop is closed").with_code(503)),
                14 => panic!("a handler panics"),
                15 => std::future::pending().await,
                16 => Outcome::Failed(TaskError::invalid("no price")),
                _ => Outcome::Ok(()),
            }
        }
    });
    let summary = topic.consumer().retry(quickly(2)).timeout(Duration::from_millis(300)).until_end().run(handler).unwrap();
    assert_eq!((summary.error, summary.counts.done, summary.counts.dead), (None, 200, 4));
    let numbers = log.numbers();
    let attempts = |n| numbers.iter().filter(|number| **number == n).count();
    assert_eq!([13, 14, 15, 16, 17].map(attempts), [3, 3, 3, 1, 1]);
    assert_eq!(topic.committed(2).values().map(|(offset, _)| offset).sum::<i64>(), 200);

    let reader: BaseConsumer = topic.config().set("group.id", "reader").set("auto.offset.reset", "earliest").create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_range(&format!("{}-dlt", topic.name), 0, 1);
    reader.assign(&list).unwrap();
    let mut letters = Vec::new();
    wait_for("four letters", || {
        while let Some(letter) = reader.poll(Duration::from_millis(50)) {
            letters.push(letter.unwrap().detach());
        }
        letters.len() >= 4
    });
    let mut told: Vec<_> = letters
        .iter()
        .map(|letter| {
            let headers = letter.headers().unwrap();
            let get =
                |name: &str| headers.iter().find(|header| header.key == name).and_then(|header| header.value).unwrap_or_default().to_vec();
            let text = |name: &str| String::from_utf8(get(name)).unwrap();
            assert_eq!(
                (text("kafka_dlt-original-topic"), text("kafka_dlt-original-consumer-group")),
                (topic.name.clone(), topic.group.clone())
            );
            assert_eq!(get("kafka_dlt-original-partition"), letter.partition().to_be_bytes(), "the same partition");
            let value = String::from_utf8(letter.payload().unwrap().to_vec()).unwrap();
            let seen = log.seen();
            let offset = seen.iter().find(|seen| seen.number.to_string() == value).unwrap().offset;
            assert_eq!(get("kafka_dlt-original-offset"), offset.to_be_bytes());
            (value, text("kafka_dlt-exception-fqcn"), text("longshore-attempts"), text("kafka_dlt-exception-message"))
        })
        .collect();
    told.sort();
    let told: Vec<_> = told.iter().map(|(value, kind, attempts, text)| (&**value, &**kind, &**attempts, &**text)).collect();
    assert_eq!(told[0], ("13", "status", "3", "status 503: the shop is closed"));
    assert_eq!((told[1].1, told[1].2), ("panicked", "3"));
    assert_eq!((told[2].1, told[2].2), ("timeout", "3"));
    assert_eq!(told[3], ("16", "invalid", "1", "invalid: no price"));
}

#[test]
fn told_to_skip_it_skips_and_told_to_stop_it_stops_with_the_record_undone() {
    let Some(topic) = Topic::new(1) else { return };
    topic.produce(50, 0);
    let failing = || {
        Handler::<()>::new(|record: Record| async move { if record.offset() == 20 { Err(TaskError::new("error", "no")) } else { Ok(()) } })
    };
    let consumer = topic.consumer().order(Order::Partition).retry(quickly(1)).dead_letter(DeadLetter::Stop).until_end();
    let summary = consumer.run(failing()).unwrap();
    let error = summary.error.unwrap();
    assert!(error.contains(&format!("{}[0]@20 failed after 2 attempts: error: no", topic.name)), "{error}");
    assert_eq!(topic.committed(1)[&0].0, 20, "it comes again");
    let summary = topic.consumer().retry(quickly(0)).dead_letter(DeadLetter::Skip).until_end().run(failing()).unwrap();
    assert_eq!((summary.error, summary.counts.skipped), (None, 1));
    assert_eq!(topic.committed(1)[&0].0, 50);
}

/// Half of the keys fail until they give up. That must not stop the others.
#[test]
fn records_in_backoff_do_not_close_the_gate() {
    let Some(topic) = Topic::new(2) else { return };
    topic.produce(2_000, 100);
    let log = Log::default();
    let seen = log.clone();
    let handler = Handler::<()>::new(move |record: Record| {
        let bad = record.key().unwrap().ends_with(b"7");
        if !bad {
            seen.add(&record);
        }
        async move { if bad { Err(TaskError::new("error", "not yet")) } else { Ok(()) } }
    });
    let retry = RetryPolicy::times(5).backoff(Backoff::Fixed(Duration::from_millis(20)));
    let summary = topic.consumer().max_threads(4).max_in_flight(40).retry(retry).until_end().run(handler).unwrap();
    assert_eq!((summary.error, summary.counts.dead, log.len()), (None, 200, 1_800));
}

#[test]
fn what_cannot_work_is_refused_in_plain_words() {
    let Some(topic) = Topic::new(1) else { return };
    let handler = || Handler::<()>::new(|_: Record| async { Ok::<_, TaskError>(()) });
    let nobody = Consumer::new(Settings::parse("127.0.0.1:1").unwrap(), "g", ["orders"]).run(handler()).unwrap_err();
    assert!(nobody.message.contains("topic `orders`") && nobody.message.contains("Connection refused"), "{nobody}");
    let unknown = Consumer::new(Settings::parse(&topic.address).unwrap(), "g", ["no-such-topic"]).run(handler()).unwrap_err();
    assert!(unknown.message.contains("cannot read topic `no-such-topic`: there is no such topic"), "{unknown}");
    let none = Consumer::new(Settings::parse(&topic.address).unwrap(), "g", [""; 0]).run(handler()).unwrap_err();
    assert!(none.message.contains("reads no topic"), "{none}");
}

#[test]
fn metadata_of_others_is_no_obstacle() {
    let Some(topic) = Topic::new(3) else { return };
    topic.produce(300, 30);
    for (partition, metadata) in [(0, "AgAAAYx"), (1, "not base64 at all €"), (2, "bwAAAAD/////")] {
        topic.commit(partition, 2, metadata);
    }
    let log = Log::default();
    let seen = log.clone();
    let handler = Handler::<()>::new(move |record: Record| {
        seen.add(&record);
        async { Ok::<_, TaskError>(()) }
    });
    let summary = topic.consumer().until_end().run(handler).unwrap();
    assert_eq!((summary.error, summary.counts.done), (None, 300 - 6));
    assert!(log.seen().iter().all(|seen| seen.offset >= 2));
}

/// With a limit that no map fits into, the position alone is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_no_metadata_gets_none() {
    let Some(node) =
        tokio::task::spawn_blocking(|| longshore_testkit::kafka::Kafka::start(&[("offset.metadata.max.bytes", "4")])).await.unwrap()
    else {
        return;
    };
    let address = node.address();
    let topic = Arc::new(tokio::task::spawn_blocking(move || Topic::at(address, 1)).await.unwrap().unwrap());
    let producing = topic.clone();
    tokio::task::spawn_blocking(move || producing.produce(100, 0)).await.unwrap();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let open = gate.clone();
    let handler = Handler::<()>::new(move |record: Record| {
        let open = open.clone();
        async move {
            if record.offset() == 5 {
                drop(open.acquire().await);
            }
            Ok::<_, TaskError>(())
        }
    });
    let running = topic.consumer().order(Order::None).start(handler).await.unwrap();
    let asking = topic.clone();
    tokio::task::spawn_blocking(move || {
        wait_for("the position is committed", || asking.committed(1).get(&0).is_some_and(|(at, _)| *at == 5))
    })
    .await
    .unwrap();
    gate.add_permits(1);
    let handle = running.handle();
    for _ in 0..500 {
        if handle.snapshot().await.unwrap().counts.done == 100 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    handle.stop();
    let summary = running.join().await;
    assert!(summary.counts.commits_failed > 0, "it was tried once");
    let committed = tokio::task::spawn_blocking(move || topic.committed(1)).await.unwrap();
    assert_eq!(committed[&0].0, 100);
    drop(node);
}

/// Sixty records of 900 kB, and a limit that leaves half of it, 4 MiB, for what is in flight; one
/// small record before each.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_limited_by_its_bytes() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(1)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = producing.config().set("linger.ms", "5").create().unwrap();
        for _ in 0..60 {
            for value in [vec![b's'; 10], vec![b'x'; 900_000]] {
                producer.send(BaseRecord::<(), _>::to(&producing.name).payload(&value)).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(Duration::from_secs(60)).unwrap();
        }
    })
    .await
    .unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, seen) = (now.clone(), most.clone());
    // None ends before the gate has closed, however slowly they come.
    let (close, closed) = tokio::sync::watch::channel(false);
    let handler = Handler::<()>::new(move |record: Record| {
        let (counted, seen, mut closed) = (counted.clone(), seen.clone(), closed.clone());
        async move {
            let bytes = record.value().unwrap().len();
            seen.fetch_max(counted.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
            let _ = tokio::time::timeout(Duration::from_secs(60), closed.wait_for(|closed| *closed)).await;
            counted.fetch_sub(bytes, Ordering::Relaxed);
            Ok::<_, TaskError>(())
        }
    });
    let running = topic.consumer().order(Order::None).buffers(8 << 20).until_end().start(handler).await.unwrap();
    let handle = running.handle();
    let looking = tokio::spawn(async move {
        let mut closed = false;
        while let Some(view) = handle.snapshot().await {
            assert!(view.bytes <= view.max_bytes + 1_000_000, "{} of {}", view.bytes, view.max_bytes);
            closed |= matches!(view.gate, GateState::Bytes { .. });
            close.send_replace(closed);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        closed
    });
    let summary = running.join().await;
    assert_eq!((summary.error, summary.counts.done, summary.counts.read), (None, 120, 120));
    let most = most.load(Ordering::Relaxed);
    assert!((2_000_000..5_200_000).contains(&most), "{most} bytes were in work at once");
    assert!(looking.await.unwrap(), "the gate says why it is closed");
}

/// A member that reads, and the numbers that it has seen.
struct Reader {
    runtime: tokio::runtime::Runtime,
    running: longshore_kafka::RunningConsumer,
    log: Log,
}

impl Reader {
    fn start(consumer: Consumer) -> Self {
        let (log, runtime) = (Log::default(), tokio::runtime::Runtime::new().unwrap());
        let seen = log.clone();
        let handler = Handler::<()>::new(move |record: Record| {
            seen.add(&record);
            async { Ok::<_, TaskError>(()) }
        });
        let running = runtime.block_on(consumer.start(handler)).unwrap();
        Self { runtime, running, log }
    }

    fn stop(self) -> ConsumerSummary {
        self.running.handle().stop();
        self.runtime.block_on(self.running.join())
    }
}

/// Kills the broker and starts it again after this time. Returns when it first answers an admin
/// request.
fn restart(node: &mut longshore_testkit::kafka::Kafka, topic: &Topic, away: Duration) -> Instant {
    node.kill();
    std::thread::sleep(away);
    std::thread::scope(|scope| {
        scope.spawn(|| node.restart());
        loop {
            let client: BaseConsumer = topic.config().create().unwrap();
            if client.fetch_metadata(Some(&topic.name), Duration::from_millis(200)).is_ok() {
                break Instant::now();
            }
        }
    })
}

/// Produces a record, and returns when it is read.
fn is_read(topic: &Topic, log: &Log, number: u64) -> Instant {
    topic.produce_from(number, 1, 0);
    wait_for("the next record", || log.numbers().contains(&number));
    Instant::now()
}

/// An idle member, and a broker that is killed and started again: from its answer to an admin
/// request on, a record that is then produced is there within two seconds (the median).
/// `LONGSHORE_KAFKA_RESTARTS` says how often that is tried, `LONGSHORE_KAFKA_SETTING` with which
/// setting of the client.
#[test]
fn after_a_restart_of_the_broker_records_come_within_two_seconds() {
    let rounds = std::env::var("LONGSHORE_KAFKA_RESTARTS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let Some(mut node) = longshore_testkit::kafka::Kafka::start(&[]) else { return };
    let topic = Topic::at(node.address(), 3).unwrap();
    // A session as long as it is where nobody says otherwise: who is away for longer has to join
    // anew.
    let setting = std::env::var("LONGSHORE_KAFKA_SETTING").unwrap_or_else(|_| "session.timeout.ms=45000".to_owned());
    let settings = Settings::parse(&topic.address).unwrap().with(&setting).unwrap();
    let reader = Reader::start(Consumer::new(settings, &topic.group, [&topic.name]));
    topic.produce(3, 0);
    wait_for("the member reads", || reader.log.len() == 3);
    let mut times = Vec::new();
    for round in 0..rounds {
        // Longer than from one heartbeat to the next: a broker that is away at each of them is away
        // for the whole time.
        std::thread::sleep(Duration::from_secs(4));
        let answered = restart(&mut node, &topic, Duration::from_secs(1));
        times.push(is_read(&topic, &reader.log, 3 + round) - answered);
    }
    reader.stop();
    times.sort();
    println!("after a restart, from the first answer to the first record: {times:?}");
    assert!(times[times.len() / 2] < Duration::from_secs(2), "{times:?}");
}

/// Reads as the client library does by itself, until `stop` is true.
fn read_plainly(topic: &Topic, setting: (&str, &str), log: &Log, stop: &AtomicBool) {
    let mut config = topic.config();
    config.set("group.id", &topic.group).set("auto.offset.reset", "earliest").set(setting.0, setting.1);
    config.set("reconnect.backoff.max.ms", "1000");
    let client: BaseConsumer = config.create().unwrap();
    client.subscribe(&[&topic.name]).unwrap();
    while !stop.load(Ordering::Relaxed) {
        if let Some(Ok(message)) = client.poll(Duration::from_millis(100)) {
            let number = std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap();
            log.add_number(number, message.offset());
        }
    }
}

/// Who hears nothing of the group for a session joins as somebody new, and the broker, back again,
/// gives the old member a whole session more. So it is with the client library alone, too. A member
/// with a name takes its own place, and so does one of the newer protocol of groups.
#[test]
fn after_an_outage_longer_than_the_session_a_name_spares_a_member_the_wait_for_its_former_self() {
    let session = "session.timeout.ms=6000";
    let Some(mut node) = longshore_testkit::kafka::Kafka::start(&[]) else { return };
    let rows = [("without a name", session, None), ("with a name", session, Some("reader")), ("newer", "group.protocol=consumer", None)];
    let readers = rows.map(|(_, setting, name)| {
        let topic = Topic::at(node.address(), 1).unwrap();
        let consumer = Consumer::new(Settings::parse(&topic.address).unwrap().with(setting).unwrap(), &topic.group, [&topic.name]);
        let reader = Reader::start(if let Some(name) = name { consumer.member(name) } else { consumer });
        (topic, reader)
    });
    let (topic, log, stop) = (Topic::at(node.address(), 1).unwrap(), Log::default(), AtomicBool::new(false));
    let logs: Vec<(&Topic, &Log)> = readers.iter().map(|(topic, reader)| (topic, &reader.log)).chain([(&topic, &log)]).collect();
    let times: Vec<Duration> = std::thread::scope(|scope| {
        scope.spawn(|| read_plainly(&topic, ("session.timeout.ms", "6000"), &log, &stop));
        for (topic, log) in &logs {
            topic.produce(1, 0);
            wait_for("it reads", || log.len() == 1);
        }
        let answered = restart(&mut node, &topic, Duration::from_secs(7));
        let waiting: Vec<_> = logs.iter().map(|(topic, log)| scope.spawn(move || is_read(topic, log, 1) - answered)).collect();
        let times = waiting.into_iter().map(|time| time.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        times
    });
    println!("after an outage longer than the session: {:?}, {times:?}", rows.map(|(row, ..)| row));
    let [without, with, newer, library] = times[..] else { panic!("{times:?}") };
    let less = Duration::from_secs(2);
    assert!(with + less < without && newer + less < without && with + less < library, "{times:?}");
    for ((_, reader), (row, ..)) in readers.into_iter().zip(rows) {
        let summary = reader.stop();
        let trouble = summary.troubles.iter().find(|trouble| trouble.affected == Affected::Group);
        let is_told = trouble.is_some_and(|trouble| trouble.until.is_some());
        assert!(is_told || row == "newer", "{row}: it is said, and its end: {:?}", summary.troubles);
    }
}

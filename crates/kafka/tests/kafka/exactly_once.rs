//! From topic to topic in transactions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_core::{Backoff, RetryPolicy, Stop, TaskError};
use longshore_kafka::{Handler, Order, Output, Record, RunningConsumer};
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use crate::help::{Topic, create, wait_for};

/// The values of a topic that were committed, sorted.
fn values(topic: &Topic, name: &str, partitions: i32, count: usize) -> Vec<u64> {
    let reader: BaseConsumer = topic.config().set("group.id", "reader").set("auto.offset.reset", "earliest").create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(name, 0, partitions - 1);
    reader.assign(&list).unwrap();
    let mut values = Vec::new();
    wait_for("all outputs are there", || {
        while let Some(message) = reader.poll(Duration::from_millis(50)) {
            values.push(std::str::from_utf8(message.unwrap().payload().unwrap()).unwrap().parse().unwrap());
        }
        values.len() >= count
    });
    // More would be there by now.
    while let Some(message) = reader.poll(Duration::from_millis(300)) {
        values.push(std::str::from_utf8(message.unwrap().payload().unwrap()).unwrap().parse().unwrap());
    }
    values.sort_unstable();
    values
}

/// Members are stopped with records in work and out of order, again and again; a record fails at
/// times. Each output is there once.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_written_once_whatever_is_interrupted() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(3)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let out = format!("{}-out", topic.name);
    let (producing, making) = (topic.clone(), out.clone());
    tokio::task::spawn_blocking(move || {
        create(&producing.address, &making, 2);
        producing.produce(2_000, 0);
    })
    .await
    .unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    for round in 0..6 {
        let (counted, to) = (calls.clone(), out.clone());
        let handler = Handler::new(move |record: Record| {
            let (call, to) = (counted.fetch_add(1, Ordering::Relaxed), to.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(call as u64 * 7 % 30)).await;
                if call % 50 == 3 {
                    Err(TaskError::new("error", "not now"))
                } else {
                    Ok(vec![Output::new(to, record.key(), record.text()?)])
                }
            }
        });
        let retry = RetryPolicy::times(20).backoff(Backoff::Fixed(Duration::from_millis(5)));
        let consumer = topic.consumer().order(Order::None).max_threads(50).retry(retry).commit_every(Duration::from_millis(20));
        let consumer = if round == 5 { consumer.until_end() } else { consumer };
        let running = consumer.start_exactly_once("a-member", handler).await.unwrap();
        if round < 5 {
            let handle = running.handle();
            while handle.snapshot().await.is_some_and(|view| view.counts.done < 150) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            handle.engine().stop(Stop::Hard);
        }
        let summary = running.join().await;
        assert_eq!(summary.error, None, "round {round}");
        assert!(summary.counts.commits > 0);
    }
    let reading = topic.clone();
    let found = tokio::task::spawn_blocking(move || values(&reading, &out, 2, 2_000)).await.unwrap();
    assert_eq!(found, (0..2_000).collect::<Vec<_>>());
    assert!(calls.load(Ordering::Relaxed) > 2_000, "handlers ran again, outputs were not written again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_stops_the_consumer_with_a_reason_and_commits_nothing() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(1)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    tokio::task::spawn_blocking(move || producing.produce(5, 0)).await.unwrap();
    let out = format!("{}-dlt", topic.name);
    let handler = Handler::new(move |_: Record| {
        let output = Output::new(out.clone(), None, vec![b'x'; 2_000_000]);
        async { Ok::<_, TaskError>(vec![output]) }
    });
    let running = topic.consumer().start_exactly_once("writes-too-much", handler).await.unwrap();
    let error = running.join().await.error.unwrap();
    assert!(error.contains("the transaction was aborted") && error.contains("larger than the topic"), "{error}");
    let committed = tokio::task::spawn_blocking(move || topic.committed(1)).await.unwrap();
    assert!(committed.is_empty(), "{committed:?}");
}

/// Where a member of another process finds its work.
const MEMBER: &str = "LONGSHORE_TEST_MEMBER";

/// The member that [`outputs_are_written_once_by_members_that_are_killed`] starts and kills; by
/// itself, nothing.
#[tokio::test(flavor = "multi_thread")]
async fn member() {
    let Ok(place) = std::env::var(MEMBER) else { return };
    let words: Vec<String> = place.split(' ').map(str::to_owned).collect();
    let [address, name, group, out] = <[String; 4]>::try_from(words).unwrap();
    let topic = Topic { address, name, group };
    copying(&topic, &out, 0).await.join().await;
}

/// A member that copies records to another topic, out of order.
async fn copying(topic: &Topic, out: &str, until_end: u64) -> RunningConsumer {
    let to = out.to_owned();
    let handler = Handler::new(move |record: Record| {
        let to = to.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(record.offset().unsigned_abs() * 7 % 20)).await;
            Ok::<_, TaskError>(vec![Output::new(to, record.key(), record.text()?)])
        }
    });
    let consumer = topic.consumer().order(Order::None).member("the-member").max_threads(30).commit_every(Duration::from_millis(15));
    let consumer = if until_end > 0 { consumer.until_end() } else { consumer };
    consumer.start_exactly_once(&format!("{out}-writer"), handler).await.unwrap()
}

/// By signal 9, in the middle of transactions. The next one has the same name in the group, and the
/// same transactional id.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_written_once_by_members_that_are_killed() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(3)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let out = format!("{}-out", topic.name);
    let (producing, making) = (topic.clone(), out.clone());
    let killed = tokio::task::spawn_blocking(move || {
        create(&producing.address, &making, 2);
        producing.produce(8_000, 0);
        let mut random = fastrand::Rng::with_seed(75);
        let mut killed = Vec::new();
        for _ in 0..6 {
            let place = format!("{} {} {} {making}", producing.address, producing.name, producing.group);
            let before = done(&producing);
            let program = std::env::current_exe().unwrap();
            let mut child =
                std::process::Command::new(program).args(["exactly_once::member", "--exact"]).env(MEMBER, place).spawn().unwrap();
            wait_for("the member commits", || done(&producing) > before);
            std::thread::sleep(Duration::from_millis(random.u64(0..100)));
            child.kill().unwrap();
            child.wait().unwrap();
            killed.push(done(&producing));
        }
        killed
    })
    .await
    .unwrap();
    assert!(killed.last().is_some_and(|done| *done < 8_000), "all were killed at work: {killed:?}");
    let summary = copying(&topic, &out, 1).await.join().await;
    assert_eq!(summary.error, None);
    let reading = topic.clone();
    let found = tokio::task::spawn_blocking(move || values(&reading, &out, 2, 8_000)).await.unwrap();
    assert_eq!(found, (0..8_000).collect::<Vec<_>>());
}

/// How far the group is.
fn done(topic: &Topic) -> i64 {
    topic.committed(3).values().map(|(offset, _)| offset).sum()
}

//! From topic to topic in transactions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_brokers::kafka::{Handler, Order, Output, Record};
use longshore_core::{Backoff, RetryPolicy, Stop, TaskError};
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

/// Members are stopped with records in work and out of order, again and again; a record fails at times. Each output is there once.
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
        let retry = RetryPolicy { backoff: Backoff::Fixed(Duration::from_millis(5)), ..RetryPolicy::times(20) };
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

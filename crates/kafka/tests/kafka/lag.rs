//! Lag of groups, their members, and what runs.

use std::{sync::Arc, time::Duration};

use longshore_core::TaskError;
use longshore_kafka::{
    Admin, Handler, Record, Settings,
    admin::{Lag, Member},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::help::Topic;

const PATIENCE: Duration = Duration::from_secs(20);

fn admin(topic: &Topic, patience: Duration) -> Admin {
    Admin::open(&Settings::parse(&topic.address).unwrap(), patience).unwrap()
}

fn lag(topic: &Topic) -> Vec<Lag> {
    admin(topic, PATIENCE).lag(&topic.group, std::slice::from_ref(&topic.name)).unwrap()
}

fn records(rows: &[Lag]) -> u64 {
    rows.iter().map(Lag::records).sum()
}

fn transactional(topic: &Topic) -> BaseProducer {
    let producer: BaseProducer = topic.config().set("transactional.id", format!("{}-writer", topic.name)).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

/// Writes ten records, to both partitions, in a transaction that is committed or aborted.
fn write(topic: &Topic, producer: &BaseProducer, commit: bool) {
    producer.begin_transaction().unwrap();
    for n in 0..10 {
        producer.send(BaseRecord::<str, str>::to(&topic.name).partition(n % 2).payload("7")).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    if commit { producer.commit_transaction(PATIENCE).unwrap() } else { producer.abort_transaction(PATIENCE).unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_transactions_and_what_was_aborted_are_no_lag() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(2)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let writes = topic.clone();
    let producer = tokio::task::spawn_blocking(move || {
        let producer = transactional(&writes);
        write(&writes, &producer, true);
        assert_eq!(records(&lag(&writes)), 10 + 2, "a record may be among them, so the marks are counted with it");
        producer
    });
    let producer = producer.await.unwrap();
    let running = topic.consumer().until_end().start(Handler::new(async |_: Record| Ok::<_, TaskError>(()))).await.unwrap();
    assert_eq!(running.join().await.error, None);
    tokio::task::spawn_blocking(move || {
        let rows = lag(&topic);
        assert!(rows.iter().all(|row| row.committed == Some(5) && row.extent.end == 6), "there is a mark behind the commit: {rows:?}");
        assert_eq!(records(&rows), 0);
        write(&topic, &producer, false);
        assert_eq!(records(&lag(&topic)), 0, "and what was aborted");
        write(&topic, &producer, true);
        assert!(records(&lag(&topic)) >= 10);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_say_which_process_they_are_and_what_runs_says_which_record_it_is() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(1)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let writes = topic.clone();
    tokio::task::spawn_blocking(move || writes.produce(3, 3)).await.unwrap();
    let running =
        topic.consumer().start(Handler::new(async |_: Record| std::future::pending::<Result<(), TaskError>>().await)).await.unwrap();
    let handle = running.handle();
    let listed = loop {
        let listed = handle.running(20).await.unwrap();
        if listed.len() == 3 {
            break listed;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut shown: Vec<_> = listed
        .iter()
        .map(|(task, record)| {
            let record = record.as_ref().unwrap();
            (record.to_string(), String::from_utf8(record.key().unwrap().to_vec()).unwrap(), task.attempt)
        })
        .collect();
    shown.sort();
    let want = |n: i32| (format!("{}[0]@{n}", topic.name), format!("key-{n}"), 1);
    assert_eq!(shown, [want(0), want(1), want(2)]);
    let asked = topic.clone();
    let member = tokio::task::spawn_blocking(move || lag(&asked).remove(0).member).await.unwrap();
    let Some(Member { id, client, host }) = member else { panic!("it has no member") };
    assert!(client.starts_with("longshore-") && client.ends_with(&format!("-{}", std::process::id())), "{client}");
    assert!(id.starts_with(&client) && host == "127.0.0.1", "{id} at {host}");
    handle.stop_now();
    running.join().await;
}

#[test]
fn a_group_is_told_at_once_while_a_transaction_with_commits_of_it_is_open() {
    let Some(topic) = Topic::new(1) else { return };
    topic.commit(0, 0, "");
    let producer = transactional(&topic);
    let member: BaseConsumer = topic.config().set("group.id", &topic.group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic.name, 0, Offset::Offset(0)).unwrap();
    producer.begin_transaction().unwrap();
    producer.send_offsets_to_transaction(&list, &member.group_metadata().unwrap(), PATIENCE).unwrap();
    let ask = |patience| admin(&topic, patience).lag(&topic.group, std::slice::from_ref(&topic.name));
    let rows = ask(Duration::from_secs(5)).unwrap();
    assert_eq!(rows[0].committed, Some(0));
    producer.abort_transaction(PATIENCE).unwrap();
}

#[cfg(feature = "tls")]
#[test]
fn a_file_that_is_not_there_is_named_before_anybody_is_asked() {
    for option in ["ca", "certificate", "key"] {
        let error = Settings::parse(&format!("kafkas://h/?{option}=/nowhere/it.pem")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/it.pem: No such file"), "{error}");
    }
}

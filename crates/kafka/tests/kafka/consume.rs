//! One member: order, offsets, gate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_core::{Backoff, Job, RetryPolicy, Stop, TaskError, watch::ViewKind};
use longshore_kafka::{Handler, Lent, Order, Record};

use crate::help::{Log, Topic, wait_for};

fn logging(log: &Log) -> Handler<()> {
    let log = log.clone();
    Handler::new(move |record: Record| {
        log.add(&record);
        async { Ok::<_, TaskError>(()) }
    })
}

#[test]
fn every_record_is_handled_once_in_the_order_of_its_key_and_committed() {
    let Some(topic) = Topic::new(4) else { return };
    topic.produce(5_000, 100);
    for order in [Order::Key, Order::Partition, Order::None] {
        let topic = Topic { group: format!("{}-{order:?}", topic.group), name: topic.name.clone(), address: topic.address.clone() };
        let log = Log::default();
        let summary = topic.consumer().order(order).until_end().run(logging(&log)).unwrap();
        assert_eq!(summary.error, None);
        assert_eq!((summary.counts.read, summary.counts.done, summary.counts.known), (5_000, 5_000, 0), "{order:?}");
        assert_eq!(log.check_all(5_000), 0);
        if order != Order::None {
            log.check_keys();
        }
        let committed = topic.committed(4);
        assert_eq!(committed.values().map(|(offset, _)| offset).sum::<i64>(), 5_000, "{committed:?}");
        assert!(committed.values().all(|(_, metadata)| metadata.is_empty()), "{committed:?}");
        // Another member has nothing to do.
        let again = Log::default();
        topic.consumer().order(order).until_end().run(logging(&again)).unwrap();
        assert_eq!(again.len(), 0);
    }
}

#[test]
fn every_lane_handles_records() {
    let Some(topic) = Topic::new(2) else { return };
    topic.produce(500, 10);
    for (lane, make) in [
        (
            "blocking",
            (|log: Log| Handler::blocking(move |_, record: Record| Ok::<_, TaskError>(log.add(&record)))) as fn(Log) -> Handler<u64>,
        ),
        ("cpu", |log: Log| Handler::cpu(move |_, record: Record| Ok::<_, TaskError>(log.add(&record)))),
    ] {
        let topic = Topic { group: format!("{}-{lane}", topic.group), name: topic.name.clone(), address: topic.address.clone() };
        let log = Log::default();
        let summary = topic.consumer().until_end().max_threads(8).run(make(log.clone())).unwrap();
        assert_eq!((summary.error, log.check_all(500)), (None, 0), "{lane}");
        log.check_keys();
    }
}

/// Records done out of order are not done again; the one that was not, is.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_beyond_a_stuck_record_is_not_repeated_after_a_restart() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(1)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    tokio::task::spawn_blocking(move || producing.produce(300, 0)).await.unwrap();
    let log = Log::default();
    let seen = log.clone();
    let running = topic
        .consumer()
        .order(Order::None)
        .max_threads(10)
        .start(Handler::<()>::new(move |record: Record| {
            let seen = seen.clone();
            async move {
                if record.offset() == 7 {
                    std::future::pending::<()>().await;
                }
                seen.add(&record);
                Ok::<_, TaskError>(())
            }
        }))
        .await
        .unwrap();
    let waiting = log.clone();
    tokio::task::spawn_blocking(move || wait_for("all but one are done", || waiting.len() == 299)).await.unwrap();
    let view = running.handle().snapshot().await.unwrap();
    assert_eq!((view.in_flight, view.engine.active, view.partitions[0].oldest), (1, 1, Some(7)));
    // The same as all that runs shows it.
    let view = running.view().await.unwrap();
    let gauge = |name: &str| view.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value);
    assert_eq!((view.kind, &view.name, view.active(), view.counts.ok), (ViewKind::Consumer, &topic.group, 1, 299));
    assert_eq!((gauge("kafka_assigned_partitions"), gauge("kafka_in_flight_records")), (Some(1.0), Some(1.0)));
    assert!(view.gauges.iter().any(|gauge| gauge.name == "kafka_incomplete_records" && gauge.labels["partition"] == "0"));
    running.handle().engine().stop(Stop::Hard);
    let summary = running.join().await;
    assert_eq!(summary.counts.done, 299);
    let asking = topic.clone();
    let committed = tokio::task::spawn_blocking(move || asking.committed(1)).await.unwrap();
    assert_eq!(committed[&0].0, 7);
    assert!(!committed[&0].1.is_empty());

    let again = Log::default();
    let summary = topic.consumer().order(Order::None).until_end().start(logging(&again)).await.unwrap().join().await;
    assert_eq!((again.numbers(), summary.counts.known), (vec![7], 292));
    let committed = tokio::task::spawn_blocking(move || topic.committed(1)).await.unwrap();
    assert_eq!(committed[&0], (300, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_run_than_may_the_gate_opens_and_closes_and_both_knobs_turn_while_it_runs() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(3)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    tokio::task::spawn_blocking(move || producing.produce(4_000, 0)).await.unwrap();
    let (active, most, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, peak, ended) = (active.clone(), most.clone(), done.clone());
    let consumer = topic
        .consumer()
        .order(Order::None)
        .max_threads(10)
        .start(Handler::<()>::new(move |_: Record| {
            let (running, peak, ended) = (running.clone(), peak.clone(), ended.clone());
            async move {
                peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(3)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                ended.fetch_add(1, Ordering::SeqCst);
                Ok::<_, TaskError>(())
            }
        }))
        .await
        .unwrap();
    let handle = consumer.handle();
    let reached = done.clone();
    tokio::task::spawn_blocking(move || wait_for("a quarter is done", || reached.load(Ordering::SeqCst) >= 1_000)).await.unwrap();
    let view = handle.snapshot().await.unwrap();
    assert!(view.closings >= 10 && view.in_flight <= 20 && view.max_in_flight == 20 && view.reopen_at == 15, "{view:?}");
    assert_eq!(most.load(Ordering::SeqCst), 10);
    handle.set_max_threads(40);
    let reached = done.clone();
    tokio::task::spawn_blocking(move || wait_for("all is done", || reached.load(Ordering::SeqCst) == 4_000)).await.unwrap();
    let view = handle.snapshot().await.unwrap();
    assert_eq!((view.max_threads, view.max_in_flight, most.load(Ordering::SeqCst)), (40, 80, 40));
    assert_eq!((view.counts.lost, view.counts.pauses), (0, 0));
    handle.stop();
    assert_eq!(consumer.join().await.counts.done, 4_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_stops_its_partition_and_no_other() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(2)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    // Two keys: if they fall into one partition, the others still pass until the line is full.
    tokio::task::spawn_blocking(move || {
        producing.produce(1_000, 1);
        producing.produce_from(1_000, 1_000, 50);
    })
    .await
    .unwrap();
    let log = Log::default();
    let seen = log.clone();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let open = gate.clone();
    let running = topic
        .consumer()
        .max_threads(10)
        .max_in_flight(100)
        .start(Handler::<()>::new(move |record: Record| {
            let (seen, open) = (seen.clone(), open.clone());
            async move {
                if record.key() == Some(b"key-0") {
                    drop(open.acquire().await);
                }
                seen.add(&record);
                Ok::<_, TaskError>(())
            }
        }))
        .await
        .unwrap();
    let handle = running.handle();
    let (mut hot, mut in_flight) = (false, usize::MAX);
    for _ in 0..500 {
        let view = handle.snapshot().await.unwrap();
        hot = view.partitions.iter().any(|partition| partition.state.as_str() == "hot key");
        in_flight = view.in_flight;
        // What is not of the hot key ends.
        if hot && in_flight <= 25 && view.partitions.iter().all(|partition| partition.state.as_str() != "open") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(hot, "its partition waits");
    assert_eq!(in_flight, 25, "of one key no more than a quarter");
    gate.add_permits(10);
    let all = log.clone();
    tokio::task::spawn_blocking(move || wait_for("all is done", || all.len() == 2_000)).await.unwrap();
    log.check_keys();
    handle.stop();
    running.join().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_lent_one_by_one_feed_a_job_and_are_done_when_it_says_so() {
    let Some(topic) = tokio::task::spawn_blocking(|| Topic::new(2)).await.unwrap() else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    tokio::task::spawn_blocking(move || producing.produce(300, 20)).await.unwrap();
    let retry = RetryPolicy::times(1).backoff(Backoff::Fixed(Duration::from_millis(1)));
    let (records, running) = topic.consumer().max_threads(10).retry(retry).until_end().lend().await.unwrap();
    let log = Log::default();
    let seen = log.clone();
    let job = Job::blocking(move |lent: Lent| {
        match seen.add(&lent) {
            7 => drop(lent),
            8 => lent.failed("no"),
            _ => lent.done(),
        }
        Ok::<_, TaskError>(())
    })
    .stream(records)
    .start();
    let summary = running.join().await;
    assert_eq!((summary.error, summary.counts.done, summary.counts.dead), (None, 300, 2));
    assert_eq!((job.join().await.ok(), log.check_all(300)), (302, 2));
}

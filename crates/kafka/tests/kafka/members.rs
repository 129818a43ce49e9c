//! Several members: rebalances.

use std::{sync::Arc, time::Duration};

use longshore_core::TaskError;
use longshore_kafka::{Consumer, Handler, Record, RunningConsumer, Settings};

use crate::help::{Log, Topic, wait_for};

async fn blocking<O: Send + 'static>(work: impl FnOnce() -> O + Send + 'static) -> O {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn slow(log: &Log) -> Handler<()> {
    let log = log.clone();
    Handler::new(move |record: Record| {
        let log = log.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            log.add(&record);
            Ok::<_, TaskError>(())
        }
    })
}

fn member(topic: &Topic, strategy: &str) -> Consumer {
    let settings = Settings::parse(&topic.address).unwrap();
    let settings = settings.with("session.timeout.ms=6000").unwrap().with("heartbeat.interval.ms=500").unwrap();
    let settings = settings.with(&format!("partition.assignment.strategy={strategy}")).unwrap();
    Consumer::new(settings, &topic.group, [&topic.name]).max_threads(10).commit_every(Duration::from_millis(100))
}

/// Members come and go while records are handled. Nothing is skipped; what runs when a partition
/// moves ends first, so nothing is repeated either.
async fn shared_by_members(strategy: &'static str) {
    let Some(topic) = blocking(|| Topic::new(6)).await else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    blocking(move || producing.produce(6_000, 60)).await;
    let logs: Vec<Log> = (0..3).map(|_| Log::default()).collect();
    let start = |log: &Log| {
        let (consumer, handler) = (member(&topic, strategy), slow(log));
        async move { consumer.start(handler).await.unwrap() }
    };
    let first: RunningConsumer = start(&logs[0]).await;
    let counted = logs.clone();
    let seen = move |at: usize, least: usize| {
        let log = counted[at].clone();
        blocking(move || wait_for("a member has its share", || log.len() >= least))
    };
    seen(0, 300).await;
    let second = start(&logs[1]).await;
    seen(1, 300).await;
    let third = start(&logs[2]).await;
    seen(2, 100).await;
    second.handle().stop();
    let left = second.join().await;
    assert_eq!(left.error, None);
    let counted = logs.clone();
    blocking(move || wait_for("everything is handled", || counted.iter().map(Log::len).sum::<usize>() >= 6_000)).await;
    let view = first.handle().snapshot().await.unwrap();
    assert!(view.counts.rebalances >= 3 && view.counts.lost == 0, "{view:?}");
    let mut repeats = 0;
    let mut numbers: Vec<u64> = Vec::new();
    for member in [first, third] {
        member.handle().stop();
        let summary = member.join().await;
        assert_eq!((summary.error, summary.counts.abandoned), (None, 0));
    }
    for log in &logs {
        numbers.extend(log.numbers());
    }
    numbers.sort_unstable();
    let all = numbers.len();
    numbers.dedup();
    repeats += all - numbers.len();
    assert_eq!((numbers.len(), repeats), (6_000, 0), "{strategy}");
    let committed = blocking(move || topic.committed(6)).await;
    assert_eq!(committed.values().map(|(offset, _)| offset).sum::<i64>(), 6_000, "{committed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_partitions_cooperatively_and_nothing_is_skipped_or_repeated() {
    shared_by_members("cooperative-sticky").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_partitions_eagerly_and_nothing_is_skipped_or_repeated() {
    shared_by_members("range").await;
}

/// A handler that does not end in time is abandoned: its record is somebody else's, and its late
/// result counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_before_its_partition_moves_is_done_again_by_the_other_member() {
    let Some(topic) = blocking(|| Topic::new(2)).await else { return };
    let topic = Arc::new(topic);
    let producing = topic.clone();
    blocking(move || producing.produce(20, 0)).await;
    let log = Log::default();
    let seen = log.clone();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let open = gate.clone();
    let handler = Handler::<()>::new(move |record: Record| {
        let (seen, open) = (seen.clone(), open.clone());
        async move {
            seen.add(&record);
            drop(open.acquire().await);
            Ok::<_, TaskError>(())
        }
    });
    let stuck = member(&topic, "cooperative-sticky").max_threads(100).drain(Duration::from_millis(200)).start(handler).await.unwrap();
    let all = log.clone();
    blocking(move || wait_for("all have begun", || all.len() == 20)).await;
    let again = Log::default();
    let other = member(&topic, "cooperative-sticky").start(slow(&again)).await.unwrap();
    let moved = again.clone();
    blocking(move || wait_for("the other has a partition", || moved.len() >= 1)).await;
    let view = stuck.handle().snapshot().await.unwrap();
    assert!(view.counts.abandoned > 0 && view.partitions.len() == 1, "{view:?}");
    // Now they end, too late for one of the partitions.
    gate.add_permits(1_000);
    let expected = view.counts.abandoned as usize;
    let moved = again.clone();
    blocking(move || wait_for("the other has done them again", || moved.len() == expected)).await;
    for member in [stuck, other] {
        member.handle().stop();
        assert_eq!(member.join().await.error, None);
    }
    let committed = blocking(move || topic.committed(2)).await;
    assert_eq!(committed.values().map(|(offset, _)| offset).sum::<i64>(), 20, "{committed:?}");
}

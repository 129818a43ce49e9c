//! Trouble is told when it begins and when it ends, and ends the consumer where nothing else is
//! left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_core::{RetryPolicy, TaskError};
use longshore_kafka::{Affected, Consumer, ConsumerHandle, Handler, Record, Settings, Trouble};
use longshore_testkit::kafka::{Kafka, Operation, Thing};
use tokio::task::spawn_blocking;

use crate::help::{Topic, create};

/// A node that asks for permissions, and a topic of which `guest` may read, with its group.
struct World {
    node: Kafka,
    topic: Topic,
}

impl World {
    /// `None` where there is no Kafka.
    async fn new(settings: &'static [(&str, &str)]) -> Option<Arc<Self>> {
        let make = move || {
            let node = Kafka::start_secure(settings)?;
            let topic = Topic::at(node.address(), 2)?;
            node.allow(Operation::Read, Thing::Topic(&topic.name));
            node.allow(Operation::Read, Thing::Group(&topic.group));
            create(&topic.address, &format!("{}-dlt", topic.name), 2);
            node.allow(Operation::Write, Thing::Topic(&format!("{}-dlt", topic.name)));
            topic.produce(100, 10);
            Some(Arc::new(Self { node, topic }))
        };
        spawn_blocking(make).await.unwrap()
    }

    fn consumer(&self) -> Consumer {
        let settings = Settings::parse(&self.node.guest()).unwrap().with("session.timeout.ms=6000").unwrap();
        Consumer::new(settings, &self.topic.group, [&self.topic.name]).commit_every(Duration::from_millis(100))
    }

    async fn produce(self: &Arc<Self>, first: u64, count: u64) {
        let world = self.clone();
        spawn_blocking(move || world.topic.produce_from(first, count, 10)).await.unwrap();
    }

    async fn committed(self: &Arc<Self>) -> i64 {
        let world = self.clone();
        spawn_blocking(move || world.topic.committed(2).values().map(|(offset, _)| offset).sum()).await.unwrap()
    }
}

fn fine() -> Handler<()> {
    Handler::new(|_: Record| async { Ok::<_, TaskError>(()) })
}

/// Every second record fails.
fn failing() -> Handler<()> {
    Handler::new(|record: Record| async move { if record.offset() % 2 == 0 { Err(TaskError::invalid("no")) } else { Ok(()) } })
}

async fn done(handle: &ConsumerHandle, count: u64) {
    wait("records are done", async || handle.snapshot().await.is_some_and(|view| view.counts.done >= count)).await;
}

async fn wait(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(60), "waited for a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next thing that is told of this kind.
async fn told(handle: &ConsumerHandle, wanted: impl Fn(&Trouble) -> bool) -> Trouble {
    let mut found = None;
    wait("it is told", async || {
        found = handle.news().into_iter().find(&wanted);
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn begins(affected: impl Fn(&Affected) -> bool) -> impl Fn(&Trouble) -> bool {
    move |trouble| affected(&trouble.affected) && trouble.until.is_none()
}

fn ends(affected: impl Fn(&Affected) -> bool) -> impl Fn(&Trouble) -> bool {
    move |trouble| affected(&trouble.affected) && trouble.until.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_may_not_be_read_any_more_is_told_waited_for_and_at_last_the_end() {
    let Some(world) = World::new(&[]).await else { return };
    let name = world.topic.name.clone();
    let running = world.consumer().without_permission(Duration::from_secs(8)).start(fine()).await.unwrap();
    let handle = running.handle();
    done(&handle, 100).await;
    let partition = |affected: &Affected| matches!(affected, Affected::Partition { .. });

    world.node.withdraw(Operation::Read, Thing::Topic(&name));
    let trouble = told(&handle, begins(partition)).await;
    assert!(trouble.is_denied(), "{trouble:?}");
    world.produce(100, 100).await;
    let view = handle.snapshot().await.unwrap();
    assert!(view.partitions.iter().any(|partition| partition.lag.is_none()), "what is behind is not known: {view:?}");
    // Nothing new comes, and yet it is seen that it could: with nothing to read, too.
    world.node.allow(Operation::Read, Thing::Topic(&name));
    told(&handle, ends(partition)).await;
    done(&handle, 200).await;
    wait("all is committed", async || world.committed().await == 200).await;
    wait("all is right", async || handle.snapshot().await.is_some_and(|view| view.troubles.is_empty())).await;

    world.node.withdraw(Operation::Read, Thing::Topic(&name));
    let summary = tokio::time::timeout(Duration::from_secs(40), running.join()).await.expect("it ends by itself");
    let error = summary.error.expect("it has a reason");
    assert!(error.contains(&world.topic.group) && error.contains("cannot be read any more: no permission for this topic"), "{error}");
    assert_eq!((summary.counts.done, summary.counts.uncommitted, world.committed().await), (200, 0, 200));
    assert!(summary.troubles.iter().any(|trouble| partition(&trouble.affected) && trouble.times > 1), "{:?}", summary.troubles);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_we_may_be_in_no_more_is_told_with_its_commits_and_at_last_the_end() {
    let Some(world) = World::new(&[]).await else { return };
    let group = world.topic.group.clone();
    let running = world.consumer().without_permission(Duration::from_secs(5)).start(fine()).await.unwrap();
    let handle = running.handle();
    done(&handle, 100).await;
    wait("all is committed", async || world.committed().await == 100).await;

    world.node.withdraw(Operation::Read, Thing::Group(&group));
    world.produce(100, 100).await;
    let commits = |affected: &Affected| *affected == Affected::Commits;
    assert!(told(&handle, begins(commits)).await.is_denied());
    world.node.allow(Operation::Read, Thing::Group(&group));
    told(&handle, ends(commits)).await;
    wait("all is committed", async || world.committed().await == 200).await;

    world.node.withdraw(Operation::Read, Thing::Group(&group));
    world.produce(200, 100).await;
    let summary = tokio::time::timeout(Duration::from_secs(40), running.join()).await.expect("it ends by itself");
    let error = summary.error.expect("it has a reason");
    // The commit or the heartbeat, whichever is refused first.
    assert!(error.contains("any more: no permission for this group"), "{error}");
    assert_eq!((summary.counts.done, summary.counts.uncommitted + summary.counts.repeated), (300, 100), "{:?}", summary.counts);
    assert_eq!(world.committed().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_the_dead_letter_topic_does_not_take_wait_are_told_and_counted_at_the_end() {
    let Some(world) = World::new(&[]).await else { return };
    let grave = format!("{}-dlt", world.topic.name);
    let running = world.consumer().retry(RetryPolicy::times(0)).start(failing()).await.unwrap();
    let handle = running.handle();
    wait("letters are written", async || handle.snapshot().await.is_some_and(|view| view.counts.dead == 50)).await;

    world.node.withdraw(Operation::Write, Thing::Topic(&grave));
    world.produce(100, 100).await;
    let letters = |affected: &Affected| matches!(affected, Affected::DeadLetters { topic } if *topic == grave);
    assert!(told(&handle, begins(letters)).await.is_denied());
    wait("fifty letters wait", async || handle.snapshot().await.is_some_and(|view| view.burying == 50)).await;
    world.node.allow(Operation::Write, Thing::Topic(&grave));
    told(&handle, ends(letters)).await;
    wait("all are written", async || handle.snapshot().await.is_some_and(|view| view.counts.dead == 100)).await;

    world.node.withdraw(Operation::Write, Thing::Topic(&grave));
    world.produce(200, 100).await;
    wait("fifty letters wait", async || handle.snapshot().await.is_some_and(|view| view.burying == 50)).await;
    handle.stop();
    let counts = running.join().await.counts;
    assert_eq!((counts.done, counts.dead, counts.unburied, counts.abandoned, counts.uncommitted), (250, 100, 50, 0, 0));
    // With the permission their records come again, and nothing else does.
    world.node.allow(Operation::Write, Thing::Topic(&grave));
    let summary = world.consumer().retry(RetryPolicy::times(0)).until_end().start(failing()).await.unwrap().join().await;
    assert_eq!((summary.counts.done, summary.counts.dead, summary.error), (50, 50, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_broker_does_not_answer_says_what_was_done_and_that_it_is_not_committed() {
    let Some(world) = World::new(&[]).await else { return };
    // The group has lost us meanwhile, or has not. Each row has a group of its own: a broker that
    // thaws may take the commit that nobody waits for any more.
    let other = format!("{}-6000", world.topic.group);
    world.node.allow(Operation::Read, Thing::Group(&other));
    for (session, group, uncommitted, repeated) in [("6000", &other, 0, 100), ("45000", &world.topic.group, 100, 0)] {
        let settings = Settings::parse(&world.node.guest()).unwrap().with(&format!("session.timeout.ms={session}")).unwrap();
        let consumer = Consumer::new(settings, group, [&world.topic.name]).commit_every(Duration::from_secs(3_600));
        let running = consumer.start(fine()).await.unwrap();
        let handle = running.handle();
        done(&handle, 100).await;
        world.node.freeze();
        assert_eq!(told(&handle, begins(|affected| *affected == Affected::Broker)).await.times, 1);
        handle.stop();
        let stopped = Instant::now();
        let summary = running.join().await;
        world.node.thaw();
        assert!(stopped.elapsed() < Duration::from_secs(20), "{:?}", stopped.elapsed());
        let counts = summary.counts;
        assert_eq!((counts.done, counts.uncommitted, counts.repeated), (100, uncommitted, repeated), "{session}: {summary:?}");
        assert!(summary.troubles.iter().any(|trouble| trouble.until.is_none()), "{session}: {summary:?}");
    }
    let again = world.consumer().until_end().start(fine()).await.unwrap().join().await;
    // The commit that nobody heard of any more may have been taken all the same.
    assert!([0, 100].contains(&again.counts.done) && world.committed().await == 100, "{:?}", again.counts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_is_told_once_each() {
    let Some(world) = World::new(&[]).await else { return };
    let running = world.consumer().start(fine()).await.unwrap();
    let handle = running.handle();
    done(&handle, 100).await;
    let mut world = Arc::into_inner(world).expect("nobody else has it");
    world.node.kill();
    let broker = |affected: &Affected| *affected == Affected::Broker;
    told(&handle, begins(broker)).await;
    assert!(handle.complaint().is_some_and(|said| said.contains("refused")), "{:?}", handle.complaint());
    let world = spawn_blocking(move || {
        world.node.restart();
        world
    });
    let world = Arc::new(world.await.unwrap());
    let over = told(&handle, ends(broker)).await;
    assert!(over.times >= 1 && over.until.is_some_and(|until| until > over.since), "{over:?}");
    world.produce(100, 100).await;
    done(&handle, 200).await;
    handle.stop();
    let summary = running.join().await;
    assert_eq!((summary.counts.uncommitted, summary.error), (0, None));
}

//! Cases about the messages of a worker that died: of a consumer that was dropped without leaving.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    LEASE, Subject,
    kit::{claim, due, end, id, iso, publish},
};
use crate::{
    broker::Consumer,
    message::{Claimed, End, Ended},
};

/// What came, by id: crashes, and whether it was lent before.
fn by_id(claimed: &[Claimed]) -> BTreeMap<String, (u32, bool)> {
    claimed.iter().map(|claimed| (id(&claimed.raw), (claimed.crashes, claimed.redelivered))).collect()
}

fn expected(rows: &[(&str, u32)]) -> BTreeMap<String, (u32, bool)> {
    rows.iter().map(|(id, crashes)| ((*id).to_owned(), (*crashes, true))).collect()
}

async fn accuse(consumer: &dyn Consumer, claimed: &[Claimed], names: &[&str]) {
    let accused: Vec<_> = claimed.iter().filter(|claimed| names.contains(&&*id(&claimed.raw))).map(|claimed| claimed.receipt).collect();
    assert_eq!(accused.len(), names.len(), "they were claimed");
    consumer.accuse(&accused).await.expect("it is recorded");
}

/// Within the lease and two seconds, as suspects.
pub async fn the_messages_of_a_dead_consumer_come_back(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["done", "a", "b"]).await;
    let lives = subject.consumer(&["q"]).await;
    let dies = subject.consumer(&["q"]).await;
    let claimed = claim(&*dies, 3).await;
    assert_eq!(end(&*dies, &claimed[..1], End::Ack).await, [Ended::Done]);
    publish(&*broker, "q", &["fresh"]).await;
    let fresh = claim(&*lives, 1).await;
    // Longer than the lease: it is renewed.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    assert_eq!((state.waiting, state.held), (0, subject.held(3)), "what a living consumer holds stays its own");
    drop(dies);
    let died = Instant::now();
    let again = claim(&*lives, 2).await;
    // Two seconds, and two more for a machine that is busy with something else.
    assert!(died.elapsed() < LEASE + Duration::from_secs(4), "it took {:?}", died.elapsed());
    assert_eq!(by_id(&again), expected(&[("a", 1), ("b", 1)]));
    assert_eq!(end(&*lives, &again, End::Ack).await, [Ended::Done, Ended::Done]);
    assert_eq!(end(&*lives, &fresh, End::Ack).await, [Ended::Done]);
    let state = broker.queues(&["q".into()]).await.expect("it answers").remove(0);
    assert_eq!((state.waiting, state.held, state.dead), (0, 0, 0));
}

/// The worker held it for its time to come and cannot have died of it. (A broker that holds it back
/// itself has not lent it.)
pub async fn an_eta_ahead_is_innocent_of_a_crash(subject: Arc<Subject>) {
    let broker = subject.broker();
    let at = SystemTime::now() + Duration::from_secs(3600);
    broker.publish(&[due("q", "later", at, &iso(at))]).await.expect("it is published");
    if broker.queues(&["q".into()]).await.expect("it answers")[0].later > 0 {
        return;
    }
    let dies = subject.consumer(&["q"]).await;
    let _held = claim(&*dies, 1).await;
    let lives = subject.consumer(&["q"]).await;
    drop(dies);
    assert_eq!(by_id(&claim(&*lives, 1).await), expected(&[("later", 0)]));
}

/// Whatever else the dead one held stays as it was.
pub async fn only_the_accused_of_a_second_crash_is_blamed(subject: Arc<Subject>) {
    publish(&*subject.broker(), "q", &["a", "b", "c", "d"]).await;
    let first = subject.consumer(&["q"]).await;
    claim(&*first, 4).await;
    let second = subject.consumer(&["q"]).await;
    drop(first);
    let claimed = claim(&*second, 4).await;
    assert_eq!(by_id(&claimed), expected(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
    // The first suspect runs to its end; of the next two, which run together, one kills.
    accuse(&*second, &claimed, &["a"]).await;
    let a: Vec<_> = claimed.iter().filter(|claimed| id(&claimed.raw) == "a").cloned().collect();
    assert_eq!(end(&*second, &a, End::Ack).await, [Ended::Done]);
    accuse(&*second, &claimed, &["b", "d"]).await;
    let third = subject.consumer(&["q"]).await;
    drop(second);
    assert_eq!(by_id(&claim(&*third, 3).await), expected(&[("b", 2), ("c", 1), ("d", 2)]));
}

/// Whoever claims it then buries it, with the reason, and its crashes are forgotten when it is
/// retried.
pub async fn the_third_crash_comes_with_the_message_and_is_forgotten_by_a_retry(subject: Arc<Subject>) {
    let broker = subject.broker();
    publish(&*broker, "q", &["guilty", "innocent"]).await;
    let mut consumer = subject.consumer(&["q"]).await;
    let mut claimed = claim(&*consumer, 2).await;
    for crashes in 1..=3 {
        if crashes > 1 {
            accuse(&*consumer, &claimed, &["guilty"]).await;
        }
        let next = subject.consumer(&["q"]).await;
        drop(std::mem::replace(&mut consumer, next));
        claimed = claim(&*consumer, 2).await;
    }
    assert_eq!(by_id(&claimed), expected(&[("guilty", 3), ("innocent", 1)]));
    let guilty: Vec<_> = claimed.iter().filter(|claimed| id(&claimed.raw) == "guilty").cloned().collect();
    let reason = "3 workers died while it ran".to_owned();
    assert_eq!(end(&*consumer, &guilty, End::Dead { reason: reason.clone() }).await, [Ended::Done]);
    let letters = broker.letters().dead(Some("q")).await.expect("it answers");
    assert_eq!(letters.iter().map(|letter| (id(&letter.raw), letter.crashes)).collect::<Vec<_>>(), [("guilty".to_owned(), 3)]);
    assert_eq!(letters[0].reason, reason);
    assert_eq!(broker.letters().bury(&letters, true).await.expect("it answers"), 1);
    let again = claim(&*consumer, 1).await;
    assert_eq!((id(&again[0].raw), again[0].crashes), ("guilty".to_owned(), 0));
}

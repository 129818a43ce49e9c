//! Broadcasts and replies.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};

use super::{Subject, kit::SOON};
use crate::halves::Subscription;

async fn next(subscription: &mut Subscription) -> (String, Vec<u8>) {
    tokio::time::timeout(SOON, subscription.messages.recv()).await.expect("a message comes").expect("the subscription goes on")
}

/// To all of them, at once and once; not to those who come later.
pub async fn a_broadcast_reaches_those_who_listen_by_their_pattern(subject: Arc<Subject>) {
    let (broker, listening) = (subject.broker(), subject.broker());
    broker.bus().broadcast("celeryev", "worker.early", b"before").await.expect("it is sent");
    let mut all = listening.bus().subscribe("celeryev", "#").await.expect("it listens");
    let mut workers = listening.bus().subscribe("celeryev", "worker.#").await.expect("it listens");
    let mut other = broker.bus().subscribe("celery.pidbox", "#").await.expect("it listens");
    for (key, text) in [("task.sent", "1"), ("worker.online", "2"), ("worker.heartbeat", "3")] {
        broker.bus().broadcast("celeryev", key, text.as_bytes()).await.expect("it is sent");
    }
    // Who knows how many listen counts none that listens to something else.
    let counted = broker.bus().broadcast_counted("celery.pidbox", "", b"ping").await.expect("it is sent");
    assert!(counted.is_none_or(|count| count == 1), "{counted:?}");
    assert_eq!(next(&mut all).await, ("task.sent".to_owned(), b"1".to_vec()));
    assert_eq!(next(&mut all).await.1, b"2");
    assert_eq!(next(&mut all).await.1, b"3");
    assert_eq!(next(&mut workers).await, ("worker.online".to_owned(), b"2".to_vec()));
    assert_eq!(next(&mut workers).await.1, b"3");
    assert_eq!(next(&mut other).await.1, b"ping");
    drop(all);
    broker.bus().broadcast("celeryev", "worker.offline", b"4").await.expect("it is sent");
    assert_eq!(next(&mut workers).await.1, b"4");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(other.messages.try_recv().is_err() && workers.messages.try_recv().is_err(), "once");
}

/// Nothing waits for a listener that takes nothing, and nothing is left out unseen.
pub async fn what_a_slow_listener_has_no_room_for_is_counted(subject: Arc<Subject>) {
    const SENT: u64 = 11_000;
    let (broker, listening) = (subject.broker(), subject.broker());
    let slow = listening.bus().subscribe("celeryev", "#").await.expect("it listens");
    let bus = broker.bus();
    let sends = stream::iter(0..SENT).map(|_| bus.broadcast("celeryev", "task.started", b"x"));
    sends.buffer_unordered(500).for_each(async |sent| sent.expect("it is sent")).await;
    let came = || slow.messages.len() as u64 + slow.left_out.count();
    let all = async {
        while came() < SENT {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(SOON * 3, all).await;
    assert!(slow.left_out.count() > 0 && came() == SENT, "{} of {SENT} came, {:?}", slow.messages.len(), slow.left_out);
}

/// And nobody else.
pub async fn a_reply_reaches_the_client_that_asked(subject: Arc<Subject>) {
    let (asking, broker) = (subject.broker(), subject.broker());
    let mut mine = asking.bus().replies("me").await.expect("it listens");
    let mut others = asking.bus().replies("another").await.expect("it listens");
    broker.bus().reply("reply.celery.pidbox", "me", b"pong").await.expect("it is sent");
    broker.bus().reply("reply.celery.pidbox", "me", b"pong again").await.expect("it is sent");
    broker.bus().reply("reply.celery.pidbox", "gone", b"pong").await.expect("a client that is gone is no error");
    assert_eq!(next(&mut mine).await.1, b"pong");
    assert_eq!(next(&mut mine).await.1, b"pong again");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(others.messages.try_recv().is_err());
}

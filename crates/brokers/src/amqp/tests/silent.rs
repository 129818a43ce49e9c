//! A server that takes what it is given, and says nothing.

use std::time::{Duration, Instant, SystemTime};

use longshore_core::ErrorKind;
use longshore_testkit::rabbit::RabbitServer;

use super::outgoing;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_confirms_ends_as_unknown_and_the_next_one_is_sent() {
    let Some(server) = RabbitServer::start(&[]) else { return };
    let connected = crate::connect(&format!("{}?patience=1&heartbeat=60", server.url()), Some("memory://amqp-silent")).unwrap();
    let message = |id: &str| outgoing("q", id, SystemTime::now(), false);
    connected.broker.publish(&[message("before")]).await.unwrap();
    server.freeze();
    let begun = Instant::now();
    let error = connected.broker.publish(&[message("unknown")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{}", error.message);
    assert!(error.message.contains("unknown whether"), "{}", error.message);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    server.thaw();
    // It may still have to make up for its time.
    let end = Instant::now() + Duration::from_secs(30);
    while connected.broker.publish(&[message("after")]).await.is_err() {
        assert!(Instant::now() < end, "it takes nothing any more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_socket_does_not_take_at_once_is_written_when_it_can_be() {
    let Some(server) = RabbitServer::start(&[]) else { return };
    // lapin writes by itself for a heartbeat only: the patience must not need one.
    let connected = crate::connect(&format!("{}?patience=10&heartbeat=60", server.url()), Some("memory://amqp-full-socket")).unwrap();
    let message = |id: &str| outgoing("q", id, SystemTime::now(), false);
    connected.broker.publish(&[message("before")]).await.unwrap();
    server.freeze();
    // More than the buffers of both sides hold.
    let large: Vec<_> = (0..64)
        .map(|number| {
            let mut large = message(&format!("large-{number}"));
            large.raw.splice(large.raw.len() - 1..large.raw.len() - 1, std::iter::repeat_n(b' ', 1 << 18));
            large
        })
        .collect();
    let (published, ()) = tokio::join!(connected.broker.publish(&large), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.thaw();
    });
    published.unwrap();
}

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

//! Queues and exchanges that somebody else deletes, or has not made yet.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ExchangeDeleteOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use longshore_celery::events;
use longshore_testkit::rabbit;
use tokio::{task::JoinHandle, time::timeout};

use super::{counts, outgoing, until, vhost_of};
use crate::{
    broker::{Consumer, OpenOptions},
    message::Claimed,
};

const SOON: Duration = Duration::from_secs(30);

/// A client that knows nothing of ours.
async fn stranger(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Returns whether what is held back for a queue reaches it.
fn is_bound(vhost: &str, queue: &str) -> bool {
    let bindings = rabbit::shared().unwrap().eval(&format!(
        "[N || {{binding, {{resource, _, exchange, N}}, _, _, _}} <- rabbit_binding:list_for_destination(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{queue}\">>)), N =:= <<\"celery_delayed_delivery\">>]."
    ));
    bindings.trim() != "[]"
}

/// Claims one, as a worker does that waits for one.
fn claim(consumer: Arc<dyn Consumer>) -> JoinHandle<Vec<Claimed>> {
    tokio::spawn(async move {
        let mut claimed = Vec::new();
        timeout(SOON * 2, consumer.claim(1, &mut claimed)).await.expect("it comes").unwrap();
        claimed
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_back_for_a_queue_that_is_deleted_meanwhile_comes_when_it_is_made_anew() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&url, Some("memory://amqp-deleted")).unwrap();
    let claim = claim(connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap());
    until("it is served", async || {
        rabbit::shared().unwrap().queues(vhost_of(&url)).iter().any(|(.., consumers)| *consumers == 1).then_some(())
    })
    .await;
    let soon = SystemTime::now() + Duration::from_secs(34);
    connected.broker.publish(&[outgoing("q", "soon", soon, true)]).await.unwrap();
    let (_connection, channel) = stranger(&url).await;
    channel.queue_delete("q".into(), QueueDeleteOptions::default()).await.unwrap();
    until("it is bound anew", async || is_bound(vhost_of(&url), "q").then_some(())).await;
    let claimed = claim.await.unwrap();
    assert!(String::from_utf8_lossy(&claimed[0].raw).contains("soon"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_that_is_served_takes_what_others_send_with_a_delay() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&format!("{url}?queue_type=quorum"), Some("memory://amqp-delayed")).unwrap();
    let options = OpenOptions { takes_delayed: true, ..OpenOptions::new("w@test", ["q"]) };
    let claim = claim(connected.broker.open(options).await.unwrap());
    until("it is bound", async || is_bound(vhost_of(&url), "q").then_some(())).await;
    let (_connection, channel) = stranger(&url).await;
    let mut headers = FieldTable::default();
    headers.insert("task".into(), AMQPValue::LongString("t".into()));
    headers.insert("id".into(), AMQPValue::LongString("theirs".into()));
    let properties = BasicProperties::default().with_headers(headers).with_content_type("application/json".into());
    let key = format!("{}1.0.q", "0.".repeat(26));
    channel
        .basic_publish("celery_delayed_27".into(), key.into(), BasicPublishOptions::default(), b"[[], {}, {}]", properties)
        .await
        .unwrap();
    let claimed = claim.await.unwrap();
    assert!(String::from_utf8_lossy(&claimed[0].raw).contains("theirs"));
    assert_eq!(counts(vhost_of(&url), "celery_delayed_").0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_on_when_their_exchange_was_deleted() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&url, Some("memory://amqp-events")).unwrap();
    let bus = connected.bus().unwrap();
    let raw = outgoing("q", "event", SystemTime::now(), false).raw;
    bus.broadcast(events::EXCHANGE, "worker.heartbeat", &raw).await.unwrap();
    let (_connection, channel) = stranger(&url).await;
    for _ in 0..2 {
        channel.exchange_delete(events::EXCHANGE.into(), ExchangeDeleteOptions::default()).await.unwrap();
        timeout(Duration::from_secs(10), bus.broadcast(events::EXCHANGE, "worker.heartbeat", &raw)).await.expect("no loop").unwrap();
    }
    let mut heard = bus.subscribe(events::EXCHANGE, "worker.#").await.unwrap();
    bus.broadcast(events::EXCHANGE, "worker.heartbeat", &raw).await.unwrap();
    assert!(timeout(SOON, heard.messages.recv()).await.unwrap().is_some());
}

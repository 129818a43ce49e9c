//! Queues that are declared with more than their names, and their own dead-letter exchanges.

use std::{sync::Arc, time::SystemTime};

use lapin::{
    options::{BasicGetOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use longshore_core::ErrorKind;
use longshore_testkit::rabbit;
use tokio::time::{Duration, timeout};

use super::{
    counts,
    exchanges::{channel, through},
    outgoing,
    refusals::{connect, said},
    until, vhost_of,
};
use crate::{
    broker::OpenOptions,
    message::{End, Ended, Finish, Outgoing},
    queue_spec::{DeadLetterPlace, QueueSpec},
};

/// Longest time that something takes that comes.
const SOON: Duration = Duration::from_secs(40);

fn message(queue: &str) -> Outgoing {
    outgoing(queue, "i", SystemTime::now(), false)
}

/// Declares a queue as somebody else does, who gets no 406 where it is just so.
async fn declare(url: &str, queue: &str, arguments: &[(&str, AMQPValue)]) -> Result<(), lapin::Error> {
    let (link, channel) = channel(url).await;
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, table).await;
    link.close().await;
    declared.map(drop)
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_made_with_its_own_arguments_and_bound_to_its_exchange() {
    let Some(url) = rabbit::vhost() else { return };
    // Those of the URL are for the others.
    let (connected, _) = connect(&format!("{url}?queue_type=quorum"));
    let orders = QueueSpec::new("orders").kind("classic").max_priority(10).bound("shop", "topic", "order.#");
    let orders = orders.argument("x-message-ttl", 60_000).argument("x-single-active-consumer", true);
    let bills = QueueSpec::new("bills").kind("quorum").bound("shop", "topic", "bill.*").argument("x-dead-letter-exchange", "graves");
    assert_eq!(connected.broker.declare_as(&[orders, bills]), None);
    connected.broker.publish(&["orders", "bills", "plain"].map(message)).await.unwrap();
    let rows: [(&str, &[(&str, AMQPValue)]); 3] = [
        (
            "orders",
            &[
                ("x-max-priority", AMQPValue::LongInt(10)),
                ("x-message-ttl", AMQPValue::LongInt(60_000)),
                ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ],
        ),
        ("bills", &[("x-queue-type", text("quorum")), ("x-dead-letter-exchange", text("graves"))]),
        ("plain", &[("x-queue-type", text("quorum"))]),
    ];
    for (queue, arguments) in rows {
        declare(&url, queue, arguments).await.unwrap_or_else(|error| panic!("{queue}: {error}"));
        assert!(declare(&url, queue, &[]).await.is_err(), "{queue}: arguments are compared");
    }
    for (key, queue) in [("order.new", "orders"), ("bill.7", "bills")] {
        connected.broker.publish(&[through("shop", key, "i")]).await.unwrap();
        until(key, async || (counts(vhost_of(&url), queue) == (2, 0)).then_some(())).await;
    }
    let error = connected.broker.publish(&[through("shop", "bill.7.8", "i")]).await.unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.message.contains("`bill.7.8`"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_and_an_exchange_that_are_there_with_others_are_taken_as_they_are() {
    let Some(url) = rabbit::vhost() else { return };
    declare(&url, "orders", &[("x-message-ttl", AMQPValue::LongInt(5_000_000))]).await.unwrap();
    let (connected, heard) = connect(&url);
    let spec = |name: &str, kind: &str| QueueSpec::new(name).argument("x-expires", 90_000_000).bound("shop", kind, "order.new");
    connected.broker.declare_as(&[spec("others", "direct"), spec("orders", "topic")]);
    connected.broker.publish(&["others", "orders"].map(message)).await.unwrap();
    said(&heard, &["queue orders is there already", "x-message-ttl=5000000", "taken as it is"]).await;
    said(&heard, &["exchange shop of queue orders is taken as it is", "type"]).await;
    connected.broker.publish(&[through("shop", "order.new", "i")]).await.unwrap();
    for queue in ["others", "orders"] {
        until(queue, async || (counts(vhost_of(&url), queue) == (2, 0)).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_exchange_gets_what_expires_and_what_overflows() {
    let Some(url) = rabbit::vhost() else { return };
    for (queue, kind, limit, value) in [
        ("old", "classic", "x-message-ttl", 50),
        ("full", "classic", "x-max-length", 1),
        ("old-quorum", "quorum", "x-message-ttl", 50),
        ("full-quorum", "quorum", "x-max-length", 1),
    ] {
        let (connected, _) = connect(&url);
        let graves = QueueSpec::new(format!("graves-of-{queue}")).bound("graves", "direct", queue);
        let spec = QueueSpec::new(queue).kind(kind).argument(limit, value).argument("x-dead-letter-exchange", "graves");
        connected.broker.declare_as(&[graves.clone(), spec.argument("x-dead-letter-routing-key", queue)]);
        let (vhost, name) = (vhost_of(&url), graves.name.clone());
        // The exchange is made with the queue that it leads to.
        connected.broker.publish(&[message(&name)]).await.unwrap();
        connected.broker.publish(&[message(queue), message(queue)]).await.unwrap();
        let dropped = if limit == "x-max-length" { 1 } else { 2 };
        until(queue, async || (counts(vhost, &name) == (1 + dropped, 0)).then_some(())).await;
        let (link, channel) = channel(&url).await;
        channel.basic_get((*name).into(), BasicGetOptions { no_ack: true }).await.unwrap();
        let letter = channel.basic_get((*name).into(), BasicGetOptions { no_ack: true }).await.unwrap().expect("a letter");
        let headers = letter.properties.headers().as_ref().expect("headers of the server's").inner();
        let reason = text(if dropped == 1 { "maxlen" } else { "expired" });
        assert_eq!(headers.get("x-first-death-reason"), Some(&reason), "{queue}");
        link.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_buries_goes_to_the_queues_own_exchange_where_that_was_said() {
    for (options, place, kind, rejects) in [
        ("", DeadLetterPlace::Exchange, "classic", true),
        ("", DeadLetterPlace::Exchange, "quorum", true),
        ("?dead=reject", DeadLetterPlace::Kept, "classic", true),
        ("", DeadLetterPlace::Kept, "classic", false),
    ] {
        let Some(url) = rabbit::vhost() else { return };
        let (connected, _) = connect(&format!("{url}{options}"));
        let graves = QueueSpec::new("graves").bound("graves", "fanout", "");
        let spec = QueueSpec::new("q").kind(kind).argument("x-dead-letter-exchange", "graves").dead_letters(place);
        connected.broker.declare_as(&[graves, spec]);
        connected.broker.publish(&[message("graves")]).await.unwrap();
        connected.broker.purge("graves").await.unwrap();
        let now = SystemTime::now();
        connected.broker.publish(&["dead", "junk", "good", "next"].map(|id| outgoing("q", id, now, false))).await.unwrap();
        let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
        let mut claimed = Vec::new();
        while claimed.len() < 4 {
            timeout(SOON, consumer.claim(9, &mut claimed)).await.expect("they come").unwrap();
        }
        let ends: Vec<Finish> = claimed
            .iter()
            .map(|claimed| {
                let raw = String::from_utf8_lossy(&claimed.raw);
                let is = |id: &str| raw.contains(&format!("\"id\": \"{id}\""));
                let reason = "a reason".to_owned();
                let end = if is("dead") {
                    End::Dead { reason }
                } else if is("junk") {
                    End::Junk { reason }
                } else {
                    End::Ack
                };
                // What is sent on goes its way all the same.
                let publish = if is("dead") { vec![message("after")] } else { Vec::new() };
                Finish { receipt: claimed.receipt, publish, results: Vec::new(), part: None, end }
            })
            .collect();
        assert_eq!(timeout(SOON, consumer.finish(&ends)).await.expect("an answer").unwrap(), vec![Ended::Done; 4]);
        let vhost = vhost_of(&url);
        let expected = if rejects { [(2, 0), (0, 0)] } else { [(0, 0), (2, 0)] };
        let found = async || [counts(vhost, "graves"), counts(vhost, "longshore.")];
        until(kind, async || (found().await == expected && counts(vhost, "after") == (1, 0)).then_some(())).await;
        until("nothing is left", async || (counts(vhost, "q") == (0, 0)).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_queue_is_its_workers_and_is_sent_to_by_others() {
    let Some(url) = rabbit::vhost() else { return };
    let (connected, _) = connect(&url);
    connected.broker.declare_as(&[QueueSpec::new("mine").exclusive()]);
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["mine"])).await.unwrap();
    let sent: Arc<[Outgoing]> = Arc::new([message("mine")]);
    until("it is there", async || connected.broker.publish(&sent).await.ok()).await;
    let mut claimed = Vec::new();
    timeout(SOON, consumer.claim(1, &mut claimed)).await.expect("it comes").unwrap();
    let end = Finish { receipt: claimed[0].receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Ack };
    assert_eq!(consumer.finish(&[end]).await.unwrap(), [Ended::Done]);
}

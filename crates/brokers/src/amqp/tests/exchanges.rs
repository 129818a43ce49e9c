//! Messages through exchanges that somebody else has made.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use longshore_core::ErrorKind;
use longshore_testkit::rabbit;
use tokio::time::timeout;

use super::{
    super::{
        link::{Link, Wait},
        url::Config,
    },
    counts, outgoing, until, vhost_of,
};
use crate::{
    broker::OpenOptions,
    connect::connect,
    message::{End, Ended, Exchange, Finish, Outgoing},
};

/// Longest time that something takes that comes.
const SOON: Duration = Duration::from_secs(40);

/// Opens a channel of somebody else's.
pub(super) async fn channel(url: &str) -> (Link, lapin::Channel) {
    let link = Link::new(Arc::new(Config::parse(url).unwrap()), Arc::new(|_| {}), "another".to_owned());
    let (_, channel) = link.channel(Wait::Patience).await.unwrap();
    (link, channel)
}

/// Makes an exchange with these queues, each with the key that binds it.
async fn make(url: &str, exchange: &str, kind: ExchangeKind, queues: &[(&str, &str)]) {
    let (link, channel) = channel(url).await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default()).await.unwrap();
    for (queue, key) in queues {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare((*queue).into(), options, FieldTable::default()).await.unwrap();
        let options = QueueBindOptions::default();
        channel.queue_bind((*queue).into(), exchange.into(), (*key).into(), options, FieldTable::default()).await.unwrap();
    }
    link.close().await;
}

pub(super) fn through(exchange: &str, key: &str, id: &str) -> Outgoing {
    let exchange = Exchange { name: exchange.into(), kind: None, key: key.into() };
    Outgoing { exchange: Some(Arc::new(exchange)), ..outgoing(key, id, SystemTime::now(), false) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_gives_to_its_queues_and_one_without_a_queue_is_refused_in_words() {
    let Some(url) = rabbit::vhost() else { return };
    make(&url, "media", ExchangeKind::Topic, &[("videos", "media.video"), ("all", "media.#")]).await;
    make(&url, "news", ExchangeKind::Fanout, &[("one", ""), ("two", "")]).await;
    let connected = connect(&url, Some("memory://amqp-exchanges")).unwrap();
    let publish = |out: Outgoing| {
        let broker = connected.broker.clone();
        async move { timeout(SOON, broker.publish(&[out])).await.expect("an answer") }
    };
    for (exchange, key) in [("media", "media.video"), ("media", "media.audio"), ("news", "")] {
        publish(through(exchange, key, key)).await.unwrap();
    }
    let vhost = vhost_of(&url);
    for (queue, count) in [("videos", 1), ("all", 2), ("one", 1), ("two", 1)] {
        until(queue, async || (counts(vhost, queue) == (count, 0)).then_some(())).await;
    }
    assert_eq!(counts(vhost, "media."), (0, 0), "no queue is made of a key");
    let long = "x".repeat(256);
    for (exchange, key, what) in [
        ("media", "other.key", "exchange media has no queue for the routing key `other.key`"),
        ("nothing", "k", "there is no exchange nothing"),
        ("media", &long, "256 bytes long"),
    ] {
        let error = publish(through(exchange, key, "i")).await.unwrap_err();
        assert!(error.kind == ErrorKind::Refused && error.message.contains(what), "{error:?}");
    }
    // Of a batch the others were taken; asked again, none is, and it can be sent one by one.
    let batch = [outgoing("plain", "i", SystemTime::now(), false), through("media", "new.key", "i")];
    for kind in [ErrorKind::Transient, ErrorKind::Refused, ErrorKind::Refused] {
        let error = timeout(SOON, connected.broker.publish(&batch)).await.expect("an answer").unwrap_err();
        assert!(error.kind == kind && error.message.contains("`new.key`"), "{error:?}");
    }
    assert_eq!(counts(vhost, "plain"), (1, 0));
    // One that is gone since it was found is no less said.
    let (link, channel) = channel(&url).await;
    channel.exchange_delete("media".into(), ExchangeDeleteOptions::default()).await.unwrap();
    link.close().await;
    let error = publish(through("media", "media.video", "i")).await.unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.message.contains("there is no exchange media"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_queue_takes_at_the_end_of_one_message_harms_no_other() {
    let Some(url) = rabbit::vhost() else { return };
    make(&url, "media", ExchangeKind::Topic, &[("videos", "media.video")]).await;
    let connected = connect(&url, Some("memory://amqp-exchange-ends")).unwrap();
    let now = SystemTime::now();
    let keys = [("media", "none"), ("media", "media.video"), ("nothing", "k"), ("media", "media.video")];
    connected.broker.publish(&["a", "b", "c", "d"].map(|id| outgoing("q", id, now, false))).await.unwrap();
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
    let mut claimed = Vec::new();
    while claimed.len() < keys.len() {
        timeout(SOON, consumer.claim(9, &mut claimed)).await.expect("they come").unwrap();
    }
    let ends: Vec<Finish> = claimed
        .iter()
        .zip(keys)
        .map(|(claimed, (exchange, key))| Finish {
            receipt: claimed.receipt,
            publish: vec![through(exchange, key, "next")],
            results: Vec::new(),
            part: None,
            end: End::Ack,
        })
        .collect();
    let ended = timeout(SOON, consumer.finish(&ends)).await.expect("an answer").unwrap();
    for (at, word) in [(0, "no queue for the routing key `none`"), (2, "there is no exchange nothing")] {
        let Ended::Impossible { reason } = &ended[at] else { panic!("{ended:?}") };
        assert!(reason.contains(word), "{reason}");
    }
    assert_eq!((&ended[1], &ended[3]), (&Ended::Done, &Ended::Done));
    let vhost = vhost_of(&url);
    until("the others are sent", async || (counts(vhost, "videos") == (2, 0) && counts(vhost, "q") == (0, 2)).then_some(())).await;
}

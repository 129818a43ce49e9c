//! What stands in the server at each step, as a Python worker beside us finds it.

use std::time::Duration;

use longshore_testkit::servers::Redis;

use super::kit::{message, open, raw};
use crate::{
    broker::QueueState,
    connected::Connected,
    message::{End, Exchange, Finish, Outgoing},
    redis::both,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_leaves_what_kombu_would() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker: ours, .. } = both(&server.url()).unwrap();
    ours.publish(&[message("a"), Outgoing { priority: 7, ..message("b") }]).await.unwrap();
    assert!(server.command(&["LRANGE", "q", "0", "-1"]).contains(&String::from_utf8(raw("a")).unwrap()));
    assert_eq!(server.command(&["LLEN", "q\x06\x166"]), ":1\r\n");
    for key in ["_kombu.binding.q", "_kombu.binding_permanent.q"] {
        assert_eq!(server.command(&["SMEMBERS", key]), "*1\r\n$6\r\nq\x06\x16\x06\x16q\r\n");
    }
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(3600)).await;
    let mut claimed = Vec::new();
    while claimed.len() < 2 {
        consumer.claim(9, &mut claimed).await.unwrap();
    }
    let entries = server.command(&["HVALS", "unacked"]);
    assert!(entries.contains(&format!("\r\n[{},\"\",\"q\"]\r\n", String::from_utf8(raw("a")).unwrap())), "{entries}");
    assert_eq!(server.command(&["ZCARD", "unacked_index"]), ":2\r\n");
    assert_eq!(server.command(&["EXISTS", "q", "q\x06\x166"]), ":0\r\n");
    let ends: Vec<Finish> = claimed
        .iter()
        .map(|claimed| Finish { receipt: claimed.receipt, publish: vec![], results: vec![], part: None, end: End::Ack })
        .collect();
    consumer.finish(&ends).await.unwrap();
    assert_eq!(server.command(&["EXISTS", "unacked", "unacked_index"]), ":0\r\n");
    consumer.leave().await.unwrap();
    assert!(!server.command(&["KEYS", "*"]).contains("owner"), "nothing of a worker that left stays behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_cache_that_was_emptied_is_filled_again() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker: ours, .. } = both(&server.url()).unwrap();
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(3600)).await;
    for round in 0..3 {
        server.command(&["SCRIPT", "FLUSH"]);
        ours.publish(&[message(&round.to_string())]).await.unwrap();
        let mut claimed = Vec::new();
        consumer.claim(1, &mut claimed).await.unwrap();
        server.command(&["SCRIPT", "FLUSH"]);
        let end = Finish { receipt: claimed[0].receipt, publish: vec![], results: vec![], part: None, end: End::Ack };
        assert_eq!(consumer.finish(&[end]).await.unwrap(), [crate::Ended::Done]);
    }
}

#[tokio::test]
async fn rates_and_revoked_ids_do_not_stay_for_ever() {
    let Some(server) = Redis::start(&[]) else { return };
    let connected = both(&server.url()).unwrap();
    connected.shared().unwrap().reserve("t", longshore_core::Rate::per_second(10.0), 1).await.unwrap();
    let left: i64 = server.command(&["PTTL", "longshore:rate:t"]).trim().trim_start_matches(':').parse().unwrap();
    assert!((0..=102).contains(&left), "{left} ms");
    connected.shared().unwrap().revoke(&["old".to_owned(), "young".to_owned()]).await.unwrap();
    let left: i64 = server.command(&["TTL", "longshore:revoked"]).trim().trim_start_matches(':').parse().unwrap();
    assert!((10_000..=10_800).contains(&left), "{left} s");
    server.command(&["ZINCRBY", "longshore:revoked", "-10801000000", "old"]);
    assert_eq!(connected.shared().unwrap().revoked().await.unwrap(), ["young"]);
    connected.shared().unwrap().revoke(&["next".to_owned()]).await.unwrap();
    assert_eq!(server.command(&["ZCARD", "longshore:revoked"]), ":2\r\n");
}

#[tokio::test]
async fn a_queues_oldest_message_says_when_it_was_sent_or_is_known_since_somebody_looked() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker, .. } = both(&server.url()).unwrap();
    let state = async || -> QueueState { broker.queues(&["q".into()]).await.unwrap().remove(0) };
    assert_eq!(state().await.oldest, None);
    // Ours: a tag with a time in it, of a minute ago.
    let sent = std::time::SystemTime::now() - Duration::from_secs(60);
    let millis = u64::try_from(sent.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let tag = uuid::Builder::from_unix_timestamp_millis(millis, &[7; 10]).into_uuid().to_string();
    let tagged = |id: &str, tag: &str| {
        let raw = String::from_utf8(raw(id)).unwrap().replace(&format!("d-{id}"), tag).into_bytes();
        Outgoing { raw, ..message(id) }
    };
    broker.publish(&[tagged("a", &tag)]).await.unwrap();
    let ours = state().await;
    let age = ours.oldest.unwrap();
    assert!(age >= Duration::from_secs(60) && age < Duration::from_secs(70), "{age:?}");
    assert!(!ours.oldest_at_least);
    // Celery's, of a random tag, in a list of its own: what is known is since when it lies there.
    broker.purge("q").await.unwrap();
    broker.publish(&[Outgoing { priority: 6, ..tagged("b", "677a26e5-fb2f-4634-8a24-e432329fb97b") }]).await.unwrap();
    let theirs = state().await;
    assert!(theirs.oldest_at_least && theirs.oldest.unwrap() < Duration::from_secs(5), "{theirs:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let later = state().await;
    assert!(later.oldest.unwrap() >= Duration::from_millis(300), "{later:?}");
    let left: i64 = server.command(&["TTL", "longshore:next:q\x06\x166"]).trim().trim_start_matches(':').parse().unwrap();
    assert!((86_000..=86_400).contains(&left), "{left} s");
    // The next one begins anew.
    broker.purge("q").await.unwrap();
    broker.publish(&[Outgoing { priority: 6, ..tagged("c", "00000000-fb2f-4634-8a24-e432329fb97b") }]).await.unwrap();
    assert!(state().await.oldest.unwrap() < Duration::from_millis(300));
}

#[tokio::test]
async fn dead_letters_that_are_dropped_are_counted_until_there_are_none() {
    let Some(server) = Redis::start(&[]) else { return };
    let connected = both(&server.url()).unwrap();
    let broker = connected.broker.clone();
    let consumer = open(&*broker, Duration::from_secs(5), Duration::from_secs(3600)).await;
    broker.publish(&[message("a"), message("b")]).await.unwrap();
    let mut claimed = Vec::new();
    while claimed.len() < 2 {
        consumer.claim(9, &mut claimed).await.unwrap();
    }
    // One fewer than are kept.
    let full: Vec<String> = (0..9_999).map(|number| format!("old {number}")).collect();
    let fill: Vec<&str> = ["LPUSH", "longshore:dead:q"].into_iter().chain(full.iter().map(String::as_str)).collect();
    server.command(&fill);
    let states = async || -> (u64, u64) {
        let state = broker.queues(&["q".into()]).await.unwrap().remove(0);
        (state.dead, state.dead_dropped)
    };
    for (claimed, counted) in claimed.iter().zip([(10_000, 0), (10_000, 1)]) {
        let end = End::Dead { reason: "bad".to_owned() };
        consumer.finish(&[Finish { receipt: claimed.receipt, publish: vec![], results: vec![], part: None, end }]).await.unwrap();
        assert_eq!(states().await, counted);
    }
    assert_eq!(server.command(&["LINDEX", "longshore:dead:q", "-1"]), "$5\r\nold 1\r\n", "the oldest has gone");
    let letters = connected.letters().unwrap().dead(Some("q")).await.unwrap();
    server.command(&["LTRIM", "longshore:dead:q", "0", "1"]);
    assert_eq!(connected.letters().unwrap().bury(&letters, false).await.unwrap(), 2);
    assert_eq!(states().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_is_what_celerys_workers_have_bound_to_it() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker: ours, .. } = both(&server.url()).unwrap();
    for member in ["media.video\x06\x16^media\\.video$\x06\x16videos", "media.#\x06\x16^media\\..*?$\x06\x16all", "k\x06\x16\x06\x16ks"] {
        server.command(&["SADD", "_kombu.binding.media", member]);
    }
    let through = |exchange: &str, kind: Option<&str>, key: &str| {
        let exchange = Exchange { name: exchange.into(), kind: kind.map(Into::into), key: key.into() };
        Outgoing { queue: key.into(), exchange: Some(exchange.into()), ..message(key) }
    };
    for (key, queues) in [("media.video", [1, 1, 0]), ("media.audio", [0, 1, 0]), ("k", [0, 0, 1])] {
        ours.publish(&[through("media", None, key)]).await.unwrap();
        for (queue, count) in ["videos", "all", "ks"].into_iter().zip(queues) {
            assert_eq!(server.command(&["LLEN", queue]), format!(":{count}\r\n"), "{key} {queue}");
            server.command(&["DEL", queue]);
        }
    }
    for (exchange, kind, key, word) in [
        ("media", None, "x.y", "exchange media has no queue for the routing key `x.y`"),
        ("none", Some("topic"), "k", "exchange none has no queue"),
        ("media", Some("fanout"), "", "fanout"),
    ] {
        let error = ours.publish(&[through(exchange, kind, key)]).await.unwrap_err();
        assert!(error.message.contains(word), "{error}");
    }
    // At the end of a message it is refused of that one alone.
    ours.publish(&[message("a"), message("b")]).await.unwrap();
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(3600)).await;
    let mut claimed = Vec::new();
    while claimed.len() < 2 {
        consumer.claim(9, &mut claimed).await.unwrap();
    }
    let end = |at: usize, key| Finish {
        receipt: claimed[at].receipt,
        publish: vec![through("media", None, key)],
        results: vec![],
        part: None,
        end: End::Ack,
    };
    let ended = consumer.finish(&[end(0, "x.y"), end(1, "media.video")]).await.unwrap();
    assert!(matches!(&ended[0], crate::Ended::Impossible { reason } if reason.contains("x.y")), "{ended:?}");
    assert_eq!((&ended[1], server.command(&["LLEN", "videos"])), (&crate::Ended::Done, ":1\r\n".to_owned()));
}

//! Messages of tasks that have ended: kept with their results, and never too many.

use std::{sync::Arc, time::Duration};

use longshore_testkit::servers::Redis;

use super::kit::{message, open, whole};
use crate::{
    broker::Consumer,
    connected::Connected,
    message::{Ended, Finish},
    redis::both,
    results::{Key, Stored},
};

fn stored(id: &str, size: usize) -> Stored {
    Stored {
        key: Key::Message(id.to_owned()),
        doc: vec![b'x'; size],
        expires: Some(Duration::from_secs(600)),
        keep_success: false,
        reply_to: None,
    }
}

fn key(id: &str) -> Key {
    Key::Message(id.to_owned())
}

async fn kept(connected: &Connected, ids: &[&str]) -> String {
    let keys: Vec<Key> = ids.iter().map(|id| key(id)).collect();
    let docs = connected.results.get(&keys).await.unwrap();
    ids.iter().zip(docs).filter(|(_, doc)| doc.is_some()).map(|(id, _)| *id).collect()
}

#[tokio::test]
async fn of_messages_that_are_kept_the_oldest_go_beyond_a_number_and_a_size() {
    let Some(server) = Redis::start(&[]) else { return };
    const MIB: usize = 1 << 20;
    for (query, batches, left) in [
        ("", &[("a", 1), ("b", 1), ("c", 1)][..], "abc"),
        ("?kept_messages=2", &[("a", 1), ("b", 1), ("c", 1)], "bc"),
        ("?kept_messages=2", &[("a", 1), ("b", 1), ("a", 1), ("a", 1)], "ab"),
        ("?kept_messages=0", &[("a", 1)], ""),
        // Too large by itself: what is there stays.
        ("", &[("a", 1), ("b", MIB + 1)], "a"),
    ] {
        server.command(&["FLUSHALL"]);
        let connected = both(&format!("{}{query}", server.url())).unwrap();
        for (id, size) in batches {
            connected.results.store(&[stored(id, *size)]).await.unwrap();
        }
        assert_eq!(kept(&connected, &["a", "b", "c"]).await, left, "{query} {batches:?}");
    }
    // 64 MiB of all: the first of 65 has gone, and the sum is right when one is kept anew.
    server.command(&["FLUSHALL"]);
    let connected = both(&server.url()).unwrap();
    for number in (0..65).chain([64, 64]) {
        connected.results.store(&[stored(&format!("m{number}"), MIB)]).await.unwrap();
    }
    assert_eq!(kept(&connected, &["m0", "m1", "m64"]).await, "m1m64");
    assert!(server.command(&["HGET", "longshore:kept-sizes", ""]).contains(&(64 * MIB).to_string()));
    // They go with their results.
    let life: u64 = server.command(&["TTL", "longshore:message:m1"]).trim().trim_start_matches(':').parse().unwrap();
    assert!((590..=600).contains(&life), "{life}");
}

#[tokio::test]
async fn a_message_is_kept_in_the_step_that_ends_it_and_what_hinders_that_hinders_no_end() {
    let Some(server) = Redis::start(&[]) else { return };
    let connected = both(&server.url()).unwrap();
    let consumer: Arc<dyn Consumer> = open(&*connected.broker, Duration::from_secs(10), Duration::from_secs(60)).await;
    for (id, spoil, left) in [("a", &["PING"][..], "a"), ("b", &["SET", "longshore:kept", "no set"], "")] {
        server.command(spoil);
        connected.broker.publish(&[message(id)]).await.unwrap();
        let mut claimed = Vec::new();
        while claimed.is_empty() {
            consumer.claim(1, &mut claimed).await.unwrap();
        }
        let mut finish = Finish { part: None, ..whole(&claimed[0]) };
        finish.results.push(stored(id, 10));
        assert_eq!(consumer.finish(&[finish]).await.unwrap(), [Ended::Done]);
        let _ = server.command(&["DEL", "longshore:kept"]);
        assert_eq!(kept(&connected, &[id]).await, left);
        assert!(connected.results.get(&[Key::Task(id.to_owned())]).await.unwrap()[0].is_some());
    }
    assert!(server.command(&["ZCARD", "unacked_index"]).trim().ends_with('0'));
}

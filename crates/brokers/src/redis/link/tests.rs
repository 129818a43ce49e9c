//! Connections that end while nobody looks, and answers that do not count.

use std::time::Duration;

use longshore_testkit::servers::Redis;
use tokio::time::timeout;

use super::*;

async fn a_way_that_nobody_looks_at(link: &Link) {
    // Whether answers come soon enough to be looked for is the machine's affair.
    for _ in 0..10_000 {
        link.one(&[b"PING"], Wait::Patience).await.unwrap();
        if locked(&link.shared.wire).as_ref().is_some_and(|wire| wire.connection.is_hidden()) {
            return;
        }
    }
    panic!("no answer in 10 000 was looked for");
}

fn link(server: &Redis) -> Link {
    Link::new(Arc::new(Config::parse(&server.url()).unwrap()), Arc::new(|_| {}))
}

#[tokio::test]
async fn a_connection_that_ended_while_nobody_looked_is_replaced_before_anything_is_said_on_it() {
    let Some(server) = Redis::start(&[]) else { return };
    let link = link(&server);
    for round in 1..=5 {
        a_way_that_nobody_looks_at(&link).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let pushed = link.call(Pack::of(&[b"RPUSH", b"list", b"x"]), Wait::Patience).await;
        assert_eq!(pushed.unwrap(), [Reply::Int(round)], "not lost, and once");
    }
}

#[tokio::test]
async fn a_connection_that_ends_while_nobody_looks_is_soon_replaced() {
    let Some(server) = Redis::start(&[]) else { return };
    let link = link(&server);
    a_way_that_nobody_looks_at(&link).await;
    let before = link.generation();
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let replaced = async {
        while link.generation() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), replaced).await.expect("nobody says anything, and it is replaced all the same");
}

#[tokio::test]
async fn what_is_asked_aside_and_refused_does_not_repeat_what_was_done() {
    let Some(server) = Redis::start(&[]) else { return };
    let link = link(&server);
    let mut pack = Pack::of(&[b"RPUSH", b"list", b"x"]);
    // A refusal that would be tried again if it counted.
    pack.aside(&[b"EVAL", b"return redis.error_reply('BUSY not now')", b"0"]);
    let replies = link.call(pack, Wait::Patience).await.unwrap();
    assert_eq!(replies[0], Reply::Int(1));
    assert!(replies[1].error().unwrap().starts_with("BUSY"), "{replies:?}");
    assert_eq!(server.command(&["LLEN", "list"]), ":1\r\n");
}

#[tokio::test]
async fn what_changes_behind_the_back_of_who_asked_is_told_once() {
    let Some(server) = Redis::start(&[]) else { return };
    let link = Link::tracking(Arc::new(Config::parse(&server.url()).unwrap()), Arc::new(|_| {}));
    let mut pack = Pack::of(&[b"CLIENT", b"CACHING", b"YES"]);
    pack.add(&[b"LLEN", b"list"]);
    pack.add(&[b"LLEN", b"other"]);
    link.call(pack, Wait::Patience).await.unwrap();
    assert!(link.changes().all, "a new connection knows nothing");
    server.command(&["RPUSH", "other", "x"]);
    server.command(&["RPUSH", "list", "x"]);
    timeout(Duration::from_secs(5), link.changed()).await.unwrap();
    let changed = link.changes();
    assert!(!changed.all && changed.keys.len() == 1 && changed.keys.contains(&b"list"[..]), "{changed:?}");
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    timeout(Duration::from_secs(5), link.changed()).await.unwrap();
    assert!(link.changes().all, "so does the one that replaces it");
}

#[tokio::test]
async fn what_a_server_may_not_do_any_more_is_tried_again_in_time_and_not_at_once() {
    let Some(server) = Redis::start(&[]) else { return };
    let config = Config::parse(&format!("{}?patience=1", server.url())).unwrap();
    let link = Link::new(Arc::new(config), Arc::new(|_| {}));
    link.one(&[b"PING"], Wait::Patience).await.unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let mut pack = Pack::of(&[b"RPUSH", b"list", b"x"]);
    pack.aside(&[b"LLEN", b"list"]);
    let refused = link.call(pack, Wait::Patience).await.unwrap_err();
    assert!(matches!(&refused, Fail::Unable(text) if text.contains("READONLY")), "{refused:?}");
    assert!(link.generation() < 30, "connected {} times in a second", link.generation());
}

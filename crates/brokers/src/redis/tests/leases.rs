//! Who holds what, and for how long: beside Celery's own workers.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_testkit::servers::Redis;

use super::kit::{id, message, open, raw};
use crate::redis::broker;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// What a Python worker's sweep would take: `ZREVRANGEBYSCORE unacked_index <now - visibility
/// timeout> 0`.
fn overdue(server: &Redis, visibility_timeout: f64) -> String {
    server.command(&["ZREVRANGEBYSCORE", "unacked_index", &(now() - visibility_timeout).to_string(), "0"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_long_past_the_visibility_timeout_is_not_taken_by_celerys_sweep() {
    let Some(server) = Redis::start(&[]) else { return };
    let ours = broker(&server.url()).unwrap();
    let consumer = open(&*ours, Duration::from_millis(600), Duration::from_millis(1500)).await;
    ours.publish(&[message("a"), message("b")]).await.unwrap();
    let mut claimed = Vec::new();
    while claimed.len() < 2 {
        consumer.claim(2, &mut claimed).await.unwrap();
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(overdue(&server, 1.5), "*0\r\n", "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(consumer);
    // The sign of its life is what kept them.
    tokio::time::sleep(Duration::from_millis(2300)).await;
    assert!(overdue(&server, 1.5).starts_with("*2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_celery_worker_left_comes_back_after_the_visibility_timeout() {
    let Some(server) = Redis::start(&[]) else { return };
    let ours = broker(&server.url()).unwrap();
    let text = String::from_utf8(raw("left")).unwrap();
    let entry = |exchange: &str, key: &str| format!("[{text}, \"{exchange}\", \"{key}\"]");
    server.command(&["SADD", "_kombu.binding.ex", "rk\x06\x16\x06\x16q"]);
    for (tag, entry, age) in [("t-1", entry("", "q"), 5.0), ("t-2", entry("ex", "rk"), 6.0), ("t-3", entry("", "q"), 0.0)] {
        server.command(&["HSET", "unacked", tag, &entry]);
        server.command(&["ZADD", "unacked_index", &(now() - age).to_string(), tag]);
    }
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(4)).await;
    let mut claimed = Vec::new();
    while claimed.len() < 2 {
        consumer.claim(5, &mut claimed).await.unwrap();
    }
    assert!(claimed.iter().all(|claimed| id(claimed) == "left" && claimed.redelivered && claimed.crashes == 0 && &*claimed.queue == "q"));
    assert_eq!(server.command(&["HKEYS", "unacked"]).matches("t-").count(), 1, "the young one stays where it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_of_one_node_name_are_two() {
    let Some(server) = Redis::start(&[]) else { return };
    let ours = broker(&server.url()).unwrap();
    let (dies, lives) = (
        open(&*ours, Duration::from_secs(1), Duration::from_secs(3600)).await,
        open(&*ours, Duration::from_secs(1), Duration::from_secs(3600)).await,
    );
    ours.publish(&[message("a")]).await.unwrap();
    let mut claimed = Vec::new();
    dies.claim(1, &mut claimed).await.unwrap();
    ours.publish(&[message("b")]).await.unwrap();
    lives.claim(1, &mut claimed).await.unwrap();
    drop(dies);
    let died = Instant::now();
    lives.claim(1, &mut claimed).await.unwrap();
    assert_eq!(claimed.iter().map(id).collect::<Vec<_>>(), ["a", "b", "a"]);
    assert!(died.elapsed() < Duration::from_secs(4), "{:?}", died.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_forgot_was_finished_or_rescued_is_not_kept_for_ever() {
    tokio::join!(is_not_kept(false), is_not_kept(true));
}

async fn is_not_kept(rescued: bool) {
    let Some(server) = Redis::start(&[]) else { return };
    let ours = broker(&server.url()).unwrap();
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(3600)).await;
    ours.publish(&[message("a")]).await.unwrap();
    let mut claimed = Vec::new();
    consumer.claim(1, &mut claimed).await.unwrap();
    let tags = server.command(&["HKEYS", "unacked"]);
    let tag = tags.lines().find(|line| line.ends_with(":1")).unwrap().to_owned();
    if rescued {
        server.command(&["HDEL", "unacked", &tag]);
        server.command(&["ZREM", "unacked_index", &tag]);
        assert_eq!(consumer.load(&[claimed[0].receipt]).await.unwrap(), [None]);
    } else {
        let end = crate::Finish { publish: vec![], results: vec![], part: None, ..super::kit::whole(&claimed[0]) };
        consumer.finish(&[end]).await.unwrap();
    }
    // As after a restart that lost the last second.
    server.command(&["HSET", "unacked", &tag, &format!("[{},\"\",\"q\"]", String::from_utf8(raw("a")).unwrap())]);
    server.command(&["ZADD", "unacked_index", &now().to_string(), &tag]);
    let again = tokio::time::timeout(Duration::from_secs(60), consumer.claim(1, &mut claimed)).await;
    assert!(again.is_ok(), "it is kept, rescued: {rescued}");
    assert_eq!((id(&claimed[1]), claimed[1].crashes), ("a".to_owned(), 0));
}

//! What is refused of one message, or forbidden for a while: nobody else is harmed, and nothing is
//! done twice.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore_testkit::servers::Redis;

use super::kit::{id, message, open, raw, whole};
use crate::{
    connected::Connected,
    message::{End, Ended, Finish, Outgoing},
    redis::both_with,
};

type Said = Arc<Mutex<Vec<String>>>;

fn said() -> (Said, crate::Notice) {
    let said = Said::default();
    let noted = said.clone();
    (said, Arc::new(move |news: &crate::News| noted.lock().unwrap().push(news.to_string())))
}

async fn until(what: &str, said: &Said, mut is: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !is() {
        let told = said.lock().unwrap().clone();
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {told:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_script_may_not_do_to_its_end_it_has_not_begun() {
    for (withdrawn, end) in [
        (&["-set", "-setex"][..], End::Ack),
        (&["-publish"], End::Ack),
        (&["resetchannels"], End::Ack),
        (&["-sadd"], End::Ack),
        (&["-hdel"], End::Ack),
        (&["-zrem"], End::Ack),
        (&["-set", "-setex"], End::Back { front: true }),
        (&["-hdel"], End::Back { front: true }),
        (&["-hdel"], End::Back { front: false }),
        (&["-hset"], End::Keep),
    ] {
        let Some(server) = Redis::start(&[]) else { return };
        let (said, notice) = said();
        let Connected { broker: ours, .. } = both_with(&server.url(), notice).unwrap();
        let consumer = open(&*ours, Duration::from_secs(60), Duration::from_secs(3600)).await;
        ours.publish(&[message("a"), Outgoing { queue: "next".into(), ..message("before") }]).await.unwrap();
        let mut claimed = Vec::new();
        consumer.claim(1, &mut claimed).await.unwrap();
        let finish = Finish { end: end.clone(), ..whole(&claimed[0]) };
        let changed: Vec<&str> = ["ACL", "SETUSER", "default"].iter().chain(withdrawn).copied().collect();
        assert_eq!(server.command(&changed), "+OK\r\n");
        let ending = tokio::spawn(async move {
            let ended = consumer.finish(&[finish]).await;
            (consumer, ended)
        });
        let what = format!("{withdrawn:?} {end:?}");
        until(&what, &said, || said.lock().unwrap().iter().any(|text| text.contains("ACL SETUSER"))).await;
        for _ in 0..3 {
            assert_eq!(server.command(&["LLEN", "next"]), ":1\r\n", "{what}");
            assert_eq!(server.command(&["LLEN", "q"]), ":0\r\n", "{what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server.command(&["ACL", "SETUSER", "default", "+@all", "allchannels"]);
        let (_consumer, ended) = tokio::time::timeout(Duration::from_secs(20), ending).await.expect(&what).unwrap();
        assert_eq!(ended.unwrap(), [Ended::Done], "{what}");
        let next = server.command(&["LRANGE", "next", "0", "-1"]);
        assert!(next.starts_with("*2") && next.find("next-a") < next.find("before"), "{what}: {next}");
        assert_eq!(server.command(&["LLEN", "q"]) == ":1\r\n", matches!(end, End::Back { .. }), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_kind_keeps_its_own_messages_and_no_others_from_being_put_back() {
    let Some(server) = Redis::start(&[]) else { return };
    let (said, notice) = said();
    let Connected { broker: ours, .. } = both_with(&server.url(), notice).unwrap();
    // Two dead workers, of whose messages each has one for two queues and one for one.
    server.command(&["SADD", "_kombu.binding.ex", "rk\x06\x16\x06\x16good", "rk\x06\x16\x06\x16q"]);
    for boot in ["dead1", "dead2"] {
        for (number, exchange, key) in [("1", "", "good"), ("2", "ex", "rk"), ("3", "", "good"), ("4", "", "q")] {
            let tag = format!("{boot}:{number}");
            let text = String::from_utf8(raw(&tag)).unwrap();
            server.command(&["HSET", "unacked", &tag, &format!("[{text}, \"{exchange}\", \"{key}\"]")]);
            server.command(&["ZADD", "unacked_index", "9999999999", &tag]);
        }
        server.command(&["SADD", "longshore:owners", boot]);
        server.command(&["SET", &format!("longshore:accused:{boot}"), "4"]);
    }
    server.command(&["SET", "q", "x"]);
    let consumer = open(&*ours, Duration::from_secs(1), Duration::from_secs(3600)).await;
    let length = |key: &str| server.command(&["LLEN", key]);
    until("the others", &said, || length("good") == ":4\r\n").await;
    // Several rounds of the watcher.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(length("good"), ":4\r\n");
    assert_eq!(server.command(&["HLEN", "unacked"]), ":4\r\n");
    let told = said.lock().unwrap().iter().filter(|text| text.contains("WRONGTYPE")).count();
    assert!((1..=2).contains(&told), "{:?}", said.lock().unwrap());
    server.command(&["DEL", "q"]);
    until("the rest", &said, || server.command(&["HLEN", "unacked"]) == ":0\r\n").await;
    assert_eq!((length("good"), length("q")), (":6\r\n".to_owned(), ":4\r\n".to_owned()));
    until("the owners", &said, || server.command(&["SCARD", "longshore:owners"]) == ":1\r\n").await;
    drop(consumer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_kind_fails_no_stop_and_what_was_held_comes_back_when_it_is_gone() {
    let Some(server) = Redis::start(&[]) else { return };
    let (said, notice) = said();
    let Connected { broker: ours, .. } = both_with(&server.url(), notice).unwrap();
    let stops = open(&*ours, Duration::from_secs(1), Duration::from_secs(3600)).await;
    let stays = open(&*ours, Duration::from_secs(1), Duration::from_secs(3600)).await;
    stays.serve("q", false);
    ours.publish(&[message("a")]).await.unwrap();
    let mut claimed = Vec::new();
    stops.claim(1, &mut claimed).await.unwrap();
    server.command(&["SET", "q", "x"]);
    stops.leave().await.unwrap();
    assert!(said.lock().unwrap().iter().any(|text| text.contains("WRONGTYPE")), "{:?}", said.lock().unwrap());
    server.command(&["DEL", "q"]);
    stays.serve("q", true);
    let again = stays.claim(1, &mut claimed);
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("it comes back").unwrap();
    assert_eq!(id(&claimed[1]), "a");
}

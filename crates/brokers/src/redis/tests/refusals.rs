//! What is refused of one message, or forbidden for a while: nobody else is harmed, and nothing is
//! done twice.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore_testkit::servers::Redis;

use super::kit::{message, open, whole};
use crate::{
    broker::{End, Ended, Finish, Outgoing},
    redis::both_with,
};

type Said = Arc<Mutex<Vec<String>>>;

fn said() -> (Said, crate::redis::Notice) {
    let said = Said::default();
    let noted = said.clone();
    (said, Arc::new(move |text: &str| noted.lock().unwrap().push(text.to_owned())))
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
        let (ours, _) = both_with(&server.url(), notice).unwrap();
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

//! A user who may do what `ACL.md` says and no more; and what others are told.

use std::time::Duration;

use longshore_core::ErrorKind;
use longshore_testkit::servers::Redis;

use super::kit::open;
use crate::{
    conformance::Subject,
    redis::{both, broker},
};

/// The words of the command in `ACL.md`, for the queues of the suite.
fn allowed() -> Vec<String> {
    let text = include_str!("../ACL.md");
    let command = text.split("```").nth(1).unwrap();
    let words = command.split_whitespace().filter(|word| *word != "\\").skip(2).map(|word| word.replace("PASSWORD", "S3CRET"));
    let mut words: Vec<String> = words.filter(|word| word != "~QUEUE*").collect();
    words.extend(["q", "a", "b", "c", "from", "to", "other", "next", "unknown"].map(|queue| format!("~{queue}*")));
    words.extend(["&/0.celeryev/*", "&/0.celery.pidbox/*", "&/0.celeryev/worker.*"].map(str::to_owned));
    words
}

fn server() -> Option<Redis> {
    let server = Redis::start(&[])?;
    let mut command = vec!["ACL".to_owned(), "SETUSER".to_owned()];
    command.extend(allowed());
    let answer = server.command(&command.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(answer, "+OK\r\n");
    Some(server)
}

fn url(server: &Redis) -> String {
    format!("redis://longshore:S3CRET@127.0.0.1:{}/0", server.port())
}

crate::conformance!(
    least_privilege,
    match server() {
        Some(server) => {
            let url = url(&server);
            Subject {
                connect: Box::new(move || both(&url).expect("a good URL")),
                keep: Box::new(server),
                lacks: crate::conformance::Lacks::default(),
            }
        }
        None => return,
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_what_and_where_and_nobody_is_told_the_password() {
    let Some(server) = server() else { return };
    let wrong = broker(&format!("redis://longshore:WR0NG@127.0.0.1:{}/0", server.port())).unwrap().ping().await.unwrap_err();
    assert_eq!(wrong.kind, ErrorKind::Refused);
    assert!(wrong.message.contains("WRONGPASS") && wrong.message.contains("URL") && !wrong.message.contains("WR0NG"), "{wrong}");
    let ours = broker(&url(&server)).unwrap();
    let denied = both(&url(&server)).unwrap().inspect().unwrap().peek("secret", 1).await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Refused);
    assert!(denied.message.contains("ACL SETUSER") && denied.message.contains("secret"), "{denied}");
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(60)).await;
    server.command(&["ACL", "SETUSER", "longshore", "-ltrim"]);
    ours.publish(&[super::kit::message("a")]).await.unwrap();
    let mut claimed = Vec::new();
    let denied = tokio::time::timeout(Duration::from_secs(5), consumer.claim(1, &mut claimed)).await.unwrap().unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Fatal);
    assert!(denied.message.contains("claim") && denied.message.contains("ACL SETUSER"), "{denied}");
    assert_eq!(server.command(&["LLEN", "q"]), ":1\r\n", "what cannot be claimed stays where it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_claim_and_not_count_gets_what_there_is_and_is_told_what_is_missing() {
    let Some(server) = server() else { return };
    let ours = broker(&url(&server)).unwrap();
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(60)).await;
    ours.publish(&[super::kit::message("a"), super::kit::message("b")]).await.unwrap();
    server.command(&["ACL", "SETUSER", "longshore", "-llen"]);
    let mut claimed = Vec::new();
    consumer.claim(10, &mut claimed).await.unwrap();
    assert_eq!(claimed.len(), 2, "it was taken, so it is ours");
    let denied = tokio::time::timeout(Duration::from_secs(5), consumer.claim(1, &mut claimed)).await.unwrap().unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Fatal);
    assert!(denied.message.contains("llen") && denied.message.contains("ACL SETUSER"), "{denied}");
}

//! Results as messages, and the bus, on a real server.

use std::time::Duration;

use longshore_core::ErrorKind;
use longshore_testkit::rabbit;
use tokio::time::timeout;

use crate::{
    conformance::{Lacks, Subject},
    json,
    results::{Key, Stored, Watch},
};

/// Results that are sent to whoever asked.
fn sent(url: String) -> Subject {
    Subject { connect: Box::new(move || crate::connect(&url, None).expect("it is there")), keep: Box::new(()), lacks: Lacks::default() }
}

crate::conformance!(
    bus_alone,
    match rabbit::vhost() {
        Some(url) => sent(url),
        None => return,
    },
    bus
);

fn state(id: &str, state: &str, reply_to: Option<&str>) -> Stored {
    let doc = format!(r#"{{"status": "{state}", "task_id": "{id}"}}"#).into_bytes();
    Stored { key: Key::Task(id.to_owned()), doc, expires: None, keep_success: true, reply_to: reply_to.map(str::to_owned) }
}

async fn next(watch: &mut Watch) -> String {
    let (id, doc) = timeout(SOON, watch.results.recv()).await.expect("a result comes").expect("the watch goes on");
    format!("{id} {}", json::text(&doc, &["status"]).unwrap_or_default())
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_result_reaches_whoever_asked_and_nobody_else() {
    let Some(url) = rabbit::vhost() else { return };
    let [client, other, worker] = [(); 3].map(|()| crate::connect(&url, Some("rpc://")).expect("it is there"));
    client.results.listen().await.expect("it listens");
    let reply_to = client.results.reply_queue().expect("it has one");
    let ids = ["a", "b"].map(str::to_owned);
    let mut watch = client.results.watch(&ids).await.expect("it watches");
    let mut elsewhere = other.results.watch(&ids).await.expect("it watches");
    let results = [
        state("a", "STARTED", Some(reply_to)),
        state("a", "SUCCESS", Some(reply_to)),
        state("unasked", "SUCCESS", None),
        state("gone", "SUCCESS", Some("nobody")),
        state("b", "FAILURE", Some(reply_to)),
    ];
    worker.results.store(&results).await.expect("it is sent, also to who is gone");
    assert_eq!([next(&mut watch).await, next(&mut watch).await, next(&mut watch).await], ["a STARTED", "a SUCCESS", "b FAILURE"]);
    let keys = ["a", "unasked"].map(|id| Key::Task(id.to_owned()));
    let seen = client.results.get(&keys).await.expect("it answers");
    assert!(seen[0].as_deref().is_some_and(json::is_success) && seen[1].is_none(), "{seen:?}");
    assert_eq!(worker.results.get(&keys).await.expect("it answers"), [None, None]);
    assert!(elsewhere.results.try_recv().is_err());
    // What came before the next look is seen by it.
    let again = client.results.watch(&["b".to_owned(), "c".to_owned()]).await.expect("it watches");
    assert!(again.stored[0].is_some() && again.stored[1].is_none());
    assert_eq!(client.results.forget(&keys).await.expect("it forgets"), 1);
}

#[tokio::test]
async fn results_that_are_sent_while_the_connection_is_away_arrive() {
    let Some(url) = rabbit::vhost() else { return };
    let [client, worker] = [(); 2].map(|()| crate::connect(&url, None).expect("it is there"));
    let (node, vhost) = (rabbit::shared().expect("it runs"), url.rsplit('/').next().expect("a name"));
    let ids: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let mut watch = client.results.watch(&ids).await.expect("it watches");
    let reply_to = client.results.reply_queue().expect("it has one").to_owned();
    for id in &ids {
        if id.ends_with('5') {
            // None is listed while the one before is still being replaced.
            assert!((0..100).any(|_| node.close_connections(vhost) > 0));
        }
        // Whether it was sent is unknown when the connection went meanwhile: it is sent again.
        while worker.results.store(&[state(id, "SUCCESS", Some(&reply_to))]).await.is_err() {}
    }
    let mut came = std::collections::BTreeSet::new();
    while came.len() < ids.len() {
        came.insert(next(&mut watch).await);
    }
    client.broker.close().await;
    assert!(node.queues(vhost).iter().all(|(name, ..)| *name != reply_to), "the queue goes with its client");
}

#[tokio::test]
async fn what_only_a_store_can_do_is_refused_with_a_way_out() {
    let Some(url) = rabbit::vhost() else { return };
    let rpc = crate::connect(&url, None).expect("it is there");
    let group = Stored { key: Key::Group("g".to_owned()), ..state("g", "SUCCESS", Some("q")) };
    let errors = [
        rpc.results.store(&[group]).await.err(),
        rpc.results.chord_start("g", 2, SOON).await.err(),
        rpc.results.page(None).await.err(),
        crate::connect("memory://not-rabbit", Some("rpc://")).err(),
    ];
    for error in errors {
        let error = error.expect("it is refused");
        assert_eq!(error.kind, ErrorKind::Refused, "{error}");
        assert!(error.message.contains("; "), "{error}");
    }
}

#[tokio::test]
async fn who_listens_hears_again_after_its_connection_was_lost() {
    let Some(url) = rabbit::vhost() else { return };
    let [listens, tells] = [(); 2].map(|()| crate::connect(&url, None).expect("it is there"));
    let (node, vhost) = (rabbit::shared().expect("it runs"), url.rsplit('/').next().expect("a name"));
    let mut events = listens.bus().expect("it has one").subscribe("celeryev", "worker.#").await.expect("it listens");
    assert!(node.close_connections(vhost) > 0);
    // An exchange that somebody deletes is made again, too.
    tells.bus().expect("it has one").broadcast("celeryev", "worker.online", b"0").await.expect("it is sent");
    node.eval(&format!(r#"rabbit_exchange:delete(rabbit_misc:r(<<"{vhost}">>, exchange, <<"celeryev">>), false, <<"test">>), ok."#));
    assert!(node.close_connections(vhost) > 0);
    let heard = async {
        loop {
            let _ = tells.bus().expect("it has one").broadcast("celeryev", "worker.online", b"1").await;
            if let Ok(Some(message)) = timeout(Duration::from_millis(50), events.messages.recv()).await {
                break message;
            }
        }
    };
    let (key, _) = timeout(SOON, heard).await.expect("it hears again");
    assert_eq!(key, "worker.online");
    drop(events);
    let gone = async {
        while !node.queues(vhost).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, gone).await.expect("its queue goes with it");
}

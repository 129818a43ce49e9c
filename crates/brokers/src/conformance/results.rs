//! Documents, and waiting for them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Subject, kit::SOON};
use crate::results::{Key, Stored, Watch};

fn task(id: &str) -> Key {
    Key::Task(id.to_owned())
}

fn stored(key: Key, doc: &str) -> Stored {
    Stored { key, doc: doc.as_bytes().to_vec(), expires: Some(Duration::from_secs(3600)), keep_success: false, reply_to: None }
}

/// In the order asked for.
pub async fn a_document_is_stored_read_and_forgotten(subject: Arc<Subject>) {
    let (writes, reads) = (subject.results(), subject.results());
    let (group, message) = (Key::Group("a".to_owned()), Key::Message("a".to_owned()));
    writes
        .store(&[stored(task("a"), "1"), stored(task("b"), "2"), stored(group.clone(), "3"), stored(message.clone(), "5")])
        .await
        .expect("it is stored");
    writes.store(&[stored(task("b"), "4")]).await.expect("it is stored");
    writes.store(&[]).await.expect("nothing to do");
    let keys = [group.clone(), task("none"), task("b"), task("a")];
    let docs = reads.get(&keys).await.expect("it answers");
    assert_eq!(docs, [Some(b"3".to_vec()), None, Some(b"4".to_vec()), Some(b"1".to_vec())]);
    assert_eq!(reads.get(std::slice::from_ref(&message)).await.expect("it answers"), [Some(b"5".to_vec())]);
    assert_eq!(reads.forget(&[task("b"), task("none"), group]).await.expect("it forgets"), 2);
    assert_eq!(writes.get(&keys).await.expect("it answers"), [None, None, None, Some(b"1".to_vec())]);
    assert!(writes.get(&[]).await.expect("it answers").is_empty());
}

/// Whoever comes late with something else.
pub async fn a_success_stays_if_it_is_asked_to(subject: Arc<Subject>) {
    let results = subject.results();
    let (success, failure) = (r#"{"status": "SUCCESS", "result": 1}"#, r#"{"status": "FAILURE", "result": {"status": "SUCCESS"}}"#);
    let keep = |doc| Stored { keep_success: true, ..stored(task("a"), doc) };
    results.store(&[keep(failure)]).await.expect("it is stored");
    results.store(&[keep(success)]).await.expect("a failure does not stay");
    assert_eq!(results.get(&[task("a")]).await.expect("it answers"), [Some(success.as_bytes().to_vec())]);
    results.store(&[keep(failure)]).await.expect("it is no error");
    assert_eq!(results.get(&[task("a")]).await.expect("it answers"), [Some(success.as_bytes().to_vec())]);
    results.store(&[stored(task("a"), failure)]).await.expect("it is stored");
    assert_eq!(results.get(&[task("a")]).await.expect("it answers"), [Some(failure.as_bytes().to_vec())], "nobody asked");
}

/// At its time, unless it is stored again.
pub async fn a_document_expires(subject: Arc<Subject>) {
    let results = subject.results();
    let brief = |id| Stored { expires: Some(Duration::from_secs(1)), ..stored(task(id), "1") };
    results.store(&[brief("brief"), brief("again"), Stored { expires: None, ..stored(task("ever"), "1") }]).await.expect("it is stored");
    results.store(&[stored(task("again"), "2")]).await.expect("it is stored");
    let begun = Instant::now();
    while results.get(&[task("brief")]).await.expect("it answers")[0].is_some() {
        assert!(begun.elapsed() < SOON, "it does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(500), "it lived {:?}", begun.elapsed());
    let rest = results.get(&[task("again"), task("ever")]).await.expect("it answers");
    assert_eq!(rest, [Some(b"2".to_vec()), Some(b"1".to_vec())]);
    assert_eq!(results.forget(&[task("brief")]).await.expect("it answers"), 0);
}

/// All of it, groups and messages aside.
pub async fn what_is_stored_is_read_page_by_page(subject: Arc<Subject>) {
    let results = subject.results();
    assert_eq!(results.page(None).await.expect("it answers").results, []);
    let mut batch: Vec<Stored> = (0..250).map(|number| stored(task(&number.to_string()), "1")).collect();
    batch.push(stored(Key::Group("g".to_owned()), "2"));
    batch.push(stored(Key::Message("0".to_owned()), "2"));
    results.store(&batch).await.expect("it is stored");
    let (mut seen, mut from) = (std::collections::BTreeSet::new(), None);
    loop {
        let page = results.page(from.as_deref()).await.expect("it answers");
        assert!(page.results.iter().all(|(_, doc)| doc == b"1"));
        seen.extend(page.results.into_iter().map(|(id, _)| id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..250).map(|number| number.to_string()).collect());
}

async fn until(watch: &mut Watch, id: &str, doc: &str) -> Duration {
    let begun = Instant::now();
    loop {
        let came = tokio::time::timeout(SOON, watch.results.recv()).await;
        let (name, bytes) = came.unwrap_or_else(|_| panic!("{id} {doc} does not arrive")).expect("the watch goes on");
        if name == id && bytes == doc.as_bytes() {
            return begun.elapsed();
        }
    }
}

/// From another process, too; what nobody asked for does not.
pub async fn what_is_stored_before_and_after_a_watch_arrives(subject: Arc<Subject>) {
    let (watches, stores) = (subject.results(), subject.results());
    stores.store(&[stored(task("before"), "0")]).await.expect("it is stored");
    let mut watch = watches.watch(&["before".to_owned(), "a".to_owned(), "b".to_owned()]).await.expect("it watches");
    assert_eq!(watch.stored, [Some(b"0".to_vec()), None, None]);
    let mut other = stores.watch(&["c".to_owned()]).await.expect("it watches");
    stores.store(&[stored(task("unasked"), "0"), stored(task("a"), "1")]).await.expect("it is stored");
    let took = until(&mut watch, "a", "1").await;
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    stores.store(&[stored(task("a"), "2"), stored(Key::Group("b".to_owned()), "no task")]).await.expect("it is stored");
    until(&mut watch, "a", "2").await;
    watches.store(&[stored(task("b"), "3"), stored(task("c"), "4")]).await.expect("it is stored");
    until(&mut watch, "b", "3").await;
    until(&mut other, "c", "4").await;
    drop(watch);
    stores.store(&[stored(task("c"), "5")]).await.expect("it is stored");
    until(&mut other, "c", "5").await;
}

//! Lost connections, lost answers, a server that dies or freezes: nothing is lost, and nothing is
//! done twice while the worker lives.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use longshore_core::ErrorKind;
use longshore_testkit::{proxy::Proxy, servers::Redis};

use super::kit::{Ledger, at, id, message, open, work};
use crate::{
    broker::{Broker, OpenOptions},
    connected::Connected,
    redis::{both, broker},
    results::Key,
};

const LEASE: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

/// All of them ended once, with all that belongs to an end.
async fn is_exact(ledger: &Ledger, count: usize, connected: &Connected) {
    let often: Vec<_> = ledger.ended.iter().chain(&ledger.begun).filter(|(_, times)| **times != 1).collect();
    assert_eq!(
        (ledger.ended.len(), often.len(), ledger.refused, ledger.complete),
        (count, 0, 0, 1),
        "lost, repeated, refused, chords: {often:?}"
    );
    let Connected { broker, results, .. } = connected;
    let ids: Vec<Key> = ledger.ended.keys().cloned().map(Key::Task).collect();
    assert!(results.get(&ids).await.unwrap().iter().all(Option::is_some), "each has its result");
    let next = connected.inspect().unwrap().peek("next", usize::MAX).await.unwrap();
    assert_eq!((next.len(), next.iter().collect::<BTreeSet<_>>().len()), (count, count), "each sent its message on, once");
    let state = broker.queues(&["q".into()]).await.unwrap().remove(0);
    assert_eq!((state.waiting, state.held, state.dead), (0, 0, 0));
}

async fn publish(broker: &dyn Broker, from: usize, to: usize) {
    for number in from..to {
        broker.publish(&[message(&format!("m{number}"))]).await.unwrap();
    }
}

/// Workers, each with a server and a relay of its own, that meet thirty faults together: an answer
/// that does not come is waited for.
const WORKERS: u64 = 6;
const ROUNDS: usize = 5;
/// Messages of a round.
const EACH: usize = 40;

/// Works through relays while they fail thirty times.
async fn thirty_times(fail: impl Fn(&Proxy, &mut fastrand::Rng)) {
    join_all((0..WORKERS).map(|seed| works_through(&fail, seed))).await;
}

async fn works_through(fail: &impl Fn(&Proxy, &mut fastrand::Rng), seed: u64) {
    let Some(server) = Redis::start(&[]) else { return };
    let proxy = Proxy::start(server.port());
    let whole = both(&server.url()).unwrap();
    let (direct, results) = (whole.broker.clone(), whole.results.clone());
    let count = ROUNDS * EACH;
    results.chord_start("chord", count as u64, HOUR).await.unwrap();
    let worker = broker(&at(proxy.port())).unwrap();
    let consumer = open(&*worker, LEASE, HOUR).await;
    let working = tokio::spawn(async move { work(&*consumer, count).await });
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        fail(&proxy, &mut random);
        publish(&*direct, round * EACH, (round + 1) * EACH).await;
        // The next one comes when this one has happened, and what was there is done.
        let begun = Instant::now();
        while proxy.happened() as usize <= round || direct.queues(&["q".into()]).await.unwrap()[0].waiting > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "round {round}: {} faults happened", proxy.happened());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let ledger = tokio::time::timeout(Duration::from_secs(30), working).await.unwrap().unwrap();
    is_exact(&ledger, count, &whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_the_middle_of_an_answer_loses_and_repeats_nothing() {
    thirty_times(|proxy, random| proxy.cut_after(random.usize(1..4000))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_never_comes_loses_and_repeats_nothing() {
    thirty_times(|proxy, _| proxy.swallow()).await;
}

/// What is given is in nobody's hands while its answer travels, but for the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_in_an_answer_that_is_lost_is_read_from_its_copy() {
    join_all((0..WORKERS).map(is_given_through)).await;
}

async fn is_given_through(seed: u64) {
    let Some(server) = Redis::start(&[]) else { return };
    let proxy = Proxy::start(server.port());
    let Connected { broker: direct, .. } = both(&server.url()).unwrap();
    let worker = broker(&at(proxy.port())).unwrap();
    let options = OpenOptions {
        queues: vec!["q".into()],
        lease: LEASE,
        visibility_timeout: HOUR,
        node: "test@here".to_owned(),
        early: true,
        order: crate::QueueOrder::InTurn,
        takes_delayed: false,
    };
    let consumer = worker.open(options).await.unwrap();
    let working = tokio::spawn(async move {
        let mut claimed = Vec::new();
        while claimed.len() < ROUNDS * EACH {
            consumer.claim(25, &mut claimed).await.unwrap();
        }
        claimed
    });
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        if (round as u64 + seed).is_multiple_of(2) {
            proxy.cut_after(random.usize(1..4000))
        } else {
            proxy.swallow()
        }
        publish(&*direct, round * EACH, (round + 1) * EACH).await;
        let begun = Instant::now();
        while proxy.happened() as usize <= round || direct.queues(&["q".into()]).await.unwrap()[0].waiting > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "round {round}: {} faults happened", proxy.happened());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let claimed = tokio::time::timeout(Duration::from_secs(30), working).await.unwrap().unwrap();
    let different: BTreeSet<String> = claimed.iter().map(id).collect();
    assert_eq!((claimed.len(), different.len()), (ROUNDS * EACH, ROUNDS * EACH), "lost or repeated");
}

/// A server that dies five times under load, with all that it promised on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back_loses_and_repeats_nothing() {
    let Some(mut server) = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let whole = both(&format!("{}?patience=20", server.url())).unwrap();
    let (direct, results) = (whole.broker.clone(), whole.results.clone());
    results.chord_start("chord", 1_000_000, HOUR).await.unwrap();
    let consumer = open(&*direct, LEASE, HOUR).await;
    let working = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { work(&*consumer, usize::MAX).await }
    });
    let publishing = tokio::spawn({
        let direct = Arc::clone(&direct);
        async move {
            let mut confirmed = BTreeSet::new();
            for number in 0..1500 {
                let id = format!("m{number}");
                if direct.publish(&[message(&id)]).await.is_ok() {
                    confirmed.insert(id);
                }
            }
            confirmed
        }
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.restart();
        let up = Instant::now();
        direct.queues(&[]).await.unwrap();
        slowest = slowest.max(up.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "it went on after {slowest:?}");
    let confirmed = publishing.await.unwrap();
    let begun = Instant::now();
    loop {
        let state = direct.queues(&["q".into()]).await.unwrap().remove(0);
        if (state.waiting, state.held) == (0, 0) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{state:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    consumer.close();
    let ledger = working.await.unwrap();
    let lost: Vec<_> = confirmed.iter().filter(|id| !ledger.ended.contains_key(*id)).collect();
    assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
    assert!(ledger.ended.values().all(|times| *times == 1) && ledger.refused == 0, "{ledger:?}");
    assert!(confirmed.len() > 1000, "{} were confirmed", confirmed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_freezes_is_waited_for_and_goes_on_at_once() {
    let Some(server) = Redis::start(&[]) else { return };
    let whole = both(&format!("{}?patience=20", server.url())).unwrap();
    let (direct, results) = (whole.broker.clone(), whole.results.clone());
    results.chord_start("chord", 200, HOUR).await.unwrap();
    let consumer = open(&*direct, Duration::from_secs(1), HOUR).await;
    // Somebody else who would rescue what looks dead.
    let other = open(&*broker(&server.url()).unwrap(), Duration::from_secs(1), HOUR).await;
    other.serve("q", false);
    let working = tokio::spawn(async move { work(&*consumer, 200).await });
    publish(&*direct, 0, 100).await;
    server.freeze();
    // Longer than the lease.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let resumed = Instant::now();
    server.thaw();
    publish(&*direct, 100, 200).await;
    let ledger = tokio::time::timeout(Duration::from_secs(20), working).await.unwrap().unwrap();
    assert!(resumed.elapsed() < Duration::from_secs(2), "it went on after {:?}", resumed.elapsed());
    is_exact(&ledger, 200, &whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_cut_off_for_longer_than_its_lease_is_refused() {
    let Some(server) = Redis::start(&[]) else { return };
    let proxy = Proxy::start(server.port());
    let direct = broker(&server.url()).unwrap();
    let far = open(&*broker(&at(proxy.port())).unwrap(), Duration::from_secs(1), HOUR).await;
    let near = open(&*direct, Duration::from_secs(1), HOUR).await;
    publish(&*direct, 0, 3).await;
    let (mut late, mut again) = (Vec::new(), Vec::new());
    while late.len() < 3 {
        far.claim(3, &mut late).await.unwrap();
    }
    proxy.hold(true);
    while again.len() < 3 {
        near.claim(3, &mut again).await.unwrap();
    }
    proxy.hold(false);
    let healed = Instant::now();
    let ends: Vec<_> = late.iter().map(|claimed| crate::Finish { part: None, publish: vec![], ..super::kit::whole(claimed) }).collect();
    assert_eq!(far.finish(&ends).await.unwrap(), [crate::Ended::Refused, crate::Ended::Refused, crate::Ended::Refused]);
    assert!(healed.elapsed() < Duration::from_secs(2), "{:?}", healed.elapsed());
    let ends: Vec<_> = again.iter().map(|claimed| crate::Finish { part: None, publish: vec![], ..super::kit::whole(claimed) }).collect();
    assert_eq!(near.finish(&ends).await.unwrap(), [crate::Ended::Done, crate::Ended::Done, crate::Ended::Done]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_after_the_patience_of_the_url() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let away = broker(&format!("redis://:S3CRET@127.0.0.1:{port}/0?patience=0.3")).unwrap();
    let begun = Instant::now();
    let error = away.ping().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.message.contains(&format!("127.0.0.1:{port}")) && error.message.contains("running"), "{error}");
    assert!(!error.message.contains("S3CRET") && !away.url().contains("S3CRET"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_its_connection_was_lost_and_looks_at_what_it_missed() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { results: watches, .. } = both(&server.url()).unwrap();
    let Connected { results: stores, .. } = both(&server.url()).unwrap();
    let mut watch = watches.watch(&["a".to_owned(), "b".to_owned()]).await.unwrap();
    let stored = |id: &str| crate::Stored {
        key: Key::Task(id.into()),
        doc: id.as_bytes().to_vec(),
        expires: None,
        keep_success: false,
        reply_to: None,
    };
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    stores.store(&[stored("a")]).await.unwrap();
    let came = tokio::time::timeout(Duration::from_secs(5), watch.results.recv()).await.unwrap().unwrap();
    assert_eq!(came.0, "a");
    stores.store(&[stored("b")]).await.unwrap();
    loop {
        let came = tokio::time::timeout(Duration::from_secs(5), watch.results.recv()).await.unwrap().unwrap();
        if came.0 == "b" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_again_under_its_token_is_sent_once() {
    for queues in [&["q"][..], &["q", "other"]] {
        let Some(server) = Redis::start(&[]) else { return };
        let proxy = Proxy::start(server.port());
        let worker = broker(&at(proxy.port())).unwrap();
        let batch: Vec<_> = queues.iter().map(|queue| crate::Outgoing { queue: (*queue).into(), ..message("a") }).collect();
        // The second one says to this connection that the queues exist.
        worker.publish(&batch).await.unwrap();
        worker.publish(&batch).await.unwrap();
        for (round, token) in ["one", "two"].into_iter().enumerate() {
            let happened = proxy.happened();
            proxy.cut_after(1);
            let lost = worker.publish_once(token, &batch).await.unwrap_err();
            assert_eq!((lost.kind, proxy.happened()), (ErrorKind::Transient, happened + 1), "{lost}");
            for _ in 0..2 {
                worker.publish_once(token, &batch).await.unwrap();
                for queue in queues {
                    assert_eq!(server.command(&["LLEN", queue]), format!(":{}\r\n", round + 3), "{queue}, {token}");
                }
            }
        }
        worker.publish_once("three", &batch).await.unwrap();
        let tokens = server.command(&["KEYS", "longshore:sent:*"]);
        assert!(tokens.starts_with("*1\r\n") && tokens.contains("three"), "no more than is needed: {tokens}");
    }
}

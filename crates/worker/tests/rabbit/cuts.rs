//! Connections that are cut, stand still or lose an answer, and servers that stand still: between
//! whoever sends and the server, and between the server and a worker.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_brokers::{Broker, connect};
use longshore_celery::{State, Value};
use longshore_core::ErrorKind;
use longshore_testkit::{
    proxy::Proxy,
    rabbit::{self, RabbitServer},
};
use longshore_worker::{Call, Task};
use tokio::sync::Semaphore;

use crate::{
    bench::{Bench, PATIENCE},
    days::{message, outgoing},
};

/// Options of a URL that make for short tests.
const QUICK: &str = "heartbeat=2&patience=1";

/// Sends these until they are confirmed. Returns how often they were sent.
async fn send(broker: &dyn Broker, numbers: &[i64]) -> u32 {
    let batch: Vec<_> = numbers.iter().map(|number| outgoing(&message("good", *number))).collect();
    let begun = Instant::now();
    for times in 1.. {
        match broker.publish(&batch).await {
            Ok(()) => return times,
            Err(error) => assert_eq!(error.kind, ErrorKind::Transient, "{error}"),
        }
        assert!(begun.elapsed() < PATIENCE, "nothing is confirmed");
    }
    0
}

/// A task that counts its runs and ends when it is told to, or when it was told before.
fn gated() -> (Task, Arc<AtomicU32>, Arc<Semaphore>) {
    let (runs, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, waits) = (runs.clone(), gate.clone());
    let task = Task::future("waits", move |_, _: Call| {
        counted.fetch_add(1, Ordering::SeqCst);
        let waits = waits.clone();
        async move {
            drop(waits.acquire().await);
            Ok(Value::Null)
        }
    });
    (task, runs, gate)
}

/// A way to the server at this URL that can be harmed, and the URL that takes it.
fn way(url: &str, server: &RabbitServer) -> (Proxy, String) {
    let proxy = Proxy::start(server.port());
    let url = url.replace(&format!(":{}", server.port()), &format!(":{}", proxy.port()));
    (proxy, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_at_any_byte_loses_nothing() {
    for options in ["?queue_type=classic", "?queue_type=quorum"] {
        let Some(url) = rabbit::vhost() else { return };
        let server = rabbit::shared().unwrap();
        let bench = Bench::new(&format!("{url}{options}"));
        let (of_client, client_url) = way(&url, server);
        let (of_worker, worker_url) = way(&url, server);
        let client = connect(&format!("{client_url}{options}&{QUICK}"), Some("memory://cuts")).unwrap().broker;
        let worker = bench.worker_at(&format!("{worker_url}{options}&{QUICK}"), []).await;
        let (mut next, mut doubtful) = (0, BTreeSet::new());
        for round in 0..16_u32 {
            // In the middle of a frame, nearly always.
            let (proxy, most) = if round % 2 == 0 { (&of_worker, 6_000) } else { (&of_client, 300) };
            proxy.cut_after(fastrand::usize(1..most));
            while proxy.happened() <= round / 2 {
                let numbers: Vec<i64> = (next..next + 10).collect();
                next += 10;
                if send(&*client, &numbers).await > 1 {
                    doubtful.extend(numbers);
                }
            }
        }
        bench.until("all run", async || (0..next).all(|number| bench.runs(number) > 0)).await;
        bench.until("nothing is left", async || left(server, bench.vhost()) == 0).await;
        for number in 0..next {
            let id = format!("good-{number}");
            bench.until("its result is stored", async || bench.state(&id).await == Some(State::Success)).await;
            assert!(bench.runs(number) == 1 || doubtful.contains(&number), "{number} ran {} times", bench.runs(number));
        }
        let said = bench.said.lock().unwrap().clone();
        assert!(said.iter().any(|text| text.contains(&format!("rabbitmq at 127.0.0.1:{}", of_worker.port()))), "{said:?}");
        worker.stopper().warm();
        assert_eq!(worker.join().await.error, None);
    }
}

/// Returns how many messages lie in the queue.
fn left(server: &RabbitServer, vhost: &str) -> u64 {
    server.queues(vhost).iter().filter(|(name, ..)| name == "celery").map(|(_, ready, lent, _)| ready + lent).sum()
}

/// What befalls a way: for how long is up to whoever looks.
const TROUBLES: [(&str, fn(&Proxy, bool)); 2] = [
    ("nothing is carried", |proxy, begins| proxy.hold(begins)),
    ("answers are lost, and all behind them", |proxy, begins| {
        if begins {
            proxy.swallow_all();
        }
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connection_stands_still_for_longer_than_the_heartbeat_loses_nothing() {
    for (what, trouble) in TROUBLES {
        let Some(url) = rabbit::vhost() else { return };
        let server = rabbit::shared().unwrap();
        let bench = Bench::new(&url);
        let (proxy, through) = way(&url, server);
        let (waits, runs, gate) = gated();
        let worker = bench.worker_at(&format!("{through}?{QUICK}"), [waits]).await;
        stand_still(&bench, &runs, &gate, || trouble(&proxy, true), || trouble(&proxy, false)).await;
        send(&*bench.connected.broker, &[1, 2, 3]).await;
        bench.until(what, async || (1..4).all(|number| bench.runs(number) == 1)).await;
        bench.until(what, async || left(server, bench.vhost()) == 0).await;
        worker.stopper().warm();
        let summary = worker.join().await;
        assert_eq!((runs.load(Ordering::SeqCst), summary.counts.ok, summary.error), (5, 8, None), "{what}");
    }
}

/// Has five tasks running when it begins; they end before it does. All is well afterwards.
async fn stand_still(bench: &Bench, runs: &AtomicU32, gate: &Semaphore, begin: impl FnOnce(), end: impl FnOnce()) {
    let batch: Vec<_> = (0..5).map(|number| outgoing(&message("waits", number))).collect();
    bench.connected.broker.publish(&batch).await.unwrap();
    bench.until("they run", async || runs.load(Ordering::SeqCst) == 5).await;
    begin();
    // Either side may be the first that hears nothing: who waits, or the server, which ends it.
    let is_told = |text: &String| (text.contains("silent") || text.contains("is gone")) && text.contains("5 messages");
    bench.until("it is told", async || bench.said.lock().unwrap().iter().any(is_told)).await;
    gate.close();
    end();
    for number in 0..5 {
        let id = format!("waits-{number}");
        bench.until("it ends", async || bench.state(&id).await == Some(State::Success)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_connection_stands_still_is_told_and_sends_again() {
    for (what, trouble) in TROUBLES {
        let Some(url) = rabbit::vhost() else { return };
        let server = rabbit::shared().unwrap();
        let bench = Bench::new(&url);
        let worker = bench.worker([]).await;
        let (proxy, through) = way(&url, server);
        let client = connect(&format!("{through}?{QUICK}"), Some("memory://still")).unwrap().broker;
        send(&*client, &[0]).await;
        trouble(&proxy, true);
        let begun = Instant::now();
        let error = client.publish(&[outgoing(&message("good", 1))]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Transient, "{what}: {error}");
        assert!(error.message.contains("unknown whether") || error.message.contains("silent"), "{what}: {error}");
        // Patience, and what a busy machine takes.
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {:?}", begun.elapsed());
        trouble(&proxy, false);
        send(&*client, &[1, 2]).await;
        bench.until(what, async || (0..3).all(|number| bench.runs(number) > 0)).await;
        worker.stopper().warm();
        assert_eq!(worker.join().await.error, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_for_longer_than_the_heartbeat_is_told_and_waited_for() {
    let Some(server) = RabbitServer::start(&[]) else { return };
    for options in ["?queue_type=classic", "?queue_type=quorum"] {
        let bench = Bench::new(&format!("{}{options}&{QUICK}", server.vhost()));
        let (waits, runs, gate) = gated();
        let worker = bench.worker([waits]).await;
        stand_still(&bench, &runs, &gate, || server.freeze(), || server.thaw()).await;
        send(&*bench.connected.broker, &[1, 2, 3]).await;
        bench.until(options, async || (1..4).all(|number| bench.runs(number) > 0)).await;
        bench.until(options, async || left(&server, bench.vhost()) == 0).await;
        worker.stopper().warm();
        assert_eq!((runs.load(Ordering::SeqCst), worker.join().await.error), (5, None), "{options}");
    }
}

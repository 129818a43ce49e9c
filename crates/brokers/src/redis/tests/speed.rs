//! How fast it is. Says numbers and asserts none: `cargo test --release -p longshore-brokers --lib
//! redis::tests::speed -- --ignored --nocapture`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use longshore_testkit::servers::Redis;

use super::kit::{at, open};
use crate::{
    broker::{Broker, Consumer},
    connected::Connected,
    json,
    message::{End, Finish, Outgoing},
    redis::broker,
    results::{Key, Stored},
};

/// 928 bytes, the length of the messages that others were measured with.
fn message(number: usize) -> Outgoing {
    let id = format!("{number:08}-0000-4000-8000-000000000000");
    let head = format!(
        r#"{{"body": "W1tdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "bench.noop", "id": "{id}", "argsrepr": ""#
    );
    let tail = format!(
        r#"", "retries": 0}}, "properties": {{"correlation_id": "{id}", "delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "q"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "{id}"}}}}"#
    );
    let filler = "x".repeat(928 - head.len() - tail.len());
    Outgoing { queue: "q".into(), exchange: None, priority: 0, due: None, raw: (head + &filler + &tail).into_bytes() }
}

/// The CPU time that a process took, in µs.
fn cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<f64> =
        text.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap()).collect();
    (fields[0] + fields[1]) * 10_000.0
}

async fn drain(consumer: &dyn Consumer, count: usize, batch: usize) {
    let mut done = 0;
    let mut claimed = Vec::new();
    while done < count {
        claimed.clear();
        consumer.claim(batch, &mut claimed).await.unwrap();
        let ends: Vec<Finish> = claimed
            .iter()
            .map(|claimed| {
                let id = json::task_id(&claimed.raw).unwrap();
                let doc = format!(
                    r#"{{"status": "SUCCESS", "result": null, "traceback": null, "children": [], "date_done": "2026-11-21T00:02:39.401946+00:00", "task_id": "{id}"}}"#
                );
                let stored = Stored { key: Key::Task(id.into()), doc: doc.into(), expires: Some(Duration::from_secs(86_400)), keep_success: false, reply_to: None };
                Finish { receipt: claimed.receipt, publish: vec![], results: vec![stored], part: None, end: End::Ack }
            })
            .collect();
        done += consumer.finish(&ends).await.unwrap().len();
    }
}

/// The same with the finish of a batch and the claim of the next on their way together.
async fn drain_overlapped(consumer: Arc<dyn Consumer>, count: usize) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Vec<crate::Claimed>>(2);
    let claims = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move {
            let mut left = count;
            while left > 0 {
                let mut claimed = Vec::new();
                consumer.claim(100.min(left), &mut claimed).await.unwrap();
                left -= claimed.len();
                sender.send(claimed).await.unwrap();
            }
        }
    });
    while let Some(claimed) = receiver.recv().await {
        let ends: Vec<Finish> = claimed
            .iter()
            .map(|claimed| {
                let id = json::task_id(&claimed.raw).unwrap();
                let doc = format!(
                    r#"{{"status": "SUCCESS", "result": null, "traceback": null, "children": [], "date_done": "2026-11-21T00:02:39.401946+00:00", "task_id": "{id}"}}"#
                );
                let stored = Stored { key: Key::Task(id.into()), doc: doc.into(), expires: Some(Duration::from_secs(86_400)), keep_success: false, reply_to: None };
                Finish { receipt: claimed.receipt, publish: vec![], results: vec![stored], part: None, end: End::Ack }
            })
            .collect();
        consumer.finish(&ends).await.unwrap();
    }
    claims.await.unwrap();
}

async fn filled(broker: &dyn Broker, count: usize) {
    let all: Vec<Outgoing> = (0..count).map(message).collect();
    for some in all.chunks(1000) {
        broker.publish(some).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn claims_and_finishes() {
    const COUNT: usize = 100_000;
    let Some(server) = Redis::start(&[]) else { return };
    let ours = broker(&at(server.port())).unwrap();
    for batch in [1, 10, 100, 0] {
        let count = if batch == 1 { COUNT / 10 } else { COUNT };
        filled(&*ours, count).await;
        let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(3600)).await;
        let (begun, us, them) = (Instant::now(), cpu(std::process::id()), cpu(server.pid()));
        match batch {
            0 => drain_overlapped(Arc::clone(&consumer), count).await,
            batch => drain(&*consumer, count, batch).await,
        }
        let took = begun.elapsed();
        let each = |cpu: f64| cpu / count as f64;
        println!(
            "claim and finish, batches of {}: {:.0}/s, CPU a task: ours {:.1} µs, server's {:.1} µs",
            if batch == 0 { "100, overlapped".to_owned() } else { batch.to_string() },
            count as f64 / took.as_secs_f64(),
            each(cpu(std::process::id()) - us),
            each(cpu(server.pid()) - them),
        );
        consumer.leave().await.unwrap();
        server.command(&["FLUSHALL"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn publishes() {
    let Some(server) = Redis::start(&[]) else { return };
    let ours = broker(&at(server.port())).unwrap();
    let all: Vec<Outgoing> = (0..100_000).map(message).collect();
    let rate =
        |name: &str, count: usize, begun: Instant| println!("publish, {name}: {:.0}/s", count as f64 / begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    for one in all[..20_000].chunks(1) {
        ours.publish(one).await.unwrap();
    }
    rate("awaited one by one", 20_000, begun);
    let begun = Instant::now();
    let all = Arc::new(all);
    let callers = (0..64).map(|caller| {
        let (ours, all) = (Arc::clone(&ours), Arc::clone(&all));
        tokio::spawn(async move {
            for at in (caller..all.len()).step_by(64) {
                ours.publish(&all[at..=at]).await.unwrap();
            }
        })
    });
    join_all(callers.collect::<Vec<_>>()).await;
    rate("64 callers at once", all.len(), begun);
    let begun = Instant::now();
    for some in all.chunks(1000) {
        ours.publish(some).await.unwrap();
    }
    rate("a thousand a call", all.len(), begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn round_trips() {
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker: ours, results, .. } = crate::redis::both(&server.url()).unwrap();
    let consumer = open(&*ours, Duration::from_secs(5), Duration::from_secs(3600)).await;
    let working = tokio::spawn(async move { drain(&*consumer, 2000, 50).await });
    let mut times = Vec::new();
    for number in 0..2000 {
        let message = message(number);
        let id = json::task_id(&message.raw).unwrap().to_owned();
        let begun = Instant::now();
        let mut watch = results.watch(&[id]).await.unwrap();
        ours.publish(&[message]).await.unwrap();
        watch.results.recv().await.unwrap();
        times.push(begun.elapsed());
    }
    working.await.unwrap();
    times.sort();
    println!("round trip: p50 {:?}, p99 {:?}", times[1000], times[1980]);
}

//! Whom the next death would bury runs with nobody beside it, and everybody else after it.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_brokers::{Outgoing, connect};
use longshore_celery::{Encoding, Message, Value, mark_crashed};
use longshore_core::LaneKind;
use longshore_worker::{App, Task, Worker, WorkerOptions};

const SOON: Duration = Duration::from_secs(60);

fn message(task: &str, number: u32, crashes: u32) -> Outgoing {
    let (task, id) = (task.to_owned(), format!("{task}-{number}"));
    let raw = Message { id, task, routing_key: "celery".to_owned(), ..Message::default() }.encode(Encoding::Json);
    let raw = if crashes > 0 { mark_crashed(&raw, crashes, 0).unwrap() } else { raw };
    Outgoing { queue: "celery".into(), priority: 0, due: None, raw }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_starts_beside_a_suspect_that_the_next_death_would_bury_and_all_run_in_the_end() {
    let url = "memory://alone";
    let (broker, _) = connect(url, None).unwrap();
    let (runs, beside) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (innocents, suspects) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let suspect = {
        let (runs, suspects) = (runs.clone(), suspects.clone());
        Task::plain("suspect", move |_, _| {
            runs.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(2));
            runs.store(false, Ordering::SeqCst);
            suspects.fetch_add(1, Ordering::SeqCst);
            Ok(Value::Null)
        })
    };
    let innocent = {
        let (runs, beside, innocents) = (runs.clone(), beside.clone(), innocents.clone());
        Task::plain("innocent", move |_, _| {
            beside.fetch_add(runs.load(Ordering::SeqCst).into(), Ordering::SeqCst);
            innocents.fetch_add(1, Ordering::SeqCst);
            Ok(Value::Null)
        })
    };
    let app = App::new().broker(url).task(suspect.on(LaneKind::Blocking)).task(innocent.on(LaneKind::Blocking));
    let worker = Worker::start(app, WorkerOptions::new("w@alone")).await.unwrap();
    broker.publish(&[message("suspect", 0, 2)]).await.unwrap();
    let (begun, mut sent) = (Instant::now(), 0);
    while suspects.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < SOON, "it never starts");
        broker.publish(&[message("innocent", sent, 0)]).await.unwrap();
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while innocents.load(Ordering::SeqCst) < sent {
        assert!(begun.elapsed() < SOON, "{} of {sent} ran", innocents.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(beside.load(Ordering::SeqCst), 0, "started beside it, of {sent}");
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.ok, summary.failed, summary.error), (u64::from(sent) + 1, 0, None));
}

//! Whom the next death would bury runs with nobody beside it, and everybody else after it; what
//! comes due meanwhile stays where it is, and nobody waits while it stands in line for its lane.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::{Connected, Outgoing, connect};
use longshore_celery::{Encoding, Message, Value, mark_crashed};
use longshore_core::LaneKind;
use longshore_worker::{App, Task, Worker, WorkerOptions};

const SOON: Duration = Duration::from_secs(60);

fn message(task: &str, number: u32, crashes: u32) -> Outgoing {
    let (task, id) = (task.to_owned(), format!("{task}-{number}"));
    let raw = Message { id, task, routing_key: "celery".to_owned(), ..Message::default() }.encode(Encoding::Json);
    let raw = if crashes > 0 { mark_crashed(&raw, crashes, 0).unwrap() } else { raw };
    Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_starts_beside_a_suspect_that_the_next_death_would_bury_and_all_run_in_the_end() {
    let url = "memory://alone";
    let Connected { broker, .. } = connect(url, None).unwrap();
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
    assert_eq!((summary.counts.ok, summary.counts.failed, summary.error), (u64::from(sent) + 1, 0, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_due_while_nobody_is_let_start_is_not_loaded() {
    const HELD: u32 = 1000;
    let url = "memory://alone-due";
    let Connected { broker, .. } = connect(url, None).unwrap();
    let (runs, ran) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let suspect = {
        let runs = runs.clone();
        Task::plain("suspect", move |_, _| {
            runs.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(3));
            runs.store(false, Ordering::SeqCst);
            Ok(Value::Null)
        })
    };
    let counts = ran.clone();
    let later = Task::plain("later", move |_, _| {
        counts.fetch_add(1, Ordering::SeqCst);
        Ok(Value::Null)
    });
    let app = App::new().broker(url).task(suspect.on(LaneKind::Blocking)).task(later.on(LaneKind::Blocking));
    let begun = Instant::now();
    // They come due when the suspect runs, which begins ten seconds after its worker.
    let eta = SystemTime::now() + Duration::from_secs(11);
    let all: Vec<_> = (0..HELD)
        .map(|number| {
            let (task, id, routing_key) = ("later".to_owned(), format!("later-{number}"), "celery".to_owned());
            let raw = Message { id, task, routing_key, eta: Some(eta), ..Message::default() }.encode(Encoding::Json);
            Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }
        })
        .collect();
    broker.publish(&all).await.unwrap();
    broker.publish(&[message("suspect", 0, 2)]).await.unwrap();
    let worker = Worker::start(app, WorkerOptions::new("w@alone")).await.unwrap();
    while !runs.load(Ordering::SeqCst) {
        assert!(begun.elapsed() < SOON, "it never starts");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(worker.held(), HELD as usize, "before they are due");
    let mut looks = 0;
    loop {
        let (held, is_due) = (worker.held(), SystemTime::now() > eta + Duration::from_millis(300));
        if !runs.load(Ordering::SeqCst) {
            break;
        }
        assert_eq!(held, HELD as usize, "while the suspect runs, {looks} looks after they were due");
        looks += u32::from(is_due);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(looks > 0, "they were never due while it ran");
    while ran.load(Ordering::SeqCst) < HELD {
        assert!(begun.elapsed() < SOON, "{} ran", ran.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.ok, summary.counts.failed, summary.error), (u64::from(HELD) + 1, 0, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_suspect_waits_for_its_lane_the_others_run() {
    /// The lane is full for so long: a suspect starts ten seconds after its worker, and would keep
    /// others back from then on.
    const FULL: Duration = Duration::from_secs(15);
    let url = "memory://alone-lane";
    let Connected { broker, .. } = connect(url, None).unwrap();
    let (full, runs) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (quick, beside, suspects) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let long = {
        let full = full.clone();
        Task::plain("long", move |_, _| {
            std::thread::sleep(FULL);
            full.store(false, Ordering::SeqCst);
            Ok(Value::Null)
        })
    };
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
        let (runs, beside, quick) = (runs.clone(), beside.clone(), quick.clone());
        Task::plain("innocent", move |_, _| {
            beside.fetch_add(runs.load(Ordering::SeqCst).into(), Ordering::SeqCst);
            quick.fetch_add(1, Ordering::SeqCst);
            Ok(Value::Null)
        })
    };
    let tasks = [long.on(LaneKind::Blocking), suspect.on(LaneKind::Blocking), innocent.on(LaneKind::Async)];
    let app = tasks.into_iter().fold(App::new().broker(url), App::task);
    let mut options = WorkerOptions::new("w@alone");
    options.lanes[LaneKind::Blocking as usize] = 1;
    let worker = Worker::start(app, options).await.unwrap();
    broker.publish(&[message("long", 0, 0), message("suspect", 0, 2)]).await.unwrap();
    let (begun, mut sent) = (Instant::now(), 0);
    let (mut last, mut longest) = ((0, Instant::now()), Duration::ZERO);
    while suspects.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < SOON, "it never starts");
        broker.publish(&[message("innocent", sent, 0)]).await.unwrap();
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let ran = quick.load(Ordering::SeqCst);
        if ran > last.0 {
            last = (ran, Instant::now());
        }
        if full.load(Ordering::SeqCst) {
            longest = longest.max(last.1.elapsed());
        }
    }
    assert!(longest < Duration::from_secs(3), "while the lane was full nobody ran for {longest:?}");
    assert_eq!(beside.load(Ordering::SeqCst), 0, "started beside it, of {sent}");
    while quick.load(Ordering::SeqCst) < sent {
        assert!(begun.elapsed() < SOON, "{} of {sent} ran", quick.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.ok, summary.counts.failed, summary.error), (u64::from(sent) + 2, 0, None));
}

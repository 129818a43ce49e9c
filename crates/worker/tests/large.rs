//! Messages that are too large to be run: they are buried, and hold up nobody else.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use longshore_brokers::{Outgoing, connect};
use longshore_celery::{Encoding, Message};
use longshore_core::LaneKind;
use longshore_testkit::servers::Redis;
use longshore_worker::{App, Notice, Task, What, Worker, WorkerOptions};

const SOON: Duration = Duration::from_secs(120);
/// Number of small ones before the large one, and after it.
const SMALL: usize = 300;
const LARGE: usize = 40 << 20;
/// In a build that is not optimised it was 1.2 s when messages were read, marked and encoded on the
/// runtime's thread, and is 0.1 s.
const LONG: Duration = Duration::from_millis(600);

fn outgoing(raw: Vec<u8>) -> Outgoing {
    Outgoing { queue: "celery".into(), priority: 0, due: None, raw }
}

/// A message of a task that is known, with an argument of this length.
fn whole(length: usize) -> Vec<u8> {
    let args = vec!["x".repeat(length / 4 * 3).into()];
    let (id, task) = ("large".to_owned(), "tick".to_owned());
    Message { id, task, args, routing_key: "celery".to_owned(), ..Message::default() }.encode(Encoding::Json)
}

/// Runs small tasks, 10 ms each, with large messages among them, which end as junk. The longest
/// time for which the runtime's only thread was held up.
async fn held_up(url: &str, large: Vec<Vec<u8>>) -> Duration {
    let (broker, _) = connect(url, None).unwrap();
    let small = |from: usize| -> Vec<Outgoing> {
        let message = |number: usize| Message {
            id: number.to_string(),
            task: "tick".to_owned(),
            routing_key: "celery".to_owned(),
            ..Message::default()
        };
        (from..from + SMALL).map(|number| outgoing(message(number).encode(Encoding::Json))).collect()
    };
    let count = large.len() as u64;
    broker.publish(&small(0)).await.unwrap();
    for raw in large {
        broker.publish(&[outgoing(raw)]).await.unwrap();
    }
    broker.publish(&small(SMALL)).await.unwrap();
    let ends = Arc::new(AtomicUsize::new(0));
    let noted = ends.clone();
    let tick = Task::future("tick", move |_, _| {
        let noted = noted.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            noted.fetch_add(1, Ordering::AcqRel);
            Ok(1.into())
        }
    });
    let mut options = WorkerOptions::new("w@large");
    options.lanes[LaneKind::Async as usize] = 4;
    let buried = Arc::new(AtomicU64::new(0));
    let counted = buried.clone();
    options.listeners.push(Arc::new(move |notices: &[Notice]| {
        let dead = notices.iter().filter(|notice| matches!(notice.what, What::Dead { .. })).count();
        counted.fetch_add(dead as u64, Ordering::AcqRel);
    }));
    let worker = Worker::start(App::new().broker(url).task(tick), options).await.unwrap();
    let pulse: Arc<Mutex<Duration>> = Arc::default();
    let felt = pulse.clone();
    let feeling = tokio::spawn(async move {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut longest = felt.lock().unwrap();
            *longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    });
    let begun = Instant::now();
    while ends.load(Ordering::Acquire) < 2 * SMALL || buried.load(Ordering::Acquire) < count {
        assert!(begun.elapsed() < SOON, "{} ended", ends.load(Ordering::Acquire));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.ok, summary.dead, summary.error), (2 * SMALL as u64, count, None));
    feeling.abort();
    *pulse.lock().unwrap()
}

#[tokio::test]
async fn large_messages_hold_up_nobody_else() {
    for (what, large) in [("one", vec![whole(LARGE)]), ("no JSON", vec![vec![b'x'; LARGE]]), ("many", vec![vec![b'x'; LARGE / 10]; 10])] {
        let Some(server) = Redis::start(&[]) else { return };
        let held = held_up(&server.url(), large.clone()).await;
        assert!(held < LONG, "{what} on Redis: {held:?}");
        let path = std::env::temp_dir().join(format!("longshore-large-{}-{}.db", std::process::id(), fastrand::u64(..)));
        let held = held_up(&format!("sqlite:{}?sync=normal", path.display()), large).await;
        for end in ["", "-wal", "-shm", "-wake"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
        assert!(held < LONG, "{what} in a file: {held:?}");
    }
}

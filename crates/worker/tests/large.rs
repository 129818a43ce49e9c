//! Messages that are too large to be run: they are buried, and hold up nobody else.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use longshore_brokers::{Connected, Key, Outgoing, connect};
use longshore_celery::{Encoding, Message, State, TaskResult};
use longshore_core::{LaneKind, watch::Detail};
use longshore_testkit::servers::Redis;
use longshore_worker::{App, Task, TaskChange, Worker, WorkerEvent, WorkerOptions};

const SOON: Duration = Duration::from_secs(120);
/// Number of small ones before the large one, and after it.
const SMALL: usize = 300;
const LARGE: usize = 40 << 20;
/// In a build that is not optimised it was 1.2 s when messages were read, marked and encoded on the
/// runtime's thread, and is 0.1 s.
const LONG: Duration = Duration::from_millis(600);

fn outgoing(raw: Vec<u8>) -> Outgoing {
    Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }
}

/// A message of a task that is known, with an argument of this length.
fn whole(length: usize) -> Vec<u8> {
    let args = vec!["x".repeat(length / 4 * 3).into()];
    let (id, task) = ("large".to_owned(), "tick".to_owned());
    Message { id, task, args, routing_key: "celery".to_owned(), ..Message::default() }.encode(Encoding::Json)
}

/// The longest times for which others had to wait.
#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    /// The runtime's only thread was held up.
    runtime: Duration,
    /// No task of the worker ended.
    tasks: Duration,
    /// Another process sent one small message.
    others: Duration,
}

/// Sends small messages to another queue until it is told to stop, as another process would. The
/// longest time that one took.
fn other_process(url: String, stop: Arc<AtomicBool>) -> JoinHandle<Duration> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let Connected { broker, .. } = connect(&url, None).unwrap();
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Acquire) {
                let begun = Instant::now();
                broker.publish(&[Outgoing { queue: "other".into(), ..outgoing(b"{}".to_vec()) }]).await.unwrap();
                longest = longest.max(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            longest
        })
    })
}

/// Runs small tasks, 10 ms each, with large messages among them, which end as junk.
async fn held_up(url: &str, large: Vec<Vec<u8>>) -> Longest {
    let Connected { broker, .. } = connect(url, None).unwrap();
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
    let ends: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = ends.clone();
    let tick = Task::future("tick", move |_, _| {
        let noted = noted.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            noted.lock().unwrap().push(Instant::now());
            Ok(1.into())
        }
    });
    let mut options = WorkerOptions::new("w@large");
    options.lanes[LaneKind::Async as usize] = 4;
    let buried = Arc::new(AtomicU64::new(0));
    let counted = buried.clone();
    let is_dead = |event: &WorkerEvent| matches!(event, WorkerEvent::Task(notice) if matches!(notice.what, TaskChange::Dead { .. }));
    let mut dead = options.hub.listen_to(Detail::Tasks, 100_000, is_dead);
    tokio::spawn(async move {
        while dead.next().await.is_some() {
            counted.fetch_add(1, Ordering::AcqRel);
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let other = other_process(url.to_owned(), stop.clone());
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
    while ends.lock().unwrap().len() < 2 * SMALL || buried.load(Ordering::Acquire) < count {
        assert!(begun.elapsed() < SOON, "{} ended", ends.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Release);
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.ok, summary.counts.dead, summary.error), (2 * SMALL as u64, count, None));
    feeling.abort();
    let ends = ends.lock().unwrap();
    let tasks = ends.windows(2).map(|two| two[1].duration_since(two[0])).max().unwrap();
    Longest { runtime: *pulse.lock().unwrap(), tasks, others: other.join().unwrap() }
}

/// A file of its own.
struct File(std::path::PathBuf);

impl File {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("longshore-large-{}-{}.db", std::process::id(), fastrand::u64(..))))
    }

    fn url(&self) -> String {
        format!("sqlite:{}?sync=normal", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-wake"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.0.display()));
        }
    }
}

#[tokio::test]
async fn large_messages_hold_up_nobody_else() {
    for (what, large) in [("one", vec![whole(LARGE)]), ("no JSON", vec![vec![b'x'; LARGE]]), ("many", vec![vec![b'x'; LARGE / 10]; 10])] {
        let Some(server) = Redis::start(&[]) else { return };
        let held = held_up(&server.url(), large.clone()).await;
        println!("{what} on Redis: runtime {:?}, tasks {:?}, others {:?}", held.runtime, held.tasks, held.others);
        assert!(held.runtime < LONG, "{what} on Redis: {held:?}");
        if what == "many" {
            let file = File::new();
            let held = held_up(&file.url(), large).await;
            println!("{what} in a file: runtime {:?}, tasks {:?}, others {:?}", held.runtime, held.tasks, held.others);
            assert!(held.runtime < LONG, "{what} in a file: {held:?}");
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_brought_to_the_worker_and_fails_whoever_waits_for_it() {
    let Some(server) = Redis::start(&[]) else { return };
    held_up(&server.url(), vec![whole(LARGE)]).await;
    let connected = connect(&server.url(), None).unwrap();
    let results = connected.results.clone();
    let letters = connected.letters().unwrap().dead(None).await.unwrap();
    assert!(letters.len() == 1 && letters[0].raw.len() < 1000, "what lies there is a stub");
    let doc = results.get(&[Key::Task("large".to_owned())]).await.unwrap().remove(0).expect("a result");
    let result = TaskResult::decode(&doc, 1 << 20).unwrap();
    assert_eq!(result.state, State::Failure);
    assert!(String::from_utf8_lossy(&doc).contains("are accepted"), "{}", String::from_utf8_lossy(&doc));
}

#[tokio::test]
async fn a_file_takes_no_message_that_no_worker_would_read() {
    let file = File::new();
    let Connected { broker, .. } = connect(&file.url(), None).unwrap();
    let error = broker.publish(&[outgoing(whole(LARGE))]).await.unwrap_err();
    assert_eq!(error.kind, longshore_core::ErrorKind::Refused);
    assert!(error.message.contains("workers accept 16777216"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_worker_of_one_lane_is_brought_each_message_once() {
    const COUNT: u64 = 16;
    const SIZE: usize = 1 << 20;
    let Some(server) = Redis::start(&[]) else { return };
    let Connected { broker, .. } = connect(&server.url(), None).unwrap();
    // What is full, and has a slot free, again and again.
    let tick = Task::plain("tick", |_, _| {
        thread::sleep(Duration::from_millis(200));
        Ok(longshore_celery::Value::Null)
    });
    let app = App::new().broker(server.url()).task(tick.on(LaneKind::Blocking));
    for _ in 0..COUNT {
        broker.publish(&[outgoing(whole(SIZE))]).await.unwrap();
    }
    let sent = || {
        let text = server.command(&["INFO", "stats"]);
        text.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")?.trim().parse::<u64>().ok()).unwrap()
    };
    let before = sent();
    let mut options = WorkerOptions::new("w@large");
    options.lanes[LaneKind::Blocking as usize] = 1;
    let worker = Worker::start(app, options).await.unwrap();
    let begun = Instant::now();
    loop {
        let states = broker.queues(&["celery".into()]).await.unwrap();
        if states[0].waiting + states[0].held == 0 {
            break;
        }
        assert!(begun.elapsed() < SOON, "{states:?}");
        // To look at the queue brings its next message.
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    let brought = (sent() - before) as f64 / SIZE as f64;
    assert!(brought < 2.0 * COUNT as f64, "{brought:.1} mebibytes, for {COUNT} messages of one");
    worker.stopper().warm();
    worker.join().await;
}

//! A store that can be spoilt, a worker on it, and the messages that it is sent.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_brokers::{Broker, Connected, Key, News, Notice, Outgoing, ResultBackend, connect};
use longshore_celery::{Encoding, Message, State, TaskResult, Value, WireSignature, canvas};
use longshore_core::LaneKind;
use longshore_testkit::servers::Redis;
use longshore_worker::{App, Call, Failure, Task, Worker, WorkerOptions};

pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Number of good ones.
pub(crate) const GOOD: i64 = 400;
/// The bad one's id.
pub(crate) const BAD: &str = "bad";

/// A store that can be spoilt.
pub(crate) enum Store {
    Redis(Redis),
    File(PathBuf, &'static str),
}

impl Store {
    pub(crate) fn file(query: &'static str) -> Self {
        Self::File(std::env::temp_dir().join(format!("longshore-poison-{}-{}.db", std::process::id(), fastrand::u64(..))), query)
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::File(path, query) => format!("sqlite:{}?sync=normal{query}", path.display()),
        }
    }

    /// A command of Redis', its words separated by spaces, or an SQL statement.
    pub(crate) fn spoil(&self, how: &str) {
        match self {
            Self::Redis(server) => {
                let answer = server.command(&how.split(' ').collect::<Vec<_>>());
                assert!(!answer.starts_with('-'), "{how}: {answer}");
            }
            Self::File(path, _) => rusqlite::Connection::open(path).unwrap().execute_batch(how).unwrap(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Self::File(path, _) = self {
            for end in ["", "-wal", "-shm", "-wake"] {
                let _ = std::fs::remove_file(format!("{}{end}", path.display()));
            }
        }
    }
}

/// Number of runs of each task, by name and argument.
pub(crate) type Ledger = Arc<Mutex<BTreeMap<(&'static str, i64), u32>>>;

pub(crate) fn noting(name: &'static str, ledger: &Ledger, takes: Duration) -> Task {
    let ledger = ledger.clone();
    Task::plain(name, move |_, call: Call| {
        std::thread::sleep(takes);
        let number = call.args.first().and_then(Value::as_i64).unwrap_or(-1);
        *ledger.lock().unwrap().entry((name, number)).or_default() += 1;
        Ok(number.into())
    })
    .on(LaneKind::Blocking)
}

/// A worker with its store, and what was said.
pub(crate) struct Bench {
    pub(crate) connected: Connected,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) results: Arc<dyn ResultBackend>,
    pub(crate) ledger: Ledger,
    pub(crate) said: Arc<Mutex<Vec<String>>>,
    pub(crate) url: String,
}

impl Bench {
    pub(crate) fn new(store: &Store) -> Self {
        let connected = connect(&store.url(), None).unwrap();
        let (broker, results) = (connected.broker.clone(), connected.results.clone());
        Self { connected, broker, results, ledger: Ledger::default(), said: Arc::default(), url: store.url() }
    }

    pub(crate) async fn worker(&self, early: bool, takes: Duration) -> Worker {
        let notes = self.said.clone();
        let notice: Notice = Arc::new(move |news: &News| notes.lock().unwrap().push(news.to_string()));
        let large = Task::plain("large", |_, _| Ok("x".repeat(2 << 20).into()));
        let rejects = Task::plain("rejects", |_, _| Err(Failure::Reject { requeue: false, reason: "I do not like it".to_owned() }));
        let tasks = [
            noting("good", &self.ledger, takes),
            noting("link", &self.ledger, takes),
            noting("plain", &self.ledger, takes),
            large,
            rejects,
            Task::plain("retries", |_, _| Err(Failure::retry())),
        ];
        let app = tasks.into_iter().fold(App::new().broker(&self.url).told(notice), |app, mut task| {
            if early {
                task.policy.acks = Some(longshore_worker::Acks::Early);
            }
            app.task(task)
        });
        Worker::start(app, WorkerOptions::new("w@poison")).await.unwrap()
    }

    /// The good ones, each with a link, and among them the bad one, if there is one.
    pub(crate) async fn send(&self, bad: Option<Message>) {
        let mut batch = Vec::new();
        let put = |message: Message, batch: &mut Vec<Outgoing>| {
            let raw = Message { routing_key: "celery".to_owned(), ..message }.encode(Encoding::Json);
            batch.push(Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw });
        };
        let mut bad = bad;
        for number in 0..GOOD {
            if number == 137
                && let Some(bad) = bad.take()
            {
                put(bad, &mut batch);
            }
            let (task, id) = ("good".to_owned(), format!("good-{number}"));
            put(Message { id, task, args: vec![number.into()], callbacks: vec![link("celery")], ..Message::default() }, &mut batch);
        }
        self.broker.publish(&batch).await.unwrap();
    }

    pub(crate) fn links(&self) -> usize {
        self.ledger.lock().unwrap().keys().filter(|(name, _)| *name == "link").count()
    }

    pub(crate) async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !is().await {
            assert!(begun.elapsed() < SOON, "{what}: {} links ran; said: {:?}", self.links(), self.said.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All good ones ran once, and their links.
    pub(crate) async fn all_is_well(&self, what: &str) {
        self.until(what, async || {
            self.links() == GOOD as usize
                && self.broker.queues(&["celery".into()]).await.is_ok_and(|states| states[0].waiting + states[0].held == 0)
        })
        .await;
        let ledger = self.ledger.lock().unwrap().clone();
        for number in 0..GOOD {
            for task in ["good", "link"] {
                assert_eq!(ledger.get(&(task, number)), Some(&1), "{what}: {task} {number}");
            }
        }
        let ids: Vec<Key> = (0..GOOD).map(|number| Key::Task(format!("good-{number}"))).collect();
        for doc in self.results.get(&ids).await.unwrap() {
            assert_eq!(TaskResult::decode(&doc.expect("a result"), 1 << 20).unwrap().state, State::Success, "{what}");
        }
    }
}

pub(crate) fn link(queue: &str) -> WireSignature {
    let mut link = WireSignature { task: "link".to_owned(), ..WireSignature::default() };
    link.options.set("queue", queue);
    link
}

pub(crate) fn bad(task: &str) -> Message {
    Message { id: BAD.to_owned(), task: task.to_owned(), args: vec![(-1).into()], ..Message::default() }
}

pub(crate) fn with_link(queue: &str) -> Message {
    Message { callbacks: vec![link(queue)], ..bad("plain") }
}

/// Its link is longer than a server can be told to take.
pub(crate) fn with_large_link() -> Message {
    Message { callbacks: vec![link("celery").args(["x".repeat(8 << 20)])], ..bad("plain") }
}

pub(crate) fn with_group(queue: &str) -> Message {
    Message { callbacks: vec![canvas::group([link("elsewhere"), link(queue)])], ..bad("plain") }
}

/// A chord whose header is saved, because the results of a group in it keep their nesting.
pub(crate) fn with_saved(queue: &str) -> Message {
    let header = [canvas::chain([link(queue), canvas::group([link(queue), link(queue)])]), link(queue)];
    Message { callbacks: vec![canvas::chord(header, link(queue))], ..bad("plain") }
}

/// Makes a message whose next attempt, which says more, is longer than a mebibyte.
pub(crate) fn just_short_enough(_: &str) -> Message {
    let of = |length: usize| Message { args: vec!["x".repeat(length).into()], routing_key: "celery".to_owned(), ..bad("retries") };
    let room = (1 << 20) - of(0).encode(Encoding::Json).len();
    of(room / 4 * 3 - 12)
}

pub(crate) fn with_part(_: &str) -> Message {
    Message { group: Some("g".to_owned()), group_index: Some(0), chord: Some(link("celery").into()), ..bad("plain") }
}

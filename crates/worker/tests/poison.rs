//! Poison: one task among 400 whose end a store refuses fails with the reason, and is no concern of
//! the others; a store that takes nothing is waited for. Every kind of effect (result, link, group,
//! part of a chord, dead letter) on every kind of store.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_brokers::{Broker, Key, Notice, Outgoing, ResultBackend, connect};
use longshore_celery::{Encoding, Exception, Message, Signature, State, TaskResult, Value, canvas};
use longshore_core::LaneKind;
use longshore_testkit::servers::Redis;
use longshore_worker::{App, Call, Failure, Task, Worker, WorkerOptions};

const SOON: Duration = Duration::from_secs(60);
/// Number of good ones.
const GOOD: i64 = 400;
/// The bad one's id.
const BAD: &str = "bad";

/// A store that can be spoilt.
enum Store {
    Redis(Redis),
    File(PathBuf, &'static str),
}

impl Store {
    fn file(query: &'static str) -> Self {
        Self::File(std::env::temp_dir().join(format!("longshore-poison-{}-{}.db", std::process::id(), fastrand::u64(..))), query)
    }

    fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::File(path, query) => format!("sqlite:{}?sync=normal{query}", path.display()),
        }
    }

    /// A command of Redis', its words separated by spaces, or an SQL statement.
    fn spoil(&self, how: &str) {
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
type Ledger = Arc<Mutex<BTreeMap<(&'static str, i64), u32>>>;

fn noting(name: &'static str, ledger: &Ledger, takes: Duration) -> Task {
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
struct Bench {
    broker: Arc<dyn Broker>,
    results: Arc<dyn ResultBackend>,
    ledger: Ledger,
    said: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl Bench {
    fn new(store: &Store) -> Self {
        let (broker, results) = connect(&store.url(), None).unwrap();
        Self { broker, results, ledger: Ledger::default(), said: Arc::default(), url: store.url() }
    }

    async fn worker(&self, early: bool, takes: Duration) -> Worker {
        let notes = self.said.clone();
        let notice: Notice = Arc::new(move |text: &str| notes.lock().unwrap().push(text.to_owned()));
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
                task.policy.acks = longshore_worker::Acks::Early;
            }
            app.task(task)
        });
        Worker::start(app, WorkerOptions::new("w@poison")).await.unwrap()
    }

    /// The good ones, each with a link, and among them the bad one, if there is one.
    async fn send(&self, bad: Option<Message>) {
        let mut batch = Vec::new();
        let put = |message: Message, batch: &mut Vec<Outgoing>| {
            let raw = Message { routing_key: "celery".to_owned(), ..message }.encode(Encoding::Json);
            batch.push(Outgoing { queue: "celery".into(), priority: 0, due: None, raw });
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

    fn links(&self) -> usize {
        self.ledger.lock().unwrap().keys().filter(|(name, _)| *name == "link").count()
    }

    async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !is().await {
            assert!(begun.elapsed() < SOON, "{what}: {} links ran; said: {:?}", self.links(), self.said.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All good ones ran once, and their links.
    async fn all_is_well(&self, what: &str) {
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

fn link(queue: &str) -> Signature {
    let mut link = Signature { task: "link".to_owned(), ..Signature::default() };
    link.options.set("queue", queue);
    link
}

fn bad(task: &str) -> Message {
    Message { id: BAD.to_owned(), task: task.to_owned(), args: vec![(-1).into()], ..Message::default() }
}

fn with_link(queue: &str) -> Message {
    Message { callbacks: vec![link(queue)], ..bad("plain") }
}

fn with_group(queue: &str) -> Message {
    Message { callbacks: vec![canvas::group([link("elsewhere"), link(queue)])], ..bad("plain") }
}

/// A chord whose header is saved, because the results of a group in it keep their nesting.
fn with_saved(queue: &str) -> Message {
    let header = [canvas::chain([link(queue), canvas::group([link(queue), link(queue)])]), link(queue)];
    Message { callbacks: vec![canvas::chord(header, link(queue))], ..bad("plain") }
}

/// Makes a message whose next attempt, which says more, is longer than a mebibyte.
fn just_short_enough(_: &str) -> Message {
    let of = |length: usize| Message { args: vec!["x".repeat(length).into()], routing_key: "celery".to_owned(), ..bad("retries") };
    let room = (1 << 20) - of(0).encode(Encoding::Json).len();
    of(room / 4 * 3 - 12)
}

fn with_part(_: &str) -> Message {
    Message { group: Some("g".to_owned()), group_index: Some(0), chord: Some(link("celery").into()), ..bad("plain") }
}

/// A kind of effect, and how it is refused.
struct Row {
    what: &'static str,
    /// The store, spoilt so.
    spoil: &'static str,
    message: fn(&str) -> Message,
    /// Its argument.
    queue: &'static str,
    /// Words of the reason.
    reason: &'static str,
    /// Its FAILURE can be stored, and its dead letter.
    result: bool,
    letter: bool,
}

async fn one_bad_one_is_no_concern_of_the_others(store: impl Fn() -> Option<Store>, rows: &[Row]) {
    for Row { what, spoil, message, queue, reason, result, letter } in rows {
        let Some(store) = store() else { return };
        let bench = Bench::new(&store);
        if !spoil.is_empty() {
            store.spoil(spoil);
        }
        bench.send(Some(message(queue))).await;
        let worker = bench.worker(false, Duration::ZERO).await;
        bench.all_is_well(what).await;
        let letters = bench.broker.dead(Some("celery")).await.unwrap();
        assert_eq!(letters.len(), usize::from(*letter), "{what}: {letters:?}");
        if *letter {
            assert!(letters[0].reason.contains(reason), "{what}: {}", letters[0].reason);
        }
        let doc = bench.results.get(&[Key::Task(BAD.to_owned())]).await.unwrap().remove(0);
        assert_eq!(doc.is_some(), *result, "{what}");
        if let Some(doc) = doc {
            let doc = TaskResult::decode(&doc, 1 << 20).unwrap();
            assert_eq!(doc.state, State::Failure, "{what}");
            let exception = Exception::from_value(&doc.result).unwrap().to_string();
            assert!(exception.contains(reason), "{what}: {exception}");
        }
        assert!(bench.broker.peek("elsewhere", 9).await.unwrap().is_empty(), "{what}: nothing of what is refused is done");
        bench.broker.find(BAD).await.unwrap_or_else(|error| panic!("{what}: why: {error}"));
        bench.broker.queues(&[]).await.unwrap_or_else(|error| panic!("{what}: queues: {error}"));
        bench.broker.list(None, 10).await.unwrap_or_else(|error| panic!("{what}: tasks list: {error}"));
        worker.stopper().warm();
        let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
        let dead = u64::from(summary.dead == 1);
        assert_eq!((summary.ok, summary.failed, dead, summary.error), (2 * GOOD as u64, 1, 1, None), "{what}");
    }
}

const LISTS: &str = "WRONGTYPE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_whatever_is_refused_of_one_task_fails_it_alone() {
    let rows = [
        Row {
            what: "a result",
            spoil: "LPUSH celery-task-meta-bad x",
            message: |_| bad("plain"),
            queue: "",
            reason: LISTS,
            result: false,
            letter: true,
        },
        Row {
            what: "a large result",
            spoil: "CONFIG SET proto-max-bulk-len 1mb",
            message: |_| bad("large"),
            queue: "",
            reason: "proto-max-bulk-len",
            result: true,
            letter: true,
        },
        Row { what: "a link", spoil: "SET wrong x", message: with_link, queue: "wrong", reason: LISTS, result: true, letter: true },
        Row { what: "a group", spoil: "SADD wrong x", message: with_group, queue: "wrong", reason: LISTS, result: true, letter: true },
        Row {
            what: "a link to what is held",
            spoil: "",
            message: with_link,
            queue: "unacked",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "a link to bindings",
            spoil: "",
            message: with_link,
            queue: "_kombu.binding.celery",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "a link to a result",
            spoil: "",
            message: with_link,
            queue: "celery-task-meta-x",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "the parts of a chord",
            spoil: "SET celery-taskset-meta-g.j x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "the size of a chord",
            spoil: "LPUSH celery-taskset-meta-g.s x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "the counted of a chord",
            spoil: "SET celery-taskset-meta-g.d x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "the claim of a chord",
            spoil: "LPUSH celery-taskset-meta-g.c x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "its next attempt",
            spoil: "CONFIG SET proto-max-bulk-len 1mb",
            message: just_short_enough,
            queue: "",
            reason: "proto-max-bulk-len",
            result: true,
            letter: false,
        },
        Row {
            what: "a dead letter",
            spoil: "SET longshore:dead:celery x",
            message: |_| bad("rejects"),
            queue: "",
            reason: "I do not like it",
            result: true,
            letter: true,
        },
    ];
    one_bad_one_is_no_concern_of_the_others(|| Redis::start(&[]).map(Store::Redis), &rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_whatever_is_refused_of_one_task_fails_it_alone() {
    let rows = [
        Row {
            what: "a result",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON results WHEN NEW.key = 'celery-task-meta-bad' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: |_| bad("plain"),
            queue: "",
            reason: "poison",
            result: false,
            letter: true,
        },
        Row {
            what: "a link",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON messages WHEN NEW.queue = 'wrong' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_link,
            queue: "wrong",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a group",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON messages WHEN NEW.queue = 'wrong' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_group,
            queue: "wrong",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a reserved name",
            spoil: "",
            message: with_link,
            queue: "unacked_index",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "the part of a chord",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON chord_parts BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_part,
            queue: "",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a group's saved header",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON results WHEN NEW.key LIKE 'celery-taskset-meta-%' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_saved,
            queue: "elsewhere",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "its next attempt",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON messages WHEN instr(CAST(NEW.raw AS TEXT), '\"retries\": 1') BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: |_| bad("retries"),
            queue: "",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a dead letter",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON dead BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: |_| bad("rejects"),
            queue: "",
            reason: "I do not like it",
            result: true,
            letter: false,
        },
    ];
    one_bad_one_is_no_concern_of_the_others(|| Some(Store::file("")), &rows).await;
    let large = [Row {
        what: "a large result",
        spoil: "",
        message: |_| bad("large"),
        queue: "",
        reason: "more than it can hold",
        result: true,
        letter: true,
    }];
    one_bad_one_is_no_concern_of_the_others(|| Some(Store::file("&max_size=2000000")), &large).await;
}

/// Acknowledged early, a task has no message that could be a dead letter: its result says what is
/// refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_of_a_task_that_is_acknowledged_early_fails_it_alone() {
    let Some(server) = Redis::start(&[]) else { return };
    let store = Store::Redis(server);
    let bench = Bench::new(&store);
    store.spoil("SET wrong x");
    bench.send(Some(with_link("wrong"))).await;
    let worker = bench.worker(true, Duration::ZERO).await;
    bench.all_is_well("early").await;
    bench.until("its failure", async || bench.results.get(&[Key::Task(BAD.to_owned())]).await.unwrap()[0].is_some()).await;
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.ok, summary.failed, summary.error), (2 * GOOD as u64, 1, None));
}

/// Ways to make a server take nothing, and to make it take everything again.
struct Trouble {
    what: &'static str,
    begins: &'static [&'static str],
    ends: &'static [&'static str],
    says: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_nothing_fails_nobody_and_is_waited_for() {
    let rows = [
        Trouble { what: "memory", begins: &["CONFIG SET maxmemory 1"], ends: &["CONFIG SET maxmemory 0"], says: "OOM" },
        Trouble { what: "a replica", begins: &["REPLICAOF 127.0.0.1 1"], ends: &["REPLICAOF NO ONE"], says: "READONLY" },
        Trouble {
            what: "too few replicas",
            begins: &["CONFIG SET min-replicas-to-write 1"],
            ends: &["CONFIG SET min-replicas-to-write 0"],
            says: "NOREPLICAS",
        },
        Trouble {
            what: "a permission",
            begins: &["ACL SETUSER default -lpush -setex -set"],
            ends: &["ACL SETUSER default +@all"],
            says: "ACL SETUSER",
        },
        Trouble { what: "a strange key", begins: &["SET longshore:paused x"], ends: &["DEL longshore:paused"], says: "WRONGTYPE" },
        Trouble {
            what: "a password",
            begins: &["CONFIG SET requirepass S3CRET", "CLIENT KILL TYPE normal"],
            ends: &["AUTH S3CRET", "CONFIG SET requirepass "],
            says: "NOAUTH",
        },
    ];
    for Trouble { what, begins, ends, says } in rows {
        let Some(server) = Redis::start(&[]) else { return };
        let port = server.port();
        is_waited_for(what, &Store::Redis(server), says, || commands(port, begins), || commands(port, ends)).await;
    }
}

/// Its snapshot cannot be put into its place: a directory is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_save_fails_nobody_and_is_waited_for() {
    let Some(server) = Redis::start(&["--dbfilename", "taken"]) else { return };
    let port = server.port();
    assert_eq!(server.command(&["CONFIG", "SET", "save", "3600 1"]), "+OK\r\n");
    let answer = server.command(&["CONFIG", "GET", "dir"]);
    let taken = PathBuf::from(answer.trim_end().lines().last().unwrap()).join("taken");
    let begin = || {
        std::fs::create_dir(&taken).unwrap();
        commands(port, &["BGSAVE"]);
    };
    let end = || {
        std::fs::remove_dir(&taken).unwrap();
        commands(port, &["BGSAVE"]);
    };
    is_waited_for("a snapshot", &Store::Redis(server), "MISCONF", begin, end).await;
}

/// While a server takes nothing, nobody fails and it is said once; when it takes something again,
/// all goes on.
async fn is_waited_for(what: &str, store: &Store, says: &str, begin: impl FnOnce(), end: impl FnOnce()) {
    let bench = Bench::new(store);
    bench.send(None).await;
    let worker = bench.worker(false, Duration::from_millis(10)).await;
    bench.until(what, async || bench.links() > 0).await;
    begin();
    bench.until(what, async || bench.said.lock().unwrap().iter().any(|text| text.contains(says))).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let during = bench.said.lock().unwrap().len();
    assert!(during <= 6, "{what}: said again and again: {:?}", bench.said.lock().unwrap());
    end();
    bench.all_is_well(what).await;
    assert!(bench.said.lock().unwrap().iter().any(|text| text.contains("again")), "{what}: {:?}", bench.said.lock().unwrap());
    assert_eq!(bench.broker.dead(None).await.unwrap(), [], "{what}");
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.ok, summary.failed, summary.dead, summary.error), (2 * GOOD as u64, 0, 0, None), "{what}");
}

/// Several commands on one connection, words separated by spaces; all must be granted.
fn commands(port: u16, all: &[&str]) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for how in all {
        let words: Vec<&str> = how.split(' ').collect();
        let mut out = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| out.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        stream.write_all(out.as_bytes()).unwrap();
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).unwrap();
        assert_ne!(answer[..count].first(), Some(&b'-'), "{how}: {}", String::from_utf8_lossy(&answer[..count]));
    }
}

//! Two workers in processes of their own, which can be killed, what is sent to them, and a ledger
//! that their tasks write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read as _, Write as _},
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_brokers::{Connected, Key, connect};
use longshore_celery::{Message, State, TaskResult, Value, WireSignature};
use longshore_core::{ErrorKind, LaneKind};
use longshore_testkit::{rabbit::RabbitServer, servers::Redis};
use longshore_worker::{App, Call, Task, Worker, WorkerOptions};

use crate::days::{message, outgoing};

/// Tasks of a round, each of so long; each tenth is followed by another one.
pub(super) const LOAD: usize = 120;
const LASTS: Duration = Duration::from_millis(10);
const FOLLOWED: i64 = 10;
/// Tags of what follows: that of the task that it follows, and this.
const FOLLOWS: i64 = 1_000_000;
const SLOTS: usize = 4;
/// Longest time until what was sent has ended. A note of what a dead worker ran holds for a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// Place of the results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Results {
    /// A file of SQLite's.
    File,
    /// A redis-server.
    Redis,
    /// `rpc://`, and nobody asks.
    Nowhere,
}

/// Serves, in a process of its own, until that is killed or its parent ends.
pub(super) async fn worker_of(told: impl Fn(&str) -> Option<String>) {
    let (Some(broker), Some(results), Some(ledger)) = (told("KILLS_BROKER"), told("KILLS_RESULTS"), told("KILLS_LEDGER")) else { return };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    // One write for each line, so that none is torn.
    let ledger = Arc::new(Mutex::new(File::options().append(true).open(ledger).unwrap()));
    let note = move |what: &str, tag: i64| {
        let line = format!("{what} {tag} {}\n", std::process::id());
        ledger.lock().unwrap().write_all(line.as_bytes()).unwrap();
    };
    let task = |name: &str| {
        let note = note.clone();
        let run = move |_, call: Call| {
            let note = note.clone();
            let tag = call.args.iter().rev().find_map(Value::as_i64).unwrap_or(-1);
            note("start", tag);
            std::thread::sleep(LASTS);
            note("end", tag);
            Ok(Value::from(tag))
        };
        Task::plain(name, run).on(LaneKind::Blocking)
    };
    let said = |news: &longshore_brokers::News| eprintln!("{news}");
    let app = App::new().broker(broker).results(results).told(Some(Arc::new(said) as longshore_brokers::Notice));
    let app = app.task(task("marked")).task(task("follows"));
    let mut options = WorkerOptions::new(format!("w{}@kills", std::process::id()));
    options.lanes = [SLOTS; 4];
    let _ = Worker::start(app, options).await.unwrap().join().await;
}

/// Runs of each tag, in order: the process that started it, and whether it came to its end.
type Runs = BTreeMap<i64, Vec<(u32, bool)>>;

pub(super) struct Field {
    broker: String,
    results: Results,
    results_url: String,
    connected: Connected,
    workers: Vec<Child>,
    killed: BTreeSet<u32>,
    /// Tags whose confirmation was lost, and which were sent once more.
    sent_again: BTreeSet<i64>,
    /// The server was killed.
    lost_connections: bool,
    next: i64,
    folder: tempfile::TempDir,
    _redis: Option<Redis>,
}

impl Field {
    /// Starts two workers. `None` where something is missing, and that was said.
    pub(super) fn new(vhost: &str, options: &str, results: Results) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let redis = if results == Results::Redis { Some(Redis::start(&[])?) } else { None };
        let results_url = match results {
            Results::File => format!("sqlite:{}?sync=normal", folder.path().join("results.db").display()),
            Results::Redis => redis.as_ref()?.url(),
            Results::Nowhere => "rpc://".to_owned(),
        };
        let broker = format!("{vhost}{options}");
        let connected = connect(&broker, Some(&results_url)).unwrap();
        File::create(folder.path().join("ledger")).unwrap();
        let (killed, sent_again) = (BTreeSet::new(), BTreeSet::new());
        let mut field = Self {
            broker,
            results,
            results_url,
            connected,
            workers: Vec::new(),
            killed,
            sent_again,
            lost_connections: false,
            next: 0,
            folder,
            _redis: redis,
        };
        field.start_worker();
        field.start_worker();
        Some(field)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start_worker(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("said")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["kills::in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"]);
        command.env("KILLS_BROKER", &self.broker).env("KILLS_RESULTS", &self.results_url).env("KILLS_LEDGER", self.path("ledger"));
        // Its end of the pipe says when we are gone.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.workers.push(command.spawn().unwrap());
    }

    pub(super) fn next_tags(&mut self) -> Range<i64> {
        let first = self.next;
        self.next += LOAD as i64;
        first..self.next
    }

    /// Waits until the queue is there and both serve it.
    pub(super) async fn warm_up(&mut self, server: &RabbitServer) {
        let tags = self.next_tags();
        let sent_again = self.send(tags.clone(), LOAD).await;
        assert!(sent_again.is_empty());
        self.all_ended(tags).await;
        self.both_serve(server).await;
    }

    /// Waits until the queue has two consumers.
    pub(super) async fn both_serve(&self, server: &RabbitServer) {
        let vhost = vhost_of(&self.broker);
        self.until("both serve", || server.queues(vhost).iter().any(|(name, _, _, consumers)| name == "celery" && *consumers == 2)).await;
    }

    /// Sends them, so many at once, until each is confirmed. Returns those that were sent once
    /// more.
    pub(super) async fn send(&self, tags: Range<i64>, at_once: usize) -> Vec<i64> {
        let mut again = Vec::new();
        let tags: Vec<i64> = tags.collect();
        for some in tags.chunks(at_once) {
            let batch: Vec<_> = some.iter().map(|tag| outgoing(&call(*tag))).collect();
            let begun = Instant::now();
            while let Err(error) = self.connected.broker.publish(&batch).await {
                assert_eq!(error.kind, ErrorKind::Transient, "{error}");
                assert!(begun.elapsed() < PATIENCE, "it is never confirmed: {error}");
                again.extend(some);
            }
        }
        again
    }

    /// Kills the worker that has lived longest, once it runs something, and starts another one.
    /// Returns whether it did.
    pub(super) async fn replace_the_oldest_worker(&mut self) -> bool {
        let mut oldest = self.workers.remove(0);
        let pid = oldest.id();
        let is_busy = || self.runs().values().flatten().any(|(of, is_over)| *of == pid && !is_over);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..40))).await;
        let begun = Instant::now();
        // On a slow machine it may take a while until it has work.
        while !is_busy() && begun.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        oldest.kill().unwrap();
        oldest.wait().unwrap();
        let was_busy = is_busy();
        self.killed.insert(pid);
        self.start_worker();
        was_busy
    }

    pub(super) fn note_sent_again(&mut self, tags: Vec<i64>) {
        self.sent_again.extend(tags);
    }

    pub(super) fn note_lost_connections(&mut self) {
        self.lost_connections = true;
    }

    /// Reads the ledger.
    fn runs(&self) -> Runs {
        let mut runs = Runs::new();
        let text = fs::read_to_string(self.path("ledger")).unwrap();
        // The last line may be about to be written.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            let (tag, pid): (i64, u32) = (words[1].parse().unwrap(), words[2].parse().unwrap());
            let of_tag = runs.entry(tag).or_default();
            match words[0] {
                "start" => of_tag.push((pid, false)),
                _ => of_tag.iter_mut().rev().find(|(of, is_over)| *of == pid && !is_over).unwrap().1 = true,
            }
        }
        runs
    }

    /// Returns whether all of them, and what follows them, have had their effect.
    fn ended(&self, tags: &Range<i64>) -> bool {
        let runs = self.runs();
        let has_ended = |tag: i64| runs.get(&tag).is_some_and(|runs| runs.iter().any(|(_, is_over)| *is_over));
        tags.clone().all(|tag| has_ended(tag) && (tag % FOLLOWED != 0 || has_ended(tag + FOLLOWS)))
    }

    /// Waits until all of them, and what follows them, have had their effect and their result.
    pub(super) async fn all_ended(&self, tags: Range<i64>) {
        self.until("all have their effect", || self.ended(&tags)).await;
        if self.results == Results::Nowhere {
            return;
        }
        let follows = tags.clone().filter(|tag| tag % FOLLOWED == 0).map(|tag| tag + FOLLOWS);
        let keys: Vec<_> = tags.chain(follows).map(|tag| Key::Task(id(tag))).collect();
        let begun = Instant::now();
        loop {
            let docs = self.connected.results.get(&keys).await.unwrap();
            let is_success =
                |doc: &Option<Vec<u8>>| doc.as_ref().is_some_and(|doc| TaskResult::decode(doc, 1 << 20).unwrap().state == State::Success);
            if docs.iter().all(is_success) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "all have their result; said: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&self, what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < PATIENCE, "{what}; said: {}", self.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    /// Looks through the ledger, and says what it has.
    pub(super) async fn sum_up(mut self, server: &RabbitServer, what: &str) {
        let vhost = vhost_of(&self.broker).to_owned();
        // What was lent may still be on its way to its end.
        self.until("nothing is left", || server.queues(&vhost).iter().all(|(name, ready, lent, _)| name != "celery" || ready + lent == 0))
            .await;
        let letters = self.connected.letters().unwrap().dead(Some("celery")).await.unwrap();
        let runs = self.runs();
        let mut repeats = Repeats::default();
        for (tag, runs) in &runs {
            for (before, is_over) in &runs[..runs.len() - 1] {
                repeats.count(&self, *tag, *before, *is_over, runs.len());
            }
        }
        let lost = (0..self.next).filter(|tag| !self.ended(&(*tag..tag + 1))).count();
        let followers = runs.keys().filter(|tag| **tag >= FOLLOWS).count();
        println!(
            "{:?} {}: {what}: {} tasks confirmed and {followers} that follow: lost {lost}, {repeats}; dead letters {}",
            self.results,
            if self.broker.contains("quorum") { "quorum" } else { "classic" },
            self.next,
            letters.len()
        );
        assert_eq!((lost, letters.len(), &*repeats.strange), (0, 0, &[][..]), "said: {}", self.said());
        for worker in &mut self.workers {
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
        self.workers.clear();
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// Numbers of second runs, by their reasons.
#[derive(Default)]
struct Repeats {
    /// It ran when its worker was killed.
    ran: u32,
    /// It had ended, and its worker was killed before it could say so.
    unsaid: u32,
    /// Its sender was told nothing, and sent it again.
    sent_again: u32,
    /// It ran, or its acknowledgement was on its way, when the connection was lost.
    lent_again: u32,
    /// What went before it was ended twice.
    follows: u32,
    strange: Vec<(i64, u32)>,
}

impl Repeats {
    fn count(&mut self, field: &Field, tag: i64, before: u32, is_over: bool, runs: usize) {
        let count = if field.killed.contains(&before) {
            if is_over { &mut self.unsaid } else { &mut self.ran }
        } else if field.sent_again.contains(&tag) {
            &mut self.sent_again
        } else if tag >= FOLLOWS && runs <= 4 {
            // What it follows may have been sent twice, and each copy may send it once more.
            &mut self.follows
        } else if field.lost_connections && field.results == Results::Nowhere {
            &mut self.lent_again
        } else {
            return self.strange.push((tag, before));
        };
        *count += 1;
    }
}

impl std::fmt::Display for Repeats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ran, unsaid, sent_again, lent_again, follows, strange } = self;
        let sum = ran + unsaid + sent_again + lent_again + follows;
        write!(f, "run again {sum}: ran at the kill {ran}, ended and unsaid at the kill {unsaid}, sent again {sent_again}, ")?;
        write!(f, "lent again {lent_again}, followed twice {follows}; for no reason {}", strange.len())
    }
}

fn id(tag: i64) -> String {
    if tag >= FOLLOWS { format!("follows-{}", tag - FOLLOWS) } else { format!("marked-{tag}") }
}

fn call(tag: i64) -> Message {
    let mut call = message("marked", tag);
    if tag % FOLLOWED == 0 {
        let mut link = WireSignature { task: "follows".to_owned(), ..WireSignature::default() }.args([Value::from(tag + FOLLOWS)]);
        link.options.set("queue", "celery");
        link.options.set("task_id", id(tag + FOLLOWS));
        call.callbacks = vec![link];
    }
    call
}

fn vhost_of(url: &str) -> &str {
    let path = url.rsplit('/').next().unwrap();
    path.split('?').next().unwrap()
}

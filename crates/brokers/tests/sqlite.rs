//! SQLite between processes, under kill -9, and with files that are not as they should be.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::{
    Broker, Claimed, Connected, Consumer, End, Ended, Finish, Key, OpenOptions, Outgoing, SharedState, Stored, connect, connect_with,
    sqlite::Sqlite,
};
use longshore_core::{ErrorKind, source::Fetched};

const SOON: Duration = Duration::from_secs(20);

fn message(queue: &str, id: &str) -> Outgoing {
    Outgoing {
        queue: queue.into(),
        exchange: None,
        priority: 0,
        due: None,
        raw: format!(r#"{{"headers": {{"id": "{id}"}}}}"#).into_bytes(),
    }
}

fn id(claimed: &Claimed) -> String {
    let text = String::from_utf8(claimed.raw.clone()).unwrap();
    text.split('"').nth(5).unwrap().to_owned()
}

async fn open(broker: &dyn Broker, queue: &str, lease: Duration) -> Arc<dyn Consumer> {
    let mut options = OpenOptions::new("test@here", [queue]);
    options.lease = lease;
    broker.open(options).await.unwrap()
}

async fn claim_one(consumer: &dyn Consumer) -> Claimed {
    let mut claimed = Vec::new();
    let fetched = tokio::time::timeout(SOON, consumer.claim(1, &mut claimed)).await.unwrap().unwrap();
    assert_eq!(fetched, Fetched::More);
    claimed.remove(0)
}

fn done(claimed: &Claimed) -> Finish {
    let doc = br#"{"status": "SUCCESS"}"#.to_vec();
    let results = vec![Stored { key: Key::Task(id(claimed)), doc, expires: None, keep_success: false, reply_to: None }];
    Finish { receipt: claimed.receipt, publish: Vec::new(), results, part: None, end: End::Ack }
}

fn url(directory: &Path) -> String {
    format!("sqlite:{}?sync=normal", directory.join("tasks.db").display())
}

/// A process that does not outlive its test.
struct Other(Child, BufReader<ChildStdout>);

impl Other {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This test binary again, to be a process of its own.
fn start(role: &str, url: &str) -> Other {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["another_process", "--exact", "--ignored", "--nocapture"]).env("SQLITE_ROLE", role).env("SQLITE_URL", url);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    Other(child, output)
}

/// Waits for a line of the child that is this word.
fn says(child: &mut Other, word: &str) {
    let mut lines = child.1.by_ref().lines();
    assert!(lines.any(|line| line.unwrap().ends_with(word)), "it ended without saying {word}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of the others, which start it"]
async fn another_process() {
    let Connected { broker, .. } = connect(&std::env::var("SQLITE_URL").unwrap(), None).unwrap();
    match &*std::env::var("SQLITE_ROLE").unwrap() {
        "worker" => {
            let consumer = open(&*broker, "q", Duration::from_secs(30)).await;
            println!("\nready");
            loop {
                let mut claimed = Vec::new();
                consumer.claim(7, &mut claimed).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                // Two calls at once, as an engine makes them.
                let (one, other) = claimed.split_at(claimed.len() / 2);
                let (one, other): (Vec<_>, Vec<_>) = (one.iter().map(done).collect(), other.iter().map(done).collect());
                let (one, other) = tokio::join!(consumer.finish(&one), consumer.finish(&other));
                assert!(one.unwrap().iter().chain(&other.unwrap()).all(|ended| *ended == Ended::Done));
            }
        }
        "holder" => {
            let consumer = open(&*broker, "q", Duration::from_secs(60)).await;
            let _held = claim_one(&*consumer).await;
            println!("\nholds");
            std::future::pending::<()>().await;
        }
        "frozen" => {
            let consumer = open(&*broker, "q", Duration::from_secs(1)).await;
            let held = claim_one(&*consumer).await;
            let still = [Finish { end: End::Keep, results: Vec::new(), ..done(&held) }];
            println!("\nholds");
            let begun = Instant::now();
            while consumer.finish(&still).await.unwrap() == [Ended::Done] {
                assert!(begun.elapsed() < 3 * SOON, "it is never refused");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            println!("\nrefused");
            let next = claim_one(&*consumer).await;
            assert_eq!(consumer.finish(&[done(&next)]).await.unwrap(), [Ended::Done]);
            println!("\nworks on");
        }
        "echo" => {
            let consumer = open(&*broker, "ping", Duration::from_secs(30)).await;
            println!("\nready");
            loop {
                let claimed = claim_one(&*consumer).await;
                let publish = vec![message("pong", &id(&claimed))];
                consumer.finish(&[Finish { publish, results: Vec::new(), ..done(&claimed) }]).await.unwrap();
            }
        }
        role => panic!("{role} is not known"),
    }
}

/// How many messages a process held, as the file says it before anybody took them from it.
fn held_by(file: &Path, pid: u32) -> i64 {
    let tool = rusqlite::Connection::open(file).unwrap();
    tool.busy_timeout(SOON).unwrap();
    let sql = "SELECT count(*) FROM messages JOIN owners ON owner = number WHERE pid = ?1";
    tool.query_row(sql, [pid], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_workers_are_killed_in_the_midst() {
    const ROUNDS: usize = 10;
    const TASKS: usize = 150;
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let Connected { broker, results, .. } = connect(&url, None).unwrap();
    let _stays = start("worker", &url);
    let (mut in_the_midst, seed) = (0, fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..TASKS).map(|at| format!("r{round}-{at}")).collect();
        let mut dies = start("worker", &url);
        says(&mut dies, "ready");
        for names in names.chunks(10) {
            broker.publish(&names.iter().map(|name| message("q", name)).collect::<Vec<_>>()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_micros(random.u64(0..25_000))).await;
        let pid = dies.0.id();
        dies.kill();
        in_the_midst += held_by(&directory.path().join("tasks.db"), pid);
        let keys: Vec<_> = names.iter().map(|name| Key::Task(name.clone())).collect();
        let begun = Instant::now();
        loop {
            let missing = results.get(&keys).await.unwrap().iter().filter(|doc| doc.is_none()).count();
            let state = broker.queues(&["q".into()]).await.unwrap().remove(0);
            if missing == 0 && (state.waiting, state.held, state.dead) == (0, 0, 0) {
                break;
            }
            assert!(begun.elapsed() < SOON, "round {round}, seed {seed}: {missing} lost, {state:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    println!("{ROUNDS} kills, {in_the_midst} tasks held by the killed, 0 lost");
    assert!(in_the_midst > 0, "no worker was killed in the midst");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_killed_is_noticed_long_before_its_lease_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let Connected { broker, .. } = connect(&url, None).unwrap();
    broker.publish(&[message("q", "one")]).await.unwrap();
    let mut holder = start("holder", &url);
    says(&mut holder, "holds");
    let consumer = open(&*broker, "q", Duration::from_secs(60)).await;
    holder.kill();
    let begun = Instant::now();
    let claimed = claim_one(&*consumer).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    assert_eq!((claimed.crashes, claimed.redelivered), (1, true));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_frozen_loses_what_it_holds_after_its_lease_and_is_refused_when_it_thaws() {
    use rustix::process::{Pid, Signal, kill_process};
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let Connected { broker, results, .. } = connect(&url, None).unwrap();
    broker.publish(&[message("q", "one")]).await.unwrap();
    let mut frozen = start("frozen", &url);
    says(&mut frozen, "holds");
    let consumer = open(&*broker, "q", Duration::from_secs(1)).await;
    // Longer than the lease: as long as it lives it holds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(broker.queues(&["q".into()]).await.unwrap()[0].held, 1);
    let pid = Pid::from_raw(frozen.0.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let claimed = claim_one(&*consumer).await;
    assert_eq!((id(&claimed), claimed.crashes), ("one".to_owned(), 1));
    kill_process(pid, Signal::CONT).unwrap();
    says(&mut frozen, "refused");
    assert_eq!(consumer.finish(&[done(&claimed)]).await.unwrap(), [Ended::Done]);
    consumer.leave().await.unwrap();
    broker.publish(&[message("q", "two")]).await.unwrap();
    says(&mut frozen, "works on");
    assert!(results.get(&[Key::Task("two".to_owned())]).await.unwrap()[0].is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_wake_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let Connected { broker, .. } = connect(&url, None).unwrap();
    let consumer = open(&*broker, "pong", Duration::from_secs(30)).await;
    let mut echo = start("echo", &url);
    says(&mut echo, "ready");
    let mut trips = Vec::new();
    for at in 0..60 {
        let begun = Instant::now();
        broker.publish(&[message("ping", &at.to_string())]).await.unwrap();
        let claimed = claim_one(&*consumer).await;
        trips.push(begun.elapsed());
        assert_eq!(id(&claimed), at.to_string());
        consumer.finish(&[done(&claimed)]).await.unwrap();
        // Long enough for both to fall asleep.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    trips.sort();
    println!("round trip between two processes: p50 {:?}, p90 {:?}", trips[30], trips[54]);
    assert!(trips[30] < Duration::from_millis(50), "{trips:?}");
}

#[tokio::test]
async fn what_was_rescued_from_a_living_worker_is_refused_and_it_works_on() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let Connected { broker, results, .. } = connect(&url, None).unwrap();
    let slow = open(&*broker, "q", Duration::from_secs(60)).await;
    broker.publish(&[message("q", "one")]).await.unwrap();
    let claimed = claim_one(&*slow).await;
    // As if it had been stopped for longer than its lease: the others believe it dead.
    let path = directory.path().join("tasks.db");
    rusqlite::Connection::open(&path).unwrap().execute("UPDATE owners SET pid = 4194303, started = 1", []).unwrap();
    let Connected { broker: other, .. } = connect(&url, None).unwrap();
    let rescuer = open(&*other, "q", Duration::from_secs(60)).await;
    let again = claim_one(&*rescuer).await;
    assert_eq!((id(&again), again.crashes), ("one".to_owned(), 1));
    assert_eq!(slow.finish(&[done(&claimed)]).await.unwrap(), [Ended::Refused]);
    assert_eq!(slow.load(&[claimed.receipt]).await.unwrap(), [None]);
    assert_eq!(results.get(&[Key::Task("one".to_owned())]).await.unwrap(), [None]);
    assert_eq!(rescuer.finish(&[done(&again)]).await.unwrap(), [Ended::Done]);
    rescuer.leave().await.unwrap();
    broker.publish(&[message("q", "two")]).await.unwrap();
    let next = claim_one(&*slow).await;
    assert_eq!(slow.finish(&[done(&next)]).await.unwrap(), [Ended::Done]);
}

#[tokio::test]
async fn a_full_disk_is_said_and_waited_for_and_loses_nothing_that_was_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let said = Arc::new(Mutex::new(Vec::new()));
    let notes = said.clone();
    let notice = Arc::new(move |news: &longshore_brokers::News| notes.lock().unwrap().push(news.to_string()));
    let connected = connect_with(&format!("{url}&max_size=300000"), None, notice).unwrap();
    let broker = connected.broker.clone();
    let consumer = open(&*broker, "q", Duration::from_secs(60)).await;
    let mut confirmed = 0;
    let error = loop {
        let batch: Vec<_> = (0..10).map(|at| message("q", &format!("{confirmed}-{at}-{}", "x".repeat(500)))).collect();
        match broker.publish(&batch).await {
            Ok(()) => confirmed += 10,
            Err(error) => break error,
        }
        assert!(confirmed < 10_000, "it never gets full");
    };
    assert!(confirmed > 0);
    assert_eq!(error.kind, ErrorKind::Unwritable);
    assert!(error.message.contains("tasks.db") && error.message.contains("full") && error.message.contains("make room"), "{error}");
    assert_eq!(broker.queues(&["q".into()]).await.unwrap()[0].waiting, confirmed, "all that was confirmed, and nothing else");
    // What takes no room is done; what does waits until there is some, and says so.
    let claimed = claim_one(&*consumer).await;
    let next = Finish { publish: vec![message("next", &"y".repeat(100_000))], ..done(&claimed) };
    let finishing = tokio::spawn(async move { consumer.finish(&[next]).await });
    let begun = Instant::now();
    while !said.lock().unwrap().iter().any(|text| text.contains("full")) {
        assert!(begun.elapsed() < SOON, "{:?}", said.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!finishing.is_finished());
    assert_eq!(broker.purge("q").await.unwrap(), confirmed - 1);
    assert_eq!(tokio::time::timeout(SOON, finishing).await.unwrap().unwrap().unwrap(), [Ended::Done]);
    assert_eq!(connected.inspect().unwrap().peek("next", 9).await.unwrap().len(), 1);
    assert!(said.lock().unwrap().last().unwrap().contains("again"), "{:?}", said.lock().unwrap());
}

#[tokio::test]
async fn what_a_file_can_never_hold_is_the_failure_of_whoever_asks_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let Connected { broker, .. } = connect(&format!("{}&max_size=300000", url(directory.path())), None).unwrap();
    let consumer = open(&*broker, "q", Duration::from_secs(60)).await;
    broker.publish(&[message("q", "one"), message("q", "two")]).await.unwrap();
    let mut claimed = vec![claim_one(&*consumer).await];
    claimed.push(claim_one(&*consumer).await);
    let large = Finish { publish: vec![message("next", &"y".repeat(400_000))], ..done(&claimed[0]) };
    let ended = consumer.finish(&[large, done(&claimed[1])]).await.unwrap();
    assert!(matches!(&ended[0], Ended::Impossible { reason } if reason.contains("300000")), "{ended:?}");
    assert_eq!(ended[1], Ended::Done);
}

#[tokio::test]
async fn a_file_that_is_taken_away_while_it_is_open_is_noticed() {
    for replaced in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let Connected { broker, results, .. } = connect(&url(directory.path()), None).unwrap();
        broker.publish(&[message("q", "one")]).await.unwrap();
        let path = directory.path().join("tasks.db");
        std::fs::remove_file(&path).unwrap();
        if replaced {
            std::fs::write(&path, "something else").unwrap();
        }
        let error = broker.publish(&[message("q", "two")]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fatal);
        assert!(error.message.contains("tasks.db") && error.message.contains("while it was open"), "{error}");
        assert_eq!(results.get(&[Key::Task("x".to_owned())]).await.unwrap_err().kind, ErrorKind::Fatal);
    }
}

#[tokio::test]
async fn what_lies_beside_a_file_that_is_taken_away_is_noticed_and_nothing_that_was_confirmed_is_lost() {
    for (removed, emptied) in [(&["-wal"][..], false), (&["-wal", "-shm"], false), (&["-shm"], false), (&["-wal"], true)] {
        let directory = tempfile::tempdir().unwrap();
        let url = url(directory.path());
        let Connected { broker, .. } = connect(&url, None).unwrap();
        let idle = open(&*broker, "other", Duration::from_millis(300)).await;
        broker.publish(&[message("q", "one"), message("q", "two")]).await.unwrap();
        for end in removed {
            std::fs::remove_file(directory.path().join(format!("tasks.db{end}"))).unwrap();
        }
        if emptied {
            std::fs::write(directory.path().join("tasks.db-wal"), "").unwrap();
        }
        // By nobody but its lease.
        let told = tokio::time::timeout(SOON, idle.claim(1, &mut Vec::new())).await.unwrap().unwrap_err();
        assert_eq!(told.kind, ErrorKind::Fatal);
        for said in [removed[0], "while it was open", "all that was confirmed is in the database"] {
            assert!(told.message.contains(said), "{removed:?}: {told}");
        }
        let error = broker.publish(&[message("q", "three")]).await.unwrap_err();
        assert_eq!((error.kind, &error.message), (ErrorKind::Fatal, &told.message));
        drop((broker, idle));
        let Connected { broker, .. } = connect(&url, None).unwrap();
        assert_eq!(broker.queues(&["q".into()]).await.unwrap()[0].waiting, 2, "{removed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_waits_for_nobody_who_writes() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let Connected { broker, .. } = connect(&url, None).unwrap();
    broker.publish(&[message("q", "one")]).await.unwrap();
    let other = rusqlite::Connection::open(directory.path().join("tasks.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO queues(name) VALUES ('x')").unwrap();
    let begun = Instant::now();
    let looks_whole = connect(&url, None).unwrap();
    let looks = looks_whole.broker.clone();
    assert_eq!(looks.queues(&["q".into()]).await.unwrap()[0].waiting, 1);
    assert_eq!(looks_whole.inspect().unwrap().find("one").await.unwrap().len(), 1);
    assert_eq!(looks_whole.inspect().unwrap().list(None, 10).await.unwrap().len(), 1);
    assert!(looks_whole.letters().unwrap().dead(None).await.unwrap().is_empty());
    // A question to workers is asked later, and not waited for.
    let error = looks_whole.bus().unwrap().broadcast("celery.pidbox", "", b"{}").await.unwrap_err();
    assert!(error.kind == ErrorKind::Transient && error.message.contains("locked"), "{error}");
    drop(looks);
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
    broker.publish(&[message("q", "two")]).await.unwrap();
}

#[tokio::test]
async fn a_file_beside_which_nothing_can_be_made_is_read_and_says_why_it_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let Connected { broker, .. } = connect(&url, None).unwrap();
    broker.publish(&[message("q", "one")]).await.unwrap();
    drop(broker);
    // As on a full disk, or where the directory may not be written: SQLite gets no file of its own.
    std::fs::create_dir(directory.path().join("tasks.db-shm")).unwrap();
    let connected = connect(&url, None).unwrap();
    let broker = connected.broker.clone();
    let results = connected.results.clone();
    assert_eq!(broker.queues(&[]).await.unwrap()[0].waiting, 1);
    assert_eq!(connected.inspect().unwrap().find("one").await.unwrap().len(), 1);
    assert!(connected.letters().unwrap().dead(None).await.unwrap().is_empty());
    assert_eq!(results.get(&[Key::Task("one".to_owned())]).await.unwrap(), [None]);
    let error = broker.publish(&[message("q", "two")]).await.unwrap_err();
    assert!(error.message.contains("tasks.db"), "{error}");
    drop((broker, results, connected));
    std::fs::remove_dir(directory.path().join("tasks.db-shm")).unwrap();
    let Connected { broker, .. } = connect(&url, None).unwrap();
    assert_eq!(broker.queues(&[]).await.unwrap()[0].waiting, 1);
}

#[tokio::test]
async fn whoever_closes_a_file_last_leaves_it_alone() {
    let directory = tempfile::tempdir().unwrap();
    let there = || {
        let mut names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for told in [false, true] {
        let connected = connect(&url(directory.path()), None).unwrap();
        let broker = connected.broker.clone();
        let results = connected.results.clone();
        let consumer = open(&*broker, "q", Duration::from_secs(5)).await;
        broker.publish(&[message("q", "one")]).await.unwrap();
        let listens = connected.bus().unwrap().subscribe("celery.pidbox", "#").await.unwrap();
        broker.queues(&[]).await.unwrap();
        consumer.finish(&[done(&claim_one(&*consumer).await)]).await.unwrap();
        consumer.leave().await.unwrap();
        assert!(there().iter().any(|name| name == "tasks.db-wal"));
        if told {
            // Somebody else still has a clone.
            broker.close().await;
        } else {
            drop((consumer, broker, results, listens, connected));
        }
        assert_eq!(there(), ["tasks.db", "tasks.db-wake"], "told: {told}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let refusal = |name: &str| {
        let url = format!("sqlite:{}", at(name).display());
        let error = connect(&url, None).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.contains(name), "{error}");
        error.message
    };
    std::fs::write(at("text.db"), "this is a text, and a long one at that. ".repeat(100)).unwrap();
    assert!(refusal("text.db").contains("not an SQLite file"));
    assert!(std::fs::read_to_string(at("text.db")).unwrap().starts_with("this is a text"));

    rusqlite::Connection::open(at("foreign.db")).unwrap().execute_batch("CREATE TABLE customers(name TEXT)").unwrap();
    let before = std::fs::read(at("foreign.db")).unwrap();
    assert!(refusal("foreign.db").contains("another program"));
    assert_eq!(std::fs::read(at("foreign.db")).unwrap(), before);

    drop(Sqlite::open(&format!("sqlite:{}", at("newer.db").display())).unwrap());
    rusqlite::Connection::open(at("newer.db")).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(refusal("newer.db").contains("newer longshore"));

    assert!(refusal("no/such/directory.db").contains("its directory must exist"));
    assert!(connect("sqlite:x.db?sync=maybe", None).err().unwrap().message.contains("sync=maybe"));
    assert!(connect("sqlite:", None).err().unwrap().message.contains("a path is missing"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_written_is_said() {
    let error = connect("sqlite:/proc/tasks.db", None).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("/proc/tasks.db") && error.message.contains("writable"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_said_and_nothing_is_made_of_it() {
    use std::os::unix::fs::FileExt;
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let connected = connect(&url, None).unwrap();
    let broker = connected.broker.clone();
    let results = connected.results.clone();
    let batch: Vec<_> = (0..500).map(|at| message("q", &format!("{at}-{}", "x".repeat(300)))).collect();
    broker.publish(&batch).await.unwrap();
    drop((broker, results, connected));
    let path = directory.path().join("tasks.db");
    let length = path.metadata().unwrap().len();
    assert!(length > 100_000, "the write-ahead log was written back when the file was closed: {length}");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_at(&vec![0xa5; usize::try_from(length).unwrap() - 8192], 8192).unwrap();
    let error = match connect(&url, None) {
        Err(error) => error,
        Ok(connected) => connected.inspect().unwrap().peek("q", 1000).await.unwrap_err(),
    };
    assert!(error.message.contains("tasks.db") && error.message.contains("damaged"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_open_a_new_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let opening: Vec<_> = (0..8)
        .map(|number| {
            let url = url.clone();
            tokio::task::spawn_blocking(move || (number, connect(&url, None).unwrap()))
        })
        .collect();
    let mut all = BTreeSet::new();
    let mut handles = Vec::new();
    for opened in opening {
        let (number, Connected { broker, .. }) = opened.await.unwrap();
        broker.publish(&[message("q", &number.to_string())]).await.unwrap();
        handles.push(broker);
    }
    let consumer = open(&*handles[3], "q", Duration::from_secs(60)).await;
    for _ in 0..8 {
        all.insert(id(&claim_one(&*consumer).await));
    }
    assert_eq!(all.len(), 8);
}

#[tokio::test]
async fn the_file_can_be_read_with_any_tool_while_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let Connected { broker, .. } = connect(&url(directory.path()), None).unwrap();
    let consumer = open(&*broker, "q", Duration::from_secs(60)).await;
    broker.publish(&[message("q", "one"), message("q", "two")]).await.unwrap();
    let held = claim_one(&*consumer).await;
    let tool = rusqlite::Connection::open(directory.path().join("tasks.db")).unwrap();
    let sql = "SELECT queue || ' ' || coalesce(node, '-') || ' ' || raw FROM messages LEFT JOIN owners ON owner = number ORDER BY id";
    let mut rows = tool.prepare(sql).unwrap();
    let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows, [r#"q test@here {"headers": {"id": "one"}}"#, r#"q - {"headers": {"id": "two"}}"#]);
    consumer.finish(&[done(&held)]).await.unwrap();
}

#[tokio::test]
async fn what_was_revoked_is_forgotten_after_three_hours() {
    let directory = tempfile::tempdir().unwrap();
    let file = Sqlite::open(&url(directory.path())).unwrap();
    file.revoke(&["old".to_owned(), "young".to_owned()]).await.unwrap();
    let tool = rusqlite::Connection::open(directory.path().join("tasks.db")).unwrap();
    tool.execute("UPDATE revoked SET at = at - 3 * 3600 * 1000 WHERE id = 'old'", []).unwrap();
    assert_eq!(file.revoked().await.unwrap(), ["young"]);
}

/// A file of before has none, and one of now is what it was for who knows no schedules.
#[tokio::test]
async fn the_tables_of_schedules_are_made_with_the_first_schedule_and_the_layout_stays() {
    let directory = tempfile::tempdir().unwrap();
    let connected = connect(&url(directory.path()), None).unwrap();
    let store = connected.schedules().unwrap();
    let look = || {
        let conn = rusqlite::Connection::open(directory.path().join("tasks.db")).unwrap();
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('schedules', 'scheduler')";
        let tables: i64 = conn.query_row(tables, [], |row| row.get(0)).unwrap();
        (tables, conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap())
    };
    assert_eq!(store.schedules().await.unwrap().rows, []);
    assert!(!store.remove("a").await.unwrap() && !store.pause_schedule("a", None, SystemTime::now()).await.unwrap());
    assert_eq!(look(), (0, 3));
    assert!(store.put("a", b"{}", SystemTime::now()).await.unwrap());
    assert_eq!((store.schedules().await.unwrap().rows.len(), look()), (1, (2, 3)));
}

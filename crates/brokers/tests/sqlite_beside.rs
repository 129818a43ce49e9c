//! The files beside an SQLite file, and what an idle process does with it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_brokers::{Broker, Claimed, Connected, Consumer, OpenOptions, Outgoing, connect};
use longshore_core::ErrorKind;
use rustix::fs::{CWD, FileType, Mode, mknodat};

const SOON: Duration = Duration::from_secs(20);

fn broker(path: &Path) -> Result<Arc<dyn Broker>, String> {
    connected(path).map(|connected| connected.broker)
}

fn connected(path: &Path) -> Result<Connected, String> {
    connect(&format!("sqlite:{}?sync=normal", path.display()), None).map_err(|error| {
        assert_eq!(error.kind, ErrorKind::Refused, "{}", error.message);
        error.message
    })
}

async fn open(broker: &dyn Broker, lease: Duration) -> Arc<dyn Consumer> {
    let mut options = OpenOptions::new("test@here", ["q"]);
    options.lease = lease;
    broker.open(options).await.unwrap()
}

async fn claim_one(consumer: &dyn Consumer) -> Claimed {
    let mut claimed = Vec::new();
    consumer.claim(1, &mut claimed).await.unwrap();
    claimed.remove(0)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// This test binary again, as an idle worker that sends heartbeats.
struct Idle(Child);

impl Idle {
    fn start(database: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["an_idle_process", "--exact", "--ignored", "--nocapture"]).env("SQLITE_FILE", database);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"));
        Self(child)
    }

    /// Returns how often the threads that touch the file have slept.
    fn wakes(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap().map(|task| task.unwrap().path());
        let ours = tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap().starts_with("longshore-sqli"));
        let count = |task: PathBuf| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        ours.map(count).sum()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "a part of the others, which start it"]
async fn an_idle_process() {
    let connected = connected(Path::new(&std::env::var("SQLITE_FILE").unwrap())).unwrap();
    let consumer = open(&*connected.broker, Duration::from_secs(60)).await;
    let beats = async {
        for count in 0.. {
            connected.bus().unwrap().broadcast("celeryev", "worker.heartbeat", b"{}").await.unwrap();
            if count == 3 {
                println!("\nready");
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::join!(beats, claim_one(&*consumer));
}

#[test]
fn what_lies_in_the_place_of_the_bell_is_neither_followed_nor_written_and_hangs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (name, says) in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("pipe", "a pipe"),
        ("directory", "irectory"),
        ("notes", "not longshore's"),
    ] {
        let (database, bell) = (at(&format!("{name}.db")), at(&format!("{name}.db-wake")));
        fs::write(at("precious"), "precious").unwrap();
        match name {
            "link" => symlink("precious", &bell).unwrap(),
            "dangling" => symlink("nowhere", &bell).unwrap(),
            "pipe" => mknodat(CWD, &bell, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            "directory" => fs::create_dir(&bell).unwrap(),
            _ => fs::write(&bell, "notes of mine").unwrap(),
        }
        let error = broker(&database).err().expect(name);
        assert!(error.contains(says) && error.contains("-wake"), "{name}: {error}");
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "precious", "{name}");
        assert!(!at("nowhere").exists());
    }
    assert_eq!(fs::read_to_string(at("notes.db-wake")).unwrap(), "notes of mine");
}

#[test]
fn a_database_is_a_regular_file_and_no_link_to_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    symlink("nowhere", at("dangling")).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(broker(&at("dangling")).err().unwrap().contains("leads nowhere"));
    assert!(broker(&at("pipe")).err().unwrap().contains("a pipe"));
    assert!(broker(dir.path()).err().unwrap().contains("a directory"));
    assert!(!at("nowhere").exists());
}

#[tokio::test]
async fn a_new_database_and_all_beside_it_is_its_owners_alone_and_an_old_one_keeps_its_permissions() {
    let dir = tempfile::tempdir().unwrap();
    for (name, given, wanted) in [("new.db", None, 0o600), ("shared.db", Some(0o660), 0o660)] {
        let path = dir.path().join(name);
        if let Some(mode) = given {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let broker = broker(&path).unwrap();
        let _consumer = open(&*broker, Duration::from_secs(60)).await;
        for beside in ["", "-wal", "-shm"] {
            let path = dir.path().join(format!("{name}{beside}"));
            assert_eq!(mode(&path), wanted, "{}", path.display());
        }
        // The umask of whoever tests takes some of the bell's away.
        assert_eq!(mode(&dir.path().join(format!("{name}-wake"))) & !wanted, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_has_one_bell_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tasks.db");
    let direct = broker(&path).unwrap();
    symlink("tasks.db", dir.path().join("link.db")).unwrap();
    let linked = broker(&dir.path().join("link.db")).unwrap();
    let consumer = open(&*direct, Duration::from_secs(60)).await;
    let send = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        linked.publish(&[Outgoing { queue: "q".into(), exchange: None, priority: 0, due: None, raw: b"{}".to_vec() }]).await.unwrap();
        Instant::now()
    };
    let claim = async {
        tokio::time::timeout(SOON, claim_one(&*consumer)).await.unwrap();
        Instant::now()
    };
    let (sent, claimed) = tokio::join!(send, claim);
    assert!(claimed.saturating_duration_since(sent) < Duration::from_secs(5), "{:?}", claimed - sent);
    assert!(!dir.path().join("link.db-wake").exists());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_committed_that_died_before_it_rang_is_found_when_it_dies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tasks.db");
    let broker = broker(&path).unwrap();
    let consumer = open(&*broker, Duration::from_secs(120)).await;
    let claim = tokio::spawn(async move { claim_one(&*consumer).await });
    let other = Idle::start(&path);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Both wait for the same queue, and nobody rings.
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute("INSERT INTO messages(queue, priority, sent, raw) VALUES ('q', 0, 0, x'7b7d')", []).unwrap();
    assert!(!claim.is_finished());
    let begun = Instant::now();
    drop(other);
    tokio::time::timeout(SOON, claim).await.unwrap().unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[cfg(target_os = "linux")]
#[test]
fn an_idle_worker_sleeps_as_long_as_its_lease_lets_it_heartbeats_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let idle = Idle::start(&dir.path().join("tasks.db"));
    std::thread::sleep(Duration::from_secs(2));
    let wal = dir.path().join("tasks.db-wal");
    let log = || wal.metadata().map(|found| (found.len(), found.modified().unwrap())).unwrap();
    let (before, begun) = (idle.wakes(), Instant::now());
    let (mut seen, mut commits) = (log(), 0);
    while begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
        let now = log();
        commits += u32::from(now != seen);
        seen = now;
    }
    // A third of the lease is 20 s: at most one beat, which may empty the log as well.
    assert!(commits <= 2, "{commits} commits");
    // A heartbeat is handed to the writer, which keeps it until then: 20 in this time. Each wakes a
    // thread once, twice where a lock is taken just then.
    let woken = idle.wakes() - before;
    assert!(woken <= 2 * 20 + 16, "{woken} times");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bell_that_is_taken_away_is_hung_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bell) = (dir.path().join("tasks.db"), dir.path().join("tasks.db-wake"));
    let _broker = broker(&path).unwrap();
    fs::remove_file(&bell).unwrap();
    let begun = Instant::now();
    while !bell.exists() {
        assert!(begun.elapsed() < Duration::from_secs(5), "within five seconds, where nobody looks for ten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(mode(&bell) & 0o177, 0);
}

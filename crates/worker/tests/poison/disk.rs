//! A file that cannot be written or read, or that another program keeps locked, fails nobody, and
//! is waited for. Whatever a whole process has to bear happens in one of its own.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::Outgoing;
use longshore_celery::{Encoding, Message};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    bench::{Bench, GOOD, SOON, Store, bad},
    troubles::is_waited_for_so_long,
};

/// This test binary again, for one of the parts below, behind some words of a command.
fn part(words: &[&str], role: &str, path: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(words.first().map_or(own.as_os_str(), |word| word.as_ref()));
    if !words.is_empty() {
        command.args(&words[1..]).arg(own);
    }
    command.args(["disk::in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"]);
    command.env("POISON_ROLE", role).env("POISON_PATH", path);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of the others, which start it"]
async fn in_a_process_of_its_own() {
    let path = PathBuf::from(std::env::var_os("POISON_PATH").unwrap());
    match &*std::env::var("POISON_ROLE").unwrap() {
        "locks" => {
            let conn = rusqlite::Connection::open(path).unwrap();
            conn.busy_timeout(SOON).unwrap();
            conn.execute_batch("BEGIN EXCLUSIVE").unwrap();
            println!("\nholds");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
        "may write little" => {
            longshore_sys::files::say_when_too_large();
            let before = getrlimit(Resource::Fsize);
            let limit = |current| setrlimit(Resource::Fsize, Rlimit { current, ..before }).unwrap();
            let store = Store::file("");
            let (begin, end) = (|| limit(Some(8192)), || limit(before.current));
            is_waited_for_so_long("a limit", &store, "ulimit -f", Duration::from_millis(700), begin, end).await;
        }
        "disk dies" => outlives_its_disk(path).await,
        role => panic!("{role} is not known"),
    }
}

/// A process that keeps a file locked, until it is dropped.
struct Locks(Child);

impl Locks {
    fn start(store: &Store) -> Self {
        let Store::File(path, _) = store else { panic!("a file") };
        let mut command = part(&[], "locks", path.to_str().unwrap());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "holds"));
        Self(child)
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Longer than a step waits for a lock.
const LONG: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_program_keeps_locked_fails_nobody_and_is_waited_for() {
    let store = Store::file("");
    let locks = std::sync::Mutex::new(None);
    let begin = || *locks.lock().unwrap() = Some((Locks::start(&store), Instant::now()));
    let end = || {
        let (locks, since) = locks.lock().unwrap().take().unwrap();
        assert!(since.elapsed() < LONG + LONG / 2, "it is said before a step gives up");
        drop(locks);
    };
    is_waited_for_so_long("a lock", &store, "keeps it locked", LONG, begin, end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_file_stays_locked_can_be_stopped_and_the_next_one_does_what_is_left() {
    let store = Store::file("");
    let bench = Bench::new(&store);
    bench.send(None).await;
    let worker = bench.worker(false, Duration::from_millis(10)).await;
    bench.until("a start", async || bench.links() > 0).await;
    let locks = Locks::start(&store);
    bench.until("said", async || bench.said.lock().unwrap().iter().any(|text| text.contains("keeps it locked"))).await;
    worker.stopper().cold();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.failed, summary.counts.dead), (0, 0), "{summary:?}");
    assert!(summary.error.is_some(), "{summary:?}");
    drop(locks);
    the_next_one_does_what_is_left(bench, &store).await;
}

/// Does what a worker has left behind, and checks that nothing of it is lost.
async fn the_next_one_does_what_is_left(before: Bench, store: &Store) {
    let next = Bench { ledger: before.ledger.clone(), ..Bench::new(store) };
    drop(before);
    let worker = next.worker(false, Duration::ZERO).await;
    next.until("the rest", async || {
        next.links() == GOOD as usize && next.broker.queues(&["celery".into()]).await.is_ok_and(|of| of[0].waiting + of[0].held == 0)
    })
    .await;
    let ledger = next.ledger.lock().unwrap().clone();
    assert!((0..GOOD).all(|number| ledger.contains_key(&("good", number))), "{ledger:?}");
    assert!(ledger.values().all(|runs| *runs <= 2), "what had not been confirmed ran again, once: {ledger:?}");
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.failed, summary.counts.dead, summary.error), (0, 0, None));
    assert_eq!(next.connected.letters().unwrap().dead(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_file_that_would_be_larger_than_the_process_may_write_fails_nobody_and_is_waited_for() {
    let status = part(&[], "may write little", "").status().unwrap();
    assert!(status.success());
}

/// Runs a shell's commands.
fn shell(script: &str, path: &std::path::Path) -> ExitStatus {
    Command::new("sh").args(["-ec", script]).current_dir(path).status().unwrap()
}

/// A file system that is shut down: from then on whatever is read, written or synced is an error.
const SHUT_DOWN: &str = r#"python3 -c 'import fcntl, os, struct
fcntl.ioctl(os.open("disk", os.O_RDONLY), 0x8004587d, struct.pack("I", 0))'"#;

#[tokio::test]
async fn a_disk_that_gives_only_errors_fails_nobody_and_the_next_worker_does_what_is_left() {
    let place = Store::file("");
    let Store::File(path, _) = &place else { return };
    let path = path.with_extension("disk");
    std::fs::create_dir(&path).unwrap();
    // In a mount namespace of its own, so that nothing stays behind.
    let make = "truncate -s 32M image && mkfs.ext4 -q image && mkdir disk && mount -o loop image disk";
    let able = "command -v unshare mkfs.ext4 python3 >/dev/null && unshare -m sh -ec 'truncate -s 32M try && mkfs.ext4 -q try && mount -o loop try /mnt' 2>/dev/null";
    if shell(able, &path).success() {
        let script = format!("cd '{}' && {make} && exec \"$@\"", path.display());
        let status = part(&["unshare", "-m", "sh", "-ec", &script, "sh"], "disk dies", path.to_str().unwrap()).status().unwrap();
        assert!(status.success());
    } else {
        longshore_testkit::left_out::left_out("a disk cannot be made and mounted here: run as root, with mkfs.ext4 and loop devices", 1);
    }
    std::fs::remove_dir_all(path).unwrap();
}

async fn outlives_its_disk(path: PathBuf) {
    let store = Store::File(path.join("disk/tasks.db"), "");
    let bench = Bench::new(&store);
    bench.send(None).await;
    let worker = bench.worker(false, Duration::from_millis(100)).await;
    bench.until("a start", async || bench.links() > 0).await;
    // Held until then, it is to be read from a disk that fails: before the lease is over, which
    // cannot be renewed on it, and on a machine that is busy.
    let eta = Some(SystemTime::now() + Duration::from_secs(3));
    let args = vec![(-1).into(), "x".repeat(100_000).into()];
    let raw = Message { eta, args, routing_key: "celery".to_owned(), ..bad("plain") }.encode(Encoding::Json);
    bench.broker.publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 9, due: None, raw }]).await.unwrap();
    bench.until("a claim", async || worker.held() == 1).await;
    assert!(shell(SHUT_DOWN, &path).success());
    bench.until("said", async || bench.said.lock().unwrap().iter().any(|text| text.contains("the disk fails"))).await;
    bench.until("its time", async || bench.said.lock().unwrap().iter().any(|text| text.contains("until it can be read"))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let said = bench.said.lock().unwrap().clone();
    assert!(said.len() <= 4, "said again and again: {said:?}");
    if worker.stopping().is_cancelled() {
        panic!("it does not wait: {:?}", worker.join().await);
    }
    worker.stopper().cold();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.failed, summary.counts.dead), (0, 0), "{summary:?}");
    let ledger = bench.ledger.clone();
    assert!(shell("umount -l disk; cp image another; mount -o loop another disk", &path).success());
    the_next_one_does_what_is_left(bench, &store).await;
    assert!(ledger.lock().unwrap().contains_key(&("plain", -1)), "what was held ran, too");
}

//! A server that takes nothing fails nobody, and is waited for.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use longshore_testkit::servers::Redis;

use crate::bench::{Bench, GOOD, SOON, Store};

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
        Trouble {
            what: "a permission of a result",
            begins: &["ACL SETUSER default -setex -set"],
            ends: &["ACL SETUSER default +@all"],
            says: "ACL SETUSER",
        },
        Trouble {
            what: "a permission of an end",
            begins: &["ACL SETUSER default -zrem"],
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
        is_waited_for(what, &Store::Redis(server), says, || drop(commands(port, begins)), || drop(commands(port, ends))).await;
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
        // Holds all writers up until the server knows that it cannot save.
        commands(port, &["CLIENT PAUSE 30000 WRITE", "BGSAVE"]);
        let until = std::time::Instant::now() + SOON;
        while !commands(port, &["INFO persistence"]).contains("rdb_last_bgsave_status:err") {
            assert!(std::time::Instant::now() < until, "it saves where it cannot");
        }
        commands(port, &["CLIENT UNPAUSE"]);
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
    is_waited_for_so_long(what, store, says, Duration::from_millis(700), begin, end).await;
}

/// The same, for so long after it was said.
pub(crate) async fn is_waited_for_so_long(what: &str, store: &Store, says: &str, long: Duration, begin: impl FnOnce(), end: impl FnOnce()) {
    let bench = Bench::new(store);
    bench.send(None).await;
    let worker = bench.worker(false, Duration::from_millis(10)).await;
    bench.until(what, async || bench.links() > 0).await;
    begin();
    bench.until(what, async || bench.said.lock().unwrap().iter().any(|text| text.contains(says))).await;
    tokio::time::sleep(long).await;
    let during = bench.said.lock().unwrap().len();
    assert!(during <= 6, "{what}: said again and again: {:?}", bench.said.lock().unwrap());
    end();
    bench.all_is_well(what).await;
    assert!(bench.said.lock().unwrap().iter().any(|text| text.contains("again")), "{what}: {:?}", bench.said.lock().unwrap());
    assert_eq!(bench.connected.letters().unwrap().dead(None).await.unwrap(), [], "{what}");
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.ok, summary.counts.failed, summary.counts.dead, summary.error), (2 * GOOD as u64, 0, 0, None), "{what}");
}

/// Several commands on one connection, words separated by spaces; all must be granted. Returns the
/// last answer.
fn commands(port: u16, all: &[&str]) -> String {
    let mut last = String::new();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for how in all {
        let words: Vec<&str> = how.split(' ').collect();
        let mut out = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| out.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        stream.write_all(out.as_bytes()).unwrap();
        let mut answer = [0; 8_192];
        let count = stream.read(&mut answer).unwrap();
        last = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(!last.starts_with('-'), "{how}: {last}");
    }
    last
}

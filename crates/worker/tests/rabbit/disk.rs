//! A server whose disk is full: what it has confirmed is there when it has room again.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use longshore_testkit::rabbit::RabbitServer;

use crate::{
    bench::Bench,
    days::{message, outgoing},
};

/// Rounds of sending while the disk is full.
const ROUNDS: i64 = 10;
/// Room that is left for the first of them.
const ROOM: u64 = 1 << 20;
const BATCH: i64 = 10;

#[tokio::test]
async fn a_server_whose_disk_is_full_loses_nothing_that_it_confirmed() {
    if !Path::new("/usr/lib/rabbitmq/lib").is_dir() {
        return longshore_testkit::left_out::missing(
            "rabbitmq-server is missing: install it (Debian and Ubuntu: the package `rabbitmq-server`)",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // In a mount namespace of its own, so that nothing stays behind.
    let mount = r#"mount -t tmpfs -o size=64m small "$0" && exec "$@""#;
    let on_disk = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", mount]).arg(&disk).args(words).env("TMPDIR", &disk).env("RABBIT_SMALL_DISK", &disk);
        command.env("RABBIT_RESULTS", folder.path()).status()
    };
    if !on_disk(&["true"]).is_ok_and(|status| status.success()) {
        return longshore_testkit::left_out::left_out("a disk cannot be mounted here: run as root", 1);
    }
    let own = std::env::current_exe().unwrap();
    let part = [own.to_str().unwrap(), "disk::on_a_small_disk", "--exact", "--ignored", "--nocapture"];
    assert!(on_disk(&part).unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of the other, which starts it"]
async fn on_a_small_disk() {
    let Some(disk) = std::env::var_os("RABBIT_SMALL_DISK").map(PathBuf::from) else { return };
    for options in ["?patience=1", "?patience=1&queue_type=quorum"] {
        // It stops nobody before its disk is full.
        let Some(mut server) = RabbitServer::start(&["disk_free_limit.absolute = 1KB"]) else { return };
        let results = tempfile::tempdir_in(std::env::var_os("RABBIT_RESULTS").unwrap()).unwrap();
        let bench = Bench::in_folder(&format!("{}{options}", server.url()), results);
        let worker = bench.worker([]).await;
        let mut confirmed = Vec::new();
        let mut refused = 0;
        for round in 0..ROUNDS {
            if round == 1 {
                server.eval("catch dets:sync(ra_directory_reverse), ok.");
            }
            // What the server has let go of by then is taken, too, once some more was confirmed.
            if round == 1 || round > ROUNDS / 2 {
                fill(&disk.join(format!("filler-{round}")), if round == 1 { ROOM } else { 0 });
            }
            let numbers: Vec<i64> = (round * BATCH..(round + 1) * BATCH).collect();
            let batch: Vec<_> = numbers
                .iter()
                .map(|number| {
                    let mut message = message("good", *number);
                    message.args.push("x".repeat(20_000).into());
                    outgoing(&message)
                })
                .collect();
            // A server that says that it takes nothing is waited for.
            match tokio::time::timeout(Duration::from_secs(2), bench.connected.broker.publish(&batch)).await {
                Ok(Ok(())) => confirmed.extend(numbers),
                _ => refused += 1,
            }
        }
        for round in 1..ROUNDS {
            let _ = std::fs::remove_file(disk.join(format!("filler-{round}")));
        }
        // It may have ended by itself.
        tokio::task::block_in_place(|| server.restart());
        bench.until("what was confirmed runs", async || confirmed.iter().all(|number| bench.runs(*number) > 0)).await;
        let last = outgoing(&message("good", -5));
        bench.until("it takes what it is given", async || bench.connected.broker.publish(std::slice::from_ref(&last)).await.is_ok()).await;
        bench.until("it runs", async || bench.runs(-5) > 0).await;
        println!(
            "{options}: {} confirmed of {}, {refused} times refused; said {:?}",
            confirmed.len(),
            ROUNDS * BATCH,
            bench.said.lock().unwrap()
        );
        assert!(refused > 0, "the disk was full");
        worker.stopper().warm();
        let summary = tokio::time::timeout(Duration::from_secs(60), worker.join()).await.unwrap();
        assert_eq!((summary.counts.failed, summary.error), (0, None));
    }
}

/// Writes until nothing more can be written, and leaves so many bytes of it.
fn fill(path: &Path, room: u64) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
    file.set_len(file.metadata().unwrap().len().saturating_sub(room)).unwrap();
}

//! Queues in an SQLite file against a loop written by hand over the same SQLite: the same messages,
//! batches and durability, side by side in one run.
//!
//! `cargo bench -p longshore-brokers --bench sqlite`; `TASKS=20000` for a shorter one.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use longshore_brokers::{Broker, Claimed, End, Ended, Finish, Inspect, OpenOptions, Outgoing, sqlite::Sqlite};
use rusqlite::{Connection, params};

type Anything<T> = Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 100;
/// Tasks of a round.
const ROUND: usize = 10_000;

fn main() -> Anything<()> {
    if let (Ok(role), Ok(file), Ok(sync)) = (std::env::var("BENCH_ROLE"), std::env::var("BENCH_FILE"), std::env::var("BENCH_SYNC")) {
        // A process that only drains.
        let count =
            if role == "ours" { Ours::open(Path::new(&file), &sync)?.drain()? } else { ByHand::open(Path::new(&file), &sync)?.drain()? };
        println!("{count}");
        return Ok(());
    }
    let tasks: usize = std::env::var("TASKS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let message = vec![b'x'; 600];
    println!(
        "{tasks} tasks of {} bytes in rounds of {ROUND}, batches of {BATCH}; tasks a second from publish to finish, the best round",
        message.len()
    );
    println!("{:<34} {:>10} {:>10} {:>7}", "", "by hand", "longshore", "ratio");
    for sync in ["normal", "full"] {
        for processes in [1, 2] {
            let directory = tempfile::tempdir()?;
            let (hand, ours) = (directory.path().join("hand.db"), directory.path().join("ours.db"));
            // In turns, and the best round of each counts: the machine may be busy with something
            // else.
            let mut best = [Duration::MAX; 2];
            for round in 0..tasks.div_ceil(ROUND) {
                for which in [round % 2, 1 - round % 2] {
                    let took = if which == 0 {
                        let mut queue = ByHand::open(&hand, sync)?;
                        let begun = Instant::now();
                        queue.publish(&message, ROUND)?;
                        drain(&mut || queue.drain(), "hand", &hand, sync, processes)?;
                        begun.elapsed()
                    } else {
                        let queue = Ours::open(&ours, sync)?;
                        let begun = Instant::now();
                        queue.publish(&message, ROUND)?;
                        drain(&mut || queue.drain(), "ours", &ours, sync, processes)?;
                        begun.elapsed()
                    };
                    best[which] = best[which].min(took);
                }
            }
            let rate = |took: Duration| ROUND as f64 / took.as_secs_f64();
            let (hand, ours) = (rate(best[0]), rate(best[1]));
            println!("{:<34} {hand:>10.0} {ours:>10.0} {:>7.2}", format!("sync={sync}, {processes} process(es) drain"), ours / hand);
        }
    }
    Ok(())
}

/// Drains in this process, and in others at the same time.
fn drain(here: &mut dyn FnMut() -> Anything<usize>, role: &str, file: &Path, sync: &str, processes: usize) -> Anything<()> {
    let mut others = Vec::new();
    for _ in 1..processes {
        let mut other = Command::new(std::env::current_exe()?);
        others.push(other.env("BENCH_ROLE", role).env("BENCH_FILE", file).env("BENCH_SYNC", sync).stdout(Stdio::piped()).spawn()?);
    }
    let mut count = here()?;
    for other in others {
        count += String::from_utf8(other.wait_with_output()?.stdout)?.trim().parse::<usize>()?;
    }
    if count == ROUND { Ok(()) } else { Err(format!("{count} of {ROUND} tasks were drained").into()) }
}

struct ByHand(Connection);

impl ByHand {
    fn open(file: &Path, sync: &str) -> Anything<Self> {
        let conn = Connection::open(file)?;
        conn.busy_timeout(Duration::from_secs(10))?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", sync)?;
        conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS tasks(id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, priority INTEGER NOT NULL, owner INTEGER, raw BLOB NOT NULL);
             CREATE INDEX IF NOT EXISTS waiting ON tasks(queue, priority, id) WHERE owner IS NULL;",
        )?;
        Ok(Self(conn))
    }

    fn publish(&mut self, message: &[u8], tasks: usize) -> Anything<()> {
        for _ in 0..tasks / BATCH {
            let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut insert = transaction.prepare_cached("INSERT INTO tasks(queue, priority, raw) VALUES ('q', 0, ?1)")?;
                for _ in 0..BATCH {
                    insert.execute([message])?;
                }
            }
            transaction.commit()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Anything<usize> {
        let (mut count, me) = (0, i64::from(std::process::id()));
        loop {
            let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let claimed = {
                let mut claim = transaction.prepare_cached(
                    "UPDATE tasks SET owner = ?1 WHERE id IN (SELECT id FROM tasks WHERE queue = 'q' AND owner IS NULL ORDER BY priority, id LIMIT ?2) RETURNING id, raw",
                )?;
                let rows = claim.query_map(params![me, BATCH as i64], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
                rows.collect::<Result<Vec<_>, _>>()?
            };
            transaction.commit()?;
            if claimed.is_empty() {
                return Ok(count);
            }
            count += claimed.len();
            let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut finish = transaction.prepare_cached("DELETE FROM tasks WHERE id = ?1 AND owner = ?2")?;
                for (id, _) in &claimed {
                    finish.execute([*id, me])?;
                }
            }
            transaction.commit()?;
        }
    }
}

struct Ours {
    broker: Sqlite,
    runtime: tokio::runtime::Runtime,
}

impl Ours {
    fn open(file: &Path, sync: &str) -> Anything<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { broker: Sqlite::open(&format!("sqlite:{}?sync={sync}", file.display()))?, runtime })
    }

    fn publish(&self, message: &[u8], tasks: usize) -> Anything<()> {
        let batch = vec![Outgoing { queue: "q".into(), exchange: None, priority: 0, due: None, raw: message.to_vec() }; BATCH];
        self.runtime.block_on(async {
            for _ in 0..tasks / BATCH {
                self.broker.publish(&batch).await?;
            }
            Ok(())
        })
    }

    fn drain(&self) -> Anything<usize> {
        let options = OpenOptions::new("bench", ["q"]);
        self.runtime.block_on(async {
            let consumer = self.broker.open(options).await?;
            let (mut count, watcher) = (0, tokio::task::LocalSet::new());
            let (broker, ends) = (self.broker.clone(), std::sync::Arc::clone(&consumer));
            watcher.spawn_local(async move {
                while broker.peek("q", 1).await.is_ok_and(|waiting| !waiting.is_empty()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                ends.close();
            });
            watcher
                .run_until(async {
                    loop {
                        let mut claimed: Vec<Claimed> = Vec::new();
                        if consumer.claim(BATCH, &mut claimed).await? == longshore_core::source::Fetched::End {
                            consumer.leave().await?;
                            return Ok(count);
                        }
                        let finish = |claimed: &Claimed| Finish {
                            receipt: claimed.receipt,
                            publish: Vec::new(),
                            results: Vec::new(),
                            part: None,
                            end: End::Ack,
                        };
                        let batch: Vec<_> = claimed.iter().map(finish).collect();
                        let ended = consumer.finish(&batch).await?;
                        count += ended.iter().filter(|ended| **ended == Ended::Done).count();
                    }
                })
                .await
        })
    }
}

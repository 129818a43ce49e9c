//! The task queue on a broker: a client and a worker of this process, and tasks that do nothing.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::stream;
use longshore_brokers::mask;
use longshore_worker::{Acks, App, Client, Signature, Task, Worker, WorkerOptions};
use tokio::sync::Notify;

use super::{Row, row};
use crate::{config::Config, exit::Exit, fault::Fault, global::Global, runtime::block_on};

const TASK: &str = "longshore.bench";
const QUEUE: &str = "longshore-bench";
/// Most tasks that are sent and waited for one after the other; of few tasks it is a tenth.
const ROUND_TRIPS: u32 = 500;

/// Measures on SQLite, or on Redis.
pub(super) fn measure(sqlite: bool, tasks: u32, config: &Config, global: &Global) -> Result<Vec<Row>, Fault> {
    let (named, _) = config.connections(global.broker.as_deref(), None)?;
    let named = named.filter(|url| is_sqlite(url) == sqlite);
    let scratch = Scratch::new()?;
    let url = match (named, sqlite) {
        (Some(url), true) => url,
        (Some(url), false) => apart(&url),
        (None, true) => format!("sqlite:{}", scratch.0.join("bench.db").display()),
        (None, false) => {
            return Err(Fault::usage(
                "bench redis: on which server? `longshore bench redis --broker redis://127.0.0.1:6379/0`; it uses keys of its own",
            ));
        }
    };
    eprintln!("longshore: {tasks} tasks on {}", mask(&url));
    block_on(all(&url, tasks, sqlite))
}

fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:") || !url.contains("://")
}

/// The same server, under keys that nobody else has.
fn apart(url: &str) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}global_keyprefix=longshore-bench:")
}

/// A directory that goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Fault> {
        let path = std::env::temp_dir().join(format!("longshore-bench-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        std::fs::create_dir(&path).map_err(|error| Fault::new(Exit::Unwritable, format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Number of tasks that have run, for whoever waits for it.
#[derive(Default)]
struct Ran {
    count: AtomicU64,
    more: Notify,
}

impl Ran {
    async fn until(&self, count: u64) {
        loop {
            let more = self.more.notified();
            if self.count.load(Ordering::Acquire) >= count {
                return;
            }
            more.await;
        }
    }
}

fn app(url: &str, early: bool, ran: &Arc<Ran>, wanted: u64) -> App {
    let ran = ran.clone();
    let mut task = Task::future(TASK, move |_, _| {
        if ran.count.fetch_add(1, Ordering::AcqRel) + 1 >= wanted {
            ran.more.notify_waiters();
        }
        std::future::ready(Ok(longshore_celery::Value::Null))
    });
    if early {
        (task.policy.acks, task.policy.ignore_result) = (Some(Acks::Early), true);
    }
    // Whatever is left on a server is gone soon.
    App::new().broker(url).default_queue(QUEUE).result_expires(Duration::from_secs(60)).task(task)
}

fn options() -> WorkerOptions {
    let mut options = WorkerOptions::new("bench@longshore");
    options.remote_control = false;
    options
}

async fn all(url: &str, tasks: u32, sqlite: bool) -> Result<Vec<Row>, Fault> {
    let ran = Arc::new(Ran::default());
    let client = Client::of(&app(url, false, &ran, 0))?;
    client.broker().purge(QUEUE).await?;
    let (count, per_second) = (u64::from(tasks), |began: Instant| f64::from(tasks) / began.elapsed().as_secs_f64());
    let mut rows = Vec::new();
    let mut add = |on_sqlite, on_redis, value, unit| rows.push(row(if sqlite { on_sqlite } else { on_redis }, value, unit));

    let sent = publish(&client, tasks).await?;
    add("sqlite: sent, in batches", "redis: sent, in batches", sent, "/s");
    let took = work(url, false, count).await?;
    add("sqlite: run, acknowledged late, with results", "redis: run, acknowledged late, with results", per_second(took), "/s");
    publish(&client, tasks).await?;
    let took = work(url, true, count).await?;
    add("sqlite: run, acknowledged early, no results", "redis: run, acknowledged early, no results", per_second(took), "/s");

    let worker = Worker::start(app(url, false, &ran, u64::MAX), options()).await?;
    let mut times = Vec::new();
    for _ in 0..(tasks / 10).min(ROUND_TRIPS) {
        let began = Instant::now();
        client.send::<longshore_celery::Value>(Signature::named(TASK)).await?.get().await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    worker.stopper().warm();
    worker.join().await;
    times.sort_by(f64::total_cmp);
    add("sqlite: round trip, median", "redis: round trip, median", times[times.len() / 2], "ms");
    add("sqlite: round trip, p99", "redis: round trip, p99", times[times.len() * 99 / 100], "ms");
    Ok(rows)
}

/// Sends so many; how many a second.
async fn publish(client: &Client, tasks: u32) -> Result<f64, Fault> {
    let began = Instant::now();
    let signatures = stream::iter((0..tasks).map(|_| Signature::<longshore_celery::Value>::named(TASK)));
    let report = client.send_all(signatures).finish().await;
    match report.refused.into_iter().next() {
        Some((_, refused)) => Err(refused.error.into()),
        None => Ok(f64::from(tasks) / began.elapsed().as_secs_f64()),
    }
}

/// Runs what waits, to the last acknowledgement; when it began.
async fn work(url: &str, early: bool, count: u64) -> Result<Instant, Fault> {
    let ran = Arc::new(Ran::default());
    let began = Instant::now();
    let worker = Worker::start(app(url, early, &ran, count), options()).await?;
    let stopping = worker.stopping();
    tokio::select! {
        () = ran.until(count) => {}
        // Its broker is gone for good.
        () = stopping.cancelled() => {}
    }
    worker.stopper().warm();
    match worker.join().await.error {
        None => Ok(began),
        Some(message) => Err(Fault::new(if is_sqlite(url) { Exit::Unwritable } else { Exit::Unreachable }, message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_used_under_keys_that_nobody_else_has() {
        for (url, want) in [
            ("redis://h/1", "redis://h/1?global_keyprefix=longshore-bench:"),
            ("redis://h/1?patience=3", "redis://h/1?patience=3&global_keyprefix=longshore-bench:"),
        ] {
            assert_eq!(apart(url), want);
        }
        assert!(is_sqlite("a.db") && is_sqlite("sqlite:///a.db") && !is_sqlite("rediss://h"));
    }
}

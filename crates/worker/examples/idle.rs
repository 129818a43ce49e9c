//! The workers and the client of `benches/tasks/idle.sh`: many workers that have nothing to do in
//! one process, as they are.
//!
//! `idle fleet URL COUNT [LOG]` serves until its input ends; each task that starts is noted in the
//! log · `idle trips URL COUNT PAUSE_MS` asks and waits, one after the other, and prints the
//! milliseconds that each took · `idle hold URL NUMBER` sends a task that runs for a minute the
//! first time and not the second
#![expect(clippy::unwrap_used, reason = "a measuring program")]

extern crate longshore_worker as longshore;

use std::{
    io::Write as _,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use longshore::{App, Client, Signature, Worker, WorkerOptions};
use tokio::io::AsyncReadExt as _;

static LOG: OnceLock<String> = OnceLock::new();

#[longshore::task(name = "idle.noop")]
async fn noop() {}

#[longshore::task(name = "idle.hold")]
async fn hold(number: u64) {
    let Some(path) = LOG.get() else { return };
    let was_there = std::fs::read_to_string(path).unwrap_or_default().lines().any(|line| line.starts_with(&format!("{number} ")));
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    writeln!(log, "{number} {} {now}", std::process::id()).unwrap();
    if !was_there {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

async fn fleet(url: &str, count: usize) {
    let mut workers = Vec::new();
    for number in 0..count {
        let app = App::new().broker(url).default_queue("idle").task(noop).task(hold);
        let mut options = WorkerOptions::new(format!("w{number}.{}@bench", std::process::id()));
        options.lanes = [4, 1, 1, 1];
        workers.push(Worker::start(app, options).await.unwrap());
    }
    println!("ready");
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| args[place].parse::<usize>().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let url = args[1].as_str();
    let client = || Client::of(&App::new().broker(url).default_queue("idle")).unwrap();
    runtime.block_on(async {
        match args[0].as_str() {
            "fleet" => {
                if let Some(path) = args.get(3) {
                    LOG.set(path.clone()).unwrap();
                }
                fleet(url, number(2)).await;
            }
            "hold" => drop(client().send(Signature::named("idle.hold").arg(&(number(2) as u64))).await.unwrap()),
            _ => {
                let client = client();
                for _ in 0..number(2) {
                    let begun = Instant::now();
                    client.send(Signature::named("idle.noop")).await.unwrap().get().await.unwrap();
                    println!("{}", begun.elapsed().as_secs_f64() * 1e3);
                    tokio::time::sleep(Duration::from_millis(number(3) as u64)).await;
                }
            }
        }
    });
    // What is still served ends as a killed process does: its lease runs out.
    std::process::exit(0);
}

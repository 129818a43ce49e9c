//! Seed 004, a worker in Rust: it serves `tasks._add` to whoever calls it, Celery's clients
//! (`python client.py` in `examples/seed004`) or `seed004_client`.
//!
//! `cargo run --example seed004_worker [URL]` (`redis://localhost` unless told otherwise;
//! `sqlite:FILE` needs no server). Ctrl-C ends it.

use std::time::Duration;

use longshore::{
    App, Worker, WorkerOptions,
    queue::{TaskChange, TaskNotice, WorkerEvent},
    task,
    watch::{Detail, Heard},
};

/// A slow function that blocks, as the seed has it: a plain `fn` has a thread to itself.
#[task(name = "tasks._add")]
fn add(a: i64, b: i64) -> i64 {
    std::thread::sleep(Duration::from_secs(3));
    a + b
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = std::env::args().nth(1).unwrap_or_else(|| "redis://localhost".to_owned());
    let options = WorkerOptions::new(format!("seed004@{}", std::process::id()));
    let mut events = options.hub.listen(Detail::Tasks, 10_000);
    std::thread::spawn(move || {
        while let Some(heard) = events.blocking_next() {
            if let Heard::Event(WorkerEvent::Task(notice)) = heard {
                log(&notice);
            }
        }
    });
    let worker = Worker::start(App::new().broker(&broker).task(add), options).await?;
    println!("serving {broker}; Ctrl-C ends");
    let stopper = worker.stopper();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stopper.warm();
    });
    println!("{:?}", worker.join().await);
    Ok(())
}

fn log(notice: &TaskNotice) {
    let seat = notice.slot.map(|(lane, slot)| format!("{lane:?}-{slot} ").to_lowercase()).unwrap_or_default();
    let task = format!("{seat}Task {}[{}]", notice.message.task, notice.message.id);
    match &notice.what {
        TaskChange::Received => println!("{task} received"),
        TaskChange::Succeeded { runtime, result } => println!("{task} succeeded in {:.3}s: {result}", runtime.as_secs_f64()),
        TaskChange::Failed { exception, .. } => println!("{task} failed: {exception}"),
        _ => {}
    }
}

//! A task queue in one file, without a server: `cargo run --example task_queue` starts a worker and
//! a client of it in one process, and `cargo run --example task_queue worker [FILE]` in one
//! terminal with `… client [FILE]` in another does the same in two.

use std::time::{Duration, Instant};

use longshore::{App, Client, Failure, TaskContext, Worker, WorkerOptions, chain, chord, group, queue::Stopper, task};

/// Waits three seconds, as an answer from far away would, and adds. Two hundred of these wait at
/// once on one thread.
#[task(name = "tasks.add")]
async fn add(x: i64, y: i64) -> i64 {
    tokio::time::sleep(Duration::from_secs(3)).await;
    x + y
}

/// Computes, on the lane with as many threads as cores.
#[task(name = "tasks.total", lane = "cpu")]
fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

/// Fails at first, and is tried again.
#[task(name = "tasks.shaky", retries = 2, retry_delay = "100ms")]
async fn shaky(context: TaskContext, name: String) -> Result<String, Failure> {
    if context.retries() == 0 {
        return Err(context.retry().because(Failure::error("ConnectionError", "no answer")));
    }
    context.progress("half of it").await?;
    Ok(format!("hello, {name}"))
}

fn app(file: &str) -> App {
    App::new().broker(format!("sqlite:{file}")).task(add).task(total).task(shaky)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (role, file) = (args.next(), args.next().unwrap_or_else(|| "task_queue.db".to_owned()));
    match role.as_deref() {
        Some("worker") => serve(&file).await?,
        Some("client") => ask(&file).await?,
        _ => {
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("tasks.db").display().to_string();
            let worker = Worker::start(app(&file), WorkerOptions::new("w1@here")).await?;
            ask(&file).await?;
            worker.stopper().warm();
            let summary = worker.join().await;
            println!("the worker: {} ok, {} retried, {} failed", summary.counts.ok, summary.counts.retries, summary.counts.failed);
        }
    }
    Ok(())
}

/// Serves until Ctrl-C.
async fn serve(file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let worker = Worker::start(app(file), WorkerOptions::new("w1@here")).await?;
    println!("serving {file}; Ctrl-C ends");
    let stopper: Stopper = worker.stopper();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stopper.warm();
    });
    println!("{:?}", worker.join().await);
    Ok(())
}

async fn ask(file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::of(&app(file))?;

    // Seed 004: three additions of three seconds each, at once.
    let begun = Instant::now();
    let answers = [client.send(add::call(1, 1)).await?, client.send(add::call(2, 2)).await?, client.send(add::call(3, 3)).await?];
    println!("sent after {:.0?}", begun.elapsed());
    let mut sums = Vec::new();
    for answer in &answers {
        sums.push(answer.get().await?);
    }
    println!("{sums:?} after {:.1?}", begun.elapsed());

    println!("{}", client.send(shaky::call("world")).await?.get().await?);
    println!("group  {:?}", client.send(group([add::call(1, 2), add::call(3, 4)])).await?.get().await?);
    println!("chord  {}", client.send(chord([add::call(1, 2), add::call(3, 4)], total::signature())).await?.get().await?);
    println!("chain  {}", client.send(chain([add::call(1, 2), add::signature().arg(&10)])).await?.get().await?);
    match client.send(longshore::Signature::named("no.such")).await?.get_within(Duration::from_secs(5)).await {
        Err(error) => println!("error  {error}"),
        Ok(value) => println!("{value}"),
    }
    Ok(())
}

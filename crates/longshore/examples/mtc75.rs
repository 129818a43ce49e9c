//! MTC75, the program of the seed: a producer of fake records, and a consumer with a maximum thread
//! count whose intake gate closes when all places are taken. Its knobs can be turned while it runs:
//! type `threads 200`, `sleep 50ms`, `flight 500`, `send 100000` or `quit`.
//!
//! `cargo run --example mtc75 --features kafka -- --bootstrap 127.0.0.1:9092`
//!
//! What the read-me's `ACTIVE_THREAD_COUNT`, `executor`, `thread_count_semaphore` and
//! `pause_interval` are here: `engine.active` of the view, the engine's async lane, its gate
//! (`max_threads`), and the gate of the intake, which needs no interval, because it opens when
//! records end. While it is closed the client is polled all the same, so that the group never
//! misses this member; nothing is queued beyond the limit in flight; and what is committed is what
//! was processed.

mod args;

use std::{
    io::BufRead as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use args::Args;
use longshore::{
    TaskError,
    kafka::{
        Admin, Consumer, ConsumerHandle, GateState, Handler, NewRecord, Order, Producer, Record, Sending, Settings, View, produce::NotTaken,
    },
};

const HELP: &str = "mtc75: a Kafka consumer with a maximum thread count, and a producer of fake records

  --bootstrap HOST:PORT   the broker (127.0.0.1:9092)
  --topic NAME            created with --partitions if it is missing (mtc75)
  --partitions N          (12)
  --group NAME            (mtc75)
  --messages N            records to produce; 0 for none (20000)
  --max-threads N         most records in work (75)
  --max-in-flight N       most records in work or waiting for it (0: twice the threads, ten times with order by key)
  --sleep MS              what each record takes (100)
  --order key|partition|none   (none)
  --quit-when-done        ends when everything has been consumed
  --keys N                (500)";

/// What the handler waits for each record, in microseconds: a knob.
#[derive(Clone)]
struct Sleep(Arc<AtomicU64>);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse(HELP);
    match demo(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mtc75: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::parse(&args.get("--bootstrap", "127.0.0.1:9092".to_owned()))?;
    let topic: String = args.get("--topic", "mtc75".to_owned());
    let (messages, keys): (u64, u64) = (args.get("--messages", 20_000), args.get("--keys", 500));
    let partitions = args.get("--partitions", 12);
    {
        // The script `create topic.py`.
        let (settings, topic) = (settings.clone(), topic.clone());
        tokio::task::spawn_blocking(move || {
            let admin = Admin::open(&settings, Duration::from_secs(10))?;
            if admin.topic(&topic)?.is_none() { admin.create_topic(&topic, partitions, None, &[]) } else { Ok(()) }
        })
        .await??;
    }
    send(&settings, &topic, 0, messages, keys)?;

    let sleep = Sleep(Arc::new(AtomicU64::new(args.get::<u64>("--sleep", 100) * 1_000)));
    let waits = sleep.clone();
    let mut consumer = Consumer::new(settings.clone(), args.get("--group", "mtc75".to_owned()), [topic.clone()])
        .max_threads(args.get("--max-threads", 75))
        .order(match args.get("--order", "none".to_owned()).as_str() {
            "key" => Order::Key,
            "partition" => Order::Partition,
            _ => Order::None,
        });
    if args.get("--max-in-flight", 0) > 0 {
        consumer = consumer.max_in_flight(args.get("--max-in-flight", 0));
    }
    if args.flag("--quit-when-done") {
        consumer = consumer.until_end();
    }
    let running = consumer
        .start(Handler::<()>::new(move |record: Record| {
            let time = Duration::from_micros(waits.0.load(Ordering::Relaxed));
            async move {
                record.text()?;
                tokio::time::sleep(time).await;
                Ok::<_, TaskError>(())
            }
        }))
        .await?;
    let handle = running.handle();
    listen(handle.clone(), sleep, settings, topic, messages, keys);
    let stopping = handle.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopping.stop();
        }
    });
    tokio::spawn(async move {
        let (mut at, mut done, mut most) = (Instant::now(), 0, 0);
        while let Some(view) = handle.snapshot().await {
            let rate = (view.counts.done - done) as f64 / at.elapsed().as_secs_f64();
            (at, done, most) = (Instant::now(), view.counts.done, most.max(view.engine.active));
            println!("{}", line(&view, rate, most));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let summary = running.join().await;
    println!(
        "{} records done, {} commits, {} dead letters; the group was lost {} times",
        summary.counts.done, summary.counts.commits, summary.counts.dead, summary.counts.lost
    );
    match summary.error {
        None => Ok(()),
        Some(error) => Err(error.into()),
    }
}

/// What the coloured screen of the seed wanted to show.
fn line(view: &View, rate: f64, most: usize) -> String {
    let bar: String = (0..20).map(|at| if at * view.max_in_flight < view.in_flight * 20 { '#' } else { '.' }).collect();
    let gate = match view.gate {
        GateState::Open => "gate open".to_owned(),
        GateState::Closed { since } => format!("gate CLOSED for {} ms (reopens at {})", since.as_millis(), view.reopen_at),
        GateState::Parked { .. } => "gate CLOSED: too many retries".to_owned(),
        GateState::Bytes { .. } => "gate CLOSED: too many bytes in flight".to_owned(),
    };
    let lag: i64 = view.partitions.iter().filter_map(|partition| partition.lag).sum();
    format!(
        "{}/{} active (most {most})  [{bar}] {}/{} in flight  {gate}, closed {} times  {rate:.0}/s  lag {lag}  {} partitions{}",
        view.engine.active,
        view.max_threads,
        view.in_flight,
        view.max_in_flight,
        view.closings,
        view.partitions.len(),
        view.complaint.as_ref().map(|text| format!("  ({text})")).unwrap_or_default()
    )
}

/// The script `producer.py`: fake records, on a thread of its own.
fn send(settings: &Settings, topic: &str, first: u64, count: u64, keys: u64) -> Result<(), Box<dyn std::error::Error>> {
    let producer = Producer::open(settings, &Sending::default())?;
    let topic = topic.to_owned();
    std::thread::spawn(move || {
        for n in first..first + count {
            let (key, value) = (format!("customer-{}", n % keys.max(1)), format!("{{\"order\":{n},\"pieces\":{}}}", n % 7 + 1));
            let record = NewRecord { topic: &topic, key: Some(key.as_bytes()), value: Some(value.as_bytes()), ..NewRecord::default() };
            while let Err(NotTaken::Full(_)) = producer.send(&record, Box::new(|_| {})) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        producer.flush(Duration::from_secs(60));
    });
    Ok(())
}

/// The knobs, a line each.
fn listen(handle: ConsumerHandle, sleep: Sleep, settings: Settings, topic: String, mut sent: u64, keys: u64) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            let (knob, number) = (words.next(), words.next().unwrap_or_default());
            let number: Option<u64> = number.trim_end_matches("ms").parse().ok();
            match (knob, number) {
                (Some("threads"), Some(most)) => handle.set_max_threads(most as usize),
                (Some("flight"), Some(most)) => handle.set_max_in_flight(most as usize),
                (Some("sleep"), Some(time)) => sleep.0.store(time * 1_000, Ordering::Relaxed),
                (Some("send"), Some(count)) => {
                    if let Err(error) = send(&settings, &topic, sent, count, keys) {
                        eprintln!("{error}");
                    }
                    sent += count;
                }
                (Some("quit"), _) => handle.stop(),
                (None, _) => {}
                _ => println!("threads N · flight N · sleep N (ms) · send N · quit"),
            }
        }
    });
}

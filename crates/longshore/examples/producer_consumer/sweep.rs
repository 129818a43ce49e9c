//! What the capacity of the work queue costs and brings, with a producer that brings a page of work
//! at a time.

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use longshore::Job;

use crate::{
    Setting,
    args::{Claims, ms},
    server::Server,
};

/// What each task carries with it.
const SIZE: usize = 16 * 1024;

/// Bytes of tasks that were made and have not ended.
#[derive(Default)]
struct Bytes {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A task with a body.
struct Call {
    car: u64,
    body: Vec<u8>,
    made: Instant,
    bytes: Arc<Bytes>,
}

impl Call {
    fn new(car: u64, bytes: &Arc<Bytes>) -> Self {
        let now = bytes.now.fetch_add(SIZE, Ordering::SeqCst) + SIZE;
        bytes.most.fetch_max(now, Ordering::SeqCst);
        Self { car, body: vec![car as u8; SIZE], made: Instant::now(), bytes: bytes.clone() }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.bytes.now.fetch_sub(self.body.len(), Ordering::SeqCst);
    }
}

struct Row {
    capacity: Option<usize>,
    most_bytes: usize,
    producer_waited: Duration,
    /// From a task's making to its start: median and longest.
    waited: (Duration, Duration),
    throughput: f64,
    whole: bool,
}

/// Runs the job with every capacity and draws the rule.
pub(crate) fn run(setting: &Setting) -> ExitCode {
    // A page is work for four rounds of all workers; to fetch the next page takes 0.6 of the time
    // in which workers finish one.
    let page = 4 * setting.workers as u64;
    let pause = setting.spacing().mul_f64(page as f64 * 0.6);
    let need = (pause.as_secs_f64() / setting.spacing().as_secs_f64()).round();
    println!(
        "{} calls, {} at a time, {} KiB each; the producer brings pages of {page} and pauses {} before each",
        setting.items,
        setting.workers,
        SIZE / 1024,
        ms(pause)
    );
    println!("\ncapacity   peak in flight  producer waited  a task waited p50   longest   calls/s");
    let mut capacities = vec![1, 16, 50, 2 * setting.workers, 500];
    capacities.sort_unstable();
    capacities.dedup();
    let rows: Vec<Row> = capacities
        .into_iter()
        .map(Some)
        .chain([None])
        .map(|capacity| {
            let row = one(setting, capacity, page, pause);
            println!(
                "{:<10} {:>10.1} MiB {:>16} {:>18} {:>9} {:>9.0}",
                capacity.map_or("unbounded".to_owned(), |capacity| capacity.to_string()),
                row.most_bytes as f64 / f64::from(1 << 20),
                ms(row.producer_waited),
                ms(row.waited.0),
                ms(row.waited.1),
                row.throughput,
            );
            row
        })
        .collect();
    let best = rows.iter().map(|row| row.throughput).fold(0.0, f64::max);
    let enough = rows.iter().find(|row| row.throughput >= 0.95 * best).and_then(|row| row.capacity);
    println!(
        "\nThe rule: a queue pays up to what workers finish during the producer's longest pause, here {need:.0} tasks; more capacity buys no throughput,\n\
         only memory and waiting. The smallest capacity of the table within 5 % of the best is {}. The default is 2 × workers, here {}.\n",
        enough.map_or("unbounded".to_owned(), |capacity| capacity.to_string()),
        2 * setting.workers,
    );
    let mut claims = Claims::default();
    claims.check(rows.iter().all(|row| row.whole), "every task of every run ended well");
    for row in &rows {
        if let Some(capacity) = row.capacity {
            // What waits, what workers hold, and the one in the producer's hand.
            let limit = capacity + setting.workers + 1;
            claims.check(
                row.most_bytes <= limit * SIZE,
                &format!("capacity {capacity}: never more than {limit} tasks in memory ({})", row.most_bytes / SIZE),
            );
        }
    }
    let unbounded = rows.last().map_or(0, |row| row.most_bytes);
    claims.check(rows[0].most_bytes < unbounded, "without a bound memory grows with the work");
    claims.check(rows[0].throughput < 0.95 * best, "with hardly any queue workers stand idle during the producer's pauses");
    claims.end()
}

fn one(setting: &Setting, capacity: Option<usize>, page: u64, pause: Duration) -> Row {
    let server = Server::start(setting.seed, setting.scale);
    let (client, url) = (reqwest::Client::new(), server.url());
    let waits = Arc::new(Mutex::new(Vec::new()));
    let (waited, bytes, producer_waited) = (waits.clone(), Arc::new(Bytes::default()), Arc::new(AtomicU64::new(0)));

    let job = Job::new(move |task: Call| {
        waited.lock().expect("nothing panics while it holds this").push(task.made.elapsed());
        let call = client.get(format!("{url}/price/{}", task.car));
        async move {
            let reply = call.send().await.map_err(|error| error.to_string())?;
            let price = reply.text().await.map_err(|error| error.to_string())?;
            drop(task);
            Ok::<_, String>(price)
        }
    });
    // The queue's places are the capacity; nothing is fetched beyond what workers can take.
    let (calls, job) = job.sender(capacity.unwrap_or(setting.items as usize));
    let producer = thread::spawn({
        let (bytes, producer_waited, items) = (bytes.clone(), producer_waited.clone(), setting.items);
        move || {
            for car in 0..items {
                if car.is_multiple_of(page) {
                    thread::sleep(pause);
                }
                let call = Call::new(car, &bytes);
                let began = Instant::now();
                if calls.blocking_send(call).is_err() {
                    return;
                }
                producer_waited.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        }
    });
    let report = job.workers(setting.workers).queue(0).run();
    let produced = producer.join().is_ok();
    let mut waits = std::mem::take(&mut *waits.lock().expect("nothing panics while it holds this"));
    waits.sort_unstable();
    Row {
        capacity,
        most_bytes: bytes.most.load(Ordering::SeqCst),
        producer_waited: Duration::from_micros(producer_waited.load(Ordering::Relaxed)),
        waited: (waits.get(waits.len() / 2).copied().unwrap_or_default(), waits.last().copied().unwrap_or_default()),
        throughput: report.throughput(),
        whole: produced && report.is_clean() && report.ok() == setting.items,
    }
}

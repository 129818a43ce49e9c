//! What `benches/kafka/run.sh` measures, one figure a process: Kafka's bare client, longshore,
//! sleeps without Kafka.
//!
//! `kafka_rates fill|bare|plain|longshore ADDRESS TOPIC [name=value]…` and `kafka_rates
//! sleeps|ledger [name=value]…`; each prints one line. Values: `records`, `partitions`, `keys`,
//! `bytes`, `order` (key, partition, none), `wait` (microseconds, or `0-5000` for any between),
//! `at_once`, `in_flight`, `eager` (the bare client's waits are set as longshore sets them),
//! `resume` (percent), `skip` (what an earlier run has committed is not waited for), `view`
//! (seconds between snapshots).

#![expect(clippy::unwrap_used, reason = "a figure that cannot be measured is none")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use longshore_core::TaskError;
use longshore_kafka::{
    Consumer, Handler, Order, Record, Settings,
    ledger::{Ledger, Taken},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
    types::RDKafkaErrorCode,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = arguments.iter().filter_map(|argument| argument.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = Options(named.collect());
    let places: Vec<&str> = arguments.iter().filter(|argument| !argument.contains('=')).map(String::as_str).collect();
    let done = match places[..] {
        ["fill", address, topic] => fill(address, topic, &options),
        ["bare", address, topic] => bare(address, topic, &options, false),
        ["plain", address, topic] => bare(address, topic, &options, true),
        ["longshore", address, topic] => longshore(address, topic, &options),
        ["sleeps"] => sleeps(&options),
        ["ledger"] => ledger(&options),
        _ => panic!("see the head of this program"),
    };
    let (cpu, resident) = used();
    let seconds = done.time.as_secs_f64();
    let given: Vec<String> = options.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
    println!(
        "{} {} | records={} seconds={seconds:.3} rate={:.0} cpu_us={:.2} peak_active={} resident_mb={resident:.1}{}",
        places[0],
        given.join(" "),
        done.records,
        done.records as f64 / seconds,
        cpu.as_secs_f64() * 1e6 / done.records as f64,
        done.peak,
        done.more
    );
}

struct Options(BTreeMap<String, String>);

impl Options {
    fn number(&self, name: &str, default: usize) -> usize {
        self.0.get(name).map_or(default, |value| value.parse().unwrap())
    }

    fn records(&self) -> usize {
        self.number("records", 500_000)
    }

    fn wait(&self) -> Wait {
        let text = self.0.get("wait").map_or("0", String::as_str);
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        Wait(from.parse().unwrap(), to.parse().unwrap())
    }
}

/// What a handler waits, in microseconds.
#[derive(Clone, Copy)]
struct Wait(u64, u64);

impl Wait {
    fn is_none(self) -> bool {
        self.1 == 0
    }

    fn one(self) -> Duration {
        Duration::from_micros(if self.0 == self.1 { self.0 } else { fastrand::u64(self.0..self.1) })
    }
}

#[derive(Default)]
struct Done {
    records: usize,
    time: Duration,
    peak: usize,
    more: String,
}

/// Produces records whose keys go round.
fn fill(address: &str, topic: &str, options: &Options) -> Done {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("linger.ms", "20").set("queue.buffering.max.messages", "200000");
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let new = NewTopic::new(topic, options.number("partitions", 8) as i32, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    let (keys, bytes, began) = (options.number("keys", 1_000), options.number("bytes", 60), Instant::now());
    for number in 0..options.records() {
        let (key, value) = (format!("k{}", number % keys), format!("{:<bytes$}", format!("{{\"id\":{number},\"kind\":\"order\"}}")));
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        while let Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) = producer.send(record) {
            std::thread::sleep(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    Done { records: options.records(), time: began.elapsed(), ..Done::default() }
}

/// The client crate's own loop: it does nothing with a record, or waits for it, one after the
/// other.
fn bare(address: &str, topic: &str, options: &Options, commits: bool) -> Done {
    let group = format!("bare-{}", std::process::id());
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("group.id", &group).set("auto.offset.reset", "earliest");
    config.set("enable.auto.commit", commits.to_string());
    if options.0.contains_key("eager") {
        // What longshore sets: else the client waits a second before it fetches on, once it has a
        // partition's fill.
        config.set("fetch.wait.max.ms", "50").set("fetch.queue.backoff.ms", "5");
    }
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let (wait, mut began, mut count, mut bytes) = (options.wait(), None, 0, 0);
    while count < options.records() {
        let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
        began.get_or_insert_with(Instant::now);
        bytes += record.unwrap().payload_len();
        count += 1;
        if !wait.is_none() {
            std::thread::sleep(wait.one());
        }
    }
    let time = began.unwrap().elapsed();
    Done { records: count, time, peak: 1, more: format!(" bytes={bytes}") }
}

/// The same sleeps at the same concurrency on tokio, and nothing else.
fn sleeps(options: &Options) -> Done {
    let (wait, records, at_once) = (options.wait(), options.records(), options.number("at_once", 100));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    runtime.block_on(async {
        let workers: Vec<_> = (0..at_once)
            .map(|_| {
                let next = Arc::clone(&next);
                tokio::spawn(async move {
                    while next.fetch_add(1, Relaxed) < records {
                        tokio::time::sleep(wait.one()).await;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
    Done { records, time: began.elapsed(), peak: at_once, more: String::new() }
}

/// Offsets taken and done at random among so many in flight, with a commit for each ten thousand.
fn ledger(options: &Options) -> Done {
    let (records, in_flight) = (options.records(), options.number("in_flight", 1_000));
    let mut random = fastrand::Rng::with_seed(1);
    let picks: Vec<usize> = (0..1 << 16).map(|_| random.usize(0..in_flight)).collect();
    let (mut ledger, mut flying, mut next, mut longest) = (Ledger::new(0, None), Vec::with_capacity(in_flight), 0, 0);
    let began = Instant::now();
    while (next as usize) < records {
        while flying.len() < in_flight && ledger.take(next) == Taken::New {
            flying.push(next);
            next += 1;
        }
        let pick = picks[next as usize % picks.len()] % flying.len();
        ledger.done(flying.swap_remove(pick));
        if next % 10_000 == 0 {
            longest = longest.max(ledger.commit().metadata.len());
        }
    }
    Done { records, time: began.elapsed(), peak: in_flight, more: format!(" longest_metadata={longest}") }
}

/// When the first record began and the last one ended.
#[derive(Default)]
struct Clock {
    begun: std::sync::OnceLock<Instant>,
    ended: AtomicUsize,
    active: AtomicUsize,
    peak: AtomicUsize,
}

fn longshore(address: &str, topic: &str, options: &Options) -> Done {
    let (records, wait) = (options.records(), options.wait());
    let group = options.0.get("group").cloned().unwrap_or_else(|| format!("longshore-{}", std::process::id()));
    let order = match options.0.get("order").map(String::as_str) {
        None | Some("key") => Order::Key,
        Some("partition") => Order::Partition,
        _ => Order::None,
    };
    let mut consumer = Consumer::new(Settings::parse(address).unwrap(), group, [topic]).order(order);
    consumer = consumer.max_threads(options.number("at_once", 100)).resume_at(options.number("resume", 75) as f64 / 100.0);
    if let Some(most) = options.0.get("in_flight") {
        consumer = consumer.max_in_flight(most.parse().unwrap());
    }
    let clock = Arc::new(Clock::default());
    let (ended, all_ended) = tokio::sync::oneshot::channel();
    let ended = std::sync::Mutex::new(Some(ended));
    let shared = Arc::clone(&clock);
    let end = Arc::new(move |clock: &Clock| {
        if clock.ended.fetch_add(1, Relaxed) + 1 == records
            && let Some(ended) = ended.lock().unwrap().take()
        {
            let _ = ended.send(Instant::now());
        }
    });
    let handler = Handler::new(move |_: Record| {
        let (clock, end) = (Arc::clone(&shared), Arc::clone(&end));
        clock.begun.get_or_init(Instant::now);
        if wait.is_none() {
            end(&clock);
        } else {
            clock.peak.fetch_max(clock.active.fetch_add(1, Relaxed) + 1, Relaxed);
        }
        async move {
            if !wait.is_none() {
                tokio::time::sleep(wait.one()).await;
                clock.active.fetch_sub(1, Relaxed);
                end(&clock);
            }
            Ok::<_, TaskError>(())
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (last, summary) = runtime.block_on(async {
        let running = consumer.start(handler).await.unwrap();
        let handle = running.handle();
        let last = all_ended.await.unwrap();
        handle.stop();
        (last, running.join().await)
    });
    let time = last - *clock.begun.get().unwrap();
    let more = format!(" error={:?} counts={:?}", summary.error, summary.counts);
    Done { records, time, peak: clock.peak.load(Relaxed), more }
}

/// Processor time of this process, and its largest resident size in megabytes.
fn used() -> (Duration, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    (Duration::from_millis(ticks * 10), peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0)
}

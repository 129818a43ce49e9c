//! A worker and a client on RabbitMQ beside minimal loops of lapin that do the same steps, and
//! Celery's client where `CELERY_PYTHON` names a Python that has it:
//! `cargo bench -p longshore-worker --bench rabbit [-- ROUNDS [1234]]`, all rows or some.
//!
//! Who works is a process of its own, so that its processor time can be told. Medians of all
//! rounds; ours and the bare loop take turns.
#![expect(clippy::unwrap_used, reason = "a measuring program")]

extern crate longshore_worker as longshore;

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all, stream};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use longshore::{Acks, App, Client, Signature, Worker, WorkerOptions};
use longshore_testkit::rabbit::RabbitServer;

const QUEUE: &str = "bench";
const DRAINED: usize = 50_000;
const SENT: usize = 20_000;
const ASKED: usize = 500;
const SLEEPS: usize = 2_000;

#[longshore::task(name = "bench.noop")]
async fn noop() {}

#[longshore::task(name = "bench.wait")]
async fn wait(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[longshore::task(name = "bench.block")]
fn block(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match args.first().map(String::as_str) {
        Some("worker") => runtime.block_on(worker(&args[1], args[2].parse().unwrap())),
        Some("bare") => runtime.block_on(bare(&args[1])),
        rounds => {
            let rounds = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
            let Some(server) = RabbitServer::start(&[]) else { return };
            runtime.block_on(measure(&server, rounds, args.get(1).map_or("1234", String::as_str)));
        }
    }
}

fn app(url: &str) -> App {
    let tasks: [longshore::Task; 3] = [noop.into(), wait.into(), block.into()];
    tasks.into_iter().fold(App::new().broker(url).results("rpc://").default_queue(QUEUE), |app, mut task| {
        task.policy.acks = Some(Acks::Late);
        app.task(task)
    })
}

async fn worker(url: &str, slots: usize) {
    let mut options = WorkerOptions::new("bench@longshore");
    options.lanes = [slots, slots, 2, 2];
    let worker = Worker::start(app(url), options).await.unwrap();
    println!("ready");
    worker.join().await;
}

async fn connect(url: &str) -> Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    // The program ends with it.
    std::mem::forget(connection);
    channel
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await.unwrap()
}

/// Takes, publishes a result for each, waits for the confirmations, and acknowledges them together.
async fn bare(url: &str) {
    let (channel, results) = (connect(url).await, connect(url).await);
    results.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel.basic_qos(1000, BasicQosOptions { global: true }).await.unwrap();
    let mut consumer = consume(&channel, QUEUE).await;
    println!("ready");
    while let Some(first) = consumer.next().await {
        let mut batch = vec![first.unwrap()];
        while let Some(Some(next)) = futures_util::FutureExt::now_or_never(consumer.next()) {
            batch.push(next.unwrap());
        }
        let publish = batch.iter().map(|delivery| {
            let (to, id) = (delivery.properties.reply_to().clone().unwrap(), delivery.properties.correlation_id().clone().unwrap());
            let body = format!(
                r#"{{"status": "SUCCESS", "result": null, "traceback": null, "children": [], "date_done": "2026-11-23T17:00:00.000000+00:00", "task_id": "{id}"}}"#
            );
            let properties = BasicProperties::default().with_correlation_id(id).with_delivery_mode(1).with_content_type("application/json".into());
            let results = &results;
            async move {
                let sent = results.basic_publish("".into(), to, BasicPublishOptions::default(), body.as_bytes(), properties).await;
                sent.unwrap().await.unwrap()
            }
        });
        join_all(publish).await;
        channel.basic_ack(batch.last().unwrap().delivery_tag, BasicAckOptions { multiple: true }).await.unwrap();
    }
}

/// A process that works, ended when it is dropped.
struct Works(Child);

impl Works {
    fn start(words: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap()).args(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// Returns its processor time so far, in seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<f64> = stat.rsplit(')').next().unwrap().split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        (fields[11] + fields[12]) / 100.0
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Rows = BTreeMap<&'static str, Vec<f64>>;

async fn measure(server: &RabbitServer, rounds: usize, which: &str) {
    let mut rows = Rows::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        if which.contains('1') {
            publishing(server, &mut rows).await;
        }
        if which.contains('2') {
            draining(server, &mut rows).await;
        }
        if which.contains('3') {
            asking(server, &mut rows).await;
        }
        if which.contains('4') {
            sleeping(server, &mut rows).await;
        }
    }
    for (name, mut values) in rows {
        values.sort_by(f64::total_cmp);
        println!("| {name} | {:.3} |", values[values.len() / 2]);
    }
}

fn messages(count: usize) -> impl futures_util::Stream<Item = Signature> {
    stream::iter((0..count).map(|_| Signature::named("bench.noop")))
}

async fn send_all(client: &Client, count: usize) {
    let mut sent = client.send_all(messages(count));
    while let Some(one) = sent.next().await {
        assert!(one.1.is_ok());
    }
}

async fn publishing(server: &RabbitServer, rows: &mut Rows) {
    let url = server.vhost();
    let client = Client::of(&app(&url)).unwrap();
    send_all(&client, 100).await;
    let begun = Instant::now();
    send_all(&client, SENT).await;
    rows.entry("1 publish, confirmed: ours, thousands a second").or_default().push(SENT as f64 / begun.elapsed().as_secs_f64() / 1e3);
    if let Ok(python) = std::env::var("CELERY_PYTHON") {
        let code = format!(
            "import time, celery\napp = celery.Celery(broker='py{url}')\napp.conf.update(broker_transport_options={{'confirm_publish': True}})\n\
             app.send_task('bench.noop')\nbegun = time.time()\nfor _ in range(2000): app.send_task('bench.noop')\nprint(2000 / (time.time() - begun))"
        );
        let output = Command::new(python).args(["-c", &code]).output().unwrap();
        let a_second: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        rows.entry("1 publish, confirmed: Celery, thousands a second").or_default().push(a_second / 1e3);
    }
}

async fn draining(server: &RabbitServer, rows: &mut Rows) {
    for (name, cpu, words) in [
        ("2 drain: ours, thousands a second", "2 drain: ours, µs of processor a task", ["worker", "500"]),
        ("2 drain: bare, thousands a second", "2 drain: bare, µs of processor a task", ["bare", ""]),
    ] {
        let url = server.vhost();
        let vhost = url.rsplit('/').next().unwrap();
        let client = Client::of(&app(&url)).unwrap();
        send_all(&client, DRAINED).await;
        let begun = Instant::now();
        let works = Works::start(&[words[0], &url, words[1]]);
        let waits = || server.queues(vhost).iter().find(|(name, ..)| name == QUEUE).map_or(0, |(_, ready, unacked, _)| ready + unacked);
        while waits() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rows.entry(name).or_default().push(DRAINED as f64 / begun.elapsed().as_secs_f64() / 1e3);
        rows.entry(cpu).or_default().push(works.cpu() * 1e6 / DRAINED as f64);
    }
}

async fn asking(server: &RabbitServer, rows: &mut Rows) {
    let url = server.vhost();
    let works = Works::start(&["worker", &url, "100"]);
    let client = Client::of(&app(&url)).unwrap();
    let mut times = Vec::new();
    for _ in 0..ASKED {
        let begun = Instant::now();
        client.send(Signature::named("bench.noop")).await.unwrap().get().await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    drop(works);
    times.sort_by(f64::total_cmp);
    rows.entry("3 ask and wait: ours, ms").or_default().push(times[times.len() / 2]);

    let url = server.vhost();
    let channel = connect(&url).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    for queue in [QUEUE, "answers"] {
        channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
    }
    let works = Works::start(&["bare", &url]);
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let answers = connect(&url).await;
    let mut consumer = consume(&answers, "answers").await;
    let mut times = Vec::new();
    for number in 0..ASKED {
        let begun = Instant::now();
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_reply_to("answers".into()).with_correlation_id(number.to_string().into());
        let sent = channel.basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), &[b'x'; 700], properties).await;
        sent.unwrap().await.unwrap();
        let answer = consumer.next().await.unwrap().unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        answer.ack(BasicAckOptions::default()).await.unwrap();
    }
    drop(works);
    times.sort_by(f64::total_cmp);
    rows.entry("3 ask and wait: bare, ms").or_default().push(times[times.len() / 2]);
}

/// Measures sleeps by tokio's timer, and sleeps on threads.
async fn sleeping(server: &RabbitServer, rows: &mut Rows) {
    for (name, task) in [
        ("4 2000 sleeps of 50 ms at 100: part of the ideal", "bench.wait"),
        ("4 2000 sleeps of 50 ms on 100 threads: part of the ideal", "bench.block"),
    ] {
        let url = server.vhost();
        let client = Client::of(&app(&url)).unwrap();
        let works = Works::start(&["worker", &url, "100"]);
        client.send(Signature::named("bench.noop")).await.unwrap().get().await.unwrap();
        let begun = Instant::now();
        let mut waits = client.send_all(stream::iter((0..SLEEPS).map(|_| Signature::named(task).arg(&50_u64))));
        let mut answers = Vec::new();
        while let Some((_, sent)) = waits.next().await {
            answers.push(sent.unwrap());
        }
        join_all(answers.into_iter().map(|answer| async move { answer.get().await.unwrap() })).await;
        let took = begun.elapsed();
        drop(works);
        let ideal = SLEEPS as f64 / 100.0 * 0.05;
        rows.entry(name).or_default().push(ideal / took.as_secs_f64());
    }
}

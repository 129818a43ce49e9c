//! A worker on a real Redis whose tasks are all acknowledged early: messages are given to it, and
//! what does not run goes back.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::{Broker, Connected, Outgoing, connect};
use longshore_celery::{Encoding, Limits, Message, Value, WireSignature};
use longshore_testkit::{proxy::Proxy, servers::Redis};
use longshore_worker::{Acks, App, RateScope, Task, Worker, WorkerOptions, WorkerSummary};
use tokio::sync::{Semaphore, mpsc};

const SOON: Duration = Duration::from_secs(20);

struct Bench {
    server: Redis,
    connected: Connected,
    broker: Arc<dyn Broker>,
    app: App,
}

impl Bench {
    fn new(tasks: impl IntoIterator<Item = Task>) -> Option<Self> {
        let server = Redis::start(&[])?;
        let connected = connect(&server.url(), None).unwrap();
        let broker = connected.broker.clone();
        let early = |mut task: Task| {
            task.policy.acks = Some(Acks::Early);
            task
        };
        let app = tasks.into_iter().map(early).fold(App::new().broker(server.url()), App::task);
        Some(Self { server, connected, broker, app })
    }

    async fn worker(&self, slots: usize) -> Worker {
        let mut options = WorkerOptions::new("w@test");
        options.lanes = [slots; 4];
        Worker::start(self.app.clone(), options).await.unwrap()
    }

    async fn send(&self, task: &str, ids: impl IntoIterator<Item = String>, eta: Option<SystemTime>) {
        let outgoing = |id: String| {
            let message = Message { task: task.to_owned(), id, eta, routing_key: "celery".to_owned(), ..Message::default() };
            Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: eta, raw: message.encode(Encoding::Json) }
        };
        self.broker.publish(&ids.into_iter().map(outgoing).collect::<Vec<_>>()).await.unwrap();
    }

    /// Waiting, and parked by a worker.
    fn lengths(&self) -> (String, String) {
        let number = |arguments: &[&str]| self.server.command(arguments).trim().trim_start_matches(':').to_owned();
        (number(&["LLEN", "celery"]), number(&["HLEN", "unacked"]))
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A task that counts how often it ran.
fn counting() -> (Task, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let task = Task::future("count", move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(Value::Null) }
    });
    (task, count)
}

/// A task that says that it runs, and ends when it is let.
fn gated() -> (Task, mpsc::UnboundedReceiver<String>, Arc<Semaphore>) {
    let (started, begun) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let open = gate.clone();
    let task = Task::future("wait", move |context, _| {
        let (started, gate) = (started.clone(), gate.clone());
        async move {
            let _ = started.send(context.id().to_owned());
            gate.acquire().await.unwrap().forget();
            Ok(Value::Null)
        }
    });
    (task, begun, open)
}

#[tokio::test]
async fn an_eta_survives_a_warm_stop_and_runs_once() {
    let (task, count) = counting();
    let Some(bench) = Bench::new([task]) else { return };
    let first = bench.worker(2).await;
    bench.send("count", ["later".to_owned()], Some(SystemTime::now() + Duration::from_secs(2))).await;
    until("it is held", || first.held() == 1).await;
    assert_eq!(bench.lengths(), ("0".to_owned(), "1".to_owned()), "the broker has what waits for its time");
    first.stopper().warm();
    tokio::time::timeout(SOON, first.join()).await.unwrap();
    assert_eq!(bench.lengths(), ("1".to_owned(), "0".to_owned()));
    assert_eq!(count.load(Ordering::Relaxed), 0);
    let second = bench.worker(2).await;
    until("it runs", || count.load(Ordering::Relaxed) > 0 && bench.lengths() == ("0".to_owned(), "0".to_owned())).await;
    second.stopper().warm();
    assert_eq!(tokio::time::timeout(SOON, second.join()).await.unwrap().counts.ok, 1);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_warm_stop_hands_back_what_has_not_started() {
    let (task, mut begun, gate) = gated();
    let Some(bench) = Bench::new([task]) else { return };
    let worker = bench.worker(1).await;
    bench.send("wait", (0..3000).map(|n| format!("m{n:04}")), None).await;
    assert_eq!(begun.recv().await.unwrap(), "m0000");
    // So many at once that it claims ahead, more than it reads in one go.
    gate.add_permits(1000);
    while begun.recv().await.unwrap() != "m1000" {}
    assert_eq!(bench.lengths().1, "0", "what was given is not parked");
    worker.stopper().warm();
    until("all but the one that runs are back before it has ended", || bench.lengths() == ("1999".to_owned(), "0".to_owned())).await;
    gate.add_permits(1);
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((summary.counts.ok, summary.error), (1001, None));
    assert_eq!(bench.lengths(), ("1999".to_owned(), "0".to_owned()), "nothing is lost");
    let left = bench.connected.inspect().unwrap().peek("celery", 3000).await.unwrap();
    let ids: Vec<String> = left.iter().map(|raw| Message::decode(raw, &Limits::default()).unwrap().id).collect();
    let mut sorted = ids.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), 1999, "nothing is doubled");
}

#[tokio::test]
async fn tasks_of_a_limited_rate_wait_in_the_broker() {
    let (mut task, count) = counting();
    task.policy.rate_limit = Some(longshore_core::Rate::per_second(5.0));
    let Some(bench) = Bench::new([task]) else { return };
    let worker = bench.worker(4).await;
    let begun = Instant::now();
    bench.send("count", (0..6).map(|n| format!("m{n}")), None).await;
    until("five wait", || bench.lengths() == ("0".to_owned(), "5".to_owned())).await;
    until("all run", || count.load(Ordering::Relaxed) == 6 && bench.lengths().1 == "0").await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "six starts at five a second take a second");
    worker.stopper().warm();
    assert_eq!(tokio::time::timeout(SOON, worker.join()).await.unwrap().counts.ok, 6);
}

#[tokio::test]
async fn two_workers_keep_a_shared_rate_and_lose_nothing_when_one_of_them_leaves() {
    let (mut task, count) = counting();
    task.policy.rate_limit = Some(longshore_core::Rate::per_second(20.0));
    task.policy.rate_scope = RateScope::Shared;
    let Some(bench) = Bench::new([task]) else { return };
    let (one, two) = (bench.worker(4).await, bench.worker(4).await);
    let begun = Instant::now();
    bench.send("count", (0..40).map(|n| format!("m{n}")), None).await;
    // What waits for its slot is held, not given: it lies in the broker.
    until("they wait", || bench.lengths().0 == "0" && bench.lengths().1 != "0").await;
    until("a quarter has run", || count.load(Ordering::Relaxed) >= 10).await;
    two.stopper().warm();
    let two = tokio::time::timeout(SOON, two.join()).await.unwrap();
    until("all run", || count.load(Ordering::Relaxed) >= 40 && bench.lengths() == ("0".to_owned(), "0".to_owned())).await;
    assert!(begun.elapsed() >= Duration::from_secs_f64(39.0 / 20.0 - 0.1), "40 starts at 20 a second took {:?}", begun.elapsed());
    one.stopper().warm();
    let one = tokio::time::timeout(SOON, one.join()).await.unwrap();
    assert_eq!((one.counts.ok + two.counts.ok, count.load(Ordering::Relaxed)), (40, 40), "each once");
}

#[tokio::test]
async fn what_cannot_be_run_is_a_dead_letter() {
    let (task, _) = counting();
    let Some(bench) = Bench::new([task]) else { return };
    let worker = bench.worker(2).await;
    bench.send("no.such", ["a".to_owned()], None).await;
    bench
        .broker
        .publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw: b"{not json".to_vec() }])
        .await
        .unwrap();
    let begun = Instant::now();
    while bench.connected.letters().unwrap().dead(None).await.unwrap().len() < 2 {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.lengths(), ("0".to_owned(), "0".to_owned()));
    worker.stopper().warm();
    assert_eq!(tokio::time::timeout(SOON, worker.join()).await.unwrap().counts.dead, 2);
}

/// The summary of a worker whose broker goes away, and that is then told to stop.
async fn stopped_while_away(worker: Worker, bench: Bench) -> WorkerSummary {
    drop(bench);
    worker.stopper().hard();
    let summary = tokio::time::timeout(Duration::from_secs(60), worker.join()).await.expect("it ends");
    assert!(summary.error.is_some() && summary.counts.handed_back == 0, "{summary:?}");
    summary
}

#[tokio::test]
async fn a_stop_ends_while_the_broker_is_away_and_counts_what_it_could_not_tell() {
    tokio::join!(late_and_early(), given(), late());
}

async fn late_and_early() {
    let (early, mut begun, _gate) = gated();
    let mut late = early.clone();
    late.name = "late".into();
    let Some(mut bench) = Bench::new([early]) else { return };
    bench.app = bench.app.task(late);
    let worker = bench.worker(2).await;
    bench.send("late", ["comes again".to_owned()], None).await;
    bench.send("wait", ["acknowledged".to_owned()], None).await;
    begun.recv().await.unwrap();
    begun.recv().await.unwrap();
    until("the one is acknowledged, the other is not", || bench.lengths() == ("0".to_owned(), "1".to_owned())).await;
    let summary = stopped_while_away(worker, bench).await;
    assert_eq!((summary.counts.lost, summary.untold), (1, 1), "{summary:?}");
}

/// What was given and cannot be given back is lost.
async fn given() {
    let (task, mut begun, gate) = gated();
    let Some(bench) = Bench::new([task]) else { return };
    let worker = bench.worker(1).await;
    bench.send("wait", (0..3000).map(|n| format!("m{n:04}")), None).await;
    // So many at once that it claims ahead, more than it reads in one go.
    gate.add_permits(1000);
    while begun.recv().await.unwrap() != "m1000" {}
    let left: u64 = bench.lengths().0.parse().unwrap();
    let summary = stopped_while_away(worker, bench).await;
    // Of those that ended last the results may not have been stored.
    assert!(
        (2000 - left..=3000 - left - summary.counts.ok).contains(&summary.counts.lost) && summary.counts.lost > 1,
        "{left} waited: {summary:?}"
    );
    assert_eq!(summary.untold, 0, "{summary:?}");
}

async fn late() {
    let (task, mut begun, _gate) = gated();
    let Some(server) = Redis::start(&[]) else { return };
    let connected = connect(&server.url(), None).unwrap();
    let broker = connected.broker.clone();
    let app = App::new().broker(server.url()).task(task);
    let bench = Bench { server, connected, broker, app };
    let worker = bench.worker(2).await;
    bench.send("wait", ["a".to_owned()], None).await;
    begun.recv().await.unwrap();
    let summary = stopped_while_away(worker, bench).await;
    assert_eq!((summary.counts.lost, summary.untold), (0, 1), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_task_is_sent_once_though_answers_are_lost() {
    const EACH: u32 = 4;
    const ROUNDS: u32 = 10;
    let (task, mut begun, gate) = gated();
    let name = task.name.to_string();
    let Some(mut bench) = Bench::new([task]) else { return };
    let proxy = Proxy::start(bench.server.port());
    bench.app = bench.app.clone().broker(format!("redis://127.0.0.1:{}/0", proxy.port()));
    let worker = bench.worker(EACH as usize).await;
    let mut link = WireSignature { task: "link".to_owned(), ..WireSignature::default() };
    link.options.set("queue", "next");
    let sent = || bench.server.command(&["LLEN", "next"]).trim().trim_start_matches(':').parse::<u32>().unwrap();
    for round in 0..ROUNDS {
        let outgoing = |number: u32| {
            let (task, id, callbacks) = (name.clone(), format!("{round}-{number}"), vec![link.clone()]);
            let message = Message { task, id, callbacks, routing_key: "celery".to_owned(), ..Message::default() };
            Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw: message.encode(Encoding::Json) }
        };
        bench.broker.publish(&(0..EACH).map(outgoing).collect::<Vec<_>>()).await.unwrap();
        for _ in 0..EACH {
            begun.recv().await.unwrap();
        }
        // Nothing else is asked now, but for signs of life.
        proxy.cut_after(1);
        gate.add_permits(EACH as usize);
        until("all of them were sent on", || sent() >= EACH * (round + 1)).await;
        until("the answer was lost", || proxy.happened() > round).await;
    }
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!((sent(), summary.counts.ok), (EACH * ROUNDS, u64::from(EACH * ROUNDS)));
}

//! A worker whose broker is far away: the next messages are asked for while there is still
//! something to do, and go back at once when it stops.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_brokers::{Connected, Outgoing, connect};
use longshore_celery::{Encoding, Message, Value};
use longshore_testkit::{proxy::Proxy, servers::Redis};
use longshore_worker::{App, Task, Worker, WorkerOptions};
use tokio::sync::Semaphore;

const SLOTS: usize = 4;

struct Far {
    server: Redis,
    proxy: Proxy,
}

impl Far {
    async fn with(tasks: &[&str]) -> Option<Self> {
        let server = Redis::start(&[])?;
        let Connected { broker, .. } = connect(&server.url(), None).expect("a good URL");
        let outgoing = |(number, task): (usize, &&str)| {
            let message =
                Message { task: (*task).to_owned(), id: number.to_string(), routing_key: "celery".to_owned(), ..Message::default() };
            Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw: message.encode(Encoding::Json) }
        };
        broker.publish(&tasks.iter().enumerate().map(outgoing).collect::<Vec<_>>()).await.expect("published");
        let proxy = Proxy::start(server.port());
        proxy.far(Duration::from_millis(10));
        Some(Self { server, proxy })
    }

    async fn worker(&self, tasks: impl IntoIterator<Item = Task>) -> Worker {
        self.worker_with(WorkerOptions::new("w@test"), tasks).await
    }

    async fn worker_with(&self, mut options: WorkerOptions, tasks: impl IntoIterator<Item = Task>) -> Worker {
        options.lanes = [SLOTS; 4];
        let app = App::new().broker(format!("redis://127.0.0.1:{}/0", self.proxy.port()));
        Worker::start(tasks.into_iter().fold(app, App::task), options).await.expect("a worker")
    }

    /// Waiting, and claimed.
    fn lengths(&self) -> (usize, usize) {
        let number = |command: &[&str]| self.server.command(command).trim().trim_start_matches(':').parse().expect("a number");
        (number(&["LLEN", "celery"]), number(&["HLEN", "unacked"]))
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(usize, usize) -> bool) {
        let begun = Instant::now();
        loop {
            let (waiting, claimed) = self.lengths();
            if holds(waiting, claimed) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {waiting} are waiting, {claimed} claimed");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until tasks that end by a permit each have used them all: those that have ended are
    /// acknowledged, every slot is taken, and more than `claims` are claimed. Where fewer are,
    /// because this machine is slow, more tasks end. Returns how many have.
    async fn until_ahead(&self, gate: &Semaphore, tasks: usize, mut ended: usize, claims: usize, began: impl Fn() -> usize) -> usize {
        loop {
            let mut ahead = 0;
            self.until("those that have ended are acknowledged, and every slot is taken", |waiting, claimed| {
                ahead = claimed;
                waiting + claimed == tasks - ended && began() == ended + SLOTS
            })
            .await;
            if ahead > claims {
                return ended;
            }
            // What was asked for before they were all taken may still come.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if self.lengths().1 > claims {
                return ended;
            }
            assert!(ended + 20 < tasks, "nothing is claimed ahead: {ahead}");
            gate.add_permits(20);
            ended += 20;
        }
    }
}

fn short() -> Task {
    Task::future("short", |_, _| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(Value::Null)
    })
}

fn leased(node: &str, lease: Duration) -> WorkerOptions {
    let mut options = WorkerOptions::new(node);
    options.lease = lease;
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_way_is_longer_than_the_tasks_more_is_claimed_than_can_start() {
    const TASKS: usize = 600;
    let Some(far) = Far::with(&["short"; TASKS]).await else { return };
    let worker = far.worker([short()]).await;
    let mut most = 0;
    far.until("all are run", |waiting, claimed| {
        most = most.max(claimed);
        waiting + claimed == 0
    })
    .await;
    // What can start, and what ends while a claim is on its way, four times over: a hundred, as
    // fast as this machine is, and by far not all.
    assert!((10 * SLOTS..TASKS / 2).contains(&most), "{most} were claimed at a time");
    worker.stopper().warm();
    worker.join().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_claimed_ahead_goes_back_while_others_still_run() {
    let tasks = [&["long"][..], &["short"; 3000]].concat();
    let Some(far) = Far::with(&tasks).await else { return };
    let end = Arc::new(Semaphore::new(0));
    let permit = end.clone();
    let long = Task::future("long", move |_, _| {
        let permit = permit.clone();
        async move {
            permit.acquire().await.expect("open").forget();
            Ok(Value::Null)
        }
    });
    let worker = far.worker([short(), long]).await;
    far.until("more is claimed than can start", |_, claimed| claimed > 10 * SLOTS).await;
    worker.stopper().warm();
    far.until("all but the one that runs go back", |waiting, claimed| waiting > 0 && claimed == 1).await;
    end.add_permits(1);
    worker.join().await;
    let (waiting, claimed) = far.lengths();
    assert!(waiting > 0 && claimed == 0, "{waiting} are waiting, {claimed} claimed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_when_the_lease_is_over_starts_only_when_it_is_known_to_be_ours() {
    const LEASE: Duration = Duration::from_millis(600);
    let Some(far) = Far::with(&["gated"; 1000]).await else { return };
    // Those that have started; how many may end.
    let (started, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(300)));
    let gated = Task::future("gated", {
        let (started, gate) = (started.clone(), gate.clone());
        move |context, _| {
            started.lock().expect("no panic").push(context.id().to_owned());
            let gate = gate.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                gate.acquire().await.expect("open").forget();
                Ok(Value::Null)
            }
        }
    });
    let count = || started.lock().expect("no panic").len();
    let worker = far.worker_with(leased("w@test", LEASE), [gated]).await;
    let ended = far.until_ahead(&gate, 1000, 300, 2 * SLOTS, count).await;
    far.proxy.hold(true);
    tokio::time::sleep(2 * LEASE).await;
    // Slots are free; the broker has not been heard of for longer than the lease.
    gate.add_permits(SLOTS);
    tokio::time::sleep(LEASE / 2).await;
    assert_eq!(count(), ended + SLOTS, "what is held may be somebody else's");
    gate.add_permits(10_000);
    far.proxy.hold(false);
    far.until("all are run", |waiting, claimed| waiting + claimed == 0).await;
    worker.stopper().warm();
    let summary = worker.join().await;
    let mut ids = started.lock().expect("no panic").clone();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), count()), (1000, 1000), "each once");
    assert!(summary.counts.handed_back > 0 && summary.counts.late == 0, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_waited_to_begin_for_longer_than_the_lease_does_not_begin() {
    const LEASE: Duration = Duration::from_millis(600);
    let Some(far) = Far::with(&["gated"; 1000]).await else { return };
    let (started, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(300)));
    // That it has started is stored before it begins.
    let gated = |by: &'static str| {
        let (started, gate) = (started.clone(), gate.clone());
        Task::future("gated", move |context, _| {
            let (started, gate, id) = (started.clone(), gate.clone(), context.id().to_owned());
            async move {
                started.lock().expect("no panic").push((id, by));
                tokio::time::sleep(Duration::from_millis(2)).await;
                gate.acquire().await.expect("open").forget();
                Ok(Value::Null)
            }
        })
        .with_policy(|policy| policy.track_started = true)
    };
    let count = || started.lock().expect("no panic").len();
    let worker = far.worker_with(leased("w@test", LEASE), [gated("w")]).await;
    far.until_ahead(&gate, 1000, 300, 2 * SLOTS, count).await;
    // Those that run end, and others take their slots, while the broker cannot be reached.
    far.proxy.hold(true);
    gate.add_permits(SLOTS);
    tokio::time::sleep(LEASE / 3).await;
    gate.add_permits(10_000);
    let options = leased("other@test", LEASE);
    let other = Worker::start(App::new().broker(far.server.url()).task(gated("other")), options).await.expect("a worker");
    far.until("the other does all", |waiting, claimed| waiting + claimed == 0).await;
    far.proxy.hold(false);
    tokio::time::sleep(LEASE).await;
    worker.stopper().warm();
    worker.join().await;
    other.stopper().warm();
    other.join().await;
    // Again ran only those that had ended, and could not be acknowledged.
    let mut all = started.lock().expect("no panic").clone();
    all.sort_unstable();
    let twice: Vec<_> = all.chunk_by(|one, next| one.0 == next.0).filter(|same| same.len() > 1).collect();
    assert!((1000..=1000 + SLOTS).contains(&count()), "{} of 1000 began: {twice:?}", count());
}

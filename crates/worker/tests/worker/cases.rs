// The cases, for one kind of store: `connected` is of the module that includes this.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use longshore_brokers::{Broker, Connected, End, Finish, Key, OpenOptions, Outgoing, ResultBackend, Stored};
use longshore_celery::{Compression, Encoding, Limits, Message, State, TaskResult, Value};
use longshore_core::{LaneKind, watch::Counts};
use longshore_worker::{Acks, App, Autoscale, Call, Failure, Task, TaskContext, Worker, WorkerOptions, WorkerSummary};
use tokio::sync::{Semaphore, mpsc};

/// A broker and a worker of its own for each test.
struct Bench {
    connected: Connected,
    broker: Arc<dyn Broker>,
    results: Arc<dyn ResultBackend>,
    worker: Option<Worker>,
}

impl Bench {
    async fn new(name: &str, tasks: impl IntoIterator<Item = Task>) -> Self {
        Self::with(name, tasks, |_| {}).await
    }

    async fn with(name: &str, tasks: impl IntoIterator<Item = Task>, set: impl FnOnce(&mut WorkerOptions)) -> Self {
        Self::of(name, tasks.into_iter().fold(App::new(), App::task), set).await
    }

    async fn of(name: &str, app: App, set: impl FnOnce(&mut WorkerOptions)) -> Self {
        let connected = connected(name);
        let (broker, results) = (connected.broker.clone(), connected.results.clone());
        let mut options = WorkerOptions::new("w@test");
        set(&mut options);
        let worker = Worker::over(at(app, &connected), options, connected.clone()).await.unwrap();
        Self { connected, broker, results, worker: Some(worker) }
    }

    async fn send(&self, message: Message) -> String {
        let mut message = message;
        if message.id.is_empty() {
            message.id = format!("id-{}", fastrand::u64(..));
        }
        message.routing_key = "celery".to_owned();
        let id = message.id.clone();
        let raw = message.encode(Encoding::Json);
        self.broker.publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: message.eta, raw }]).await.unwrap();
        id
    }

    /// The result of a task, when it has a final one.
    async fn result(&self, id: &str) -> TaskResult {
        let mut watch = self.results.watch(&[id.to_owned()]).await.unwrap();
        let mut doc = watch.stored.pop().flatten();
        loop {
            if let Some(doc) = doc {
                let result = TaskResult::decode(&doc, 1 << 20).unwrap();
                if result.state.is_ready() {
                    return result;
                }
            }
            doc = Some(tokio::time::timeout(Duration::from_secs(20), watch.results.recv()).await.unwrap().unwrap().1);
        }
    }

    async fn stop(mut self) -> WorkerSummary {
        let worker = self.worker.take().unwrap();
        worker.stopper().warm();
        tokio::time::timeout(Duration::from_secs(20), worker.join()).await.unwrap()
    }

    /// The dead letters once the worker has stopped: a task's result is stored before its letter.
    async fn stopped_dead(self) -> Vec<longshore_brokers::DeadLetter> {
        let connected = self.connected.clone();
        self.stop().await;
        connected.letters().unwrap().dead(None).await.unwrap()
    }
}

/// An app whose settings name these stores.
fn at(app: App, connected: &Connected) -> App {
    let (broker, results) = (connected.broker.url(), connected.results.url());
    if broker == results { app.broker(broker) } else { app.broker(broker).results(results) }
}

/// How many messages wait in the queue, and how many are held.
async fn left(connected: &Connected) -> (u64, u64) {
    let state = connected.broker.queues(&["celery".into()]).await.unwrap().remove(0);
    (state.waiting, state.held)
}

/// Takes the only message of a queue out of it.
async fn take(connected: &Connected, queue: &str) -> Message {
    let options = OpenOptions::new("taker@test", [queue]);
    let consumer = connected.broker.open(options).await.unwrap();
    let mut claimed = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), consumer.claim(9, &mut claimed)).await.expect(queue).unwrap();
    assert_eq!(claimed.len(), 1, "{queue}");
    let receipt = claimed[0].receipt;
    consumer.finish(&[Finish { receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Ack }]).await.unwrap();
    consumer.leave().await.unwrap();
    Message::decode(&claimed[0].raw, &Limits::default()).unwrap()
}

fn call(task: &str, args: Vec<Value>) -> Message {
    Message { task: task.to_owned(), args, ..Message::default() }
}

fn add() -> Task {
    Task::plain("add", |_, call: Call| {
        let numbers: Vec<i64> = call.args.iter().filter_map(Value::as_i64).collect();
        Ok(numbers.iter().sum::<i64>().into())
    })
}

/// What a worker has done that did no more than this.
fn summed(set: impl FnOnce(&mut Counts)) -> WorkerSummary {
    let mut summary = WorkerSummary::default();
    set(&mut summary.counts);
    summary
}

#[tokio::test]
async fn a_task_is_run_its_result_stored_and_its_message_acknowledged() {
    let bench = Bench::new("run", [add()]).await;
    let id = bench.send(call("add", vec![2.into(), 3.into()])).await;
    let result = bench.result(&id).await;
    assert_eq!((result.state, result.result), (State::Success, Value::Int(5)));
    let connected = bench.connected.clone();
    let summary = bench.stop().await;
    assert_eq!(summary, summed(|counts| counts.ok = 1));
    assert_eq!(left(&connected).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thread_that_cannot_be_ended_holds_up_no_stop_and_its_task_goes_back() {
    let (spins, begun) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (goes_on, begins) = (spins.clone(), begun.clone());
    let task = Task::plain("spin", move |_, _| {
        begins.store(true, Ordering::Release);
        while goes_on.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Value::Null)
    });
    let mut bench = Bench::new("spin", [task.on(LaneKind::Cpu)]).await;
    bench.send(call("spin", vec![])).await;
    while !begun.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let worker = bench.worker.take().unwrap();
    worker.stopper().hard();
    let summary = tokio::time::timeout(Duration::from_secs(20), worker.join()).await.expect("it ends");
    assert_eq!(summary, summed(|counts| counts.handed_back = 1));
    assert_eq!(bench.broker.queues(&["celery".into()]).await.unwrap()[0].waiting, 1);
    spins.store(false, Ordering::Release);
}

#[tokio::test]
async fn a_failure_is_stored_with_its_type_and_arguments() {
    let bench = Bench::new("failure", [Task::plain("fail", |_, _| Err(Failure::error("ValueError", "kaboom")))]).await;
    let id = bench.send(call("fail", vec![])).await;
    let result = bench.result(&id).await;
    assert_eq!(result.state, State::Failure);
    let exception = longshore_celery::Exception::from_value(&result.result).unwrap();
    assert_eq!(exception.to_string(), "ValueError('kaboom')");
    assert_eq!(bench.stop().await.counts.failed, 1);
}

#[tokio::test]
async fn a_panic_is_a_failure_and_the_worker_goes_on() {
    let bench = Bench::new("panic", [Task::plain("panic", |_, _| panic!("oh no")), add()]).await;
    let bad = bench.send(call("panic", vec![])).await;
    let good = bench.send(call("add", vec![1.into()])).await;
    assert_eq!(bench.result(&bad).await.state, State::Failure);
    assert_eq!(bench.result(&good).await.state, State::Success);
    bench.stop().await;
}

#[tokio::test]
async fn a_task_that_nobody_knows_fails_and_is_a_dead_letter() {
    let bench = Bench::new("unknown", [add()]).await;
    let id = bench.send(call("no.such", vec![])).await;
    let result = bench.result(&id).await;
    assert_eq!(result.state, State::Failure);
    assert_eq!(longshore_celery::Exception::from_value(&result.result).unwrap().exc_type, "NotRegistered");
    assert_eq!(bench.stopped_dead().await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_and_the_next_task_runs() {
    let bench = Bench::new("bad", [add()]).await;
    let bad = Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw: b"{not json".to_vec() };
    bench.broker.publish(&[bad]).await.unwrap();
    let id = bench.send(call("add", vec![1.into()])).await;
    assert_eq!(bench.result(&id).await.state, State::Success);
    let dead = bench.stopped_dead().await;
    assert_eq!((dead.len(), &dead[0].raw[..]), (1, &b"{not json"[..]));
}

#[tokio::test]
async fn a_retry_is_sent_again_until_no_attempt_is_left() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    let task = Task::plain("flaky", move |context: TaskContext, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Err(context.retry_in(Duration::from_millis(10)).because(Failure::error("KeyError", "again")).at_most(2))
    });
    let bench = Bench::new("retry", [task]).await;
    let id = bench.send(call("flaky", vec![])).await;
    let result = bench.result(&id).await;
    assert_eq!(result.state, State::Failure);
    assert_eq!(longshore_celery::Exception::from_value(&result.result).unwrap().exc_type, "KeyError");
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
    assert_eq!(bench.stop().await.counts.retries, 2);
}

#[tokio::test]
async fn an_expired_task_is_revoked_and_does_not_run() {
    let bench = Bench::new("expired", [add()]).await;
    let past = SystemTime::now() - Duration::from_secs(1);
    let id = bench.send(Message { expires: Some(past), ..call("add", vec![]) }).await;
    let result = bench.result(&id).await;
    assert_eq!(result.state, State::Revoked);
    assert_eq!(bench.stop().await.revoked(), 1);
}

#[tokio::test]
async fn an_eta_is_waited_for_without_a_slot() {
    let bench = Bench::with("eta", [add()], |options| options.lanes = [1; 4]).await;
    let due = SystemTime::now() + Duration::from_millis(300);
    let later = bench.send(Message { eta: Some(due), ..call("add", vec![1.into()]) }).await;
    let now = bench.send(call("add", vec![2.into()])).await;
    assert_eq!(bench.result(&now).await.result, Value::Int(2));
    assert!(SystemTime::now() < due, "the one without an ETA does not wait for the other");
    let result = bench.result(&later).await;
    assert!(SystemTime::now() >= due);
    assert_eq!(result.result, Value::Int(1));
    bench.stop().await;
}

#[tokio::test]
async fn tasks_limited_to_a_rate_step_aside() {
    let mut limited = add();
    limited.name = "limited".into();
    limited.policy.rate_limit = Some(longshore_core::Rate::per_second(5.0));
    let bench = Bench::with("rate", [limited, add()], |options| options.parking = 4).await;
    let start = SystemTime::now();
    let mut slow = Vec::new();
    for n in 0..6_i64 {
        slow.push(bench.send(call("limited", vec![n.into()])).await);
    }
    let quick = bench.send(call("add", vec![1.into()])).await;
    bench.result(&quick).await;
    let quick_after = start.elapsed().unwrap();
    for id in slow {
        bench.result(&id).await;
    }
    let all = start.elapsed().unwrap();
    assert!(all >= Duration::from_millis(1000), "six starts at five a second take a second: {all:?}");
    assert!(quick_after < all / 2, "{quick_after:?} of {all:?}");
    bench.stop().await;
}

#[tokio::test]
async fn a_chain_runs_link_by_link_and_a_callback_gets_the_result() {
    let bench = Bench::new("chain", [add()]).await;
    let link = |id: &str, n: i64| {
        let mut signature = longshore_celery::WireSignature { task: "add".to_owned(), args: vec![n.into()], ..Default::default() };
        signature.options.set("task_id", id);
        signature
    };
    let message = Message {
        chain: Some(vec![link("third", 100), link("second", 10)]),
        callbacks: vec![link("callback", 1000)],
        ..call("add", vec![1.into(), 1.into()])
    };
    bench.send(message).await;
    assert_eq!(bench.result("third").await.result, Value::Int(112));
    assert_eq!(bench.result("callback").await.result, Value::Int(1002));
    assert_eq!(bench.stop().await.counts.ok, 4);
}

#[tokio::test]
async fn a_warm_stop_hands_back_what_has_not_started_and_lets_the_rest_end() {
    let (task, mut begun, open) = gated("wait");
    let mut bench = Bench::with("warm", [task], |options| options.lanes = [1; 4]).await;
    let first = bench.send(call("wait", vec![])).await;
    begun.recv().await.unwrap();
    let second = bench.send(call("wait", vec![])).await;
    let worker = bench.worker.take().unwrap();
    worker.stopper().warm();
    open.add_permits(1);
    let summary = tokio::time::timeout(Duration::from_secs(20), worker.join()).await.unwrap();
    assert_eq!(summary.counts.ok, 1);
    assert_eq!(bench.result(&first).await.state, State::Success);
    assert_eq!(left(&bench.connected).await, (1, 0));
    assert_eq!(take(&bench.connected, "celery").await.id, second);
}

/// A task that says that it runs, and ends when it is let.
fn gated(name: &str) -> (Task, mpsc::UnboundedReceiver<()>, Arc<Semaphore>) {
    let (started, begun) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let open = gate.clone();
    let task = Task::future(name, move |_, _| {
        let (started, gate) = (started.clone(), gate.clone());
        async move {
            let _ = started.send(());
            gate.acquire().await.unwrap().forget();
            Ok(Value::Null)
        }
    });
    (task, begun, open)
}

#[tokio::test]
async fn a_worker_whose_slots_are_taken_leaves_the_rest_to_others() {
    let (task, mut begun, open) = gated("wait");
    let bench = Bench::with("share", [task.clone()], |options| options.lanes = [2, 32, 2, 2]).await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(bench.send(call("wait", vec![])).await);
    }
    for _ in 0..2 {
        begun.recv().await.unwrap();
    }
    // It would have claimed them by now: there is room in its other lanes, which none of its tasks
    // uses.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(left(&bench.connected).await.0, 6, "what it cannot start stays in the queue");
    let mut options = WorkerOptions::new("second@test");
    options.lanes = [6, 32, 2, 2];
    let second = Worker::over(at(App::new().task(task), &bench.connected), options, bench.connected.clone()).await.unwrap();
    for _ in 0..6 {
        tokio::time::timeout(Duration::from_secs(20), begun.recv()).await.unwrap().unwrap();
    }
    open.add_permits(8);
    for id in ids {
        assert_eq!(bench.result(&id).await.state, State::Success);
    }
    second.stopper().warm();
    let ok = tokio::time::timeout(Duration::from_secs(20), second.join()).await.unwrap().counts.ok;
    assert_eq!((bench.stop().await.counts.ok, ok), (2, 6));
}

#[tokio::test]
async fn a_worker_has_no_more_tasks_at_once_than_it_may_also_if_it_has_more_slots() {
    for (name, acks) in [("most-late", Acks::Late), ("most-early", Acks::Early)] {
        let (mut task, mut begun, open) = gated("wait");
        task.policy.acks = Some(acks);
        let bench = Bench::with(name, [task], |options| options.prefetch = Some(2)).await;
        let mut ids = Vec::new();
        for _ in 0..7 {
            ids.push(bench.send(call("wait", vec![])).await);
        }
        for step in 0..3 {
            for _ in 0..2 {
                tokio::time::timeout(Duration::from_secs(20), begun.recv()).await.unwrap().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(begun.try_recv().is_err(), "{name}");
            assert_eq!(left(&bench.connected).await.0, 5 - 2 * step, "{name}: the rest is for others");
            open.add_permits(2);
        }
        open.add_permits(1);
        for id in ids {
            assert_eq!(bench.result(&id).await.state, State::Success);
        }
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_was_left_in_the_queue_is_claimed_when_the_worker_gets_more_slots() {
    let (started, mut begun) = mpsc::unbounded_channel();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let task = Task::plain("hold", move |_, _| {
        let _ = started.send(());
        // Under the lock: one after the other is let go.
        let _ = gate.lock().unwrap().recv();
        Ok(Value::Null)
    });
    let bench = Bench::with("grow", [task], |options| options.lanes = [2, 1, 2, 2]).await;
    for _ in 0..3 {
        bench.send(call("hold", vec![])).await;
    }
    begun.recv().await.unwrap();
    ask(&bench, longshore_celery::control::Request::new("pool_grow").argument("n", 2)).await;
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(20), begun.recv()).await.unwrap().unwrap();
    }
    (0..3).for_each(|_| open.send(()).unwrap());
    assert_eq!(bench.stop().await.counts.ok, 3);
}

#[tokio::test]
async fn tasks_of_a_full_lane_do_not_hold_up_those_of_another_behind_them() {
    let (task, mut begun, open) = gated("wait");
    let bench = Bench::with("behind", [task, add()], |options| options.lanes = [2, 32, 2, 2]).await;
    for _ in 0..20 {
        bench.send(call("wait", vec![])).await;
    }
    begun.recv().await.unwrap();
    let id = bench.send(call("add", vec![1.into()])).await;
    assert_eq!(bench.result(&id).await.state, State::Success, "it runs while the others wait");
    open.add_permits(20);
    assert_eq!(bench.stop().await.counts.failed, 0);
}

#[tokio::test]
async fn a_task_acknowledged_early_is_gone_from_the_broker_while_it_runs() {
    let seen = Arc::new(Mutex::new(None));
    let whole = connected("early");
    let looked = seen.clone();
    let mut task = Task::future("early", move |_: TaskContext, _| {
        let (connected, looked) = (whole.clone(), looked.clone());
        async move {
            for _ in 0..200 {
                let found = left(&connected).await;
                *looked.lock().unwrap() = Some(found);
                if found == (0, 0) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(Value::Null)
        }
    });
    task.policy.acks = Some(Acks::Early);
    let bench = Bench::new("early", [task]).await;
    let id = bench.send(call("early", vec![])).await;
    assert_eq!(bench.result(&id).await.state, State::Success);
    assert_eq!(*seen.lock().unwrap(), Some((0, 0)));
    bench.stop().await;
}

/// A message as a rescue gives it back.
async fn send_again(bench: &Bench, message: Message, crashes: u32) -> String {
    let id = format!("id-{}", fastrand::u64(..));
    let raw = Message { id: id.clone(), routing_key: "celery".to_owned(), ..message }.encode(Encoding::Json);
    let raw = longshore_celery::mark_redelivered(&raw, Some(crashes)).unwrap();
    bench.broker.publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }]).await.unwrap();
    id
}

#[tokio::test]
async fn suspects_run_one_at_a_time_while_others_go_on() {
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (counted, peak) = (running.clone(), most.clone());
    let task = Task::future("suspect", move |_, _| {
        let (counted, peak) = (counted.clone(), peak.clone());
        async move {
            peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            counted.fetch_sub(1, Ordering::SeqCst);
            Ok(Value::Null)
        }
    });
    let bench = Bench::new("suspects", [task, add()]).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(send_again(&bench, call("suspect", vec![]), 1).await);
    }
    let good = bench.send(call("add", vec![1.into()])).await;
    assert_eq!(bench.result(&good).await.state, State::Success);
    for id in ids {
        assert_eq!(bench.result(&id).await.state, State::Success);
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_suspect_that_takes_long_does_not_keep_the_others_waiting_but_who_is_blamed_twice_waits_until_it_is_calm_and_is_alone() {
    let (started, mut starts) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let open = gate.clone();
    let task = Task::future("suspect", move |context, _| {
        let (started, gate) = (started.clone(), gate.clone());
        async move {
            let _ = started.send((context.id().to_owned(), Instant::now()));
            gate.acquire().await.unwrap().forget();
            Ok(Value::Null)
        }
    });
    let begun = Instant::now();
    let bench = Bench::new("long-suspects", [task]).await;
    let mut ids = Vec::new();
    for crashes in [2, 1, 1] {
        ids.push(send_again(&bench, call("suspect", vec![]), crashes).await);
    }
    let (first, second) = (starts.recv().await.unwrap(), starts.recv().await.unwrap());
    assert_eq!([&first.0, &second.0], [&ids[1], &ids[2]]);
    assert!(second.1 - first.1 >= Duration::from_millis(990), "{:?}", second.1 - first.1);
    open.add_permits(2);
    let alone = tokio::time::timeout(Duration::from_secs(30), starts.recv()).await.unwrap().unwrap();
    assert_eq!(alone.0, ids[0]);
    assert!(alone.1 - begun >= Duration::from_secs(10), "a worker that has just started might not live long: {:?}", alone.1 - begun);
    ids.push(send_again(&bench, call("suspect", vec![]), 1).await);
    assert!(tokio::time::timeout(Duration::from_millis(1200), starts.recv()).await.is_err(), "beside it nobody starts");
    open.add_permits(1);
    assert_eq!(starts.recv().await.unwrap().0, ids[3]);
    open.add_permits(1);
    for id in ids {
        assert_eq!(bench.result(&id).await.state, State::Success);
    }
    bench.stop().await;
}

#[tokio::test]
async fn what_three_workers_died_of_is_not_run_but_buried_and_told() {
    let bench = Bench::new("poison", [add()]).await;
    let id = send_again(&bench, call("add", vec![]), 3).await;
    let result = bench.result(&id).await;
    assert_eq!(result.state, State::Failure);
    assert_eq!(longshore_celery::Exception::from_value(&result.result).unwrap().exc_type, "WorkerLostError");
    assert_eq!(bench.stopped_dead().await.len(), 1);
}

/// Whatever else were to become of its message.
#[tokio::test]
async fn a_task_that_has_succeeded_is_not_run_again_but_what_follows_it_is_sent() {
    let past = Some(SystemTime::now() - Duration::from_secs(1));
    for (case, expires, crashes, is_revoked, is_limited) in [
        ("plain", None, None, false, false),
        ("expired", past, None, false, false),
        ("poison", None, Some(3), false, false),
        ("revoked", None, None, true, false),
        ("limited", None, None, false, true),
    ] {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let mut once = Task::plain("once", move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Value::Int(1))
        });
        once.policy.rate_limit = is_limited.then(|| longshore_core::Rate::per_second(5.0));
        let name = format!("again-{case}");
        let before = connected(&name);
        let id = "done-before".to_owned();
        let doc = TaskResult { task_id: id.clone(), state: State::Success, result: Value::Int(7), ..TaskResult::default() }.encode();
        let stored = longshore_brokers::Stored { key: Key::Task(id.clone()), doc, expires: None, keep_success: false, reply_to: None };
        before.results.store(&[stored]).await.unwrap();
        if is_revoked {
            before.shared().unwrap().revoke(std::slice::from_ref(&id)).await.unwrap();
        }
        let bench = Bench::new(&name, [once, add()]).await;
        if is_limited {
            // It takes the slot, and the other one is held for the next.
            bench.send(call("once", vec![])).await;
        }
        let mut link = longshore_celery::WireSignature { task: "add".to_owned(), args: vec![1.into()], ..Default::default() };
        link.options.set("task_id", "follows");
        let message = Message { id, routing_key: "celery".to_owned(), callbacks: vec![link], expires, ..call("once", vec![]) };
        let raw = longshore_celery::mark_redelivered(&message.encode(Encoding::Json), crashes).unwrap();
        bench.broker.publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }]).await.unwrap();
        let follows = tokio::time::timeout(Duration::from_secs(5), bench.result("follows")).await.expect(case);
        assert_eq!((follows.result, runs.load(Ordering::SeqCst)), (Value::Int(8), u32::from(is_limited)), "{case}");
        let connected = bench.connected.clone();
        let summary = bench.stop().await;
        assert_eq!(summary, summed(|counts| counts.ok = 1 + u64::from(is_limited)), "{case}");
        assert_eq!(left(&connected).await, (0, 0), "{case}");
    }
}

#[tokio::test]
async fn a_soft_limit_ends_a_future_that_does_not_listen_and_tells_one_that_does() {
    let mut deaf = Task::future("deaf", |_, _| async { std::future::pending().await });
    deaf.policy.soft_time_limit = Some(Duration::from_millis(20));
    let mut listening = Task::future("listening", |context: TaskContext, _| async move {
        context.soft_limit().cancelled().await;
        Ok("in time".into())
    });
    listening.policy.soft_time_limit = Some(Duration::from_millis(20));
    let mut endless = Task::future("endless", |_, _| async { std::future::pending().await });
    endless.policy.time_limit = Some(Duration::from_millis(20));
    let bench = Bench::new("limits", [deaf, listening, endless]).await;
    let type_of = |result: TaskResult| longshore_celery::Exception::from_value(&result.result).map(|exception| exception.exc_type);
    let id = bench.send(call("deaf", vec![])).await;
    assert_eq!(type_of(bench.result(&id).await).as_deref(), Some("SoftTimeLimitExceeded"));
    let id = bench.send(call("listening", vec![])).await;
    assert_eq!(bench.result(&id).await.result, Value::from("in time"));
    let id = bench.send(call("endless", vec![])).await;
    assert_eq!(type_of(bench.result(&id).await).as_deref(), Some("TimeLimitExceeded"));
    bench.stop().await;
}

/// Asks all workers on this broker, and gives back the first reply.
async fn ask(bench: &Bench, request: longshore_celery::control::Request) -> Value {
    let oid = format!("client-{}", fastrand::u64(..));
    let mut replies = bench.connected.bus().unwrap().replies(&oid).await.unwrap();
    let raw = request.answered("ticket", oid).encode("tag");
    bench.connected.bus().unwrap().broadcast(longshore_celery::control::EXCHANGE, "", &raw).await.unwrap();
    let (_, raw) = tokio::time::timeout(Duration::from_secs(10), replies.messages.recv()).await.unwrap().unwrap();
    longshore_celery::control::Reply::decode(&raw, 1 << 20).unwrap().from.remove(0).1
}

#[tokio::test]
async fn remote_control_pings_lists_limits_revokes_and_stops() {
    tokio::time::timeout(Duration::from_secs(60), remote_control()).await.expect("every answer comes");
}

async fn remote_control() {
    use longshore_celery::control::Request;
    let task = Task::future("endless", |_, _| async { std::future::pending().await });
    let bench = Bench::new("control", [task, add()]).await;
    // The subscription stands a moment after the start.
    let mut pong = Value::Null;
    for _ in 0..50 {
        let asked = tokio::time::timeout(Duration::from_millis(200), ask(&bench, Request::new("ping"))).await;
        if let Ok(value) = asked {
            pong = value;
            break;
        }
    }
    assert_eq!(pong.to_string(), r#"{"ok": "pong"}"#);
    let running = bench.send(call("endless", vec![1.into()])).await;
    let active = loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let active = ask(&bench, Request::new("active")).await;
        if active.as_list().is_some_and(|list| !list.is_empty()) {
            break active;
        }
    };
    assert!(active.to_string().contains(&running), "{active}");
    // As from a broker that cannot hold it back.
    let later = "later".to_owned();
    let eta = Some(SystemTime::now() + Duration::from_secs(600));
    let raw = Message { id: later.clone(), eta, routing_key: "celery".to_owned(), ..call("add", vec![]) }.encode(Encoding::Json);
    bench.broker.publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }]).await.unwrap();
    let scheduled = loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let scheduled = ask(&bench, Request::new("scheduled")).await;
        if scheduled.as_list().is_some_and(|list| !list.is_empty()) {
            break scheduled;
        }
    };
    assert!(scheduled.to_string().contains(&later), "{scheduled}");
    let limited = ask(&bench, Request::new("rate_limit").argument("task_name", "add").argument("rate_limit", "10/m")).await;
    assert_eq!(limited.to_string(), r#"{"ok": "new rate limit set successfully"}"#);
    let registered = ask(&bench, Request::new("registered")).await.to_string();
    assert!(registered.contains("add [rate_limit=") && registered.contains("endless") && !registered.contains("celery."), "{registered}");
    let revoked = ask(&bench, Request::new("revoke").argument("task_id", running.as_str()).argument("terminate", true)).await;
    assert_eq!(revoked.to_string(), format!(r#"{{"ok": "terminate: {running}"}}"#));
    assert_eq!(bench.result(&running).await.state, State::Revoked);
    ask(&bench, Request::new("revoke").argument("task_id", later.as_str())).await;
    assert_eq!(bench.result(&later).await.state, State::Revoked, "whoever waits for it is told at once");
    let unknown = ask(&bench, Request::new("nosuch")).await;
    assert_eq!(unknown.to_string(), r#"{"error": "KeyError('nosuch')"}"#);
    let raw = Request::new("shutdown").encode("tag");
    bench.connected.bus().unwrap().broadcast(longshore_celery::control::EXCHANGE, "", &raw).await.unwrap();
    let mut bench = bench;
    let worker = bench.worker.take().unwrap();
    worker.stopping().cancelled().await;
    tokio::time::timeout(Duration::from_secs(20), worker.join()).await.unwrap();
}

/// Asks until the answer is as it is wanted.
async fn ask_until(bench: &Bench, request: impl Fn() -> longshore_celery::control::Request, wanted: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    for _ in 0..200 {
        // The subscription stands a moment after the start.
        if let Ok(value) = tokio::time::timeout(Duration::from_millis(500), ask(bench, request())).await {
            last = value.to_string();
            if wanted(&last) {
                return last;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{last}");
}

#[tokio::test]
async fn a_worker_says_what_each_task_waits_for() {
    use longshore_celery::control::Request;
    let (task, mut begun, _open) = gated("wait");
    let mut limited = add();
    limited.name = "limited".into();
    limited.policy.rate_limit = Some(longshore_core::Rate::per_second(1.0 / 60.0));
    let bench = Bench::with("waits", [task, limited], |options| {
        options.lanes = [1, 2, 2, 2];
        options.grace = Duration::from_millis(10);
    })
    .await;
    let of = |id: &str| {
        let id = id.to_owned();
        move || Request::new("query_task").argument("ids", vec![id.as_str()])
    };
    let first = bench.send(call("limited", vec![1.into()])).await;
    bench.result(&first).await;
    let paced = bench.send(call("limited", vec![2.into()])).await;
    let said = ask_until(&bench, of(&paced), |said| said.contains("waits")).await;
    assert!(said.contains(r#""scheduled""#) && said.contains(r#""for": "rate""#) && said.contains(r#""rate": "1/m""#), "{said}");
    let scheduled = ask(&bench, Request::new("scheduled")).await;
    let eta = scheduled.as_list().unwrap()[0].get("eta").and_then(Value::as_str).unwrap().to_owned();
    assert!(eta.starts_with("20") && eta.contains('T'), "{eta}");
    let raw = Message { id: "eta".into(), eta: Some(SystemTime::now() + Duration::from_secs(600)), ..call("wait", vec![]) };
    let raw = raw.encode(Encoding::Json);
    bench.broker.publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }]).await.unwrap();
    let said = ask_until(&bench, of("eta"), |said| said.contains("waits")).await;
    assert!(said.contains(r#""for": "eta", "until": "#), "{said}");
    for id in ["a", "b"] {
        bench.send(Message { id: id.into(), ..call("wait", vec![]) }).await;
    }
    begun.recv().await.unwrap();
    let said = ask_until(&bench, of("b"), |said| said.contains("waits")).await;
    assert!(said.contains(r#""reserved""#), "{said}");
    assert!(said.contains(r#"{"for": "slot", "lane": "async", "slots": 1, "running": 1}"#), "{said}");
    let stats = ask(&bench, Request::new("stats")).await;
    assert!(stats.to_string().contains(r#""running": {"async": 1, "#), "{stats}");
    let suspect = send_again(&bench, call("wait", vec![]), 2).await;
    let said = ask_until(&bench, of(&suspect), |said| said.contains("waits")).await;
    assert!(said.contains(r#"{"for": "alone", "crashes": 2}"#), "{said}");
    bench.worker.as_ref().unwrap().stopper().cold();
}

#[tokio::test]
async fn a_queue_is_added_as_it_is_and_not_with_a_binding_that_nobody_would_make() {
    use longshore_celery::control::Request;
    let bench = Bench::new("bindings", [add()]).await;
    let add = |names: &[(&'static str, &'static str)]| {
        let names = names.to_vec();
        move || {
            names
                .iter()
                .fold(Request::new("add_consumer").argument("queue", "images"), |request, (name, value)| request.argument(name, *value))
        }
    };
    for names in [("exchange", "media"), ("exchange_type", "topic"), ("routing_key", "media.#")] {
        let said = ask_until(&bench, add(&[names]), |_| true).await;
        assert!(said.starts_with(r#"{"error": "NotImplementedError('add_consumer: queue images is not bound to"#), "{said}");
    }
    let served = ask(&bench, Request::new("active_queues")).await.to_string();
    assert!(!served.contains("images"), "{served}");
    let own = [("exchange", "images"), ("exchange_type", "direct"), ("routing_key", "images")];
    assert_eq!(ask_until(&bench, add(&own), |_| true).await, r#"{"ok": "add consumer images"}"#);
    bench.stop().await;
}

#[tokio::test]
async fn a_limit_of_remote_control_goes_before_the_policys_and_after_the_messages_own() {
    use longshore_celery::control::Request;
    let wait = |name: &'static str| {
        let mut task = Task::future(name, |_, _| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok(Value::Null)
        });
        task.policy.time_limit = Some(Duration::from_millis(50));
        task
    };
    let bench = Bench::new("limits-of-remote-control", [wait("short")]).await;
    let soon = bench.send(call("short", vec![])).await;
    assert_eq!(bench.result(&soon).await.state, State::Failure, "the policy's");
    let set = || Request::new("time_limit").argument("task_name", "short").argument("hard", 30.0).argument("soft", 20.0);
    ask_until(&bench, set, |said| said.contains("time limits set successfully")).await;
    let longer = bench.send(call("short", vec![])).await;
    assert_eq!(bench.result(&longer).await.state, State::Success, "remote control's");
    let own = bench.send(Message { time_limit: Some(Duration::from_millis(50)), ..call("short", vec![]) }).await;
    assert_eq!(bench.result(&own).await.state, State::Failure, "the message's own");
    let soft = bench.send(Message { soft_time_limit: Some(Duration::from_millis(50)), ..call("short", vec![]) }).await;
    let exception = longshore_celery::Exception::from_value(&bench.result(&soft).await.result).unwrap();
    assert_eq!(exception.exc_type, "SoftTimeLimitExceeded");
    bench.stop().await;
}

#[tokio::test]
async fn monitors_hear_the_heartbeat_and_of_tasks_when_they_ask() {
    let whole = connected("events");
    let mut heard = whole.bus().unwrap().subscribe(longshore_celery::events::EXCHANGE, "#").await.unwrap();
    let bench = Bench::with("events", [add()], |options| options.events = true).await;
    bench.send(call("add", vec![2.into()])).await;
    let mut kinds = Vec::new();
    while !kinds.iter().any(|kind| kind == "task-succeeded") {
        let (_, raw) = tokio::time::timeout(Duration::from_secs(10), heard.messages.recv()).await.unwrap().unwrap();
        kinds.extend(longshore_celery::events::decode(&raw, 1 << 20).unwrap().into_iter().map(|event| event.what.kind().to_owned()));
    }
    bench.stop().await;
    while kinds.last().is_none_or(|kind| kind != "worker-offline") {
        let (_, raw) = tokio::time::timeout(Duration::from_secs(10), heard.messages.recv()).await.unwrap().unwrap();
        kinds.extend(longshore_celery::events::decode(&raw, 1 << 20).unwrap().into_iter().map(|event| event.what.kind().to_owned()));
    }
    kinds.retain(|kind| kind != "worker-heartbeat");
    assert_eq!(kinds, ["worker-online", "task-received", "task-started", "task-succeeded", "worker-offline"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_function_is_told_of_its_soft_limit_and_its_start_is_stored_first() {
    let mut task = Task::plain("patient", |context: TaskContext, _| {
        let client = context.client().unwrap().clone();
        let stored = context.block_on(client.result(context.id()).state()).unwrap();
        context.block_on(context.soft_limit().cancelled());
        Ok(stored.as_str().into())
    });
    task.policy.soft_time_limit = Some(Duration::from_millis(20));
    task.policy.track_started = true;
    let bench = Bench::new("patient", [task]).await;
    let id = bench.send(call("patient", vec![])).await;
    assert_eq!(bench.result(&id).await.result, Value::from("STARTED"));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_autoscale_slots_come_with_the_load() {
    // Nobody gets through before three are there.
    let gate = Arc::new(std::sync::Barrier::new(3));
    let task = Task::plain("meet", move |_, _| {
        gate.wait();
        Ok(Value::Null)
    });
    let scale = Autoscale { max: 3, min: 1, lanes: vec![LaneKind::Blocking] };
    let mut bench = Bench::with("autoscale", [task], |options| options.autoscale = Some(scale)).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(bench.send(Message { task: "meet".to_owned(), ..Message::default() }).await);
    }
    for id in &ids {
        let ended = tokio::time::timeout(Duration::from_secs(20), bench.result(id)).await;
        assert_eq!(ended.expect("three run at once").state, State::Success);
    }
    let worker = bench.worker.take().unwrap();
    worker.stopper().warm();
    assert_eq!(worker.join().await.counts.ok, 3);
}

#[tokio::test]
async fn messagepack_is_taken_where_it_is_accepted() {
    for (accepts, want) in [(false, State::Failure), (true, State::Success)] {
        let app = App::new().task(Task::plain("t", |_, _| Ok(Value::Null)));
        let bench = Bench::of("msgpack", if accepts { app.accept_msgpack() } else { app }, |_| {}).await;
        let message = Message { task: "t".to_owned(), id: format!("accepts-{accepts}"), args: vec![1.into()], ..Message::default() };
        let raw = message.encode_as(Encoding::MsgPack, Some(Compression::Zstd));
        bench.broker.publish(&[Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw }]).await.unwrap();
        assert_eq!(bench.result(&message.id).await.state, want);
        let worker = bench.worker.unwrap();
        worker.stopper().warm();
        worker.join().await;
    }
}

#[tokio::test]
async fn a_chord_that_its_client_counts_is_unlocked_when_all_parts_have_ended() {
    let sum = Task::plain("sum", |_, call| {
        let list = call.args.first().and_then(Value::as_list).unwrap_or_default();
        Ok(Value::Int(list.iter().filter_map(Value::as_i64).sum()))
    });
    let mut bench = Bench::new("unlock", [sum]).await;
    let store = async |bench: &Bench, id: &str, state: State, result: Value| {
        let result = TaskResult { task_id: id.to_owned(), state, result, ..TaskResult::default() };
        let stored = Stored { key: Key::Task(id.to_owned()), doc: result.encode(), expires: None, keep_success: false, reply_to: None };
        bench.results.store(&[stored]).await.unwrap();
    };
    let unlock = |body: &str, parts: &str| {
        let callback = format!(
            r#"{{"task": "sum", "args": [], "kwargs": {{}}, "options": {{"task_id": "{body}"}}, "subtask_type": null, "immutable": false}}"#
        );
        let args = format!(r#"["group", {callback}, 0.02, null, {parts}]"#);
        let Value::List(args) = Value::parse(args.as_bytes(), 16).unwrap() else { unreachable!() };
        Message { task: "celery.chord_unlock".to_owned(), args, ..Message::default() }
    };
    store(&bench, "one", State::Success, 1.into()).await;
    store(&bench, "four", State::Success, 4.into()).await;
    bench.send(unlock("body", r#"[[["one", null], null], [["two", null], null]]"#)).await;
    bench.send(unlock("nested", r#"[[["one", null], null], [["four", null], null]]"#)).await;
    assert_eq!(bench.result("nested").await.result, Value::Int(5));
    assert_eq!(bench.results.get(&[Key::Task("body".to_owned())]).await.unwrap(), [None], "a part is missing");
    store(&bench, "two", State::Success, 2.into()).await;
    assert_eq!(bench.result("body").await.result, Value::Int(3));
    store(&bench, "bad", State::Failure, longshore_celery::Exception::builtin("ValueError", "oh").to_value()).await;
    bench.send(unlock("failed", r#"[[["one", null], null], [["bad", null], null]]"#)).await;
    let failed = bench.result("failed").await;
    assert_eq!(failed.state, State::Failure);
    assert_eq!(failed.exception().unwrap().to_string(), "ChordError(\"Dependency bad raised ValueError('oh')\")");
    let worker = bench.worker.take().unwrap();
    worker.stopper().warm();
    assert_eq!(worker.join().await.error, None);
}

#[tokio::test]
async fn properties_that_nobody_knows_stay_with_a_task_through_retries_and_requeues_and_in_its_dead_letter() {
    let again = Task::future("again", |context: TaskContext, _| async move {
        match (context.retries(), context.redelivered()) {
            (0, _) => Err(context.retry_in(Duration::from_millis(1))),
            _ => Ok(context.property("app_id").cloned().unwrap_or_default()),
        }
    });
    let returned = AtomicBool::new(false);
    let back = Task::future("back", move |context: TaskContext, _| {
        let first = !returned.swap(true, Ordering::AcqRel);
        async move {
            match first {
                true => Err(Failure::Reject { reason: "later".to_owned(), requeue: true }),
                false => Ok(context.property("app_id").cloned().unwrap_or_default()),
            }
        }
    });
    let buried = Task::future("buried", |_, _| async { Err(Failure::Reject { reason: "no".to_owned(), requeue: false }) });
    for acks in [Acks::Late, Acks::Early] {
        let tasks = [again.clone(), back.clone(), buried.clone()].map(|mut task| {
            task.policy.acks = Some(acks);
            task
        });
        let bench = Bench::new(&format!("properties-{acks:?}"), tasks).await;
        let properties = longshore_celery::Map::from_iter([("app_id", Value::from("a1")), ("weird", vec![1, 2].into())]);
        let with = |task: &str| Message { properties: properties.clone(), ..call(task, vec![]) };
        for task in ["again", "back"] {
            let id = bench.send(with(task)).await;
            assert_eq!(bench.result(&id).await.result, "a1".into(), "{task} {acks:?}");
        }
        if acks == Acks::Early {
            // What was acknowledged is no dead letter.
            bench.stop().await;
            continue;
        }
        let id = bench.send(with("buried")).await;
        bench.result(&id).await;
        let connected = bench.connected.clone();
        let letters = bench.stopped_dead().await;
        assert_eq!(connected.letters().unwrap().bury(&letters, true).await.unwrap(), 1);
        assert_eq!(take(&connected, "celery").await.properties, properties);
    }
}

#[tokio::test]
async fn what_a_worker_sends_on_goes_where_its_routes_and_its_tasks_say() {
    let send = |link: longshore_celery::WireSignature| Message { callbacks: vec![link], ..call("add", vec![]) };
    let mut owned = add();
    (owned.name, owned.policy.queue, owned.policy.priority) = ("own".into(), Some("of-task".into()), Some(4));
    let app = App::new().route("mail.*", longshore_worker::Route::queue("mail").priority(6)).route("own", "elsewhere");
    let bench = Bench::of("routes-of-worker", app.task(add()).task(owned), |_| {}).await;
    for (task, named, queue, priority) in [
        ("mail.send", None, "mail", Some(6)),
        ("mail.send", Some("named"), "named", Some(6)),
        ("own", None, "of-task", Some(4)),
        ("own", Some("named"), "named", Some(4)),
    ] {
        let mut link = longshore_celery::WireSignature::new(task);
        link.options.set("queue", named);
        let id = bench.send(send(link)).await;
        bench.result(&id).await;
        let sent = take(&bench.connected, queue).await;
        assert_eq!((&*sent.task, sent.priority), (task, priority), "{queue}");
    }
    bench.stop().await;
}

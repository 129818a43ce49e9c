//! Schedulers: what is due is sent, by one of them, once.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use longshore_brokers::{
    Broker, BrokerError, Connected, Consumer, Fired, Firing, Inspect, Leading, OpenOptions, Outgoing, QueueState, ScheduleBook,
    SchedulerName, Schedules, connect, rehearsal::Rehearsal,
};
use longshore_celery::{Limits, Message, Value};
use longshore_core::{
    CancelToken, ErrorKind,
    watch::{Detail, Heard},
};
use longshore_testkit::servers::Redis;
use longshore_worker::{
    App, Client, Environment, MissedPolicy, Schedule, ScheduleOrigin, Scheduler, SchedulerEvent, SchedulerOptions, Signature, Task, Timing,
    Worker, WorkerEvent, WorkerOptions,
};
use tokio::{sync::mpsc, task::JoinHandle};

const SOON: Duration = Duration::from_secs(20);

fn every(name: &str, millis: u64) -> Schedule {
    let call = Signature::named("tasks.tick").arg(&name).queue("ticks").expires_in(Duration::from_secs(3600));
    Schedule::new(name, call, Timing::every(Duration::from_millis(millis)).unwrap()).unwrap().missed(MissedPolicy::All(10_000))
}

fn fresh(what: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A scheduler that runs, and what it tells.
struct Running {
    events: mpsc::UnboundedReceiver<SchedulerEvent>,
    stop: CancelToken,
    task: JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    fn start(node: &str, app: &App, connected: Connected) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let mut options = SchedulerOptions::new(node);
        options.term = Duration::from_millis(600);
        options.told = Arc::new(move |event| drop(tell.send(event.clone())));
        let stop = CancelToken::new();
        let scheduler = Scheduler::over(app, Client::over(app, connected), options).unwrap();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { scheduler.run(stop).await }
        });
        Self { events, stop, task }
    }

    /// Waits for an event that is like this.
    async fn hears(&mut self, what: &str, is: impl Fn(&SchedulerEvent) -> bool) -> SchedulerEvent {
        let (mut others, until) = (Vec::new(), tokio::time::Instant::now() + SOON);
        loop {
            let event = tokio::time::timeout_at(until, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("{what}: only {others:?}")).expect("it runs");
            if is(&event) {
                return event;
            }
            others.insert(0, event);
            others.truncate(20);
        }
    }

    async fn sent(&mut self, count: usize) {
        for _ in 0..count {
            self.hears("sent", |event| matches!(event, SchedulerEvent::Sent { .. })).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// Messages of a queue, as Celery's beat sends them.
async fn messages(inspect: &dyn Inspect, queue: &str) -> Vec<Message> {
    let raw = inspect.peek(queue, 100_000).await.unwrap();
    raw.iter().map(|raw| Message::decode(raw, &Limits::default()).unwrap()).collect()
}

async fn fired(store: &dyn Schedules) -> u64 {
    store.schedules().await.unwrap().rows.iter().map(|row| row.fired).sum()
}

/// What lies in the queue is what was noted, each once, and no due time is missing.
async fn each_once(connected: &Connected, period: Duration) -> usize {
    let found = messages(&**connected.inspect().unwrap(), "ticks").await;
    let book = connected.schedules().unwrap().schedules().await.unwrap();
    let ids: HashSet<&str> = found.iter().map(|message| message.id.as_str()).collect();
    assert_eq!((ids.len() as u64, found.len() as u64), (book.rows[0].fired, book.rows[0].fired));
    let row = &book.rows[0];
    let span = row.last.unwrap().duration_since(row.since).unwrap();
    assert_eq!(span.as_millis() / period.as_millis(), u128::from(row.fired), "one for each due time up to the last");
    let schedule = Schedule::decode(&row.name, &row.spec).unwrap();
    for turn in 1..=u32::try_from(row.fired).unwrap() {
        assert!(ids.contains(schedule.task_id(row.since, row.since + period * turn).as_str()), "{turn}");
    }
    found.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_sent_as_celerys_beat_sends_it() {
    let connected = connect(&format!("memory://{}", fresh("beat-wire")), None).unwrap();
    let app = App::new().schedule(every("a", 100));
    let mut scheduler = Running::start("s@here", &app, connected.clone());
    scheduler.sent(2).await;
    scheduler.stop().await;
    let found = messages(&**connected.inspect().unwrap(), "ticks").await;
    let first = &found[0];
    assert_eq!((first.task.as_str(), &first.args[..]), ("tasks.tick", &["a".into()][..]));
    assert_eq!(first.headers.get("celery_beat_task"), Some(&Value::Bool(true)));
    assert_eq!(first.root_id.as_deref(), Some(first.id.as_str()));
    let left = first.expires.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_sends_and_the_other_takes_over_when_it_dies_or_leaves() {
    let connected = connect(&format!("memory://{}", fresh("beat-two")), None).unwrap();
    let app = App::new().schedule(every("a", 100));
    let mut one = Running::start("one@here", &app, connected.clone());
    one.sent(1).await;
    let mut other = Running::start("other@here", &app, connected.clone());
    let waits = other.hears("it waits", |event| matches!(event, SchedulerEvent::Waits { .. })).await;
    assert_eq!(waits, SchedulerEvent::Waits { leader: "one@here".to_owned() });
    one.sent(3).await;
    one.task.abort();
    other.sent(3).await;
    // One that leaves gives its lead back.
    let mut third = Running::start("third@here", &app, connected.clone());
    third.hears("it waits", |event| matches!(event, SchedulerEvent::Waits { .. })).await;
    other.stop().await;
    third.sent(3).await;
    third.stop().await;
    assert!(each_once(&connected, Duration::from_millis(100)).await >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_scheduler_runs_what_is_due_and_stops_with_it() {
    let (tell, mut ran) = mpsc::unbounded_channel();
    let tick = Task::plain("tasks.tick", move |context, _| {
        let _ = tell.send(context.id().to_owned());
        Ok(Value::Null)
    });
    let url = format!("memory://{}", fresh("beat-worker"));
    let app = App::new().broker(&url).task(tick).told(None).schedule(every("a", 100));
    let mut options = WorkerOptions::new("w@here");
    (options.queues, options.beat) = (vec!["ticks".to_owned()], true);
    let worker = Worker::start(app, options).await.unwrap();
    for _ in 0..3 {
        tokio::time::timeout(SOON, ran.recv()).await.unwrap().unwrap();
    }
    worker.stopper().warm();
    let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
    assert_eq!(summary.error, None);
    let store = connect(&url, None).unwrap().schedules.unwrap();
    assert_eq!(store.schedules().await.unwrap().leader, None, "it gives the lead back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_that_is_paused_changed_or_removed_is_so_at_once_for_whoever_leads() {
    let connected = connect(&format!("memory://{}", fresh("beat-change")), None).unwrap();
    let store = connected.schedules().unwrap().clone();
    let mut scheduler = Running::start("s@here", &App::new().schedule(every("a", 100)), connected.clone());
    scheduler.sent(2).await;
    assert!(store.pause_schedule("a", Some("me"), SystemTime::now()).await.unwrap());
    let before = fired(&*store).await;
    let other = every("b", 100);
    store.put("b", &other.encode(), SystemTime::now()).await.unwrap();
    let is_b = |event: &SchedulerEvent| matches!(event, SchedulerEvent::Sent { name, .. } if name == "b");
    scheduler.hears("b is sent", is_b).await;
    let book = store.schedules().await.unwrap();
    assert_eq!(book.rows[0].fired, before, "a is paused");
    store.remove("b").await.unwrap();
    store.pause_schedule("a", None, SystemTime::now()).await.unwrap();
    scheduler.hears("a is sent", |event| matches!(event, SchedulerEvent::Sent { name, .. } if name == "a")).await;
    // What cannot be sent is told, passes, and holds nobody up.
    let bad =
        Schedule::new("bad", Signature::named("t").queue("_kombu.binding.x"), Timing::every(Duration::from_millis(100)).unwrap()).unwrap();
    store.put("bad", &bad.encode(), SystemTime::now()).await.unwrap();
    store.put("odd", b"{\"every\": 1, \"task\": \"t\", \"missed\": \"later\"}", SystemTime::now()).await.unwrap();
    scheduler.hears("odd is not read", |event| matches!(event, SchedulerEvent::Unreadable { name, .. } if name == "odd")).await;
    scheduler.hears("bad is not sent", |event| matches!(event, SchedulerEvent::NotSent { name, .. } if name == "bad")).await;
    scheduler.hears("a is sent", |event| matches!(event, SchedulerEvent::Sent { name, .. } if name == "a")).await;
    scheduler.stop().await;
}

/// Only other times begin anew: a run that was missed is made up for, and an interval goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_that_sends_something_else_goes_on_at_its_times() {
    let connected = connect(&format!("memory://{}", fresh("beat-goes-on")), None).unwrap();
    let store = connected.schedules().unwrap().clone();
    let begun = SystemTime::now() - Duration::from_secs(150);
    store.put("a", &every("a", 100_000).missed(MissedPolicy::Once).encode(), begun).await.unwrap();
    let since = store.schedules().await.unwrap().rows[0].since;
    for queue in ["others", "more"] {
        let mut scheduler = Running::start("s@here", &App::new().schedule(to_queue("a", queue, 100_000)), connected.clone());
        scheduler.hears("it is kept", |event| matches!(event, SchedulerEvent::Kept { .. })).await;
        scheduler.hears("it leads", |event| matches!(event, SchedulerEvent::Leads { .. })).await;
        if queue == "others" {
            scheduler.sent(1).await;
        }
        scheduler.stop().await;
        let row = store.schedules().await.unwrap().rows.remove(0);
        assert_eq!((row.since, row.last), (since, Some(since + Duration::from_secs(100))), "what was missed is sent, and once");
    }
    assert_eq!(connected.broker.queues(&["others".into()]).await.unwrap()[0].waiting, 1, "as it says now");
    let mut other = Running::start("s@here", &App::new().schedule(to_queue("a", "more", 200_000)), connected.clone());
    other.hears("it leads", |event| matches!(event, SchedulerEvent::Leads { .. })).await;
    other.stop().await;
    assert!(store.schedules().await.unwrap().rows[0].since > since, "other times begin anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_configuration_names_no_more_is_told_also_when_it_names_none() {
    let connected = connect(&format!("memory://{}", fresh("beat-left")), None).unwrap();
    let store = connected.schedules().unwrap().clone();
    for (name, origin) in [("gone", ScheduleOrigin::Configuration), ("added", ScheduleOrigin::Command)] {
        store.put(name, &every(name, 100_000).origin(origin).encode(), SystemTime::now()).await.unwrap();
    }
    for (app, told) in [
        (App::new(), &[][..]),
        (App::new().schedule(every("own", 100_000)), &[]),
        (App::new().configured(), &["gone"]),
        (App::new().configured().schedule(every("gone", 100_000).origin(ScheduleOrigin::Configuration)), &[]),
    ] {
        let mut scheduler = Running::start("s@here", &app, connected.clone());
        let mut left = Vec::new();
        loop {
            match scheduler.hears("it leads", |_| true).await {
                SchedulerEvent::Leads { .. } => break,
                SchedulerEvent::Left { name } => left.push(name),
                _ => {}
            }
        }
        assert_eq!(left, told);
        scheduler.stop().await;
    }
}

/// As a Redis that keeps nothing on disk is when it was started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_emptied_keeps_the_schedules_of_the_program_again() {
    let Some(server) = Redis::start(&[]) else { return };
    let connected = connect(&server.url(), None).unwrap();
    let mut scheduler = Running::start("s@here", &App::new().schedule(every("a", 100)), connected.clone());
    scheduler.sent(2).await;
    for _ in 0..2 {
        server.command(&["FLUSHALL"]);
        scheduler.hears("a is kept", |event| matches!(event, SchedulerEvent::Kept { name } if name == "a")).await;
        scheduler.sent(2).await;
    }
    scheduler.stop().await;
}

/// The store was emptied while another one led, which put back its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_gains_the_lead_puts_back_what_is_missing_of_its_own_and_changes_nothing_else() {
    let connected = connect(&format!("memory://{}", fresh("beat-restored")), None).unwrap();
    let store = connected.schedules().unwrap().clone();
    let mut leader = Running::start("leader@here", &App::new().schedule(every("a", 100)), connected.clone());
    leader.sent(1).await;
    let app = App::new().schedule(every("b", 100)).schedule(every("c", 100));
    let mut follower = Running::start("follower@here", &app, connected.clone());
    follower.hears("it waits", |event| matches!(event, SchedulerEvent::Waits { .. })).await;
    assert!(store.remove("b").await.unwrap());
    let changed = every("c", 100_000).encode();
    assert!(store.put("c", &changed, SystemTime::now()).await.unwrap());
    leader.stop().await;
    follower.hears("b is kept", |event| matches!(event, SchedulerEvent::Kept { name } if name == "b")).await;
    follower.hears("b is sent", |event| matches!(event, SchedulerEvent::Sent { name, .. } if name == "b")).await;
    follower.stop().await;
    let rows = store.schedules().await.unwrap().rows;
    assert!(rows.iter().any(|row| row.name == "c" && row.spec == changed), "another program has changed it");
}

/// Seconds by which the wall clock of this test is wrong.
static WRONG: AtomicI64 = AtomicI64::new(0);

fn wall() -> SystemTime {
    let (now, wrong) = (SystemTime::now(), WRONG.load(Ordering::SeqCst));
    let by = Duration::from_secs(wrong.unsigned_abs());
    if wrong < 0 { now - by } else { now + by }
}

/// An hour forward: the schedule makes up for no more than it says. An hour back: nothing comes
/// again, until the clock is where it was, or somebody resumes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_brings_no_storm_and_nothing_twice_and_is_told() {
    let connected = connect(&format!("memory://{}", fresh("beat-clock")), None).unwrap();
    let store = connected.schedules().unwrap().clone();
    let mut environment = Environment::default();
    environment.wall = wall;
    let app = App::new().environment(environment).schedule(every("a", 100).missed(MissedPolicy::All(5)));
    let mut scheduler = Running::start("s@here", &app, connected.clone());
    scheduler.sent(3).await;
    WRONG.store(3600, Ordering::SeqCst);
    // In either order: the clock may be set in the middle of a turn.
    let (mut moved, mut skipped) = (false, false);
    while !(moved && skipped) {
        match scheduler.hears("it moved, or it skips", |event| !matches!(event, SchedulerEvent::Sent { .. })).await {
            SchedulerEvent::ClockMoved { seconds: 3590..3610 } => moved = true,
            SchedulerEvent::Skipped { .. } => skipped = true,
            other => panic!("{other:?}"),
        }
    }
    scheduler.sent(7).await;
    WRONG.store(0, Ordering::SeqCst);
    let moved = scheduler.hears("it moved", |event| matches!(event, SchedulerEvent::ClockMoved { .. })).await;
    assert!(matches!(moved, SchedulerEvent::ClockMoved { seconds: -3610..-3590 }), "{moved:?}");
    let before = fired(&*store).await;
    assert!(before < 600, "an hour has 36 000 due times: {before}");
    let found = messages(&**connected.inspect().unwrap(), "ticks").await;
    let ids: HashSet<&str> = found.iter().map(|message| message.id.as_str()).collect();
    assert_eq!(ids.len(), found.len(), "nothing twice");
    assert!(store.pause_schedule("a", Some("me"), wall()).await.unwrap() && store.pause_schedule("a", None, wall()).await.unwrap());
    scheduler.sent(2).await;
    scheduler.stop().await;
}

/// A store of schedules that loses answers.
struct Forgetful {
    store: Arc<dyn Schedules>,
    /// The next due time is not noted, and that is not known.
    loses: AtomicBool,
    /// Nobody may lead.
    refuses: AtomicBool,
    /// Ids of tasks whose due times were noted.
    noted: Mutex<Vec<SystemTime>>,
}

impl Schedules for Forgetful {
    fn store(&self) -> &str {
        self.store.store()
    }

    fn put<'a>(&'a self, name: &'a str, spec: &'a [u8], at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.store.put(name, spec, at)
    }

    fn amend<'a>(&'a self, name: &'a str, before: &'a [u8], spec: &'a [u8]) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.store.amend(name, before, spec)
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.store.remove(name)
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, by: Option<&'a str>, at: SystemTime) -> BoxFuture<'a, Result<bool, BrokerError>> {
        self.store.pause_schedule(name, by, at)
    }

    fn schedules(&self) -> BoxFuture<'_, Result<ScheduleBook, BrokerError>> {
        self.store.schedules()
    }

    fn lead<'a>(&'a self, scheduler: &'a SchedulerName, term: Duration) -> BoxFuture<'a, Result<Leading, BrokerError>> {
        match self.refuses.load(Ordering::SeqCst) {
            true => Box::pin(async { Err(BrokerError { kind: ErrorKind::Refused, message: "no permission to lead".to_owned() }) }),
            false => self.store.lead(scheduler, term),
        }
    }

    fn resign<'a>(&'a self, scheduler: &'a SchedulerName) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.store.resign(scheduler)
    }

    fn fire<'a>(&'a self, firing: &'a Firing) -> BoxFuture<'a, Result<Fired, BrokerError>> {
        Box::pin(async move {
            assert!(firing.message.is_none(), "the store is not the broker");
            if self.loses.swap(false, Ordering::SeqCst) {
                return Err(BrokerError { kind: ErrorKind::Transient, message: "the answer was lost".to_owned() });
            }
            self.noted.lock().unwrap().push(firing.due);
            self.store.fire(firing).await
        })
    }
}

/// Published first, then noted: at least once, under one id; and once where the result is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_broker_and_store_are_two_a_due_time_is_sent_at_least_once_and_once_where_its_result_is_known() {
    for ran in [false, true] {
        let name = fresh("beat-apart");
        let rehearsal = Rehearsal::open(&name);
        let mut connected = rehearsal.beside(connect(&format!("memory://{name}"), None).unwrap());
        let store = connected.schedules().unwrap().clone();
        let forgetful =
            Arc::new(Forgetful { store, loses: AtomicBool::new(false), refuses: AtomicBool::new(false), noted: Mutex::default() });
        connected.schedules = Some(forgetful.clone());
        let tick = Task::plain("tasks.tick", |_, _| Ok(Value::Null));
        let app = App::new().task(tick).told(None);
        let mut options = WorkerOptions::new("w@here");
        options.queues = vec!["ticks".to_owned()];
        let worker = if ran { Some(Worker::over(app.clone(), options, connected.clone()).await.unwrap()) } else { None };
        let schedule = every("a", 60_000);
        let (since, spec) = (SystemTime::now() - Duration::from_millis(59_500), schedule.encode());
        forgetful.put("a", &spec, since).await.unwrap();
        forgetful.loses.store(true, Ordering::SeqCst);
        // The first one dies when it does not know whether it has noted what it has sent.
        let mut first = Running::start("first@here", &app, connected.clone());
        first.hears("it waits", |event| matches!(event, SchedulerEvent::Away { .. })).await;
        first.task.abort();
        let row = forgetful.schedules().await.unwrap().rows.remove(0);
        let id = schedule.task_id(row.since, row.since + Duration::from_secs(60));
        if ran {
            let client = Client::over(&app, connected.clone());
            tokio::time::timeout(SOON, client.result(&id).get()).await.unwrap().unwrap();
        }
        let mut second = Running::start("second@here", &app, connected.clone());
        second.sent(1).await;
        second.stop().await;
        assert_eq!(forgetful.noted.lock().unwrap().len(), 1);
        let broker: &dyn Broker = &*connected.broker;
        let waiting: u64 = broker.queues(&["ticks".into()]).await.unwrap().iter().map(|state| state.waiting).sum();
        match worker {
            None => assert_eq!(waiting, 2, "twice, under one id"),
            Some(worker) => {
                assert_eq!((waiting, worker.ended()), (0, 1));
                worker.stopper().warm();
                worker.join().await;
            }
        }
    }
}

/// A permission may come later.
#[tokio::test(start_paused = true)]
async fn a_scheduler_of_a_worker_that_is_refused_is_told_once_and_tried_again() {
    let mut connected = connect(&format!("memory://{}", fresh("beat-refused")), None).unwrap();
    let store = connected.schedules().unwrap().clone();
    let (loses, refuses) = (AtomicBool::new(false), AtomicBool::new(true));
    let forgetful = Arc::new(Forgetful { store, loses, refuses, noted: Mutex::default() });
    connected.schedules = Some(forgetful.clone());
    let mut environment = Environment::default();
    environment.threads = false;
    let app = App::new().environment(environment).told(None).task(Task::plain("t", |_, _| Ok(Value::Null)));
    let mut options = WorkerOptions::new("w@here");
    options.beat = true;
    let mut events = options.hub.listen_to(Detail::Changes, 100, |event| matches!(event, WorkerEvent::Schedule(_)));
    let worker = Worker::over(app, options, connected).await.unwrap();
    let refused = events.next().await;
    assert!(
        matches!(&refused, Some(Heard::Event(WorkerEvent::Schedule(SchedulerEvent::Refused { reason }))) if reason == "no permission to lead"),
        "{refused:?}"
    );
    tokio::time::sleep(Duration::from_secs(95)).await;
    assert!(events.try_next().is_none(), "it is told once");
    forgetful.refuses.store(false, Ordering::SeqCst);
    let leads = events.next().await;
    assert!(matches!(leads, Some(Heard::Event(WorkerEvent::Schedule(SchedulerEvent::Leads { .. })))), "{leads:?}");
    worker.stopper().warm();
    assert_eq!(worker.join().await.error, None);
}

/// A broker of which some queues take nothing, or that is away as a whole.
struct Choosy {
    broker: Arc<dyn Broker>,
    full: Mutex<HashSet<String>>,
    away: AtomicBool,
    asked: AtomicU64,
}

impl Choosy {
    /// Takes it in place of the broker of these connections.
    fn before(connected: &mut Connected, full: &[&str]) -> Arc<Self> {
        let full = Mutex::new(full.iter().map(|queue| (*queue).to_owned()).collect());
        let broker = connected.broker.clone();
        let choosy = Arc::new(Self { broker, full, away: AtomicBool::new(false), asked: AtomicU64::new(0) });
        connected.broker = choosy.clone();
        choosy
    }

    fn trouble<T>(&self, what: &str) -> Result<T, BrokerError> {
        Err(BrokerError { kind: ErrorKind::Transient, message: what.to_owned() })
    }
}

impl Broker for Choosy {
    fn url(&self) -> &str {
        self.broker.url()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        match self.away.load(Ordering::SeqCst) {
            true => Box::pin(async { self.trouble("it is away") }),
            false => self.broker.ping(),
        }
    }

    fn open(&self, options: OpenOptions) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        self.broker.open(options)
    }

    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(async { self.trouble("it is away") });
        }
        if batch.iter().any(|message| self.full.lock().unwrap().contains(&*message.queue)) {
            return Box::pin(async { self.trouble("it does not take what is sent to full") });
        }
        self.broker.publish(batch)
    }

    fn queues<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<QueueState>, BrokerError>> {
        self.broker.queues(names)
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        self.broker.purge(queue)
    }
}

fn to_queue(name: &str, queue: &str, millis: u64) -> Schedule {
    let timing = Timing::every(Duration::from_millis(millis)).unwrap();
    Schedule::new(name, Signature::named("tasks.tick").queue(queue), timing).unwrap().missed(MissedPolicy::All(10_000))
}

/// As a queue of RabbitMQ with `overflow=reject-publish`, or one whose node is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_takes_nothing_holds_up_its_own_schedules_alone_and_no_due_time_is_lost() {
    let name = fresh("beat-full");
    let mut connected = Rehearsal::open(&name).beside(connect(&format!("memory://{name}"), None).unwrap());
    let choosy = Choosy::before(&mut connected, &["full"]);
    let period = Duration::from_millis(100);
    let app = App::new().schedule(to_queue("a", "full", 100)).schedule(to_queue("b", "full", 100)).schedule(to_queue("c", "ticks", 100));
    let mut scheduler = Running::start("s@here", &app, connected.clone());
    let held = scheduler.hears("it is held", |event| !matches!(event, SchedulerEvent::Kept { .. } | SchedulerEvent::Leads { .. })).await;
    let reason = "it does not take what is sent to full".to_owned();
    assert_eq!(held, SchedulerEvent::QueueHeld { name: "a".to_owned(), queue: "full".to_owned(), reason });
    // Each goes at its times, though the first of all is never sent.
    for _ in 0..10 {
        let event = scheduler.hears("c is sent", |_| true).await;
        assert!(matches!(&event, SchedulerEvent::Sent { name, .. } if name == "c"), "{event:?}");
    }
    choosy.full.lock().unwrap().clear();
    let back = scheduler.hears("it is back", |event| !matches!(event, SchedulerEvent::Sent { .. })).await;
    assert_eq!(back, SchedulerEvent::QueueBack { queue: "full".to_owned() });
    scheduler.sent(30).await;
    scheduler.stop().await;
    let rows = connected.schedules().unwrap().schedules().await.unwrap().rows;
    let mut fired = rows.iter().map(|row| {
        let span = row.last.unwrap().duration_since(row.since).unwrap();
        assert_eq!(span.as_millis() / period.as_millis(), u128::from(row.fired), "each due time of {}", row.name);
        row.fired
    });
    let (a, b, c) = (fired.next().unwrap(), fired.next().unwrap(), fired.next().unwrap());
    for (queue, sent) in [("full", a + b), ("ticks", c)] {
        let waiting: u64 = connected.broker.queues(&[queue.into()]).await.unwrap().iter().map(|state| state.waiting).sum();
        assert_eq!(waiting, sent, "each once: {queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_told_once_however_many_schedules_are_due() {
    let name = fresh("beat-away");
    let mut connected = Rehearsal::open(&name).beside(connect(&format!("memory://{name}"), None).unwrap());
    let choosy = Choosy::before(&mut connected, &[]);
    choosy.away.store(true, Ordering::SeqCst);
    let schedules = (0..300).map(|number| to_queue(&format!("s{number}"), &format!("q{number}"), 100).missed(MissedPolicy::Once));
    let app = schedules.fold(App::new(), App::schedule);
    let mut scheduler = Running::start("s@here", &app, connected.clone());
    let is_away = |event: &SchedulerEvent| matches!(event, SchedulerEvent::Away { reason } if reason == "it is away");
    scheduler.hears("it is away", is_away).await;
    while choosy.asked.load(Ordering::SeqCst) < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    choosy.away.store(false, Ordering::SeqCst);
    let next = scheduler.hears("it goes on", |event| !matches!(event, SchedulerEvent::Sent { .. })).await;
    assert!(matches!(next, SchedulerEvent::Back | SchedulerEvent::Skipped { .. }), "nothing was told between: {next:?}");
    scheduler.sent(300).await;
    scheduler.stop().await;
}

/// Whose result is known does not run again, where the broker cannot know it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_a_scheduler_has_sent_twice_runs_once() {
    let name = fresh("beat-twice");
    let connected = Rehearsal::open(&name).beside(connect(&format!("memory://{name}"), None).unwrap());
    let (tell, mut ran) = mpsc::unbounded_channel();
    let tick = Task::plain("tasks.tick", move |context, _| {
        let _ = tell.send(context.id().to_owned());
        Ok(Value::from(1))
    });
    let app = App::new().task(tick).told(None);
    let mut options = WorkerOptions::new("w@here");
    options.queues = vec!["ticks".to_owned()];
    let worker = Worker::over(app.clone(), options, connected.clone()).await.unwrap();
    let client = Client::over(&app, connected.clone());
    for (id, beats) in [("a", true), ("a", true), ("b", true), ("c", false), ("c", false)] {
        let mut message =
            Message { task: "tasks.tick".to_owned(), id: id.to_owned(), routing_key: "ticks".to_owned(), ..Message::default() };
        if beats {
            message.headers.set("celery_beat_task", true);
        }
        client.send_message(message).await.unwrap();
        tokio::time::timeout(SOON, client.result(id).get()).await.unwrap().unwrap();
        while connected.broker.queues(&["ticks".into()]).await.unwrap().iter().any(|state| state.waiting + state.held > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    worker.stopper().warm();
    worker.join().await;
    let mut runs = Vec::new();
    while let Ok(id) = ran.try_recv() {
        runs.push(id);
    }
    assert_eq!(runs, ["a", "b", "c", "c"]);
}

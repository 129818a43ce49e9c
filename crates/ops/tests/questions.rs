//! Questions and actions over a worker that runs, on each broker that needs no server.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use longshore_brokers::{Consumer, End, Finish, OpenOptions};
use longshore_celery::Value;
use longshore_core::{LaneKind, Word};
use longshore_ops::{
    OpsError, WaitReason, WorkerStage,
    dead::{self, DeadDone, DeadRequest},
    limits::{self, LimitsRequest, SetLimit},
    overview::{Overview, OverviewReader},
    queues::{self, PeekRequest, QueueAction, QueueDone, QueuesRequest},
    tasks::{self, CancelRefusal, CancelRequest, RetryDone, RetryRefusal, TaskInfo, TaskStanding, TasksRequest},
    why::{TaskPlace, WhyAnswer, WhyRequest, why},
    workers::{self, WorkerAction, WorkerDone, WorkersRequest},
};
use longshore_worker::{App, Call, Client, Failure, Signature, Task, Worker, WorkerOptions};
use tokio::sync::Semaphore;

/// A broker with a client, and tasks that end when they are let go.
struct Bench {
    app: App,
    client: Client,
    gate: Arc<Semaphore>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// One on a memory broker, and one on an SQLite file.
    fn each(name: &str) -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("sqlite:{}", folder.path().join("tasks.db").display());
        [(format!("memory://{name}"), tempfile::tempdir().unwrap()), (file, folder)].map(|(url, folder)| Self::on(&url, folder))
    }

    fn on(url: &str, folder: tempfile::TempDir) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let own = gate.clone();
        let slow = Task::future("slow", move |_, call: Call| {
            let gate = own.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(call.args.first().cloned().unwrap_or_default())
            }
        });
        let bad = Task::plain("bad", |_, _| Err::<Value, _>(Failure::from(std::io::Error::other("no such thing"))));
        let app = App::new().broker(url).task(slow).task(bad);
        let client = Client::of(&app).unwrap();
        Self { app, client, gate, _folder: folder }
    }

    /// Starts a worker with one slot of the async lane.
    async fn worker(&self) -> Worker {
        let mut options = WorkerOptions::new("w@test");
        options.lanes = [1, 1, 1, 1];
        Worker::start(self.app.clone(), options).await.unwrap()
    }

    async fn send(&self, task: &str, id: &str) {
        let signature: Signature = Signature::named(task).arg(&1).task_id(id);
        self.client.send(signature).await.unwrap();
    }

    async fn why(&self, id: &str) -> WhyAnswer {
        why(&self.client, &WhyRequest::new(id)).await.unwrap().remove(0)
    }

    async fn task(&self, id: &str) -> TaskInfo {
        tasks::show(&self.client, id).await.unwrap().info
    }

    /// Waits until a task stands so.
    async fn until(&self, id: &str, is: impl Fn(&WhyAnswer) -> bool) -> WhyAnswer {
        let look = async {
            loop {
                let answer = self.why(id).await;
                if is(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), look).await.unwrap()
    }
}

fn word(answer: &WhyAnswer) -> Option<&'static str> {
    answer.reason.as_ref().map(WaitReason::word)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_why_a_task_waits_follows_it_through_its_life() {
    for bench in Bench::each("ops-why") {
        bench.send("slow", "first").await;
        bench.send("slow", "second").await;
        let answer = bench.why("second").await;
        assert_eq!((answer.state(), word(&answer)), ("waiting", Some("unserved")));
        queues::act(&bench.client, &QueueAction::Pause { queue: "celery".into(), by: "me@here".into() }).await.unwrap();
        let answer = bench.why("second").await;
        assert!(matches!(&answer.reason, Some(WaitReason::Paused { by, .. }) if by == "me@here"), "{answer:?}");
        queues::act(&bench.client, &QueueAction::Resume { queue: "celery".into() }).await.unwrap();

        // The one slot is taken by the first; the second waits at the worker for it.
        let worker = bench.worker().await;
        let running = bench.until("first", |answer| answer.state() == "active").await;
        let TaskPlace::Broker { worker: Some(at), .. } = &running.place else { panic!("{running:?}") };
        assert_eq!((at.node.as_str(), at.stage, word(&running)), ("w@test", WorkerStage::Active, None));
        let waiting = bench.until("second", |answer| answer.state() == "reserved").await;
        let Some(WaitReason::Slots { taken }) = &waiting.reason else { panic!("{waiting:?}") };
        assert_eq!((taken[0].lane.as_str(), taken[0].running, taken[0].slots), ("async", 1, 1));

        bench.gate.add_permits(2);
        let ended = bench.until("second", |answer| answer.state() == "SUCCESS").await;
        assert!(word(&ended).is_none() && matches!(ended.place, TaskPlace::Ended { done: Some(_), .. }), "{ended:?}");
        let unknown = why(&bench.client, &WhyRequest::new("nobody")).await;
        assert!(matches!(&unknown, Err(OpsError::UnknownTask { id }) if id == "nobody"), "{unknown:?}");
        worker.stopper().warm();
        worker.join().await;
    }
}

#[tokio::test]
async fn where_nobody_can_look_workers_say_what_they_have_and_the_rest_is_said_in_words() {
    let Some(url) = longshore_testkit::rabbit::vhost() else { return };
    let results = tempfile::tempdir().unwrap();
    let kept = format!("sqlite:{}", results.path().join("results.db").display());
    for (kept, word) in [(None, "rpc://"), (Some(kept), "no result")] {
        let app = |app: App| match &kept {
            Some(kept) => app.results(kept),
            None => app,
        };
        let mut bench = Bench::on(&url, tempfile::tempdir().unwrap());
        bench.app = app(bench.app);
        bench.client = Client::of(&bench.app).unwrap();
        let worker = bench.worker().await;
        let id = bench.client.send(Signature::<Value>::named("slow").arg(&1)).await.unwrap().id().to_owned();
        // Until a worker has it, nobody knows it.
        let has = async {
            while !matches!(why(&bench.client, &WhyRequest::new(&id)).await.as_deref(), Ok([answer]) if answer.state() == "active") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), has).await.unwrap();
        let running = bench.why(&id).await;
        assert!(matches!(&running.place, TaskPlace::Worker(at) if at.node == "w@test"), "{running:?}");
        assert_eq!(bench.task(&id).await.standing, TaskStanding::Started);
        bench.gate.add_permits(1);
        let unknown = why(&bench.client, &WhyRequest::new("nobody")).await;
        assert!(matches!(&unknown, Err(OpsError::UnseenTask { why, .. }) if why.contains(word)), "{unknown:?}");
        let unknown = tasks::show(&bench.client, "nobody").await;
        assert!(matches!(&unknown, Err(OpsError::UnseenTask { id, .. }) if id == "nobody"), "{unknown:?}");
        worker.stopper().warm();
        worker.join().await;
    }
}

/// Asks the one worker of a broker for its view until it is so.
async fn view_that(bench: &Bench, is: impl Fn(&workers::WorkerView) -> bool) -> workers::WorkerView {
    let look = async {
        loop {
            let mut views = match workers::views(&bench.client, &WorkersRequest::default()).await {
                // On a busy machine an answer may come too late.
                Err(OpsError::NoWorkers) => continue,
                views => views.unwrap(),
            };
            assert!(views.len() <= 1, "{views:?}");
            if let Some(view) = views.pop().filter(&is) {
                return view;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_ours_shows_what_it_runs_and_what_has_ended_on_each_broker() {
    let server = longshore_testkit::servers::Redis::start(&[]);
    let on_redis = server.as_ref().map(|server| Bench::on(&server.url(), tempfile::tempdir().unwrap()));
    for bench in Bench::each("ops-views").into_iter().chain(on_redis) {
        let nobody = workers::views(&bench.client, &WorkersRequest::default()).await;
        assert!(matches!(nobody, Err(OpsError::NoWorkers)), "{nobody:?}");
        let worker = bench.worker().await;
        bench.send("slow", "first").await;
        let seen = view_that(&bench, |seen| !seen.view.running.is_empty()).await;
        let lane = seen.view.lanes.iter().find(|lane| lane.lane == LaneKind::Async).unwrap();
        assert_eq!((seen.node.as_str(), lane.slots, lane.running), ("w@test", 1, 1));
        bench.gate.add_permits(1);
        bench.send("bad", "bad").await;
        let seen = view_that(&bench, |seen| seen.view.counts.of(Word::Ok) + seen.view.counts.of(Word::Failed) == 2).await;
        assert_eq!((seen.view.counts.of(Word::Ok), seen.view.counts.of(Word::Failed)), (1, 1), "{seen:?}");
        worker.stopper().warm();
        worker.join().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_or_called_off_is_told_and_what_is_not_is_told_with_its_reason() {
    for bench in Bench::each("ops-tasks") {
        let worker = bench.worker().await;
        bench.gate.add_permits(1);
        bench.send("bad", "bad").await;
        bench.send("slow", "good").await;
        bench.until("bad", |answer| answer.state() == "FAILURE").await;
        bench.until("good", |answer| answer.state() == "SUCCESS").await;
        worker.stopper().warm();
        worker.join().await;
        bench.send("slow", "waits").await;

        let refusal = async |id: &str| match tasks::retry(&bench.client, &bench.task(id).await).await.unwrap() {
            RetryDone::Refused(why) => why,
            done => panic!("{id}: {done:?}"),
        };
        assert!(matches!(refusal("good").await, RetryRefusal::Succeeded));
        assert!(matches!(refusal("waits").await, RetryRefusal::InBroker(_)));
        let done = tasks::retry(&bench.client, &bench.task("bad").await).await.unwrap();
        assert!(matches!(&done, RetryDone::Sent { queue: Some(queue), new_id: None } if queue == "celery"), "{done:?}");
        assert_eq!(bench.task("bad").await.standing, TaskStanding::Retry);

        // Of each standing one; what nobody knows is called off all the same.
        let ids = ["good", "waits", "bad", "nobody"].map(str::to_owned);
        let request = CancelRequest::ids(&bench.client, &ids).await.unwrap();
        assert_eq!(request.unknown, ["nobody"]);
        let done = tasks::cancel(&bench.client, &request).await.unwrap();
        let off: Vec<&str> = done.called_off.iter().map(|task| task.id.as_str()).collect();
        assert_eq!((off, done.refused[0].why), (vec!["waits", "bad"], CancelRefusal::Success));
        assert!(bench.client.connected().shared().unwrap().revoked().await.unwrap().contains(&"nobody".to_owned()));
        let revoked = TasksRequest::ids(["waits"]);
        let list = tasks::list(&bench.client, &revoked).await.unwrap();
        assert_eq!((list.matched, list.tasks[0].standing), (1, TaskStanding::Revoked));
        // Its own id stays called off, so it goes under another.
        let queue = queues::act(&bench.client, &QueueAction::Purge { queue: "celery".into() }).await.unwrap();
        assert_eq!(queue, QueueDone::Purged { queue: "celery".into(), purged: 2 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_back_or_away_and_are_counted() {
    for bench in Bench::each("ops-dead") {
        for id in ["a", "b"] {
            bench.send("slow", id).await;
        }
        // A consumer that buries both.
        let options = OpenOptions::new("w@test", ["celery"]);
        let consumer: Arc<dyn Consumer> = bench.client.broker().open(options).await.unwrap();
        let mut claimed = Vec::new();
        while claimed.len() < 2 {
            consumer.claim(2, &mut claimed).await.unwrap();
        }
        let bury = |receipt| Finish {
            receipt,
            publish: Vec::new(),
            results: Vec::new(),
            part: None,
            end: End::Dead { reason: "it died 3 times".into() },
        };
        let ends: Vec<Finish> = claimed.iter().map(|claimed| bury(claimed.receipt)).collect();
        consumer.finish(&ends).await.unwrap();
        consumer.leave().await.unwrap();

        let found = dead::list(&bench.client, &DeadRequest::default()).await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(dead::dropped(&bench.client, &found).await.unwrap().is_empty());
        assert_eq!(bench.task("a").await.standing, TaskStanding::Dead);
        let missing = dead::list(&bench.client, &DeadRequest::one("c")).await;
        assert!(matches!(&missing, Err(OpsError::NoDeadLetter { id }) if id == "c"), "{missing:?}");

        let one = dead::list(&bench.client, &DeadRequest::one("a")).await.unwrap();
        assert_eq!(dead::retry(&bench.client, &one).await.unwrap(), DeadDone::Retried(1));
        // Somebody else was faster.
        assert_eq!(dead::retry(&bench.client, &one).await.unwrap(), DeadDone::Retried(0));
        assert_eq!(bench.task("a").await.standing, TaskStanding::Waiting);
        let rest = dead::list(&bench.client, &DeadRequest::default()).await.unwrap();
        assert_eq!(dead::purge(&bench.client, &rest).await.unwrap(), DeadDone::Purged(1));
        assert_eq!(dead::purge(&bench.client, &[]).await.unwrap(), DeadDone::Purged(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_peeked_paused_and_moved() {
    for bench in Bench::each("ops-queues") {
        for n in 0..5 {
            bench.send("slow", &format!("t{n}")).await;
        }
        let next = queues::peek(&bench.client, &PeekRequest::new("celery").count(2)).await.unwrap();
        assert_eq!(next.iter().map(|message| message.id.as_str()).collect::<Vec<_>>(), ["t0", "t1"]);
        let to_itself = QueueAction::Move { from: "celery".into(), to: "celery".into() };
        assert!(matches!(queues::act(&bench.client, &to_itself).await, Err(OpsError::Invalid(_))));
        let moved = QueueAction::Move { from: "celery".into(), to: "spare".into() };
        let done = queues::act(&bench.client, &moved).await.unwrap();
        assert_eq!(serde_json::to_string(&done).unwrap(), r#"{"from":"celery","to":"spare","moved":5}"#);
        let pause = r#"{"pause": {"queue": "spare", "by": "page"}}"#;
        queues::act(&bench.client, &serde_json::from_str(pause).unwrap()).await.unwrap();
        let queues = queues::list(&bench.client, &QueuesRequest::one("spare").window(Duration::ZERO)).await.unwrap();
        let spare = &queues[0];
        assert_eq!((spare.waiting, spare.paused_by.as_deref(), spare.running), (5, Some("page"), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_listed_scaled_and_stopped() {
    for bench in Bench::each("ops-workers") {
        let mut all = WorkersRequest::default();
        all.patience = Duration::from_millis(300);
        let nobody = workers::list(&bench.client, &all).await;
        assert!(matches!(nobody, Err(OpsError::NoWorkers)), "{nobody:?}");
        let stop = workers::act(&bench.client, &WorkerAction::Shutdown, &all).await;
        assert!(matches!(stop, Err(OpsError::NoWorkers)), "{stop:?}");

        let worker = bench.worker().await;
        // It listens a little after it has started.
        let listed = async {
            loop {
                if let Ok(mut found) = workers::list(&bench.client, &all).await {
                    return found.remove(0);
                }
            }
        };
        let known = tokio::time::timeout(Duration::from_secs(30), listed).await.unwrap();
        assert_eq!((known.node.as_str(), known.slots, known.queues.as_slice()), ("w@test", 4, &["celery".to_owned()][..]));
        // Who is named answers at once.
        all.nodes = vec!["w@test".into()];
        let told = async |action| match workers::act(&bench.client, &action, &all).await.unwrap() {
            WorkerDone::Replied(replies) => replies[0].clone(),
            done => panic!("{done:?}"),
        };
        assert_eq!(told(WorkerAction::Grow(2)).await.error(), None);
        // One more on the blocking lane and one on the process lane, twice.
        assert_eq!(workers::list(&bench.client, &all).await.unwrap()[0].slots, 8);
        let unknown = told(WorkerAction::SetRate { task: "no.such".into(), rate: None }).await;
        assert_eq!(unknown.error(), Some("unknown task"));

        let rate = longshore_core::Rate::per_second(5.0);
        told(WorkerAction::SetRate { task: "slow".into(), rate: Some(rate) }).await;
        limits::set(&bench.client, &SetLimit::new("api", Some(rate))).await.unwrap();
        let limits = limits::list(&bench.client, &LimitsRequest::default()).await.unwrap();
        let holds: Vec<_> = limits.iter().map(|info| (info.limit.as_deref(), info.task.as_deref(), info.holds().1)).collect();
        assert_eq!(holds, [(Some("api"), None, Some("all")), (None, Some("slow"), Some("workers"))]);

        let stop = workers::act(&bench.client, &WorkerAction::Shutdown, &all).await.unwrap();
        assert_eq!(stop, WorkerDone::Told(vec!["w@test".into()]));
        worker.join().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_queues_are_seen_at_one_glance_round_after_round_and_no_faster_than_once_a_second() {
    for bench in Bench::each("ops-overview") {
        let mut reader = OverviewReader::new(bench.client.clone());
        bench.send("slow", "first").await;
        bench.send("slow", "second").await;
        let nobody = reader.look().await.unwrap();
        assert!(nobody.workers.is_empty() && nobody.window.is_zero(), "{nobody:?}");
        let queue = &nobody.queues[0];
        assert_eq!((queue.waiting, queue.workers, queue.in_per_second, queue.out_per_second), (2, Some(0), None, None));

        let worker = bench.worker().await;
        let is_busy =
            |seen: &Overview| seen.queues[0].running == Some(1) && seen.workers.first().is_some_and(|worker| worker.load.is_some());
        let busy = overview_that(&mut reader, is_busy).await;
        let (at, queue) = (&busy.workers[0], &busy.queues[0]);
        assert_eq!(
            (at.node.as_str(), at.slots, at.running, at.queues.as_slice()),
            ("w@test", Some(4), Some(1), &["celery".to_owned()][..])
        );
        assert_eq!((at.silent, queue.workers), (None, Some(1)));

        bench.gate.add_permits(2);
        let is_done = |seen: &Overview| seen.workers[0].done_per_second.is_some_and(|rate| rate > 0.0) && seen.queues[0].waiting == 0;
        let done = overview_that(&mut reader, is_done).await;
        assert!(done.queues[0].out_per_second.is_some_and(|rate| rate > 0.0), "{done:?}");
        let two = std::time::Instant::now();
        for _ in 0..2 {
            reader.look().await.unwrap();
        }
        assert!(two.elapsed() >= Duration::from_secs(1), "{:?}", two.elapsed());

        // Who says that it goes is gone.
        worker.stopper().warm();
        worker.join().await;
        let gone = overview_that(&mut reader, |seen| seen.workers.is_empty()).await;
        assert_eq!(gone.queues[0].workers, Some(0));
    }
}

/// Looks until it is seen so.
async fn overview_that(reader: &mut OverviewReader, is: impl Fn(&Overview) -> bool) -> Overview {
    let look = async {
        loop {
            let seen = reader.look().await.unwrap();
            if is(&seen) {
                return seen;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.unwrap()
}

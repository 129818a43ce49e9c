//! The face of a worker: its view, what it tells, how it is steered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_celery::{
    Value,
    control::{Command, Request},
};
use longshore_core::{
    LaneKind, Phase, Stop,
    watch::{Command as Steered, Detail, Heard, LinkState, View, ViewKind},
};
use longshore_worker::{App, Client, Failure, Task, TaskChange, Worker, WorkerEvent, WorkerOptions, remote};
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_secs(20);

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < SOON, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn app(url: &str, gate: &Arc<Semaphore>) -> App {
    let gate = gate.clone();
    App::new()
        .broker(url)
        .task(Task::future("fine", |_, _| async { Ok(1.into()) }))
        .task(Task::future("bad", |_, _| async { Err(Failure::error("ValueError", "no")) }))
        .task(Task::future("waits", move |_, _| {
            let gate = gate.clone();
            async move {
                let _ = gate.acquire().await;
                Ok(Value::Null)
            }
        }))
        .task(Task::future("holds", |_, _| async {
            std::thread::sleep(Duration::from_millis(400));
            Ok(Value::Null)
        }))
}

async fn send(client: &Client, task: &str, count: usize) {
    for _ in 0..count {
        client.send(longshore_worker::Signature::named(task)).await.expect("it is sent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_shows_what_it_runs_has_done_and_waits_for_by_queue_and_task() {
    let gate = Arc::new(Semaphore::new(0));
    let app = app("memory://watched", &gate);
    let client = Client::of(&app).unwrap();
    let mut options = WorkerOptions::new("w@watched");
    options.lanes = [3, 1, 1, 1];
    let mut events = options.hub.listen(Detail::Tasks, 1_000);
    let worker = Worker::start(app, options).await.unwrap();
    send(&client, "fine", 5).await;
    send(&client, "bad", 2).await;
    until("all ended", async || (worker.ended() == 7).then_some(())).await;
    send(&client, "waits", 2).await;
    let view = until("both run", async || worker.view().await.filter(|view| view.active() == 2)).await;
    assert_eq!((view.kind, view.name.as_str(), view.phase), (ViewKind::Worker, "w@watched", Phase::Running));
    assert_eq!((view.counts.ok, view.counts.failed, view.counts.done()), (5, 2, 7));
    let of = |kind: &str, value: &str| view.labels.iter().find(|label| label.kind == kind && label.value == value).cloned().unwrap();
    assert_eq!((of("task", "fine").counts.ok, of("task", "bad").counts.failed, of("queue", "celery").counts.done()), (5, 2, 7));
    assert_eq!((of("task", "fine").run.count, of("queue", "celery").run.count, of("queue", "celery").wait.count), (5, 7, 7));
    assert_eq!((view.running[0].label.as_str(), view.running[0].name.len(), worker.running()), ("waits", 36, 2));
    assert_eq!((view.connections.len(), &view.connections[0].state), (1, &LinkState::Up));
    assert_eq!((view.connections[0].name.as_str(), view.connections[0].server.as_str()), ("broker", "memory://watched"));
    assert!(view.gauges.iter().any(|gauge| gauge.name == "worker_claimed_tasks" && gauge.value == 2.0), "{:?}", view.gauges);
    gate.add_permits(2);
    until("they ended", async || (worker.ended() == 9).then_some(())).await;
    let handle = worker.handle();
    handle.drain();
    let summary = worker.join().await;
    assert_eq!((summary.counts.ok, summary.counts.failed), (7, 2));
    assert!(handle.view().await.is_none());
    let (mut ends, mut phases) = (0, Vec::new());
    while let Some(heard) = events.next().await {
        match heard {
            Heard::Event(WorkerEvent::Task(notice)) => {
                ends += usize::from(!matches!(notice.what, TaskChange::Received | TaskChange::Started))
            }
            Heard::Event(WorkerEvent::Phase(phase)) => phases.push(phase),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ends, phases[0]), (9, Phase::Draining));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_paused_worker_consumes_nothing_more_and_says_so_until_it_is_resumed() {
    for url in ["memory://paused".to_owned(), format!("sqlite:{}", tempfile::tempdir().unwrap().keep().join("q.db").display())] {
        let gate = Arc::new(Semaphore::new(0));
        let app = app(&url, &gate);
        let client = Client::of(&app).unwrap();
        let mut options = WorkerOptions::new("w@paused");
        options.lanes = [2, 1, 1, 1];
        let worker = Worker::start(app, options).await.unwrap();
        let handle = worker.handle();
        send(&client, "waits", 1).await;
        until("it runs", async || (worker.running() == 1).then_some(())).await;
        handle.pause();
        handle.pause();
        assert_eq!(handle.view().await.unwrap().phase, Phase::Paused, "{url}");
        // What was claimed goes on, and nothing else comes.
        gate.add_permits(1);
        until("it ended", async || (worker.ended() == 1).then_some(())).await;
        send(&client, "fine", 3).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(worker.ended(), 1, "{url}");
        handle.resume();
        until("all ended", async || (worker.ended() == 4).then_some(())).await;
        assert_eq!(handle.view().await.unwrap().phase, Phase::Running, "{url}");
        handle.set_concurrency(Some(LaneKind::Async), 7);
        let slots = async || handle.view().await.unwrap().lane(LaneKind::Async).unwrap().slots;
        until("seven slots", async || (slots().await == 7).then_some(())).await;
        assert!(handle.steer(Steered::Rate { rate: None }).unwrap_err().to_string().contains("rate_limit"));
        handle.stop(Stop::Soft);
        assert_eq!(worker.join().await.counts.ok, 4, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_holds_the_async_lane_is_told_once_and_counted() {
    let app = app("memory://stalled", &Arc::new(Semaphore::new(0)));
    let client = Client::of(&app).unwrap();
    let options = WorkerOptions::new("w@stalled");
    let mut changes = options.hub.listen(Detail::Changes, 100);
    let worker = Worker::start(app, options).await.unwrap();
    send(&client, "holds", 1).await;
    let heard = tokio::time::timeout(SOON, changes.next()).await.unwrap();
    let Some(Heard::Event(WorkerEvent::Stalled { message, queue, held })) = heard else { panic!("{heard:?}") };
    assert_eq!((message.task.as_str(), &*queue), ("holds", "celery"));
    assert!(held >= Duration::from_millis(100), "{held:?}");
    let view = worker.view().await.unwrap();
    assert_eq!((view.stalled.times, view.stalled.latest.map(|stall| stall.name)), (1, Some(message.id.clone())));
    until("it ended", async || (worker.ended() == 1).then_some(())).await;
    worker.handle().stop(Stop::Soft);
    worker.join().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_answers_remote_control_with_its_view() {
    let app = app("memory://asked", &Arc::new(Semaphore::new(0)));
    let client = Client::of(&app).unwrap();
    let worker = Worker::start(app, WorkerOptions::new("w@asked")).await.unwrap();
    send(&client, "fine", 3).await;
    until("all ended", async || (worker.ended() == 3).then_some(())).await;
    assert_eq!(Command::read(&Request::new("longshore_view")), Ok(Command::View));
    let text = until("an answer", async || {
        let request = Request::new("longshore_view").to(["w@asked"]);
        let replies = remote::ask(client.connected(), request, Duration::from_millis(300)).await.ok()?;
        replies.first()?.1.get("ok").and_then(Value::as_str).map(str::to_owned)
    })
    .await;
    let view: View = serde_json::from_str(&text).unwrap();
    assert_eq!((view.name.as_str(), view.counts.ok, view.kind), ("w@asked", 3, ViewKind::Worker));
    assert!(text.len() < 256 << 10);
    worker.handle().stop(Stop::Soft);
    worker.join().await;
}

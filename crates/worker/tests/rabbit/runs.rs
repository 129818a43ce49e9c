//! Workers on a real RabbitMQ, with results in a file.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_celery::{Message, Value};
use longshore_testkit::rabbit;
use longshore_worker::{App, Client, Signature, Task, Worker, WorkerOptions};
use tokio::sync::Semaphore;

const TASKS: usize = 8;

fn options(node: &str) -> WorkerOptions {
    let mut options = WorkerOptions::new(node);
    options.lanes = [TASKS, 1, 1, 1];
    options
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_while_its_connection_is_lost_is_run_by_nobody_else() {
    let Some(url) = rabbit::vhost() else { return };
    let directory = tempfile::tempdir().unwrap();
    let results = format!("sqlite:{}?sync=normal", directory.path().join("results.db").display());
    let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let app = || {
        let (begun, go) = (begun.clone(), go.clone());
        let task = Task::future("waits", move |_, _| {
            let (begun, go) = (begun.clone(), go.clone());
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                drop(go.acquire().await);
                Ok(Value::from("done"))
            }
        });
        App::new().broker(&url).results(&results).task(task)
    };
    let first = Worker::start(app(), options("first@test")).await.unwrap();
    let client = Client::of(&app()).unwrap();
    let mut answers = Vec::new();
    for _ in 0..TASKS {
        answers.push(client.send(Signature::named("waits")).await.unwrap());
    }
    until("all run", || begun.load(Ordering::SeqCst) == TASKS).await;
    // Another one that has all its slots free, and may be lent whatever comes again.
    let second = Worker::start(app(), options("second@test")).await.unwrap();
    let server = rabbit::shared().unwrap();
    let vhost = url.rsplit('/').next().unwrap();
    // The other one keeps its connection, so that it is lent all of them.
    until("it serves", || server.queues(vhost).iter().any(|(name, _, _, consumers)| name == "celery" && *consumers == 2)).await;
    server.eval(&format!(
        "[rabbit_networking:close_connection(proplists:get_value(pid, C), \"test\") || C <- rabbit_networking:connection_info_all([pid, vhost, client_properties]), proplists:get_value(vhost, C) =:= <<\"{vhost}\">>, lists:member({{<<\"connection_name\">>, longstr, <<\"longshore first@test\">>}}, proplists:get_value(client_properties, C))]."
    ));
    let lent = || server.queues(vhost).iter().find(|(name, ..)| name == "celery").map_or(0, |(_, _, lent, _)| *lent as usize);
    until("all are lent again", || lent() == TASKS).await;
    // Longer than it takes to be sure that nobody runs them.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(begun.load(Ordering::SeqCst), TASKS, "none has begun a second time");
    go.close();
    for answer in answers {
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), answer.get()).await.unwrap().unwrap(), Value::from("done"));
    }
    until("all are acknowledged", || lent() == 0).await;
    for worker in [first, second] {
        worker.stopper().warm();
        worker.join().await;
    }
    assert_eq!(begun.load(Ordering::SeqCst), TASKS, "none has begun a second time");
}

/// A scheduler that does not know whether it has sent a task sends it again under its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_periodic_task_begins_at_once_and_no_copy_of_it_runs_beside_it_or_again() {
    let Some(url) = rabbit::vhost() else { return };
    let directory = tempfile::tempdir().unwrap();
    let results = format!("sqlite:{}?sync=normal", directory.path().join("results.db").display());
    let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counts, waits) = (begun.clone(), go.clone());
    let tick = Task::future("tick", move |_, _| {
        counts.fetch_add(1, Ordering::SeqCst);
        let waits = waits.clone();
        async move {
            drop(waits.acquire().await);
            Ok(Value::from("done"))
        }
    });
    let app = App::new().broker(&url).results(&results).task(tick);
    let worker = Worker::start(app.clone(), options("w@test")).await.unwrap();
    let client = Client::of(&app).unwrap();
    let sent = std::time::Instant::now();
    for _ in 0..2 {
        let mut message = Message { task: "tick".into(), id: "due".into(), routing_key: "celery".into(), ..Message::default() };
        message.headers.set("celery_beat_task", true);
        client.send_message(message).await.unwrap();
    }
    until("it runs", || begun.load(Ordering::SeqCst) > 0).await;
    assert!(sent.elapsed() < Duration::from_millis(1_900), "it waits for no note of a worker that it was lent to: {:?}", sent.elapsed());
    // The other copy is there, and would have begun.
    let (server, vhost) = (rabbit::shared().unwrap(), url.rsplit('/').next().unwrap());
    let lent = || server.queues(vhost).iter().find(|(name, ..)| name == "celery").map_or(0, |(_, _, lent, _)| *lent);
    until("both are lent", || lent() == 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(begun.load(Ordering::SeqCst), 1, "the first one runs");
    go.close();
    until("both have ended", || lent() == 0).await;
    worker.stopper().warm();
    worker.join().await;
    assert_eq!(begun.load(Ordering::SeqCst), 1, "its result is known");
}

//! Functions under `#[task(lane = "process")]`, each in a child process. The test has a `main` of
//! its own, because a child begins there.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use longshore_celery::{State, Value};
use longshore_core::LaneKind;
use longshore_worker::{App, Client, ClientError, Failure, Signature, TaskContext, Worker, WorkerOptions, init_app, task};

#[task(crate = "longshore_worker", lane = "process", name = "t.pid")]
fn pid(context: &TaskContext, add: u32) -> Result<u32, Failure> {
    if context.header("fail").is_some() {
        return Err(Failure::error("ValueError", "as it was told"));
    }
    Ok(std::process::id() + add)
}

#[task(crate = "longshore_worker", lane = "process", name = "t.panic")]
fn panics() {
    panic!("on purpose");
}

#[task(crate = "longshore_worker", lane = "process", name = "t.abort")]
fn aborts(times: u32) -> u32 {
    if times > 0 {
        std::process::abort();
    }
    times
}

#[task(crate = "longshore_worker", lane = "process", name = "t.spin")]
fn spins() {
    loop {
        std::hint::spin_loop();
    }
}

#[task(crate = "longshore_worker", lane = "process", name = "t.listen", soft_timeout = "50ms")]
fn listens(context: TaskContext) -> bool {
    let soft = context.soft_limit();
    while !soft.is_cancelled() {
        std::thread::yield_now();
    }
    true
}

fn app() -> App {
    App::new().broker("memory://process").task(pid).task(panics).task(aborts).task(spins).task(listens)
}

fn main() {
    let app = app();
    init_app(&app);
    // Where the test runner asks for a list, there is one test.
    if std::env::args().any(|arg| arg == "--list") {
        println!("process_lane: test");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let worker = Worker::start(app.clone(), WorkerOptions::new("w@test")).await.unwrap();
        let client = Client::of(&app).unwrap();
        runs_apart(&client).await;
        ends_as_it_ends(&client).await;
        is_killed_at_its_limit(&client).await;
        is_told_its_soft_limit(&client).await;
        worker.stopper().warm();
        let summary = worker.join().await;
        assert_eq!(summary.error, None, "{summary:?}");
        children_are_replaced(&app).await;
    });
    println!("the process lane: ok");
}

async fn get<R: serde::de::DeserializeOwned>(client: &Client, signature: Signature<R>) -> Result<R, ClientError> {
    client.send(signature).await.unwrap().get_within(Duration::from_secs(60)).await
}

async fn runs_apart(client: &Client) {
    assert_ne!(get(client, pid::call(0)).await.unwrap(), std::process::id());
}

async fn ends_as_it_ends(client: &Client) {
    let error = get(client, pid::call(0).header("fail", &true)).await.unwrap_err();
    assert_eq!(
        error.exception().map(|exception| (exception.exc_type.clone(), exception.exc_message.clone())).unwrap(),
        ("ValueError".to_owned(), vec![Value::from("as it was told")])
    );
    let error = get(client, pid::signature()).await.unwrap_err();
    assert!(error.to_string().contains("missing 1 required positional argument"), "{error}");
    let error = get(client, panics::call()).await.unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
    // Whoever aborts takes no other task along: the worker goes on, and says what became of it when
    // it has died of it three times.
    let doomed = client.send(aborts::call(1)).await.unwrap();
    assert_eq!(get(client, aborts::call(0)).await.unwrap(), 0);
    let error = doomed.get_within(Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(error.exception().map(|exception| exception.exc_type.as_str()), Some("WorkerLostError"), "{error}");
}

/// One child at a time: the same one for all tasks, unless it is replaced after so many, or when it
/// holds too much.
async fn children_are_replaced(app: &App) {
    for (place, (tasks, memory, anew)) in [(None, None, false), (Some(1), None, true), (None, Some(1), true)].into_iter().enumerate() {
        let app = app.clone().broker(format!("memory://replaced-{place}"));
        let mut options = WorkerOptions::new("w@test");
        options.lanes[LaneKind::Process as usize] = 1;
        (options.max_tasks_per_child, options.max_memory_per_child) = (tasks, memory);
        let worker = Worker::start(app.clone(), options).await.unwrap();
        let client = Client::of(&app).unwrap();
        let first = get(&client, pid::call(0)).await.unwrap();
        let second = get(&client, pid::call(0)).await.unwrap();
        assert_eq!(first != second, anew, "{tasks:?} {memory:?}: {first} {second}");
        worker.stopper().warm();
        worker.join().await;
    }
}

async fn is_killed_at_its_limit(client: &Client) {
    let begun = Instant::now();
    let answer = client.send(spins::call().time_limit(Duration::from_millis(300))).await.unwrap();
    let error = answer.get_within(Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(error.exception().map(|exception| exception.exc_type.as_str()), Some("TimeLimitExceeded"), "{error}");
    assert_eq!(answer.state().await.unwrap(), State::Failure);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

async fn is_told_its_soft_limit(client: &Client) {
    assert!(get(client, listens::call()).await.unwrap());
}

//! What a user of Celery looks for in the library: retries with other arguments, errbacks that see
//! the exception, commands of one's own, acknowledgement for all tasks.

#![expect(clippy::unwrap_used, reason = "a test that cannot start what it tests has failed")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use longshore_celery::{Exception, FailedRequest, Map, Value, control::Request};
use longshore_worker::{Acks, App, Client, ClientError, Failure, Task, TaskContext, Worker, WorkerOptions, remote, task};

/// A worker of these tasks on a broker of its own, and a client.
async fn served(app: impl FnOnce(App) -> App) -> (Worker, Client) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let broker = format!("memory://library-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let app = app(App::new().broker(broker).told(None));
    let worker = Worker::start(app.clone(), WorkerOptions::new("w1@here")).await.unwrap();
    (worker, Client::of(&app).unwrap())
}

async fn stop(worker: Worker) {
    worker.stopper().warm();
    worker.join().await;
}

/// Halves its page size until it is small enough; how it was called stands in its result.
#[task(crate = "longshore_worker", prefix = "library", retries = 3, retry_delay = "0s")]
async fn fetch(context: TaskContext, size: i64, #[args] tags: Vec<String>, limit: Option<i64>) -> Result<Value, Failure> {
    match context.id() {
        _ if size <= 2 => {
            let told: Vec<Value> = vec![size.into(), tags.join("+").into(), limit.into(), context.retries().into(), context.queue().into()];
            Ok(Value::List(told))
        }
        "foreign" => Err(context.retry().with_call(longshore_worker::Signature::named("library.other"))),
        "nowhere" => Err(context.retry().with_call(context.this_call().queue(""))),
        "expires" => Err(context.retry().with_call(context.this_call().expires_in(Duration::ZERO))),
        _ => Err(context.retry().with_call(fetch::call(size / 2, tags, limit).queue("small")).because(Failure::text("too large"))),
    }
}

#[tokio::test]
async fn a_retry_may_have_other_arguments_another_queue_and_another_end() {
    let (worker, client) = {
        let app = App::new().broker("memory://library-retry").told(None).task(fetch);
        let mut options = WorkerOptions::new("w1@here");
        options.queues = vec!["celery".into(), "small".into()];
        (Worker::start(app.clone(), options).await.unwrap(), Client::of(&app).unwrap())
    };
    let call = || fetch::call(8, vec!["a".into(), "b".into()], Some(7));
    let told = client.send(call()).await.unwrap().get().await.unwrap();
    assert_eq!(told, Value::List(vec![2.into(), "a+b".into(), 7.into(), 2.into(), "small".into()]));
    // The number of retries is bounded as ever.
    let error = client.send(fetch::call(64, vec![], None)).await.unwrap().get().await.unwrap_err();
    assert_eq!(error.exception().unwrap().to_string(), "RuntimeError('too large')");
    for (id, says) in [
        ("foreign", "a retry is another attempt of library.fetch, and not library.other"),
        ("nowhere", "it cannot be tried again"),
        ("expires", "TaskRevokedError('expired')"),
    ] {
        let error = client.send(call().task_id(id)).await.unwrap().get().await.unwrap_err().to_string();
        assert!(error.contains(says), "{id}: {error}");
    }
    stop(worker).await;
}

#[task(crate = "longshore_worker", prefix = "library")]
async fn pay(context: TaskContext, sum: i64) -> Result<(), Failure> {
    if context.retries() == 0 {
        return Err(context.retry_in(Duration::ZERO));
    }
    Err(Failure::error("PaymentError", format!("no cover for {sum}")).in_module("shop"))
}

/// Where it was told of a failure: what it was told.
#[task(crate = "longshore_worker", prefix = "library", errback)]
async fn alarm(
    context: TaskContext,
    request: FailedRequest,
    exception: Option<Exception>,
    traceback: Option<String>,
) -> Result<(), Failure> {
    let text = format!("{:?} {:?} {:?} {} {:?}", request.task, request.args, request.retries, exception.unwrap_or_default(), traceback);
    context.send(note::call(text).task_id(format!("note-{}", request.id))).await?;
    Ok(())
}

#[task(crate = "longshore_worker", prefix = "library")]
async fn note(text: String) -> String {
    text
}

#[tokio::test]
async fn an_errback_that_says_so_sees_the_exception() {
    let (worker, client) = served(|app| app.task(pay).task(alarm).task(note)).await;
    let failed = client.send(pay::call(3).link_error(alarm::signature())).await.unwrap();
    assert!(matches!(failed.get().await, Err(ClientError::Remote(_))));
    let told: String = client.result(format!("note-{}", failed.id())).get().await.unwrap().to().unwrap();
    let expected = "Some(\"library.pay\") [Int(3)] 1 PaymentError('no cover for 3') Some(\"PaymentError('no cover for 3')\\n\")";
    assert_eq!(told, expected);
    // Celery's workers tell it the id alone.
    client.send(longshore_worker::Signature::named(alarm::NAME).arg("1f")).await.unwrap().get().await.unwrap();
    let told: String = client.result("note-1f").get().await.unwrap().to().unwrap();
    assert_eq!(told, "None [] 0 () None");
    stop(worker).await;
}

/// Replies what it was given; panics, waits or fails as it is told.
#[task(crate = "longshore_worker", prefix = "library", timeout = "100ms")]
async fn howl(context: TaskContext, how: String, #[kwargs] others: Map) -> Result<Value, Failure> {
    match how.as_str() {
        "panic" => panic!("as told"),
        "wait" => std::future::pending().await,
        "fail" => Err(Failure::error("KeyError", "k")),
        _ => Ok(format!("{how} {others:?} {}", context.task()).into()),
    }
}

#[tokio::test]
async fn an_apps_own_command_is_answered_as_celerys_are() {
    let plain = Task::plain("shop.plain", |context, _| Ok(context.lane().to_string().into()));
    let (worker, client) = served(|app| app.command(howl).command(plain)).await;
    let ask = |request: Request| {
        let client = client.clone();
        async move {
            // It listens soon after it has started.
            loop {
                let replies = remote::ask(client.connected(), request.clone().to(["w1@here"]), Duration::from_secs(2)).await.unwrap();
                if let Some((_, reply)) = replies.into_iter().next() {
                    return reply;
                }
            }
        }
    };
    let how = |how: &str| Request::new("howl").argument("how", how);
    for (request, word, says) in [
        (how("hi").argument("n", 1), "ok", "hi Map([(\"n\", Int(1))]) library.howl"),
        (Request::new("plain"), "ok", "blocking"),
        (how("panic"), "error", "Panic('as told')"),
        (how("wait"), "error", "TimeLimitExceeded(0.1)"),
        (how("fail"), "error", "KeyError('k')"),
        (Request::new("howl"), "error", "TypeError(\"howl() missing 1 required positional argument: 'how'\")"),
        (Request::new("nosuch"), "error", "KeyError('nosuch')"),
    ] {
        assert_eq!(ask(request).await.get(word), Some(&Value::from(says)));
    }
    stop(worker).await;
}

#[test]
fn an_app_says_when_its_tasks_are_acknowledged_unless_they_do() {
    let late = || Task::plain("a.late", |_, _| Ok(Value::Null)).with_policy(|policy| policy.acks = Some(Acks::Late));
    let other = || Task::plain("a.other", |_, _| Ok(Value::Null));
    for (app, of_late, of_other) in [
        (App::new(), Acks::Late, Acks::Late),
        (App::new().acks(Acks::Early), Acks::Late, Acks::Early),
        (App::new().acks(Acks::Early).acks(Acks::Late), Acks::Late, Acks::Late),
    ] {
        // In any order.
        let app = app.task(late()).task(other());
        let of = |name: &str| app.registry().acks_of(&app.task_named(name).unwrap().policy);
        assert_eq!((of("a.late"), of("a.other")), (of_late, of_other));
    }
}

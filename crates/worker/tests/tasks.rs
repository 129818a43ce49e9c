//! Tasks as programs write them, called by a client and run by a worker, over the broker in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, time::Duration};

use longshore_celery::{State, Value};
use longshore_worker::{
    App, Client, ClientError, Failure, Signature, TaskContext, Worker, WorkerOptions, WorkerSummary, chain, chord, group, task,
};

#[task(crate = "longshore_worker", name = "t.add")]
async fn add(x: i64, #[default(10)] y: i64) -> i64 {
    x + y
}

#[task(crate = "longshore_worker", name = "t.sum")]
fn sum(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task(crate = "longshore_worker", name = "t.shaky", retries = 1, retry_delay = "1ms")]
async fn shaky(context: TaskContext, needs: u32) -> Result<u32, Failure> {
    if context.retries() < needs {
        return Err(context.retry().because(Failure::error("ConnectionError", "no answer")));
    }
    Ok(context.retries())
}

/// Says what it knows of itself, and sends a child.
#[task(crate = "longshore_worker", name = "t.know")]
async fn know(context: TaskContext) -> Result<BTreeMap<String, Option<String>>, ClientError> {
    let child = context.send(add::call(1, 1)).await?;
    let own = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    Ok(BTreeMap::from([
        own("id", Some(context.id())),
        own("root", Some(context.root_id())),
        own("parent", context.parent_id()),
        own("trace", context.header("trace").and_then(Value::as_str)),
        own("child", Some(child.id())),
    ]))
}

/// Tells how far it is, and waits to be let go.
#[task(crate = "longshore_worker", name = "t.progress")]
async fn progress(context: TaskContext) -> Result<(), ClientError> {
    context.progress(&BTreeMap::from([("done", 50)])).await?;
    let go = context.client()?.result("go");
    go.ended().await
}

#[task(crate = "longshore_worker", name = "t.replace")]
fn replace(context: &TaskContext, x: i64) -> Result<i64, Failure> {
    Err(context.replace(add::call(x, 100)))
}

#[task(crate = "longshore_worker", name = "t.grow")]
async fn grow(context: TaskContext, x: i64) -> Result<i64, ClientError> {
    context.add_to_chord(add::call(x, 1000)).await?;
    Ok(x)
}

/// Sends from a thread, where nothing can be awaited.
#[task(crate = "longshore_worker", name = "t.plain")]
fn plain(context: &TaskContext) -> Result<i64, ClientError> {
    context.block_on(async { context.send(add::call(20, 1)).await?.get().await })
}

struct Bench {
    client: Client,
    worker: Worker,
}

impl Bench {
    async fn new(name: &str) -> Self {
        let app = App::new().broker(format!("memory://tasks-{name}"));
        let app = app.task(add).task(sum).task(shaky).task(know).task(progress).task(replace).task(grow).task(plain);
        Self { client: Client::of(&app).unwrap(), worker: Worker::start(app, WorkerOptions::new("w@test")).await.unwrap() }
    }

    async fn get<R: serde::de::DeserializeOwned>(&self, signature: Signature<R>) -> Result<R, ClientError> {
        self.client.send(signature).await?.get_within(Duration::from_secs(30)).await
    }

    async fn end(self) -> WorkerSummary {
        self.worker.stopper().warm();
        self.worker.join().await
    }
}

#[tokio::test]
async fn calls_groups_chains_and_chords_give_their_results() {
    let bench = Bench::new("canvas").await;
    assert_eq!(bench.get(add::call(1, 1)).await.unwrap(), 2);
    assert_eq!(bench.get(add::signature().kwarg("x", &5)).await.unwrap(), 15);
    assert_eq!(bench.get(group([add::call(1, 1), add::call(2, 2)])).await.unwrap(), [2, 4]);
    assert_eq!(bench.get(chain([add::call(1, 1), add::signature(), add::signature().arg(&1)])).await.unwrap(), 13);
    assert_eq!(bench.get(chord([add::call(1, 1), add::call(2, 2)], sum::signature())).await.unwrap(), 6);
    assert_eq!(bench.get(group([add::call(1, 1), add::call(2, 2)]).then(sum::signature()).then(add::signature())).await.unwrap(), 16);
    assert_eq!(bench.end().await.counts.failed, 0);
}

#[tokio::test]
async fn a_failure_is_what_python_would_raise() {
    let bench = Bench::new("failures").await;
    let wrong = [
        (Signature::named("t.add"), "TypeError(\"add() missing 1 required positional argument: 'x'\")"),
        (Signature::named("t.add").arg("one"), "TypeError("),
        (Signature::named("no.such"), "Task of kind 'no.such' never registered"),
    ];
    for (signature, says) in wrong {
        let error = bench.get(signature).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = bench.get(shaky::call(5)).await.unwrap_err();
    assert!(error.to_string().ends_with("ConnectionError('no answer')"), "{error}");
    assert_eq!(bench.get(shaky::call(1)).await.unwrap(), 1);
    let summary = bench.end().await;
    assert_eq!((summary.counts.failed, summary.counts.retries), (4, 2));
}

#[tokio::test]
async fn a_task_knows_itself_and_its_children_are_of_its_tree() {
    let bench = Bench::new("context").await;
    let answer = bench.client.send(know::call().header("trace", "abc")).await.unwrap();
    let known = answer.get_within(Duration::from_secs(30)).await.unwrap();
    let of = |name: &str| known.get(name).and_then(Option::as_deref);
    assert_eq!((of("id"), of("root"), of("parent"), of("trace")), (Some(answer.id()), Some(answer.id()), None, Some("abc")));
    let children = answer.children().await.unwrap();
    assert_eq!(children.iter().map(longshore_worker::Answer::id).collect::<Vec<_>>(), [of("child").unwrap()]);
    assert_eq!(children[0].get().await.unwrap(), Value::Int(2));
    bench.end().await;
}

#[tokio::test]
async fn progress_can_be_read_until_the_task_ends() {
    let bench = Bench::new("progress").await;
    let answer = bench.client.send(progress::call()).await.unwrap();
    let mut watch = bench.client.results().watch(&[answer.id().to_owned()]).await.unwrap();
    if answer.state().await.unwrap() == State::Pending {
        watch.results.recv().await.unwrap();
    }
    assert_eq!(answer.state().await.unwrap(), State::Other("PROGRESS".to_owned()));
    assert_eq!(answer.stored().await.unwrap().unwrap().result.get("done"), Some(&Value::Int(50)));
    bench.get(add::call(1, 1).task_id("go")).await.unwrap();
    answer.get_within(Duration::from_secs(30)).await.unwrap();
    assert_eq!(answer.state().await.unwrap(), State::Success);
    bench.end().await;
}

#[tokio::test]
async fn another_task_can_take_its_place_and_a_chord_can_grow() {
    let bench = Bench::new("replace").await;
    assert_eq!(bench.get(replace::call(1)).await.unwrap(), 101);
    assert_eq!(bench.get(chord([replace::call(1), add::call(1, 1)], sum::signature())).await.unwrap(), 103);
    assert_eq!(bench.get(chord([grow::call(1), add::call(1, 1)], sum::signature())).await.unwrap(), 1 + 1001 + 2);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_function_sends_and_waits_on_its_thread() {
    let bench = Bench::new("plain").await;
    assert_eq!(bench.get(plain::call()).await.unwrap(), 21);
    bench.end().await;
}

//! The tasks, under the names and with the results that they have in Python.

use std::{
    fs::OpenOptions,
    io::Write,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use longshore::{
    App, Failure, Signature, TaskContext, Value,
    celery::{Exception, FailedRequest, Map},
    chain, group,
    queue::{Call, Task},
    task,
};

/// All of them.
pub(crate) fn app() -> App {
    App::new()
        .task(add)
        .task(mul)
        .task(tsum)
        .task(identity)
        .task(Task::plain("lab.echo", echo))
        .task(defaults)
        .task(gathered)
        .task(halved)
        .task(alarmed)
        .command(lab_paint)
        .task(nothing)
        .task(Task::plain("lab.who", who))
        .task(Task::plain("lab.request", request))
        .task(Task::plain("lab.flaky_request", flaky_request))
        .task(big)
        .task(Task::plain("lab.fail", fail))
        .task(Task::plain("lab.fail_as", fail_as))
        .task(flaky)
        .task(flaky_value)
        .task(hopeless)
        .task(exhausted)
        .task(moody)
        .task(slow)
        .task(marked)
        .task(tracked)
        .task(silent)
        .task(limited)
        .task(soft)
        .task(ignored)
        .task(rejected)
        .task(dies)
        .task(dies_here)
        .task(told)
        .task(heard)
        .task(replaced)
        .task(replaced_by_group)
        .task(replaced_by_chain)
        .task(replaced_by_nothing)
        .task(spawn)
        .task(grows)
        .task(random_sleep)
}

/// An application whose only task blocks.
pub(crate) fn of_one_lane() -> App {
    App::new().task(slow)
}

/// The application of seed 004.
pub(crate) fn of_the_seed() -> App {
    App::new().task(slow_add)
}

/// Seed 004's task, by the name that it has there.
#[task(name = "tasks._add")]
fn slow_add(a: i64, b: i64) -> i64 {
    thread::sleep(Duration::from_secs(3));
    a + b
}

#[task(name = "lab.add")]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(name = "lab.mul", lane = "cpu")]
fn mul(x: i64, y: i64) -> i64 {
    x * y
}

/// The sum of numbers, however they are nested.
#[task(name = "lab.tsum")]
fn tsum(numbers: Value) -> i64 {
    total(&numbers)
}

fn total(value: &Value) -> i64 {
    value.as_list().map_or_else(|| value.as_i64().unwrap_or_default(), |list| list.iter().map(total).sum())
}

#[task(name = "lab.identity")]
async fn identity(value: Value) -> Value {
    value
}

fn echo(_: TaskContext, call: Call) -> Result<Value, Failure> {
    Ok(map([("args", Value::List(call.args)), ("kwargs", Value::Map(call.kwargs))]))
}

#[task(name = "lab.defaults")]
fn defaults(a: i64, #[default(2)] b: i64, #[default(3)] c: i64) -> Vec<i64> {
    vec![a, b, c]
}

#[task(name = "lab.gathered")]
fn gathered(first: Value, #[args] rest: Vec<Value>, #[default("m".to_owned())] unit: String, #[kwargs] others: Map) -> Vec<Value> {
    vec![first, rest.into(), unit.into(), others.into()]
}

#[task(name = "lab.halved", retries = 3)]
async fn halved(context: &TaskContext, size: i64, #[args] tags: Vec<String>, #[default(2)] least: i64) -> Result<Vec<Value>, Failure> {
    if size > least {
        let smaller = halved::call(size / 2, tags, least).countdown(Duration::from_millis(50));
        return Err(context.retry().with_call(smaller).because(Failure::error("ValueError", size)));
    }
    Ok(vec![size.into(), tags.into(), context.retries().into()])
}

/// An errback of the new kind.
#[task(name = "lab.alarmed", errback)]
fn alarmed(request: FailedRequest, exception: Exception, _traceback: Option<String>, #[default] path: String) -> Result<(), Failure> {
    Ok(mark(&path, &["alarmed", &request.id, &exception.to_string()])?)
}

/// A command of remote control.
#[task(name = "lab_paint")]
async fn lab_paint(#[default("white".to_owned())] colour: String) -> String {
    format!("painted {colour}")
}

#[task(name = "lab.nothing")]
async fn nothing() {}

/// Which implementation served this.
fn who(_: TaskContext, _: Call) -> Result<Value, Failure> {
    Ok(vec!["longshore"].into())
}

/// What a task can see of its message.
fn request(context: TaskContext, _: Call) -> Result<Value, Failure> {
    let message = context.message();
    let seconds = |limit: Option<Duration>| limit.map(|limit| Value::Float(limit.as_secs_f64()));
    let limits = [seconds(message.time_limit), seconds(message.soft_time_limit)];
    let timelimit = if limits == [None, None] { Value::Null } else { Value::List(limits.map(Value::from).into()) };
    Ok(map([
        ("id", context.id().into()),
        ("root_id", context.root_id().into()),
        ("parent_id", context.parent_id().into()),
        ("group", context.group().into()),
        ("group_index", message.group_index.into()),
        ("retries", context.retries().into()),
        ("timelimit", timelimit),
        ("ignore_result", message.ignore_result.into()),
        ("shadow", message.shadow.as_deref().into()),
        ("reply_to", message.reply_to.as_deref().into()),
        ("correlation_id", message.correlation_id.as_deref().or(Some(context.id())).into()),
        ("origin", message.origin.as_deref().into()),
        ("priority", message.priority.map(i64::from).into()),
        ("queue", message.routing_key.as_str().into()),
        ("redelivered", message.redelivered.into()),
        ("headers", Value::Map(context.headers().clone())),
        ("stamped_headers", message.stamped_headers.clone().into()),
        ("stamps", Value::Map(message.stamps.clone())),
        ("properties", Value::Map(message.properties.clone())),
    ]))
}

/// Asks for so many retries, then says what it can see of its message.
fn flaky_request(context: TaskContext, call: Call) -> Result<Value, Failure> {
    let times = call.args.first().and_then(Value::as_i64).unwrap_or_default();
    if i64::from(context.retries()) < times {
        return Err(context.retry_in(Duration::from_millis(50)));
    }
    request(context, call)
}

#[task(name = "lab.big")]
fn big(size: usize) -> String {
    "x".repeat(size)
}

fn fail(_: TaskContext, call: Call) -> Result<Value, Failure> {
    let message = call.args.first().or_else(|| call.kwargs.get("message")).cloned().unwrap_or_else(|| "kaboom".into());
    Err(Failure::with_args("ValueError", vec![message, 42.into()]))
}

fn fail_as(_: TaskContext, mut call: Call) -> Result<Value, Failure> {
    let kind = call.args.remove(0);
    Err(Failure::with_args(kind.as_str().unwrap_or("RuntimeError"), call.args))
}

/// Asks for so many retries, then succeeds.
#[task(name = "lab.flaky", retries = 5)]
async fn flaky(
    context: &TaskContext,
    times: u32,
    #[default(0.05)] delay: f64,
    #[default(Value::from("ok"))] value: Value,
) -> Result<Vec<Value>, Failure> {
    if context.retries() < times {
        return Err(context.retry_in(Duration::from_secs_f64(delay)).because(Failure::error("KeyError", "again")));
    }
    Ok(vec![value, context.retries().into()])
}

#[task(name = "lab.flaky_value", retries = 5)]
async fn flaky_value(context: &TaskContext, times: u32, delay: f64, value: Value) -> Result<Value, Failure> {
    if context.retries() < times { Err(context.retry_in(Duration::from_secs_f64(delay))) } else { Ok(value) }
}

#[task(name = "lab.hopeless", retries = 2)]
async fn hopeless(context: &TaskContext, #[default(0.05)] delay: f64) -> Result<(), Failure> {
    Err(context.retry_in(Duration::from_secs_f64(delay)).because(Failure::error("LookupError", "never")))
}

#[task(name = "lab.exhausted", retries = 1)]
async fn exhausted(context: &TaskContext, #[default(0.05)] delay: f64) -> Result<(), Failure> {
    Err(context.retry_in(Duration::from_secs_f64(delay)))
}

#[task(name = "lab.moody", retries = 3, autoretry_for = ["ConnectionError"], backoff = "fixed:1ms")]
async fn moody(context: &TaskContext, times: u32) -> Result<u32, Failure> {
    if context.retries() < times { Err(Failure::error("ConnectionError", "refused")) } else { Ok(context.retries()) }
}

#[task(name = "lab.slow")]
fn slow(seconds: f64, value: Option<Value>) -> Option<Value> {
    thread::sleep(Duration::from_secs_f64(seconds));
    value
}

/// Writes down when it starts and when it ends.
#[task(name = "lab.marked")]
fn marked(context: &TaskContext, path: String, tag: Value, #[default] seconds: f64) -> Result<Value, Failure> {
    let line = |what: &str| mark(&path, &[what, &text(&tag), "longshore", &std::process::id().to_string(), &now(), context.id()]);
    line("start")?;
    thread::sleep(Duration::from_secs_f64(seconds));
    line("end")?;
    Ok(tag)
}

#[task(name = "lab.tracked", track_started)]
async fn tracked(seconds: f64) -> String {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    "done".to_owned()
}

#[task(name = "lab.silent", ignore_result)]
async fn silent(value: Value) -> Value {
    value
}

#[task(name = "lab.limited", rate = "4/s")]
fn limited(path: String, tag: Value) -> Result<Value, Failure> {
    mark(&path, &["start", &text(&tag), "longshore", &std::process::id().to_string(), &now()])?;
    Ok(tag)
}

/// Ends well when its soft limit strikes.
#[task(name = "lab.soft")]
async fn soft(context: TaskContext, seconds: f64) -> String {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => "done",
        () = context.soft_limit().cancelled() => "soft",
    }
    .to_owned()
}

#[task(name = "lab.ignored")]
async fn ignored() -> Result<(), Failure> {
    Err(Failure::Ignore)
}

#[task(name = "lab.rejected")]
async fn rejected(#[default] requeue: bool) -> Result<(), Failure> {
    Err(Failure::Reject { reason: "no".to_owned(), requeue })
}

/// Kills the process that runs it, which is not the worker.
#[task(name = "lab.dies", lane = "process")]
fn dies() {
    std::process::abort();
}

/// Kills the worker.
#[task(name = "lab.dies_here")]
fn dies_here() {
    std::process::abort();
}

/// An errback of the old kind: it is sent as a task, with the id of the task that failed.
#[task(name = "lab.told")]
fn told(failed_id: String, path: Option<String>, #[default("told".to_owned())] tag: String) -> Result<String, Failure> {
    if let Some(path) = path {
        mark(&path, &[&tag, &failed_id])?;
    }
    Ok(failed_id)
}

/// A callback: it is sent the result.
#[task(name = "lab.heard")]
fn heard(value: Value, path: Option<String>, #[default("heard".to_owned())] tag: String) -> Result<Value, Failure> {
    if let Some(path) = path {
        mark(&path, &[&tag, &value.to_string()])?;
    }
    Ok(value)
}

#[task(name = "lab.replaced")]
async fn replaced(context: &TaskContext, x: i64, y: i64) -> Result<i64, Failure> {
    Err(context.replace(sum([x, y])))
}

#[task(name = "lab.replaced_by_group")]
async fn replaced_by_group(context: &TaskContext, x: i64) -> Result<Vec<i64>, Failure> {
    Err(context.replace(group((0..3).map(|n| sum([x, n])))))
}

#[task(name = "lab.replaced_by_chain")]
async fn replaced_by_chain(context: &TaskContext, x: i64) -> Result<i64, Failure> {
    Err(context.replace(chain([sum([x, 1]), sum([2])])))
}

#[task(name = "lab.replaced_by_nothing")]
async fn replaced_by_nothing(context: &TaskContext, _x: i64) -> Result<i64, Failure> {
    Err(context.replace(chain(std::iter::empty::<Signature<i64>>())))
}

/// Sends tasks of its own, which become its children.
#[task(name = "lab.spawn")]
async fn spawn(context: TaskContext, count: i64) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(context.send(sum([n, n])).await?.id().to_owned());
    }
    Ok(ids)
}

/// A member of a chord that adds another one to it.
#[task(name = "lab.grows")]
async fn grows(context: TaskContext, x: i64) -> Result<i64, Failure> {
    context.add_to_chord(sum([x, 1000])).await?;
    Ok(x)
}

#[task(name = "lab.random_sleep")]
async fn random_sleep(x: Value, #[default(0.01)] most: f64) -> Value {
    let draw = f64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() % 1000) / 1000.0;
    tokio::time::sleep(Duration::from_secs_f64(draw * most)).await;
    x
}

/// `lab.add` with these arguments.
fn sum<const N: usize>(args: [i64; N]) -> Signature<i64> {
    args.iter().fold(Signature::named("lab.add"), Signature::arg).returns()
}

fn map<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Map(Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

/// A text as it is, anything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn now() -> String {
    format!("{:.3}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

/// Appends a line to a file that several processes write to.
fn mark(path: &str, words: &[&str]) -> Result<(), std::io::Error> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(format!("{}\n", words.join(" ")).as_bytes())
}

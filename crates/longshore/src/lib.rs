//! One engine for concurrent work in one process: a function, many parameters, a bounded crowd of
//! workers, and callbacks that hold nobody up.
//!
//! ```text
//!  producers ──▶ work queue ──▶ gate ──▶ lane ──▶ result queue ──▶ result handler
//!  iterators,    bounded        how many  async     bounded          on_task_complete, once for each task
//!  streams,                     how fast  blocking                   on_job_complete, once at the end
//!  senders                      which key cpu
//!                                         process
//! ```
//!
//! ```
//! use longshore::Job;
//!
//! let report = Job::new(|n: u32| async move { if n == 13 { Err("unlucky") } else { Ok(n * n) } })
//!     .params(0..100)
//!     .workers(50)
//!     .on_task_complete(|task| {
//!         if let Some(square) = task.result() {
//!             assert!(*square <= 9801);
//!         }
//!     })
//!     .on_job_complete(|report| println!("{} ok, {} failed", report.ok(), report.failed()))
//!     .run();
//! assert_eq!((report.ok(), report.failed()), (99, 1));
//! ```
//!
//! A [`Job`] runs with [`run`](Job::run) (blocks, from anywhere), [`collect`](Job::collect) (every
//! outcome, in the order of the parameters), [`start`](Job::start) (on your own tokio runtime) or
//! [`as_completed`](Job::as_completed) (results one after the other, as they come). Functions
//! return a `Result` whose error is text, an [`std::io::Error`] or a [`TaskError`], or else an
//! [`Outcome`].
//!
//! The [guide] begins with three templates, and says what to run where, and why.
//!
//! # What you know, and what you write here
//!
//! | what you know | what you write here |
//! |---|---|
//! | `ThreadPoolExecutor(8).map(f, xs)` | `Job::blocking(f).params(xs).workers(8).collect().results()` |
//! | `executor.submit(f, x)` for each `x`, then `as_completed` | `let (mut done, job) = Job::blocking(f).params(xs).as_completed();` `while let Some(task) = done.next().await { … }` |
//! | `asyncio.Queue(100)` with 50 worker tasks | `let (queue, job) = Job::new(f).sender(100);` `job.workers(50).run()`, and elsewhere `queue.send(x).await` |
//! | `await queue.join()` | `queue.drained().await` |
//! | `asyncio.Semaphore(50)` around each call, `gather` over all | `Job::new(f).params(xs).workers(50).collect().results()` |
//! | `gather(*calls)` | the same with as many workers as calls; `return_exceptions=True` is `.collect().outcomes` |
//! | `multiprocessing.Pool().map(f, xs)` | `Job::cpu(f).params(xs).collect().results()`: threads on all cores, no GIL, no pickling |
//! | Celery: a `group` with a callback for each task and one at the end (`chord`) | `.on_task_complete(each).on_job_complete(end)` |
//! | Celery: `rate_limit="100/s"`, `max_retries=3` | `.rate(Rate::per_second(100.0))`, `.retry(RetryPolicy::times(3))` |
//! | tokio: `JoinSet` and `Semaphore::new(50)` | `Job::new(f).params(xs).workers(50).start().join().await` |
//! | threads with a `Queue(maxsize=3)` between them, `None` at the end | `Pipeline::from_iter(xs).stage(Stage::blocking(f).queue(3)).stage(Stage::blocking(g).queue(3)).collect()` |
//! | `stream.map(f).buffer_unordered(50)` | `Job::new(f).stream(xs).workers(50).as_completed()` |
//! | rayon: `xs.into_par_iter().map(f).collect()` | `Job::cpu(f).params(xs).collect().results()` |
//! | `xargs -d '\n' -P 8 -n 1 CMD` | `longshore run -j 8 -- CMD {}` |
//! | `parallel -j 8 CMD {} ::: a b c` | `longshore run -j 8 -- CMD {} ::: a b c` |
//!
//! The rows of the library, running:
//!
//! ```
//! use longshore::{Job, Rate, RetryPolicy};
//!
//! let f = |x: u64| Ok::<_, String>(x * x);
//! let g = |x: u64| async move { Ok::<_, String>(x * x) };
//! let squares: Vec<u64> = (0..10).map(|x| x * x).collect();
//!
//! assert_eq!(Job::blocking(f).params(0..10).workers(8).collect().results().unwrap(), squares);
//! assert_eq!(Job::new(g).params(0..10).workers(50).collect().results().unwrap(), squares);
//! assert_eq!(Job::cpu(f).params(0..10).collect().results().unwrap(), squares);
//! let report = Job::new(g).params(0..10).rate(Rate::per_second(1000.0)).retry(RetryPolicy::times(3)).run();
//! assert!(report.is_clean());
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! assert_eq!(Job::new(g).params(0..10).workers(50).start().join().await.ok(), 10);
//!
//! let xs = futures_util::stream::iter(0..10);
//! let (mut done, job) = Job::new(g).stream(xs).workers(50).as_completed();
//! let mut sum = 0;
//! while let Some(task) = done.next().await {
//!     sum += task.result().unwrap();
//! }
//! assert_eq!((sum, job.join().await.ok()), (285, 10));
//!
//! let (queue, job) = Job::new(g).sender(100);
//! let job = job.workers(50).start();
//! for x in 0..10 {
//!     queue.send(x).await.unwrap();
//! }
//! queue.drained().await.unwrap(); // everything sent so far is done
//! drop(queue); // no further producer: the job may end
//! assert_eq!(job.join().await.ok(), 10);
//! # });
//! ```
//!
//! # Defaults
//!
//! | | default |
//! |---|---|
//! | workers of the async lane (and of HTTP requests of the command line) | 50 |
//! | workers of the blocking lane | 4 × cores |
//! | workers of the cpu and process lanes | as many as cores |
//! | work queue, result queue | 2 × workers each |
//! | result handlers | 1: callbacks come in turn and never overlap |
//! | retries, rate, timeout | none |
//!
//! ```
//! # use longshore::{Job, LaneKind};
//! let cores = std::thread::available_parallelism().unwrap().get();
//! assert_eq!(LaneKind::ALL.map(LaneKind::default_workers), [50, 4 * cores, cores, cores]);
//!
//! let job: Job<u32, u32> = Job::new(|n| async move { Ok::<_, String>(n) });
//! let told = job.describe();
//! for line in [("workers", "async 50"), ("work queue", "100"), ("result queue", "100")] {
//!     assert!(told.contains(&(line.0, line.1.to_owned())));
//! }
//! ```
//!
//! # Lanes
//!
//! A lane is where a function runs. [`Job::new`] takes the async lane, [`Job::blocking`],
//! [`Job::cpu`] and [`Job::commands`] theirs; one job can have several ([`on_cpu`](Job::on_cpu) and
//! its like) and choose for each task ([`lane_of`](Job::lane_of)).
//!
//! | lane | for | a panic | a timeout |
//! |---|---|---|---|
//! | async | what waits: the network, timers | is the task's outcome, `panicked` | drops the future at its next turn; a function that takes a [`Context`] sees its token cancelled. What holds the thread is not interrupted, but the watchdog names it ([`Event::Stalled`], `report.stalled`) |
//! | blocking | calls that block: files, old drivers | is the task's outcome | is the outcome on time; the token is cancelled, and the thread, which cannot be ended, is left to itself and replaced |
//! | cpu | computing, on as many threads as cores, at a lower priority so that async work stays on time | is the task's outcome | is the outcome when the function returns: it cannot be ended |
//! | process | foreign programs; what may crash or leak | (of a child: whatever its exit says) | TERM to the child's process group, ten seconds later KILL; a child ended by a signal is `killed` |
//! | process, [`Job::isolated`] | functions of this program that may crash, or must be limited: a stack overflow, an abort, memory or a loop without end | is the task's outcome | kills the child process at once |
//!
//! With `panic = "abort"` a panic ends the process, here as everywhere; of an isolated function,
//! its child process.
//!
//! # When a job ends
//!
//! When every producer has finished (an iterator is at its end, a producer function has returned,
//! every [`Sender`] is dropped) and both queues are empty: every task has its outcome and every
//! callback has returned. Silence ends nothing. A producer that fails or panics stands in
//! `report.failed_producers`, and the job goes on with the others. [`RunningJob::handle`] gives the
//! means to end it earlier.
//!
//! # Backpressure
//!
//! Tasks that run, and results whose callback has not returned, are together never more than
//! `workers + result_queue`. So a slow callback slows no worker until the result queue is full;
//! from then on a worker whose result finds no place counts as busy, and when no worker is free
//! nothing starts. In front of the workers wait as many tasks as the work queue has places;
//! producer functions, and several producers together, fill a queue of their own that has as many
//! places again. When all are taken, producers wait ([`Sender::send`]), are refused
//! ([`Sender::try_send`]), or displace the oldest task ([`Sender::send_displacing`]). Memory grows
//! with these numbers, never with the amount of work; [`Job::collect`] alone keeps every result.
//!
//! ```
//! # use std::sync::{Arc, atomic::{AtomicI64, Ordering}};
//! # use longshore::Job;
//! let (begun, handled) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
//! let (started, done) = (begun.clone(), handled.clone());
//! let report = Job::blocking(move |_: u32| {
//!     let ahead = started.fetch_add(1, Ordering::SeqCst) + 1 - done.load(Ordering::SeqCst);
//!     if ahead > 3 + 2 + 1 { Err("too far ahead") } else { Ok(()) } // one more: a callback counts until it has returned
//! })
//! .params(0..200)
//! .workers(3)
//! .result_queue(2)
//! .on_task_complete(move |_| {
//!     std::thread::sleep(std::time::Duration::from_micros(300));
//!     handled.fetch_add(1, Ordering::SeqCst);
//! })
//! .run();
//! assert_eq!(report.ok(), 200);
//! ```
//!
//! # Pipelines
//!
//! A [`Pipeline`] joins [`Stage`]s by bounded queues: what comes out of one goes into the next.
//! Each has its own lane, workers, queue, rate, retries and timeout. It ends when its source has
//! ended and everything has gone through; no item has to say that it is the last.
//!
//! ```
//! use longshore::{OnError, Pipeline, Rate, RetryPolicy, Stage};
//!
//! let fetch = |n: u32| async move { Ok::<_, String>(format!("page {n}")) };
//! let parse = |page: String| page[5..].parse::<u32>().map_err(|error| error.to_string());
//! let line = Pipeline::from_iter(1..=20)
//!     .stage(Stage::new(fetch).name("fetch").workers(8).rate(Rate::per_second(1000.0)).retry(RetryPolicy::times(3)))
//!     .stage(Stage::cpu(parse).name("parse").workers(2).on_error(OnError::Skip))
//!     .batch(8, std::time::Duration::from_millis(100))
//!     .stage(Stage::blocking(|rows: Vec<u32>| Ok::<_, String>(rows.len())).name("store").queue(2));
//! let collected = line.collect();
//! assert_eq!(collected.outputs.iter().sum::<usize>(), 20);
//! assert!(collected.report.is_clean());
//! println!("{}", collected.report); // a line for each stage; the last one names the bottleneck
//! ```
//!
//! # The task queue
//!
//! Functions become tasks, which any process calls by name and gets the results of: through an
//! SQLite file with no server, or through Redis beside Celery's own workers and clients, whose wire
//! this is. [`task`](macro@task) makes a task of a function, [`App`] holds them with the settings,
//! a [`Worker`] serves them, a [`Client`] sends them.
//!
//! ```
//! use longshore::{App, Client, Worker, WorkerOptions, chord, task};
//!
//! #[task(name = "tasks.add")]
//! async fn add(x: i64, #[default(1)] y: i64) -> i64 {
//!     x + y
//! }
//!
//! #[task(name = "tasks.sum")]
//! fn sum(numbers: Vec<i64>) -> i64 {
//!     numbers.iter().sum()
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let app = App::new().broker("memory://readme").task(add).task(sum);
//! let worker = Worker::start(app.clone(), WorkerOptions::new("w1@here")).await?;
//!
//! let client = Client::of(&app)?;
//! assert_eq!(client.send(add::call(1, 1)).await?.get().await?, 2);
//! let total = chord([add::call(1, 1), add::call(2, 2)], sum::signature());
//! assert_eq!(client.send(total).await?.get().await?, 6);
//!
//! worker.stopper().warm();
//! assert_eq!(worker.join().await.counts.ok, 4);
//! # Ok::<(), longshore::ClientError>(())
//! # }).unwrap();
//! ```
//!
//! | Celery | here |
//! |---|---|
//! | `app = Celery("tasks", broker=url, backend=url)` | `App::new().broker(url).results(url)` |
//! | `@app.task(bind=True, max_retries=5, rate_limit="10/m")` | `#[task(retries = 5, rate = "10/m")]`, with a first parameter of type [`TaskContext`] |
//! | `raise self.retry(exc=e, countdown=5)` | `return Err(context.retry_in(Duration::from_secs(5)).because(e))` |
//! | `raise self.retry(args=(url, n // 2), expires=60)` | `return Err(context.retry().with_call(fetch::call(url, n / 2).expires_in(minute)))` |
//! | `raise Reject(why)`, `raise Reject(why, requeue=True)` | `return Err(Failure::reject(why))`, `Failure::requeue(why)` |
//! | `def f(x, *args, unit="m", **kwargs)` | `fn f(x: i64, #[args] args: Vec<i64>, unit: Option<String>, #[kwargs] kwargs: HashMap<String, Value>)` |
//! | `def on_failure(request, exc, traceback)` for `link_error` | `#[task(errback)]`, with a [`FailedRequest`](celery::FailedRequest) and an [`Exception`](celery::Exception) |
//! | `@control_command` | [`App::command`]`(function)`, asked with [`queue::remote::ask`] or `longshore control NAME key=value` |
//! | `task_routes = {"mail.*": "mail"}`, `task_acks_late = False` | `App::new().route("mail.*", "mail").acks(Acks::Early)` |
//! | `self.update_state(state="PROGRESS", meta=m)` | `context.progress(&m).await?` |
//! | `add.delay(1, 1).get()` | `client.send(add::call(1, 1)).await?.get().await?` |
//! | `app.send_task("tasks.add", [1, 1])` | `client.send(Signature::named("tasks.add").arg(&1).arg(&1))` |
//! | `add.apply_async((1, 1), countdown=60, queue="q", link=s)` | `add::call(1, 1).countdown(Duration::from_secs(60)).queue("q").link(s)` |
//! | `add.s(1, 1) \| double.s()` | `add::call(1, 1).then(double::signature())` |
//! | `group(…)().get()`, `chord(header)(body)` | `client.send(group(…)).await?.get().await?`, `chord(header, body)` |
//! | `AsyncResult(id).state` | `client.result(id).state().await?` |
//!
//! Why a task waits, how long queues are, what is dead and which limits hold is asked, and changed,
//! with [`ops`].
//!
//! Unlike Celery, a task is acknowledged after its result is stored: what runs when its worker dies
//! runs again (`acks = "early"` for Celery's way).
//!
//! # Cancel safety
//!
//! [`Sender::send`] that is cancelled has sent nothing (its task is dropped). [`Sender::drained`],
//! [`AsCompleted::next`] and [`CancelToken::cancelled`] may be cancelled and called again; nothing
//! is lost. Dropping the future of [`RunningJob::join`] leaves the job running; to end it use
//! [`Handle::stop`]. An async function that the job itself ends (timeout, stop) is dropped at one
//! of its `.await`s, as anywhere in tokio.
//!
//! # Examples
//!
//! In the folder `examples`: `job` (the first one), `producer_consumer` (HTTP calls, two producers,
//! slow callbacks, the price of a queue), `leaky_bucket` (a steady pace, and what happens on
//! overflow), `mixed_lanes` (waiting and computing side by side), `isolated` (functions that crash,
//! in child processes), `pipeline` (an assembly line, its ideal time and its bottleneck),
//! `task_queue` (a worker and a client on one SQLite file), `from_celery` (retries with other
//! arguments, `*args`, an errback, a control command and routes, as a user of Celery would write
//! them), and `seed004_worker` with
//! `seed004_client` (the same against Celery's own client and worker). With the feature `kafka`,
//! `mtc75` (a producer and a consumer whose knobs are turned while it runs).

pub mod guide;
#[cfg(feature = "queue")]
pub mod queue;

/// Which lane and how many workers: guessed from words, or measured on a sample.
pub use longshore_advise as advice;
pub use longshore_advise::{Advice, advise};
pub use longshore_core::{
    engine::{Quantiles, RunningTask, SlotUse, Summary},
    watch::{Handle, View},
    *,
};

/// Brokers, where tasks wait, and the stores of their results.
#[cfg(feature = "queue")]
pub mod brokers {
    pub use longshore_brokers::*;
    #[cfg(feature = "kafka")]
    pub use longshore_kafka as kafka;
}
/// Celery's wire format.
#[cfg(feature = "queue")]
pub use longshore_celery as celery;
#[cfg(feature = "queue")]
pub use longshore_celery::Value;
/// The command line with an app's tasks: `fn main() -> std::process::ExitCode {
/// longshore::main(&App::new().task(add)) }` makes a program that is `longshore` itself, `worker`
/// included, and serves these tasks beside those of the configuration. To be called first thing in
/// `main`.
#[cfg(feature = "cli")]
pub use longshore_cli::main;
/// Records of Kafka's topics as tasks: [`Consumer`](kafka::Consumer) is a member of a group whose
/// records are handled by a bounded crowd, in order by key, and committed when they are done.
#[cfg(feature = "kafka")]
pub use longshore_kafka as kafka;
/// Questions and actions about brokers and workers: why a task waits, queues, tasks, limits, dead
/// letters, workers.
#[cfg(feature = "queue")]
pub use longshore_ops as ops;
/// Spans of tasks (sent, waited, run) to a collector of OpenTelemetry.
#[cfg(feature = "otel")]
pub use longshore_otel as otel;
/// The batch runner: commands, requests and records, journaled and resumable.
#[cfg(feature = "run")]
pub use longshore_run as run;
#[cfg(feature = "queue")]
#[doc(hidden)]
pub use longshore_worker::private;
#[cfg(feature = "queue")]
pub use longshore_worker::{
    Answer, App, Client, ClientError, Failure, MissedPolicy, Route, Schedule, Scheduler, SchedulerOptions, Settings, Signature,
    TaskContext, Timing, Worker, WorkerOptions, chain, chord, group, init_app, task,
};

/// The example of the read-me, so that it runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

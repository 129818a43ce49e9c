//! `#[longshore::task]`: a function becomes a task.
//!
//! Layout:
//! - `attributes.rs`: what stands behind `task`: its words and their values
//! - `function.rs`: the function itself: what is refused, its parameters, what it returns
//! - `expand.rs`: what is generated
//! - `units.rs`: durations, rates and backoffs as people write them

mod attributes;
mod expand;
mod function;
mod units;

use proc_macro::TokenStream;

/// Makes a task of a function, `async` or plain.
///
/// ```ignore
/// #[longshore::task(name = "tasks.add", retries = 5, retry_delay = "10s")]
/// async fn add(x: i64, #[default(1)] y: i64) -> i64 {
///     x + y
/// }
///
/// let app = longshore::App::new().task(add);
/// let sum: i64 = app.send(add::call(1, 1)).await?.get().await?;
/// longshore::main(&app) // a worker and a client, the whole command line
/// ```
///
/// In place of the function stand a type and a function of its name, so that `let add = …` can
/// still be written:
///
/// | | |
/// |---|---|
/// | `add` | gives the task: `App::new().task(add)` registers it |
/// | `add::call(x, y)` | a `Signature<R>` with all arguments: what comes back is `R`, the function's own type (of a `Result`, the `Ok` type) |
/// | `add::signature()` | one without arguments, for the parts of a canvas that get theirs from what went before |
/// | `add::run(x, y)` | the function itself, called at once |
/// | `add::NAME` | the task's name |
///
/// **Name.** `module.function`, the last word of the module's path and the function's name, as
/// Celery names the tasks of a module: `shop::tasks::add` is `tasks.add`; at the root of a crate it
/// is the crate's name. `name = "…"` gives another; `prefix = "shop.orders"`, or `prefix = PREFIX`
/// with a constant of the module, says what stands before the function's name.
///
/// **Parameters** are what callers give, by place or by name. Each type is one that serde can read
/// (`Deserialize`: the task takes it out of a message) and write (`Serialize`: `call` puts it into
/// one), and owned.
/// `#[default(5)]` and `#[default]` (the type's own) make one optional; an `Option<T>` always is,
/// and a `None` at the end of a call is not sent. `#[args] rest: Vec<T>` takes all further
/// positional arguments, `#[kwargs] others: HashMap<String, T>` all further keyword ones, as
/// Python's `*rest` and `**others` do; what stands behind `#[args]` comes by name only. A
/// first parameter of type `TaskContext` or `&TaskContext` is no argument: it gives the id,
/// retries, progress, cancellation. A call that does not fit fails with Python's `TypeError`.
///
/// **What it returns** is anything that serde can write, or a `Result` of it; of a `Result` under
/// another name (`type Reply<T> = Result<T, Failure>`) say `fallible`. Errors may be of any
/// type that is a `std::error::Error` or prints: they become what Celery calls exceptions (see
/// `Failure`).
///
/// | attribute | |
/// |---|---|
/// | `name = "tasks.add"` | the name under which it is called |
/// | `prefix = "shop"` | what stands before the function's name; a text or a constant |
/// | `lane = "cpu"` | where it runs: `async` (an async fn's only one), `blocking` (a plain fn's, unless told otherwise), `cpu`, `process` (a child process of this program, which a crash ends alone; its `main` begins with `longshore::init_app`); a plain fn on `async` must never wait |
/// | `queue = "mail"` | the queue of calls that name none; else the app's routes say |
/// | `priority = 3` | the priority of calls that name none, 0 to 9, on RabbitMQ to 255 |
/// | `retries = 3` | how often a retry that it asks for is granted; `"forever"` |
/// | `retry_delay = "180s"` | the time until a retry that does not name one |
/// | `backoff = "exp:1s..10m"` | retry after any error, waiting longer each time, with full jitter; also `fixed:5s`, `list:1s,5s,60s` |
/// | `autoretry_for = ["ConnectionError"]` | retry after errors of these types only; `backoff` is then `exp:1s..10m` unless told otherwise |
/// | `timeout = "60s"` | the hard limit of one attempt |
/// | `soft_timeout = "50s"` | the soft one: the function is told (`TaskContext::soft_limit`), a future that does not listen is dropped |
/// | `rate = "10/min"` | most starts in a time, over one worker; also `100/s`, `10/h`, Celery's `10/m` |
/// | `rate_shared` | that rate is kept by all workers on the broker together |
/// | `acks = "early"` | acknowledged before it starts, as Celery does: lost if its worker dies. The default is `late`, after its result is stored, or as `App::acks` says |
/// | `acks_on_failure = false` | when it fails, its message goes to the dead letters |
/// | `ignore_result` | nobody wants its result: none is stored |
/// | `track_started` | STARTED is stored when an attempt begins |
/// | `errback` | it is an errback that takes `(request, exception, traceback)`: a `FailedRequest`, an `Option<Exception>` and an `Option<String>`; Celery's own workers send the id alone |
/// | `fallible` | what it returns is a `Result` under another name |
/// | `crate = "path"` | where the library is, if not at `::longshore` |
#[proc_macro_attribute]
pub fn task(attributes: TokenStream, function: TokenStream) -> TokenStream {
    expand::task(attributes.into(), function.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}

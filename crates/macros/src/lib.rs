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
/// In place of the function stands a type and a constant of its name:
///
/// | | |
/// |---|---|
/// | `add` | the task: `App::new().task(add)` registers it |
/// | `add::call(x, y)` | a `Signature<R>` with all arguments: what comes back is `R`, the function's own type (of a `Result`, the `Ok` type) |
/// | `add::signature()` | one without arguments, for the parts of a canvas that get theirs from what went before |
/// | `add::run(x, y)` | the function itself, called at once |
/// | `add::NAME` | the task's name |
///
/// **Name.** `module.function`, the last word of the module's path and the function's name, as
/// Celery names the tasks of a module: `shop::tasks::add` is `tasks.add`; at the root of a crate it
/// is the crate's name. `name = "…"` gives another.
///
/// **Parameters** are what callers give, by place or by name, each of a type that serde can read.
/// `#[default(5)]` and `#[default]` (the type's own) make one optional; an `Option<T>` always is. A
/// first parameter of type `TaskContext` or `&TaskContext` is no argument: it gives the id,
/// retries, progress, cancellation. A call that does not fit fails with Python's `TypeError`.
///
/// **What it returns** is anything that serde can write, or a `Result` of it. Errors may be of any
/// type that is a `std::error::Error` or prints: they become what Celery calls exceptions (see
/// `Failure`).
///
/// | attribute | |
/// |---|---|
/// | `name = "tasks.add"` | the name under which it is called |
/// | `lane = "cpu"` | where it runs: `async` (an async fn's only one), `blocking` (a plain fn's, unless told otherwise), `cpu`, `process` (a child process of this program, which a crash ends alone; its `main` begins with `longshore::init_app`); a plain fn on `async` must never wait |
/// | `queue = "mail"` | the queue of calls that name none; else the app's routes say |
/// | `priority = 3` | the priority of calls that name none, 0 to 9 |
/// | `retries = 3` | how often a retry that it asks for is granted; `"forever"` |
/// | `retry_delay = "180s"` | the time until a retry that does not name one |
/// | `backoff = "exp:1s..10m"` | retry after any error, waiting longer each time, with full jitter; also `fixed:5s`, `list:1s,5s,60s` |
/// | `autoretry_for = ["ConnectionError"]` | retry after errors of these types only; `backoff` is then `exp:1s..10m` unless told otherwise |
/// | `timeout = "60s"` | the hard limit of one attempt |
/// | `soft_timeout = "50s"` | the soft one: the function is told (`TaskContext::soft_limit`), a future that does not listen is dropped |
/// | `rate = "10/min"` | most starts in a time, over one worker; also `100/s`, `10/h`, Celery's `10/m` |
/// | `rate_shared` | that rate is kept by all workers on the broker together |
/// | `acks = "early"` | acknowledged before it starts, as Celery does: lost if its worker dies. The default is `late`: after its result is stored |
/// | `acks_on_failure = false` | when it fails, its message goes to the dead letters |
/// | `ignore_result` | nobody wants its result: none is stored |
/// | `track_started` | STARTED is stored when an attempt begins |
/// | `crate = "path"` | where the library is, if not at `::longshore` |
#[proc_macro_attribute]
pub fn task(attributes: TokenStream, function: TokenStream) -> TokenStream {
    expand::task(attributes.into(), function.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}

//! Tasks in Rust, served from a broker in Celery's wire format.
//!
//! Layout:
//! - `task.rs`: a registered task: its name, its policy, its handler
//! - `args.rs`: positional and keyword arguments against parameters; `values.rs`: Rust's values and the wire's
//! - `failure.rs`: how a task ends without a result
//! - `context.rs`: what a handler may know and do
//! - `app.rs`: the registry of tasks and the settings that clients and workers share; `built_in.rs`: the tasks that are always there

mod app;
mod args;
mod built_in;
mod context;
mod failure;
mod task;
mod values;

pub use app::{App, Settings};
pub use args::{Arguments, Parameter};
pub use context::{Parts, TaskContext};
pub use failure::Failure;
pub use task::{Acks, Call, Handler, Task, TaskPolicy};

/// What generated code needs; nothing that a program should name.
#[doc(hidden)]
pub mod private {
    pub use crate::{failure::convert, values::reply};
    pub use longshore_core::{Backoff, LaneKind, Rate};
}

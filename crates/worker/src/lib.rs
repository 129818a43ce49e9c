//! Tasks in Rust, served from a broker in Celery's wire format.
//!
//! Layout:
//! - `task.rs`: a registered task: its name, its policy, its handler
//! - `failure.rs`: how a task ends without a result
//! - `context.rs`: what a handler may know and do
//! - `app.rs`: the registry of tasks and the settings that clients and workers share

mod app;
mod context;
mod failure;
mod task;

pub use app::{App, Settings};
pub use context::TaskContext;
pub use failure::Failure;
pub use task::{Acks, Call, Handler, Task, TaskPolicy};

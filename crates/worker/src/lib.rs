//! Tasks in Rust, served from a broker in Celery's wire format.
//!
//! Layout:
//! - `task.rs`: a registered task: its name, its policy, its handler
//! - `name.rs`: the name of a function's task
//! - `args.rs`: positional and keyword arguments against parameters; `values.rs`: Rust's values and
//!   the wire's
//! - `failure.rs`: how a task ends without a result
//! - `route.rs`: where the calls of a task go that name no queue
//! - `signature.rs`: a task with its arguments and options, yet to be sent
//! - `client.rs`: sends tasks; `answer.rs`: waits for what comes back; `remote.rs`: asks running
//!   workers
//! - `context.rs`: what a handler may know and do
//! - `isolated.rs`: tasks in child processes
//! - `environment.rs`: time, chance and threads as inputs
//! - `app.rs`: the registry of tasks and the settings that clients and workers share;
//!   `built_in.rs`: the tasks that are always there

mod answer;
mod app;
mod args;
mod built_in;
mod client;
mod context;
mod environment;
mod failure;
mod isolated;
mod name;
pub mod remote;
mod route;
mod signature;
mod task;
mod values;
mod worker;

pub use answer::{Answer, AsCompletedAnswers};
pub use app::{App, Settings};
pub use args::{Arguments, Parameter};
pub use client::{Client, ClientError, Refused, RemoteError, SendAll, Sent};
pub use context::{Parts, TaskContext};
pub use environment::Environment;
pub use failure::Failure;
pub use isolated::{IsolatedAnswer, IsolatedCall, IsolatedFailure, init_app, init_app_with, isolated_entry};
pub use longshore_macros::task;
pub use route::Route;
pub use signature::{Signature, chain, chord, group};
pub use task::{Acks, Call, Handler, RateScope, Task, TaskPolicy};

/// Names that generated code needs; nothing that a program should name.
#[doc(hidden)]
pub mod private {
    pub use crate::{
        args::{Arguments, Parameter},
        context::TaskContext,
        failure::convert,
        name::{name_bytes, name_length},
        signature::Signature,
        task::{Acks, Call, Handler, RateScope, Task, TaskPolicy},
        values::reply,
    };
    pub use longshore_core::{Backoff, LaneKind, Rate};
}
pub use worker::{Autoscale, Notice, Stopper, What, Worker, WorkerEvent, WorkerOptions, WorkerSummary};

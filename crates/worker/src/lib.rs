//! Tasks in Rust, served from a broker in Celery's wire format.
//!
//! Layout, from the bottom up; each names only what stands above it:
//! - `failure.rs`, `error.rs`: how a task ends without a result, and what its client is told
//! - `values.rs`: Rust's values and the wire's; `args.rs`: arguments against parameters;
//!   `name.rs`: the name of a function's task; `returned.rs`: what it returns
//! - `route.rs`, `settings.rs`, `environment.rs`: where calls go; what clients and workers agree
//!   on; time, chance and threads as inputs
//! - `signature.rs`: a task with its arguments and options, yet to be sent; `schedule.rs`: one that
//!   is sent at its times
//! - `spans.rs`: what is told of a task's way, for traces
//! - `connections.rs`: what a client shares with its answers; `answer.rs`: waits for results;
//!   `client.rs`, `outgoing.rs`: send tasks; `remote.rs`: asks running workers
//! - `task.rs`: a registered task; `task/context.rs`: what its handler may know and do
//! - `built_in.rs`: the tasks that are always there; `app.rs`: tasks and settings together
//! - `isolated.rs`: tasks in child processes; `beat.rs`: sends what is due
//! - `worker.rs`: the worker

mod answer;
mod app;
mod args;
mod beat;
mod built_in;
mod client;
mod connections;
mod environment;
mod error;
mod failure;
mod isolated;
mod name;
mod outgoing;
pub mod remote;
mod returned;
mod route;
mod schedule;
mod settings;
mod signature;
mod spans;
mod task;
mod values;
mod worker;

pub use answer::{Answer, AsCompletedAnswers};
pub use app::App;
pub use args::{Arguments, Call, Parameter, ParameterKind};
pub use beat::{Scheduler, SchedulerEvent, SchedulerNotice, SchedulerOptions};
pub use client::{Client, PreparedTask, Refused, SendAll, Sent};
pub use environment::Environment;
pub use error::{ClientError, RemoteError};
pub use failure::Failure;
pub use isolated::{IsolatedAnswer, IsolatedCall, IsolatedFailure, init_app, init_app_with, isolated_entry};
pub use longshore_brokers::{DeadLetterPlace, QueueSpec};
pub use longshore_celery::TraceContext;
pub use longshore_macros::task;
pub use longshore_schedule::{MissedPolicy, NextDue, ScheduleSpec, Timing};
pub use route::Route;
pub use schedule::{MOST_MISSED, Schedule, ScheduleOrigin};
pub use settings::Settings;
pub use signature::{Signature, chain, chord, group};
pub use spans::{SpanCounts, SpanEnd, SpanError, SpanKind, Spans, TaskSpan};
pub use task::{
    Acks, Handler, RateScope, Task, TaskPolicy,
    context::{ContextParts, TaskContext},
    registry::TaskRegistry,
};

/// Names that generated code needs; nothing that a program should name.
#[doc(hidden)]
pub mod private {
    pub use crate::{
        args::{Arguments, Call, Parameter},
        failure::convert,
        name::{name_bytes, name_length, prefixed},
        returned::{Fallible, NoResult, Returned},
        signature::{Signature, optional_kwarg, without_nones},
        task::{Acks, Handler, RateScope, Task, TaskPolicy, context::TaskContext},
        values::reply,
    };
    pub use longshore_core::{Backoff, LaneKind, Rate};
}
pub use worker::{Autoscale, Stopper, TaskChange, TaskNotice, Worker, WorkerEvent, WorkerOptions, WorkerSummary};

//! The engine of longshore: source → gate → lane → sink → settle.
//!
//! Layout:
//! - `engine.rs`: the hot loop, `Engine::run`; around it `engine/{pump,report,handle,stats}.rs`
//! - `gate.rs`: what may start now: `gate/{concurrency,pace}.rs`, order by key and limits by value
//! - `lane.rs`: where handlers run: `lane/{async_,blocking,cpu,process,isolated}.rs`
//! - `source.rs`: where tasks come from in this process: `source/{iter,queue}.rs`
//! - `sink.rs`: where finished tasks go in this process: `sink/{callbacks,collect}.rs`
//! - `job.rs`: the API that people meet first
//! - `executor.rs`: a pool of lanes for calls that are submitted one by one:
//!   `executor/{call,handle,map,gather}.rs`
//! - `pipeline.rs`: stages joined by bounded queues; its head lists `pipeline/`
//! - `watch.rs`: the face of all that runs: `watch/{view,hub,handle}.rs`
//! - `trace.rs`: spans and events for `tracing`, behind a feature
//! - `task.rs outcome.rs decide.rs retry.rs event.rs error.rs cancel.rs clock.rs`: the words

pub(crate) mod block_on;
mod cancel;
mod clock;
pub mod decide;
pub mod engine;
mod error;
mod event;
pub mod executor;
pub mod gate;
mod init;
mod job;
pub mod lane;
pub(crate) mod mailbox;
mod outcome;
pub mod pipeline;
mod retry;
pub mod sink;
pub mod source;
mod stamp;
pub(crate) mod sync;
mod task;
pub mod trace;
pub mod watch;
mod wire;

pub use cancel::{CancelToken, Stop};
pub use clock::{Clock, stand_still};
pub use decide::{Verdict, decide};
pub use error::{Again, ErrorKind, SinkError, SourceError, TaskError};
pub use event::{Event, Phase};
pub use executor::{Executor, InputError, TaskHandle, as_completed, gather, gather_all, pairs};
pub use gate::{Limit, Reason, pace::Rate};
pub use init::{children, init, init_with};
pub use job::{Collected, Job, Report, RunningJob};
pub use lane::{Context, IntoOutcome, children::ChildLimits, isolated::Functions};
pub use outcome::{Outcome, Skip, Word};
pub use pipeline::{OnError, Pipeline, Stage};
pub use retry::{Backoff, ErrorClass, RetryOn, RetryPolicy};
pub use sink::collect::{AsCompleted, Late};
pub use source::queue::{QueueCounts, SendError, Sender, Unsettled};
pub use stamp::{Span, Stamp};
pub use task::{Attempt, Delivery, EngineTask, Finished, LaneKind, Options, Receipt};

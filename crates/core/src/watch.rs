//! One typed face of everything that runs: view it, hear it, steer it.
//!
//! A job, a run, a worker, Kafka's consumer, an executor and a pipeline each have `view()`,
//! `events()` and `handle()`. Terminals, logs, Celery's remote control, pages and metrics are
//! readers of these; none of them owns state.
//!
//! - [`View`]: what it looks like at one moment. Plain data that serde can carry anywhere. It is
//!   made when it is asked for; nothing is counted for it that was not counted anyway, but for
//!   labels, which the reporter counts beside the loop ([`Labels`], bounded).
//! - [`Hub`] and [`Events`]: what happens, told to any number of listeners. Each has a bounded
//!   queue; what it misses is counted and told to it. Posting never waits. While nobody listens an
//!   engine pays one relaxed load a turn, and nothing a task.
//! - [`Handle`]: pause, resume, concurrency, rate, timeout, drain, stop: the same for all, as far
//!   as it makes sense.
//!
//! This module depends on nothing that runs. Products fill the types: an engine does in
//! `engine/view.rs`.
//!
//! Layout: `view.rs`, `counts.rs`, `histogram.rs`, `labels.rs`: the data; `hub.rs`; `handle.rs`.

mod counts;
mod handle;
mod histogram;
mod hub;
mod labels;
mod view;

pub use counts::{Counts, SharedCounts};
pub use handle::{Command, Handle, Steer, Unsupported};
pub(crate) use histogram::Spread;
pub use histogram::{BOUNDS, Histogram, Quantiles, Timing};
pub use hub::{Detail, Events, Heard, Hub, Tell};
pub use labels::{Labelled, Labels, LabelsOf, MOST_LABELS, OTHER};
pub use view::{
    Connection, Gauge, LaneView, LinkState, MOST_RUNNING, Refused, RunningView, Stall, Stalled, VERSION, View, ViewKind, Waited, Waiting,
};

pub use crate::event::{Event, Phase};

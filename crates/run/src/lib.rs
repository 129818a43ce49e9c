//! The batch runner of longshore as a library: records in, tasks run, journal and results out.
//!
//! [`RunSpec`] says what to do, [`Run::plan`] compiles it, [`Run::start`] starts it, and a
//! [`Running`] can be viewed, heard, steered and awaited. The crate prints nothing, reads no
//! terminal and installs no signal handler.
//!
//! Layout, in the order of a record's way:
//! - `spec.rs plan.rs`: what is to be done, and everything that follows from it, compiled and
//!   checked before anything runs
//! - `input.rs record.rs call.rs intake.rs`: bytes → records → deliveries
//! - `template.rs`: what a user writes with braces
//! - `batch.rs`: several records for one call of a command
//! - `what.rs`, `command.rs`, `http.rs`, `pipe.rs`, `task.rs`: what runs, as lanes of the engine;
//!   `environment.rs filling.rs`: what it gets; `reply.rs`: what it answers; `overdue.rs`: a
//!   timeout that is a share of the median
//! - `shared_limit.rs`: a limit that other processes keep too, before a lane
//! - `last_output.rs`: what commands wrote that a timeout or a signal ended
//! - `ledger.rs journal.rs`: start and result lines, before anything counts; `spool.rs`: what is
//!   too long for them
//! - `output.rs`: the projection of the journal that people read
//! - `run.rs`: the steps of a run: `open.rs`, `assemble.rs`, `watch.rs`, `conclude.rs`;
//!   `heard.rs checks.rs ending.rs`: what makes it stop, and how it ends
//! - `view.rs event.rs steer.rs report.rs`: its face
//! - `socket.rs`: that face for other processes
//! - `jobs.rs`: what the state directory knows of jobs
//! - `units.rs text.rs rate.rs`: numbers and times, read and written

mod assemble;
pub mod auto;
pub mod batch;
pub mod call;
pub mod checks;
pub mod command;
mod conclude;
pub mod ending;
pub mod environment;
pub mod error;
pub mod event;
pub mod filling;
mod heard;
pub mod http;
pub mod input;
pub mod intake;
pub mod jobs;
pub mod journal;
mod last_output;
mod ledger;
mod machine;
pub mod open;
pub mod output;
mod overdue;
pub mod pipe;
pub mod plan;
pub mod rate;
pub mod record;
pub mod reply;
pub mod report;
mod run;
mod shared_limit;
pub mod socket;
pub mod spec;
mod spool;
pub mod steer;
mod task;
pub mod template;
pub mod text;
pub mod units;
pub mod view;
mod watch;
pub mod what;

pub use error::{RunError, RunErrorKind};
pub use event::{Listener, RunEvent, TaskDetail, TaskEnd};
pub use open::Surroundings;
pub use plan::Plan;
pub use report::Report;
pub use run::{Run, Running};
pub use spec::{Program, RunSpec};
pub use steer::{RunHandle, Steering};
pub use view::RunView;

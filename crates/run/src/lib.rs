//! The batch runner of longshore as a library: records in, tasks run, journal and results out.
//!
//! [`RunSpec`] says what to do, [`Run::plan`] compiles it, [`Run::start`] starts it, and a
//! [`Running`] can be viewed, heard, steered and awaited. The crate prints nothing, reads no
//! terminal and installs no signal handler.
//!
//! ```
//! use longshore_run::{Program, Run, RunSpec};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let spec = RunSpec::new(Program::command(["test", "{}", "-gt", "1"]))
//!     .records(["1", "2", "3"])
//!     .concurrency(2);
//! let running = Run::start(Run::plan(spec)?).await?;
//! // While it runs: `running.view()`, `running.events(100)`, `running.handle()`.
//! let report = running.await;
//! assert_eq!((report.ran(), report.failed()), (3, 1));
//! assert_eq!((report.samples[0].seq, report.samples[0].task.as_str()), (1, "1"));
//! # Ok::<_, longshore_run::RunError>(())
//! # }).unwrap();
//! ```
//!
//! The names that every caller needs stand at the root. [`spec`] has what a spec is made of,
//! [`report`] what a report is made of, [`jobs`] the jobs of the state directory, [`socket`] runs
//! of other processes. [`input`], [`record`] and [`template`] read records and fill them in; what
//! runs for a record ([`command`], [`http`], [`pipe`], as handlers: [`program`]) serves longshore's
//! other products too.
//!
//! Layout, in the order of a record's way:
//! - `spec.rs plan.rs`: what is to be done, and everything that follows from it, compiled and
//!   checked before anything runs
//! - `input.rs record.rs call.rs intake.rs`: bytes → records → deliveries
//! - `template.rs`: what a user writes with braces
//! - `batch.rs`: several records for one call of a command
//! - `what.rs`, `command.rs`, `http.rs`, `pipe.rs`, `task.rs`: what runs, as lanes of the engine;
//!   `program.rs`: three of them as handlers, for other products too;
//!   `environment.rs filling.rs`: what it gets; `reply.rs`: what it answers; `overdue.rs`: a
//!   timeout that is a share of the median
//! - `shared_limit.rs`: a limit that other processes keep too, before a lane
//! - `last_output.rs`: what commands wrote that a timeout or a signal ended; `live.rs gauge.rs`:
//!   what they write, shown while they run
//! - `ledger.rs journal.rs`: start and result lines, before anything counts; `spool.rs`: what is
//!   too long for them
//! - `output.rs`: the projection of the journal that people read
//! - `run.rs`: the steps of a run: `open.rs`, `assemble.rs`, `watch.rs`, `conclude.rs`;
//!   `heard.rs checks.rs ending.rs`: what makes it stop, and how it ends
//! - `view.rs event.rs steer.rs report.rs`: its face
//! - `story.rs page.rs`: how it went over time, and that as a page of HTML
//! - `socket.rs`: that face for other processes
//! - `jobs.rs`: what the state directory knows of jobs
//! - `units.rs text.rs rate.rs`: numbers and times, read and written

mod assemble;
mod auto;
mod batch;
mod call;
mod checks;
pub mod command;
mod conclude;
mod ending;
pub mod environment;
mod error;
mod event;
pub mod filling;
mod gauge;
mod heard;
pub mod http;
mod injection;
pub mod input;
mod intake;
pub mod jobs;
mod journal;
mod last_output;
mod ledger;
mod live;
mod machine;
mod open;
mod output;
mod overdue;
pub mod page;
pub mod pipe;
mod plan;
mod preview;
pub mod program;
mod ramp;
mod rate;
pub mod record;
pub mod reply;
pub mod report;
mod run;
mod shared_limit;
pub mod socket;
pub mod spec;
mod spool;
mod steer;
mod story;
mod task;
pub mod template;
pub mod text;
pub mod units;
mod view;
mod watch;
pub mod what;

pub use auto::BestWidth;
pub use error::{RunError, RunErrorKind};
pub use event::{Listener, Resumed, RunEvent, TaskDetail, TaskEnd};
pub use open::Surroundings;
pub use plan::Plan;
pub use preview::CallPreview;
pub use rate::RateMeter;
pub use report::Report;
pub use run::{Run, Running};
pub use spec::{Program, RunSpec};
pub use steer::{RunHandle, Steering};
pub use view::{RunState, RunView, RunningRecord, SlowTask};

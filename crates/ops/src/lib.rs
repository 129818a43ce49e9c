//! Questions and actions about brokers and workers: why a task waits, queues, tasks, limits, dead
//! letters, schedules, workers. Typed, so that a command line, a page and a program ask the same
//! and show it each in its way; nothing here prints.
//!
//! A question is a request struct, an async function and an answer struct, which is serialisable;
//! an action says what was done to how many, and what was not. All of them work over a
//! [`Client`](longshore_worker::Client), which is a broker and a result backend of any kind. What
//! only workers know is asked of them by Celery's remote control, so that Celery's own workers
//! answer too, as far as they know.
//!
//! | module | questions | actions |
//! |---|---|---|
//! | [`why`](mod@why) | why is this task not running? | |
//! | [`tasks`] | which tasks are there, where, with what result? | send again, call off |
//! | [`queues`] | how long, how fast, what is next? | pause, resume, purge, move |
//! | [`held`] | what is lent, to whom, since when? | |
//! | [`dead`] | which messages are run no more, and why? | put back, throw away |
//! | [`limits`] | which limits and rates hold, and who set them? | set |
//! | [`schedules`] | what is due when, who sends it? | put, pause, resume, run, remove, import |
//! | [`overview`] | workers and queues at one glance, again and again | |
//! | [`workers`] | who is there, and does what? | stop, scale, serve, set a rate or a time limit, revoke |
//!
//! ```
//! use longshore_ops::{queues, tasks, why};
//! use longshore_worker::{Client, Settings, Signature};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()
//! #     .unwrap().block_on(async {
//! let settings = Settings::new("memory://ops");
//! let client = Client::connect(&settings)?;
//! let add: Signature = Signature::named("shop.add").arg(&1).arg(&1).task_id("one");
//! client.send(add).await?;
//!
//! let answer = &why::why(&client, &why::WhyRequest::new("one")).await?[0];
//! assert_eq!(answer.state(), "waiting");
//! assert_eq!(answer.reason.as_ref().unwrap().word(), "unserved");
//!
//! let pause = queues::QueueAction::Pause { queue: "celery".to_owned(), by: "docs".to_owned() };
//! queues::act(&client, &pause).await?;
//! let queues = queues::list(&client, &queues::QueuesRequest::one("celery")).await?;
//! assert_eq!((queues[0].waiting, queues[0].paused_by.as_deref()), (1, Some("docs")));
//!
//! let found = tasks::list(&client, &tasks::TasksRequest::ids(["one"])).await?.tasks;
//! assert_eq!(found[0].standing, tasks::TaskStanding::Waiting);
//! let done = tasks::cancel(&client, &tasks::CancelRequest::of(found, &[])).await?;
//! assert_eq!((done.called_off.len(), done.refused.len()), (1, 0));
//! # Ok::<(), longshore_ops::OpsError>(())
//! # }).unwrap();
//! ```
//!
//! # Limits
//!
//! No answer loads a whole queue: [`tasks::list`] looks at ten thousand messages of each queue and
//! kind and keeps as many results as were asked for; [`queues::peek`] and [`held::list`] read as
//! many as were asked for; [`dead::list`] reads the dead letters, of which a broker keeps ten
//! thousand a queue.
//! [`why`](mod@why) has the broker look through its queues for one id.

pub mod dead;
mod error;
pub mod held;
pub mod limits;
mod message;
pub mod overview;
pub mod queues;
mod reason;
mod remote;
mod results;
pub mod schedules;
pub mod tasks;
pub mod why;
mod wire;
pub mod workers;

pub use self::{
    error::OpsError,
    message::{CallArguments, MessageBrief, cut},
    reason::{LaneUse, WaitReason},
    remote::{TaskAtWorker, WorkerStage, tasks_at_workers},
    wire::time_text,
};

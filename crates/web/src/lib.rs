//! Pages, health, metrics and an HTTP intake: what people and programs see of longshore over HTTP.
//!
//! A [`Site`] is what is shown: one worker, one run, one consumer of Kafka, or a whole deployment.
//! A [`WebServer`] listens and serves it. A site owns nothing that runs: it reads views and events,
//! asks `longshore-ops`, and steers through handles.
//!
//! ```
//! use longshore_web::{Readiness, Site, WebOptions, WebServer};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! // The server is there before the worker is: until then it is healthy and not ready.
//! let readiness = Readiness::starting();
//! let options = WebOptions::default();
//! let server = WebServer::bind("127.0.0.1:0", &options).await?;
//! let address = server.address();
//! let serving = server.serve(Site::of_worker(options, readiness.clone()));
//! // … readiness.started(worker.handle(), worker.stopping()) …
//! # let _ = address;
//! serving.stop().await;
//! # Ok::<(), longshore_web::WebError>(())
//! # }).unwrap();
//! ```
//!
//! # Who may
//!
//! Loopback is open to everybody on this machine, and to no page of another site; every other
//! address needs an [`Access`]. What changes something needs the page's own token, or a JSON body
//! that no other site can send. See `guard.rs`.
//!
//! # Limits
//!
//! | what | limit | beyond |
//! |---|---|---|
//! | open connections | 10 240, and what the limit on open files leaves | wait |
//! | time for a request's head | 10 s | closed |
//! | a request's head | 32 KiB, 100 headers | 431 |
//! | time in which a client takes nothing | 30 s | closed |
//! | body of a form or an action | 256 KiB, 30 s | 413, 408 |
//! | the same of the form for the token | 4 KiB, 30 s | 413, 408 |
//! | actions on their way | 256 | wait |
//! | live streams | 1 000 | 503; the page renews itself without one |
//! | body of one task | 1 MiB, 30 s | 413, 408 |
//! | a line of a bulk | 1 MiB, 60 s | 413, 408 |
//! | wait for a result | 60 s | the state as it is |
//! | remembered tasks | 100 000, 256 MiB | the oldest are forgotten |
//! | events that wait to be remembered | 24 MiB | left out, and counted |
//! | last events | 2 000, 8 MiB | the oldest are forgotten |
//! | workers that are known by their events | 10 000 | not told when they are gone |
//! | tasks of one answer to Flower's routes | 10 000 | left out, and counted |
//! | results of jobs on their way to somebody | 4 | 503 |
//! | wrong passwords and tokens of one address (IPv6: /64) | 10, and one more each 6 s | 429 |
//!
//! Layout, from the bottom up:
//! - `options.rs`: who may see and do what; `error.rs`: what is refused, in words
//! - `listen.rs`: connections and their limits; `guard.rs`: who asks, and from where
//! - `assets.rs`, `templates.rs`: style, script, templates; `live.rs`: what has changed;
//!   `frame.rs`: the page around all pages; `login.rs`
//! - `audit.rs`: a line for each action; `actions.rs`: each runs to its end
//! - `api.rs`: what programs ask, and the document that describes it
//! - `health.rs`: is it there, is it ready
//! - `intake.rs`: tasks that programs send, and their results
//! - `metrics.rs`: numbers for a scrape
//! - `heard.rs`, `events.rs`: events of workers and tasks, heard once for all who look
//! - `history.rs`: what has happened, in a file of its own
//! - `deployment.rs`: one reader of a broker and its workers, however many look
//! - `progress.rs`: how a run goes: what the pages of runs and of jobs share
//! - `jobs.rs`: one reader of the journals of jobs, however many look
//! - `kafka.rs` (feature `kafka`): one reader of a consumer, and one of a cluster's groups
//! - `pages.rs`: the pages; `flower.rs`: Flower's routes; `site.rs`: which of them stand where

mod actions;
mod api;
mod assets;
mod audit;
mod deployment;
mod error;
mod events;
mod flower;
mod frame;
mod guard;
mod health;
mod heard;
mod history;
mod intake;
mod jobs;
#[cfg(feature = "kafka")]
mod kafka;
mod listen;
mod live;
mod login;
mod metrics;
mod options;
mod pages;
mod progress;
mod site;
mod templates;

pub use audit::{Action, Auditor};
pub use error::WebError;
pub use health::Readiness;
pub use history::{HistoryOptions, HistoryTeller};
pub use intake::{Intake, IntakeCounts, IntakeOptions};
#[cfg(feature = "kafka")]
pub use kafka::{ConsumerNote, KafkaOptions};
pub use listen::{Serving, WebServer};
pub use options::{Access, Secret, WebOptions};
pub use site::Site;

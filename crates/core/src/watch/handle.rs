//! How whatever runs is steered: one handle for all of it.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::view::View;
use crate::{cancel::Stop, gate::pace::Rate, task::LaneKind, wire::maybe_seconds};

/// Command to something that runs. On the wire:
/// `{"command":"concurrency","lane":"cpu","most":8}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// Start nothing until told to go on.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Let at most this many run: on one lane, or over all of them.
    Concurrency {
        /// The lane; all of them when absent.
        #[serde(default)]
        lane: Option<LaneKind>,
        /// Their number.
        most: usize,
    },
    /// Keep to another pace; none when absent.
    Rate {
        /// The pace.
        #[serde(default)]
        rate: Option<Rate>,
    },
    /// Give attempts that start from now on another limit, in seconds on the wire; none when
    /// absent.
    Timeout {
        /// The limit.
        #[serde(default, with = "maybe_seconds")]
        timeout: Option<Duration>,
    },
    /// Fetch and start no more; let what runs end.
    Drain,
    /// Drain, and end what runs.
    Stop {
        /// How.
        how: Stop,
    },
}

impl Command {
    /// Returns its name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Command::Pause => "pause",
            Command::Resume => "resume",
            Command::Concurrency { .. } => "concurrency",
            Command::Rate { .. } => "rate",
            Command::Timeout { .. } => "timeout",
            Command::Drain => "drain",
            Command::Stop { .. } => "stop",
        }
    }
}

/// Nothing has changed: what runs has no such thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{command}: {why}")]
#[non_exhaustive]
pub struct Unsupported {
    /// The command.
    pub command: &'static str,
    /// Reason why there is no such thing.
    pub why: &'static str,
}

impl Unsupported {
    /// Refuses a command.
    #[must_use]
    pub fn new(command: &Command, why: &'static str) -> Self {
        Self { command: command.name(), why }
    }
}

/// Thing that a [`Handle`] steers and asks.
pub trait Steer: Send + Sync {
    /// Does what it is told, soon; nothing where it is over. Must not block.
    ///
    /// # Errors
    /// There is no such thing to be changed.
    fn steer(&self, command: Command) -> Result<(), Unsupported>;

    /// Returns what it looks like now; `None` when it is over.
    fn view(&self) -> BoxFuture<'static, Option<View>>;
}

/// Steers and asks whatever runs. Clones are one handle; nothing here blocks. After the end it does
/// nothing.
///
/// | | pause | concurrency | rate, timeout | drain, stop |
/// |---|---|---|---|---|
/// | job, run, Kafka's consumer | yes | yes | yes | yes |
/// | worker | consumes no more | of a lane | its tasks have their own | yes |
/// | executor | yes | of a lane | no | yes |
/// | pipeline | no | no | no | yes |
///
/// What is not there is not done; [`steer`](Handle::steer) says so.
///
/// ```
/// use std::time::Duration;
/// use longshore_core::{Job, Rate, Stop};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let job = Job::new(|n: u64| async move {
///     tokio::time::sleep(Duration::from_millis(1)).await;
///     Ok::<_, String>(n)
/// })
/// .params(0..) // without end
/// .start();
/// let handle = job.handle();
/// handle.set_rate(Some(Rate::per_second(500.0)));
/// handle.set_concurrency(None, 4);
/// tokio::time::sleep(Duration::from_millis(50)).await;
/// let view = handle.view().await.expect("it runs");
/// assert!(view.active() <= 4);
/// println!("{} done; nothing more starts now: {:?}", view.counts.done(), view.refusal);
/// handle.stop(Stop::Soft);
/// assert!(job.join().await.done() > 0);
/// # });
/// ```
#[derive(Clone)]
pub struct Handle(Arc<dyn Steer>);

impl Handle {
    /// Returns a handle on this.
    #[must_use]
    pub fn new(what: Arc<dyn Steer>) -> Self {
        Self(what)
    }

    /// Does what it is told.
    ///
    /// # Errors
    /// What runs has no such thing.
    pub fn steer(&self, command: Command) -> Result<(), Unsupported> {
        self.0.steer(command)
    }

    /// Returns what it looks like now; `None` when it is over.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn view(&self) -> Option<View> {
        self.0.view().await
    }

    /// Starts nothing until [`resume`](Handle::resume).
    pub fn pause(&self) {
        self.tell(Command::Pause);
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.tell(Command::Resume);
    }

    /// Changes how many may run: on one lane, or over all of them.
    pub fn set_concurrency(&self, lane: Option<LaneKind>, most: usize) {
        self.tell(Command::Concurrency { lane, most });
    }

    /// Changes the pace; `None` for none.
    pub fn set_rate(&self, rate: Option<Rate>) {
        self.tell(Command::Rate { rate });
    }

    /// Changes the timeout of attempts that start from now on.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        self.tell(Command::Timeout { timeout });
    }

    /// Fetches and starts no more; what runs may end. What waits goes back to its source.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// Drains, and ends what runs.
    pub fn stop(&self, how: Stop) {
        self.tell(Command::Stop { how });
    }

    fn tell(&self, command: Command) {
        // What is not there is not done, as is said above.
        let _ = self.steer(command);
    }
}

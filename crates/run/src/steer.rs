//! Steering a run that runs.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use longshore_core::{
    Rate, Stop,
    watch::{Command, Handle, Steer, Unsupported, View},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{heard::Heard, report::StoryView, story::Storyteller, view::RunView};

/// Order to a run. On the wire: `{"command":"concurrency","most":8}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Steering {
    /// Start nothing until told to go on.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Let at most this many run at once.
    Concurrency {
        /// The new limit.
        most: usize,
    },
    /// Keep to another pace: so many starts in so many seconds.
    Rate {
        /// The number of starts; none for no pace at all.
        #[serde(default)]
        count: Option<f64>,
        /// The seconds.
        #[serde(default = "one")]
        per: f64,
    },
    /// Start no more; let what runs end.
    Drain,
    /// Start no more, and end what runs: politely at first, by force a while later.
    Cancel,
}

fn one() -> f64 {
    1.0
}

/// Order to the loop that watches a run.
pub(crate) enum Order {
    Steer(Steering),
    Rate(Option<Rate>),
    Stop(Stop),
    /// A signal that asks for an end: 2 or 15.
    Signal(u8),
    Look(oneshot::Sender<RunView>),
    /// Holds what runs, or lets it go on.
    Hold(bool, oneshot::Sender<()>),
}

/// Steers and asks a run. Clones are one handle; nothing here blocks. After the end it does
/// nothing.
#[derive(Clone)]
pub struct RunHandle {
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    pub(crate) views: watch::Receiver<Arc<RunView>>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) story: Option<Storyteller>,
}

impl std::fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunHandle")
    }
}

impl RunHandle {
    /// Does what it is told, soon.
    pub fn steer(&self, steering: Steering) {
        self.order(Order::Steer(steering));
    }

    /// Starts nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.steer(Steering::Pause);
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.steer(Steering::Resume);
    }

    /// Lets at most this many tasks run at once.
    pub fn set_concurrency(&self, most: usize) {
        self.steer(Steering::Concurrency { most });
    }

    /// Changes the pace; `None` for none.
    pub fn set_rate(&self, rate: Option<Rate>) {
        self.order(Order::Rate(rate));
    }

    /// Starts no more. What runs may end.
    pub fn drain(&self) {
        self.steer(Steering::Drain);
    }

    /// Starts no more, and ends what runs. What is ended so is not finished, and runs again when
    /// the job is resumed.
    pub fn stop(&self, how: Stop) {
        self.order(Order::Stop(how));
    }

    /// Starts no more, and ends what runs: politely at first, by force a while later.
    pub fn cancel(&self) {
        self.steer(Steering::Cancel);
    }

    /// Hears that a person interrupts it, as by Ctrl-C: the first time nothing more starts, the
    /// second time what runs is told to end, the third time it is killed.
    pub fn interrupt(&self) {
        self.heard.hear(2);
        self.order(Order::Signal(2));
    }

    /// Hears that it is to terminate, as by SIGTERM (15) or SIGHUP (1): nothing more starts, and
    /// what runs has a while to end.
    ///
    /// Whoever hears signals passes them on here, as soon as they come: commands that die of the
    /// same signal then count as not finished, and not as failed.
    pub fn terminate(&self, signal: i32) {
        self.heard.hear(signal);
        self.order(Order::Signal(15));
    }

    /// Stops this process by `stop`, and with it all that the run has started; returns when both go
    /// on. As Ctrl-Z and `fg`: the time between is nobody's latency and runs into nobody's limit.
    pub async fn stand_still(&self, stop: impl FnOnce()) {
        self.hold(true).await;
        longshore_core::stand_still(stop);
        self.hold(false).await;
    }

    async fn hold(&self, hold: bool) {
        let (done, wait) = oneshot::channel();
        self.order(Order::Hold(hold, done));
        // Over already: nothing is left to be held.
        let _ = wait.await;
    }

    /// Returns what it looked like a moment ago: at most a tenth of a second.
    pub fn view(&self) -> Arc<RunView> {
        self.views.borrow().clone()
    }

    /// Returns what it looks like now, with what runs; `None` when it is over.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn look(&self) -> Option<RunView> {
        let (answer, view) = oneshot::channel();
        self.order(Order::Look(answer));
        view.await.ok()
    }

    /// Returns how this sitting has gone so far, where that was asked for
    /// ([`ResultSpec::story`](crate::spec::ResultSpec::story)).
    #[must_use]
    pub fn story(&self) -> Option<StoryView> {
        self.story.as_ref().map(Storyteller::view)
    }

    /// Waits until it looks different; false when it is over.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> bool {
        self.views.changed().await.is_ok()
    }

    /// Returns the handle that everything that runs has. It sees and steers the same run.
    pub fn watched(&self) -> Handle {
        Handle::new(Arc::new(self.clone()))
    }

    fn order(&self, order: Order) {
        // Whoever is over needs no orders.
        let _ = self.orders.send(order);
    }
}

impl Steer for RunHandle {
    fn steer(&self, command: Command) -> Result<(), Unsupported> {
        self.order(match command {
            Command::Pause => Order::Steer(Steering::Pause),
            Command::Resume => Order::Steer(Steering::Resume),
            Command::Concurrency { lane: None, most } => Order::Steer(Steering::Concurrency { most }),
            Command::Rate { rate } => Order::Rate(rate),
            Command::Drain => Order::Steer(Steering::Drain),
            Command::Stop { how } => Order::Stop(how),
            Command::Concurrency { .. } => return Err(Unsupported::new(&command, "a run has one number for all its lanes")),
            other => return Err(Unsupported::new(&other, "a run has it from its spec")),
        });
        Ok(())
    }

    fn view(&self) -> BoxFuture<'static, Option<View>> {
        let this = self.clone();
        Box::pin(async move { this.look().await?.engine.map(|view| *view) })
    }
}

//! Remote control: what Celery's `status`, `inspect` and `control`, Flower and our own commands ask
//! of a worker. In three steps, each with types of its own:
//!
//! 1. Celery's words become a typed command: `longshore_celery::control::Command::read`.
//! 2. The command is done, or the question looked up, in plain Rust: `control/act.rs`,
//!    `control/revoke.rs`, `control/look.rs`. What comes of it is a `ControlAnswer`
//!    (`control/answer.rs`), which knows no words of Celery's.
//! 3. The answer becomes Celery's words: `control/say.rs`; `control/told.rs` for tasks and
//!    settings.
//!
//! The app's own commands (`App::command`) are run beside all that: `control/command.rs`.

mod act;
mod answer;
mod command;
mod look;
mod revoke;
mod say;
mod told;

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use longshore_celery::{
    Limits, Value,
    control::{self, Addressed, Command, Reply, Request},
};

use tokio::{sync::oneshot, task::JoinSet};

use self::say::say;
use super::{
    Stopper,
    events::MonitorFeed,
    intake::Intake,
    mingle::{answers, mingle},
    shared::Shared,
    slots::LaneSlots,
    view::WorkerFace,
};

/// Answers remote control.
pub(crate) struct RemoteControl {
    pub(crate) shared: Arc<Shared>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) events: MonitorFeed,
    pub(crate) stopper: Stopper,
    pub(crate) slots: Arc<LaneSlots>,
    pub(crate) face: Arc<WorkerFace>,
    pub(crate) parking: usize,
    pub(crate) prefetch: Option<usize>,
    /// The app's own commands that run; they end with it.
    pub(crate) commands: JoinSet<()>,
    /// Is told once it listens.
    pub(crate) listens: Option<oneshot::Sender<()>>,
}

impl RemoteControl {
    /// Takes requests until it is dropped. A broker that is away is waited for.
    pub(crate) async fn serve(mut self) {
        // A broker that has no bus is controlled from nowhere.
        let Ok(bus) = self.shared.connected.bus().cloned() else { return };
        loop {
            let Ok(mut subscription) = bus.subscribe(control::EXCHANGE, "#").await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            self.listens.take().map(|listens| listens.send(()));
            // What was called off while nobody listened here. Meanwhile requests are answered: the
            // others may be asking too.
            let mut mingling = Some(Box::pin(mingle(self.shared.clone())));
            loop {
                let message = match &mut mingling {
                    None => subscription.messages.recv().await,
                    Some(asking) => tokio::select! {
                        biased;
                        () = asking => {
                            mingling = None;
                            continue;
                        }
                        message = subscription.messages.recv() => message,
                    },
                };
                let Some((_, raw)) = message else { break };
                // What is no request is nobody's: there is nobody to tell.
                if let Ok(request) = Request::decode(&raw, Limits::default().message) {
                    self.take(&request).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Answers one request, if it is for us and not too late.
    async fn take(&mut self, request: &Request) {
        let clock = self.shared.clock().adjust(request.clock);
        let now = self.shared.environment.wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if request.expires > 0.0 && request.expires < now {
            return;
        }
        let value = match request.is_for(&self.shared.node) {
            Addressed::No => return,
            Addressed::Unclear(error) => error,
            Addressed::Yes if self.begin_command(request, clock) => return,
            Addressed::Yes => match Command::read(request) {
                Ok(Command::Hello { revoked, .. }) if !answers(request, &self.shared) => return self.shared.call_off(&revoked),
                Ok(command) => say(self.obey(command).await, &self.shared, clock),
                Err(error) => error,
            },
        };
        reply(&self.shared, request, value, clock).await;
    }
}

/// Replies to a request, if anybody waits for that.
async fn reply(shared: &Shared, request: &Request, value: Value, clock: u64) {
    if let Some(to) = &request.reply_to {
        let tag = (shared.environment.id)();
        let raw = Reply::new(&*shared.node, value, request.ticket.as_deref(), clock).encode(to, &tag);
        if let Ok(bus) = shared.connected.bus() {
            let _ = bus.reply(&to.exchange, &to.routing_key, &raw).await;
        }
    }
}

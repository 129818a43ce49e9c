//! What the lanes call: the task's handler, with its context, its soft limit, and the ways in which
//! it is ended from outside.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use futures_util::future::BoxFuture;
use longshore_celery::{TraceContext, Value};
use longshore_core::{
    Outcome, Skip, TaskError,
    lane::{AsyncHandler, Context, SyncHandler},
    trace,
};

use super::{
    conclude,
    notice::{TaskChange, WorkerEvent},
    shared::Shared,
    work::{AttemptResult, ClaimedTask, TaskTicket},
};
use crate::{
    args::Call,
    failure::Failure,
    task::{
        Acks, Handler,
        context::{ContextParts, TaskContext},
    },
};

/// Begins attempts: it is what the handlers of all lanes share.
#[derive(Clone)]
pub(crate) struct Starter {
    pub(crate) shared: Arc<Shared>,
    /// Receipts of messages that are acknowledged as they start.
    pub(crate) early: tokio::sync::mpsc::UnboundedSender<Arc<ClaimedTask>>,
    pub(crate) runtime: tokio::runtime::Handle,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Stores STARTED. A result backend that is away is not a reason not to run: whoever looks sees
/// PENDING.
async fn tell_started(own: &TaskContext, node: &str) {
    let mut value = longshore_celery::Map::default();
    value.set("pid", i64::from(std::process::id()));
    value.set("hostname", node);
    let _ = own.set_state("STARTED", &Value::Map(value)).await;
}

impl Starter {
    /// Notes the start. `Some` says that it shall not run after all.
    pub(crate) fn start(&self, work: &Arc<ClaimedTask>, context: &Context) -> Option<Outcome<AttemptResult>> {
        // Whoever was stopped, or suspended, for longer than its lease has lost what it held.
        if work.term.is_some_and(|term| self.shared.term() != Some(term)) {
            return Some(Outcome::Skipped(Skip::Elsewhere));
        }
        // Before it is asked whether it is revoked: whoever revokes it from now on finds the token.
        let now = (self.shared.environment.wall(), self.shared.environment.now());
        work.begin(now, context, self.shared.soft_time_limit(work));
        if work.is_revoked() || self.shared.is_revoked(&work.message) {
            work.revoke(None);
            return Some(Outcome::Skipped(Skip::Revoked));
        }
        if let Some(expires) = work.message.expires
            && expires <= self.shared.environment.wall()
        {
            return Some(Outcome::Skipped(Skip::Expired));
        }
        if let Some(maker) = self.shared.client.maker() {
            let parent = TraceContext::of(&work.message.headers);
            let _ = work.place.set((maker.spans.below(parent.as_ref()), parent));
        }
        if self.shared.app.registry().acks_of(&work.task.policy) == Acks::Early && !work.acked.swap(true, Ordering::AcqRel) {
            let _ = self.early.send(work.clone());
        }
        if self.shared.hub.wants(longshore_core::watch::Detail::Tasks) {
            self.shared.hub.post([WorkerEvent::Task(self.shared.notice(work, TaskChange::Started))]);
        }
        None
    }

    fn context(&self, work: &Arc<ClaimedTask>, context: &Context) -> TaskContext {
        // What is acknowledged already is nobody else's.
        let term = work.term.filter(|_| !work.acked.load(Ordering::Acquire));
        let parts = ContextParts {
            message: work.message.clone(),
            registry: self.shared.app.registry().clone(),
            lane: context.lane,
            slot: context.slot,
            cancel: context.cancel.clone(),
            soft: work.soft.clone(),
            time_limit: self.shared.time_limit(work),
            soft_time_limit: work.started().and_then(|start| start.soft),
            client: Some(match work.own_place() {
                Some(place) => self.shared.client.in_trace(Some(place.clone())),
                None => self.shared.client.clone(),
            }),
            trace: work.own_place().cloned(),
            node: self.shared.node.clone(),
        };
        let own = TaskContext::claimed(parts, self.shared.lease.clone().zip(term));
        let _ = work.context.set(own.clone());
        own
    }

    /// Tells a handler on a thread when its soft limit has passed; until what is returned is
    /// dropped.
    fn tell_when_over(&self, limit: Duration, work: Arc<ClaimedTask>) -> AbortOnDrop {
        AbortOnDrop(self.runtime.spawn(async move {
            tokio::time::sleep(limit).await;
            work.soft.cancel();
        }))
    }

    /// The handler of the async lane.
    pub(crate) fn on_async(self) -> AsyncHandler<TaskTicket, AttemptResult> {
        AsyncHandler::with_context(move |context, TaskTicket(work)| {
            let begun = match self.start(&work, &context) {
                Some(outcome) => Err(outcome),
                None => Ok(self.begin(&work, &context)),
            };
            let shared = self.shared.clone();
            async move {
                let (future, own, soft) = match begun {
                    Ok(begun) => begun,
                    Err(outcome) => return outcome,
                };
                if work.task.policy.track_started {
                    tell_started(&own, &shared.node).await;
                }
                bounded(future, work, own, context, soft).await
            }
        })
    }

    /// Calls a handler of the async lane. Returns its future, its context and its soft limit.
    fn begin(
        &self,
        work: &Arc<ClaimedTask>,
        context: &Context,
    ) -> (BoxFuture<'static, Result<Value, Failure>>, TaskContext, Option<Duration>) {
        trace::name(&work.task.name);
        let own = self.context(work, context);
        let call = Call { args: work.message.args.clone(), kwargs: work.message.kwargs.clone() };
        let future = match &work.task.handler {
            Handler::Async(handler) => handler(own.clone(), call),
            // A plain function that was put here by its user.
            Handler::Sync(handler) => {
                let handler = handler.clone();
                let own = own.clone();
                Box::pin(async move { handler(own, call) })
            }
        };
        (future, own, self.shared.soft_time_limit(work))
    }

    /// The handler of the blocking and cpu lanes.
    pub(crate) fn on_thread(self) -> SyncHandler<TaskTicket, AttemptResult> {
        Arc::new(move |context, TaskTicket(work)| {
            if let Some(outcome) = self.start(&work, context) {
                return outcome;
            }
            trace::name(&work.task.name);
            let own = self.context(&work, context);
            let call = Call { args: work.message.args.clone(), kwargs: work.message.kwargs.clone() };
            if work.task.policy.track_started {
                own.block_on(tell_started(&own, &self.shared.node));
            }
            let _over = self.shared.soft_time_limit(&work).map(|limit| self.tell_when_over(limit, work.clone()));
            match &work.task.handler {
                // The last thing before it begins: to get here may have taken its time.
                Handler::Sync(_) if !own.may_begin() => Outcome::Skipped(Skip::Elsewhere),
                Handler::Sync(handler) => ended(handler(own, call), &work, context),
                Handler::Async(_) => Outcome::Failed(TaskError::new("lane", "an async function runs on the async lane only")),
            }
        })
    }
}

/// Returns how a handler ended. One that gave up because its task was called off says so in its own
/// way. Of one that was to be ended by force and did not listen nobody wants the result: whoever
/// waited has been told.
fn ended(result: Result<Value, Failure>, work: &ClaimedTask, context: &Context) -> Outcome<AttemptResult> {
    match result {
        _ if work.context.get().is_some_and(TaskContext::is_elsewhere) => Outcome::Skipped(Skip::Elsewhere),
        _ if work.signal().is_some() => Outcome::Cancelled,
        Err(_) if work.is_revoked() && context.cancel.is_cancelled() => Outcome::Cancelled,
        result => Outcome::Ok(result.map_err(Box::new)),
    }
}

/// Runs a future until it ends, it is revoked by force, or its soft limit has passed and it does
/// not listen for that. When it is cancelled for another reason (its hard limit, the end of the
/// worker), its handler sees it, and the lane drops it in time.
async fn bounded(
    mut future: BoxFuture<'static, Result<Value, Failure>>,
    work: Arc<ClaimedTask>,
    own: TaskContext,
    context: Context,
    soft: Option<Duration>,
) -> Outcome<AttemptResult> {
    // The last thing before its first step: to get here may have taken its time.
    if !own.may_begin() {
        return Outcome::Skipped(Skip::Elsewhere);
    }
    let mut soft = soft.map(|limit| Box::pin(tokio::time::sleep(limit)));
    // Most end at once, and need nobody who listens.
    let (mut cancelled, mut listens) = (None, true);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = future.as_mut().poll(cx) {
            return Poll::Ready(ended(result, &work, &context));
        }
        if listens && cancelled.get_or_insert_with(|| Box::pin(context.cancel.cancelled())).as_mut().poll(cx).is_ready() {
            listens = false;
            if work.is_revoked() {
                return Poll::Ready(Outcome::Cancelled);
            }
        }
        let over = soft.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if over {
            soft = None;
            // A handler that listens is woken by its token.
            work.soft.cancel();
            if !own.listens_for_soft_limit() {
                return Poll::Ready(Outcome::Ok(Err(Box::new(conclude::soft_time_limit()))));
            }
        }
        Poll::Pending
    })
    .await
}

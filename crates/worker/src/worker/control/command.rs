//! The app's own commands: functions that remote control calls.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use longshore_celery::{
    Exception, Message, Value,
    control::{self, Request},
};
use longshore_core::{CancelToken, LaneKind};

use super::{RemoteControl, reply};
use crate::{
    args::Call,
    failure::Failure,
    task::{
        Handler, Task,
        context::{ContextParts, TaskContext},
    },
    worker::{conclude, shared::Shared},
};

/// The most commands that run at once.
const MOST: usize = 32;
/// Time that a command has which does not say otherwise.
const LIMIT: Duration = Duration::from_secs(60);

impl RemoteControl {
    /// Begins one of the app's own commands, if it is one. It replies by itself: others are
    /// answered meanwhile.
    pub(super) fn begin_command(&mut self, request: &Request, clock: u64) -> bool {
        let Some(task) = self.shared.app.registry().command_named(&request.method).cloned() else { return false };
        while self.commands.try_join_next().is_some() {}
        let has_room = self.commands.len() < MOST;
        let (shared, request) = (self.shared.clone(), request.clone());
        self.commands.spawn(async move {
            let value = if has_room {
                said(run(&shared, &task, &request).await)
            } else {
                let busy = format!("{MOST} commands of this app run already: ask again when one has ended");
                control::error(&Exception::builtin("RuntimeError", busy).to_string())
            };
            reply(&shared, &request, value, clock).await;
        });
        true
    }
}

/// Runs a command to its end, or to that of its time.
async fn run(shared: &Arc<Shared>, task: &Arc<Task>, request: &Request) -> Result<Value, Failure> {
    let limit = task.policy.time_limit.unwrap_or(LIMIT);
    let cancel = CancelToken::new();
    let message = Message {
        task: task.name.to_string(),
        id: request.ticket.clone().unwrap_or_else(|| (shared.environment.id)()),
        kwargs: request.arguments.clone(),
        ..Message::default()
    };
    let context = TaskContext::new(ContextParts {
        message: Arc::new(message),
        registry: shared.app.registry().clone(),
        lane: if matches!(task.handler, Handler::Async(_)) { LaneKind::Async } else { LaneKind::Blocking },
        slot: 0,
        cancel: cancel.clone(),
        soft: CancelToken::new(),
        time_limit: Some(limit),
        soft_time_limit: None,
        client: Some(shared.client.clone()),
        trace: None,
        node: shared.node.clone(),
    });
    let call = Call { args: Vec::new(), kwargs: request.arguments.clone() };
    let ended = async {
        match &task.handler {
            // The function itself may panic before there is a future.
            Handler::Async(handler) => AssertUnwindSafe(async { handler(context, call).await }).catch_unwind().await,
            Handler::Sync(handler) => {
                let handler = handler.clone();
                let ended = tokio::task::spawn_blocking(move || handler(context, call)).await;
                ended.map_err(|error| error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string())))
            }
        }
    };
    match tokio::time::timeout(limit, ended).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(conclude::panicked(text_of(&*panic))),
        Err(_) => {
            // A thread cannot be ended: it is told.
            cancel.cancel();
            Err(conclude::time_limit(limit))
        }
    }
}

/// Returns the words of a panic.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// Says how a command ended, as Celery's own do.
fn said(result: Result<Value, Failure>) -> Value {
    match result {
        Ok(value) => control::ok(value),
        Err(failure) => match failure.exception() {
            Some(exception) => control::error(&exception.to_string()),
            None => control::error(&Exception::builtin("RuntimeError", failure.to_string()).to_string()),
        },
    }
}

//! Actions on tasks: sending them again, and calling them off.

use std::time::SystemTime;

use longshore_brokers::Found;
use longshore_celery::{Exception, Message, State, TaskResult, Value};
use longshore_worker::{Client, ClientError, Signature};
use serde::Serialize;

use super::{
    find::{TaskInfo, each},
    kept,
    standing::TaskStanding,
};
use crate::{
    dead::{self, DeadInfo},
    error::OpsError,
    results::{again_from_now, document},
    workers::{self, WorkerAction, WorkersRequest},
};

/// Report of what came of sending a task again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RetryDone {
    /// It is in a queue.
    Sent {
        /// Its queue, where that is known.
        queue: Option<String>,
        /// Its new id, where it could not keep its own: an id that was called off stays so for
        /// hours.
        new_id: Option<String>,
    },
    /// It was not sent.
    Refused(RetryRefusal),
}

/// Reason that a task was not sent again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RetryRefusal {
    /// A broker has it: it waits, is held back, or is lent to a worker.
    InBroker(Box<Found>),
    /// Its result is no end: it may still run somewhere.
    NoEnd,
    /// It has succeeded.
    Succeeded,
    /// Neither its message nor its arguments are kept: it ended at a worker of Celery's, or was one
    /// of too many, or too large (Redis keeps a number of them).
    NoArguments,
    /// Somebody else has put its dead letter back.
    TooLate,
}

/// Sends a task again that has failed, was called off, or is a dead letter. Before that, whoever
/// looks for its result sees that it is not over.
///
/// # Errors
/// A store cannot be reached, or refuses. The stored result is then as it was; of a transient error
/// it is unknown whether the task was sent.
///
/// # Cancel safety
/// What is cancelled may have been sent. The task's result may then say RETRY although nothing was
/// sent.
pub async fn retry(client: &Client, task: &TaskInfo) -> Result<RetryDone, OpsError> {
    let sent = |new_id| Ok(RetryDone::Sent { queue: task.queue.clone(), new_id });
    let refused = |why| Ok(RetryDone::Refused(why));
    if let Some(letter) = &task.letter {
        let back = dead::retry(client, &[DeadInfo::of(letter.clone())]).await?;
        return if back.count() == 1 { sent(None) } else { refused(RetryRefusal::TooLate) };
    }
    if let Some(found) = &task.found {
        return refused(RetryRefusal::InBroker(Box::new(found.clone())));
    }
    let Some(stored) = task.stored.as_ref().filter(|_| task.standing.has_ended()) else { return refused(RetryRefusal::NoEnd) };
    if task.standing == TaskStanding::Success {
        return refused(RetryRefusal::Succeeded);
    }
    let revoked = task.standing == TaskStanding::Revoked;
    let kept = kept::message(client, task).await?.and_then(|raw| kept::again(&raw, task.standing));
    let call = match (kept, signature_of(stored, (!revoked).then_some(task.id.as_str()))) {
        (Some(message), _) => Call::Message(Box::new(message)),
        (None, Some(signature)) => Call::Signature(signature),
        (None, None) => return refused(RetryRefusal::NoArguments),
    };
    if revoked {
        // Its own id is called off for hours.
        return sent(Some(call.send(client).await?));
    }
    let before = again_from_now(client, [task.id.clone()]).await?;
    if let Err(error) = call.send(client).await {
        // As it was: nobody shall wait for what was not sent.
        client.results().store(&before).await?;
        return Err(error.into());
    }
    sent(None)
}

/// A task that is sent again.
enum Call {
    /// As it was sent.
    Message(Box<Message>),
    /// By its name and arguments.
    Signature(Signature),
}

impl Call {
    /// Sends it. Returns its id.
    async fn send(self, client: &Client) -> Result<String, ClientError> {
        Ok(match self {
            Self::Message(message) => client.send_message(*message).await?.id().to_owned(),
            Self::Signature(signature) => client.send(signature).await?.id().to_owned(),
        })
    }
}

/// Returns the call that a result came from, where it keeps that.
fn signature_of(stored: &TaskResult, id: Option<&str>) -> Option<Signature> {
    let extended = stored.extended.as_ref()?;
    let mut signature: Signature = Signature::named(extended.name.as_deref()?);
    if let Some(id) = id {
        signature = signature.task_id(id);
    }
    for arg in extended.args.as_list()? {
        signature = signature.arg(arg);
    }
    for (key, value) in extended.kwargs.as_map().into_iter().flat_map(|kwargs| kwargs.iter()) {
        signature = signature.kwarg(key, value);
    }
    Some(match &extended.queue {
        Some(queue) => signature.queue(queue),
        None => signature,
    })
}

/// Tasks to be called off.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CancelRequest {
    /// The tasks, as they were found.
    pub tasks: Vec<TaskInfo>,
    /// Ids that nobody knows, which are called off too: a message that was given to a worker is in
    /// no queue.
    pub unknown: Vec<String>,
    /// Also end those that run: the signal for their processes.
    pub signal: Option<String>,
}

impl CancelRequest {
    /// Looks up these tasks, to call them off.
    ///
    /// # Errors
    /// A store cannot be reached, or refuses.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by asking.
    pub async fn ids(client: &Client, ids: &[String]) -> Result<Self, OpsError> {
        let tasks = each(client, ids).await?;
        Ok(Self::of(tasks, ids))
    }

    /// Calls off tasks that were found, and those of the ids that were not.
    pub fn of(tasks: Vec<TaskInfo>, ids: &[String]) -> Self {
        let unknown = ids.iter().filter(|id| !tasks.iter().any(|task| task.id == **id)).cloned().collect();
        Self { tasks, unknown, signal: None }
    }

    /// Ends those that run, too, with this signal.
    #[must_use]
    pub fn terminate(self, signal: impl Into<String>) -> Self {
        Self { signal: Some(signal.into()), ..self }
    }
}

/// Report of what came of calling tasks off.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Cancelled {
    /// Tasks that are not started any more. One that a worker has runs on if it runs already, where
    /// no signal was asked for.
    pub called_off: Vec<TaskInfo>,
    /// Tasks that were not called off, and why.
    pub refused: Vec<RefusedTask>,
}

/// A task that was not called off, or not asked to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RefusedTask {
    /// The task's id.
    pub id: String,
    /// Reason that it was not.
    pub why: CancelRefusal,
}

/// Reason that a task was not called off, or not asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CancelRefusal {
    /// It is a dead letter, which nobody runs.
    Dead,
    /// It has succeeded.
    Success,
    /// It has failed.
    Failure,
    /// It was called off before.
    Revoked,
    /// It does not run yet: it cannot be asked to end, only be called off.
    Waits,
}

/// Returns why a task that stands so is not called off; `None` where it is. Pure.
fn refusal(standing: TaskStanding) -> Option<CancelRefusal> {
    match standing {
        TaskStanding::Dead => Some(CancelRefusal::Dead),
        TaskStanding::Success => Some(CancelRefusal::Success),
        TaskStanding::Failure => Some(CancelRefusal::Failure),
        TaskStanding::Revoked => Some(CancelRefusal::Revoked),
        _ => None,
    }
}

/// Calls tasks off: nobody starts them any more, workers that come later included, and whoever
/// waits for one that has not begun is told at once. Tasks that have ended are left alone.
///
/// # Errors
/// A store cannot be reached, or refuses: some may be called off already, and doing it again does
/// no harm.
///
/// # Cancel safety
/// What is cancelled may have been done, in part or as a whole.
pub async fn cancel(client: &Client, request: &CancelRequest) -> Result<Cancelled, OpsError> {
    let (mut done, mut documents) = (Cancelled::default(), Vec::new());
    for task in &request.tasks {
        match refusal(task.standing) {
            Some(why) => done.refused.push(RefusedTask { id: task.id.clone(), why }),
            None => {
                if matches!(task.standing, TaskStanding::Waiting | TaskStanding::Retry | TaskStanding::Later) {
                    documents.push(document(task.id.clone(), revoked(task).encode()));
                }
                done.called_off.push(task.clone());
            }
        }
    }
    let mut ids: Vec<String> = done.called_off.iter().map(|task| task.id.clone()).collect();
    ids.extend(request.unknown.iter().cloned());
    if !ids.is_empty() {
        // First what holds for whoever looks later, then who is there now.
        client.connected().shared()?.revoke(&ids).await?;
        client.results().store(&documents).await?;
        let action = WorkerAction::Revoke { ids, signal: request.signal.clone() };
        workers::inspect(client, action.request(), &WorkersRequest::default()).await?;
    }
    Ok(done)
}

/// Report of what came of asking tasks to end.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Aborted {
    /// Tasks that were asked. One that does not look goes on, and its result says how it ended.
    pub asked: Vec<TaskInfo>,
    /// Tasks that were not asked, and why.
    pub refused: Vec<RefusedTask>,
}

/// Returns why a task that stands so is not asked to end; `None` where it is. Pure.
fn unasked(standing: TaskStanding) -> Option<CancelRefusal> {
    match standing {
        TaskStanding::Waiting | TaskStanding::Retry | TaskStanding::Later => Some(CancelRefusal::Waits),
        standing => refusal(standing),
    }
}

/// Asks tasks that run to end by themselves, as Celery's `AbortableAsyncResult` does: their result
/// says `ABORTED`, and a task made of `AbortableTask` looks at that. Any other task goes on.
///
/// # Errors
/// Invalid: results are sent to whoever asks (`rpc://`), where no task can look. The result backend
/// cannot be reached, or refuses; of a transient error it is unknown who was asked, and doing it
/// again does no harm.
///
/// # Cancel safety
/// What is cancelled may have been done.
pub async fn abort(client: &Client, tasks: &[TaskInfo]) -> Result<Aborted, OpsError> {
    if client.connected().results.reply_queue().is_some() {
        let why = "results are sent to whoever asks for them (rpc://): a task that is to look whether it was aborted needs a result backend \
                   that keeps them (SQLite, Redis); cancel and end it instead";
        return Err(OpsError::Invalid(why.to_owned()));
    }
    let (mut done, mut documents) = (Aborted::default(), Vec::new());
    for task in tasks {
        match unasked(task.standing) {
            Some(why) => done.refused.push(RefusedTask { id: task.id.clone(), why }),
            None => {
                documents.push(document(task.id.clone(), aborted(task).encode()));
                done.asked.push(task.clone());
            }
        }
    }
    client.results().store(&documents).await?;
    Ok(done)
}

/// Returns the result of a task that is asked to end.
fn aborted(task: &TaskInfo) -> TaskResult {
    TaskResult { state: State::Other("ABORTED".to_owned()), result: Value::Null, date_done: None, ..revoked(task) }
}

/// Returns the result of a task that nobody will run.
fn revoked(task: &TaskInfo) -> TaskResult {
    let known = task.stored.clone().unwrap_or_else(|| TaskResult { task_id: task.id.clone(), ..TaskResult::default() });
    TaskResult {
        state: State::Revoked,
        result: Exception::revoked("revoked").to_value(),
        traceback: None,
        children: Value::List(Vec::new()),
        date_done: Some(SystemTime::now()),
        ..known
    }
}

#[cfg(test)]
mod tests {
    use longshore_celery::Extended;

    use super::*;

    #[test]
    fn what_has_ended_is_not_called_off() {
        for standing in TaskStanding::ALL {
            let ended = standing.has_ended() || standing == TaskStanding::Dead;
            assert_eq!(refusal(standing).is_some(), ended, "{standing:?}");
            let runs = matches!(standing, TaskStanding::Started | TaskStanding::Held | TaskStanding::Other);
            assert_eq!(unasked(standing).is_none(), runs, "{standing:?}");
        }
    }

    #[test]
    fn a_result_is_sent_again_where_it_keeps_its_call() {
        let extended = Extended { name: Some("shop.add".into()), args: vec![Value::Int(1)].into(), ..Extended::default() };
        let nameless = Extended { name: None, ..extended.clone() };
        let without = Extended { args: Value::Null, ..extended.clone() };
        for (extended, known) in [(Some(extended), true), (Some(nameless), false), (Some(without), false), (None, false)] {
            let stored = TaskResult { extended, ..TaskResult::default() };
            assert_eq!(signature_of(&stored, Some("i")).is_some(), known, "{stored:?}");
        }
    }
}

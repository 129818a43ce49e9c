//! Tasks: what waits, runs, is dead or has ended, as far as brokers, results and workers know it;
//! to send again and to call off.
//!
//! `tasks/standing.rs`: how a task stands; `tasks/find.rs`: which are meant, and where they are;
//! `tasks/kept.rs`: messages of what has failed; `tasks/act.rs`: what is done with them

mod act;
mod find;
mod kept;
mod standing;

use std::time::SystemTime;

use longshore_brokers::QueueState;
use longshore_celery::TaskResult;
use longshore_worker::Client;
use serde::Serialize;

pub use self::{
    act::{Aborted, CancelRefusal, CancelRequest, Cancelled, RefusedTask, RetryDone, RetryRefusal, abort, cancel, retry},
    find::{LOOKED_AT, TaskInfo, TaskList, TasksRequest, each, list},
    standing::TaskStanding,
};
use crate::{
    error::OpsError,
    message::{CallArguments, MessageBrief},
    wire::{self, json_of},
};

/// A result as it is stored.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ResultInfo {
    /// The task's id.
    pub task_id: String,
    /// The result's state: `SUCCESS`, `FAILURE`, …
    pub status: String,
    /// The value that the task returned, or how it failed.
    pub result: serde_json::Value,
    /// Traceback of its failure, as its worker tells.
    pub traceback: Option<String>,
    /// Moment at which it ended.
    #[serde(serialize_with = "wire::some_moment")]
    pub date_done: Option<SystemTime>,
}

impl ResultInfo {
    /// Reads a result of this task.
    pub fn of(id: &str, stored: &TaskResult) -> Self {
        Self {
            task_id: id.to_owned(),
            status: stored.state.as_str().to_owned(),
            result: json_of(&stored.result),
            traceback: stored.traceback.clone(),
            date_done: stored.date_done,
        }
    }
}

/// One task with its result and its message.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TaskDetail {
    /// The task, as lists have it.
    #[serde(flatten)]
    pub info: TaskInfo,
    /// Its stored result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<ResultInfo>,
    /// Its message as text (what is no UTF-8 replaced), if a broker has it or a store has kept it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its queue, if a broker has its message.
    #[serde(skip)]
    pub queue_state: Option<QueueState>,
}

impl TaskDetail {
    /// Returns the arguments that it was called with, where its message or its result holds them.
    pub fn arguments(&self) -> Option<CallArguments> {
        let of_message = self.message.as_ref().and_then(|message| CallArguments::read(message.as_bytes()));
        of_message.or_else(|| CallArguments::of_result(self.info.stored.as_ref()?))
    }
}

/// Looks up one task.
///
/// # Errors
/// [`OpsError::unknown`] for one that nobody knows; a store cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn show(client: &Client, id: &str) -> Result<TaskDetail, OpsError> {
    let found = each(client, &[id.to_owned()]).await?.pop();
    let mut info = found.ok_or_else(|| OpsError::unknown(client.connected(), id))?;
    let kept = kept::message(client, &info).await?;
    if let Some(raw) = &kept {
        info.describe(MessageBrief::read(raw));
    }
    let raw = info.found.as_ref().map(|found| &found.raw).or(info.letter.as_ref().map(|letter| &letter.raw)).or(kept.as_ref());
    let mut queue_state = None;
    if let Some(found) = &info.found {
        let states = client.broker().queues(&[found.queue.as_str().into()]).await?;
        queue_state = states.into_iter().find(|state| state.name == found.queue);
    }
    Ok(TaskDetail {
        stored: info.stored.as_ref().map(|stored| ResultInfo::of(id, stored)),
        message: raw.map(|raw| String::from_utf8_lossy(raw).into_owned()),
        queue_state,
        info,
    })
}

//! The flags that say which tasks are meant.

use std::time::Duration;

use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use longshore_ops::tasks::{LOOKED_AT, TaskList, TaskStanding, TasksRequest};

use crate::units;

/// Choice of tasks: those for which all of it is true.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Ids of tasks
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// In these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', ignore_case = true, value_parser = standings())]
    pub state: Vec<TaskStanding>,
    /// Of this task; `shop.*` is all that begin so
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Of this queue
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// With this text in the error, or in the reason of a dead letter
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    /// Whose last news is not older than this; of what only waits there is none
    #[arg(long, value_name = "DUR", value_parser = units::duration)]
    pub since: Option<Duration>,
}

/// Reads how a task stands, by its word or another that people use for it, in any case.
fn standings() -> impl TypedValueParser<Value = TaskStanding> {
    let values = TaskStanding::ALL.map(value);
    let of = |word: String| TaskStanding::ALL.into_iter().find(|standing| value(*standing).matches(&word, true));
    PossibleValuesParser::new(values).map(move |word| of(word).unwrap_or(TaskStanding::Other))
}

fn value(standing: TaskStanding) -> PossibleValue {
    let others: &[&str] = match standing {
        TaskStanding::Started => &["running"],
        TaskStanding::Waiting => &["pending"],
        TaskStanding::Failure => &["failed"],
        TaskStanding::Revoked => &["cancelled", "canceled"],
        TaskStanding::Success => &["succeeded", "ok"],
        _ => &[],
    };
    PossibleValue::new(standing.word()).aliases(others.iter().copied()).help(standing.meaning())
}

impl Which {
    /// Asks for these tasks, at most so many.
    pub(super) fn request(&self, most: usize) -> TasksRequest {
        let Self { ids, state, task, queue, error, since } = self.clone();
        let mut request = TasksRequest::ids(ids);
        (request.standing, request.task, request.queue) = (state, task, queue);
        (request.error, request.since, request.most) = (error, since, most);
        request
    }
}

/// Returns what was not looked at, for people.
pub(super) fn notes(list: &TaskList) -> Vec<String> {
    let mut notes = Vec::new();
    let count = |count: usize| units::show_count(count as u64);
    if list.nameless > 0 {
        notes.push(format!(
            "{} results name neither task nor queue, so they were passed over (Celery's workers name them with `result_extended`)",
            count(list.nameless)
        ));
    }
    if list.unreadable > 0 {
        notes.push(format!("{} results cannot be read", count(list.unreadable)));
    }
    for queue in &list.cut {
        notes.push(format!("of queue {queue} only the first {} were looked at", count(LOOKED_AT)));
    }
    notes
}

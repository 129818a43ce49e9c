//! A task's message as its templates and its program see it:
//! `{"id":…,"task":…,"args":[…],"kwargs":{…},"attempt":1}`.

use std::{ffi::OsString, sync::Arc};

use longshore_celery::{Map, Value};
use longshore_worker::{Call, TaskContext};

use longshore_run::{
    record::{Origin, Record, Unit, of_task},
    template::Vars,
};

/// Returns the origin with which the errors of its records begin.
pub(super) fn origin(task: &str) -> Arc<Origin> {
    Arc::new(Origin { name: task.into(), unit: Unit::Task })
}

/// The attempt, from 1.
pub(super) fn attempt(context: &TaskContext) -> u32 {
    context.retries().saturating_add(1)
}

/// The task as JSON, on one line.
pub(super) fn json(context: &TaskContext, call: &Call) -> Vec<u8> {
    let mut map = Map::default();
    map.set("id", context.id());
    map.set("task", context.task());
    map.set("args", Value::List(call.args.clone()));
    map.set("kwargs", call.kwargs.clone());
    map.set("attempt", i64::from(attempt(context)));
    Value::Map(map).to_json()
}

/// The task as a record of templates.
pub(super) fn record(origin: &Arc<Origin>, context: &TaskContext, call: &Call) -> Record {
    of_task(origin, &json(context, call))
}

/// Returns what templates know beside the record.
pub(super) fn vars(context: &TaskContext) -> Vars<'static> {
    Vars { slot: context.slot() as usize + 1, attempt: attempt(context), extra: &[] }
}

/// Returns the variables that tell every child about its task.
pub(super) fn told(context: &TaskContext) -> [(OsString, OsString); 4] {
    [
        ("LONGSHORE_TASK".into(), context.task().into()),
        ("LONGSHORE_TASK_ID".into(), context.id().into()),
        ("LONGSHORE_ATTEMPT".into(), attempt(context).to_string().into()),
        ("LONGSHORE_SLOT".into(), (context.slot() + 1).to_string().into()),
    ]
}

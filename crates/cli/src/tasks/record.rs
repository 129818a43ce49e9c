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
    Value::Map(members(context, call)).to_json()
}

/// The same for a child that serves many tasks: with its place in a trace, where it has one.
pub(super) fn line(context: &TaskContext, call: &Call) -> Vec<u8> {
    let mut map = members(context, call);
    if let Some(trace) = context.trace() {
        map.set("traceparent", trace.parent());
        trace.state().into_iter().for_each(|state| map.set("tracestate", state));
    }
    Value::Map(map).to_json()
}

fn members(context: &TaskContext, call: &Call) -> Map {
    let mut map = Map::default();
    map.set("id", context.id());
    map.set("task", context.task());
    map.set("args", Value::List(call.args.clone()));
    map.set("kwargs", call.kwargs.clone());
    map.set("attempt", i64::from(attempt(context)));
    map
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
pub(super) fn told(context: &TaskContext) -> Vec<(OsString, OsString)> {
    let mut told = vec![
        ("LONGSHORE_TASK".into(), context.task().into()),
        ("LONGSHORE_TASK_ID".into(), context.id().into()),
        ("LONGSHORE_ATTEMPT".into(), attempt(context).to_string().into()),
        ("LONGSHORE_SLOT".into(), (context.slot() + 1).to_string().into()),
    ];
    if let Some(trace) = context.trace() {
        told.push(("TRACEPARENT".into(), trace.parent().into()));
        // Of another trace it would be wrong.
        told.push(("TRACESTATE".into(), trace.state().unwrap_or_default().into()));
    }
    told
}

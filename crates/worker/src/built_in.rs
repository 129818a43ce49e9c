//! The tasks that every Celery worker has. What a canvas needs of them is sent by name, also by
//! Python clients.

mod chord_unlock;

use std::sync::Arc;

use futures_util::FutureExt;
use longshore_celery::{Map, Value};
use longshore_core::LaneKind;

use crate::{
    args::{Arguments, Call, Parameter},
    failure::Failure,
    task::{Handler, Task, context::TaskContext},
};

/// Returns all of them.
pub(crate) fn tasks() -> Vec<Task> {
    vec![
        Task::plain("celery.accumulate", |_, call| accumulate(call)).on(LaneKind::Async),
        Task::plain("celery.backend_cleanup", |_, _| Ok(Value::Null)).on(LaneKind::Async),
        Task::plain("celery.ping", |_, _| Ok("pong".into())).on(LaneKind::Async),
        Task::future("celery.map", |context, call| async move { map(context, call, false).await }),
        Task::future("celery.starmap", |context, call| async move { map(context, call, true).await }),
        Task::future("celery.chunks", chunks),
        chord_unlock(),
        stub("celery.group"),
        stub("celery.chain"),
        stub("celery.chord"),
    ]
}

/// Makes the task that looks whether a chord is complete, as often as it takes; nobody waits for
/// its result.
fn chord_unlock() -> Task {
    let mut task = Task::future("celery.chord_unlock", chord_unlock::unlock);
    (task.policy.max_retries, task.policy.ignore_result) = (None, true);
    task
}

/// Makes a task that fails, as Celery's of this name does when a worker is given it: a canvas is
/// taken apart before it is sent.
fn stub(name: &'static str) -> Task {
    Task::plain(name, move |_, _| {
        Err(Failure::error("NotImplementedError", format!("{name} is a canvas, not a task: send what it is made of")))
    })
    .on(LaneKind::Async)
}

/// Runs `accumulate(*args, index=None)`: returns its arguments, or the one at `index`.
fn accumulate(mut call: Call) -> Result<Value, Failure> {
    match call.kwargs.remove("index") {
        None | Some(Value::Null) => Ok(Value::List(call.args)),
        Some(Value::Int(index)) => {
            let length = i64::try_from(call.args.len()).unwrap_or(i64::MAX);
            let place = if index < 0 { index.saturating_add(length) } else { index };
            usize::try_from(place)
                .ok()
                .filter(|&place| place < call.args.len())
                .map(|place| call.args.swap_remove(place))
                .ok_or_else(|| Failure::error("IndexError", "tuple index out of range"))
        }
        Some(_) => Err(Failure::error("TypeError", "the index of celery.accumulate is not an integer")),
    }
}

/// Runs `xmap(task, it)` or `xstarmap(task, it)`: the task, once for each item, in this attempt and
/// one after the other. As in Celery, of a signature only the name counts here.
async fn map(context: TaskContext, call: Call, star: bool) -> Result<Value, Failure> {
    const PARAMETERS: &[Parameter] = &[Parameter::required("task"), Parameter::required("it")];
    let mut arguments = Arguments::bind(if star { "xstarmap" } else { "xmap" }, PARAMETERS, call)?;
    let task = task_of(&context, &arguments.take_value())?;
    let items = list(arguments.take_value())?;
    Ok(Value::List(apply(&context, &task, items, star).await?))
}

/// Runs `chunks(task, it, n)`: a starmap, its results in lists of `n`.
async fn chunks(context: TaskContext, call: Call) -> Result<Value, Failure> {
    const PARAMETERS: &[Parameter] = &[Parameter::required("task"), Parameter::required("it"), Parameter::required("n")];
    let mut arguments = Arguments::bind("chunks", PARAMETERS, call)?;
    let task = task_of(&context, &arguments.take_value())?;
    let mut items = list(arguments.take_value())?.into_iter();
    let size = arguments.take::<u32>()?.max(1) as usize;
    let mut results = Vec::new();
    while items.len() > 0 {
        let part = items.by_ref().take(size).collect();
        results.push(Value::List(apply(&context, &task, part, true).await?));
    }
    Ok(Value::List(results))
}

async fn apply(context: &TaskContext, task: &Arc<Task>, items: Vec<Value>, star: bool) -> Result<Vec<Value>, Failure> {
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        if context.is_cancelled() {
            return Err(Failure::Ignore);
        }
        let args = if star { list(item)? } else { vec![item] };
        results.push(run(context, task, Call { args, kwargs: Map::default() }).await?);
    }
    Ok(results)
}

/// Returns the task that a signature, or its name, means.
fn task_of(context: &TaskContext, signature: &Value) -> Result<Arc<Task>, Failure> {
    let name = match signature {
        Value::Text(name) => Some(name.as_str()),
        Value::Map(signature) => match signature.get("task") {
            Some(Value::Text(name)) => Some(name.as_str()),
            _ => None,
        },
        _ => None,
    };
    let name = name.ok_or_else(|| Failure::error("TypeError", "the task of a map is neither a name nor a signature"))?;
    context.registry().task_named(name).cloned().ok_or_else(|| Failure::error("NotRegistered", name).in_module("celery.exceptions"))
}

/// Runs a task's handler within another's attempt. What may block goes to a thread that may.
async fn run(context: &TaskContext, task: &Arc<Task>, call: Call) -> Result<Value, Failure> {
    match &task.handler {
        Handler::Async(handler) => handler(context.clone(), call).await,
        Handler::Sync(handler) => {
            let (handler, context) = (handler.clone(), context.clone());
            tokio::task::spawn_blocking(move || handler(context, call)).map(|ended| ended.unwrap_or_else(|error| Err(error.into()))).await
        }
    }
}

fn list(value: Value) -> Result<Vec<Value>, Failure> {
    match value {
        Value::List(list) => Ok(list),
        _ => Err(Failure::error("TypeError", "not a list: a map takes a list of items, and a starmap a list of lists of arguments")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        environment::Environment,
        settings::Settings,
        task::{context::ContextParts, registry::TaskRegistry},
    };
    use longshore_celery::Message;
    use longshore_core::CancelToken;

    fn context() -> TaskContext {
        let double = Task::plain("double", |_, mut call| match call.args.pop() {
            Some(Value::Int(number)) => Ok(Value::Int(2 * number)),
            _ => Err(Failure::error("TypeError", "no number")),
        });
        let tasks = tasks().into_iter().chain([double]).map(|task| (task.name.clone(), Arc::new(task))).collect();
        let registry = TaskRegistry {
            tasks,
            commands: std::collections::HashMap::new(),
            acks: crate::task::Acks::Late,
            settings: Settings::default(),
            environment: Environment::SYSTEM,
            schedules: Vec::new(),
            is_configured: false,
        };
        TaskContext::new(ContextParts {
            message: Arc::new(Message::default()),
            registry: Arc::new(registry),
            lane: LaneKind::Async,
            slot: 1,
            cancel: CancelToken::new(),
            soft: CancelToken::new(),
            time_limit: None,
            soft_time_limit: None,
            client: None,
            trace: None,
            node: "w@here".into(),
        })
    }

    fn numbers(numbers: &[i64]) -> Value {
        numbers.to_vec().into()
    }

    async fn call(task: &str, args: Vec<Value>) -> Result<Value, Failure> {
        let context = context();
        let task = context.registry().task_named(task).unwrap().clone();
        run(&context, &task, Call { args, kwargs: Map::default() }).await
    }

    #[tokio::test]
    async fn map_starmap_and_chunks_run_the_task_for_each_item() {
        let pairs = || Value::List(vec![numbers(&[1]), numbers(&[2]), numbers(&[3])]);
        let signature = Value::Map(Map(vec![("task".to_owned(), "double".into())]));
        assert_eq!(call("celery.map", vec!["double".into(), numbers(&[1, 2])]).await, Ok(numbers(&[2, 4])));
        assert_eq!(call("celery.starmap", vec![signature, pairs()]).await, Ok(numbers(&[2, 4, 6])));
        let chunks = Value::List(vec![numbers(&[2, 4]), numbers(&[6])]);
        assert_eq!(call("celery.chunks", vec!["double".into(), pairs(), 2.into()]).await, Ok(chunks));
        for (args, says) in [
            (vec!["no.such".into(), numbers(&[1])], "NotRegistered: no.such"),
            (vec!["double".into(), Value::List(vec!["x".into()])], "TypeError: no number"),
            (vec!["double".into()], "TypeError: xmap() missing 1 required positional argument: 'it'"),
            (vec![1.into(), numbers(&[1])], "TypeError: the task of a map is neither a name nor a signature"),
        ] {
            assert_eq!(call("celery.map", args).await.unwrap_err().to_string(), says);
        }
    }

    #[tokio::test]
    async fn accumulate_gives_its_arguments_or_one_of_them() {
        for (index, want) in
            [(Value::Null, Some(numbers(&[7, 8]))), (0.into(), Some(7.into())), ((-1).into(), Some(8.into())), (2.into(), None)]
        {
            let kwargs = Map(vec![("index".to_owned(), index)]);
            assert_eq!(accumulate(Call { args: vec![7.into(), 8.into()], kwargs }).ok(), want);
        }
        assert_eq!(call("celery.accumulate", vec![7.into()]).await, Ok(numbers(&[7])));
    }
}

//! `celery.chord_unlock`: what a client sends whose result backend cannot count the parts of a
//! chord. It looks whether they all have ended; until then it asks for another attempt.

use std::time::Duration;

use longshore_brokers::{ChordPart, Key, Stored};
use longshore_celery::{
    Exception, ResultTree, State, TaskResult, Value, WireSignature,
    canvas::{self, ChordOutcome, ChordParts, FailedTask},
};

use super::list;
use crate::{
    answer::LONGEST,
    args::{Arguments, Call, Parameter},
    client::Client,
    error::ClientError,
    failure::Failure,
    task::context::TaskContext,
};

/// Celery's time between two looks, unless the client says another.
const INTERVAL: Duration = Duration::from_secs(1);

/// `unlock_chord(group_id, callback, interval=None, max_retries=None, result=None)`
pub(super) async fn unlock(context: TaskContext, mut call: Call) -> Result<Value, Failure> {
    const PARAMETERS: &[Parameter] = &[
        Parameter::required("group_id"),
        Parameter::required("callback"),
        Parameter::optional("interval"),
        Parameter::optional("max_retries"),
        Parameter::optional("result"),
    ];
    // How Celery's own worker publishes; ours has queues alone.
    call.kwargs.remove("_chord_unlock_exchange_type");
    let mut arguments = Arguments::bind("unlock_chord", PARAMETERS, call)?;
    let _group: String = arguments.take()?;
    let body = WireSignature::from_value(arguments.take_value()).map_err(|error| Failure::error("ValueError", error.to_string()))?;
    let interval: Option<f64> = arguments.take_or(|| None)?;
    let max_retries: Option<u32> = arguments.take_or(|| None)?;
    let parts = match arguments.take_value() {
        Value::Null => Vec::new(),
        parts => list(parts)?,
    };
    let parts = parts.iter().map(ResultTree::from_value).collect::<Result<Vec<_>, _>>();
    let header =
        ResultTree { children: Some(parts.map_err(|error| Failure::error("ValueError", error.to_string()))?), ..ResultTree::default() };
    // Not all have ended: look again later, as often as the sender of the chord allows.
    let client = context.client()?;
    let Some(results) = ended(&header, client).await? else {
        let after = interval.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(INTERVAL);
        return Err(Failure::Retry { after: Some(after), why: None, max_retries, call: None });
    };
    // As the worker does that counts the last part: the body is sent, or fails with a part's error.
    let message = context.message();
    let parts = ChordParts::Counted(&results);
    let outcome =
        canvas::chord_complete(message, &body, &parts, &client.canvas(Some(message)), &mut || (client.environment().id)(), &|errback| {
            context.registry().told(errback)
        });
    match outcome.map_err(|error| Failure::error("ValueError", format!("the chord's body cannot be sent: {error}")))? {
        ChordOutcome::Body(plan) => drop(client.publish(plan).await.map_err(ClientError::from)?),
        ChordOutcome::Error(failure) => {
            for (failed, exception) in &failure.failed {
                fail(failed, exception, client).await?;
            }
            client.publish(failure.plan).await.map_err(ClientError::from)?;
        }
    }
    Ok(Value::Null)
}

/// The parts of a chord as they would have been counted, if all have ended. A part that is a group
/// is one part.
async fn ended(header: &ResultTree, client: &Client) -> Result<Option<Vec<Value>>, Failure> {
    let mut ids = Vec::new();
    leaves(header, &mut ids);
    let keys: Vec<Key> = ids.iter().cloned().map(Key::Task).collect();
    let docs = client.results().get(&keys).await.map_err(ClientError::from)?;
    let mut known = std::collections::HashMap::new();
    for (id, doc) in ids.into_iter().zip(docs) {
        match doc.and_then(|doc| TaskResult::decode(&doc, LONGEST).ok()).filter(|result| result.state.is_ready()) {
            Some(result) => drop(known.insert(id, result)),
            None => return Ok(None),
        }
    }
    let look = |id: &str| known.get(id).map(|result| (result.state.clone(), result.result.clone()));
    let part = |part: &ResultTree| {
        let (state, result) = match (look(&part.id), canvas::joined(part, &look)) {
            // Its own result, be it that it has failed.
            (Some(own), _) if part.children.is_none() => own,
            (_, Ok(result)) => (State::Success, result),
            (_, Err(exception)) => (State::Failure, exception.to_value()),
        };
        Value::List(vec![1.into(), part.id.as_str().into(), state.as_str().into(), result])
    };
    Ok(Some(header.children.iter().flatten().map(part).collect()))
}

fn leaves(node: &ResultTree, into: &mut Vec<String>) {
    match &node.children {
        Some(members) => members.iter().for_each(|member| leaves(member, into)),
        None => into.push(node.id.clone()),
    }
}

/// Whoever waits for a task that will never run is told, and its own chord.
async fn fail(failed: &FailedTask, exception: &Exception, client: &Client) -> Result<(), Failure> {
    let expires = client.settings().result_expires;
    let result = TaskResult {
        task_id: failed.id.clone(),
        state: State::Failure,
        result: exception.to_value(),
        traceback: Some(format!("{exception}\n")),
        date_done: Some(client.environment().wall()),
        group_id: failed.group_id.clone(),
        parent_id: failed.parent_id.clone(),
        children: Value::List(failed.children.iter().map(ResultTree::to_value).collect()),
        ..TaskResult::default()
    };
    let stored =
        Stored { key: Key::Task(failed.id.clone()), doc: result.encode(), expires, keep_success: true, reply_to: failed.reply_to.clone() };
    client.results().store(&[stored]).await.map_err(ClientError::from)?;
    let Some(part) = &failed.part else { return Ok(()) };
    let member = Value::List(vec![1.into(), failed.id.as_str().into(), State::Failure.as_str().into(), exception.to_value()]);
    let counted = ChordPart {
        group: part.group.clone(),
        id: failed.id.clone(),
        index: part.index,
        member: member.to_json(),
        expires: expires.unwrap_or(Duration::from_secs(86_400)),
        token: (client.environment().id)().replace('-', ""),
    };
    client.results().chord_part(&counted).await.map_err(ClientError::from)?;
    Ok(())
}

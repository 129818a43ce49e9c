//! A task that puts another in its place, that adds to its chord, that is to run again.

use std::time::{Duration, SystemTime};

use super::{
    CanvasError,
    after::sent_by,
    build::pipe,
    builtin::ACCUMULATE,
    freeze::{GivenIds, Planner},
    plan::{Context, Plan},
    send::times_of,
    tree::{Shape, Tree, extend, listed},
};
use crate::{
    message::{Message, is_known_header},
    repr::{REPR_LENGTH, args_repr, kwargs_repr},
    signature::{Subtask, WireSignature},
    value::Map,
};

/// Plans what is sent when a running task is replaced: the signature takes over its id, its group
/// and chord, its callbacks, its errbacks and the rest of its chain. Nothing is stored for the task
/// itself.
///
/// # Errors
/// The signature makes no sense, is an empty chain, or is a part of a chord of its own.
pub fn replace(
    message: &Message,
    signature: &WireSignature,
    context: &Context<'_>,
    ids: &mut dyn FnMut() -> String,
) -> Result<Plan, CanvasError> {
    let context = sent_by(message, context);
    let mut planner = Planner::new(&context, ids);
    let mut tree = Tree::from_signature(signature)?;
    if tree.chord.is_some() {
        return Err(CanvasError::Refused("A signature replacing a task must not be part of a chord"));
    }
    // Whoever waits for the task gets one result: a group's are joined by a task behind it.
    match &mut tree.shape {
        Shape::Chain(tasks) if tasks.is_empty() => return Err(CanvasError::Refused("Cannot replace with an empty chain")),
        Shape::Chain(tasks) => {
            if let Some(last) = tasks.pop() {
                let grouped = matches!(last.shape, Shape::Group(_));
                tasks.push(if grouped { pipe(last, accumulated()) } else { last });
            }
        }
        Shape::Group(_) => tree = pipe(tree, accumulated()),
        _ => {}
    }
    message.callbacks.iter().for_each(|callback| tree.link(callback.to_value()));
    message.errbacks.iter().for_each(|errback| tree.link_error(&errback.to_value()));
    let nesting = message.replaced_task_nesting.saturating_add(1);
    if let Shape::Chain(tasks) = &mut tree.shape
        && tree.options.get("link").is_some()
    {
        // Down to the last task, so that they run at the right time whatever comes after the chain.
        let links = listed(&tree.options, "link");
        tree.options.remove("link");
        if let Some(last) = tasks.last_mut() {
            extend(&mut last.options, "link", &links);
        }
    }
    // What comes back stands under the id of the task that is replaced.
    planner.freeze(&mut tree, GivenIds { id: Some(&message.id), ..GivenIds::default() });
    tree.chord.clone_from(&message.chord);
    tree.options.set("group_id", message.group.as_deref());
    tree.options.set("group_index", message.group_index);
    tree.options.set("root_id", message.root_id.as_deref());
    tree.options.set("replaced_task_nesting", nesting);
    if let Shape::Chain(tasks) = &mut tree.shape {
        tasks.iter_mut().for_each(|task| task.options.set("replaced_task_nesting", nesting));
    }
    // The rest of the task's own chain follows, the next step last in the list.
    for next in message.chain.iter().flatten().rev() {
        let mut next = Tree::from_signature(next)?;
        next.options.set("replaced_task_nesting", nesting);
        tree = pipe(tree, next);
    }
    let place = planner.begin(tree, &[], &Map::default(), true)?;
    Ok(planner.plan(place))
}

/// Returns the task that makes one result of a replacing group's results: the list of them.
fn accumulated() -> Tree {
    let mut tree = Tree::new(ACCUMULATE, Shape::Task);
    tree.kwargs.set("index", 0);
    tree
}

/// Plans what is sent when a running task adds one more part to the chord that it is a part of. The
/// chord [grows](Plan::grown) first.
///
/// # Errors
/// The task is in no chord, or the signature makes no sense.
pub fn add_to_chord(
    message: &Message,
    signature: &WireSignature,
    context: &Context<'_>,
    ids: &mut dyn FnMut() -> String,
) -> Result<Plan, CanvasError> {
    let (Some(chord), Some(group)) = (&message.chord, &message.group) else {
        return Err(CanvasError::Refused("the task is not a part of a chord"));
    };
    let context = sent_by(message, context);
    let mut planner = Planner::new(&context, ids);
    let mut tree = Tree::from_signature(signature)?;
    tree.options.set("group_id", group.as_str());
    tree.options.set("group_index", message.group_index);
    tree.chord = Some(chord.clone());
    tree.options.set("root_id", message.root_id.as_deref());
    planner.freeze(&mut tree, GivenIds::default());
    planner.grown = Some(group.clone());
    let place = planner.begin(tree, &[], &Map::default(), true)?;
    Ok(planner.plan(place))
}

/// The message of a task's next attempt: the same task in every way, not to be started before
/// `when`.
pub fn retry(message: &Message, when: Option<SystemTime>) -> Message {
    let mut next = message.clone();
    next.retries = message.retries.saturating_add(1);
    next.eta = when;
    next.parent_id = message.parent_id.clone().or_else(|| Some(message.id.clone()));
    next.root_id = message.root_id.clone().or_else(|| Some(message.id.clone()));
    next.redelivered = false;
    // How long that message was to live is not said of this one.
    next.properties.remove("expiration");
    // What a broker noted of its way so far is not the task's.
    next.headers
        .0
        .retain(|(name, _)| !name.starts_with("x-death") && !name.starts_with("x-first-death") && !name.starts_with("x-last-death"));
    next
}

/// The message of a task's next attempt with the arguments of this call of it, and the options that
/// the call has; and the queue, where it names one. Without `countdown` and `eta` it is not to be
/// started before `when`.
///
/// # Errors
/// It is a call of another task, a time cannot be read, or it has an option that one attempt has
/// nothing to do with, such as `link`.
pub fn retry_as(
    message: &Message,
    when: SystemTime,
    call: &WireSignature,
    now: SystemTime,
) -> Result<(Message, Option<String>), CanvasError> {
    if call.task != message.task || call.subtask != Subtask::Task {
        let why =
            format!("a retry is another attempt of {}, and not {}: a replacement would put that in its place", message.task, call.task);
        return Err(CanvasError::Malformed(why));
    }
    let options = &call.options;
    // `expires` of nothing: it does not expire any more.
    let times = Map(options.0.iter().filter(|(_, value)| !value.is_null()).cloned().collect());
    let (eta, expires) = times_of(&call.task, &times, now)?;
    let mut next = retry(message, Some(eta.unwrap_or(when)));
    let mut queue = None;
    for (name, value) in &options.0 {
        let seconds = || value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match name.as_str() {
            "countdown" | "eta" => {}
            "expires" => next.expires = expires,
            "queue" | "routing_key" => queue = value.as_str().map(str::to_owned),
            "priority" => next.priority = value.as_i64().and_then(|priority| u8::try_from(priority.clamp(0, 255)).ok()),
            "soft_time_limit" => next.soft_time_limit = seconds(),
            "time_limit" => next.time_limit = seconds(),
            "ignore_result" => next.ignore_result = value.as_bool(),
            "shadow" => next.shadow = value.as_str().map(str::to_owned),
            "headers" => {
                let own = value.as_map().into_iter().flat_map(Map::iter).filter(|(name, _)| !is_known_header(name));
                own.for_each(|(name, value)| next.headers.set(name, value.clone()));
            }
            other => return Err(CanvasError::Malformed(format!("a retry of {} cannot have the option {other}", message.task))),
        }
    }
    (next.argsrepr, next.kwargsrepr) = (Some(args_repr(&call.args, REPR_LENGTH)), Some(kwargs_repr(&call.kwargs, REPR_LENGTH)));
    (next.args, next.kwargs) = (call.args.clone(), call.kwargs.clone());
    Ok((next, queue))
}

//! What a finished task sends on, and whom its failure reaches.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use super::{
    CanvasError, DEEPEST,
    freeze::Planner,
    plan::{Context, Parent, Plan},
    tree::{Shape, Tree, text},
};
use crate::{
    message::{Message, times},
    result::{Exception, ResultTree},
    signature::{Subtask, WireSignature},
    value::{Map, Value},
};

/// Consequences of a task's failure, beside its own result and its own part of a chord, which the
/// caller stores and tells first.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct FailurePlan {
    /// Tasks that come after it and now never will: FAILURE with the same exception, in this order.
    pub failed: Vec<FailedTask>,
    /// Errbacks that are called [here](ErrbackStyle::Here) and now.
    pub call: Vec<WireSignature>,
    /// Errbacks that are sent as tasks.
    pub plan: Plan,
}

/// Way in which an errback is told that a task has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrbackStyle {
    /// It is sent as a task, with the id of the one that failed.
    Id,
    /// It is sent as a task, with the request of the one that failed (an object, its `id` among its
    /// members), its exception as results have it, and its traceback: the three that Celery's
    /// workers call errbacks with, as JSON has them.
    Error,
    /// It is called in this process, with the same.
    Here,
}

/// A task that has failed because something before it did.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedTask {
    /// Its id.
    pub id: String,
    /// The group that it would have been in, for its result.
    pub group_id: Option<String>,
    /// Id of the task that would have sent it, for its result.
    pub parent_id: Option<String>,
    /// Its part in a chord: to be counted as failed, unless the task has a stored failure already.
    pub part: Option<FailedPart>,
    /// Queue of whoever waits for it, for a backend that sends results.
    pub reply_to: Option<String>,
    /// Everything that was sent because of its failure, for the `children` of its result.
    pub children: Vec<ResultTree>,
}

/// A part of a chord that will never end otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedPart {
    /// The chord's header.
    pub group: String,
    /// The part's place in it.
    pub index: Option<i64>,
    /// The chord's body.
    pub chord: Arc<WireSignature>,
}

/// Plans what a task sends when it has succeeded: its callbacks, then the next link of its chain.
/// Sent before its result is stored, because the result holds the [children](Plan::children).
///
/// # Errors
/// One of these signatures makes no sense.
pub fn after_success(
    message: &Message,
    retval: &Value,
    context: &Context<'_>,
    ids: &mut dyn FnMut() -> String,
) -> Result<Plan, CanvasError> {
    let context = sent_by(message, context);
    let mut planner = Planner::new(&context, ids);
    let args = std::slice::from_ref(retval);
    let mut call = lineage(&message.id, message.root_id.as_deref().unwrap_or(&message.id));
    match &message.callbacks[..] {
        [] => {}
        [only] => _ = planner.begin(Tree::from_signature(only)?, args, &call, true)?,
        several => {
            let trees = several.iter().map(Tree::from_signature).collect::<Result<Vec<_>, _>>()?;
            let (groups, tasks): (Vec<_>, Vec<_>) = trees.into_iter().partition(|tree| matches!(tree.shape, Shape::Group(_)));
            for group in groups {
                planner.begin(group, args, &call, true)?;
            }
            if !tasks.is_empty() {
                planner.begin(Tree::group(tasks), args, &call, true)?;
            }
        }
    }
    if let Some((next, rest)) = message.chain.as_deref().and_then(<[_]>::split_last) {
        call.set("chain", Value::List(rest.iter().map(WireSignature::to_value).collect()));
        planner.begin(Tree::from_signature(next)?, args, &call, true)?;
    }
    Ok(planner.plan(None))
}

/// Plans what follows when a task has failed for good. `told` says how errbacks (by name) are told.
///
/// # Errors
/// One of its errbacks makes no sense.
pub fn after_failure(
    message: &Message,
    exception: &Exception,
    traceback: Option<&str>,
    context: &Context<'_>,
    ids: &mut dyn FnMut() -> String,
    told: &dyn Fn(&str) -> ErrbackStyle,
) -> Result<FailurePlan, CanvasError> {
    let context = sent_by(message, context);
    let mut planner = Planner::new(&context, ids);
    let root = message.root_id.as_deref().unwrap_or(&message.id);
    let failed = FailedRun { id: &message.id, root, message: Some(message), exception, traceback };
    let call = planner.errbacks(&message.errbacks, &failed, told)?;
    let failed = failed_chain(message.chain.as_deref().unwrap_or_default());
    Ok(FailurePlan { failed, call, plan: planner.plan(None) })
}

impl Planner<'_> {
    /// Sends the errbacks that are tasks elsewhere; gives back those that are called here.
    pub(super) fn errbacks(
        &mut self,
        errbacks: &[WireSignature],
        failed: &FailedRun<'_>,
        told: &dyn Fn(&str) -> ErrbackStyle,
    ) -> Result<Vec<WireSignature>, CanvasError> {
        let all = |how: ErrbackStyle| {
            let told = move |errback: &&WireSignature| match errback.subtask {
                Subtask::Task => told(&errback.task) == how,
                _ => how == ErrbackStyle::Id,
            };
            errbacks.iter().filter(told)
        };
        for how in [ErrbackStyle::Error, ErrbackStyle::Id] {
            let trees = all(how).map(Tree::from_signature).collect::<Result<Vec<_>, _>>()?;
            if !trees.is_empty() {
                let args = match how {
                    ErrbackStyle::Error => vec![failed.request().into(), failed.exception.to_value(), failed.traceback.into()],
                    _ => vec![failed.id.into()],
                };
                self.begin(Tree::group(trees), &args, &lineage(failed.id, failed.root), true)?;
            }
        }
        Ok(all(ErrbackStyle::Here).cloned().collect())
    }

    /// Returns what was sent up to now.
    pub(super) fn children(&self) -> Vec<ResultTree> {
        self.trail.iter().map(|place| self.node(*place)).collect()
    }
}

/// Failed task that errbacks are told of.
pub(super) struct FailedRun<'a> {
    pub(super) id: &'a str,
    pub(super) root: &'a str,
    /// `None` for what was never sent.
    pub(super) message: Option<&'a Message>,
    pub(super) exception: &'a Exception,
    pub(super) traceback: Option<&'a str>,
}

impl FailedRun<'_> {
    fn request(&self) -> Map {
        self.message.map_or_else(|| Map::from_iter([("id", self.id)]), request_of)
    }
}

/// A task's request, as far as its message has it, by the names that Celery's tasks know.
fn request_of(message: &Message) -> Map {
    let way = [("exchange", message.exchange.as_str()), ("routing_key", message.routing_key.as_str())];
    let limits = [message.time_limit, message.soft_time_limit].map(|limit| limit.map(|limit| limit.as_secs_f64()));
    let time = |time: Option<SystemTime>| time.map(times::format);
    Map::from_iter([
        ("id", Value::from(message.id.as_str())),
        ("task", message.task.as_str().into()),
        ("args", Value::List(message.args.clone())),
        ("kwargs", message.kwargs.clone().into()),
        ("root_id", message.root_id.as_deref().into()),
        ("parent_id", message.parent_id.as_deref().into()),
        ("group", message.group.as_deref().into()),
        ("group_index", message.group_index.into()),
        ("retries", message.retries.into()),
        ("eta", time(message.eta).into()),
        ("expires", time(message.expires).into()),
        ("timelimit", limits.to_vec().into()),
        ("reply_to", message.reply_to.as_deref().into()),
        ("correlation_id", message.correlation_id.as_deref().unwrap_or(&message.id).into()),
        ("origin", message.origin.as_deref().into()),
        ("headers", message.headers.clone().into()),
        ("delivery_info", Map::from_iter(way).into()),
    ])
}

/// The context of what this task sends.
pub(super) fn sent_by<'a>(message: &'a Message, context: &Context<'a>) -> Context<'a> {
    let priority = context.parent.and_then(|parent| parent.priority);
    Context { parent: Some(Parent { priority, ..Parent::of(message) }), ..*context }
}

fn lineage(parent: &str, root: &str) -> Map {
    Map(vec![("parent_id".to_owned(), parent.into()), ("root_id".to_owned(), root.into())])
}

/// The elements of a chain that will never run, and the bodies of the chords among them: whoever
/// waits for those has to be told.
pub(super) fn failed_chain(chain: &[WireSignature]) -> Vec<FailedTask> {
    let mut waiting: VecDeque<(WireSignature, usize)> = chain.iter().map(|element| (element.clone(), DEEPEST)).collect();
    let mut failed = Vec::new();
    while let Some((element, depth)) = waiting.pop_front() {
        failed.extend(failed_task(&element));
        if element.subtask == Subtask::Chord
            && let Some(body) = element.kwargs.get("body")
            && let Ok(body) = WireSignature::from_value(body.clone())
            && let Some(depth) = depth.checked_sub(1)
        {
            waiting.push_back((body, depth));
        }
    }
    failed
}

fn failed_task(element: &WireSignature) -> Option<FailedTask> {
    let options = &element.options;
    let group_id = text(options, "group_id").map(str::to_owned);
    let chord = options.get("chord").and_then(|chord| WireSignature::from_value(chord.clone()).ok()).map(Arc::new);
    let index = options.get("group_index").and_then(Value::as_i64);
    let part = group_id.clone().zip(chord).map(|(group, chord)| FailedPart { group, index, chord });
    let parent_id = text(options, "parent_id").map(str::to_owned);
    let reply_to = text(options, "reply_to").map(str::to_owned);
    Some(FailedTask { id: text(options, "task_id")?.to_owned(), group_id, parent_id, part, reply_to, children: Vec::new() })
}

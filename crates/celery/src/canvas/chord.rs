//! A chord all of whose parts have ended.

use super::{
    CanvasError,
    after::{ErrbackStyle, FailedRun, FailedTask, failed_chain, sent_by},
    freeze::{GivenIds, Planner},
    plan::{Context, Plan},
    tree::{Shape, Tree, listed, text},
};
use crate::{
    message::Message,
    repr::repr,
    result::{Exception, ResultTree, State},
    signature::WireSignature,
    value::{Map, Value},
};

/// Results of a chord's parts, or the failures among them.
#[derive(Clone, Debug, PartialEq)]
pub enum ChordParts<'a> {
    /// The parts as they were counted, in order, each `[1, "<id>", "<state>", <result>]`.
    Counted(&'a [Value]),
    /// The results in the nesting of the header, where that was [saved](super::ChordStart::saved):
    /// what [`joined`] gave.
    Joined(Result<Value, Exception>),
}

/// The next step when all parts of a chord have ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ChordOutcome {
    /// The body is sent.
    Body(Plan),
    /// A part has failed: the body never runs.
    Error(ChordFailure),
}

/// A chord that has failed.
#[derive(Clone, Debug, PartialEq)]
pub struct ChordFailure {
    /// Whoever would have run, each with its exception: FAILURE, in this order.
    pub failed: Vec<(FailedTask, Exception)>,
    /// Errbacks that are called here and now: the id of the task that failed, its exception, the
    /// errback.
    pub call: Vec<(String, Exception, WireSignature)>,
    /// Errbacks that are sent as tasks, with the id of the task that failed.
    pub plan: Plan,
}

/// The results of a saved header, nested as it is. `look` gives the state and the result (or the
/// exception) that is stored under a task's id.
///
/// # Errors
/// The exception of the first task that failed, or a `TimeoutError` where nothing is stored.
pub fn joined(saved: &ResultTree, look: &dyn Fn(&str) -> Option<(State, Value)>) -> Result<Value, Exception> {
    match &saved.children {
        Some(members) => members.iter().map(|member| joined(member, look)).collect::<Result<Vec<_>, _>>().map(Value::List),
        None => match look(&saved.id) {
            Some((state, result)) if is_failure(&state) => Err(failure(&result)),
            Some((_, result)) => Ok(result),
            None => Err(celery("TimeoutError", "The operation timed out.")),
        },
    }
}

/// Plans what follows when all parts of a chord have ended. `message` is the task whose end
/// completed it, `chord` the body that it carries. `told` says how errbacks (by name) are told.
///
/// # Errors
/// The body makes no sense.
pub fn chord_complete(
    message: &Message,
    chord: &WireSignature,
    parts: &ChordParts<'_>,
    context: &Context<'_>,
    ids: &mut dyn FnMut() -> String,
    told: &dyn Fn(&str) -> ErrbackStyle,
) -> Result<ChordOutcome, CanvasError> {
    let context = sent_by(message, context);
    let mut planner = Planner::new(&context, ids);
    let body = Tree::from_signature(chord)?;
    let wrong = match results(parts) {
        Ok(results) => {
            planner.begin(body, &[results], &Map::default(), true)?;
            return Ok(ChordOutcome::Body(planner.plan(None)));
        }
        Err(wrong) => wrong,
    };
    planner.chord_error(body, *wrong, told).map(ChordOutcome::Error)
}

/// The reason why a chord fails: its own exception, and that of the part that failed.
struct ChordFault {
    error: Exception,
    original: Exception,
}

impl ChordFault {
    /// Celery does not remember the exception behind this one.
    fn joining(original: &Exception) -> Box<Self> {
        let error = celery("ChordError", &format!("Join error: {original}"));
        Box::new(Self { original: error.clone(), error })
    }
}

fn results(parts: &ChordParts<'_>) -> Result<Value, Box<ChordFault>> {
    match parts {
        ChordParts::Joined(Ok(results)) => Ok(results.clone()),
        ChordParts::Joined(Err(original)) => Err(ChordFault::joining(original)),
        ChordParts::Counted(parts) => parts.iter().map(part).collect::<Result<Vec<_>, _>>().map(Value::List),
    }
}

fn part(part: &Value) -> Result<Value, Box<ChordFault>> {
    match part.as_list() {
        Some([_, Value::Text(id), Value::Text(state), result]) if is_failure(&state.as_str().into()) => {
            let original = failure(result);
            Err(Box::new(ChordFault { error: Exception::chord(id, &original), original }))
        }
        Some([_, Value::Text(_), Value::Text(_), result]) => Ok(result.clone()),
        _ => Err(ChordFault::joining(&Exception::builtin("ValueError", format!("not a part of a chord: {}", repr(part))))),
    }
}

fn is_failure(state: &State) -> bool {
    matches!(state, State::Failure | State::Revoked)
}

/// The exception that is stored, or one that says what is stored instead.
fn failure(stored: &Value) -> Exception {
    Exception::from_value(stored).unwrap_or_else(|| Exception::builtin("Exception", stored.clone()))
}

fn celery(kind: &str, text: &str) -> Exception {
    Exception::new("celery.exceptions", kind, vec![text.into()])
}

impl Planner<'_> {
    fn chord_error(mut self, mut body: Tree, wrong: ChordFault, told: &dyn Fn(&str) -> ErrbackStyle) -> Result<ChordFailure, CanvasError> {
        let ChordFault { error, original } = wrong;
        let mut failed = Vec::new();
        let mut call = Vec::new();
        // A body that is a group fails member by member: each has an id that somebody may wait for.
        if matches!(body.shape, Shape::Group(_)) {
            let place = self.freeze(&mut body, GivenIds::default());
            let group_errbacks = listed(&body.options, "link_error");
            let Shape::Group(tasks) = &body.shape else { return Err(CanvasError::Refused("not a group")) };
            let own: Vec<(Option<String>, Vec<Value>)> = tasks.iter().map(result_errbacks).collect();
            let members = self.members_of(place).unwrap_or_default().to_vec();
            for member in members {
                let id = self.id_of(member).to_owned();
                // Those of the member and of its group, each once.
                let mut errbacks: Vec<Value> = Vec::new();
                let its = own.iter().find(|(own, _)| own.as_deref() == Some(&id)).map(|(_, errbacks)| errbacks.as_slice());
                for errback in its.unwrap_or_default().iter().chain(&group_errbacks) {
                    if !errbacks.contains(errback) {
                        errbacks.push(errback.clone());
                    }
                }
                let errbacks = errbacks.into_iter().map(WireSignature::from_value).collect::<Result<Vec<_>, _>>()?;
                let here = self.errbacks(&errbacks, &never_run(&id, &original), told)?;
                call.extend(here.into_iter().map(|errback| (id.clone(), original.clone(), errback)));
                failed.push((FailedTask { children: self.children(), ..alone(id) }, original.clone()));
            }
            failed.push((FailedTask { children: self.children(), ..alone(self.id_of(place).to_owned()) }, original.clone()));
        } else {
            let id = text(&body.options, "task_id").map_or_else(|| (self.ids)(), str::to_owned);
            let errbacks = listed(&body.options, "link_error").into_iter().map(WireSignature::from_value).collect::<Result<Vec<_>, _>>()?;
            let here = self.errbacks(&errbacks, &never_run(&id, &error), told)?;
            call.extend(here.into_iter().map(|errback| (id.clone(), error.clone(), errback)));
            // The body may itself be a part of a chord, or a chord with a body that somebody waits
            // for.
            body.options.set("task_id", id);
            let bodies = failed_chain(&[body.to_signature()]).into_iter();
            let children = self.children();
            failed.extend(bodies.map(|task| {
                let children = children.clone();
                (FailedTask { group_id: None, parent_id: None, children, ..task }, error.clone())
            }));
        }
        // What follows the body will never run, either.
        let rest = listed(&body.options, "chain").into_iter().map(WireSignature::from_value).collect::<Result<Vec<_>, _>>()?;
        failed.extend(failed_chain(&rest).into_iter().map(|task| (task, error.clone())));
        Ok(ChordFailure { failed, call, plan: self.plan(None) })
    }
}

fn alone(id: String) -> FailedTask {
    FailedTask { id, group_id: None, parent_id: None, part: None, reply_to: None, children: Vec::new() }
}

/// The failure of a task that was never sent: nothing is known of its request but the id.
fn never_run<'a>(id: &'a str, exception: &'a Exception) -> FailedRun<'a> {
    FailedRun { id, root: id, message: None, exception, traceback: None }
}

/// The id of what a member of a group comes to, and the errbacks that its failure is told to.
fn result_errbacks(tree: &Tree) -> (Option<String>, Vec<Value>) {
    let mut errbacks = listed(&tree.options, "link_error");
    let id = || text(&tree.options, "task_id").map(str::to_owned);
    match &tree.shape {
        Shape::Chord(chord) => match &chord.body {
            Some(body) => {
                let (id, more) = result_errbacks(body);
                errbacks.extend(more);
                (id, errbacks)
            }
            None => (id(), errbacks),
        },
        Shape::Group(tasks) => {
            tasks.iter().for_each(|task| errbacks.extend(result_errbacks(task).1));
            (id(), errbacks)
        }
        _ => (id(), errbacks),
    }
}

//! What becomes of a task, in Celery's words: documents, follow-ups, parts of chords. Nothing is
//! stored or sent in here.
//!
//! The order that clients count on is the finishing step's (`close.rs`): callbacks and the next
//! link are sent, the result is stored, the chord's part is counted, the message is acknowledged.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use longshore_brokers::{ChordPart, End, Key, Outgoing, Stored, crash::MOST_CRASHES, refused_queue};
use longshore_celery::{
    BadMessage, Encoding, Exception, Extended, Message, ResultTree, State, TaskResult, TraceContext, Value, WireSignature,
    canvas::{self, CanvasError, ChordStart, FailedTask, Plan},
    mark_crashed, repr,
};
use longshore_core::{
    Finished, Receipt,
    watch::{Counts, Detail},
};

use super::{
    close::Closing,
    notice::TaskChange,
    shared::Shared,
    verdict::{Verdict, verdict},
    work::{AttemptResult, ClaimedTask, TaskTicket},
};
use crate::{failure::Failure, outgoing, spans::SendSpans};

/// Reason why a task is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnrunReason {
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
    /// Nobody here knows its task.
    Unknown,
    /// This many workers died while it ran.
    Crashed(u32),
}

/// All that is stored and sent when a task ends, and the end of its message.
pub(crate) struct Conclusion {
    /// Chords whose size must be known before anything is sent.
    pub(crate) starts: Vec<ChordStart>,
    pub(crate) publish: Vec<Outgoing>,
    /// Spans of what is published.
    pub(crate) spans: SendSpans,
    pub(crate) results: Vec<Stored>,
    /// Its part of its chord, and those of tasks that will never run because it has failed.
    pub(crate) parts: Vec<(ChordPart, Arc<WireSignature>)>,
    pub(crate) end: End,
    /// Change that is told of it, if anybody listens.
    pub(crate) what: Option<TaskChange>,
    /// Counts that go up when it is closed.
    pub(crate) counted: &'static [CountField],
    /// Time for which its attempt ran, and for which it waited for a slot before that.
    pub(crate) times: Option<(Duration, Duration)>,
}

/// One of the numbers of a worker's summary.
pub(crate) type CountField = fn(&mut Counts) -> &mut u64;

impl Conclusion {
    pub(crate) fn new(end: End) -> Self {
        Self {
            starts: Vec::new(),
            publish: Vec::new(),
            spans: SendSpans::default(),
            results: Vec::new(),
            parts: Vec::new(),
            end,
            what: None,
            counted: &[],
            times: None,
        }
    }

    pub(crate) fn add(&mut self, shared: &Shared, plan: Plan) {
        self.starts.extend(plan.starts);
        for send in plan.sends {
            self.starts.extend(send.before);
            let spans = (shared.client.maker(), &mut self.spans);
            self.publish.push(outgoing::of(shared.app.settings(), send.message, &send.routing, spans));
        }
    }
}

/// A task that is being concluded, with all that is known of it.
struct TaskCase<'a> {
    shared: &'a Shared,
    message: &'a Message,
    queue: &'a Arc<str>,
    ignores_result: bool,
    children: Vec<ResultTree>,
    runtime: Option<Duration>,
    now: SystemTime,
    /// Place of its attempt's span, where it has one.
    place: Option<&'a TraceContext>,
}

/// Concludes an attempt that has ended.
pub(crate) fn ended(shared: &Shared, finished: Finished<TaskTicket, AttemptResult>) -> Option<Closing> {
    let times = (finished.run(), finished.wait());
    let Finished { task, outcome, .. } = finished;
    let TaskTicket(work) = task.payload?;
    let message = work.message.clone();
    let case = TaskCase {
        shared,
        message: &message,
        queue: &work.queue,
        ignores_result: message.ignore_result.unwrap_or(work.task.policy.ignore_result),
        children: work.context.get().map(|context| context.children()).unwrap_or_default(),
        runtime: work.started().map(|_| times.0),
        now: shared.environment.wall(),
        place: work.own_place(),
    };
    let mut conclusion = match verdict(outcome, &work.task.policy, message.retries, shared.environment.draw()) {
        Verdict::Success(value) => case.success(value),
        Verdict::Failure(failure) => case.failure(&failure, End::Ack),
        Verdict::FailureKept(failure) => {
            let reason = format!("failed, and its task acknowledges successes only: {failure}");
            case.failure(&failure, End::Dead { reason })
        }
        Verdict::Retry { after, why, call } => case.retry(after, &why, call.as_deref()),
        Verdict::Revoked(why) => case.revoked(why, work.signal()),
        Verdict::Ignore => Conclusion { what: Some(TaskChange::Ignored), ..Conclusion::new(End::Ack) },
        Verdict::Requeue => case.requeue(&work),
        Verdict::HandBack => Conclusion::new(End::Back { front: true }),
        Verdict::Reject(reason) => {
            let exception = Exception::reject(reason.as_str(), false);
            case.failed(&exception, None, End::Dead { reason: format!("rejected by its task: {reason}") })
        }
        Verdict::Replace(signature) => case.replace(&signature),
        Verdict::Crashed(reason) => case.crashed(&work, &reason),
    };
    conclusion.times = work.started().map(|_| times);
    let (receipt, term) = (work.owed(), work.term);
    work.ending.store(!matches!(conclusion.end, End::Back { .. }), Ordering::Release);
    Some(Closing { receipt, term, queue: work.queue.clone(), message: Some(message), work: Some(work), conclusion })
}

/// Concludes a message that is not run.
pub(crate) fn unrun(shared: &Shared, message: Arc<Message>, receipt: Receipt, queue: Arc<str>, why: UnrunReason) -> Closing {
    let task = shared.app.task_named(&message.task);
    let case = TaskCase {
        shared,
        message: &message,
        queue: &queue,
        ignores_result: message.ignore_result.unwrap_or_else(|| task.is_some_and(|task| task.policy.ignore_result)),
        children: Vec::new(),
        runtime: None,
        now: shared.environment.wall(),
        place: None,
    };
    let conclusion = match why {
        UnrunReason::Expired => case.revoked("expired", None),
        UnrunReason::Revoked => case.revoked("revoked", None),
        UnrunReason::Unknown => {
            let reason = format!("no task is named {} here: register it, or send it to a queue whose workers know it", message.task);
            case.failed(&Exception::not_registered(&message.task), None, End::Junk { reason })
        }
        UnrunReason::Crashed(crashes) => {
            let reason = format!("{crashes} workers died while it ran");
            let exception = Exception::worker_lost(&format!("Worker exited prematurely: {reason}"));
            case.failed(&exception, None, End::Dead { reason })
        }
    };
    Closing { receipt: Some(receipt), term: None, queue, message: Some(message), work: None, conclusion }
}

/// Concludes a message that was lent again although its task has succeeded: what followed its
/// result may not have been sent.
pub(crate) fn already(shared: &Shared, message: Arc<Message>, receipt: Option<Receipt>, queue: Arc<str>, result: TaskResult) -> Closing {
    let case = TaskCase {
        shared,
        message: &message,
        queue: &queue,
        ignores_result: true,
        children: Vec::new(),
        runtime: None,
        now: shared.environment.wall(),
        place: None,
    };
    // In one store what follows is sent in the step that stores the result, with its ids. Otherwise
    // the result is stored first, and nobody knows whether what it names was sent.
    let has_followed = shared.one_store && result.children.as_list().is_some_and(|children| !children.is_empty());
    let mut conclusion = if has_followed {
        let mut conclusion = Conclusion::new(End::Ack);
        conclusion.parts.extend(case.part(&State::Success, &result.result));
        conclusion
    } else {
        case.success(result.result)
    };
    // It was somebody else who ran it, and who counts it.
    conclusion.what = None;
    conclusion.counted = &[];
    Closing { receipt, term: None, queue, message: Some(message), work: None, conclusion }
}

/// Concludes a message that cannot be read. Whoever waits for it is told, if its id could be read.
pub(crate) fn bad(shared: &Shared, bad: &BadMessage, receipt: Receipt, queue: Arc<str>) -> Closing {
    let mut conclusion = Conclusion::new(End::Junk { reason: bad.reason.clone() });
    if let Some(id) = &bad.id {
        let message = Message { id: id.clone(), task: bad.task.clone().unwrap_or_default(), ..Message::default() };
        let case = TaskCase {
            shared,
            message: &message,
            queue: &queue,
            ignores_result: false,
            children: Vec::new(),
            runtime: None,
            now: shared.environment.wall(),
            place: None,
        };
        let exception = Exception::new("kombu.exceptions", "DecodeError", vec![bad.reason.as_str().into()]);
        conclusion.results.push(case.document(State::Failure, exception.to_value(), None));
    }
    conclusion.what = Some(TaskChange::Dead { reason: bad.reason.clone() });
    conclusion.counted = &[|counts| &mut counts.dead];
    Closing { receipt: Some(receipt), term: None, queue, message: None, work: None, conclusion }
}

/// Concludes once more what a store has refused: whatever was asked for, it has failed, with the
/// reason, and its message is a dead letter.
pub(crate) fn refused(shared: &Shared, closing: &Closing, why: &str) -> Conclusion {
    let first = &closing.conclusion;
    let text = match &first.end {
        End::Dead { reason } | End::Junk { reason } => format!("{reason}; and how it ends is refused: {why}"),
        End::Ack | End::Back { .. } | End::Keep => format!("its result, or what follows it, is refused: {why}"),
    };
    let reason = text.clone();
    let end = if matches!(first.end, End::Junk { .. }) { End::Junk { reason } } else { End::Dead { reason } };
    let Some(message) = &closing.message else {
        let mut conclusion = Conclusion::new(end);
        conclusion.what.clone_from(&first.what);
        conclusion.counted = first.counted;
        return conclusion;
    };
    let task = shared.app.task_named(&message.task);
    let case = TaskCase {
        shared,
        message,
        queue: &closing.queue,
        ignores_result: message.ignore_result.unwrap_or_else(|| task.is_some_and(|task| task.policy.ignore_result)),
        children: Vec::new(),
        runtime: None,
        now: shared.environment.wall(),
        place: None,
    };
    let exception = Exception::new("kombu.exceptions", "OperationalError", vec![text.into()]);
    let mut conclusion = case.failed(&exception, None, end);
    // A success of its own that was stored before what follows was refused.
    conclusion
        .results
        .iter_mut()
        .filter(|stored| stored.key == Key::Task(message.id.clone()))
        .for_each(|stored| stored.keep_success = false);
    conclusion
}

impl TaskCase<'_> {
    /// The document of a result.
    fn document(&self, state: State, result: Value, traceback: Option<String>) -> Stored {
        let message = self.message;
        let ready = state.is_ready();
        let settings = self.shared.app.settings();
        let document = TaskResult {
            task_id: message.id.clone(),
            state,
            result,
            traceback,
            children: Value::List(self.children.iter().map(ResultTree::to_value).collect()),
            date_done: ready.then_some(self.now),
            group_id: message.group.clone(),
            parent_id: message.parent_id.clone(),
            // Who ran what is always said: a list of what has ended names it.
            extended: match settings.result_extended {
                true => Some(self.extended()),
                false => ready.then(|| self.brief()),
            },
            ..TaskResult::default()
        };
        let reply_to = message.reply_to.clone();
        Stored {
            key: Key::Task(message.id.clone()),
            doc: document.encode(),
            expires: settings.result_expires,
            keep_success: true,
            reply_to,
        }
    }

    fn brief(&self) -> Extended {
        Extended {
            name: Some(self.message.task.clone()),
            worker: Some(self.shared.node.to_string()),
            queue: Some(self.queue.to_string()),
            ..Extended::default()
        }
    }

    /// Its message as it goes back to its queue, for whoever sends it again. A dead letter has its
    /// own.
    fn keep(&self, conclusion: &mut Conclusion) {
        if matches!(conclusion.end, End::Ack) && !self.ignores_result {
            let doc = self.shared.to_queue(self.message.clone(), self.queue.clone()).raw;
            let expires = self.shared.app.settings().result_expires;
            conclusion.results.push(Stored {
                key: Key::Message(self.message.id.clone()),
                doc,
                expires,
                keep_success: false,
                reply_to: None,
            });
        }
    }

    fn extended(&self) -> Extended {
        let message = self.message;
        Extended {
            name: Some(message.task.clone()),
            args: Value::List(message.args.clone()),
            kwargs: Value::Map(message.kwargs.clone()),
            worker: Some(self.shared.node.to_string()),
            retries: Some(message.retries.into()),
            queue: Some(self.queue.to_string()),
            stamps: message.stamps.clone(),
        }
    }

    /// Its part of its chord, with the body that follows.
    fn part(&self, state: &State, result: &Value) -> Option<(ChordPart, Arc<WireSignature>)> {
        let (group, chord) = (self.message.group.as_ref()?, self.message.chord.as_ref()?);
        Some((self.shared.chord_part(group, &self.message.id, self.message.group_index, state, result), chord.clone()))
    }

    fn success(mut self, value: Value) -> Conclusion {
        let mut conclusion = Conclusion::new(End::Ack);
        let message = self.message;
        if !message.callbacks.is_empty() || message.chain.as_ref().is_some_and(|chain| !chain.is_empty()) {
            match self.shared.plan(self.place, |context, ids| canvas::after_success(message, &value, context, ids)) {
                Ok(plan) => {
                    self.children.extend(plan.children.iter().cloned());
                    conclusion.add(self.shared, plan);
                }
                Err(error) => return self.senseless(&error),
            }
        }
        if !self.ignores_result {
            conclusion.results.push(self.document(State::Success, value.clone(), None));
        }
        conclusion.parts.extend(self.part(&State::Success, &value));
        if self.shared.hub.wants(Detail::Tasks) {
            conclusion.what = Some(TaskChange::Succeeded { runtime: self.runtime.unwrap_or_default(), result: repr(&value) });
        }
        conclusion.counted = &[|counts| &mut counts.ok];
        conclusion
    }

    /// Concludes a task whose follow-ups make no sense: that is its failure, since nothing of them
    /// can be sent.
    fn senseless(self, error: &CanvasError) -> Conclusion {
        let exception = Exception::builtin("ValueError", format!("what follows this task cannot be sent: {error}"));
        let reason = format!("what follows it cannot be sent: {error}");
        let mut conclusion = Conclusion::new(End::Dead { reason });
        if !self.ignores_result {
            conclusion.results.push(self.document(State::Failure, exception.to_value(), None));
        }
        conclusion.parts.extend(self.part(&State::Failure, &exception.to_value()));
        self.count_failure(&mut conclusion, &exception, None);
        conclusion
    }

    fn failure(self, failure: &Failure, end: End) -> Conclusion {
        let (exception, traceback) = exception_of(failure);
        self.failed(&exception, traceback, end)
    }

    fn failed(mut self, exception: &Exception, traceback: Option<String>, end: End) -> Conclusion {
        let mut conclusion = Conclusion::new(end);
        let message = self.message;
        let result = exception.to_value();
        let traceback = traceback.or_else(|| Some(format!("{exception}\n")));
        let told = |errback: &str| self.shared.app.registry().told(errback);
        let follows = self
            .shared
            .plan(self.place, |context, ids| canvas::after_failure(message, exception, traceback.as_deref(), context, ids, &told));
        let follows = match follows {
            Ok(follows) => follows,
            Err(error) => return self.senseless(&error),
        };
        self.children.extend(follows.plan.children.iter().cloned());
        if !self.ignores_result {
            conclusion.results.push(self.document(State::Failure, result.clone(), traceback.clone()));
        }
        self.keep(&mut conclusion);
        conclusion.parts.extend(self.part(&State::Failure, &result));
        for failed in &follows.failed {
            self.shared.fail(failed, exception, &mut conclusion, self.now);
        }
        conclusion.add(self.shared, follows.plan);
        self.count_failure(&mut conclusion, exception, traceback);
        conclusion
    }

    fn count_failure(&self, conclusion: &mut Conclusion, exception: &Exception, traceback: Option<String>) {
        let is_dead = matches!(conclusion.end, End::Dead { .. } | End::Junk { .. });
        conclusion.counted =
            if is_dead { &[|counts| &mut counts.failed, |counts| &mut counts.dead] } else { &[|counts| &mut counts.failed] };
        conclusion.what = Some(TaskChange::Failed { runtime: self.runtime, exception: exception.to_string(), traceback });
    }

    fn retry(mut self, after: Duration, why: &Failure, call: Option<&WireSignature>) -> Conclusion {
        let mut conclusion = Conclusion::new(End::Ack);
        let (exception, traceback) = exception_of(why);
        let cannot = |why: &str| Exception::builtin("ValueError", format!("it cannot be tried again: {why}"));
        let when = self.now + after;
        let (mut next, queue) = match call.map(|call| canvas::retry_as(self.message, when, call, self.now)) {
            None => (canvas::retry(self.message, Some(when)), None),
            Some(Ok(next)) => next,
            Some(Err(error)) => return self.failed(&cannot(&error.to_string()), None, End::Ack),
        };
        if let Some(why) = queue.as_deref().and_then(refused_queue) {
            return self.failed(&cannot(&why), None, End::Ack);
        }
        let queue = queue.map_or_else(|| self.queue.clone(), Arc::from);
        if let (Some(maker), Some(place)) = (self.shared.client.maker(), self.place) {
            place.put(&mut next.headers);
            conclusion.spans.begin(Some(maker), &mut next, &queue);
        }
        let after = next.eta.and_then(|due| due.duration_since(self.now).ok()).unwrap_or(after);
        conclusion.publish.push(self.shared.to_queue(next, queue));
        if !self.ignores_result {
            self.children.push(ResultTree::task(self.message.id.as_str()));
            let traceback = traceback.unwrap_or_else(|| format!("Retry in {}s: {exception}\n", after.as_secs_f64()));
            conclusion.results.push(self.document(State::Retry, exception.to_value(), Some(traceback)));
        }
        conclusion.what = Some(TaskChange::Retried { exception: exception.to_string(), after });
        conclusion.counted = &[|counts| &mut counts.retries];
        conclusion
    }

    fn revoked(self, why: &'static str, signal: Option<u8>) -> Conclusion {
        let mut conclusion = Conclusion::new(End::Ack);
        let result = Exception::revoked(why).to_value();
        if !self.ignores_result {
            conclusion.results.push(self.document(State::Revoked, result.clone(), None));
        }
        self.keep(&mut conclusion);
        conclusion.parts.extend(self.part(&State::Revoked, &result));
        conclusion.what = Some(TaskChange::Revoked { terminated: why == "terminated", signal, expired: why == "expired" });
        conclusion.counted = if why == "terminated" { &[|counts| &mut counts.cancelled] } else { &[|counts| &mut counts.skipped] };
        conclusion
    }

    fn requeue(self, work: &ClaimedTask) -> Conclusion {
        let mut conclusion = Conclusion::new(End::Back { front: false });
        if work.acked.load(Ordering::Acquire) {
            conclusion.publish.push(self.shared.to_queue(self.message.clone(), self.queue.clone()));
        }
        conclusion.what = Some(TaskChange::Rejected { requeue: true });
        conclusion.counted = &[|counts| &mut counts.handed_back];
        conclusion
    }

    fn replace(self, signature: &WireSignature) -> Conclusion {
        let message = self.message;
        match self.shared.plan(self.place, |context, ids| canvas::replace(message, signature, context, ids)) {
            Ok(plan) => {
                let mut conclusion = Conclusion::new(End::Ack);
                conclusion.add(self.shared, plan);
                conclusion.what = Some(TaskChange::Replaced);
                conclusion
            }
            // As in Celery, where it is the call that fails: the task's own error, and its failure.
            Err(CanvasError::Refused(why)) => {
                self.failed(&Exception::new("celery.exceptions", "ImproperlyConfigured", vec![why.into()]), None, End::Ack)
            }
            Err(error) => self.failed(&Exception::builtin("ValueError", format!("the task cannot be replaced: {error}")), None, End::Ack),
        }
    }

    fn crashed(self, work: &ClaimedTask, reason: &str) -> Conclusion {
        // Its worker lives: this is no worker's death, and counts by itself.
        let crashes = self.message.child_crashes.saturating_add(1);
        if crashes >= MOST_CRASHES {
            let exception = Exception::worker_lost(&format!("Worker exited prematurely: {reason}"));
            return self.failed(&exception, None, End::Dead { reason: format!("what ran it died {crashes} times, last of {reason}") });
        }
        let mut again = self.shared.to_queue(self.message.clone(), self.queue.clone());
        // What was just written has properties; and no sender can set this header.
        if let Ok(marked) = mark_crashed(&again.raw, work.crashes, crashes) {
            again.raw = marked;
        }
        let mut conclusion = Conclusion::new(End::Ack);
        conclusion.publish.push(again);
        conclusion.what = Some(TaskChange::Crashed { reason: reason.to_owned(), crashes });
        conclusion.counted = &[|counts| &mut counts.retries];
        conclusion
    }
}

impl Shared {
    /// Plans with canvas, in this worker's name; what names no trace belongs to this place.
    pub(crate) fn plan<T>(
        &self,
        place: Option<&TraceContext>,
        plan: impl FnOnce(&canvas::Context<'_>, &mut dyn FnMut() -> String) -> Result<T, CanvasError>,
    ) -> Result<T, CanvasError> {
        let defaults = |task: &str| Some(self.app.task_named(task)?.policy.options());
        let (oid, now) = (&self.oid, self.environment.wall());
        let context = canvas::Context { oid, origin: &self.node, now, parent: None, trace: place, defaults: &defaults };
        plan(&context, &mut || (self.environment.id)())
    }

    /// Returns a message as it goes to this queue.
    pub(crate) fn to_queue(&self, mut message: Message, queue: Arc<str>) -> Outgoing {
        message.exchange.clear();
        message.routing_key = queue.to_string();
        Outgoing { exchange: None, priority: message.priority.unwrap_or(0), due: message.eta, raw: message.encode(Encoding::Json), queue }
    }

    pub(crate) fn chord_part(&self, group: &str, id: &str, index: Option<i64>, state: &State, result: &Value) -> ChordPart {
        let member = Value::List(vec![1.into(), id.into(), state.as_str().into(), result.clone()]);
        let mut bytes = Vec::new();
        member.write(&mut bytes);
        ChordPart {
            group: group.to_owned(),
            id: id.to_owned(),
            index,
            member: bytes,
            expires: self.app.settings().result_expires.unwrap_or(Duration::from_secs(86_400)),
            // The same in whichever worker it ends: what completes a chord and comes back from a
            // dead worker takes over the right to send the body, which nobody else has a message
            // for.
            token: format!("{id}@{group}"),
        }
    }

    /// Notes a task that will never run: whoever waits for it is told, and its chord.
    pub(crate) fn fail(&self, failed: &FailedTask, exception: &Exception, conclusion: &mut Conclusion, now: SystemTime) {
        let result = exception.to_value();
        let document = TaskResult {
            task_id: failed.id.clone(),
            state: State::Failure,
            result: result.clone(),
            date_done: Some(now),
            group_id: failed.group_id.clone(),
            parent_id: failed.parent_id.clone(),
            children: Value::List(failed.children.iter().map(ResultTree::to_value).collect()),
            ..TaskResult::default()
        };
        let key = Key::Task(failed.id.clone());
        let (expires, reply_to) = (self.app.settings().result_expires, failed.reply_to.clone());
        conclusion.results.push(Stored { key, doc: document.encode(), expires, keep_success: true, reply_to });
        if let Some(part) = &failed.part {
            let counted = self.chord_part(&part.group, &failed.id, part.index, &State::Failure, &result);
            conclusion.parts.push((counted, part.chord.clone()));
        }
    }
}

/// Returns a failure as Celery has it, with its traceback.
fn exception_of(failure: &Failure) -> (Exception, Option<String>) {
    match failure {
        Failure::Error { exc_type, exc_module, args, traceback } => {
            (Exception::new(exc_module.as_str(), exc_type.as_str(), args.clone()), traceback.clone())
        }
        other => (Exception::builtin("RuntimeError", other.to_string()), None),
    }
}

fn failure_of(exception: Exception) -> Failure {
    Failure::Error { exc_type: exception.exc_type, exc_module: exception.exc_module, args: exception.exc_message, traceback: None }
}

pub(crate) fn soft_time_limit() -> Failure {
    failure_of(Exception::soft_time_limit_exceeded())
}

pub(crate) fn time_limit(limit: Duration) -> Failure {
    failure_of(Exception::time_limit_exceeded(limit.as_secs_f64()))
}

pub(crate) fn max_retries_exceeded(retries: u32) -> Failure {
    failure_of(Exception::max_retries_exceeded(&format!("retried {retries} times, as often as it may be")))
}

pub(crate) fn panicked(text: String) -> Failure {
    failure_of(Exception::new("longshore", "Panic", vec![text.into()]))
}

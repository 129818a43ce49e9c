//! A program as the handler of a task: what it is told of the task, and what its ends mean.

use std::{sync::Arc, time::Duration};

use longshore_celery::Value;
use longshore_core::{
    Context, LaneKind, Outcome, TaskError,
    lane::{
        child::{Command, Exit},
        process::exit_outcome,
    },
};
use longshore_run::{
    http::{Body, HttpReply, ReplyBody, Request},
    pipe::Answer,
    program::{OpenProgram, ProgramEnd, ProgramHandler, ProgramUser},
    record::{Origin, Record},
    reply::Reply,
    template::Vars,
};
use longshore_worker::{Call, Failure, Handler, TaskContext};
use reqwest::Method;

use super::{
    answer::{self, TRY_AGAIN, Told},
    children::{GivenUp, Nursery},
    record::{self, told, vars},
};

/// Time by which a request's own limit comes after the worker's, because the worker ends the
/// attempt.
const SPARE: Duration = Duration::from_secs(1);

/// A program that serves a task.
pub(super) struct TaskProgram {
    pub(super) program: OpenProgram,
    pub(super) told: Told,
    pub(super) nursery: Nursery,
    /// Between TERM and KILL for a child whose task is given up.
    pub(super) kill_after: Duration,
    /// The most children that stay.
    pub(super) most: usize,
}

/// A worker's side of a program: hands it the tasks, and makes ends of its outcomes.
pub(super) struct TaskUser {
    pub(super) origin: Arc<Origin>,
    /// The longest result.
    pub(super) max_output: usize,
}

impl ProgramUser for TaskUser {
    type Task = (TaskContext, Call);
    type Made = Value;

    fn fill<R>(&self, _: &Context, (context, call): &(TaskContext, Call), fill: impl FnOnce(&[&Record], &Vars<'_>) -> R) -> R {
        fill(&[&record::record(&self.origin, context, call)], &vars(context))
    }

    fn tell(&self, _: &Context, (context, _): &(TaskContext, Call), command: &mut Command) -> Result<(), TaskError> {
        command.env.extend(told(context));
        if context.may_begin() { Ok(()) } else { Err(TaskError::new("cancelled", "its worker has stopped it")) }
    }

    /// The task is a request's body unless something else is said, or none belongs there.
    fn ask(&self, _: &Context, (context, call): &(TaskContext, Call), request: &mut Request) {
        // A limit of the message's or of remote control goes before the section's `timeout`; it is
        // the worker who ends the attempt then.
        request.timeout = context.time_limit().map(|limit| limit + SPARE);
        let names_one = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
        if let Some(trace) = context.trace().filter(|_| !names_one) {
            request.headers.push(("traceparent".to_owned(), trace.parent().to_owned()));
            request.headers.extend(trace.state().map(|state| ("tracestate".to_owned(), state.to_owned())));
        }
        if request.body.is_none() && !matches!(request.method, Method::GET | Method::HEAD | Method::DELETE) {
            request.body = Some(Body::Json(record::json(context, call)));
        }
    }

    fn line(&self, _: &Context, (context, call): &(TaskContext, Call)) -> Result<Vec<u8>, TaskError> {
        Ok(record::line(context, call))
    }

    fn may_begin(&self, (context, _): &(TaskContext, Call)) -> bool {
        context.may_begin()
    }

    fn ended(&self, context: &Context, _: (TaskContext, Call), end: ProgramEnd) -> Outcome<Value> {
        let too_long = || Outcome::Failed(answer::too_long(self.max_output));
        let output = match end {
            ProgramEnd::Command(output) => *output,
            ProgramEnd::None(outcome) => return outcome.map(|never| match never {}),
            ProgramEnd::Reply(reply) => {
                return match reply {
                    Reply::Http(reply) if reply.cut => too_long(),
                    Reply::Http(reply) => Outcome::Ok(of_reply(&reply)),
                    Reply::Pipe(answer) => Outcome::Ok(of_answer(&answer)),
                    Reply::Null | Reply::Command(_) => Outcome::Ok(Value::Null),
                };
            }
        };
        if let Exit::Code(TRY_AGAIN) = output.exit {
            let tail = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
            let why = TaskError::new("exit", "it asks to be tried again (exit status 75)").with_code(TRY_AGAIN.into());
            let why = if tail.is_empty() { why } else { why.with_tail(tail) };
            return Outcome::Retry { after: None, why };
        }
        match exit_outcome(output, context.timeout) {
            Outcome::Ok(output) if output.stdout_cut > 0 => too_long(),
            other => other.map(|output| answer::value(&output.stdout)),
        }
    }
}

impl TaskProgram {
    /// Makes the worker's handler.
    pub(super) fn handler(self: &Arc<Self>, user: TaskUser) -> Handler {
        let own = self.clone();
        match self.program.handler(user) {
            ProgramHandler::Async(handler) => Handler::Async(Arc::new(move |context, call| {
                let (own, handler) = (own.clone(), handler.clone());
                Box::pin(async move {
                    let attempt = record::attempt(&context);
                    let (known, task) = (known(&context, context.slot()), (context, call));
                    let outcome = handler.call(known, task).await;
                    own.told.result(outcome, attempt)
                })
            })),
            ProgramHandler::Process(handler) => Handler::Sync(Arc::new(move |context, call| {
                let slot = own.nursery.children().claim();
                own.watched(slot.number(), context, call, |known, task| handler.run(own.nursery.children(), known, task).0)
            })),
            ProgramHandler::Blocking(handler) => Handler::Sync(Arc::new(move |context, call| {
                let OpenProgram::Pipe(pipe) = &own.program else { return Err(answer::stopped()) };
                let slot = pipe.take(own.most);
                own.watched(slot.number(), context, call, |known, task| handler(known, task))
            })),
        }
    }

    /// Runs a task in a slot, whose child is ended when the task is given up.
    fn watched(
        &self,
        slot: u32,
        context: TaskContext,
        call: Call,
        run: impl FnOnce(&Context, (TaskContext, Call)) -> Outcome<Value>,
    ) -> Result<Value, Failure> {
        let watch = self.nursery.watch(slot, &context, self.kill_after);
        let (known, attempt) = (known(&context, slot), record::attempt(&context));
        let outcome = run(&known, (context, call));
        match (outcome, watch.given_up()) {
            // It finished its work although it was told to end.
            (Outcome::Ok(value), _) => Ok(value),
            (_, Some(GivenUp::SoftLimit)) => Err(answer::soft_time_limit()),
            (_, Some(GivenUp::Stopped)) => Err(answer::stopped()),
            (outcome, None) => self.told.result(outcome, attempt),
        }
    }

    pub(super) fn end(&self) {
        self.program.end();
    }
}

/// Returns what a lane would know of a task.
fn known(context: &TaskContext, slot: u32) -> Context {
    Context {
        id: 0,
        attempt: record::attempt(context),
        lane: LaneKind::Process,
        slot,
        timeout: context.time_limit(),
        cancel: context.cancel_token().clone(),
    }
}

fn of_answer(answer: &Answer) -> Value {
    match answer {
        Answer::Json(json) => answer::value(json.get().as_bytes()),
        Answer::Text(text) => Value::Text(text.clone()),
        Answer::Bytes(bytes) => Value::Text(String::from_utf8_lossy(bytes).into_owned()),
    }
}

fn of_reply(reply: &HttpReply) -> Value {
    match &reply.body {
        ReplyBody::Json(json) => answer::value(json.as_bytes()),
        ReplyBody::Text(text) if text.is_empty() => Value::Null,
        ReplyBody::Text(text) => Value::Text(text.clone()),
        ReplyBody::Binary(bytes) => {
            let mut tagged = longshore_celery::Map::default();
            tagged.set("__type__", "base64");
            tagged.set("__value__", longshore_run::record::base64(bytes));
            Value::Map(tagged)
        }
        ReplyBody::Saved(_) => Value::Null,
    }
}

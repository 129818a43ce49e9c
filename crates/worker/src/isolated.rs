//! Tasks in child processes: what goes to a child, what it does, what comes back.
//!
//! One function is registered with the engine's isolated lane; it finds the task by its name in the
//! app that [`init_app`] was given, which is the same in the child, because the child is the same
//! program.

use std::{
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use longshore_celery::{Encoding, Limits, Message, Value, WireSignature};
use longshore_core::{Again, CancelToken, Functions, LaneKind, TaskError};
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    args::Call,
    failure::Failure,
    task::{
        Handler,
        context::{ContextParts, TaskContext},
        registry::TaskRegistry,
    },
};

static REGISTRY: OnceLock<Arc<TaskRegistry>> = OnceLock::new();

/// Deepest nesting of a value that goes there or comes back.
const DEPTH: usize = 512;
/// Limits of a child: its worker has read the message already, within limits. What is left is the
/// stack.
const READ: Limits = Limits::unlimited(DEPTH);

/// The call that a child is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IsolatedCall {
    /// The message.
    pub message: Vec<u8>,
    /// The slot of the process lane.
    pub slot: u32,
    /// The soft limit of this attempt.
    pub soft: Option<Duration>,
}

/// End of a task in a child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum IsolatedAnswer {
    /// With this result, as JSON.
    Result(Vec<u8>),
    /// Without.
    Failure(IsolatedFailure),
}

/// A [`Failure`] on its way; values are JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum IsolatedFailure {
    /// [`Failure::Error`]: type, module, arguments, traceback.
    Error(String, String, Vec<u8>, Option<String>),
    /// [`Failure::Retry`]: after, why, at most, the call.
    Retry(Option<Duration>, Option<Box<IsolatedFailure>>, Option<u32>, Option<Vec<u8>>),
    /// [`Failure::Ignore`].
    Ignore,
    /// [`Failure::Reject`]: reason, requeue.
    Reject(String, bool),
    /// [`Failure::Replace`]: the signature.
    Replace(Vec<u8>),
    /// [`Failure::Crashed`]: how.
    Crashed(String),
}

/// Lets this executable be started again as a child that runs tasks of the process lane; such a
/// child never comes back from here. To be called first thing in `main`, before any thread and any
/// open file. `longshore::main` does it.
///
/// Of several apps in one program the first one counts.
pub fn init_app(app: &App) {
    init_app_with(app, Functions::new());
}

/// Does as [`init_app`], for a program that has isolated functions beside its tasks.
pub fn init_app_with(app: &App, functions: Functions) {
    let _ = REGISTRY.set(app.registry().clone());
    longshore_core::init_with(functions.with(isolated_entry));
}

/// Finds the task of a call, and runs it: this is what a child does. Registered by [`init_app`]; a
/// lane for it is `IsolatedLane::between::<_, IsolatedCall, IsolatedAnswer>`, with this function's
/// type.
///
/// # Errors
/// Kind `setup`: there is no such task here, or it has no plain function. Kind `invalid`: the
/// message cannot be read.
pub fn isolated_entry(call: IsolatedCall) -> Result<IsolatedAnswer, TaskError> {
    let setup = |text: String| TaskError::new("setup", text).with_again(Again::Never);
    let registry = REGISTRY.get().ok_or_else(|| setup("call longshore::init_app first in main".to_owned()))?;
    let message = Message::decode(&call.message, &READ).map_err(|error| TaskError::invalid(error.to_string()))?;
    let task = registry.task_named(&message.task).ok_or_else(|| setup(format!("no task {} in the child process", message.task)))?;
    let Handler::Sync(handler) = &task.handler else {
        return Err(setup(format!("{} is an async function: it runs on the async lane only", message.task)));
    };
    let soft = CancelToken::new();
    // The worker ends the child when it is over; what remote control has set is known there alone.
    let time_limit = message.time_limit.or(task.policy.time_limit);
    let arguments = Call { args: message.args.clone(), kwargs: message.kwargs.clone() };
    let context = TaskContext::new(ContextParts {
        message: Arc::new(message),
        registry: registry.clone(),
        lane: LaneKind::Process,
        slot: call.slot,
        // Nothing is stored from here, and whoever wants its end kills the child.
        cancel: CancelToken::new(),
        soft: soft.clone(),
        time_limit,
        soft_time_limit: call.soft,
        client: None,
        trace: None,
        node: "".into(),
    });
    let _over = call.soft.map(|limit| after(limit, soft));
    Ok(handler(context, arguments).into())
}

/// Cancels a token after a time, unless what it gives back is dropped before.
fn after(limit: Duration, token: CancelToken) -> mpsc::Sender<()> {
    let (over, wait) = mpsc::channel();
    let waiting = std::thread::Builder::new().name("soft-limit".to_owned()).spawn(move || {
        if wait.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            token.cancel();
        }
    });
    // Without a thread there is the hard limit.
    drop(waiting);
    over
}

impl IsolatedCall {
    /// Makes a call of the task of this message.
    pub fn new(message: &Message, slot: u32, soft: Option<Duration>) -> Self {
        Self { message: message.encode(Encoding::Json), slot, soft }
    }
}

impl From<Result<Value, Failure>> for IsolatedAnswer {
    fn from(result: Result<Value, Failure>) -> Self {
        match result {
            Ok(value) => Self::Result(value.to_json()),
            Err(failure) => Self::Failure(failure.into()),
        }
    }
}

impl From<IsolatedAnswer> for Result<Value, Failure> {
    fn from(answer: IsolatedAnswer) -> Self {
        match answer {
            IsolatedAnswer::Result(json) => parse(&json),
            IsolatedAnswer::Failure(failure) => Err(failure.into()),
        }
    }
}

impl From<IsolatedAnswer> for Result<Value, Box<Failure>> {
    fn from(answer: IsolatedAnswer) -> Self {
        Result::<Value, Failure>::from(answer).map_err(Box::new)
    }
}

impl From<Failure> for IsolatedFailure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Error { exc_type, exc_module, args, traceback } => {
                Self::Error(exc_type, exc_module, Value::List(args).to_json(), traceback)
            }
            Failure::Retry { after, why, max_retries, call } => {
                Self::Retry(after, why.map(|why| Box::new((*why).into())), max_retries, call.map(|call| call.to_value().to_json()))
            }
            Failure::Ignore => Self::Ignore,
            Failure::Reject { reason, requeue } => Self::Reject(reason, requeue),
            Failure::Replace(signature) => Self::Replace(signature.to_value().to_json()),
            Failure::Crashed { reason } => Self::Crashed(reason),
        }
    }
}

impl From<IsolatedFailure> for Failure {
    fn from(failure: IsolatedFailure) -> Self {
        match failure {
            IsolatedFailure::Error(exc_type, exc_module, args, traceback) => match parse(&args) {
                Ok(Value::List(args)) => Self::Error { exc_type, exc_module, args, traceback },
                Ok(other) => Self::Error { exc_type, exc_module, args: vec![other], traceback },
                Err(failure) => failure,
            },
            IsolatedFailure::Retry(after, why, max_retries, call) => {
                let why = why.map(|why| Box::new((*why).into()));
                match call.map(|json| signature(&json)).transpose() {
                    Ok(call) => Self::Retry { after, why, max_retries, call: call.map(Box::new) },
                    Err(failure) => failure,
                }
            }
            IsolatedFailure::Ignore => Self::Ignore,
            IsolatedFailure::Reject(reason, requeue) => Self::Reject { reason, requeue },
            IsolatedFailure::Crashed(reason) => Self::Crashed { reason },
            IsolatedFailure::Replace(json) => {
                signature(&json).map_or_else(|failure| failure, |signature| Self::Replace(Box::new(signature)))
            }
        }
    }
}

fn parse(json: &[u8]) -> Result<Value, Failure> {
    Value::parse(json, DEPTH).map_err(Failure::from)
}

fn signature(json: &[u8]) -> Result<WireSignature, Failure> {
    parse(json).and_then(|value| WireSignature::from_value(value).map_err(Failure::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Task;

    #[test]
    fn every_ending_comes_back_as_it_was() {
        let error = || Failure::error("ValueError", "kaboom").with_traceback("there");
        for result in [
            Ok(Value::from(vec![1_i64, 2])),
            Ok(Value::Float(f64::INFINITY)),
            Err(error()),
            Err(Failure::retry_in(Duration::from_millis(1500)).because(std::fmt::Error).at_most(2)),
            Err(Failure::retry().with_call(crate::Signature::<Value>::named("t").arg(&1).queue("q"))),
            Err(Failure::Ignore),
            Err(Failure::Crashed { reason: "it died".to_owned() }),
            Err(Failure::Reject { reason: "no".to_owned(), requeue: true }),
            Err(Failure::Replace(Box::new(WireSignature::new("t").arg(1).countdown(Duration::from_secs(1))))),
        ] {
            let sent = IsolatedAnswer::from(result.clone());
            assert_eq!(Result::<Value, Failure>::from(sent), result);
        }
    }

    #[test]
    fn a_child_runs_the_task_that_the_message_names() {
        let shout = Task::plain("t.shout", |context, mut call| {
            context.soft_limit();
            match call.args.pop() {
                Some(Value::Text(text)) => Ok(format!("{}@{} {:?}", text.to_uppercase(), context.slot(), context.lane()).into()),
                _ => Err(Failure::text("no text")),
            }
        });
        let _ = REGISTRY.set(App::new().task(shout.on(LaneKind::Process)).registry().clone());
        let run = |task: &str, args: Vec<Value>| {
            let message = Message { task: task.to_owned(), id: "i".to_owned(), args, ..Message::default() };
            isolated_entry(IsolatedCall::new(&message, 3, Some(Duration::from_secs(60))))
        };
        let result = |answer: Result<IsolatedAnswer, TaskError>| Result::<Value, Failure>::from(answer.unwrap());
        assert_eq!(result(run("t.shout", vec!["hey".into()])), Ok("HEY@3 Process".into()));
        assert_eq!(result(run("t.shout", vec![])), Err(Failure::text("no text")));
        for (task, says) in [("no.such", "no task no.such in the child process"), ("celery.map", "is an async function")] {
            let error = run(task, vec![]).unwrap_err();
            assert!(error.kind() == "setup" && error.message().contains(says), "{error}");
        }
        assert_eq!(isolated_entry(IsolatedCall { message: vec![b'x'], slot: 0, soft: None }).unwrap_err().kind(), "invalid");
    }

    #[test]
    fn the_soft_limit_is_told_in_a_child_too() {
        let token = CancelToken::new();
        let over = after(Duration::from_millis(1), token.clone());
        while !token.is_cancelled() {
            std::thread::yield_now();
        }
        drop(over);
    }
}

//! What a handler may know and do.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use longshore_brokers::{
    Key, Stored,
    lease::{Lease, Term},
};
use longshore_celery::{Extended, Map, Message, ResultTree, State, TaskResult, TraceContext, Value, WireSignature, canvas};
use longshore_core::{CancelToken, LaneKind};
use serde::Serialize;

use super::registry::TaskRegistry;
use crate::{
    answer::Answer,
    client::{self, Client},
    error::ClientError,
    failure::Failure,
    signature::Signature,
    values,
};

/// A handler's knowledge of its attempt, and what it may do. Cheap to clone.
///
/// A function under `#[longshore::task]` gets it by having a first parameter of this type.
#[derive(Clone)]
pub struct TaskContext {
    pub(crate) inner: Arc<ContextInner>,
}

/// State of an attempt, which all copies of its context share.
pub(crate) struct ContextInner {
    parts: ContextParts,
    /// Lease under which it was claimed, and the lease's term then; `None` where nobody else can
    /// have it.
    claim: Option<(Arc<Lease>, Term)>,
    /// True where it was told that it may not begin, since it may be somebody else's.
    elsewhere: AtomicBool,
    /// True where the handler listens for its soft limit.
    listens: AtomicBool,
    /// Results of what it has sent.
    children: Mutex<Vec<ResultTree>>,
}

/// A worker's knowledge of an attempt.
pub struct ContextParts {
    /// The message, arguments included.
    pub message: Arc<Message>,
    /// The tasks of the app that the task is registered in, itself included.
    pub registry: Arc<TaskRegistry>,
    /// Lane on which it runs.
    pub lane: LaneKind,
    /// Returns the slot: no two running tasks of a lane share one.
    pub slot: u32,
    /// Nobody wants the result any more: revoked, past its hard limit, the worker is being stopped
    /// for good.
    pub cancel: CancelToken,
    /// The soft limit has passed.
    pub soft: CancelToken,
    /// Limit of this attempt: as its message says, or else remote control, or else the task's
    /// policy.
    pub time_limit: Option<Duration>,
    /// Soft limit of this attempt, found in the same way.
    pub soft_time_limit: Option<Duration>,
    /// Client with which it sends, and stores its progress; none in a child process.
    pub client: Option<Client>,
    /// Its place in a trace; `None`: the one that its message names, if it names one.
    pub trace: Option<TraceContext>,
    /// The worker's node name (`name@host`).
    pub node: Arc<str>,
}

impl TaskContext {
    /// Makes the context of an attempt.
    pub fn new(parts: ContextParts) -> Self {
        Self::claimed(parts, None)
    }

    /// Makes the context of a message that was claimed under a lease, in this term of it.
    pub(crate) fn claimed(parts: ContextParts, claim: Option<(Arc<Lease>, Term)>) -> Self {
        let (elsewhere, listens) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { inner: Arc::new(ContextInner { parts, claim, elsewhere, listens, children: Mutex::default() }) }
    }

    /// Returns whether the task may begin: it is still this worker's. A worker asks before each
    /// start; a handler that has to wait for something before it does anything (a place, a
    /// connection) asks once more, as the last thing: its worker may have been stopped, or cut off,
    /// for longer than its lease, and the task is done by another. A task that may not begin goes
    /// back, whatever its handler returns.
    pub fn may_begin(&self) -> bool {
        let may =
            self.inner.claim.as_ref().is_none_or(|(lease, term)| lease.term(self.inner.parts.registry.environment.lease()) == Some(*term));
        if !may {
            self.inner.elsewhere.store(true, Ordering::Release);
        }
        may
    }

    /// Returns whether it was told that it may not begin.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.inner.elsewhere.load(Ordering::Acquire)
    }

    /// Returns the message that is run: its arguments, its limits, what follows it.
    pub fn message(&self) -> &Message {
        &self.inner.parts.message
    }

    /// Returns the task's id.
    pub fn id(&self) -> &str {
        &self.message().id
    }

    /// Returns the task's name.
    pub fn task(&self) -> &str {
        &self.message().task
    }

    /// Returns the id of the first task of the tree that this one belongs to.
    pub fn root_id(&self) -> &str {
        self.message().root_id.as_deref().unwrap_or_else(|| self.id())
    }

    /// The task that sent this one.
    pub fn parent_id(&self) -> Option<&str> {
        self.message().parent_id.as_deref()
    }

    /// The group that it is a member of.
    pub fn group(&self) -> Option<&str> {
        self.message().group.as_deref()
    }

    /// Returns how often it was retried: 0 in the first attempt.
    pub fn retries(&self) -> u32 {
        self.message().retries
    }

    /// The positional arguments.
    pub fn args(&self) -> &[Value] {
        &self.message().args
    }

    /// The keyword arguments.
    pub fn kwargs(&self) -> &Map {
        &self.message().kwargs
    }

    /// Returns a header that its sender has set (`apply_async(headers={…})`).
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.message().headers.get(name)
    }

    /// Returns all headers that are not Celery's own.
    pub fn headers(&self) -> &Map {
        &self.message().headers
    }

    /// Returns its place in a trace: its own span where spans are made, else the one that its
    /// message names (`traceparent`). What it sends, and what follows it, belongs to that trace
    /// unless it says otherwise.
    pub fn trace(&self) -> Option<TraceContext> {
        self.inner.parts.trace.clone().or_else(|| TraceContext::of(self.headers()))
    }

    /// Returns a property of its message that is not Celery's own: `app_id`, `user_id`, `type`,
    /// whatever its sender has put there.
    pub fn property(&self, name: &str) -> Option<&Value> {
        self.message().properties.get(name)
    }

    /// Returns the queue that it was sent to.
    pub fn queue(&self) -> &str {
        &self.message().routing_key
    }

    /// Returns its priority, 0 to 9, on RabbitMQ to 255, where its message names one.
    pub fn priority(&self) -> Option<u8> {
        self.message().priority
    }

    /// Returns the earliest time at which it was to start.
    pub fn eta(&self) -> Option<SystemTime> {
        self.message().eta
    }

    /// Returns the latest time at which it was to start.
    pub fn expires(&self) -> Option<SystemTime> {
        self.message().expires
    }

    /// Returns the queue in which its sender takes answers (of use to Celery's rpc result backend).
    pub fn reply_to(&self) -> Option<&str> {
        self.message().reply_to.as_deref()
    }

    /// Returns the correlation id of its message: the task's own id, unless its sender has set
    /// another.
    pub fn correlation_id(&self) -> &str {
        self.message().correlation_id.as_deref().unwrap_or_else(|| self.id())
    }

    /// Returns the name of its sender (`gen123@host`).
    pub fn origin(&self) -> Option<&str> {
        self.message().origin.as_deref()
    }

    /// Returns its stamps.
    pub fn stamps(&self) -> &Map {
        &self.message().stamps
    }

    /// Returns all properties of its message that are not Celery's own.
    pub fn properties(&self) -> &Map {
        &self.message().properties
    }

    /// Returns whether it was taken and given back before: its last worker may have died while it
    /// ran.
    pub fn redelivered(&self) -> bool {
        self.message().redelivered
    }

    /// Returns the lane on which it runs.
    pub fn lane(&self) -> LaneKind {
        self.inner.parts.lane
    }

    /// The slot: no two running tasks of a lane share one.
    pub fn slot(&self) -> u32 {
        self.inner.parts.slot
    }

    /// Returns how long this attempt may take before it is ended.
    pub fn time_limit(&self) -> Option<Duration> {
        self.inner.parts.time_limit
    }

    /// Returns the time after which this attempt is told to end; [`soft_limit`](Self::soft_limit)
    /// is the token that tells it.
    pub fn soft_time_limit(&self) -> Option<Duration> {
        self.inner.parts.soft_time_limit
    }

    /// Returns the tasks of the app that the task is registered in, with the app's settings.
    pub fn registry(&self) -> &Arc<TaskRegistry> {
        &self.inner.parts.registry
    }

    /// Asks for another attempt, after the task's `retry_delay`: `return Err(context.retry())`.
    /// [`because`](Failure::because) says why, and [`at_most`](Failure::at_most) how often.
    pub fn retry(&self) -> Failure {
        Failure::retry()
    }

    /// Returns the call that is run: the task with the arguments of its message.
    /// Changed, it is what the next attempt is given ([`with_call`](Failure::with_call)), or what
    /// takes over ([`replace`](Self::replace)).
    pub fn this_call(&self) -> Signature {
        let message = self.message();
        let wire =
            WireSignature { args: message.args.clone(), kwargs: message.kwargs.clone(), ..WireSignature::new(message.task.as_str()) };
        wire.into()
    }

    /// Asks for another attempt, not before this time has passed.
    pub fn retry_in(&self, after: Duration) -> Failure {
        Failure::retry_in(after)
    }

    /// Lets another signature take over this task's id, its place in a chain, group or chord, and
    /// its callbacks: `return Err(context.replace(other))`.
    pub fn replace<R>(&self, signature: Signature<R>) -> Failure {
        match signature.into_wire() {
            Ok(wire) => Failure::Replace(Box::new(wire)),
            Err(wrong) => Failure::error("TypeError", wrong.to_string()),
        }
    }

    /// Sends a task, or a whole canvas, as this task's child: it belongs to the same tree, and
    /// stands among the children of this task's result.
    ///
    /// # Errors
    /// As [`Client::send`]; and there is no client in a child process.
    ///
    /// # Cancel safety
    /// Not cancel safe: of a dropped future nobody knows whether the task was sent, and it does not
    /// stand among the children.
    pub async fn send<R>(&self, signature: Signature<R>) -> Result<Answer<R>, ClientError> {
        let client = self.client()?;
        let wire = signature.into_wire()?;
        let plan = client.plan(&wire, Some(self.message()))?;
        self.publish(client, plan).await
    }

    /// Adds a task to the chord that this one is a part of: the chord's body waits for it, too, and
    /// gets its result.
    ///
    /// # Errors
    /// As [`send`](Self::send); and this task is no part of a chord.
    ///
    /// # Cancel safety
    /// Not cancel safe: the chord may wait for a task that was never sent.
    pub async fn add_to_chord<R>(&self, signature: Signature<R>) -> Result<Answer<R>, ClientError> {
        let client = self.client()?;
        let wire = signature.into_wire()?;
        // The canvas's context must not be held while it is sent: the future would not be `Send`.
        let plan = canvas::add_to_chord(self.message(), &wire, &client.canvas(Some(self.message())), &mut || (client.environment().id)());
        let plan = plan.map_err(|error| ClientError::Signature(error.to_string()))?;
        self.publish(client, plan).await
    }

    async fn publish<R>(&self, client: &Client, plan: canvas::Plan) -> Result<Answer<R>, ClientError> {
        let tree = client::place(&plan)?;
        let children = plan.children.clone();
        client.publish(plan).await?;
        self.inner.children.lock().unwrap_or_else(PoisonError::into_inner).extend(children);
        Ok(client.answer(tree))
    }

    /// Returns the client that this worker sends with. Tasks that are sent with it belong to no
    /// tree; [`send`](Self::send) is for children.
    ///
    /// # Errors
    /// There is none in a child process.
    pub fn client(&self) -> Result<&Client, ClientError> {
        let none = "a task on the process lane has no client: send from a task on another lane";
        self.inner.parts.client.as_ref().ok_or_else(|| ClientError::Signature(none.to_owned()))
    }

    /// Tells how far the task is: stores the state `PROGRESS` with this value, which clients can
    /// read until the task ends.
    ///
    /// # Errors
    /// The value cannot be written, or the result backend cannot be reached.
    ///
    /// # Cancel safety
    /// Of a dropped future nobody knows whether the value was stored; it may be told again.
    pub async fn progress<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), ClientError> {
        self.set_state("PROGRESS", value).await
    }

    /// Stores a state of its own with this value (`update_state` in Celery).
    ///
    /// # Errors
    /// As [`progress`](Self::progress).
    ///
    /// # Cancel safety
    /// As `progress`.
    pub async fn set_state<T: Serialize + ?Sized>(&self, state: &str, value: &T) -> Result<(), ClientError> {
        let client = self.client()?;
        let value =
            values::from(value).map_err(|error| ClientError::Signature(format!("the value of {state} cannot be written: {error}")))?;
        let doc = self.document(State::from(state), value).encode();
        let (expires, reply_to) = (client.settings().result_expires, self.message().reply_to.clone());
        let stored = Stored { key: Key::Task(self.id().to_owned()), doc, expires, keep_success: true, reply_to };
        Ok(client.results().store(&[stored]).await?)
    }

    /// Returns a document of this task, as results and states are stored. It says nothing yet of a
    /// traceback, nor when it was done.
    pub fn document(&self, state: State, result: Value) -> TaskResult {
        let message = self.message();
        let settings = self.inner.parts.registry.settings();
        let extended = settings.result_extended.then(|| Extended {
            name: Some(message.task.clone()),
            args: Value::List(message.args.clone()),
            kwargs: Value::Map(message.kwargs.clone()),
            worker: Some(self.inner.parts.node.to_string()),
            retries: Some(message.retries.into()),
            queue: Some(message.routing_key.clone()).filter(|queue| !queue.is_empty()),
            stamps: message.stamps.clone(),
        });
        TaskResult {
            task_id: message.id.clone(),
            state,
            result,
            children: Value::List(self.children().iter().map(ResultTree::to_value).collect()),
            group_id: message.group.clone(),
            parent_id: message.parent_id.clone(),
            extended,
            ..TaskResult::default()
        }
    }

    /// Waits for a future from a plain function: `context.block_on(context.send(add::call(1, 1)))`.
    /// Futures have `.await`.
    ///
    /// # Panics
    /// On a thread of the async lane, which would wait for itself; in a child process, which has no
    /// runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self.inner.parts.client.as_ref().and_then(Client::runtime) {
            Some(runtime) => runtime.block_on(future),
            None => panic!("a task on the process lane has no runtime to wait on: wait in a task on another lane"),
        }
    }

    /// Returns whether nobody wants the result any more: revoked, past its hard limit, the worker
    /// is being stopped for good. Cheap enough to ask in a loop.
    pub fn is_cancelled(&self) -> bool {
        self.inner.parts.cancel.is_cancelled()
    }

    /// Resolves when nobody wants the result any more.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn cancelled(&self) {
        self.inner.parts.cancel.cancelled().await;
    }

    /// Returns the token behind [`cancelled`](Self::cancelled).
    pub fn cancel_token(&self) -> &CancelToken {
        &self.inner.parts.cancel
    }

    /// Returns the token that tells of the soft limit. To ask for it is to listen: the worker then
    /// leaves the ending to the handler, until the hard limit. A future that has not asked is
    /// dropped when the soft limit passes.
    pub fn soft_limit(&self) -> &CancelToken {
        self.inner.listens.store(true, Ordering::Release);
        &self.inner.parts.soft
    }

    /// Returns whether the handler has asked for [`soft_limit`](Self::soft_limit).
    pub fn listens_for_soft_limit(&self) -> bool {
        self.inner.listens.load(Ordering::Acquire)
    }

    /// Returns what the handler has sent so far.
    pub fn children(&self) -> Vec<ResultTree> {
        self.inner.children.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext").field("task", &self.task()).field("id", &self.id()).finish_non_exhaustive()
    }
}

//! A registered task: its name, its policy, its handler.

pub(crate) mod context;
pub(crate) mod registry;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use longshore_celery::{Map, Value};
use longshore_core::{Backoff, LaneKind, Rate};

use crate::{args::Call, failure::Failure};
use context::TaskContext;

/// A registered task.
#[derive(Clone)]
pub struct Task {
    /// The name under which it is called, `tasks.add`.
    pub name: Arc<str>,
    /// Lane on which it runs.
    pub lane: LaneKind,
    /// Retries, limits, acknowledgement.
    pub policy: TaskPolicy,
    /// The function that runs.
    pub handler: Handler,
}

impl Task {
    /// Makes a task of the async lane by hand. `#[longshore::task]` makes one of a function.
    pub fn future<F>(name: impl Into<Arc<str>>, handler: impl Fn(TaskContext, Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Value, Failure>> + Send + 'static,
    {
        let handler = Handler::Async(Arc::new(move |context, call| handler(context, call).boxed()));
        Self { name: name.into(), lane: LaneKind::Async, policy: TaskPolicy::default(), handler }
    }

    /// Makes a task of the blocking lane by hand; [`on`](Self::on) gives it another.
    /// `#[longshore::task]` makes one of a function.
    pub fn plain(name: impl Into<Arc<str>>, handler: impl Fn(TaskContext, Call) -> Result<Value, Failure> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), lane: LaneKind::Blocking, policy: TaskPolicy::default(), handler: Handler::Sync(Arc::new(handler)) }
    }

    /// Runs it on this lane. A plain function on the async lane must never wait; a future has no
    /// other lane than that one.
    #[must_use]
    pub fn on(mut self, lane: LaneKind) -> Self {
        self.handler = match (self.handler, lane) {
            (Handler::Sync(plain), LaneKind::Async) => {
                Handler::Async(Arc::new(move |context, call| std::future::ready(plain(context, call)).boxed()))
            }
            (handler, _) => handler,
        };
        if matches!(self.handler, Handler::Sync(_)) || lane == LaneKind::Async {
            self.lane = lane;
        }
        self
    }

    /// Changes its policy.
    /// ```
    /// use longshore_worker::Task;
    /// use longshore_celery::Value;
    ///
    /// let ping = Task::plain("shop.ping", |_context, _call| Ok(Value::from("pong"))).with_policy(|policy| policy.max_retries = None);
    /// assert_eq!(ping.policy.max_retries, None);
    /// ```
    #[must_use]
    pub fn with_policy(mut self, change: impl FnOnce(&mut TaskPolicy)) -> Self {
        change(&mut self.policy);
        self
    }

    /// Gives it this policy.
    #[must_use]
    pub fn policy(mut self, policy: TaskPolicy) -> Self {
        self.policy = policy;
        self
    }
}

/// The name of a function under `#[longshore::task]` is a function that gives its task.
impl<F: Fn() -> Task> From<F> for Task {
    fn from(task: F) -> Self {
        task()
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.name).field("lane", &self.lane).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The function of a task.
#[derive(Clone)]
pub enum Handler {
    /// For the async lane.
    Async(Arc<dyn Fn(TaskContext, Call) -> BoxFuture<'static, Result<Value, Failure>> + Send + Sync>),
    /// For the blocking, cpu and process lanes.
    Sync(Arc<dyn Fn(TaskContext, Call) -> Result<Value, Failure> + Send + Sync>),
}

/// Time at which a message is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Acks {
    /// After its result is stored: nothing is lost, and what runs when its worker dies runs again.
    /// The default.
    #[default]
    Late,
    /// Before it starts, as Celery does unless told otherwise: what runs when its worker dies is
    /// lost. Where every task of an app is acknowledged early (Celery's own aside), a broker that
    /// can (Redis) gives its messages away as they are claimed, which costs less than half: then
    /// what a worker that dies had claimed ahead is lost, too, at most about a thousand messages,
    /// and never more than it runs in some milliseconds, or has slots for. What waits for its ETA
    /// or its rate is not lost, and a worker that is stopped hands back what has not started.
    Early,
}

/// Over what a task's rate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RateScope {
    /// Each worker by itself, as in Celery: two workers start twice as many. The default.
    #[default]
    Worker,
    /// All workers on the broker together, by the task's name: the leaky bucket is in the broker.
    /// Slots of a worker that stops are lost for two seconds at most, and a rate that was changed
    /// takes effect within two seconds. Python's workers know nothing of it.
    Shared,
}

/// Settings of every call of a task, unless the call says otherwise. Made as the default with
/// changes ([`Task::with_policy`]), or by `#[longshore::task]` from its attributes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TaskPolicy {
    /// The queue of calls that name none; the app's [route](crate::App::route) for it where absent.
    pub queue: Option<Arc<str>>,
    /// The priority of calls that name none, 0 to 9, on RabbitMQ to 255.
    pub priority: Option<u8>,
    /// Most times that [`Failure::Retry`] is granted; without end, where absent. Celery's default
    /// is 3.
    pub max_retries: Option<u32>,
    /// The time until the next attempt of a task that asks for a retry without saying when.
    /// Celery's default is 180 s.
    pub retry_delay: Duration,
    /// Retry after any error, with this backoff (full jitter), instead of failing at once.
    pub autoretry: Option<Backoff>,
    /// Types of the errors (`ValueError`, `ConnectError`, …) that `autoretry` retries; all, where
    /// empty.
    pub autoretry_for: Vec<String>,
    /// The soft limit of one attempt: the handler is told; a future that does not listen is
    /// dropped.
    pub soft_time_limit: Option<Duration>,
    /// The hard limit of one attempt.
    pub time_limit: Option<Duration>,
    /// Most starts in a time; limited calls wait in the broker and hold up nothing else.
    pub rate_limit: Option<Rate>,
    /// Over what that rate holds.
    pub rate_scope: RateScope,
    /// With [`RateScope::Shared`]: the limit that it is a part of, with whoever else names it, in
    /// place of one of its own.
    pub limit: Option<Arc<str>>,
    /// Time at which a message is acknowledged; as the [app](crate::App::acks) says where absent.
    pub acks: Option<Acks>,
    /// True where a task that failed or timed out is acknowledged, too. Without it the message goes
    /// to the dead letters.
    pub acks_on_failure: bool,
    /// True where results are not stored.
    pub ignore_result: bool,
    /// True where STARTED is stored when an attempt begins.
    pub track_started: bool,
    /// True where it is an errback that takes three arguments: the failed task's request, its
    /// exception and its traceback ([`App::errback`](crate::App::errback)).
    pub errback: bool,
    /// On the process lane: true where the function itself runs in a child process of this program
    /// ([`init_app`](crate::init_app)), so that a crash is its own outcome and it can be killed.
    /// Otherwise it runs on a thread, on which it may wait for a program of its own.
    pub isolated: bool,
}

impl TaskPolicy {
    /// Returns the options that calls of the task have unless they say otherwise.
    pub(crate) fn options(&self) -> Map {
        let mut options = Map(vec![("ignore_result".to_owned(), self.ignore_result.into())]);
        if let Some(queue) = &self.queue {
            options.set("queue", &**queue);
        }
        if let Some(priority) = self.priority {
            options.set("priority", u32::from(priority));
        }
        options
    }
}

impl Default for TaskPolicy {
    fn default() -> Self {
        Self {
            queue: None,
            priority: None,
            max_retries: Some(3),
            retry_delay: Duration::from_secs(180),
            autoretry: None,
            autoretry_for: Vec::new(),
            soft_time_limit: None,
            time_limit: None,
            rate_limit: None,
            rate_scope: RateScope::Worker,
            limit: None,
            acks: None,
            acks_on_failure: true,
            ignore_result: false,
            track_started: false,
            errback: false,
            isolated: false,
        }
    }
}

//! Settings on which clients and workers must agree.

use std::time::Duration;

use longshore_brokers::QueueSpec;
use longshore_celery::{Compression, canvas::ErrbackStyle};

use crate::route::{self, Route};

/// Settings on which clients and workers must agree. The defaults are Celery's.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The broker's URL.
    pub broker: String,
    /// The result backend's URL; the broker's where absent.
    pub results: Option<String>,
    /// The queue of a call that names none: `celery`.
    pub default_queue: String,
    /// Routes of tasks, by their names or by patterns of these (`mail.*`). A name goes before
    /// patterns, of these the first that matches counts.
    pub routes: Vec<(String, Route)>,
    /// Queues that are declared with more than their names, where the broker can (RabbitMQ).
    pub queues: Vec<QueueSpec>,
    /// Time for which results are kept; for ever, where absent. One day.
    pub result_expires: Option<Duration>,
    /// True where results carry the task's name, arguments, worker and queue.
    pub result_extended: bool,
    /// True where monitors are told when a client has sent a task, as Celery's setting of that name
    /// has it. It costs one more command for each call, or for 24 tasks that are sent together.
    pub task_send_sent_event: bool,
    /// True where workers take bodies in MessagePack, too. What is sent is JSON all the same,
    /// unless a call asks for MessagePack.
    pub accept_msgpack: bool,
    /// Compression of the bodies that are sent, unless a call says otherwise; none, where absent.
    /// Celery's workers unpack zlib; for zstd they need a module of Python's.
    pub compression: Option<Compression>,
    /// Errbacks that take three arguments, by name; `mail.*` matches what begins so. See
    /// [`App::errback`](crate::App::errback).
    pub errbacks: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            broker: "sqlite:longshore.db".to_owned(),
            results: None,
            default_queue: "celery".to_owned(),
            routes: Vec::new(),
            queues: Vec::new(),
            result_expires: Some(Self::DAY),
            result_extended: false,
            task_send_sent_event: false,
            accept_msgpack: false,
            compression: None,
            errbacks: Vec::new(),
        }
    }
}

impl Settings {
    pub(crate) const DAY: Duration = Duration::from_secs(86_400);

    /// Returns the defaults with this broker.
    pub fn new(broker: impl Into<String>) -> Self {
        Self { broker: broker.into(), ..Self::default() }
    }

    /// The result backend's URL.
    pub fn results_url(&self) -> &str {
        self.results.as_deref().unwrap_or(&self.broker)
    }

    /// Returns the queue of this task's calls, unless they name another.
    pub fn queue_of(&self, task: &str) -> &str {
        route::of(&self.routes, task).and_then(|route| route.queue.as_deref()).unwrap_or(&self.default_queue)
    }

    /// Returns the route of this task's calls; one that says nothing, where there is none.
    pub fn route_of(&self, task: &str) -> Route {
        route::of(&self.routes, task).cloned().unwrap_or_default()
    }

    /// Returns how workers tell an errback that a task has failed.
    pub(crate) fn told(&self, errback: &str) -> ErrbackStyle {
        if self.errbacks.iter().any(|name| route::names(name, errback)) { ErrbackStyle::Error } else { ErrbackStyle::Id }
    }
}

//! Signatures in Rust.

use std::time::{Duration, SystemTime};

use super::tree::{Shape, Tree};
use crate::{
    message::times,
    signature::{Subtask, WireSignature},
    value::{Map, Value},
};

/// One after the other. Groups that are followed by something become chords, as in Celery.
pub fn chain(tasks: impl IntoIterator<Item = WireSignature>) -> WireSignature {
    let tasks: Vec<WireSignature> = tasks.into_iter().collect();
    let trees: Result<Vec<Tree>, _> = tasks.iter().map(Tree::from_signature).collect();
    let folded = trees.map(|trees| trees.into_iter().fold(Tree::chain(Vec::new()), pipe));
    folded.map(|tree| tree.to_signature()).unwrap_or_else(|_| plain("celery.chain", Subtask::Chain, tasks))
}

/// Side by side.
pub fn group(tasks: impl IntoIterator<Item = WireSignature>) -> WireSignature {
    plain("celery.group", Subtask::Group, tasks.into_iter().collect())
}

/// Side by side, then the body with the list of their results.
pub fn chord(header: impl IntoIterator<Item = WireSignature>, body: WireSignature) -> WireSignature {
    let mut kwargs = Map::default();
    kwargs.set("kwargs", Map::default());
    kwargs.set("header", Value::List(header.into_iter().map(|task| task.to_value()).collect()));
    kwargs.set("body", body.to_value());
    WireSignature { task: "celery.chord".to_owned(), kwargs, subtask: Subtask::Chord, ..WireSignature::default() }
}

fn plain(task: &str, subtask: Subtask, tasks: Vec<WireSignature>) -> WireSignature {
    let mut kwargs = Map::default();
    kwargs.set("tasks", Value::List(tasks.iter().map(WireSignature::to_value).collect()));
    WireSignature { task: task.to_owned(), kwargs, subtask, ..WireSignature::default() }
}

impl WireSignature {
    /// A task.
    pub fn new(task: impl Into<String>) -> Self {
        Self { task: task.into(), ..Self::default() }
    }

    /// Its positional arguments. What comes from before it (a result, in a chain) goes before them.
    #[must_use]
    pub fn args<V: Into<Value>>(mut self, args: impl IntoIterator<Item = V>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// One more positional argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<Value>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A keyword argument.
    #[must_use]
    pub fn kwarg(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.kwargs.set(name, value);
        self
    }

    /// An option by its name in Celery, for those that have no method here.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.options.set(name, value);
        self
    }

    /// It ignores the results of what went before it. In a group, every member; in a chain, the
    /// first; in a chord, those of the header.
    #[must_use]
    pub fn immutable(mut self) -> Self {
        match Tree::from_signature(&self) {
            Ok(mut tree) if self.subtask != Subtask::Task => {
                set_immutable(&mut tree);
                tree.to_signature()
            }
            _ => {
                self.immutable = true;
                self
            }
        }
    }

    /// Sends `callback` with its result when it has succeeded; after a chord's body, after the last
    /// task of a chain.
    #[must_use]
    pub fn link(self, callback: WireSignature) -> Self {
        let callback = callback.to_value();
        self.changed(|tree| tree.link(callback))
    }

    /// Tells `errback` when it has failed: its id, as the only argument, in workers that do not
    /// know that task's signature better.
    #[must_use]
    pub fn link_error(self, errback: WireSignature) -> Self {
        let errback = errback.to_value();
        self.changed(|tree| tree.link_error(&errback))
    }

    /// Then `next`, with the result (`|` in Python).
    #[must_use]
    pub fn then(self, next: WireSignature) -> Self {
        match (Tree::from_signature(&self), Tree::from_signature(&next)) {
            (Ok(first), Ok(then)) => pipe(first, then).to_signature(),
            // What is wrong with them is said when the chain is applied.
            _ => plain("celery.chain", Subtask::Chain, vec![self, next]),
        }
    }

    /// Its id, instead of a fresh one.
    #[must_use]
    pub fn task_id(self, id: impl Into<String>) -> Self {
        self.option("task_id", id.into())
    }

    /// The queue that it goes to.
    #[must_use]
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.option("queue", queue.into())
    }

    /// 0 to 9, on RabbitMQ to 255. On Redis 0 is served first.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.option("priority", i64::from(priority))
    }

    /// Not to be started before so long after it was sent.
    #[must_use]
    pub fn countdown(self, countdown: Duration) -> Self {
        self.option("countdown", countdown.as_secs_f64())
    }

    /// Not to be started before.
    #[must_use]
    pub fn eta(self, eta: SystemTime) -> Self {
        self.option("eta", times::format(eta))
    }

    /// Not to be started later than so long after it was sent.
    #[must_use]
    pub fn expires_in(self, expires: Duration) -> Self {
        self.option("expires", expires.as_secs_f64())
    }

    /// Not to be started after.
    #[must_use]
    pub fn expires_at(self, expires: SystemTime) -> Self {
        self.option("expires", times::format(expires))
    }

    /// The hard limit of one attempt.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.option("time_limit", limit.as_secs_f64())
    }

    /// The soft limit of one attempt.
    #[must_use]
    pub fn soft_time_limit(self, limit: Duration) -> Self {
        self.option("soft_time_limit", limit.as_secs_f64())
    }

    /// Nobody wants its result.
    #[must_use]
    pub fn ignore_result(self) -> Self {
        self.option("ignore_result", true)
    }

    /// A header of the user's own.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        let mut headers = match self.options.remove("headers") {
            Some(Value::Map(headers)) => headers,
            _ => Map::default(),
        };
        headers.set(name, value);
        self.option("headers", headers)
    }

    /// A stamp: a header that workers show, and by which tasks can be revoked. In a canvas, on
    /// every task in it.
    #[must_use]
    pub fn stamp(self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.changed(|tree| stamp(tree, name, &value))
    }

    fn changed(self, change: impl FnOnce(&mut Tree)) -> Self {
        match Tree::from_signature(&self) {
            Ok(mut tree) => {
                change(&mut tree);
                tree.to_signature()
            }
            // What is wrong with it is said when it is applied.
            Err(_) => self,
        }
    }
}

fn set_immutable(tree: &mut Tree) {
    match &mut tree.shape {
        Shape::Group(tasks) => tasks.iter_mut().for_each(set_immutable),
        Shape::Chain(tasks) => tasks.iter_mut().take(1).for_each(set_immutable),
        Shape::Chord(chord) => chord.header.iter_mut().for_each(set_immutable),
        Shape::Task | Shape::Other(_) => tree.immutable = true,
    }
}

fn stamp(tree: &mut Tree, name: &str, value: &Value) {
    match &mut tree.shape {
        Shape::Group(tasks) | Shape::Chain(tasks) => tasks.iter_mut().for_each(|task| stamp(task, name, value)),
        Shape::Chord(chord) => chord.header.iter_mut().chain(&mut chord.body).for_each(|task| stamp(task, name, value)),
        Shape::Task | Shape::Other(_) => {
            super::tree::append_once(&mut tree.options, "stamped_headers", name.into());
            tree.options.set(name, value.clone());
        }
    }
}

/// First this, then that, as Celery's `|` puts them together.
pub(super) fn pipe(first: Tree, next: Tree) -> Tree {
    match first.shape {
        Shape::Chain(_) => pipe_chain(first, next),
        Shape::Group(_) if next.is_empty_group() => first,
        Shape::Group(tasks) => Tree::chord(tasks, Some(next)),
        Shape::Chord(_) => {
            let next = next.unrolled();
            match next.shape {
                Shape::Chain(_) | Shape::Group(_) => pipe_task(first, next),
                _ => pipe_body(first, next),
            }
        }
        Shape::Task | Shape::Other(_) => pipe_task(first, next),
    }
}

fn pipe_task(first: Tree, next: Tree) -> Tree {
    let mut steps = vec![first];
    match next.shape {
        Shape::Chain(_) => steps.extend(next.unchained()),
        _ => steps.push(next.unrolled()),
    }
    Tree::chain(steps)
}

fn pipe_body(mut chord: Tree, next: Tree) -> Tree {
    if let Shape::Chord(parts) = &mut chord.shape {
        parts.group = None;
        parts.body = match parts.body.take() {
            Some(body) => Some(pipe(body, next)),
            None => Some(next),
        };
    }
    chord
}

fn pipe_chain(mut first: Tree, next: Tree) -> Tree {
    if next.is_empty_group() {
        return first;
    }
    let next = next.unrolled();
    if let Shape::Chain(_) = next.shape {
        return next.unchained().into_iter().fold(first, pipe);
    }
    let Shape::Chain(tasks) = &mut first.shape else { return first };
    match tasks.pop() {
        None if matches!(next.shape, Shape::Group(_)) => next,
        None => {
            let mut steps = first.unchained();
            steps.push(next);
            Tree::chain(steps)
        }
        Some(last) => {
            let chord = matches!(last.shape, Shape::Chord(_));
            let group = matches!(last.shape, Shape::Group(_));
            if group && !matches!(next.shape, Shape::Group(_)) {
                let chord = pipe(last, next);
                match tasks.last().is_some_and(|before| matches!(before.shape, Shape::Chord(_))).then(|| tasks.pop()).flatten() {
                    Some(before) => tasks.push(pipe_body(before, chord)),
                    None => tasks.push(chord),
                }
                first
            } else if chord && !matches!(next.shape, Shape::Chord(_)) {
                tasks.push(pipe_body(last, next));
                first
            } else {
                tasks.push(last);
                let mut steps = first.unchained();
                steps.push(next);
                Tree::chain(steps)
            }
        }
    }
}

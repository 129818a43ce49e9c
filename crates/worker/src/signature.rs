//! A task with its arguments and options, yet to be sent, that knows what comes back; chains,
//! groups and chords of such.

use std::{
    fmt,
    marker::PhantomData,
    time::{Duration, SystemTime},
};

use longshore_celery::{Value, WireSignature, canvas};
use serde::Serialize;

use crate::{error::ClientError, failure::Failure, values};

/// A task with its arguments and options, yet to be sent. `R` is what comes back: `add::call(1, 1)`
/// of `#[longshore::task] fn add(…) -> i64` is a `Signature<i64>`; a task that is only known by its
/// name gives a [`Value`]. A chain, a [`group`] and a [`chord`] are signatures too.
/// ```
/// use std::time::Duration;
/// use longshore_worker::{Signature, group};
///
/// let add = |x: i64| -> Signature<i64> { Signature::named("tasks.add").arg(&x).kwarg("y", &2).returns() };
/// let sum: Signature<i64> = Signature::named("tasks.sum").returns();
///
/// let later = add(1).countdown(Duration::from_secs(60)).queue("slow").priority(3);
/// assert_eq!(later.task(), "tasks.add");
/// let sums: Signature<Vec<i64>> = group([add(1), add(2)]);
/// let total: Signature<i64> = sums.then(sum); // a group that is followed by something is a chord
/// # let _ = total;
/// ```
#[must_use = "a signature does nothing until it is sent"]
pub struct Signature<R = Value> {
    wire: WireSignature,
    /// The first thing that could not be written, told when it is sent.
    wrong: Option<String>,
    result: PhantomData<fn() -> R>,
}

/// Makes a group: tasks that run side by side. Its result is the list of theirs, in order.
pub fn group<R>(tasks: impl IntoIterator<Item = Signature<R>>) -> Signature<Vec<R>> {
    let mut wrong = None;
    let tasks: Vec<WireSignature> = tasks.into_iter().map(|task| task.part(&mut wrong)).collect();
    Signature { wire: canvas::group(tasks), wrong, result: PhantomData }
}

/// Makes a chord: tasks that run side by side, and then the body with the list of their results.
pub fn chord<R, B>(header: impl IntoIterator<Item = Signature<R>>, body: Signature<B>) -> Signature<B> {
    let mut wrong = None;
    let header: Vec<WireSignature> = header.into_iter().map(|task| task.part(&mut wrong)).collect();
    let body = body.part(&mut wrong);
    Signature { wire: canvas::chord(header, body), wrong, result: PhantomData }
}

/// Makes a chain: tasks that run one after the other, each with the result of the one before as its
/// first argument. Its result is the last one's. Where the types differ, use [`Signature::then`].
pub fn chain<R>(tasks: impl IntoIterator<Item = Signature<R>>) -> Signature<R> {
    let mut wrong = None;
    let tasks: Vec<WireSignature> = tasks.into_iter().map(|task| task.part(&mut wrong)).collect();
    Signature { wire: canvas::chain(tasks), wrong, result: PhantomData }
}

impl Signature<Value> {
    /// Makes a call of the task of this name, without arguments.
    pub fn named(task: impl Into<String>) -> Self {
        WireSignature::new(task).into()
    }

    /// Sets the type of the result.
    pub fn returns<R>(self) -> Signature<R> {
        Signature { wire: self.wire, wrong: self.wrong, result: PhantomData }
    }
}

impl<R> Signature<R> {
    /// Returns the task's name.
    pub fn task(&self) -> &str {
        &self.wire.task
    }

    /// Adds a positional argument.
    pub fn arg<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        let place = self.wire.args.len() + 1;
        match values::from(value) {
            Ok(value) => self.wire.args.push(value),
            Err(error) => self.wrong(format!("argument {place} of {} cannot be written as JSON: {error}", self.wire.task)),
        }
        self
    }

    /// Adds positional arguments: the items of a list, an array or a tuple (`*args`).
    /// ```
    /// use longshore_worker::Signature;
    ///
    /// let wire = Signature::named("tasks.sum").args(&(1, "two")).args(&[3]).into_wire()?;
    /// assert_eq!(wire.args, [1.into(), "two".into(), 3.into()]);
    /// # Ok::<(), longshore_worker::ClientError>(())
    /// ```
    pub fn args<T: Serialize + ?Sized>(mut self, values: &T) -> Self {
        match values::from(values) {
            Ok(Value::List(values)) => self.wire.args.extend(values),
            Ok(Value::Null) => {}
            Ok(other) => self.wrong(format!("the further arguments of {} are no list but {}", self.wire.task, other.kind())),
            Err(error) => self.wrong(format!("the further arguments of {} cannot be written as JSON: {error}", self.wire.task)),
        }
        self
    }

    /// Sets keyword arguments: those of a map or a struct (`**kwargs`).
    /// ```
    /// use longshore_worker::Signature;
    /// use std::collections::BTreeMap;
    ///
    /// let wire = Signature::named("tasks.draw").kwargs(&BTreeMap::from([("width", 3)])).into_wire()?;
    /// assert_eq!(wire.kwargs.get("width"), Some(&3.into()));
    /// # Ok::<(), longshore_worker::ClientError>(())
    /// ```
    pub fn kwargs<T: Serialize + ?Sized>(mut self, values: &T) -> Self {
        match values::from(values) {
            Ok(Value::Map(values)) => values.0.into_iter().for_each(|(name, value)| self.wire.kwargs.set(name, value)),
            Ok(Value::Null) => {}
            Ok(other) => self.wrong(format!("the keyword arguments of {} are no map but {}", self.wire.task, other.kind())),
            Err(error) => self.wrong(format!("the keyword arguments of {} cannot be written as JSON: {error}", self.wire.task)),
        }
        self
    }

    /// Sets a keyword argument.
    pub fn kwarg<T: Serialize + ?Sized>(mut self, name: impl Into<String>, value: &T) -> Self {
        let name = name.into();
        match values::from(value) {
            Ok(value) => self.wire.kwargs.set(name, value),
            Err(error) => self.wrong(format!("argument {name} of {} cannot be written as JSON: {error}", self.wire.task)),
        }
        self
    }

    /// Sets the queue that it goes to, in place of the route of its task.
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.map(|wire| wire.queue(queue))
    }

    /// Sets the priority, 0 to 9. On Redis and SQLite 0 is served first; on RabbitMQ the largest
    /// that the queue knows, which may be up to 255.
    pub fn priority(self, priority: u8) -> Self {
        self.map(|wire| wire.priority(priority))
    }

    /// Sets how long after it was sent it may start at the earliest.
    pub fn countdown(self, countdown: Duration) -> Self {
        self.map(|wire| wire.countdown(countdown))
    }

    /// Sets the earliest time at which it may start.
    pub fn eta(self, eta: SystemTime) -> Self {
        self.map(|wire| wire.eta(eta))
    }

    /// Sets how long after it was sent it may start at the latest. After that it is revoked, and
    /// whoever waits for it is told so.
    pub fn expires_in(self, expires: Duration) -> Self {
        self.map(|wire| wire.expires_in(expires))
    }

    /// Sets the latest time at which it may start.
    pub fn expires_at(self, expires: SystemTime) -> Self {
        self.map(|wire| wire.expires_at(expires))
    }

    /// Sets the hard limit of one attempt, in place of the task's own.
    pub fn time_limit(self, limit: Duration) -> Self {
        self.map(|wire| wire.time_limit(limit))
    }

    /// Sets the soft limit of one attempt, in place of the task's own.
    pub fn soft_time_limit(self, limit: Duration) -> Self {
        self.map(|wire| wire.soft_time_limit(limit))
    }

    /// Stores no result: nobody wants it. [`get`](crate::Answer::get) would wait for ever.
    pub fn ignore_result(self) -> Self {
        self.map(WireSignature::ignore_result)
    }

    /// Sets a header of the sender's own. The task reads it with
    /// [`TaskContext::header`](crate::TaskContext::header).
    pub fn header<T: Serialize + ?Sized>(mut self, name: &str, value: &T) -> Self {
        match values::from(value) {
            Ok(value) => self.map(|wire| wire.header(name, value)),
            Err(error) => {
                self.wrong(format!("the header {name} of {} cannot be written as JSON: {error}", self.wire.task));
                self
            }
        }
    }

    /// Sets its id, instead of a fresh one. Two tasks of one id are one task to whoever asks for
    /// results.
    pub fn task_id(self, id: impl Into<String>) -> Self {
        self.map(|wire| wire.task_id(id))
    }

    /// Sets the name to show in logs, instead of its own.
    pub fn shadow(self, name: impl Into<String>) -> Self {
        self.map(|wire| wire.option("shadow", name.into()))
    }

    /// Sets an option by its name in Celery, for those that have no method here.
    pub fn option(self, name: &str, value: impl Into<Value>) -> Self {
        self.map(|wire| wire.option(name, value))
    }

    /// Sets a stamp: a header that workers show, and by which tasks can be revoked. In a canvas it
    /// is on every task.
    pub fn stamp(self, name: &str, value: impl Into<Value>) -> Self {
        self.map(|wire| wire.stamp(name, value))
    }

    /// Ignores the results of what went before it in a chain.
    pub fn immutable(self) -> Self {
        self.map(WireSignature::immutable)
    }

    /// Sends `callback`, with its result, when it has succeeded.
    pub fn link<C>(mut self, callback: Signature<C>) -> Self {
        let callback = callback.part(&mut self.wrong);
        self.map(|wire| wire.link(callback))
    }

    /// Sends `errback`, with its id, when it has failed.
    pub fn link_error<C>(mut self, errback: Signature<C>) -> Self {
        let errback = errback.part(&mut self.wrong);
        self.map(|wire| wire.link_error(errback))
    }

    /// Adds `next`, which runs afterwards with the result as its first argument (`|` in Python).
    /// The result is that of `next`.
    pub fn then<N>(mut self, next: Signature<N>) -> Signature<N> {
        let next = next.part(&mut self.wrong);
        Signature { wire: self.wire.then(next), wrong: self.wrong, result: PhantomData }
    }

    /// Returns the signature as it stands in messages.
    ///
    /// # Errors
    /// [`ClientError::Signature`]: an argument could not be written as JSON: which, and why.
    pub fn into_wire(self) -> Result<WireSignature, ClientError> {
        match self.wrong {
            Some(wrong) => Err(ClientError::Signature(wrong)),
            None => Ok(self.wire),
        }
    }

    /// Makes it a part of another: what is wrong with it is wrong with the whole.
    fn part(self, whole: &mut Option<String>) -> WireSignature {
        if let Some(wrong) = self.wrong {
            whole.get_or_insert(wrong);
        }
        self.wire
    }

    fn map(mut self, change: impl FnOnce(WireSignature) -> WireSignature) -> Self {
        self.wire = change(self.wire);
        self
    }

    fn wrong(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }
}

/// Leaves out arguments that are `None` at the end of a call: those behind the first `least`, where
/// there are as many as the task has places. For generated code.
pub fn without_nones<R>(mut call: Signature<R>, least: usize, places: usize) -> Signature<R> {
    if call.wire.args.len() == places {
        while call.wire.args.len() > least && call.wire.args.last().is_some_and(Value::is_null) {
            call.wire.args.pop();
        }
    }
    call
}

/// Sets a keyword argument unless it is `None`. For generated code.
pub fn optional_kwarg<R, T: Serialize>(call: Signature<R>, name: &str, value: &Option<T>) -> Signature<R> {
    match value {
        Some(value) => call.kwarg(name, value),
        None => call,
    }
}

impl Failure {
    /// Gives the next attempt the arguments of this call, and the options that it names: `queue`,
    /// `priority`, `countdown` or `eta`, `expires`, limits of time, headers. It must be a call of
    /// the same task; [`this_call`](crate::TaskContext::this_call) is the running one, to be
    /// changed. What it does not name stays as it is. Changes nothing but a retry.
    /// ```
    /// use longshore_worker::{Failure, Signature};
    ///
    /// let next: Signature<i64> = Signature::named("shop.page").arg(&2).queue("slow").returns();
    /// let Failure::Retry { call: Some(call), .. } = Failure::retry().with_call(next) else { panic!() };
    /// assert_eq!(call.args, [2.into()]);
    /// ```
    #[must_use]
    pub fn with_call<R>(mut self, call: Signature<R>) -> Self {
        if let Self::Retry { call: next, .. } = &mut self {
            match call.into_wire() {
                Ok(wire) => *next = Some(Box::new(wire)),
                Err(wrong) => return Self::error("TypeError", wrong.to_string()),
            }
        }
        self
    }
}

impl<R> From<WireSignature> for Signature<R> {
    fn from(wire: WireSignature) -> Self {
        Self { wire, wrong: None, result: PhantomData }
    }
}

impl<R> Clone for Signature<R> {
    fn clone(&self) -> Self {
        Self { wire: self.wire.clone(), wrong: self.wrong.clone(), result: PhantomData }
    }
}

impl<R> fmt::Debug for Signature<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wire.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_cannot_be_written_is_told_when_it_is_sent_wherever_it_stands() {
        let bad = || Signature::named("t").arg(&1).arg(&BTreeMap::from([((1, 2), 3)]));
        let good = || Signature::named("t");
        for signature in
            [bad().arg(&2), good().then(bad()), good().link(bad()), group([good(), bad()]).then(good()), chord([bad()], good())]
        {
            let text = signature.into_wire().unwrap_err().to_string();
            assert!(text.starts_with("argument 2 of t cannot be written as JSON: "), "{text}");
        }
        assert!(good().then(good()).into_wire().is_ok());
    }

    #[test]
    fn options_are_celerys() {
        let wire =
            Signature::named("t").arg("x").kwarg("k", &Some(1)).queue("q").priority(3).countdown(Duration::from_secs(2)).ignore_result();
        let wire = wire.header("h", &[1, 2]).shadow("s").task_id("i").into_wire().unwrap();
        assert_eq!(wire.args, vec![Value::from("x")]);
        assert_eq!(wire.kwargs.get("k"), Some(&Value::Int(1)));
        for (name, value) in [
            ("queue", "q".into()),
            ("priority", 3.into()),
            ("countdown", 2.0.into()),
            ("ignore_result", true.into()),
            ("shadow", "s".into()),
            ("task_id", "i".into()),
        ] {
            assert_eq!(wire.options.get(name), Some(&value), "{name}");
        }
        assert_eq!(wire.options.get("headers").and_then(|headers| headers.get("h")), Some(&Value::from(vec![1_i64, 2])));
    }
}

//! A task with its arguments and options, yet to be sent, that knows what comes back.

use std::{fmt, marker::PhantomData};

use longshore_celery::{Signature as Wire, Value};
use serde::Serialize;

use crate::values;

/// A task with its arguments and options, yet to be sent. `R` is what comes back: `add::call(1, 1)` of `#[longshore::task] fn add(…) -> i64` is a
/// `Signature<i64>`; a task that is only known by its name gives a [`Value`].
/// ```
/// use longshore_worker::Signature;
///
/// let add: Signature<i64> = Signature::named("tasks.add").arg(&1).kwarg("y", &2).returns();
/// assert_eq!(add.task(), "tasks.add");
/// ```
#[must_use = "a signature does nothing until it is sent"]
pub struct Signature<R = Value> {
    wire: Wire,
    /// The first argument that could not be written, told when it is sent.
    wrong: Option<String>,
    result: PhantomData<fn() -> R>,
}

impl Signature<Value> {
    /// A task by its name, without arguments.
    pub fn named(task: impl Into<String>) -> Self {
        Wire { task: task.into(), ..Wire::default() }.into()
    }

    /// The same, of which this comes back.
    pub fn returns<R>(self) -> Signature<R> {
        Signature { wire: self.wire, wrong: self.wrong, result: PhantomData }
    }
}

impl<R> Signature<R> {
    /// The task's name.
    pub fn task(&self) -> &str {
        &self.wire.task
    }

    /// One more positional argument.
    pub fn arg<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        let place = self.wire.args.len() + 1;
        match values::from(value) {
            Ok(value) => self.wire.args.push(value),
            Err(error) => self.wrong(format!("argument {place} of {} cannot be written as JSON: {error}", self.wire.task)),
        }
        self
    }

    /// A keyword argument.
    pub fn kwarg<T: Serialize + ?Sized>(mut self, name: impl Into<String>, value: &T) -> Self {
        let name = name.into();
        match values::from(value) {
            Ok(value) => self.wire.kwargs.set(name, value),
            Err(error) => self.wrong(format!("argument {name} of {} cannot be written as JSON: {error}", self.wire.task)),
        }
        self
    }

    fn wrong(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }
}

impl<R> From<Wire> for Signature<R> {
    fn from(wire: Wire) -> Self {
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

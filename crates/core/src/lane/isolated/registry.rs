//! The functions that children may run: what the parent asks for by its place, the child finds at
//! the same place.

use std::{
    any::{TypeId, type_name},
    fmt,
    sync::{Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

use super::wire;
use crate::{
    error::{Again, TaskError},
    lane::{IntoOutcome, caught},
    outcome::Outcome,
};

/// Payload in, outcome out, both as bytes.
pub(super) type Run = Box<dyn Fn(&[u8], &mut Vec<u8>) + Send + Sync>;

struct Entry {
    key: TypeId,
    name: &'static str,
    run: Run,
}

/// The functions that this program's child processes may run, for [`init_with`](crate::init_with).
///
/// The same executable is started again as the child, and finds the function by its type, so it
/// must be a function itself, or a closure that captures nothing; a pointer to one, or a closure
/// with values in it, does not compile.
///
/// ```compile_fail
/// let offset = 3;
/// longshore_core::Functions::new().with(move |n: u64| Ok::<u64, String>(n + offset));
/// ```
#[derive(Default)]
pub struct Functions(Vec<Entry>);

impl Functions {
    /// Makes an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one more.
    #[must_use]
    pub fn with<F, T, R, A>(mut self, function: F) -> Self
    where
        F: Fn(T) -> A + Send + Sync + 'static,
        T: DeserializeOwned + 'static,
        R: Serialize + 'static,
        A: IntoOutcome<R>,
    {
        let run = Box::new(move |bytes: &[u8], into: &mut Vec<u8>| {
            let outcome = match wire::payload(bytes) {
                Ok(payload) => caught(|| function(payload).into_outcome()),
                Err(error) => Outcome::Failed(error),
            };
            wire::push_outcome(outcome, into);
        });
        self.0.push(Entry { key: key::<F, T, R>(), name: type_name::<F>(), run });
        self
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| entry.name)).finish()
    }
}

fn key<F: 'static, T: 'static, R: 'static>() -> TypeId {
    const { assert!(size_of::<F>() == 0, "a child finds a function by its type: give the function itself, or a closure that captures nothing") };
    TypeId::of::<(F, T, R)>()
}

/// A function that a child can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) place: usize,
    pub(super) name: &'static str,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { entries: Vec::new(), role: Role::Unknown });

struct Registry {
    entries: Vec<Entry>,
    role: Role,
}

/// Role that `init` has given to this process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Unknown,
    Parent,
    Child,
}

fn with_registry<O>(look: impl FnOnce(&mut Registry) -> O) -> O {
    look(&mut REGISTRY.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Remembers functions, behind those of an earlier call; `init` has been called.
pub(crate) fn add(functions: Functions) {
    with_registry(|registry| {
        registry.entries.extend(functions.0);
        registry.role = Role::Parent;
    });
}

/// Child: the function at a place, for good. `None` if there is none (yet).
pub(super) fn take(place: usize) -> Option<(&'static str, Run)> {
    with_registry(|registry| {
        if place >= registry.entries.len() {
            return None;
        }
        registry.role = Role::Child;
        let entry = registry.entries.swap_remove(place);
        Some((entry.name, entry.run))
    })
}

/// Parent: where a child finds this function.
pub(super) fn find<F: 'static, T: 'static, R: 'static>() -> Result<Function, TaskError> {
    let (key, name) = (key::<F, T, R>(), type_name::<F>());
    let setup = |message: String| Err(TaskError::new("setup", message).with_again(Again::Never));
    with_registry(|registry| match registry.role {
        Role::Unknown => {
            setup(format!("`{name}` cannot run in a child process: call longshore::init_with(Functions::new().with({name})) first in main"))
        }
        Role::Child => {
            setup(format!("`{name}` cannot run in a child process of a child process: give its result back, and start the next from main"))
        }
        Role::Parent => match registry.entries.iter().position(|entry| entry.key == key) {
            Some(place) => Ok(Function { place, name }),
            None => setup(format!("`{name}` cannot run in a child process: add it to the Functions of longshore::init_with in main")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(n: u64) -> Result<u64, String> {
        Ok(2 * n)
    }

    fn unknown(n: u64) -> Result<u64, String> {
        Ok(n)
    }

    #[test]
    fn a_function_is_found_by_its_type_and_an_unknown_one_says_what_to_do() {
        fn place<F: Fn(u64) -> Result<u64, String> + 'static>(_: F) -> Result<Function, TaskError> {
            find::<F, u64, u64>()
        }
        assert!(place(double).unwrap_err().message().contains("init_with"));
        let closure = |n: u64| Ok::<u64, String>(n + 1);
        add(Functions::new().with(closure));
        add(Functions::new().with(double));
        assert_eq!((place(closure).unwrap().place, place(double).unwrap().place), (0, 1));
        let error = place(unknown).unwrap_err();
        assert!(error.message().contains("unknown") && error.message().contains("add it"), "{error}");
        assert_eq!(error.again(), Again::Never);

        let (name, run) = take(1).unwrap();
        assert!(name.ends_with("double"));
        let mut batch = wire::Batch::new();
        batch.push(&21_u64).unwrap();
        let (mut answer, sent) = (Vec::new(), batch.finish().to_vec());
        run(wire::payloads(&sent).next().unwrap(), &mut answer);
        assert!(matches!(wire::outcome::<u64>(&answer), Outcome::Ok(42)));
        assert!(place(double).unwrap_err().message().contains("child process of a child"));
        assert!(take(7).is_none());
    }
}

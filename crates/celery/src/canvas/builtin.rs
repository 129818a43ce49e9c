//! The built-in tasks.

use super::{
    CanvasError,
    tree::{Shape, Tree},
};
use crate::{
    signature::WireSignature,
    value::{Map, Value},
};

/// The name of the task that makes one result of several.
pub(super) const ACCUMULATE: &str = "celery.accumulate";

/// The tasks that every worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// [`accumulate`].
    Accumulate,
    /// Calls a task with each item: [`map_calls`].
    Map,
    /// Calls a task with each item's members: [`map_calls`].
    Starmap,
    /// Sends a group of `celery.starmap`: [`chunks`].
    Chunks,
    /// Nothing; a name.
    Group,
    /// Nothing; a name.
    Chain,
    /// Nothing; a name.
    Chord,
    /// Waits for a chord's parts, where the result backend does not count them.
    ChordUnlock,
    /// Cleans the result backend; nothing where it forgets by itself.
    BackendCleanup,
    /// Says `pong`.
    Ping,
}

impl Builtin {
    const ALL: [(&'static str, Self); 10] = [
        (ACCUMULATE, Self::Accumulate),
        ("celery.map", Self::Map),
        ("celery.starmap", Self::Starmap),
        ("celery.chunks", Self::Chunks),
        ("celery.group", Self::Group),
        ("celery.chain", Self::Chain),
        ("celery.chord", Self::Chord),
        ("celery.chord_unlock", Self::ChordUnlock),
        ("celery.backend_cleanup", Self::BackendCleanup),
        ("celery.ping", Self::Ping),
    ];

    /// The task of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(own, _)| *own == name).map(|(_, builtin)| *builtin)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, builtin)| *builtin == self).map_or("", |(name, _)| name)
    }
}

/// `celery.accumulate`: its arguments as a list, or the one that `index` names. `None` if there is
/// no such argument (an `IndexError` in Python).
pub fn accumulate(args: &[Value], kwargs: &Map) -> Option<Value> {
    match kwargs.get("index") {
        None | Some(Value::Null) => Some(Value::List(args.to_vec())),
        Some(Value::Int(index)) => {
            let at = if *index < 0 { i64::try_from(args.len()).ok()?.checked_add(*index)? } else { *index };
            args.get(usize::try_from(at).ok()?).cloned()
        }
        Some(_) => None,
    }
}

/// The calls that `celery.map` (or `celery.starmap`) makes in turn, in place: the task's name and
/// the arguments of each. What they return is a list.
///
/// # Errors
/// `task` or `it` is missing, or (`celery.starmap`) an item is no list.
pub fn map_calls(kwargs: &Map, star: bool) -> Result<(String, Vec<Vec<Value>>), CanvasError> {
    let (task, items) = mapped(kwargs)?;
    let call = |item: &Value| match item {
        Value::List(args) if star => Ok(args.clone()),
        _ if star => Err(CanvasError::malformed("an item of celery.starmap is not a list of arguments")),
        item => Ok(vec![item.clone()]),
    };
    Ok((task.task, items.iter().map(call).collect::<Result<_, _>>()?))
}

/// The group that `celery.chunks` sends: `it` in pieces of `n`, each a `celery.starmap`.
///
/// # Errors
/// `task`, `it` or `n` is missing or makes no sense.
pub fn chunks(kwargs: &Map) -> Result<WireSignature, CanvasError> {
    let (task, items) = mapped(kwargs)?;
    let size = match kwargs.get("n") {
        Some(Value::Int(n)) if *n > 0 => usize::try_from(*n).unwrap_or(usize::MAX),
        _ => return Err(CanvasError::malformed("n of celery.chunks is not a number above zero")),
    };
    let part = |items: &[Value]| {
        let mut tree = Tree::new(Builtin::Starmap.name(), Shape::Task);
        tree.kwargs.set("task", task.to_value());
        tree.kwargs.set("it", Value::List(items.to_vec()));
        tree.immutable = true;
        tree
    };
    Ok(Tree::group(items.chunks(size).map(part).collect()).to_signature())
}

fn mapped(kwargs: &Map) -> Result<(WireSignature, &[Value]), CanvasError> {
    let task = WireSignature::from_value(kwargs.get("task").cloned().unwrap_or_default())?;
    match kwargs.get("it") {
        Some(Value::List(items)) => Ok((task, items)),
        _ => Err(CanvasError::malformed("there is no list of items (it)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accumulate_takes_one_or_all() {
        let args = [Value::Int(1), Value::Int(2)];
        let index = |index: i64| Map(vec![("index".to_owned(), index.into())]);
        assert_eq!(accumulate(&args, &Map::default()), Some(Value::List(args.to_vec())));
        assert_eq!(accumulate(&args, &index(0)), Some(Value::Int(1)));
        assert_eq!(accumulate(&args, &index(-1)), Some(Value::Int(2)));
        assert_eq!(accumulate(&args, &index(2)), None);
        assert_eq!(accumulate(&args, &index(-3)), None);
    }

    #[test]
    fn chunks_are_a_group_of_starmaps() {
        let mut kwargs = Map::default();
        kwargs.set("task", WireSignature { task: "add".into(), ..WireSignature::default() }.to_value());
        kwargs.set("it", Value::List((0..5).map(|n| Value::List(vec![n.into(), n.into()])).collect()));
        kwargs.set("n", 2);
        let group = chunks(&kwargs).unwrap();
        let Some(Value::List(tasks)) = group.kwargs.get("tasks") else { panic!("no tasks") };
        let sizes: Vec<usize> =
            tasks.iter().map(|task| map_calls(&WireSignature::from_value(task.clone()).unwrap().kwargs, true).unwrap().1.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn every_builtin_task_has_its_name() {
        for (name, builtin) in Builtin::ALL {
            assert_eq!((Builtin::named(name), builtin.name()), (Some(builtin), name));
        }
        assert_eq!(Builtin::named("celery.nosuch"), None);
    }
}

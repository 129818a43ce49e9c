//! How much a canvas comes to when it is sent: bodies, errbacks, options and arguments are copied onto many tasks, and what comes from outside could
//! make gigabytes of megabytes so.

use super::{
    CanvasError, MOST_COPIED,
    tree::{Shape, Tree, listed},
};
use crate::value::{Map, Value};

/// Refuses what would come to more than is sent at once.
pub(super) fn check(tree: &Tree, args: &[Value], call: &Map) -> Result<(), CanvasError> {
    let shared = args.iter().map(weight).fold(map_weight(call), u64::saturating_add);
    if copied(tree).saturating_add(tasks(tree).saturating_mul(shared)) > MOST_COPIED { Err(CanvasError::TooLarge) } else { Ok(()) }
}

/// About how many bytes are copied within it.
fn copied(tree: &Tree) -> u64 {
    let inner = match &tree.shape {
        Shape::Task | Shape::Other(_) => 0,
        Shape::Chain(members) | Shape::Group(members) => {
            tasks(tree).saturating_mul(map_weight(&tree.options)).saturating_add(sum(members, copied))
        }
        Shape::Chord(chord) => {
            let body = chord.body.as_ref();
            let carried = body.map_or(0, tree_weight).saturating_add(map_weight(&tree.options));
            let header = sum(&chord.header, tasks).saturating_mul(carried);
            header.saturating_add(sum(&chord.header, copied)).saturating_add(body.map_or(0, copied))
        }
    };
    inner.saturating_add(listed(&tree.options, "chord").iter().map(weight).fold(0, u64::saturating_add))
}

/// How many tasks are in it, at any depth.
fn tasks(tree: &Tree) -> u64 {
    match &tree.shape {
        Shape::Task | Shape::Other(_) => 1,
        Shape::Chain(members) | Shape::Group(members) => sum(members, tasks).saturating_add(1),
        Shape::Chord(chord) => sum(&chord.header, tasks).saturating_add(chord.body.as_ref().map_or(0, tasks)).saturating_add(1),
    }
}

fn sum(members: &[Tree], of: fn(&Tree) -> u64) -> u64 {
    members.iter().map(of).fold(0, u64::saturating_add)
}

fn tree_weight(tree: &Tree) -> u64 {
    let own = tree.args.iter().map(weight).fold(100, u64::saturating_add);
    let own = own.saturating_add(map_weight(&tree.kwargs)).saturating_add(map_weight(&tree.options));
    own.saturating_add(match &tree.shape {
        Shape::Task | Shape::Other(_) => 0,
        Shape::Chain(members) | Shape::Group(members) => sum(members, tree_weight),
        Shape::Chord(chord) => sum(&chord.header, tree_weight).saturating_add(chord.body.as_ref().map_or(0, tree_weight)),
    })
}

fn map_weight(map: &Map) -> u64 {
    map.iter().map(|(name, value)| 32 + name.len() as u64 + weight(value)).fold(0, u64::saturating_add)
}

/// About how many bytes of memory a value takes.
fn weight(value: &Value) -> u64 {
    32 + match value {
        Value::Text(text) => text.len() as u64,
        Value::Big(text) | Value::Escaped(text) => text.len() as u64,
        Value::List(list) => list.iter().map(weight).fold(0, u64::saturating_add),
        Value::Map(map) => map_weight(map),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
    }
}

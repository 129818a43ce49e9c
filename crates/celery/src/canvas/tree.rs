//! A signature with its parts at hand: the members of a chain or a group, a chord's header and
//! body.

use std::sync::Arc;

use super::{CanvasError, DEEPEST};
use crate::{
    signature::{Subtask, WireSignature},
    value::{Map, Value},
};

/// A signature, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) task: String,
    pub(super) args: Vec<Value>,
    /// Without what the shape holds.
    pub(super) kwargs: Map,
    /// All but the chord.
    pub(super) options: Map,
    /// The body of the chord that it is a part of: one for all of its parts, which are many, and it
    /// may be large.
    pub(super) chord: Option<Arc<WireSignature>>,
    pub(super) immutable: bool,
    pub(super) shape: Shape,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    Task,
    /// A word that we know nothing of (`xmap`): sent as the task that it names.
    Other(String),
    Chain(Vec<Tree>),
    Group(Vec<Tree>),
    Chord(Box<Chord>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Chord {
    pub(super) header: Vec<Tree>,
    /// The options of the header's group, once it is frozen.
    pub(super) group: Option<Map>,
    pub(super) body: Option<Tree>,
}

impl Tree {
    pub(super) fn new(task: &str, shape: Shape) -> Self {
        Self {
            task: task.to_owned(),
            args: Vec::new(),
            kwargs: Map::default(),
            options: Map::default(),
            chord: None,
            immutable: false,
            shape,
        }
    }

    pub(super) fn chain(tasks: Vec<Tree>) -> Self {
        Self::new("celery.chain", Shape::Chain(tasks))
    }

    pub(super) fn group(tasks: Vec<Tree>) -> Self {
        Self::new("celery.group", Shape::Group(tasks))
    }

    pub(super) fn chord(header: Vec<Tree>, body: Option<Tree>) -> Self {
        let mut tree = Self::new("celery.chord", Shape::Chord(Box::new(Chord { header, group: None, body })));
        tree.kwargs.set("kwargs", Map::default());
        tree
    }

    pub(super) fn from_signature(signature: &WireSignature) -> Result<Self, CanvasError> {
        Self::read(signature.clone(), DEEPEST)
    }

    fn read(signature: WireSignature, depth: usize) -> Result<Self, CanvasError> {
        let depth = depth.checked_sub(1).ok_or(CanvasError::TooDeep)?;
        let WireSignature { task, args, mut kwargs, mut options, subtask, immutable } = signature;
        let chord = match options.remove("chord") {
            None | Some(Value::Null) => None,
            Some(chord) => Some(Arc::new(WireSignature::from_value(chord)?)),
        };
        let shape = match subtask {
            Subtask::Task => Shape::Task,
            Subtask::Other(word) => Shape::Other(word),
            Subtask::Chain => Shape::Chain(read_members(kwargs.remove("tasks"), depth)?),
            Subtask::Group => Shape::Group(read_members(kwargs.remove("tasks"), depth)?),
            Subtask::Chord => {
                let header = read_members(kwargs.remove("header"), depth)?;
                let body = match kwargs.remove("body") {
                    None | Some(Value::Null) => None,
                    Some(body) => Some(Self::read(WireSignature::from_value(body)?, depth)?),
                };
                Shape::Chord(Box::new(Chord { header, group: None, body }))
            }
        };
        // Chains and groups carry no arguments of their own; Celery drops them too.
        let bare = matches!(shape, Shape::Chain(_) | Shape::Group(_));
        Ok(if bare {
            Self { task, args: Vec::new(), kwargs: Map::default(), options, chord, immutable: false, shape }
        } else {
            Self { task, args, kwargs, options, chord, immutable, shape }
        })
    }

    pub(super) fn to_value(&self) -> Value {
        self.to_signature().to_value()
    }

    pub(super) fn to_signature(&self) -> WireSignature {
        let list = |members: &[Tree]| Value::List(members.iter().map(Tree::to_value).collect());
        let mut kwargs = self.kwargs.clone();
        let subtask = match &self.shape {
            Shape::Task => Subtask::Task,
            Shape::Other(word) => Subtask::Other(word.clone()),
            Shape::Chain(tasks) => {
                kwargs.set("tasks", list(tasks));
                Subtask::Chain
            }
            Shape::Group(tasks) => {
                kwargs.set("tasks", list(tasks));
                Subtask::Group
            }
            Shape::Chord(chord) => {
                let header = match &chord.group {
                    None => list(&chord.header),
                    Some(options) => {
                        let kwargs = Map::from_iter([("tasks", list(&chord.header))]);
                        let group = "celery.group".to_owned();
                        WireSignature { task: group, kwargs, options: options.clone(), subtask: Subtask::Group, ..WireSignature::default() }
                            .to_value()
                    }
                };
                kwargs.set("header", header);
                kwargs.set("body", chord.body.as_ref().map(Tree::to_value));
                Subtask::Chord
            }
        };
        let mut options = self.options.clone();
        if let Some(chord) = &self.chord {
            options.set("chord", chord.to_value());
        }
        let (task, args, immutable) = (self.task.clone(), self.args.clone(), self.immutable);
        WireSignature { task, args, kwargs, options, subtask, immutable }
    }

    /// A fresh copy, as Celery makes one before it freezes: a chord in it is no longer bound to the
    /// group that its header was frozen as.
    pub(super) fn copied(&self) -> Self {
        let mut copy = self.clone();
        copy.unbind();
        copy
    }

    fn unbind(&mut self) {
        match &mut self.shape {
            Shape::Chain(tasks) => tasks.iter_mut().for_each(Tree::unbind),
            Shape::Chord(chord) => {
                chord.group = None;
                chord.body.iter_mut().for_each(Tree::unbind);
            }
            Shape::Task | Shape::Other(_) | Shape::Group(_) => {}
        }
    }

    /// Puts arguments before its own, where it takes any.
    pub(super) fn prepend(&mut self, args: &[Value]) {
        if !self.immutable && !args.is_empty() {
            self.args.splice(0..0, args.iter().cloned());
        }
    }

    /// Its options under those of a call: the call's go before, but for the group and the stamps,
    /// which stay.
    pub(super) fn merged_options(&self, call: &Map) -> Map {
        merged(&self.options, call)
    }

    /// Returns what the tasks of a header carry when this is their body: nothing, if it is a group
    /// without members.
    pub(super) fn as_chord(&self) -> Option<Arc<WireSignature>> {
        (!self.is_empty_group()).then(|| Arc::new(self.to_signature()))
    }

    pub(super) fn is_empty_group(&self) -> bool {
        matches!(&self.shape, Shape::Group(tasks) if tasks.is_empty())
    }

    /// A group with one member is that member.
    pub(super) fn unrolled(mut self) -> Self {
        while let Shape::Group(tasks) = &mut self.shape {
            match (tasks.len(), tasks.pop()) {
                (1, Some(only)) => self = only,
                (_, last) => {
                    tasks.extend(last);
                    break;
                }
            }
        }
        self
    }

    /// Returns how many endings it counts for in the chord that it is a part of.
    pub(super) fn size(&self) -> u64 {
        match &self.shape {
            Shape::Task | Shape::Other(_) => 1,
            Shape::Group(tasks) => tasks.iter().map(Tree::size).sum(),
            Shape::Chain(tasks) => tasks.iter().rev().map(Tree::size).find(|size| *size > 0).unwrap_or(0),
            Shape::Chord(chord) => chord.body.as_ref().map_or(0, Tree::size),
        }
    }

    /// Sends a callback after it: after the last task of a chain, a chord's body, or the first task
    /// of a group.
    pub(super) fn link(&mut self, callback: Value) {
        match &mut self.shape {
            Shape::Chord(chord) => chord.body.iter_mut().for_each(|body| body.link(callback.clone())),
            Shape::Group(tasks) => {
                if let Some(first) = tasks.first_mut() {
                    first.link(immutable(callback));
                }
            }
            _ => append_once(&mut self.options, "link", callback),
        }
    }

    /// Tells an errback of its failure: of each member of a group, of a chord's body, and of the
    /// chords in its header until that is frozen.
    pub(super) fn link_error(&mut self, errback: &Value) {
        match &mut self.shape {
            Shape::Chord(chord) => {
                let frozen = chord.group.is_some();
                for member in chord.header.iter_mut().filter(|member| !frozen && matches!(member.shape, Shape::Chord(_))) {
                    member.link_error(errback);
                }
                chord.body.iter_mut().for_each(|body| body.link_error(errback));
            }
            Shape::Group(tasks) => tasks.iter_mut().for_each(|task| task.link_error(errback)),
            _ => append_once(&mut self.options, "link_error", errback.clone()),
        }
    }

    /// The members of a chain, each with the chain's errbacks, the last with its callbacks.
    pub(super) fn unchained(self) -> Vec<Tree> {
        let Shape::Chain(mut tasks) = self.shape else { return vec![self] };
        if let Some(last) = tasks.last_mut() {
            listed(&self.options, "link").into_iter().for_each(|callback| last.link(callback));
        }
        for errback in listed(&self.options, "link_error") {
            tasks.iter_mut().for_each(|task| task.link_error(&errback));
        }
        tasks
    }

    /// Takes the chord callback off its last tasks.
    pub(super) fn clear_chord(&mut self) {
        self.chord = None;
        match &mut self.shape {
            Shape::Group(tasks) => tasks.iter_mut().for_each(Tree::clear_chord),
            Shape::Chain(tasks) => tasks.iter_mut().next_back().into_iter().for_each(Tree::clear_chord),
            Shape::Chord(chord) => chord.body.iter_mut().for_each(Tree::clear_chord),
            Shape::Task | Shape::Other(_) => {}
        }
    }
}

/// The members of a group or a chain, or a chord's header: a list, or a signature that holds one.
fn read_members(value: Option<Value>, depth: usize) -> Result<Vec<Tree>, CanvasError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::List(members)) => members.into_iter().map(|member| Tree::read(WireSignature::from_value(member)?, depth)).collect(),
        Some(value @ Value::Map(_)) => {
            let tree = Tree::read(WireSignature::from_value(value)?, depth)?;
            Ok(match tree.shape {
                Shape::Group(tasks) | Shape::Chain(tasks) => tasks,
                _ => vec![tree],
            })
        }
        Some(_) => Err(CanvasError::malformed("the members of a canvas are a list of signatures")),
    }
}

/// Options under those of a call: the call's go before, but for the group and the stamps, which
/// stay.
pub(super) fn merged(options: &Map, call: &Map) -> Map {
    let stamps = listed(options, "stamped_headers");
    let stays = |name: &str| {
        options.get(name).is_some()
            && (name == "group_id"
                || name == "stamped_headers"
                || stamps.iter().any(|stamp| matches!(stamp, Value::Text(text) if text == name)))
    };
    let mut merged = options.clone();
    for (name, value) in &call.0 {
        if !stays(name) {
            merged.set(name.as_str(), value.clone());
        }
    }
    merged
}

/// A text option, where there is one and it is not empty.
pub(super) fn text<'a>(options: &'a Map, name: &str) -> Option<&'a str> {
    match options.get(name) {
        Some(Value::Text(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// An option that is a list, or one thing, or nothing.
pub(super) fn listed(options: &Map, name: &str) -> Vec<Value> {
    match options.get(name) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(list)) => list.clone(),
        Some(one) => vec![one.clone()],
    }
}

/// Appends to an option that is a list, unless it is in there.
pub(super) fn append_once(options: &mut Map, name: &str, value: Value) {
    let mut list = listed(options, name);
    if !list.contains(&value) {
        list.push(value);
    }
    options.set(name, Value::List(list));
}

/// Appends to an option that is a list.
pub(super) fn extend(options: &mut Map, name: &str, values: &[Value]) {
    let mut list = listed(options, name);
    list.extend_from_slice(values);
    options.set(name, Value::List(list));
}

fn immutable(mut callback: Value) -> Value {
    if let Value::Map(map) = &mut callback {
        map.set("immutable", true);
    }
    callback
}

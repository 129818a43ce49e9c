//! The steps of a chain: spliced, split, and put together again where a group is followed by
//! something.

use std::collections::VecDeque;

use super::{
    freeze::{GivenIds, Planner},
    tree::{Shape, Tree},
};
use crate::value::{Map, Value};

/// A step of a chain: one of its members, or a group with what follows it, which together are a
/// chord.
pub(super) enum Step<'t> {
    One(&'t mut Tree),
    Chord { header: &'t mut Vec<Tree>, group: Option<Map>, id: Option<String>, body: Box<Step<'t>> },
}

impl Planner<'_> {
    fn freeze_step(&mut self, step: &mut Step<'_>, given: GivenIds<'_>) -> usize {
        match step {
            Step::One(tree) => self.freeze(tree, given),
            Step::Chord { header, group, id, body } => {
                let place = self.freeze_step(body, GivenIds { parent: None, ..given });
                let (group_id, header_place) = self.freeze_header(header, group, given);
                *id = Some(group_id);
                self.behind(Some(place), header_place)
            }
        }
    }

    /// Freezes the members of a chain, the last first: that is how they come back, and their places
    /// too.
    pub(super) fn freeze_steps<'t>(
        &mut self,
        members: Vec<&'t mut Tree>,
        given: GivenIds<'_>,
        errbacks: &[Value],
    ) -> (Vec<Step<'t>>, Vec<usize>) {
        let mut steps: Vec<Step<'t>> = Vec::new();
        let mut places: Vec<usize> = Vec::new();
        // Where what went before the steps so far is to be entered.
        let mut open: Option<usize> = None;
        for (nth, member) in members.into_iter().rev().enumerate() {
            let upgrade = !steps.is_empty() && matches!(member.shape, Shape::Group(_));
            let mut step = if upgrade && let (Some(body), Some(was)) = (steps.pop(), places.pop()) {
                let Shape::Group(header) = &mut member.shape else { continue };
                // What comes after the body will be entered behind the chord, not behind its body
                // alone.
                let mut at = places.last().copied();
                while let Some(place) = at
                    && self.places[place].parent != Some(was)
                {
                    at = self.places[place].parent;
                }
                if let Some(place) = at {
                    self.places[place].parent = None;
                    open = Some(place);
                }
                Step::Chord { header, group: None, id: None, body: Box::new(body) }
            } else {
                Step::One(member)
            };
            // The last step's id is the chain's: only it is given the ids of the whole.
            let place = if nth == 0 {
                self.freeze_step(&mut step, GivenIds { parent: None, ..given })
            } else {
                self.freeze_step(&mut step, GivenIds { root: given.root, ..GivenIds::default() })
            };
            if !steps.is_empty()
                && let Some(open) = open
                && self.places[open].parent.is_none()
            {
                self.set_parent(open, place);
            }
            errbacks.iter().for_each(|errback| step.link_error(errback));
            open = Some(if step.is_chord() { self.origin(place) } else { place });
            steps.push(step);
            places.push(place);
        }
        (steps, places)
    }

    /// Makes a chain ready to be sent: its steps, **the last first**, and their places. The first
    /// step gets the arguments.
    pub(super) fn prepare(&mut self, tasks: Vec<Tree>, args: &[Value], given: GivenIds<'_>, errbacks: &[Value]) -> (Vec<Tree>, Vec<usize>) {
        let mut flat = flattened(tasks);
        if let Some(first) = flat.first_mut() {
            give(first, args);
        }
        let (steps, places) = self.freeze_steps(flat.iter_mut().collect(), given, errbacks);
        (steps.iter().map(Step::to_tree).collect(), places)
    }
}

impl Step<'_> {
    fn is_chord(&self) -> bool {
        match self {
            Step::One(tree) => matches!(tree.shape, Shape::Chord(_)),
            Step::Chord { .. } => true,
        }
    }

    fn link_error(&mut self, errback: &Value) {
        match self {
            Step::One(tree) => tree.link_error(errback),
            Step::Chord { body, .. } => body.link_error(errback),
        }
    }

    fn to_tree(&self) -> Tree {
        match self {
            Step::One(tree) => (**tree).clone(),
            Step::Chord { header, group, id, body } => {
                let mut tree = Tree::chord(header.to_vec(), Some(body.to_tree()));
                if let Shape::Chord(chord) = &mut tree.shape {
                    chord.group.clone_from(group);
                }
                if let Some(id) = id {
                    tree.options.set("task_id", id.as_str());
                }
                tree
            }
        }
    }
}

/// The members of a chain and of the chains in it, where they stand. Groups of one are their
/// member; empty ones are nothing, unless they are all.
pub(super) fn leaves<'t>(tasks: &'t mut [Tree], into: &mut Vec<&'t mut Tree>) {
    let mut empty = None;
    for task in tasks {
        if task.is_empty_group() {
            empty = Some(task);
        } else if matches!(&task.shape, Shape::Chain(_)) || matches!(&task.shape, Shape::Group(tasks) if tasks.len() == 1) {
            if let Shape::Chain(inner) | Shape::Group(inner) = &mut task.shape {
                leaves(inner, into);
            }
        } else {
            into.push(task);
        }
    }
    if let Some(empty) = empty
        && into.is_empty()
    {
        into.push(empty);
    }
}

/// The same on a copy to be sent; and a chord whose body is a chain that a task leads becomes a
/// chord with that task as its body, and the rest.
fn flattened(tasks: Vec<Tree>) -> Vec<Tree> {
    let mut waiting: VecDeque<Tree> = tasks.into();
    let (mut flat, mut empty) = (Vec::new(), None);
    while let Some(task) = waiting.pop_front() {
        let task = task.unrolled();
        if task.is_empty_group() {
            empty = Some(task);
            continue;
        }
        match split(task) {
            Ok(parts) => parts.into_iter().rev().for_each(|part| waiting.push_front(part)),
            Err(task) => flat.push(task.copied()),
        }
    }
    if flat.is_empty() {
        flat.extend(empty);
    }
    flat
}

#[expect(clippy::result_large_err, reason = "what is not split is given back")]
/// Splits a chain, or a chord whose body is a chain led by a task, into its steps; or gives the
/// task back.
fn split(task: Tree) -> Result<Vec<Tree>, Tree> {
    match task.shape {
        Shape::Chain(inner) => Ok(inner),
        Shape::Chord(_) => split_chord(task),
        _ => Err(task),
    }
}

/// A chord whose body is a chain led by a task: the chord with that task as its body, and the rest;
/// or what was given.
#[expect(clippy::result_large_err, reason = "what is not split is given back")]
fn split_chord(mut task: Tree) -> Result<Vec<Tree>, Tree> {
    let Shape::Chord(chord) = &mut task.shape else { return Err(task) };
    let led = match chord.body.as_ref().map(|body| &body.shape) {
        Some(Shape::Chain(steps)) => steps.first().is_some_and(|first| !matches!(first.shape, Shape::Group(_))),
        _ => false,
    };
    let Some(body) = chord.body.take_if(|_| led) else { return Err(task) };
    // What a chain does not use up itself, it hands to its first task.
    const USED: [&str; 7] = ["group_id", "group_index", "link", "link_error", "parent_id", "root_id", "task_id"];
    let handed = Map(body.options.0.iter().filter(|(name, _)| !USED.contains(&name.as_str())).cloned().collect());
    let mut steps = body.unchained().into_iter();
    chord.body = steps.next().map(|mut first| {
        first.options = first.merged_options(&handed);
        first
    });
    chord.group = None;
    Ok(std::iter::once(task).chain(steps).collect())
}

/// Splits the chords in a chain, and in the chains in it.
pub(super) fn split_chords(body: &mut Tree) {
    let Shape::Chain(tasks) = &mut body.shape else { return };
    let mut waiting: VecDeque<Tree> = std::mem::take(tasks).into();
    while let Some(mut task) = waiting.pop_front() {
        split_chords(&mut task);
        match split_chord(task) {
            Ok(parts) => parts.into_iter().rev().for_each(|part| waiting.push_front(part)),
            Err(task) => tasks.push(task),
        }
    }
}

fn give(task: &mut Tree, args: &[Value]) {
    match &mut task.shape {
        Shape::Group(tasks) => tasks.iter_mut().for_each(|task| give(task, args)),
        _ => task.prepend(args),
    }
}

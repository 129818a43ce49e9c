//! Freezing: everything in a canvas gets its id, its group and its chord before anything is sent, so that each part can name the others.

use std::collections::VecDeque;

use super::{
    MOST_PARENTS,
    plan::{ChordStart, Context, Plan, PlannedSend},
    tree::{Chord, Shape, Tree, text},
};
use crate::{
    result::ResultTree,
    value::{Map, Value},
};

/// Makes a plan. Places of results are numbers here, because a place gets its parent after it was made.
pub(super) struct Planner<'a> {
    pub(super) context: Context<'a>,
    pub(super) ids: &'a mut dyn FnMut() -> String,
    pub(super) sends: Vec<PlannedSend>,
    /// Chords to be started before the next message.
    pub(super) starts: Vec<ChordStart>,
    pub(super) trail: Vec<usize>,
    pub(super) grown: Option<String>,
    places: Vec<Place>,
}

struct Place {
    id: String,
    parent: Option<usize>,
    members: Option<Vec<usize>>,
}

/// What freezing gives to a part, where the part has none.
#[derive(Clone, Copy, Default)]
pub(super) struct Given<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) group: Option<&'a str>,
    pub(super) index: Option<i64>,
    pub(super) chord: Option<&'a Value>,
    pub(super) root: Option<&'a str>,
    pub(super) parent: Option<&'a str>,
}

/// A step of a chain: one of its members, or a group with what follows it, which together are a chord.
enum Step<'t> {
    One(&'t mut Tree),
    Chord { header: &'t mut Vec<Tree>, group: Option<Map>, id: Option<String>, body: Box<Step<'t>> },
}

impl<'a> Planner<'a> {
    pub(super) fn new(context: &Context<'a>, ids: &'a mut dyn FnMut() -> String) -> Self {
        let context = *context;
        Self { context, ids, sends: Vec::new(), starts: Vec::new(), trail: Vec::new(), grown: None, places: Vec::new() }
    }

    pub(super) fn plan(self, result: Option<usize>) -> Plan {
        let result = result.map(|place| self.node(place));
        let children = self.trail.iter().map(|place| self.node(*place)).collect();
        Plan { sends: self.sends, starts: self.starts, result, children, grown: self.grown }
    }

    pub(super) fn place(&mut self, id: &str, members: Option<Vec<usize>>) -> usize {
        self.places.push(Place { id: id.to_owned(), parent: None, members });
        self.places.len() - 1
    }

    pub(super) fn id_of(&self, place: usize) -> &str {
        &self.places[place].id
    }

    pub(super) fn members_of(&self, place: usize) -> Option<&[usize]> {
        self.places[place].members.as_deref()
    }

    /// Sets what went before a place. Places are made before what they point to only in chains, which have an end, so there are no circles but those
    /// that this refuses to close.
    pub(super) fn set_parent(&mut self, place: usize, parent: usize) {
        if !self.reaches(parent, place) {
            self.places[place].parent = Some(parent);
        }
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        let mut place = Some(from);
        while let Some(at) = place {
            if at == to {
                return true;
            }
            place = self.places[at].parent;
        }
        false
    }

    /// The first of all that went before.
    fn origin(&self, mut place: usize) -> usize {
        while let Some(parent) = self.places[place].parent {
            place = parent;
        }
        place
    }

    pub(super) fn node(&self, place: usize) -> ResultTree {
        self.node_within(place, MOST_PARENTS)
    }

    /// Chains have any length, and a node for each step in the last would go deeper than anybody reads.
    fn node_within(&self, place: usize, parents: usize) -> ResultTree {
        let at = &self.places[place];
        let parent = parents.checked_sub(1).and_then(|parents| Some((at.parent?, parents)));
        ResultTree {
            id: at.id.clone(),
            parent: parent.map(|(parent, parents)| Box::new(self.node_within(parent, parents))),
            children: at.members.as_ref().map(|members| members.iter().map(|member| self.node_within(*member, parents)).collect()),
        }
    }

    pub(super) fn freeze(&mut self, tree: &mut Tree, given: Given<'_>) -> usize {
        match &mut tree.shape {
            Shape::Task | Shape::Other(_) => self.freeze_task(&mut tree.options, given),
            Shape::Group(tasks) => self.freeze_group(tasks, &mut tree.options, given).1,
            Shape::Chain(tasks) => {
                let mut members = Vec::new();
                leaves(tasks, &mut members);
                let (_, places) = self.freeze_steps(members, given, &[]);
                match places.first() {
                    Some(last) => {
                        tree.options.set("task_id", self.id_of(*last));
                        *last
                    }
                    None => {
                        // Nothing in it: a place that nothing will ever stand at, as for an empty group.
                        let id = given.id.map_or_else(|| (self.ids)(), str::to_owned);
                        self.place(&id, Some(Vec::new()))
                    }
                }
            }
            Shape::Chord(chord) => {
                let Chord { header, group, body } = chord.as_mut();
                // The body goes first, because each task of the header carries it as it is when it is frozen.
                let body_place = body.as_mut().map(|body| self.freeze(body, Given { parent: None, ..given }));
                let value = body.as_ref().and_then(Tree::as_chord);
                let (id, header_place) = self.freeze_header(header, group, value.as_ref(), given);
                tree.options.set("task_id", id);
                self.behind(body_place, header_place)
            }
        }
    }

    fn freeze_task(&mut self, options: &mut Map, given: Given<'_>) -> usize {
        let id = match text(options, "task_id") {
            Some(id) => id.to_owned(),
            None => {
                let id = given.id.map_or_else(|| (self.ids)(), str::to_owned);
                options.set("task_id", id.as_str());
                id
            }
        };
        for (name, value) in [("root_id", given.root), ("parent_id", given.parent)] {
            if let Some(value) = value {
                options.set(name, value);
            }
        }
        if options.get("reply_to").is_none() {
            options.set("reply_to", self.context.oid);
        }
        if let Some(group) = given.group
            && options.get("group_id").is_none()
        {
            options.set("group_id", group);
        }
        if let Some(chord) = given.chord {
            options.set("chord", chord.clone());
        }
        if let Some(index) = given.index {
            options.set("group_index", index);
        }
        self.place(&id, None)
    }

    /// Freezes a group: its members come to stand side by side, groups among them dissolved. Its id, and its place.
    pub(super) fn freeze_group(&mut self, tasks: &mut Vec<Tree>, options: &mut Map, given: Given<'_>) -> (String, usize) {
        let id = match text(options, "task_id") {
            Some(id) => id.to_owned(),
            None => {
                let id = (self.ids)();
                options.set("task_id", id.as_str());
                id
            }
        };
        if let Some(group) = given.group {
            options.set("group_id", group);
        }
        if let Some(chord) = given.chord {
            options.set("chord", chord.clone());
        }
        if let Some(index) = given.index {
            options.set("group_index", index);
        }
        for (name, value) in [("root_id", given.root), ("parent_id", given.parent)] {
            if options.get(name).is_none() {
                options.set(name, value);
            }
        }
        let root = text(options, "root_id").map(str::to_owned);
        let parent = text(options, "parent_id").map(str::to_owned);
        let given = Given { id: None, index: None, root: root.as_deref(), parent: parent.as_deref(), ..given };
        let places = self.freeze_members(tasks, given);
        let place = self.place(&id, Some(places));
        (id, place)
    }

    fn freeze_members(&mut self, tasks: &mut Vec<Tree>, given: Given<'_>) -> Vec<usize> {
        let mut waiting: VecDeque<Tree> = std::mem::take(tasks).into();
        let mut places = Vec::new();
        while let Some(task) = waiting.pop_front() {
            match task.shape {
                // Celery dissolves a group in front of what waits, one by one: its members end up in reverse.
                Shape::Group(inner) => inner.into_iter().for_each(|member| waiting.push_front(member)),
                Shape::Chain(ref inner) if inner.is_empty() => {}
                _ => {
                    let mut task = task.copied();
                    let index = i64::try_from(tasks.len()).ok();
                    places.push(self.freeze(&mut task, Given { index, ..given }));
                    tasks.push(task);
                }
            }
        }
        places
    }

    fn freeze_header(
        &mut self,
        header: &mut Vec<Tree>,
        group: &mut Option<Map>,
        body: Option<&Value>,
        given: Given<'_>,
    ) -> (String, usize) {
        let options = group.get_or_insert_default();
        self.freeze_group(header, options, Given { chord: body, root: given.root, parent: given.parent, ..Given::default() })
    }

    /// Puts a chord's body behind its header. The place of the whole.
    fn behind(&mut self, body: Option<usize>, header: usize) -> usize {
        let Some(body) = body else { return header };
        let origin = self.origin(body);
        self.set_parent(origin, header);
        body
    }

    fn freeze_step(&mut self, step: &mut Step<'_>, given: Given<'_>) -> usize {
        match step {
            Step::One(tree) => self.freeze(tree, given),
            Step::Chord { header, group, id, body } => {
                let place = self.freeze_step(body, Given { parent: None, ..given });
                let value = body.to_tree().as_chord();
                let (group_id, header_place) = self.freeze_header(header, group, value.as_ref(), given);
                *id = Some(group_id);
                self.behind(Some(place), header_place)
            }
        }
    }

    /// Freezes the members of a chain, the last first: that is how they come back, and their places too.
    fn freeze_steps<'t>(&mut self, members: Vec<&'t mut Tree>, given: Given<'_>, errbacks: &[Value]) -> (Vec<Step<'t>>, Vec<usize>) {
        let mut steps: Vec<Step<'t>> = Vec::new();
        let mut places: Vec<usize> = Vec::new();
        // Where what went before the steps so far is to be entered.
        let mut open: Option<usize> = None;
        for (nth, member) in members.into_iter().rev().enumerate() {
            let upgrade = !steps.is_empty() && matches!(member.shape, Shape::Group(_));
            let mut step = if upgrade && let (Some(body), Some(was)) = (steps.pop(), places.pop()) {
                let Shape::Group(header) = &mut member.shape else { continue };
                // What comes after the body will be entered behind the chord, not behind its body alone.
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
            let place = if nth == 0 {
                self.freeze_step(&mut step, Given { parent: None, ..given })
            } else {
                self.freeze_step(&mut step, Given { root: given.root, ..Given::default() })
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

    /// Makes a chain ready to be sent: its steps, **the last first**, and their places. The first step gets the arguments.
    pub(super) fn prepare(&mut self, tasks: Vec<Tree>, args: &[Value], given: Given<'_>, errbacks: &[Value]) -> (Vec<Tree>, Vec<usize>) {
        let mut flat = flattened(tasks);
        if let Some(first) = flat.first_mut() {
            give(first, args);
        }
        let (steps, places) = self.freeze_steps(flat.iter_mut().collect(), given, errbacks);
        let mut steps: Vec<Tree> = steps.iter().map(Step::to_tree).collect();
        steps.iter_mut().for_each(Tree::strip_chords);
        (steps, places)
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

/// The members of a chain and of the chains in it, where they stand. Groups of one are their member; empty ones are nothing, unless they are all.
fn leaves<'t>(tasks: &'t mut [Tree], into: &mut Vec<&'t mut Tree>) {
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

/// The same on a copy to be sent; and a chord whose body is a chain that a task leads becomes a chord with that task as its body, and the rest.
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
/// What a chain, or a chord whose body is a chain led by a task, consists of; or the task itself.
fn split(task: Tree) -> Result<Vec<Tree>, Tree> {
    match task.shape {
        Shape::Chain(inner) => Ok(inner),
        Shape::Chord(_) => split_chord(task),
        _ => Err(task),
    }
}

/// A chord whose body is a chain led by a task: the chord with that task as its body, and the rest; or what was given.
#[expect(clippy::result_large_err, reason = "what is not split is given back")]
pub(super) fn split_chord(mut task: Tree) -> Result<Vec<Tree>, Tree> {
    let Shape::Chord(chord) = &mut task.shape else { return Err(task) };
    let led = match chord.body.as_ref().map(|body| &body.shape) {
        Some(Shape::Chain(steps)) => steps.first().is_some_and(|first| !matches!(first.shape, Shape::Group(_))),
        _ => false,
    };
    let Some(body) = chord.body.take_if(|_| led) else { return Err(task) };
    // What a chain does not use up itself, it hands to its first task.
    const USED: [&str; 8] = ["chord", "group_id", "group_index", "link", "link_error", "parent_id", "root_id", "task_id"];
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

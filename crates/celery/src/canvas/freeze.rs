//! Freezing: everything in a canvas gets its id, its group and its chord before anything is sent,
//! so that each part can name the others.

use std::{collections::VecDeque, sync::Arc};

use super::{
    MOST_PARENTS,
    plan::{ChordStart, Context, Plan, PlannedSend},
    steps,
    tree::{Chord, Shape, Tree, text},
};
use crate::{result::ResultTree, signature::WireSignature, value::Map};

/// Makes a plan. Places of results are numbers here, because a place gets its parent after it was
/// made.
pub(super) struct Planner<'a> {
    pub(super) context: Context<'a>,
    pub(super) ids: &'a mut dyn FnMut() -> String,
    pub(super) sends: Vec<PlannedSend>,
    /// Chords to be started before the next message.
    pub(super) starts: Vec<ChordStart>,
    pub(super) trail: Vec<usize>,
    pub(super) grown: Option<String>,
    pub(super) places: Vec<ResultPlace>,
}

pub(super) struct ResultPlace {
    id: String,
    pub(super) parent: Option<usize>,
    members: Option<Vec<usize>>,
}

/// Ids that freezing gives to a part that has none.
#[derive(Clone, Copy, Default)]
pub(super) struct GivenIds<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) group: Option<&'a str>,
    pub(super) index: Option<i64>,
    pub(super) chord: Option<&'a Arc<WireSignature>>,
    pub(super) root: Option<&'a str>,
    pub(super) parent: Option<&'a str>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(context: &Context<'a>, ids: &'a mut dyn FnMut() -> String) -> Self {
        let context = *context;
        Self { context, ids, sends: Vec::new(), starts: Vec::new(), trail: Vec::new(), grown: None, places: Vec::new() }
    }

    pub(super) fn plan(self, result: Option<usize>) -> Plan {
        let result = result.map(|place| self.node(place));
        let children = self.children();
        Plan { sends: self.sends, starts: self.starts, result, children, grown: self.grown }
    }

    pub(super) fn place(&mut self, id: &str, members: Option<Vec<usize>>) -> usize {
        self.places.push(ResultPlace { id: id.to_owned(), parent: None, members });
        self.places.len() - 1
    }

    pub(super) fn id_of(&self, place: usize) -> &str {
        &self.places[place].id
    }

    pub(super) fn members_of(&self, place: usize) -> Option<&[usize]> {
        self.places[place].members.as_deref()
    }

    /// Sets what went before a place. Places are made before what they point to only in chains,
    /// which have an end, so there are no circles but those that this refuses to close.
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
    pub(super) fn origin(&self, mut place: usize) -> usize {
        while let Some(parent) = self.places[place].parent {
            place = parent;
        }
        place
    }

    pub(super) fn node(&self, place: usize) -> ResultTree {
        self.node_within(place, MOST_PARENTS)
    }

    /// Chains have any length, and a node for each step in the last would go deeper than anybody
    /// reads.
    fn node_within(&self, place: usize, parents: usize) -> ResultTree {
        let at = &self.places[place];
        let parent = parents.checked_sub(1).and_then(|parents| Some((at.parent?, parents)));
        ResultTree {
            id: at.id.clone(),
            parent: parent.map(|(parent, parents)| Box::new(self.node_within(parent, parents))),
            children: at.members.as_ref().map(|members| members.iter().map(|member| self.node_within(*member, parents)).collect()),
        }
    }

    pub(super) fn freeze(&mut self, tree: &mut Tree, given: GivenIds<'_>) -> usize {
        // A chain and a chord pass it on to what they end in.
        if let Some(chord) = given.chord
            && !matches!(tree.shape, Shape::Chain(_) | Shape::Chord(_))
        {
            tree.chord = Some(chord.clone());
        }
        match &mut tree.shape {
            Shape::Task | Shape::Other(_) => self.freeze_task(&mut tree.options, given),
            Shape::Group(tasks) => self.freeze_group(tasks, &mut tree.options, given).1,
            Shape::Chain(tasks) => {
                let mut members = Vec::new();
                steps::leaves(tasks, &mut members);
                let (_, places) = self.freeze_steps(members, given, &[]);
                match places.first() {
                    Some(last) => {
                        tree.options.set("task_id", self.id_of(*last));
                        *last
                    }
                    None => {
                        // Nothing in it: a place that nothing will ever stand at, as for an empty
                        // group.
                        let id = given.id.map_or_else(|| (self.ids)(), str::to_owned);
                        self.place(&id, Some(Vec::new()))
                    }
                }
            }
            Shape::Chord(chord) => {
                let Chord { header, group, body } = chord.as_mut();
                let body_place = body.as_mut().map(|body| self.freeze(body, GivenIds { parent: None, ..given }));
                let (id, header_place) = self.freeze_header(header, group, given);
                tree.options.set("task_id", id);
                self.behind(body_place, header_place)
            }
        }
    }

    fn freeze_task(&mut self, options: &mut Map, given: GivenIds<'_>) -> usize {
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
        if let Some(index) = given.index {
            options.set("group_index", index);
        }
        self.place(&id, None)
    }

    /// Freezes a group: its members come to stand side by side, groups among them dissolved. Its
    /// id, and its place.
    pub(super) fn freeze_group(&mut self, tasks: &mut Vec<Tree>, options: &mut Map, given: GivenIds<'_>) -> (String, usize) {
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
        let given = GivenIds { id: None, index: None, root: root.as_deref(), parent: parent.as_deref(), ..given };
        let places = self.freeze_members(tasks, given);
        let place = self.place(&id, Some(places));
        (id, place)
    }

    fn freeze_members(&mut self, tasks: &mut Vec<Tree>, given: GivenIds<'_>) -> Vec<usize> {
        let mut waiting: VecDeque<Tree> = std::mem::take(tasks).into();
        let mut places = Vec::new();
        while let Some(task) = waiting.pop_front() {
            match task.shape {
                // Celery dissolves a group in front of what waits, one by one: its members end up
                // in reverse.
                Shape::Group(inner) => inner.into_iter().for_each(|member| waiting.push_front(member)),
                Shape::Chain(ref inner) if inner.is_empty() => {}
                _ => {
                    let mut task = task.copied();
                    let index = i64::try_from(tasks.len()).ok();
                    places.push(self.freeze(&mut task, GivenIds { index, ..given }));
                    tasks.push(task);
                }
            }
        }
        places
    }

    /// Freezes the header of a chord that is yet to come. Its tasks carry no body: the chord has it
    /// once, and they get it when they are sent. (A body on each, with the bodies in it on each of
    /// its own, would come to the width of the headers to the power of their number.)
    pub(super) fn freeze_header(&mut self, header: &mut Vec<Tree>, group: &mut Option<Map>, given: GivenIds<'_>) -> (String, usize) {
        let options = group.get_or_insert_default();
        let frozen = self.freeze_group(header, options, GivenIds { root: given.root, parent: given.parent, ..GivenIds::default() });
        header.iter_mut().for_each(Tree::clear_chord);
        frozen
    }

    /// Puts a chord's body behind its header. The place of the whole.
    pub(super) fn behind(&mut self, body: Option<usize>, header: usize) -> usize {
        let Some(body) = body else { return header };
        let origin = self.origin(body);
        self.set_parent(origin, header);
        body
    }
}

//! A signature → what is sent.

use super::{
    CanvasError,
    freeze::{GivenIds, Planner},
    plan::{ChordStart, Context, Plan},
    size,
    steps::split_chords,
    tree::{Chord, Shape, Tree, append_once, extend, listed, merged, text},
};
use crate::{
    result::GroupResult,
    signature::WireSignature,
    value::{Map, Value},
};

/// Plans what is sent when a signature is applied to arguments (which come before its own, unless
/// it is immutable).
///
/// # Errors
/// The signature, or one in it, makes no sense.
pub fn apply(
    signature: &WireSignature,
    args: &[Value],
    context: &Context<'_>,
    ids: &mut dyn FnMut() -> String,
) -> Result<Plan, CanvasError> {
    let mut planner = Planner::new(context, ids);
    let result = planner.begin(Tree::from_signature(signature)?, args, &Map::default(), true)?;
    Ok(planner.plan(result))
}

impl Planner<'_> {
    /// Applies a signature that came from elsewhere.
    pub(super) fn begin(&mut self, tree: Tree, args: &[Value], call: &Map, trail: bool) -> Result<Option<usize>, CanvasError> {
        size::check(&tree, args, call)?;
        self.apply(tree, args, call, trail)
    }

    /// Applies a signature with the options of a call. Its place. With `trail` it counts among what
    /// the sending task has set off.
    pub(super) fn apply(&mut self, tree: Tree, args: &[Value], call: &Map, trail: bool) -> Result<Option<usize>, CanvasError> {
        match tree.shape {
            Shape::Task | Shape::Other(_) => {
                let options = tree.merged_options(call);
                let mut tree = tree;
                tree.prepend(args);
                self.send(&tree.task, tree.args, tree.kwargs, &options, tree.chord, trail).map(Some)
            }
            Shape::Chain(_) => self.apply_chain(tree, args, call, trail),
            Shape::Group(_) => self.apply_group(tree, args, call, None, trail).map(Some),
            Shape::Chord(_) => self.apply_chord(tree, args, call, trail).map(Some),
        }
    }

    fn apply_chain(&mut self, tree: Tree, args: &[Value], call: &Map, trail: bool) -> Result<Option<usize>, CanvasError> {
        let Tree { mut options, chord, shape: Shape::Chain(tasks), .. } = tree else { return Err(CanvasError::Refused("not a chain")) };
        override_with(&mut options, call);
        let group = take_text(&mut options, "group_id");
        let id = take_text(&mut options, "task_id");
        let root = take_text(&mut options, "root_id");
        // Its tasks take their parent from the task that sends them.
        options.remove("parent_id");
        let index = match options.remove("group_index") {
            Some(Value::Int(index)) => Some(index),
            _ => None,
        };
        let callbacks = listed(&options, "link");
        let errbacks = listed(&options, "link_error");
        options.remove("link");
        options.remove("link_error");
        let given =
            GivenIds { id: id.as_deref(), group: group.as_deref(), index, chord: chord.as_ref(), root: root.as_deref(), parent: None };
        let (mut steps, places) = self.prepare(tasks, args, given, &errbacks);
        if let Some(last) = steps.first_mut()
            && !callbacks.is_empty()
        {
            extend(&mut last.options, "link", &callbacks);
        }
        let Some(first) = steps.pop() else { return Ok(None) };
        let mut rest = listed(&options, "chain");
        rest.extend(steps.iter().map(Tree::to_value));
        options.set("chain", Value::List(rest));
        let applied = self.apply(first, &[], &options, trail)?;
        Ok(if steps.is_empty() { applied } else { places.first().copied() })
    }

    /// Sends the members of a group. Its place.
    fn apply_group(
        &mut self,
        tree: Tree,
        args: &[Value],
        call: &Map,
        saved: Option<GroupResult>,
        trail: bool,
    ) -> Result<usize, CanvasError> {
        let Tree { options, chord, shape: Shape::Group(mut tasks), .. } = tree else { return Err(CanvasError::Refused("not a group")) };
        // Nothing to send, but somebody may wait for its (empty) list of results.
        if tasks.is_empty() {
            let mut options = options;
            return Ok(self.freeze_group(&mut tasks, &mut options, GivenIds::default()).1);
        }
        let mut options = merged(&options, call);
        let id = take_text(&mut options, "task_id").unwrap_or_else(|| (self.ids)());
        options.set("group_id", id.as_str());
        options.remove("group_index");
        let root = text(&options, "root_id").map(str::to_owned);
        let mut members = Vec::new();
        dissolve(tasks, &mut members);
        let (mut size, count) = (0, members.len());
        let mut places = Vec::with_capacity(count);
        let mut saved = saved;
        for (nth, (index, task)) in members.into_iter().enumerate() {
            let mut task = task.copied();
            let given = GivenIds { group: Some(&id), root: root.as_deref(), index: Some(index), ..GivenIds::default() };
            let place = self.freeze(&mut task, given);
            size += task.size();
            if let Some(chord) = &chord {
                task.chord = Some(chord.clone());
            }
            // The size is known with the last member: the chord starts before that one is sent.
            if nth + 1 == count && task.chord.is_some() {
                self.starts.push(ChordStart { group: id.clone(), size, saved: saved.take() });
            }
            self.apply(task, args, &options, false)?;
            places.push(place);
        }
        // A group of one chain that ends in a group is that group.
        let place = match places[..] {
            [only] if self.members_of(only).is_some() => only,
            _ => self.place(&id, Some(places)),
        };
        if trail && self.context.parent.is_some() {
            self.trail.push(place);
        }
        Ok(place)
    }

    fn apply_chord(&mut self, mut tree: Tree, args: &[Value], call: &Map, trail: bool) -> Result<usize, CanvasError> {
        tree.prepend(args);
        let Tree { args, options: own, chord: outer, shape: Shape::Chord(chord), .. } = tree else {
            return Err(CanvasError::Refused("not a chord"));
        };
        let Chord { header, group, body } = *chord;
        let Some(body) = body else { return Err(CanvasError::Refused("a chord without a body cannot be sent")) };
        let mut header_options = group.unwrap_or_default();
        if text(&header_options, "task_id").is_none() {
            let id = text(&own, "task_id").map_or_else(|| (self.ids)(), str::to_owned);
            header_options.set("task_id", id);
        }
        let group_id = text(&header_options, "task_id").unwrap_or_default().to_owned();

        // A delay holds back the header; callbacks and errbacks are the body's; all else is
        // everybody's.
        let mut options = own.clone();
        override_with(&mut options, call);
        let id = take_text(&mut options, "task_id");
        let delay: Vec<_> = ["countdown", "eta"].into_iter().filter_map(|name| Some((name, options.remove(name)?))).collect();
        let mut body = body.copied();
        let bodys = Map(call.0.iter().filter(|(name, _)| !NOT_THE_BODYS.contains(&name.as_str())).cloned().collect());
        body.options = body.merged_options(&bodys);
        let root = text(&body.options, "root_id").map(str::to_owned);
        add_callbacks(&mut body, &mut options);
        // A body that is a part of an outer chord stays a part of that one, whatever group inside
        // it sends this chord.
        let part = text(&body.options, "group_id").is_some();
        for (name, value) in options.0.iter().filter(|(name, _)| name != "parent_id" && !(part && name == "group_id")) {
            body.options.set(name.as_str(), value.clone());
        }
        // The chord that this one is a part of waits for the body.
        if outer.is_some() {
            body.chord = outer;
        }
        split_chords(&mut body);
        let id = id.unwrap_or_else(|| (self.ids)());
        let given = GivenIds { id: Some(&id), group: Some(&group_id), root: root.as_deref(), ..GivenIds::default() };
        let body_place = self.freeze(&mut body, given);

        // The rest of a chain is for the body alone.
        options.remove("chain");
        let chord = body.as_chord();
        let mut header = header;
        let given = GivenIds { group: Some(&group_id), chord: chord.as_ref(), root: root.as_deref(), ..GivenIds::default() };
        let (_, header_place) = self.freeze_group(&mut header, &mut header_options, given);
        let header_place = if header.is_empty() {
            self.apply(body, &[Value::List(Vec::new())], &Map::default(), trail)?;
            header_place
        } else {
            let nested = self.members_of(header_place).unwrap_or_default().iter().any(|member| self.members_of(*member).is_some());
            let saved = nested.then(|| GroupResult { tree: self.node(header_place) });
            delay.into_iter().for_each(|(name, value)| options.set(name, value));
            options.set("task_id", group_id.as_str());
            let header = Tree { options: header_options, chord, ..Tree::group(header) };
            self.apply_group(header, &args, &options, saved, trail)?
        };
        self.set_parent(body_place, header_place);
        Ok(body_place)
    }
}

/// Options of a call of a chord that its body does not get.
const NOT_THE_BODYS: [&str; 6] = ["parent_id", "task_id", "link", "link_error", "countdown", "eta"];

/// Puts the options of a call over those that are there.
fn override_with(options: &mut Map, call: &Map) {
    for (name, value) in call.0.iter().filter(|(_, value)| *value != Value::Null) {
        options.set(name.as_str(), value.clone());
    }
}

fn take_text(options: &mut Map, name: &str) -> Option<String> {
    match options.remove(name) {
        Some(Value::Text(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// The members of a group and of the groups in it, each with its index among its neighbours. Chains
/// without tasks are nothing.
fn dissolve(tasks: Vec<Tree>, into: &mut Vec<(i64, Tree)>) {
    for (index, task) in (0..).zip(tasks) {
        match task.shape {
            Shape::Group(inner) => dissolve(inner, into),
            Shape::Chain(ref inner) if inner.is_empty() => {}
            _ => into.push((index, task)),
        }
    }
}

/// Moves a chord's callbacks and errbacks to its body.
fn add_callbacks(body: &mut Tree, options: &mut Map) {
    let (callbacks, errbacks) = (listed(options, "link"), listed(options, "link_error"));
    options.remove("link");
    options.remove("link_error");
    for callback in callbacks {
        if body.is_empty_group() {
            append_once(&mut body.options, "link", callback);
        } else {
            body.link(callback);
        }
    }
    for errback in errbacks {
        match body.shape {
            Shape::Group(_) => link_error_to_members(body, &errback, true),
            _ => append_once(&mut body.options, "link_error", errback),
        }
    }
}

/// Links an errback to each task of a body that is a group; or to the group, if it has errbacks of
/// its own, which would go before those of its tasks.
fn link_error_to_members(tree: &mut Tree, errback: &Value, as_group: bool) {
    match &mut tree.shape {
        Shape::Group(_) if as_group && !matches!(tree.options.get("link_error"), None | Some(Value::Null)) => {
            append_once(&mut tree.options, "link_error", errback.clone());
        }
        Shape::Group(tasks) => tasks.iter_mut().for_each(|task| link_error_to_members(task, errback, false)),
        Shape::Chord(chord) => chord.body.iter_mut().for_each(|body| link_error_to_members(body, errback, true)),
        _ => tree.link_error(errback),
    }
}

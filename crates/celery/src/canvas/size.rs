//! Size of a canvas when it is sent. Whatever several tasks share, each message has for itself: a
//! chord's body stands in the message of each task of its header, what is left of a chain in that
//! of each member of a group, options and arguments in all. What comes from outside could make
//! gigabytes of megabytes so.
//!
//! Only what is sent at once counts: a chord's body and the rest of a chain are carried by what is
//! sent before them, and are sent themselves later, when as many bytes are free again. So a chain
//! of groups costs its largest step.

use super::{
    CanvasError, MOST_COPIED,
    tree::{Shape, Tree},
};
use crate::{
    signature::WireSignature,
    value::{Map, Value},
};

/// Refuses what would come to more than is sent at once.
pub(super) fn check(tree: &Tree, args: &[Value], call: &Map) -> Result<(), CanvasError> {
    let (rest, call) = (call.get("chain").map_or(0, value), options(call));
    let given = sum(args, value).saturating_add(call);
    match CopiedBytes::of(tree, SharedBytes { carried: rest, given }).most() {
        bytes if bytes > MOST_COPIED => Err(CanvasError::TooLarge { bytes }),
        _ => Ok(()),
    }
}

/// Bytes that tasks have in their messages and that are not their own.
#[derive(Clone, Copy)]
struct SharedBytes {
    /// Bytes of what comes after (bodies, the rest of chains), in the messages of what is sent
    /// first.
    carried: u64,
    /// Options and arguments: every task's.
    given: u64,
}

/// The bytes that are copied into messages: by what is sent now, and most of all by what one of its
/// tasks sends later.
struct CopiedBytes {
    now: u64,
    later: u64,
}

impl CopiedBytes {
    fn most(&self) -> u64 {
        self.now.max(self.later)
    }

    fn of(tree: &Tree, shared: SharedBytes) -> Self {
        let end = tree.chord.as_deref().map_or(0, signature);
        let carried = shared.carried.saturating_add(end);
        let inherited = SharedBytes { carried, given: shared.given.saturating_add(options(&tree.options)) };
        match &tree.shape {
            Shape::Task | Shape::Other(_) => Self { now: carried.saturating_add(shared.given), later: 0 },
            Shape::Group(members) => Self::beside(members, inherited),
            Shape::Chain(members) => {
                // From the last to the first: each carries all that comes after it.
                let mut rest = inherited;
                let mut all = Self { now: 0, later: 0 };
                for member in members.iter().rev() {
                    all = Self::of(member, rest).before(&all);
                    rest.carried = rest.carried.saturating_add(weight(member, rest.given));
                }
                all
            }
            Shape::Chord(chord) => {
                let Some(body) = &chord.body else { return Self::beside(&chord.header, inherited) };
                let header = SharedBytes { carried: carried.saturating_add(weight(body, inherited.given)), ..inherited };
                Self::beside(&chord.header, header).before(&Self::of(body, inherited))
            }
        }
    }

    /// Adds up what is sent side by side.
    fn beside(members: &[Tree], shared: SharedBytes) -> Self {
        members
            .iter()
            .map(|member| Self::of(member, shared))
            .fold(Self { now: 0, later: 0 }, |all, one| Self { now: all.now.saturating_add(one.now), later: all.later.max(one.later) })
    }

    /// Adds `next`, which is sent after this.
    fn before(self, next: &Self) -> Self {
        Self { later: self.later.max(next.most()), ..self }
    }
}

/// The bytes of a signature as it is embedded in a message, each of its tasks with what it is
/// given.
fn weight(tree: &Tree, given: u64) -> u64 {
    let own = options(&tree.options);
    let inner = given.saturating_add(own);
    let members = |members: &[Tree]| sum(members, |member| weight(member, inner));
    let parts = match &tree.shape {
        Shape::Task | Shape::Other(_) => given,
        Shape::Chain(tasks) | Shape::Group(tasks) => members(tasks),
        Shape::Chord(chord) => members(&chord.header).saturating_add(chord.body.as_ref().map_or(0, |body| weight(body, inner))),
    };
    let bare = WORDS.saturating_add(tree.task.len() as u64).saturating_add(own).saturating_add(tree.chord.as_deref().map_or(0, signature));
    bare.saturating_add(sum(&tree.args, value)).saturating_add(options(&tree.kwargs)).saturating_add(parts)
}

/// Bytes of the names of a signature's members, and of an id.
const WORDS: u64 = 150;

fn signature(it: &WireSignature) -> u64 {
    let args = sum(&it.args, value);
    [it.task.len() as u64, args, options(&it.kwargs), options(&it.options)].into_iter().fold(WORDS, u64::saturating_add)
}

fn options(map: &Map) -> u64 {
    map.iter().map(|(name, inner)| 6 + name.len() as u64 + value(inner)).fold(0, u64::saturating_add)
}

/// About how many bytes a value is as JSON.
fn value(it: &Value) -> u64 {
    4 + match it {
        Value::Text(text) => text.len() as u64,
        Value::Big(text) | Value::Escaped(text) => text.len() as u64,
        Value::List(list) => sum(list, value),
        Value::Map(map) => options(map),
        Value::Int(_) | Value::Float(_) => 4,
        Value::Null | Value::Bool(_) => 0,
    }
}

fn sum<T>(all: &[T], of: impl Fn(&T) -> u64) -> u64 {
    all.iter().map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::canvas::{Context, apply, chain, chord, group};

    #[test]
    fn what_is_foreseen_is_about_what_is_sent() {
        let task = || WireSignature::new("tasks.add").arg("some text").immutable();
        let many = |count| vec![task(); count];
        let rows = [
            ("chain", chain(many(100))),
            ("chord", chord(many(100), task())),
            ("chord and more", chain([chord(many(20), task()), chain(many(50))])),
            ("groups", chain([group(many(20)), group(many(20)), group(many(20)), task()])),
            ("chords in a header", chord(vec![chord(many(10), task()); 10], chain(many(30)))),
            ("errbacks of a chain", chain(many(50)).link_error(task().arg("x".repeat(500)))),
        ];
        let context = Context { oid: "oid", origin: "here", now: SystemTime::UNIX_EPOCH, parent: None, trace: None, defaults: &|_| None };
        for (name, canvas) in rows {
            let foreseen = CopiedBytes::of(&Tree::from_signature(&canvas).unwrap(), SharedBytes { carried: 0, given: 0 }).now;
            let mut last = 0;
            let mut ids = || {
                last += 1;
                format!("{last:036}")
            };
            let sends = apply(&canvas, &[], &context, &mut ids).unwrap().sends;
            let written = |signature: &WireSignature| signature.to_value().to_json().len();
            let copied = |all: &[WireSignature]| all.iter().map(written).sum::<usize>();
            let each = |send: &crate::canvas::PlannedSend| {
                let message = &send.message;
                let rest = message.chain.as_deref().map_or(0, copied);
                copied(&message.errbacks) + rest + message.chord.as_deref().map_or(0, written)
            };
            let sent = sends.iter().map(each).sum::<usize>() as u64;
            assert!(foreseen < 2 * sent && sent < 2 * foreseen, "{name}: {sent} bytes, and {foreseen} were foreseen");
        }
    }
}

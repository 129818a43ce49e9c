//! The queues that the parts of a canvas name, of those too that are sent only later, by somebody
//! else: links, errbacks, bodies, what is left of a chain.

use super::{DEEPEST, tree::text};
use crate::{
    signature::{Subtask, WireSignature},
    value::{Map, Value},
};

/// Says which part of a canvas names a queue that is refused, where it stands (`link[0].body`), and
/// why; `None` if there is none. The canvas itself is no part of it.
pub fn refused_part(signature: &WireSignature, refuses: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut walk = QueueWalk { refuses, path: Vec::new() };
    walk.below(&signature.options, &signature.kwargs, signature.subtask.as_str())
}

struct QueueWalk<'a> {
    refuses: &'a dyn Fn(&str) -> Option<String>,
    /// Its place: names, with places where there are several.
    path: Vec<(&'static str, Option<usize>)>,
}

impl QueueWalk<'_> {
    fn below(&mut self, options: &Map, kwargs: &Map, shape: Option<&str>) -> Option<String> {
        // Whatever is deeper is refused for that.
        if self.path.len() >= DEEPEST {
            return None;
        }
        let own = |name, shapes: &[Subtask]| shapes.iter().any(|it| it.as_str() == shape).then(|| kwargs.get(name)).flatten();
        let tasks = own("tasks", &[Subtask::Chain, Subtask::Group]);
        let (header, body) = (own("header", &[Subtask::Chord]), own("body", &[Subtask::Chord]));
        let (link, link_error, chain) = (options.get("link"), options.get("link_error"), options.get("chain"));
        let all = [
            ("tasks", tasks),
            ("header", header.map(members)),
            ("body", body),
            ("link", link),
            ("link_error", link_error),
            ("chain", chain),
            ("chord", options.get("chord")),
        ];
        all.into_iter().find_map(|(name, parts)| match parts? {
            Value::List(parts) => parts.iter().enumerate().find_map(|(place, part)| self.part(name, Some(place), part)),
            part => self.part(name, None, part),
        })
    }

    fn part(&mut self, name: &'static str, place: Option<usize>, part: &Value) -> Option<String> {
        let part = part.as_map()?;
        self.path.push((name, place));
        let none = Map::default();
        let map = |name| part.get(name).and_then(Value::as_map).unwrap_or(&none);
        let options = map("options");
        let queue = text(options, "queue").or_else(|| text(options, "routing_key"));
        let why = queue.and_then(self.refuses).map(|why| {
            let task = part.get("task").and_then(Value::as_str).unwrap_or_default();
            format!("{} ({task}): {why}", self.place())
        });
        let refused = why.or_else(|| self.below(options, map("kwargs"), part.get("subtask_type").and_then(Value::as_str)));
        self.path.pop();
        refused
    }

    fn place(&self) -> String {
        let words = self.path.iter().map(|(name, place)| place.map_or_else(|| (*name).to_owned(), |place| format!("{name}[{place}]")));
        words.collect::<Vec<_>>().join(".")
    }
}

/// A header as a list, though it may be a group.
fn members(header: &Value) -> &Value {
    header.get("kwargs").and_then(|kwargs| kwargs.get("tasks")).unwrap_or(header)
}

#[cfg(test)]
mod tests {
    use super::refused_part;
    use crate::{
        WireSignature,
        canvas::{chain, chord, group},
    };

    #[test]
    fn whatever_names_a_queue_that_is_refused_is_found_wherever_it_stands() {
        let bad = || WireSignature::new("bad").queue("unacked");
        let good = || WireSignature::new("good").queue("q");
        let nested = good().link(good()).link(good().link(bad()));
        let rows = [
            (good(), None),
            // Of the canvas itself another one says it.
            (bad(), None),
            (WireSignature::new("t").kwarg("tasks", vec![bad().to_value()]), None),
            (good().link(bad()), Some("link[0]")),
            (good().link_error(bad()), Some("link_error[0]")),
            (nested, Some("link[1].link[0]")),
            (good().link(WireSignature::new("bad").option("routing_key", "unacked")), Some("link[0]")),
            (good().option("link", bad().to_value()), Some("link")),
            (good().option("chord", bad().to_value()), Some("chord")),
            (good().option("chain", vec![bad().to_value()]), Some("chain[0]")),
            (chain([good(), bad(), good()]), Some("tasks[1]")),
            (group([good(), good().link_error(bad())]), Some("tasks[1].link_error[0]")),
            (chord([good(), good()], bad()), Some("body")),
            (chord([good(), bad()], good()), Some("header[1]")),
            (good().link(chord([good()], chain([good(), bad()]))), Some("link[0].body.tasks[1]")),
        ];
        let refuses = |queue: &str| (queue == "unacked").then(|| format!("not {queue}"));
        for (signature, place) in rows {
            let expected = place.map(|place| format!("{place} (bad): not unacked"));
            assert_eq!(refused_part(&signature, &refuses), expected, "{signature:?}");
        }
        let deep = (0..100).fold(bad(), |inner, _| WireSignature::new("good").link(inner));
        assert_eq!(refused_part(&deep, &refuses), None, "it is refused for its depth");
    }
}

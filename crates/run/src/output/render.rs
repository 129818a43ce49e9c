//! From a result line to what the output shows of it.

use std::{borrow::Cow, collections::HashMap};

use longshore_core::Word;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Emit, Only};
use crate::journal::{
    format::{Piece, Spooled, is_final, raw_of},
    text::push_string,
};

/// Choice of what is shown of a result.
#[derive(Clone, Debug, Default)]
pub(crate) struct Render {
    pub(crate) emit: Emit,
    pub(crate) only: Option<Only>,
    pub(crate) fields: Vec<String>,
    pub(crate) tag: bool,
}

/// A result line with what is known of it, from the run or read back from the journal.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) line: &'a [u8],
    pub(crate) task: &'a [u8],
    pub(crate) outcome: Word,
    pub(crate) raw: Option<&'a [u8]>,
}

impl<'a> Shown<'a> {
    pub(crate) fn of(bytes: &'a [u8], piece: &'a Piece) -> Self {
        Self { line: &bytes[piece.line.clone()], task: &bytes[piece.task.clone()], outcome: piece.outcome, raw: piece.raw.as_deref() }
    }
}

impl Render {
    /// Returns true if the output is the journal's result lines as they are.
    pub(crate) fn is_plain(&self) -> bool {
        self.emit == Emit::Jsonl && self.only.is_none() && self.fields.is_empty()
    }

    /// Returns true if anything of a task with this outcome is shown. A cancelled one runs again,
    /// so its line would stand there twice.
    pub(crate) fn shows(&self, outcome: Word) -> bool {
        self.emit != Emit::None
            && is_final(outcome)
            && match self.only {
                None => true,
                Some(Only::Ok) => outcome == Word::Ok,
                Some(Only::Failed) => outcome.is_failure(),
            }
    }

    /// Appends what is shown of a result.
    pub(crate) fn push(&self, out: &mut Vec<u8>, shown: Shown<'_>) {
        if !self.shows(shown.outcome) {
            return;
        }
        match self.emit {
            Emit::None => {}
            Emit::Raw => {
                let mut text = self.raw_text(shown.task);
                text.push(out, shown.raw.unwrap_or_default());
                text.end(out);
            }
            Emit::Jsonl if self.fields.is_empty() => out.extend_from_slice(shown.line),
            Emit::Jsonl => push_fields(out, shown.line, &self.fields),
        }
    }

    /// Appends what is shown of a line of the journal, as far as the journal has it.
    pub(crate) fn push_stored(&self, out: &mut Vec<u8>, line: &[u8], outcome: Word) -> Pushed {
        if self.emit != Emit::Raw || !self.shows(outcome) {
            self.push(out, Shown { line, task: b"", outcome, raw: None });
            return Pushed::Whole;
        }
        #[derive(Deserialize)]
        struct Stored<'a> {
            #[serde(borrow)]
            task: &'a RawValue,
            spool: Option<Spooled>,
        }
        let stored = serde_json::from_slice::<Stored<'_>>(line).ok();
        let mut text = self.raw_text(stored.as_ref().map_or("", |stored| stored.task.get()).as_bytes());
        let Some(raw) = raw_of(line) else { return Pushed::Lacking };
        text.push(out, &raw);
        if let Some(spooled) = stored.and_then(|stored| stored.spool) {
            return Pushed::Part(spooled, text);
        }
        text.end(out);
        Pushed::Whole
    }

    /// The raw bytes of a task, as they are shown.
    pub(crate) fn raw_text(&self, task: &[u8]) -> RawText {
        RawText { tag: self.tag.then(|| tag_of(task)), line_begins: true }
    }
}

/// Returns what stands for a record before a line: a text as it is, anything else as JSON.
pub(crate) fn tag_of(task: &[u8]) -> Vec<u8> {
    serde_json::from_slice::<String>(task).map_or_else(|_| task.to_vec(), String::into_bytes)
}

/// Share of a result that the journal has.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// All that is shown.
    Whole,
    /// Not the bytes that are to be shown.
    Lacking,
    /// The first of them. The others are found by this name, and go on in this text.
    Part(Spooled, RawText),
}

/// Raw bytes as they are shown, a part at a time: as they are, or each line behind the record and a
/// tab, as `parallel --tag` does it.
#[derive(Debug)]
pub(crate) struct RawText {
    tag: Option<Vec<u8>>,
    line_begins: bool,
}

impl RawText {
    /// Appends the next part.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, raw: &[u8]) {
        let Some(tag) = &self.tag else { return out.extend_from_slice(raw) };
        for line in raw.split_inclusive(|byte| *byte == b'\n') {
            if self.line_begins {
                out.extend_from_slice(tag);
                out.push(b'\t');
            }
            out.extend_from_slice(line);
            self.line_begins = line.ends_with(b"\n");
        }
    }

    /// Ends the last line, where lines are tagged.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        if self.tag.is_some() && !self.line_begins {
            out.push(b'\n');
        }
    }
}

/// An object of these members alone, named by their paths; what is not there is null.
pub(crate) fn push_fields(out: &mut Vec<u8>, line: &[u8], fields: &[String]) {
    let text = std::str::from_utf8(line).unwrap_or("null");
    out.push(b'{');
    for (place, field) in fields.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        push_string(out, field);
        out.push(b':');
        out.extend_from_slice(dig(text, field).unwrap_or("null").as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

/// The JSON text at a path of member names and positions (`value.items.0`). A member whose name has
/// dots is found too.
pub(crate) fn dig<'a>(json: &'a str, path: &str) -> Option<&'a str> {
    if json.trim_start().starts_with('[') {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        let item = items.get(first.parse::<usize>().ok()?)?.get();
        return rest.map_or(Some(item), |rest| dig(item, rest));
    }
    let members: HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(json).ok()?;
    if let Some(member) = members.get(path) {
        return Some(member.get());
    }
    path.match_indices('.').find_map(|(dot, _)| dig(members.get(&path[..dot])?.get(), &path[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "{\"job\":\"a\",\"seq\":3,\"task\":{\"a.b\":1,\"c\":[10,{\"d\":\"x\"}]},\"outcome\":\"ok\",\"value\":null}\n";

    #[test]
    fn fields_are_found_by_path_and_missing_ones_are_null() {
        let fields = ["seq", "task.a.b", "task.c.1.d", "task.c.7", "value.status", "nope"].map(str::to_owned).into();
        let render = Render { fields, ..Render::default() };
        let mut out = Vec::new();
        render.push_stored(&mut out, LINE.as_bytes(), Word::Ok);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"seq\":3,\"task.a.b\":1,\"task.c.1.d\":\"x\",\"task.c.7\":null,\"value.status\":null,\"nope\":null}\n"
        );
    }

    #[test]
    fn a_tag_stands_before_each_line() {
        for (task, raw, expect) in [("\"a b\"", "1\n2", "a b\t1\na b\t2\n"), ("{\"id\":1}", "x\n", "{\"id\":1}\tx\n"), ("\"é\"", "", "")] {
            let render = Render { emit: Emit::Raw, tag: true, ..Render::default() };
            let mut out = Vec::new();
            render.push(&mut out, Shown { line: b"", task: task.as_bytes(), outcome: Word::Ok, raw: Some(raw.as_bytes()) });
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        }
    }

    #[test]
    fn only_says_which_outcomes_are_shown() {
        let shown = |only| {
            let render = Render { only, ..Render::default() };
            Word::ALL.into_iter().filter(|word| render.shows(*word)).collect::<Vec<_>>()
        };
        assert_eq!(shown(Some(Only::Ok)), [Word::Ok]);
        assert_eq!(shown(Some(Only::Failed)), [Word::Failed, Word::Timeout, Word::Panicked, Word::Killed, Word::Lost]);
        assert_eq!(shown(None).len(), 7, "all but cancelled");
    }
}

//! Templates and expressions: what a user writes with braces, filled in from a record.
//!
//! ```text
//! template.rs           Template, Shape, Vars, TemplateError; the hash for a journal
//! template/parse.rs     text → literal parts and placeholders
//! template/check.rs     what cannot be in the records is refused before anything runs
//! template/value.rs     placeholder + record → bytes
//! template/render.rs    the ways to put values in: as they are, for sh, for a URL, for JSON
//! template/jinja.rs     {{ expr }}: minijinja with a record's fields as variables
//! template/expr.rs      Expr: what --where, --key, --order-by and others take
//! ```
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{}` | the record: a line's bytes, a row's line, a JSON text; of a JSON string its text |
//! | `{1}` | a column of a table or an element of a JSON array, from 1 |
//! | `{field}` `{a.b}` `{args.0}` | a field; in arrays below the first level numbers count from 0 |
//! | `{/}` `{//}` `{.}` `{/.}` | of a plain record: base name, directory (`.` if none), without extension, base name without extension |
//! | `{#}` `{%}` | sequence number; slot |
//! | `{{ expr }}` | a minijinja expression; `{{ '{id}' }}` writes braces as they are |
//!
//! Any other brace is itself. A JSON string goes in as its text and any other JSON value as it
//! stands in the input. `null` fails the record like a missing field does, with a message that
//! shows how to say what goes in its place: neither `GET /user/null` nor `rm -r /` must come of a
//! value that is not there. (An empty text, in a table an empty field, is a value and goes in as it
//! is.) Where JSON is written ([`Template::render_json`]), `null` is `null`.

mod check;
mod expr;
mod jinja;
mod parse;
mod render;
mod value;

pub use expr::{Condition, Expr};

use super::record::Columns;
use jinja::Jinja;
use std::{ops::Range, sync::Arc};
use xxhash_rust::xxh3::xxh3_128;

/// Form of the records, as far as it is known before the first is read.
#[derive(Clone, Debug)]
pub struct Shape {
    kind: Kind,
    extra: Vec<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    Lines,
    Json,
    Range,
    Task,
    Table(Option<Arc<Columns>>),
}

impl Shape {
    /// Plain records: lines, NUL records, words. They have no fields.
    pub fn lines() -> Self {
        Self { kind: Kind::Lines, extra: Vec::new() }
    }

    /// JSON values: any field may be there.
    pub fn json() -> Self {
        Self { kind: Kind::Json, extra: Vec::new() }
    }

    /// Tasks of a queue: `id`, `task`, `args`, `kwargs`, `attempt`.
    pub fn task() -> Self {
        Self { kind: Kind::Task, extra: Vec::new() }
    }

    /// Rows of a table with these columns; `None` if it is empty, so that nothing is known.
    pub fn table(columns: Option<Arc<Columns>>) -> Self {
        Self { kind: Kind::Table(columns), extra: Vec::new() }
    }

    /// The shape of what this input gives.
    pub fn of(input: &super::input::Input) -> Self {
        use super::input::Format;
        if input.is_split() {
            return Self { kind: Kind::Range, extra: Vec::new() };
        }
        match input.format() {
            Format::Jsonl => Self::json(),
            Format::Csv | Format::Tsv => Self::table(input.columns().cloned()),
            Format::Auto | Format::Lines | Format::Nul => Self::lines(),
        }
    }

    /// Also allows these names, which will come with [`Vars::extra`] (`host`, for a URL). A
    /// record's own field of that name goes first.
    #[must_use]
    pub fn with_extra(mut self, names: &[&str]) -> Self {
        self.extra.extend(names.iter().map(|name| (*name).to_string()));
        self
    }
}

/// Values that a template can use beside the record.
#[derive(Clone, Copy, Debug)]
pub struct Vars<'a> {
    /// The slot that the task runs in: `{%}`.
    pub slot: usize,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Names with their values, for which the record has no field.
    pub extra: &'a [(&'a str, &'a str)],
}

impl Default for Vars<'_> {
    fn default() -> Self {
        Self { slot: 1, attempt: 1, extra: &[] }
    }
}

/// Reason why a template or an expression cannot be used, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    message: String,
}

impl TemplateError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// A text with placeholders, parsed once and filled in for each record.
#[derive(Debug)]
pub struct Template {
    source: Box<[u8]>,
    pieces: Vec<TemplatePiece>,
}

#[derive(Debug)]
enum TemplatePiece {
    /// These bytes of the source.
    Literal(Range<usize>),
    Hole(Hole),
}

/// A placeholder.
#[derive(Debug)]
struct Hole {
    /// As it was written, for messages.
    written: Box<str>,
    what: What,
    /// It would stand between quotes, were the template JSON.
    quoted: bool,
}

impl Hole {
    /// Returns true if it can be nothing but a number of ours.
    fn is_number(&self) -> bool {
        match &self.what {
            What::Seq | What::Slot => true,
            What::Jinja(jinja) => jinja.names().iter().all(|name| matches!(name.as_str(), "seq" | "slot" | "attempt")),
            What::Record | What::Path(_) | What::Part(_) => false,
        }
    }
}

/// A part of a template.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TextPart<'a> {
    /// Bytes that are the same for every record.
    Text(&'a [u8]),
    /// A placeholder.
    Value {
        /// As it was written.
        written: &'a str,
        /// It can be nothing but a number of ours.
        number: bool,
    },
}

#[derive(Debug)]
enum What {
    Record,
    Path(super::record::Path),
    Part(Part),
    Seq,
    Slot,
    Jinja(Box<Jinja>),
}

/// A part of a file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Base,
    Directory,
    Stem,
    BaseStem,
}

impl Template {
    /// Parses a template, and checks it against what is known of the records.
    ///
    /// # Errors
    /// A field that no record can have (with the nearest that there is), a part of a file name of
    /// something that is not a plain record, `{{` without `}}`, or a bad expression.
    pub fn parse(source: impl AsRef<[u8]>, shape: &Shape) -> Result<Self, TemplateError> {
        let source = source.as_ref();
        let pieces = parse::parse(source)?;
        for piece in &pieces {
            if let TemplatePiece::Hole(hole) = piece {
                check::hole(hole, shape)?;
            }
        }
        Ok(Self { source: source.into(), pieces })
    }

    /// The template as it was written.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// True if it has no placeholder: it is the same for every record.
    pub fn is_constant(&self) -> bool {
        !self.pieces.iter().any(|piece| matches!(piece, TemplatePiece::Hole(_)))
    }

    /// True if what it gives may differ between two records: it has a placeholder that is not only
    /// of the slot or the attempt.
    pub fn is_of_record(&self) -> bool {
        self.holes().any(|hole| match &hole.what {
            What::Slot => false,
            What::Jinja(jinja) => jinja.names().iter().any(|name| name != "slot" && name != "attempt"),
            _ => true,
        })
    }

    /// True if what it gives may differ between two attempts of one task (it names the slot or the
    /// attempt).
    pub fn varies_by_attempt(&self) -> bool {
        self.holes().any(|hole| match &hole.what {
            What::Slot => true,
            What::Jinja(jinja) => jinja.names().iter().any(|name| name == "slot" || name == "attempt"),
            _ => false,
        })
    }

    /// Returns its parts in order: what it says, and where values go.
    pub(crate) fn parts(&self) -> impl Iterator<Item = TextPart<'_>> {
        self.pieces.iter().map(|piece| match piece {
            TemplatePiece::Literal(range) => TextPart::Text(&self.source[range.clone()]),
            TemplatePiece::Hole(hole) => TextPart::Value { written: &hole.written, number: hole.is_number() },
        })
    }

    fn holes(&self) -> impl Iterator<Item = &Hole> {
        self.pieces.iter().filter_map(|piece| match piece {
            TemplatePiece::Hole(hole) => Some(hole),
            TemplatePiece::Literal(_) => None,
        })
    }
}

/// The hash of several texts in order (the templates of a job), for a journal's header: the same on
/// every machine and in every version.
pub fn hash_sources<S: AsRef<[u8]>>(sources: impl IntoIterator<Item = S>) -> u128 {
    let mut bytes = Vec::new();
    for source in sources {
        bytes.extend_from_slice(&(source.as_ref().len() as u64).to_le_bytes());
        bytes.extend_from_slice(source.as_ref());
    }
    xxh3_128(&bytes)
}

#[cfg(test)]
mod tests;

//! What `--where`, `--key`, `--order-by`, `--per`, `--rate-by`, `--stdin`, `--env` and `--lane`
//! take.

use super::{Hole, Kind, Shape, Template, TemplateError, TemplatePiece, Vars, What, check, jinja::Jinja};
use crate::record::{Path, Record};
use longshore_core::TaskError;

/// An expression over a record: a bare path (`user`, `a.b`, `2`) or a template (`{user}-{id}`,
/// `{{ user|lower }}`).
///
/// A bare word is always a path, never a constant: a constant word is written `{{ 'word' }}`. In
/// plain lines, which have no fields, the bare words `record`, `seq`, `slot` and `attempt` are
/// those of `{{ }}`.
#[derive(Debug)]
pub struct Expr(Template);

impl Expr {
    /// Parses an expression, and checks it against what is known of the records.
    ///
    /// # Errors
    /// As of [`Template::parse`], and an empty text.
    pub fn parse(text: &str, shape: &Shape) -> Result<Self, TemplateError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(TemplateError::new("the expression is empty: write a field as in user, or a template as in {user}-{id}"));
        }
        let Some(path) = Path::parse(trimmed) else { return Template::parse(text, shape).map(Self) };
        let what = if matches!(shape.kind, Kind::Lines) && check::ALWAYS.contains(&trimmed) {
            What::Jinja(Box::new(Jinja::compile(trimmed)?))
        } else {
            What::Path(path)
        };
        let hole = Hole { written: trimmed.into(), what, quoted: false };
        check::hole(&hole, shape)?;
        Ok(Self(Template { source: trimmed.as_bytes().into(), pieces: vec![TemplatePiece::Hole(hole)] }))
    }

    /// The expression as it was written, for a hash.
    pub fn source(&self) -> &[u8] {
        self.0.source()
    }

    /// True if it is the same for every record: surely a mistake in `--key` or `--order-by`.
    pub fn is_constant(&self) -> bool {
        self.0.is_constant()
    }

    /// As of [`Template::is_of_record`].
    pub fn is_of_record(&self) -> bool {
        self.0.is_of_record()
    }

    /// The text.
    ///
    /// # Errors
    /// As of [`Template::render_str`].
    pub fn eval_text(&self, record: &Record, vars: &Vars<'_>) -> Result<String, TaskError> {
        self.0.render_str(record, vars)
    }

    /// The bytes: what `--stdin` gives to a command.
    ///
    /// # Errors
    /// As of [`Template::render_bytes`].
    pub fn eval_bytes(&self, record: &Record, vars: &Vars<'_>) -> Result<Vec<u8>, TaskError> {
        self.0.render_bytes(record, vars)
    }
}

/// The condition of `--where`: a minijinja expression that is true or false, as in
/// `price > 10 and make == "VW"`.
#[derive(Debug)]
pub struct Condition {
    source: Box<str>,
    jinja: Jinja,
}

impl Condition {
    /// Parses a condition, with or without `{{ }}` around it, and checks it against what is known
    /// of the records.
    ///
    /// # Errors
    /// No expression; a name that no record can have; a column compared with a number in quotes.
    pub fn parse(text: &str, shape: &Shape) -> Result<Self, TemplateError> {
        let trimmed = text.trim();
        let inner = trimmed.strip_prefix("{{").and_then(|inner| inner.strip_suffix("}}")).unwrap_or(trimmed);
        if inner.trim().is_empty() {
            return Err(TemplateError::new("the condition is empty: write one as in price > 10"));
        }
        if let Some(hole) = inner.split_once('{').and_then(|(_, rest)| rest.split_once('}')).and_then(|(path, _)| Path::parse(path)) {
            return Err(TemplateError::new(format!("`{trimmed}`: in a condition a field stands without braces: write {hole}")));
        }
        let jinja = Jinja::compile(inner)?;
        check::expression(&jinja, trimmed, shape)?;
        Ok(Self { source: trimmed.into(), jinja })
    }

    /// The condition as it was written, for a hash.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns true if it holds for this record.
    ///
    /// # Errors
    /// The record is invalid, lacks a field that is compared, has no number where one is compared,
    /// or the outcome is neither true nor false.
    pub fn holds(&self, record: &Record, vars: &Vars<'_>) -> Result<bool, TaskError> {
        record.check()?;
        self.jinja.eval_bool(record, vars)
    }
}

//! From a text to literal parts and placeholders.

use super::{Hole, Part, TemplateError, TemplatePiece, What, check, jinja::Jinja};
use crate::record::Path;

/// The pieces of a template in order.
pub(super) fn parse(source: &[u8]) -> Result<Vec<TemplatePiece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut json = JsonString::default();
    let (mut literal, mut at) = (0, 0);
    while at < source.len() {
        let found = if source[at] == b'{' { placeholder(&source[at..])? } else { None };
        let Some((length, what)) = found else {
            json.feed(source[at]);
            at += 1;
            continue;
        };
        if literal < at {
            pieces.push(TemplatePiece::Literal(literal..at));
        }
        let written = String::from_utf8_lossy(&source[at..at + length]).into();
        pieces.push(TemplatePiece::Hole(Hole { written, what, quoted: json.inside }));
        at += length;
        literal = at;
    }
    if literal < at {
        pieces.push(TemplatePiece::Literal(literal..at));
    }
    Ok(pieces)
}

/// The placeholder at the start of this text, with its length, if there is one.
fn placeholder(text: &[u8]) -> Result<Option<(usize, What)>, TemplateError> {
    if text.starts_with(b"{{") {
        return expression(text).map(Some);
    }
    let Some(end) = text.iter().position(|byte| *byte == b'}') else { return Ok(None) };
    let Ok(inner) = std::str::from_utf8(&text[1..end]) else { return Ok(None) };
    let what = match inner {
        "" => What::Record,
        "/" => What::Part(Part::Base),
        "//" => What::Part(Part::Directory),
        "." => What::Part(Part::Stem),
        "/." => What::Part(Part::BaseStem),
        "#" => What::Seq,
        "%" => What::Slot,
        path => match Path::parse(path) {
            Some(path) => What::Path(path),
            None => return Ok(None),
        },
    };
    Ok(Some((end + 1, what)))
}

fn expression(text: &[u8]) -> Result<(usize, What), TemplateError> {
    let shown = || String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
    let Some(length) = expression_end(text) else {
        return Err(TemplateError::new(format!(
            "`{}` has no `}}}}`: close the expression, or write {{{{ '{{{{' }}}} for two braces",
            shown()
        )));
    };
    let Ok(inner) = std::str::from_utf8(&text[2..length - 2]) else {
        return Err(TemplateError::new(format!("the expression in `{}` is not UTF-8", shown())));
    };
    let what = match plain_name(inner.trim()) {
        Some(path) => What::Path(path),
        None => What::Jinja(Box::new(Jinja::compile(inner).map_err(|error| with_escape(error, inner))?)),
    };
    Ok((length, what))
}

/// Says how to write the braces themselves: a `{{.Names}}` for another program is no expression.
fn with_escape(error: TemplateError, inner: &str) -> TemplateError {
    if inner.contains('\'') || inner.trim().is_empty() {
        return error;
    }
    TemplateError::new(format!("{error} (to write the braces themselves: {{{{ '{{{{{inner}}}}}' }}}})"))
}

/// The path in `{{ user }}` or `{{ a.b }}`, which mean what `{user}` and `{a.b}` do: a number keeps
/// the digits that it has in the input.
fn plain_name(inner: &str) -> Option<Path> {
    const KEYWORDS: [&str; 6] = ["true", "false", "none", "True", "False", "None"];
    let first = inner.split('.').next()?;
    let is_name = !inner.contains('-') && !inner.starts_with(|c: char| c.is_ascii_digit());
    if !is_name || KEYWORDS.contains(&inner) || check::ALWAYS.contains(&first) {
        return None;
    }
    Path::parse(inner)
}

/// The length of `{{ … }}`: its end is the first `}}` outside quotes and outside braces of its
/// own.
fn expression_end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut open = 0_usize;
    let mut at = 2;
    while at < text.len() {
        match (quote, text[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(mark), byte) if byte == mark => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(text[at]),
            (None, b'{') => open += 1,
            (None, b'}') if open > 0 => open -= 1,
            (None, b'}') if text.get(at + 1) == Some(&b'}') => return Some(at + 2),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Follows the quotes of a JSON text, to know whether a place is inside a string.
#[derive(Default)]
struct JsonString {
    inside: bool,
    escaped: bool,
}

impl JsonString {
    fn feed(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.inside => self.escaped = true,
            b'"' => self.inside = !self.inside,
            _ => {}
        }
    }
}

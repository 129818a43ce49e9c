//! What a placeholder stands for in a record.

use super::{Hole, Part, Vars, What, jinja::Out};
use crate::record::{Field, Path, Record};
use longshore_core::TaskError;
use std::borrow::Cow;

/// A value before it is put in.
pub(super) enum Value<'a> {
    /// A text, as bytes.
    Text(Cow<'a, [u8]>),
    /// A JSON value that is not a string, as its JSON text.
    Json(Cow<'a, str>),
    /// A text of which the expression said that it is in the right form already (`|safe`,
    /// `|urlencode`).
    Safe(String),
    /// A JSON `null`.
    Null,
}

impl<'a> Value<'a> {
    /// The bytes to put in; of `null` a failure of this record.
    pub(super) fn bytes(self, hole: &Hole, record: &Record) -> Result<Cow<'a, [u8]>, TaskError> {
        match self {
            Self::Text(bytes) => Ok(bytes),
            Self::Json(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text.as_bytes())),
            Self::Json(Cow::Owned(text)) | Self::Safe(text) => Ok(Cow::Owned(text.into_bytes())),
            Self::Null => Err(null(hole, record)),
        }
    }
}

fn null(hole: &Hole, record: &Record) -> TaskError {
    let name = match &hole.what {
        What::Path(path) if path.number().is_none() => path.as_str(),
        _ => return record.invalid(format_args!("`{}` is null", hole.written)),
    };
    record.invalid(format_args!("`{name}` is null: to put something in its place write {{{{ {name} or 'something' }}}}"))
}

/// The value of a placeholder.
pub(super) fn value<'a>(hole: &Hole, record: &'a Record, vars: &Vars<'a>) -> Result<Value<'a>, TaskError> {
    match &hole.what {
        What::Record => whole(record),
        What::Path(path) => field(path, record, vars),
        What::Part(part) if record.is_plain() => Ok(Value::Text(Cow::Owned(part_of(*part, &record.bytes()?).to_vec()))),
        What::Part(_) => {
            record.check()?;
            Err(record.invalid(format_args!("`{}` stands for a part of a file name, but the record is not a plain text", hole.written)))
        }
        What::Seq => Ok(Value::Json(Cow::Owned(record.seq().to_string()))),
        What::Slot => Ok(Value::Json(Cow::Owned(vars.slot.to_string()))),
        What::Jinja(jinja) => Ok(match jinja.eval(record, vars)? {
            Out::Text(text) => Value::Text(Cow::Owned(text.into_bytes())),
            Out::Json(text) => Value::Json(Cow::Owned(text)),
            Out::Safe(text) => Value::Safe(text),
            Out::Null => Value::Null,
        }),
    }
}

fn whole(record: &Record) -> Result<Value<'_>, TaskError> {
    match record.as_json() {
        Some(raw) if !record.is_plain() => Ok(if raw.get() == "null" { Value::Null } else { Value::Json(Cow::Borrowed(raw.get())) }),
        _ => record.bytes().map(Value::Text),
    }
}

/// The field at this path, or else the extra variable of that name.
pub(super) fn field<'a>(path: &Path, record: &'a Record, vars: &Vars<'a>) -> Result<Value<'a>, TaskError> {
    let Some(field) = record.field(path)? else {
        let extra = vars.extra.iter().find(|(name, _)| *name == path.as_str());
        return match extra {
            Some((_, text)) => Ok(Value::Text(Cow::Borrowed(text.as_bytes()))),
            None => Err(no_field(path, record)),
        };
    };
    Ok(match field {
        Field::Json(_) if field.is_null() => Value::Null,
        Field::Json(raw) if !raw.get().starts_with('"') => Value::Json(Cow::Borrowed(raw.get())),
        _ => Value::Text(field.bytes().map_err(|reason| record.invalid(reason))?),
    })
}

fn no_field(path: &Path, record: &Record) -> TaskError {
    match (path.number(), record.as_row()) {
        (Some(_), Some((fields, _))) => record.invalid(format_args!("no column {path}, the row has {}", fields.len())),
        _ => record.invalid(format_args!("no field `{path}`")),
    }
}

/// A part of a file name, byte for byte, as basename(1) and dirname(1) see it. The extension is
/// what follows the last dot of the base name, unless that dot is its first byte (`.profile` has
/// none).
fn part_of(part: Part, path: &[u8]) -> &[u8] {
    let trimmed = trim_slashes(path);
    let base_at = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let base = if trimmed == b"/" { trimmed } else { &trimmed[base_at..] };
    let dot = base.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0 && base != b"..");
    match part {
        Part::Base => base,
        Part::Directory if trimmed == b"/" => trimmed,
        Part::Directory if base_at == 0 => b".",
        Part::Directory => trim_slashes(&trimmed[..base_at]),
        Part::BaseStem => &base[..dot.unwrap_or(base.len())],
        Part::Stem => match dot {
            Some(dot) => &trimmed[..base_at + dot],
            None => path,
        },
    }
}

/// Without slashes at the end, but `/` stays.
fn trim_slashes(path: &[u8]) -> &[u8] {
    let kept = path.iter().rposition(|byte| *byte != b'/').map_or(path.len().min(1), |at| at + 1);
    &path[..kept]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_file_names() {
        // path, {/}, {//}, {.}, {/.}
        let rows = [
            ("a/b/c.tar.gz", "c.tar.gz", "a/b", "a/b/c.tar", "c.tar"),
            ("c.png", "c.png", ".", "c", "c"),
            ("/c", "c", "/", "/c", "c"),
            ("/", "/", "/", "/", "/"),
            ("//", "/", "/", "//", "/"),
            ("a.d/b", "b", "a.d", "a.d/b", "b"),
            ("a/b.d/", "b.d", "a", "a/b", "b"),
            (".profile", ".profile", ".", ".profile", ".profile"),
            ("a/.profile.bak", ".profile.bak", "a", "a/.profile", ".profile"),
            ("..", "..", ".", "..", ".."),
            ("a//b", "b", "a", "a//b", "b"),
            ("c.", "c.", ".", "c", "c"),
            ("", "", ".", "", ""),
        ];
        for (path, base, directory, stem, base_stem) in rows {
            for (part, expected) in [(Part::Base, base), (Part::Directory, directory), (Part::Stem, stem), (Part::BaseStem, base_stem)] {
                let found = part_of(part, path.as_bytes());
                assert_eq!(std::str::from_utf8(found), Ok(expected), "{part:?} of {path}");
            }
        }
        assert_eq!(part_of(Part::Stem, b"a\xff.p\xfe"), b"a\xff");
    }
}

//! The ways to put values into a template.

use super::{
    Hole, Template, TemplatePiece, Vars, What,
    value::{Value, value},
};
use crate::record::{Record, utf8};
use longshore_core::TaskError;
use std::{borrow::Cow, ffi::OsString, os::unix::ffi::OsStringExt};

impl Template {
    /// Fills in every value byte for byte.
    ///
    /// # Errors
    /// The record's own: it is invalid, a field is missing or null, an expression failed. Kind
    /// `invalid`.
    pub fn render_bytes(&self, record: &Record, vars: &Vars<'_>) -> Result<Vec<u8>, TaskError> {
        self.render(record, vars, |out, hole, value| {
            out.extend_from_slice(&value.bytes(hole, record)?);
            Ok(())
        })
    }

    /// [`render_bytes`](Self::render_bytes) for one argument of a command. The argument is one
    /// argument whatever is in the value.
    ///
    /// # Errors
    /// Also a NUL byte, which no argument can have.
    pub fn render_arg(&self, record: &Record, vars: &Vars<'_>) -> Result<OsString, TaskError> {
        let bytes = self.render_bytes(record, vars)?;
        no_nul(&bytes, record)?;
        Ok(OsString::from_vec(bytes))
    }

    /// [`render_bytes`](Self::render_bytes) as text.
    ///
    /// # Errors
    /// Also bytes that are not UTF-8.
    pub fn render_str(&self, record: &Record, vars: &Vars<'_>) -> Result<String, TaskError> {
        self.text(self.render_bytes(record, vars)?, record)
    }

    /// Fills in every value as one word for a POSIX shell: single-quoted, raw bytes kept. What the
    /// template itself says stays as it is, so a placeholder must not stand between quotes of the
    /// template.
    ///
    /// # Errors
    /// As of [`render_arg`](Self::render_arg).
    pub fn render_shell(&self, record: &Record, vars: &Vars<'_>) -> Result<OsString, TaskError> {
        let bytes = self.render(record, vars, |out, hole, value| {
            shell_quote(&value.bytes(hole, record)?, out);
            Ok(())
        })?;
        no_nul(&bytes, record)?;
        Ok(OsString::from_vec(bytes))
    }

    /// Fills in a URL. (Without a method before it.)
    ///
    /// A value at the very start is a URL or the beginning of one, and stays as it is. One in the
    /// authority (`http://{host}/`) stays as it is too, but must not hold what would end the
    /// authority or go before a host (`/ ? # \ @`, spaces). Any other value is percent-encoded, all
    /// but letters, digits and `-._~`, so that it stays one path segment or one part of a query;
    /// `{}`, the record itself, is a path of several and keeps its slashes there. `{{ path|safe }}`
    /// puts in a value as it is.
    ///
    /// # Errors
    /// Also a value that is not UTF-8, one that would change the host, or a whole path segment `.`
    /// or `..`, which every client would resolve.
    pub fn render_url(&self, record: &Record, vars: &Vars<'_>) -> Result<String, TaskError> {
        let bytes = self.render(record, vars, |out, hole, value| {
            let value = match value {
                Value::Safe(text) => {
                    out.extend_from_slice(text.as_bytes());
                    return Ok(());
                }
                value => value.bytes(hole, record)?,
            };
            let text = utf8(value).map_err(|at| record.invalid(format_args!("`{}` is not UTF-8 at byte {at}", hole.written)))?;
            if out.is_empty() {
                out.extend_from_slice(text.as_bytes());
                return Ok(());
            }
            match place_in_url(out) {
                UrlPart::Authority
                    if text.contains(|c: char| matches!(c, '/' | '?' | '#' | '\\' | '@') || c.is_whitespace() || c.is_control()) =>
                {
                    Err(record.invalid(format_args!(
                        "`{}` is {text:?}, which is no host; put a whole URL at the start, or `|safe` behind it",
                        hole.written
                    )))
                }
                UrlPart::Authority => {
                    out.extend_from_slice(text.as_bytes());
                    Ok(())
                }
                UrlPart::Path if leads_elsewhere(out, &text, matches!(hole.what, What::Record)) => {
                    Err(record.invalid(format_args!("`{}` is {text:?}, which would lead to another path", hole.written)))
                }
                UrlPart::Path if matches!(hole.what, What::Record) => {
                    percent_encode(text.as_bytes(), b"/", out);
                    Ok(())
                }
                UrlPart::Path | UrlPart::Query => {
                    percent_encode(text.as_bytes(), b"", out);
                    Ok(())
                }
            }
        })?;
        self.text(bytes, record)
    }

    /// Fills in a JSON text. Between quotes of the template a value goes in as the inside of a
    /// string; elsewhere as a JSON value: text as a string, other values and `null` as they are.
    ///
    /// # Errors
    /// Also a value that is not UTF-8. Whether the whole is JSON is not checked here.
    pub fn render_json(&self, record: &Record, vars: &Vars<'_>) -> Result<String, TaskError> {
        let bytes = self.render(record, vars, |out, hole, value| {
            let text = match value {
                Value::Json(text) if !hole.quoted => {
                    out.extend_from_slice(text.as_bytes());
                    return Ok(());
                }
                Value::Null if !hole.quoted => {
                    out.extend_from_slice(b"null");
                    return Ok(());
                }
                value => value.bytes(hole, record)?,
            };
            let text = utf8(text).map_err(|at| record.invalid(format_args!("`{}` is not UTF-8 at byte {at}", hole.written)))?;
            let string = serde_json::Value::from(text).to_string();
            let inside = if hole.quoted { &string[1..string.len() - 1] } else { &string };
            out.extend_from_slice(inside.as_bytes());
            Ok(())
        })?;
        self.text(bytes, record)
    }

    fn render<'a>(
        &self,
        record: &'a Record,
        vars: &Vars<'a>,
        mut put: impl FnMut(&mut Vec<u8>, &Hole, Value<'a>) -> Result<(), TaskError>,
    ) -> Result<Vec<u8>, TaskError> {
        // Even a template without placeholders must not run for a bad record.
        record.check()?;
        let mut out = Vec::with_capacity(self.source().len() + 32);
        for piece in &self.pieces {
            match piece {
                TemplatePiece::Literal(range) => out.extend_from_slice(&self.source[range.clone()]),
                TemplatePiece::Hole(hole) => put(&mut out, hole, value(hole, record, vars)?)?,
            }
        }
        Ok(out)
    }

    fn text(&self, bytes: Vec<u8>, record: &Record) -> Result<String, TaskError> {
        let shown = || String::from_utf8_lossy(&self.source).into_owned();
        utf8(Cow::Owned(bytes))
            .map(Cow::into_owned)
            .map_err(|at| record.invalid(format_args!("`{}` is not UTF-8 at byte {at} when filled in", shown())))
    }
}

fn no_nul(bytes: &[u8], record: &Record) -> Result<(), TaskError> {
    match bytes.contains(&0) {
        true => Err(record.invalid("has a NUL byte, which an argument cannot hold: give it to the command with --stdin")),
        false => Ok(()),
    }
}

/// Quotes a value for a POSIX shell: nothing is special between single quotes but the quote itself.
fn shell_quote(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    for byte in value {
        match byte {
            b'\'' => out.extend_from_slice(br"'\''"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
}

/// Returns whether a value in a path would have a segment `.` or `..`, behind what stands there.
fn leads_elsewhere(url: &[u8], value: &str, keeps_slashes: bool) -> bool {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    let first_is_whole = url.ends_with(b"/");
    match keeps_slashes {
        false => first_is_whole && is_dots(value),
        true => value.split('/').enumerate().any(|(at, segment)| (at > 0 || first_is_whole) && is_dots(segment)),
    }
}

fn percent_encode(value: &[u8], kept: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UrlPart {
    Authority,
    Path,
    Query,
}

/// The part of a URL in which the next byte will be.
fn place_in_url(url: &[u8]) -> UrlPart {
    if url.iter().any(|byte| matches!(byte, b'?' | b'#')) {
        return UrlPart::Query;
    }
    match url.windows(3).position(|three| three == b"://") {
        Some(at) if !url[at + 3..].contains(&b'/') => UrlPart::Authority,
        _ => UrlPart::Path,
    }
}

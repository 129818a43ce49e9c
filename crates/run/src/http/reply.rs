//! What is kept of an answer, and the JSON value that it becomes.

use std::{io::Write, path::PathBuf, sync::Arc};

use longshore_core::lane::child::Rest;

/// An answer whose status counts as success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpReply {
    /// The status.
    pub status: u16,
    /// Bytes of the body that were received, after decompression; those of `rest`, too.
    pub bytes: u64,
    /// True if the body was longer than the limit; what came after it is in `rest`, or was not
    /// read.
    pub cut: bool,
    /// The body.
    pub body: ReplyBody,
    /// Part of the body behind the limit, if it was wanted.
    pub rest: Option<Arc<Rest>>,
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// The text of one JSON value, as the server wrote it.
    Json(String),
    /// UTF-8 text.
    Text(String),
    /// Anything else.
    Binary(Vec<u8>),
    /// The body went to this file.
    Saved(PathBuf),
}

impl ReplyBody {
    /// Sorts a body by its content type and bytes: JSON when the type says so and it parses, else
    /// text when it is UTF-8, else binary. A cut body may end inside a character; that piece is
    /// dropped, so that a long text does not become binary by its length.
    pub(super) fn of(content_type: Option<&str>, mut body: Vec<u8>, cut: bool) -> Self {
        if cut
            && let Err(error) = std::str::from_utf8(&body)
            && error.error_len().is_none()
        {
            body.truncate(error.valid_up_to());
        }
        match String::from_utf8(body) {
            Err(error) => ReplyBody::Binary(error.into_bytes()),
            Ok(text) if content_type.is_some_and(is_json) && is_embeddable(&text) => ReplyBody::Json(text),
            Ok(text) => ReplyBody::Text(text),
        }
    }
}

impl HttpReply {
    /// Appends the answer as one JSON object on one line: `{"status":200,"bytes":812,"body":…}`.
    ///
    /// The body is a JSON value (as the server wrote it but for white space, so numbers keep every
    /// digit), a string, or `{"base64":"…"}`; `"file":"…"` stands in its place when it was
    /// saved, and `"cut":true` before it when it was longer than the limit.
    pub fn to_json(&self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail, nor can a string fail to become JSON.
        let _ = write!(out, r#"{{"status":{},"bytes":{}"#, self.status, self.bytes);
        if self.cut {
            out.extend_from_slice(br#","cut":true"#);
        }
        match &self.body {
            ReplyBody::Saved(path) => {
                out.extend_from_slice(br#","file":"#);
                let _ = serde_json::to_writer(&mut *out, &path.to_string_lossy());
            }
            ReplyBody::Json(json) => {
                out.extend_from_slice(br#","body":"#);
                significant(json).for_each(|byte| out.push(byte));
            }
            ReplyBody::Text(text) => {
                out.extend_from_slice(br#","body":"#);
                let _ = serde_json::to_writer(&mut *out, text);
            }
            ReplyBody::Binary(bytes) => {
                out.extend_from_slice(br#","body":{"base64":""#);
                base64(bytes, out);
                out.extend_from_slice(br#""}"#);
            }
        }
        out.push(b'}');
    }

    /// The body's bytes as `--emit raw` writes them; nothing when it was saved to a file.
    pub fn raw(&self) -> &[u8] {
        match &self.body {
            ReplyBody::Json(text) | ReplyBody::Text(text) => text.as_bytes(),
            ReplyBody::Binary(bytes) => bytes,
            ReplyBody::Saved(_) => &[],
        }
    }
}

/// `application/json`, or any type with the suffix `+json`, whatever its parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// Deeper values are kept as text: a reader with a limit on nesting (serde_json's is 128, and the
/// value stands inside a result line) could not read the line back.
const MAX_DEPTH: u32 = 100;

/// Returns true if the text is one JSON value that may stand inside a result line.
fn is_embeddable(text: &str) -> bool {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
    for byte in text.bytes() {
        match byte {
            _ if in_string => {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            }
            b'"' => in_string = true,
            b'[' | b'{' if depth == MAX_DEPTH => return false,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// The bytes of valid JSON without the white space between its tokens: a pretty-printed body
/// becomes one line.
fn significant(json: &str) -> impl Iterator<Item = u8> {
    let (mut in_string, mut escaped) = (false, false);
    json.bytes().filter(move |&byte| {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            return true;
        }
        in_string = byte == b'"';
        !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
    })
}

/// Appends the standard alphabet's base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sextet = (group >> (18 - 6 * place)) & 63;
            out.push(if place <= chunk.len() { ALPHABET[sextet as usize] } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(content_type: Option<&str>, body: &[u8], cut: bool) -> String {
        let reply =
            HttpReply { status: 200, bytes: body.len() as u64, cut, body: ReplyBody::of(content_type, body.to_vec(), cut), rest: None };
        let mut out = Vec::new();
        reply.to_json(&mut out);
        let text = String::from_utf8(out).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert!(!text.contains('\n'), "a result is one line: {text}");
        text
    }

    #[test]
    fn a_body_is_json_text_or_base64() {
        let json = Some("application/json; charset=utf-8");
        for (content_type, body, want) in [
            (json, &b"{ \"a\" : [1,\r\n 2.50] }\n"[..], r#"{"status":200,"bytes":22,"body":{"a":[1,2.50]}}"#),
            (json, b"123456789012345678901234567890", r#"{"status":200,"bytes":30,"body":123456789012345678901234567890}"#),
            (json, b"\" a \\\" b \\\\\"", r#"{"status":200,"bytes":12,"body":" a \" b \\"}"#),
            (json, b"{oops", r#"{"status":200,"bytes":5,"body":"{oops"}"#),
            (json, b"", r#"{"status":200,"bytes":0,"body":""}"#),
            (Some("application/problem+json"), b"1", r#"{"status":200,"bytes":1,"body":1}"#),
            (Some("text/plain"), b"1\n", r#"{"status":200,"bytes":2,"body":"1\n"}"#),
            (None, b"caf\xc3\xa9", "{\"status\":200,\"bytes\":5,\"body\":\"caf\u{e9}\"}"),
            (None, b"\xff\xfe\x00\x01", r#"{"status":200,"bytes":4,"body":{"base64":"//4AAQ=="}}"#),
        ] {
            assert_eq!(json_of(content_type, body, false), want);
        }
    }

    #[test]
    fn a_cut_text_stays_text_though_it_ends_inside_a_character() {
        assert_eq!(json_of(None, b"caf\xc3", true), r#"{"status":200,"bytes":4,"cut":true,"body":"caf"}"#);
        assert_eq!(json_of(None, b"caf\xc3", false), r#"{"status":200,"bytes":4,"body":{"base64":"Y2Fmww=="}}"#);
    }

    #[test]
    fn json_too_deep_to_be_read_back_is_text() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(matches!(ReplyBody::of(Some("application/json"), deep.into_bytes(), false), ReplyBody::Text(_)));
    }

    #[test]
    fn base64_pads_like_the_standard() {
        for (text, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")] {
            let mut out = Vec::new();
            base64(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }

    #[test]
    fn a_saved_body_is_named() {
        let reply = HttpReply { status: 200, bytes: 9, cut: false, body: ReplyBody::Saved("out/1.bin".into()), rest: None };
        let mut out = Vec::new();
        reply.to_json(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"status":200,"bytes":9,"file":"out/1.bin"}"#);
    }
}

//! What stands for a message that was too large to be brought to a worker: the message itself lies
//! aside, whole, where its broker keeps it. Only a worker of ours holds a stub: where it lets go of
//! it, the whole message goes back. (To a worker that does not know stubs one would be a task that
//! nobody has, `longshore.aside`.)

use super::{BadMessage, Limits};

const BEGIN: &[u8] = br#"{"longshore-aside": {"#;
/// A stub is no longer than this; what begins like one and is longer is none.
const LONGEST: usize = 64 << 10;

/// A stub, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stub<'a> {
    /// Names what lies aside.
    pub tag: &'a str,
    /// The length of the message.
    pub bytes: usize,
    /// The task's name, as far as it could be told.
    pub task: Option<&'a str>,
    /// The task's id, as far as it could be told.
    pub id: Option<&'a str>,
}

impl<'a> Stub<'a> {
    /// Returns whether a message is a stub.
    pub fn is_one(raw: &[u8]) -> bool {
        raw.starts_with(BEGIN) && raw.len() <= LONGEST
    }

    /// Reads a stub; `None` where it is none.
    pub fn read(raw: &'a [u8]) -> Option<Self> {
        if !Self::is_one(raw) {
            return None;
        }
        // Its members have no escapes and nothing nested.
        let text = std::str::from_utf8(&raw[BEGIN.len()..]).ok()?;
        let members = &text[..text.find('}')?];
        let member = |name: &str| {
            let value = members.split_once(&format!("\"{name}\": "))?.1;
            Some(value.split_once(", \"").map_or(value, |(value, _)| value))
        };
        let quoted = |name: &str| member(name)?.strip_prefix('"')?.strip_suffix('"');
        let tag = quoted("tag").filter(|tag| tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':'))?;
        let told = |name: &str| quoted(name).filter(|text| !text.is_empty());
        Some(Self { tag, bytes: member("bytes")?.parse().ok()?, task: told("task"), id: told("id") })
    }

    /// Returns what a worker makes of the message: it is too large.
    pub(super) fn refused(&self, limits: &Limits) -> BadMessage {
        let reason = super::decode::too_large(self.bytes, limits);
        BadMessage { task: self.task.map(str::to_owned), id: self.id.map(str::to_owned), ..reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, MessageFault, mark_redelivered};

    fn stub(members: &str) -> Vec<u8> {
        format!(
            r#"{{"longshore-aside": {{{members}}}, "body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"task": "longshore.aside", "id": "a:1"}}, "properties": {{"delivery_info": {{}}, "delivery_tag": "a:1", "body_encoding": "base64"}}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn a_stub_says_what_lies_aside_and_stays_one_when_it_is_handed_on() {
        let raw = stub(r#""tag": "a:1", "bytes": 41943040, "task": "t.x", "id": """#);
        for raw in [raw.clone(), mark_redelivered(&raw, Some(2)).unwrap()] {
            assert_eq!(Stub::read(&raw), Some(Stub { tag: "a:1", bytes: 41_943_040, task: Some("t.x"), id: None }));
            let bad = Message::decode(&raw, &Limits::default()).unwrap_err();
            assert_eq!((bad.wrong, bad.task.as_deref(), bad.id), (MessageFault::TooLarge, Some("t.x"), None));
        }
    }

    #[test]
    fn what_only_looks_like_a_stub_is_read_as_any_other_message() {
        let rows = [
            r#""tag": "a:1""#,
            r#""tag": "../a", "bytes": 1"#,
            r#""tag": "a:1", "bytes": "1""#,
            r#""tag": "", "bytes": -1"#,
            r#""tag": 1, "bytes": 1"#,
            "",
        ];
        for members in rows {
            assert_eq!(Stub::read(&stub(members)), None, "{members}");
        }
        let good = stub(r#""tag": "a:1", "bytes": 1, "task": "", "id": """#);
        for end in 0..good.len() {
            let _ = Stub::read(&good[..end]);
        }
        assert_eq!(Stub::read(&[&good[..], &[b' '; LONGEST]].concat()), None, "too long");
    }
}

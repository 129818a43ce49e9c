//! Changes to a message that is handed back: made in its bytes, so that nothing else in it changes.

use super::{
    BadMessage, CRASHES, Wrong,
    decode::{Bad, known},
};
use crate::value::{Value, ValueError, read::Scan};

/// How often a worker died with this message, as [`mark_redelivered`] has noted it; 0 where it says nothing. Cheap for those that say nothing.
pub fn crashes_of(raw: &[u8]) -> u32 {
    if memchr::memmem::find(raw, CRASHES.as_bytes()).is_none() {
        return 0;
    }
    let mut crashes = 0;
    if let Ok(mut scan) = Scan::new(raw, usize::MAX) {
        // A message that cannot be read has no crashes that count.
        let _ = scan.object(|scan, name| {
            if known(&name) != "headers" || scan.peek() != Some(b'{') {
                return scan.skip().map(|_| ());
            }
            scan.object(|scan, name| {
                let value = scan.value()?;
                if known(&name) == CRASHES {
                    crashes = value.as_i64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
                }
                Ok(())
            })
        });
    }
    crashes
}

/// The message as it goes back to its queue: marked redelivered in both places that Celery knows, and with this number of crashes, if one is given
/// (0 is as good as none). All other bytes stay as they are.
///
/// # Errors
/// The message is no JSON object, or has no properties. Limits are not looked at.
pub fn mark_redelivered(raw: &[u8], crashes: Option<u32>) -> Result<Vec<u8>, BadMessage> {
    mark(raw, crashes).map_err(|bad| bad.of(raw))
}

fn mark(raw: &[u8], crashes: Option<u32>) -> Result<Vec<u8>, Bad> {
    let whole = Object::of(raw, 0)?;
    let mut edits = Vec::new();
    let counted = crashes.map(|crashes| crashes.to_string());
    let marks: [(&str, &str); 2] = [("redelivered", "true"), (CRASHES, counted.as_deref().unwrap_or(""))];
    let marks = &marks[..if counted.is_some() { 2 } else { 1 }];
    whole.inside(raw, "headers", marks, &mut edits)?;
    let properties = whole.member("properties").filter(|member| raw[member.from] == b'{');
    let properties = properties.ok_or_else(|| Bad(Wrong::Malformed, "the message has no properties".to_owned()))?;
    Object::of(raw, properties.from)?.inside(raw, "delivery_info", &marks[..1], &mut edits)?;
    edits.sort_by_key(|edit| edit.0);
    let mut marked = Vec::with_capacity(raw.len() + 96);
    let mut done = 0;
    for (from, to, text) in edits {
        marked.extend_from_slice(&raw[done..from]);
        marked.extend_from_slice(text.as_bytes());
        done = to;
    }
    marked.extend_from_slice(&raw[done..]);
    Ok(marked)
}

/// A replacement: from, to, by what.
type Edit = (usize, usize, String);

/// Where the members of an object stand in the raw message.
struct Object {
    members: Vec<Member>,
    /// Where its closing brace stands.
    end: usize,
}

struct Member {
    name: String,
    from: usize,
    to: usize,
}

impl Object {
    /// The object that begins here; if it is the whole message, nothing may follow.
    fn of(raw: &[u8], start: usize) -> Result<Object, Bad> {
        let mut scan = Scan::new(&raw[start..], usize::MAX)?;
        let mut members = Vec::new();
        scan.object(|scan, name| {
            scan.peek();
            let from = start + scan.at();
            scan.skip()?;
            members.push(Member { name: known(&name).to_owned(), from, to: start + scan.at() });
            Ok::<_, ValueError>(())
        })?;
        let end = start + scan.at() - 1;
        if start == 0 {
            scan.end()?;
        }
        Ok(Object { members, end })
    }

    /// The member that counts, if the name comes twice.
    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().rev().find(|member| member.name == name)
    }

    fn put(&self, name: &str, value: &str, edits: &mut Vec<Edit>) {
        match self.member(name) {
            Some(old) => edits.push((old.from, old.to, value.to_owned())),
            None => edits.push((self.end, self.end, format!("{}\"{name}\": {value}", if self.members.is_empty() { "" } else { ", " }))),
        }
    }

    /// Puts marks into the object that is this member. Where it is absent or null, there is one with nothing but the marks.
    fn inside(&self, raw: &[u8], name: &str, marks: &[(&str, &str)], edits: &mut Vec<Edit>) -> Result<(), Bad> {
        match self.member(name) {
            Some(member) if raw[member.from] == b'{' => {
                let mut object = Object::of(raw, member.from)?;
                for (mark, value) in marks {
                    object.put(mark, value, edits);
                    object.members.push(Member { name: String::new(), from: 0, to: 0 });
                }
                Ok(())
            }
            Some(member) if Value::parse(&raw[member.from..member.to], 1) != Ok(Value::Null) => {
                Err(Bad(Wrong::Malformed, format!("{name} is no object")))
            }
            _ => {
                let all: Vec<String> = marks.iter().map(|(mark, value)| format!("\"{mark}\": {value}")).collect();
                self.put(name, &format!("{{{}}}", all.join(", ")), edits);
                Ok(())
            }
        }
    }
}

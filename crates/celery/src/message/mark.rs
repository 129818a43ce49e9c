//! Changes to a message that is handed back: made in its bytes, so that nothing else in it changes.

use std::{ops::Range, sync::LazyLock};

use memchr::memmem::Finder;

use super::{
    BadMessage, CHILD_CRASHES, CRASHES, MessageFault,
    decode::{DecodeFault, known},
};
use crate::value::{ValueError, read::Scan};

/// Returns how often a worker died with this message, as [`mark_redelivered`] has noted it; 0 where
/// it says nothing. Cheap for those that say nothing.
pub fn crashes_of(raw: &[u8]) -> u32 {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(CRASHES));
    if NAME.find(raw).is_none() {
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
                let value = scan.skip()?;
                if known(&name) == CRASHES {
                    crashes = value.parse().unwrap_or(0);
                }
                Ok(())
            })
        });
    }
    crashes
}

/// The message as it goes back to its queue: marked redelivered in both places that Celery knows,
/// and with this number of crashes, if one is given (0 is as good as none). All other bytes stay as
/// they are.
///
/// # Errors
/// The message is no JSON object, or has no properties. Limits are not looked at.
pub fn mark_redelivered(raw: &[u8], crashes: Option<u32>) -> Result<Vec<u8>, BadMessage> {
    mark(raw, [crashes, None]).map_err(|bad| bad.of(raw))
}

/// The same, with both counts: of the workers, and of the children of workers, that died while they
/// ran it.
///
/// # Errors
/// As [`mark_redelivered`].
pub fn mark_crashed(raw: &[u8], crashes: u32, child_crashes: u32) -> Result<Vec<u8>, BadMessage> {
    mark(raw, [Some(crashes), Some(child_crashes)]).map_err(|bad| bad.of(raw))
}

fn mark(raw: &[u8], counts: [Option<u32>; 2]) -> Result<Vec<u8>, DecodeFault> {
    let mut scan = Scan::new(raw, usize::MAX)?;
    let (mut headers, mut properties, mut info) = (Member::Absent, Member::Absent, Member::Absent);
    let whole = object(&mut scan, |scan, name| match name {
        "headers" => member(scan, |scan| object(scan, |scan, name| marks(scan, name))).map(|found| headers = found),
        "properties" => {
            let inside = |scan: &mut Scan<'_>| {
                object(scan, |scan, name| match name {
                    "delivery_info" => member(scan, |scan| object(scan, |scan, name| marks(scan, name))).map(|found| info = found),
                    _ => scan.skip().map(|_| ()),
                })
            };
            member(scan, inside).map(|found| properties = found)
        }
        _ => scan.skip().map(|_| ()),
    })?;
    scan.end()?;
    let Member::Object(properties) = properties else {
        return Err(DecodeFault(MessageFault::Malformed, "the message has no properties".to_owned()));
    };
    let [crashes, child_crashes] = counts;
    let crashes = crashes.map(|count| (CRASHES, count.to_string()));
    let child_crashes = child_crashes.map(|count| (CHILD_CRASHES, count.to_string()));
    let redelivered = ("redelivered", "true".to_owned());
    let mut edits = Vec::new();
    headers.put("headers", &whole, [Some(&redelivered), crashes.as_ref(), child_crashes.as_ref()], &mut edits)?;
    info.put("delivery_info", &properties, [Some(&redelivered), None, None], &mut edits)?;
    // Where something is put into the same place twice, the order stays.
    edits.sort_by_key(|(place, _)| place.start);
    let mut marked = Vec::with_capacity(raw.len() + 96);
    let mut done = 0;
    for (place, text) in edits {
        marked.extend_from_slice(&raw[done..place.start]);
        marked.extend_from_slice(text.as_bytes());
        done = place.end;
    }
    marked.extend_from_slice(&raw[done..]);
    Ok(marked)
}

/// A place in the raw message, and the text that replaces it.
type Edit = (Range<usize>, String);

/// An object in the raw message.
#[derive(Default)]
struct Object {
    empty: bool,
    /// Place of its closing brace.
    end: usize,
    /// The values of the marks that it has.
    redelivered: Option<Range<usize>>,
    crashes: Option<Range<usize>>,
    child_crashes: Option<Range<usize>>,
}

/// A member of an object. The last one of a name counts.
enum Member {
    Absent,
    Null(Range<usize>),
    Object(Object),
    Other,
}

fn object<'a>(scan: &mut Scan<'a>, mut each: impl FnMut(&mut Scan<'a>, &str) -> Result<(), ValueError>) -> Result<Object, ValueError> {
    let mut object = Object { empty: true, ..Object::default() };
    scan.object(|scan, name| {
        object.empty = false;
        scan.peek();
        let from = scan.at();
        let name = known(&name);
        each(scan, name)?;
        match name {
            "redelivered" => object.redelivered = Some(from..scan.at()),
            CRASHES => object.crashes = Some(from..scan.at()),
            CHILD_CRASHES => object.child_crashes = Some(from..scan.at()),
            _ => {}
        }
        Ok(())
    })?;
    object.end = scan.at() - 1;
    Ok(object)
}

fn marks(scan: &mut Scan<'_>, _name: &str) -> Result<(), ValueError> {
    scan.skip().map(|_| ())
}

fn member<'a>(scan: &mut Scan<'a>, read: impl FnOnce(&mut Scan<'a>) -> Result<Object, ValueError>) -> Result<Member, ValueError> {
    if scan.peek() == Some(b'{') {
        return read(scan).map(Member::Object);
    }
    let from = scan.at();
    Ok(if scan.skip()? == "null" { Member::Null(from..scan.at()) } else { Member::Other })
}

impl Member {
    /// Puts marks into this member of an object. Where it is absent or null, there is one with
    /// nothing but the marks.
    fn put(&self, name: &str, around: &Object, marks: [Option<&(&str, String)>; 3], edits: &mut Vec<Edit>) -> Result<(), DecodeFault> {
        let mut added = Vec::new();
        for (mark, value) in marks.into_iter().flatten() {
            let old = match self {
                Member::Object(object) => match *mark {
                    CRASHES => object.crashes.as_ref(),
                    CHILD_CRASHES => object.child_crashes.as_ref(),
                    _ => object.redelivered.as_ref(),
                },
                _ => None,
            };
            match old {
                Some(old) => edits.push((old.clone(), value.clone())),
                None if value == "0" => {}
                None => added.push(format!("\"{mark}\": {value}")),
            }
        }
        let added = added.join(", ");
        let comma = |empty: bool| if empty { "" } else { ", " };
        match self {
            Member::Object(_) if added.is_empty() => {}
            Member::Object(object) => edits.push((object.end..object.end, format!("{}{added}", comma(object.empty)))),
            Member::Null(null) => edits.push((null.clone(), format!("{{{added}}}"))),
            Member::Absent => edits.push((around.end..around.end, format!("{}\"{name}\": {{{added}}}", comma(around.empty)))),
            Member::Other => return Err(DecodeFault(MessageFault::Malformed, format!("{name} is no object"))),
        }
        Ok(())
    }
}

//! The document of a result: JSON, member by member in the order in which Celery writes it.

use super::{Extended, TaskResult};
use crate::{
    message::{inflate_up_to, times},
    value::{Fault, MOST_DEPTH, Map, Value, ValueError, write},
};

/// Beginning of a compressed document: this, the content type, a zero byte.
const COMPRESSED: &[u8] = b"\0celery-compressed\0";

impl TaskResult {
    /// Writes the document.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"status\": ");
        write::text(self.state.as_str(), &mut out);
        out.extend_from_slice(b", \"result\": ");
        self.result.write(&mut out);
        text(", \"traceback\": ", self.traceback.as_deref(), &mut out);
        out.extend_from_slice(b", \"children\": ");
        self.children.write(&mut out);
        text(", \"date_done\": ", self.date_done.map(times::format).as_deref(), &mut out);
        for (name, id) in [(", \"group_id\": ", &self.group_id), (", \"parent_id\": ", &self.parent_id)] {
            if id.is_some() {
                text(name, id.as_deref(), &mut out);
            }
        }
        if let Some(extended) = &self.extended {
            extended.write(&mut out);
        }
        text(", \"task_id\": ", Some(&self.task_id), &mut out);
        members(&self.rest, &mut out);
        out.push(b'}');
        out
    }

    /// Reads a document, compressed or not. Only its status is needed; what is of a wrong type
    /// otherwise is taken for absent.
    ///
    /// # Errors
    /// It is no JSON object with a status, deeper than 512 levels, or (unpacked) longer than
    /// `limit` bytes.
    pub fn decode(document: &[u8], limit: usize) -> Result<TaskResult, ValueError> {
        let Value::Map(mut map) = parse(document, limit)? else {
            return Err(ValueError::new("expected the document of a result (an object)"));
        };
        let mut take = |name: &str| map.remove_all(name);
        let Some(Value::Text(state)) = take("status") else {
            return Err(ValueError::new("a result without a status"));
        };
        let mut result = TaskResult {
            task_id: string(take("task_id")).unwrap_or_default(),
            state: state.as_str().into(),
            result: take("result").unwrap_or_default(),
            traceback: string(take("traceback")),
            children: take("children").unwrap_or_default(),
            date_done: string(take("date_done")).and_then(|iso| times::parse(&iso)),
            group_id: string(take("group_id")),
            parent_id: string(take("parent_id")),
            ..TaskResult::default()
        };
        if ["name", "worker", "queue"].iter().any(|name| map.get(name).is_some()) {
            result.extended = Some(Extended::take(&mut map));
        }
        result.rest = map;
        Ok(result)
    }
}

impl Extended {
    /// Returns whether it says no more than who ran what from which queue: then the document has no
    /// members for the rest.
    fn is_brief(&self) -> bool {
        self.args == Value::Null && self.kwargs == Value::Null && self.retries.is_none() && self.stamps.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        text(", \"name\": ", self.name.as_deref(), out);
        let is_brief = self.is_brief();
        if !is_brief {
            out.extend_from_slice(b", \"args\": ");
            self.args.write(out);
            out.extend_from_slice(b", \"kwargs\": ");
            self.kwargs.write(out);
        }
        text(", \"worker\": ", self.worker.as_deref(), out);
        if !is_brief {
            out.extend_from_slice(b", \"retries\": ");
            Value::from(self.retries).write(out);
        }
        text(", \"queue\": ", self.queue.as_deref(), out);
        if !self.stamps.is_empty() {
            out.extend_from_slice(b", \"stamped_headers\": ");
            write::list(&self.stamps.0, out, |(name, _), out| write::text(name, out));
            members(&self.stamps, out);
        }
    }

    fn take(map: &mut Map) -> Self {
        let mut extended = Extended {
            name: string(map.remove_all("name")),
            args: map.remove_all("args").unwrap_or_default(),
            kwargs: map.remove_all("kwargs").unwrap_or_default(),
            worker: string(map.remove_all("worker")),
            retries: map.remove_all("retries").and_then(|retries| retries.as_i64()),
            queue: string(map.remove_all("queue")),
            stamps: Map::default(),
        };
        for name in map.remove_all("stamped_headers").as_ref().and_then(Value::as_list).unwrap_or_default() {
            if let Some(name) = name.as_str()
                && let Some(stamp) = map.remove_all(name)
            {
                extended.stamps.0.push((name.to_owned(), stamp));
            }
        }
        extended
    }
}

/// The JSON of a stored document, which may be compressed.
pub(super) fn parse(document: &[u8], limit: usize) -> Result<Value, ValueError> {
    let too_long =
        || ValueError { fault: Fault::Deep, ..ValueError::new(format!("the document has more than the {limit} bytes that are accepted")) };
    if document.len() > limit {
        return Err(too_long());
    }
    let Some(packed) = document.strip_prefix(COMPRESSED) else { return Value::parse(document, MOST_DEPTH) };
    let end = memchr::memchr(0, packed).ok_or_else(|| ValueError::syntax("a compressed document that does not say how"))?;
    let how = String::from_utf8_lossy(&packed[..end]);
    let zstd = match &*how {
        "application/x-gzip" => false,
        "application/zstd" => true,
        other => return Err(ValueError::syntax(format!("a document compressed as {other:?}; zlib and zstd can be read"))),
    };
    let unpacked = inflate_up_to(&packed[end + 1..], zstd, limit).map_err(|error| match error {
        Some(error) => ValueError::syntax(format!("a document that is not what its compression {how} says: {error}")),
        None => too_long(),
    })?;
    Value::parse(&unpacked, MOST_DEPTH)
}

fn string(value: Option<Value>) -> Option<String> {
    if let Some(Value::Text(text)) = value { Some(text) } else { None }
}

fn text(name: &str, text: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    match text {
        Some(text) => write::text(text, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn members(map: &Map, out: &mut Vec<u8>) {
    for (name, value) in map.iter() {
        out.extend_from_slice(b", ");
        write::text(name, out);
        out.extend_from_slice(b": ");
        value.write(out);
    }
}

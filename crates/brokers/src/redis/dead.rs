//! Dead letters: one list a queue, the latest first.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use longshore_celery::{Map, Stub, Value};

use super::layout::Layout;
use crate::halves::DeadLetter;

/// The most that a queue keeps; the oldest go, and are counted.
pub(super) const MOST: u64 = 10_000;

/// Writes one as it stands in its list: an object with `key`, `reason`, `at` (seconds since 1970),
/// `crashes` and `raw` (base64). Where that is a stub, the key of what lies aside stands first
/// (`aside`), so that it goes with the letter.
pub(super) fn encode(layout: &Layout, reason: &str, crashes: u32, raw: &[u8]) -> Vec<u8> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut entry = Map::default();
    if let Some(stub) = Stub::read(raw) {
        entry.set("aside", layout.aside(stub.tag));
    }
    entry.set("key", uuid::Uuid::new_v4().simple().to_string());
    entry.set("reason", reason);
    entry.set("at", at);
    entry.set("crashes", i64::from(crashes));
    entry.set("raw", "");
    let mut entry = Value::Map(entry).to_json();
    // The message is put in between the last quotes: in base64 nothing has to be escaped.
    let end = entry.split_off(entry.len() - 2);
    let from = entry.len();
    entry.resize(from + base64::encoded_len(raw.len(), true).unwrap_or(0), 0);
    let written = STANDARD.encode_slice(raw, &mut entry[from..]).unwrap_or(0);
    entry.truncate(from + written);
    entry.extend(end);
    entry
}

/// Reads a dead letter; `None` where it is no entry of ours.
pub(super) fn decode(queue: &str, entry: &[u8]) -> Option<DeadLetter> {
    let entry = Value::parse(entry, 2).ok()?;
    let text = |name: &str| entry.get(name)?.as_str();
    Some(DeadLetter {
        key: text("key")?.to_owned(),
        queue: queue.to_owned(),
        at: UNIX_EPOCH + Duration::try_from_secs_f64(entry.get("at")?.as_f64()?).ok()?,
        reason: text("reason")?.to_owned(),
        crashes: u32::try_from(entry.get("crashes")?.as_i64()?).ok()?,
        raw: STANDARD.decode(text("raw")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new(&super::super::url::Config::parse("redis://here").unwrap())
    }

    #[test]
    fn a_dead_letter_comes_back_as_it_went() {
        let letter = decode("q", &encode(&layout(), "it \"died\"\n", 3, b"\xff raw")).unwrap();
        assert_eq!(
            (letter.queue.as_str(), letter.reason.as_str(), letter.crashes, letter.raw.as_slice()),
            ("q", "it \"died\"\n", 3, &b"\xff raw"[..])
        );
        assert!(SystemTime::now().duration_since(letter.at).unwrap() < Duration::from_secs(60));
        assert_eq!(decode("q", b"{}"), None);
    }
}

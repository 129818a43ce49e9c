//! All that is kept of schedules, as the text of one message. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use longshore_celery::Value;
use serde::{Deserialize, Serialize};

use crate::{
    halves::{ScheduleRow, SchedulerName},
    schedule_rows::ScheduleRows,
};

/// Format that is written. A book of a later one is not ours to change.
const FORMAT: u32 = 1;
/// Deepest nesting of its JSON; what a schedule says is a text in it.
const DEPTH: usize = 8;

/// Schedules, and who leads.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Book {
    /// Number of times that it was written: of two the one with the larger number holds.
    pub(super) turn: u64,
    /// The scheduler that took the lead last, if it has not left.
    pub(super) leader: Option<SchedulerName>,
    pub(super) all: ScheduleRows,
}

#[derive(Serialize, Deserialize)]
struct BookText {
    format: u32,
    turn: u64,
    version: u64,
    leader: Option<(String, String)>,
    schedules: BTreeMap<String, RowText>,
}

/// One schedule; times in milliseconds since 1970.
#[derive(Serialize, Deserialize)]
struct RowText {
    spec: String,
    since: u64,
    last: Option<u64>,
    sent: Option<u64>,
    fired: u64,
    paused: Option<(String, u64)>,
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a time, of a number that may be anything.
fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Book {
    /// Writes it.
    ///
    /// # Errors
    /// It says something that is no text.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let row = |row: &ScheduleRow| {
            let spec = String::from_utf8(row.spec.clone()).map_err(|_| format!("what schedule {} says is no text", row.name))?;
            let paused = row.paused.as_ref().map(|(by, at)| (by.clone(), millis(*at)));
            let (last, sent) = (row.last.map(millis), row.sent.map(millis));
            Ok((row.name.clone(), RowText { spec, since: millis(row.since), last, sent, fired: row.fired, paused }))
        };
        let leader = self.leader.as_ref().map(|leader| (leader.token.clone(), leader.node.clone()));
        let schedules = self.all.rows.values().map(row).collect::<Result<_, String>>()?;
        let text = BookText { format: FORMAT, turn: self.turn, version: self.all.version, leader, schedules };
        Value::from_serialize(&text).map(|value| value.to_json()).map_err(|error| error.to_string())
    }

    /// Reads one. `None`: it is none.
    ///
    /// # Errors
    /// It is of a later longshore.
    pub(super) fn decode(json: &[u8]) -> Result<Option<Self>, String> {
        let Ok(value) = Value::parse(json, DEPTH) else { return Ok(None) };
        if let Some(format) = value.get("format").and_then(Value::as_i64).filter(|format| *format > i64::from(FORMAT)) {
            return Err(format!("its schedules are written in format {format}, of a later longshore; this one reads {FORMAT}"));
        }
        let Ok(text) = value.to::<BookText>() else { return Ok(None) };
        let row = |(name, row): (String, RowText)| {
            let paused = row.paused.map(|(by, at)| (by, time(at)));
            let (last, sent) = (row.last.map(time), row.sent.map(time));
            let row = ScheduleRow {
                name: name.clone(),
                spec: row.spec.into_bytes(),
                since: time(row.since),
                last,
                sent,
                fired: row.fired,
                paused,
            };
            (name, row)
        };
        let leader = text.leader.map(|(token, node)| SchedulerName { token, node });
        let all = ScheduleRows { rows: text.schedules.into_iter().map(row).collect(), version: text.version };
        Ok(Some(Self { turn: text.turn, leader, all }))
    }

    /// Returns the one that holds of those that were found, and how many could not be read.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub(super) fn newest<'a>(found: impl IntoIterator<Item = &'a [u8]>) -> Result<(Option<Self>, usize), String> {
        let (mut newest, mut unread): (Option<Self>, usize) = (None, 0);
        for json in found {
            match Self::decode(json)? {
                None => unread += 1,
                Some(book) if newest.as_ref().is_none_or(|newest| book.turn >= newest.turn) => newest = Some(book),
                Some(_) => {}
            }
        }
        Ok((newest, unread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(turn: u64) -> Book {
        let mut book =
            Book { turn, leader: Some(SchedulerName { token: "t".to_owned(), node: "n@ä \"h\"".to_owned() }), ..Book::default() };
        book.all.put("a b: \u{0}", b"{\"x\": [[[[[[[[[[1]]]]]]]]]]}", time(1_780_000_000_007));
        book.all.put("b", "ä".as_bytes(), time(1));
        book.all.pause("b", Some("me"), time(2));
        if let Some(row) = book.all.rows.get_mut("b") {
            (row.last, row.sent, row.fired) = (Some(time(3)), Some(time(4)), 5);
        }
        book
    }

    #[test]
    fn what_is_written_is_read() {
        for book in [Book::default(), book(7)] {
            assert_eq!(Book::decode(&book.encode().unwrap()), Ok(Some(book)));
        }
    }

    #[test]
    fn of_several_the_one_that_was_written_last_holds_and_junk_is_counted() {
        let texts = [book(7).encode().unwrap(), Book::default().encode().unwrap(), b"{}".to_vec(), Vec::new(), book(6).encode().unwrap()];
        assert_eq!(Book::newest(texts.iter().map(Vec::as_slice)), Ok((Some(book(7)), 2)));
        assert_eq!(Book::newest([&b"[1"[..]]), Ok((None, 1)));
        // A number that no clock has is no end of the program.
        let odd = format!(
            r#"{{"format": 1, "turn": 1, "version": 1, "leader": null, "schedules": {{"a": {{"spec": "", "since": {}, "last": null, "sent": null, "fired": 0, "paused": null}}}}}}"#,
            u64::MAX
        );
        assert!(Book::newest([odd.as_bytes()]).is_ok());
    }

    #[test]
    fn a_book_of_a_later_longshore_is_not_ours_to_change() {
        let later = br#"{"format": 2, "turn": 9}"#;
        assert!(Book::newest([&later[..]]).unwrap_err().contains("later longshore"));
    }
}

//! Results and chords in an SQLite file.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    broker::Broker,
    error::BrokerError,
    json,
    results::{CHORD_CLAIM, ChordPart, Key, Page, PartState, ResultBackend, Stored, Watch},
    sqlite::{Sqlite, Step, bus, millis, now},
};

/// Milliseconds for which a chord is remembered whose body was sent.
const OVER: i64 = 300_000;
/// The life of a chord that nobody has started yet.
const DAY: i64 = 86_400_000;
/// Number of documents that are shown at a time.
const PAGE: u32 = 100;
const TASK: &str = "celery-task-meta-";

/// Returns the name of a document in the file: as Celery would call it.
pub(crate) fn name(key: &Key) -> String {
    match key {
        Key::Task(id) => format!("{TASK}{id}"),
        Key::Group(id) => format!("celery-taskset-meta-{id}"),
        Key::Message(id) => format!("longshore-message-{id}"),
    }
}

/// Returns the task whose result has this name.
pub(crate) fn task(name: &str) -> Option<&str> {
    name.strip_prefix(TASK)
}

pub(crate) fn store(step: &mut Step<'_>, batch: &[Stored]) -> rusqlite::Result<()> {
    for stored in batch {
        let key = name(&stored.key);
        if stored.keep_success {
            let mut old = step.conn.prepare_cached("SELECT doc FROM results WHERE key = ?1 AND (expires IS NULL OR expires > ?2)")?;
            let old: Option<Vec<u8>> = old.query_row(params![key, now()], |row| row.get(0)).optional()?;
            if old.is_some_and(|doc| json::is_success(&doc)) {
                continue;
            }
        }
        let expires = stored.expires.map(|expires| now().saturating_add(millis(expires)));
        // A new row, with a new number: that is what watchers look for.
        let mut insert = step.conn.prepare_cached("INSERT OR REPLACE INTO results(key, expires, doc) VALUES (?1, ?2, ?3)")?;
        insert.execute(params![key, expires, stored.doc])?;
        step.wake = true;
    }
    Ok(())
}

pub(crate) fn get(conn: &Connection, keys: &[Key]) -> rusqlite::Result<Vec<Option<Vec<u8>>>> {
    let mut get = conn.prepare_cached("SELECT doc FROM results WHERE key = ?1 AND (expires IS NULL OR expires > ?2)")?;
    let now = now();
    keys.iter().map(|key| get.query_row(params![name(key), now], |row| row.get(0)).optional()).collect()
}

/// Returns what is stored of tasks before this row, the latest first.
fn page(conn: &Connection, before: i64) -> rusqlite::Result<Page> {
    // A prefix of the key is a range of it; the rows are read in the order of their numbers all the
    // same.
    let mut rows = conn.prepare_cached(
        "SELECT id, key, doc FROM results WHERE id < ?1 AND key GLOB 'celery-task-meta-*' AND (expires IS NULL OR expires > ?2)
         ORDER BY id DESC LIMIT ?3",
    )?;
    let rows = rows.query_map(params![before, now(), PAGE], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get(2)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let next = rows.last().filter(|_| rows.len() >= PAGE as usize).map(|(id, ..)| id.to_string());
    Ok(Page { results: rows.into_iter().filter_map(|(_, key, doc)| Some((task(&key)?.to_owned(), doc))).collect(), next })
}

fn forget(conn: &Connection, keys: &[Key]) -> rusqlite::Result<u64> {
    let mut forget = conn.prepare_cached("DELETE FROM results WHERE key = ?1 RETURNING expires IS NULL OR expires > ?2")?;
    let mut count = 0;
    for key in keys {
        count += u64::from(forget.query_row(params![name(key), now()], |row| row.get(0)).optional()?.unwrap_or(false));
    }
    Ok(count)
}

/// Makes the chord's row if it is not there; one that has expired is made anew.
fn chord(conn: &Connection, group: &str) -> rusqlite::Result<()> {
    let now = now();
    if conn.prepare_cached("DELETE FROM chords WHERE group_id = ?1 AND expires <= ?2")?.execute(params![group, now])? > 0 {
        conn.prepare_cached("DELETE FROM chord_parts WHERE group_id = ?1")?.execute([group])?;
    }
    conn.prepare_cached("INSERT OR IGNORE INTO chords(group_id, expires) VALUES (?1, ?2)")?.execute(params![group, now + DAY])?;
    Ok(())
}

fn start(conn: &Connection, group: &str, size: u64, expires: Duration) -> rusqlite::Result<()> {
    chord(conn, group)?;
    let start = "UPDATE chords SET size = ?2, expires = ?3, token = NULL, token_until = NULL, over = 0 WHERE group_id = ?1";
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    conn.prepare_cached(start)?.execute(params![group, size, now().saturating_add(millis(expires))])?;
    Ok(())
}

/// Counts a part; the last one has the right to send the body.
pub(crate) fn part(conn: &Connection, part: &ChordPart) -> rusqlite::Result<PartState> {
    chord(conn, &part.group)?;
    let mut row = conn.prepare_cached("SELECT over, size + grown, token, token_until FROM chords WHERE group_id = ?1")?;
    let (over, all, token, until): (bool, Option<i64>, Option<String>, Option<i64>) =
        row.query_row([&part.group], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let mut insert = conn.prepare_cached("INSERT OR IGNORE INTO chord_parts(group_id, task_id, place, member) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![part.group, part.id, part.index.unwrap_or(-1), part.member])?;
    let now = now();
    let lives = now.saturating_add(millis(part.expires));
    conn.prepare_cached("UPDATE chords SET expires = ?2 WHERE group_id = ?1")?.execute(params![part.group, lives])?;
    // Noted all the same: the chord may be on its way again, and is begun anew just before the last
    // of its tasks is sent.
    if over {
        return Ok(PartState::Over);
    }
    let Some(all) = all else { return Ok(PartState::Waiting) };
    let told: i64 =
        conn.prepare_cached("SELECT count(*) FROM chord_parts WHERE group_id = ?1")?.query_row([&part.group], |row| row.get(0))?;
    let free = until.is_none_or(|until| until <= now) || token.as_ref() == Some(&part.token);
    if told < all || !free {
        return Ok(PartState::Waiting);
    }
    let claim = "UPDATE chords SET token = ?2, token_until = ?3 WHERE group_id = ?1";
    conn.prepare_cached(claim)?.execute(params![part.group, part.token, now + millis(CHORD_CLAIM)])?;
    Ok(PartState::Ours { token: part.token.clone() })
}

fn parts(conn: &Connection, group: &str) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut parts = conn.prepare_cached("SELECT member FROM chord_parts WHERE group_id = ?1 ORDER BY place < 0, place, member")?;
    parts.query_map([group], |row| row.get(0))?.collect()
}

fn extend(conn: &Connection, group: &str, token: &str, by: Duration) -> rusqlite::Result<bool> {
    let extend = "UPDATE chords SET token_until = ?4 WHERE group_id = ?1 AND token = ?2 AND token_until > ?3";
    let now = now();
    Ok(conn.prepare_cached(extend)?.execute(params![group, token, now, now.saturating_add(millis(by))])? > 0)
}

fn over(conn: &Connection, group: &str, token: &str) -> rusqlite::Result<bool> {
    let now = now();
    let over = "UPDATE chords SET over = 1, size = NULL, grown = 0, token = NULL, token_until = NULL, expires = ?4
        WHERE group_id = ?1 AND token = ?2 AND token_until > ?3";
    let ours = conn.prepare_cached(over)?.execute(params![group, token, now, now + OVER])? > 0;
    if ours {
        conn.prepare_cached("DELETE FROM chord_parts WHERE group_id = ?1")?.execute([group])?;
    }
    Ok(ours)
}

impl ResultBackend for Sqlite {
    fn url(&self) -> &str {
        Broker::url(self)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        Broker::ping(self)
    }

    fn store<'a>(&'a self, batch: &'a [Stored]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let batch = batch.to_vec();
        self.0.write(move |step| store(step, &batch)).boxed()
    }

    fn get<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        let keys = keys.to_vec();
        self.0.read(move |conn| get(conn, &keys)).boxed()
    }

    fn forget<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64, BrokerError>> {
        let keys = keys.to_vec();
        self.0.write(move |step| forget(step.conn, &keys)).boxed()
    }

    fn page<'a>(&'a self, from: Option<&'a str>) -> BoxFuture<'a, Result<Page, BrokerError>> {
        let from = from.and_then(|from| from.parse().ok()).unwrap_or(i64::MAX);
        self.0.look_through(move |conn| page(conn, from)).boxed()
    }

    fn watch<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Watch, BrokerError>> {
        bus::watch(&self.0.shared, ids).boxed()
    }

    fn chord_start<'a>(&'a self, group: &'a str, size: u64, expires: Duration) -> BoxFuture<'a, Result<(), BrokerError>> {
        let group = group.to_owned();
        self.0.write(move |step| start(step.conn, &group, size, expires)).boxed()
    }

    fn chord_part<'a>(&'a self, told: &'a ChordPart) -> BoxFuture<'a, Result<PartState, BrokerError>> {
        let told = told.clone();
        self.0.write(move |step| part(step.conn, &told)).boxed()
    }

    fn chord_parts<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        let group = group.to_owned();
        self.0.read(move |conn| parts(conn, &group)).boxed()
    }

    fn chord_extend<'a>(&'a self, group: &'a str, token: &'a str, by: Duration) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let (group, token) = (group.to_owned(), token.to_owned());
        self.0.write(move |step| extend(step.conn, &group, &token, by)).boxed()
    }

    fn chord_over<'a>(&'a self, group: &'a str, token: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        let (group, token) = (group.to_owned(), token.to_owned());
        self.0.write(move |step| over(step.conn, &group, &token)).boxed()
    }

    fn chord_grow<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        let group = group.to_owned();
        let grow = move |step: &mut Step<'_>| {
            chord(step.conn, &group)?;
            step.conn.prepare_cached("UPDATE chords SET grown = grown + 1 WHERE group_id = ?1")?.execute([&group]).map(drop)
        };
        self.0.write(grow).boxed()
    }
}

//! Lists of what lies in the file, for people: a look takes nothing.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    count,
    queues::{now, time},
};
use crate::{
    broker::QueueState,
    ends::Looked,
    halves::{Doing, Found},
    json,
};

/// Selects what waits, the next one first; what is due waits, whether or not anybody was there to
/// see it.
const WAITING: &str = "SELECT raw FROM (
     SELECT * FROM (SELECT priority, place, id FROM messages WHERE queue = ?1 AND owner IS NULL AND due IS NULL
         ORDER BY priority, place, id LIMIT ?3)
     UNION ALL SELECT * FROM (SELECT priority, place, id FROM messages WHERE queue = ?1 AND owner IS NULL AND due <= ?2
         ORDER BY priority, place, id LIMIT ?3)) AS next
         JOIN messages USING (id) ORDER BY next.priority, next.place, next.id LIMIT ?3";

fn waiting(conn: &Connection, queue: &str, most: i64) -> rusqlite::Result<Vec<Vec<u8>>> {
    conn.prepare_cached(WAITING)?.query_map(params![queue, now(), most], |row| row.get(0))?.collect()
}

pub(crate) fn peek(conn: &Connection, queue: &str, most: usize) -> rusqlite::Result<Vec<Vec<u8>>> {
    waiting(conn, queue, i64::try_from(most).unwrap_or(i64::MAX))
}

/// Looks for these words in the ends of what waits.
pub(crate) fn look_ahead(conn: &Connection, queue: &str, most: usize, words: &[&[u8]]) -> rusqlite::Result<bool> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut next = conn.prepare_cached(WAITING)?;
    let (mut rows, mut looked) = (next.query(params![queue, now(), most])?, Looked::default());
    while looked.goes_on()
        && let Some(row) = rows.next()?
    {
        if row.get_ref(0)?.as_bytes().is_ok_and(|raw| looked.finds(raw, words)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns what is held back in these queues, the soonest first.
pub(crate) fn later(conn: &Connection, names: &[Arc<str>], most: usize) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut later = conn.prepare_cached("SELECT queue, raw FROM messages WHERE owner IS NULL AND due > ?1 ORDER BY due, id")?;
    let mut rows = later.query([now()])?;
    let mut found = Vec::new();
    while found.len() < most
        && let Some(row) = rows.next()?
    {
        let queue = row.get_ref(0)?.as_str()?;
        if names.iter().any(|name| **name == *queue) {
            found.push(row.get(1)?);
        }
    }
    Ok(found)
}

/// Returns what these queues look like at one moment; no names ask for all that are known.
pub(crate) fn states(conn: &Connection, names: &[Arc<str>]) -> rusqlite::Result<Vec<QueueState>> {
    let moment = conn.unchecked_transaction()?;
    let known = if names.is_empty() { names_of(&moment)? } else { names.to_vec() };
    let ready = count::ready(&moment, &known)?;
    let states = known.iter().zip(ready).map(|(name, ready)| state(&moment, name, ready)).collect();
    moment.finish()?;
    states
}

/// Returns the queues that are known.
fn names_of(conn: &Connection) -> rusqlite::Result<Vec<Arc<str>>> {
    let mut all = conn.prepare_cached("SELECT name FROM queues UNION SELECT queue FROM paused UNION SELECT queue FROM dead ORDER BY 1")?;
    all.query_map([], |row| row.get(0))?.collect()
}

/// Time of the first message that waits in a queue. Of each priority and place the first has waited
/// for longest, or (where messages were moved here) the last: a look at all costs half a second for
/// each million.
const OLDEST: &str =
    "WITH priorities(priority) AS (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)), places(place) AS (VALUES (0), (1))
    SELECT min(
        ifnull((SELECT sent FROM messages INDEXED BY messages_waiting
            WHERE queue = ?1 AND priority = priorities.priority AND place = places.place AND owner IS NULL AND due IS NULL
            ORDER BY id LIMIT 1), 9223372036854775807),
        ifnull((SELECT sent FROM messages INDEXED BY messages_waiting
            WHERE queue = ?1 AND priority = priorities.priority AND place = places.place AND owner IS NULL AND due IS NULL
            ORDER BY id DESC LIMIT 1), 9223372036854775807)) AS oldest
    FROM priorities, places ORDER BY oldest LIMIT 1";

/// Returns what a queue looks like in which so many are ready.
fn state(conn: &Connection, name: &str, ready: u64) -> rusqlite::Result<QueueState> {
    let now = now();
    let count = |sql: &str| conn.prepare_cached(sql)?.query_row(params![name, now], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
    // Each counts both parameters in, so that one closure serves all.
    let overdue = count("SELECT count(*) FROM messages WHERE queue = ?1 AND owner IS NULL AND due <= ?2")?;
    let oldest: Option<i64> = conn.prepare_cached(OLDEST)?.query_row([name], |row| row.get(0))?;
    let paused: Option<(String, i64)> = conn
        .prepare_cached("SELECT by, since FROM paused WHERE queue = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(QueueState {
        name: name.to_owned(),
        waiting: ready + overdue,
        held: count("SELECT count(*) FROM messages WHERE queue = ?1 AND owner IS NOT NULL AND ?2 > 0")?,
        // A message is lent when it is due, not before.
        consumers: None,
        held_for_later: 0,
        later: count("SELECT count(*) FROM messages WHERE queue = ?1 AND owner IS NULL AND due > ?2")?,
        dead: count("SELECT count(*) FROM dead WHERE queue = ?1 AND ?2 > 0")?,
        dead_dropped: 0,
        oldest: oldest.filter(|sent| *sent < i64::MAX).map(|sent| Duration::from_millis(now.saturating_sub(sent).try_into().unwrap_or(0))),
        oldest_at_least: false,
        idle_since: None,
        paused_since: paused.as_ref().map(|(_, since)| time(*since)),
        paused: paused.map(|(by, _)| by),
    })
}

pub(crate) fn find(conn: &Connection, id: &str) -> rusqlite::Result<Vec<Found>> {
    // The text may stand anywhere in a message; whether it is the id is looked at afterwards.
    let is = |raw: &[u8]| json::task_id(raw) == Some(id);
    let mut found = Vec::new();
    let mut messages = conn.prepare_cached(
        "SELECT queue, due, owner IS NOT NULL, node, held_since, raw, sent FROM messages LEFT JOIN owners ON owner = number WHERE instr(raw, ?1) ORDER BY id",
    )?;
    let mut rows = messages.query([id.as_bytes()])?;
    while let Some(row) = rows.next()? {
        let (queue, raw): (String, Vec<u8>) = (row.get(0)?, row.get(5)?);
        if !is(&raw) {
            continue;
        }
        let doing = if row.get(2)? {
            Doing::Held { by: row.get(3)?, since: row.get::<_, Option<i64>>(4)?.map(time) }
        } else {
            match row.get::<_, Option<i64>>(1)? {
                Some(due) if due > now() => Doing::Later { due: time(due) },
                _ => {
                    let line = waiting(conn, &queue, i64::MAX)?;
                    let place = line.iter().position(|other| *other == raw).map_or(0, |at| at as u64 + 1);
                    Doing::Waiting { place, of: line.len() as u64, since: Some(time(row.get(6)?)) }
                }
            }
        };
        found.push(Found { queue, doing, raw });
    }
    let mut dead = conn.prepare_cached("SELECT queue, reason, raw FROM dead WHERE instr(raw, ?1) ORDER BY id")?;
    let letters = dead
        .query_map([id.as_bytes()], |row| Ok(Found { queue: row.get(0)?, doing: Doing::Dead { reason: row.get(1)? }, raw: row.get(2)? }))?;
    for letter in letters {
        found.extend(Some(letter?).filter(|letter| is(&letter.raw)));
    }
    Ok(found)
}

/// Lists what is lent, what waits and what is held back, up to `most` of each in each queue.
pub(crate) fn list(conn: &Connection, queue: Option<&str>, most: usize) -> rusqlite::Result<Vec<Found>> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let names = queue.map_or_else(|| names_of(conn), |name| Ok(vec![name.into()]))?;
    let mut held = conn.prepare_cached(
        "SELECT node, held_since, raw FROM messages JOIN owners ON owner = number WHERE queue = ?1 ORDER BY held_since, id LIMIT ?2",
    )?;
    let mut later =
        conn.prepare_cached("SELECT due, raw FROM messages WHERE queue = ?1 AND owner IS NULL AND due > ?3 ORDER BY due, id LIMIT ?2")?;
    let mut found = Vec::new();
    for QueueState { name: queue, waiting: of, .. } in states(conn, &names)? {
        let lent = held.query_map(params![queue, limit], |row| {
            let doing = Doing::Held { by: row.get(0)?, since: row.get::<_, Option<i64>>(1)?.map(time) };
            Ok(Found { queue: queue.clone(), doing, raw: row.get(2)? })
        })?;
        found.extend(lent.collect::<rusqlite::Result<Vec<_>>>()?);
        let line = (1_u64..).zip(waiting(conn, &queue, limit)?);
        let waits = |place: u64| Doing::Waiting { place, of: of.max(place), since: None };
        found.extend(line.map(|(place, raw)| Found { queue: queue.clone(), doing: waits(place), raw }));
        let back = later.query_map(params![queue, limit, now()], |row| {
            Ok(Found { queue: queue.clone(), doing: Doing::Later { due: time(row.get(0)?) }, raw: row.get(1)? })
        })?;
        found.extend(back.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(found)
}

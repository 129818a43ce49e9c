//! State that all workers share beside messages: the slots of rates, and the ids that are called
//! off.

use std::{collections::HashSet, time::Duration};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    queues::{millis, now},
    writer::Step,
};
use crate::{
    halves::{LimitState, MOST_REVOKED, REVOKED_FOR},
    json,
    rates::{self, Bucket, Slot},
};

/// Most messages that are looked through for those that are called off before their time.
const LOOKED_THROUGH: i64 = 100_000;

pub(crate) fn reserve(step: &mut Step<'_>, limit: &str, bucket: Bucket, count: usize) -> rusqlite::Result<Vec<Slot>> {
    let bucket = set_for(step.conn, limit)?.unwrap_or(bucket);
    let next = step.conn.prepare_cached("SELECT next FROM rates WHERE name = ?1")?.query_row([limit], |row| row.get(0)).optional()?;
    let (next, slots) = bucket.reserve(u64::try_from(next.unwrap_or(0_i64)).unwrap_or(0), rates::now(), count);
    step.conn.prepare_cached("INSERT OR REPLACE INTO rates(name, next) VALUES (?1, ?2)")?.execute(params![limit, next.cast_signed()])?;
    Ok(slots)
}

/// Returns what was set for the limit of this bucket.
fn set_for(conn: &Connection, name: &str) -> rusqlite::Result<Option<Bucket>> {
    let mut set = conn.prepare_cached("SELECT interval, span FROM limits WHERE name = ?1")?;
    set.query_row([rates::limit_of(name)], |row| Ok(Bucket::stored(number(row.get(0)?), number(row.get(1)?)))).optional()
}

fn number(stored: i64) -> u64 {
    stored.try_into().unwrap_or(0)
}

pub(crate) fn set_limit(step: &mut Step<'_>, limit: &str, bucket: Option<Bucket>) -> rusqlite::Result<()> {
    match bucket {
        Some(Bucket { interval, span }) => step.conn.execute(
            "INSERT OR REPLACE INTO limits(name, interval, span) VALUES (?1, ?2, ?3)",
            params![limit, interval.cast_signed(), span.cast_signed()],
        )?,
        None => step.conn.execute("DELETE FROM limits WHERE name = ?1", [limit])?,
    };
    Ok(())
}

pub(crate) fn limits(conn: &Connection) -> rusqlite::Result<Vec<LimitState>> {
    let now = rates::now();
    let mut known = conn.prepare_cached(
        "SELECT name, next FROM rates WHERE next > ?1 UNION ALL SELECT name, 0 FROM limits
         WHERE name NOT IN (SELECT name FROM rates WHERE next > ?1) ORDER BY 1",
    )?;
    let known = known.query_map([now.cast_signed()], |row| Ok((row.get::<_, String>(0)?, number(row.get(1)?))))?;
    known
        .map(|row| {
            let (name, next) = row?;
            let set = set_for(conn, &name)?.map(Bucket::rate);
            Ok(LimitState { name, set, ahead: Duration::from_micros(next.saturating_sub(now)) })
        })
        .collect()
}

pub(crate) fn revoke(step: &mut Step<'_>, ids: &[String]) -> rusqlite::Result<()> {
    let now = now();
    let mut insert = step.conn.prepare_cached("INSERT OR REPLACE INTO revoked(id, at) VALUES (?1, ?2)")?;
    ids.iter().try_for_each(|id| insert.execute(params![id, now]).map(drop))?;
    let most = i64::try_from(MOST_REVOKED).unwrap_or(i64::MAX);
    let beyond = "DELETE FROM revoked WHERE number <= (SELECT number FROM revoked ORDER BY number DESC LIMIT 1 OFFSET ?1)";
    step.conn.prepare_cached(beyond)?.execute([most])?;
    // Whoever takes them ends them, before their time.
    let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let mut later = step.conn.prepare_cached("SELECT id, raw FROM messages WHERE owner IS NULL AND due > ?1 ORDER BY due LIMIT ?2")?;
    let mut rows = later.query([now, LOOKED_THROUGH])?;
    let mut meant: Vec<i64> = Vec::new();
    while let Some(row) = rows.next()? {
        if json::task_id(row.get_ref(1)?.as_bytes()?).is_some_and(|id| ids.contains(id)) {
            meant.push(row.get(0)?);
        }
    }
    let mut at_once = step.conn.prepare_cached("UPDATE messages SET due = ?2 WHERE id = ?1")?;
    for id in meant {
        step.wake |= at_once.execute([id, now])? > 0;
    }
    Ok(())
}

/// Returns the time before which an id was called off that is no longer kept.
pub(crate) fn forgotten() -> i64 {
    now() - millis(REVOKED_FOR)
}

pub(crate) fn revoked(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut ids = conn.prepare_cached("SELECT id FROM revoked WHERE at > ?1 ORDER BY number")?;
    ids.query_map([forgotten()], |row| row.get(0))?.collect()
}

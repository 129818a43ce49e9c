//! What all workers share beside messages: the slots of rates, and the ids that are called off.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    queues::{millis, now},
    writer::Step,
};
use crate::{
    broker::{MOST_REVOKED, REVOKED_FOR},
    rates::{self, Bucket, Slot},
};

pub(crate) fn reserve(step: &mut Step<'_>, limit: &str, bucket: Bucket, count: usize) -> rusqlite::Result<Vec<Slot>> {
    let next = step.conn.prepare_cached("SELECT next FROM rates WHERE name = ?1")?.query_row([limit], |row| row.get(0)).optional()?;
    let (next, slots) = bucket.reserve(u64::try_from(next.unwrap_or(0_i64)).unwrap_or(0), rates::now(), count);
    step.conn.prepare_cached("INSERT OR REPLACE INTO rates(name, next) VALUES (?1, ?2)")?.execute(params![limit, next.cast_signed()])?;
    Ok(slots)
}

pub(crate) fn revoke(step: &mut Step<'_>, ids: &[String]) -> rusqlite::Result<()> {
    let now = now();
    let mut insert = step.conn.prepare_cached("INSERT OR REPLACE INTO revoked(id, at) VALUES (?1, ?2)")?;
    ids.iter().try_for_each(|id| insert.execute(params![id, now]).map(drop))?;
    let most = i64::try_from(MOST_REVOKED).unwrap_or(i64::MAX);
    let beyond = "DELETE FROM revoked WHERE number <= (SELECT number FROM revoked ORDER BY number DESC LIMIT 1 OFFSET ?1)";
    step.conn.prepare_cached(beyond)?.execute([most])?;
    Ok(())
}

/// Before this time an id was called off that is no longer kept.
pub(crate) fn forgotten() -> i64 {
    now() - millis(REVOKED_FOR)
}

pub(crate) fn revoked(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut ids = conn.prepare_cached("SELECT id FROM revoked WHERE at > ?1 ORDER BY number")?;
    ids.query_map([forgotten()], |row| row.get(0))?.collect()
}

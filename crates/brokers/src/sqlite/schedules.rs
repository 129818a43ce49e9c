//! Schedules, and who fires them. Their tables are made when the first schedule is: a file of
//! before has none.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    queues::{self, floor, millis, now, time},
    writer::Step,
};
use crate::halves::{Fired, Firing, Leading, ScheduleBook, ScheduleRow, SchedulerName};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS schedules(
    name TEXT PRIMARY KEY,
    spec BLOB NOT NULL,                   -- what it says, as JSON
    since INTEGER NOT NULL,               -- when it began; another time is another schedule
    last INTEGER,                         -- the last due time that was fired
    sent INTEGER,                         -- when that was
    fired INTEGER NOT NULL DEFAULT 0,
    paused_by TEXT, paused_at INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scheduler(     -- one row: who fires them
    id INTEGER PRIMARY KEY CHECK (id = 1),
    token TEXT NOT NULL DEFAULT '', node TEXT NOT NULL DEFAULT '', until INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0    -- counts the changes of schedules
);
INSERT OR IGNORE INTO scheduler(id) VALUES (1);
";

fn has_tables(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'scheduler'")?.exists([])
}

fn changed(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE scheduler SET version = version + 1")?.execute([]).map(drop)
}

pub(crate) fn put(step: &mut Step<'_>, name: &str, spec: &[u8], at: i64) -> rusqlite::Result<bool> {
    step.conn.execute_batch(SCHEMA)?;
    let put = "INSERT INTO schedules(name, spec, since) VALUES (?1, ?2, ?3)
        ON CONFLICT(name) DO UPDATE SET spec = ?2, since = ?3 WHERE spec != ?2";
    let is_new = step.conn.prepare_cached(put)?.execute(params![name, spec, at])? > 0;
    if is_new {
        changed(step.conn)?;
    }
    Ok(is_new)
}

pub(crate) fn amend(step: &mut Step<'_>, name: &str, before: &[u8], spec: &[u8]) -> rusqlite::Result<bool> {
    let amend = "UPDATE schedules SET spec = ?3 WHERE name = ?1 AND spec = ?2";
    let is_changed = has_tables(step.conn)? && step.conn.execute(amend, params![name, before, spec])? > 0;
    if is_changed {
        changed(step.conn)?;
    }
    Ok(is_changed)
}

pub(crate) fn remove(step: &mut Step<'_>, name: &str) -> rusqlite::Result<bool> {
    let was = has_tables(step.conn)? && step.conn.execute("DELETE FROM schedules WHERE name = ?1", [name])? > 0;
    if was {
        changed(step.conn)?;
    }
    Ok(was)
}

pub(crate) fn pause(step: &mut Step<'_>, name: &str, by: Option<&str>, at: i64) -> rusqlite::Result<bool> {
    if !has_tables(step.conn)? {
        return Ok(false);
    }
    let done = match by {
        Some(by) => step.conn.execute("UPDATE schedules SET paused_by = ?2, paused_at = ?3 WHERE name = ?1", params![name, by, at])?,
        None => {
            let resume = "UPDATE schedules SET since = ?2, last = min(last, ?2), paused_by = NULL, paused_at = NULL
                WHERE name = ?1 AND paused_by IS NOT NULL";
            step.conn.execute(resume, params![name, at])?
        }
    };
    if done > 0 {
        changed(step.conn)?;
        return Ok(true);
    }
    step.conn.prepare_cached("SELECT 1 FROM schedules WHERE name = ?1")?.exists([name])
}

/// Returns who leads now: token, name, and the version of the schedules.
fn leader(conn: &Connection) -> rusqlite::Result<(Option<(String, String)>, u64)> {
    if !has_tables(conn)? {
        return Ok((None, 0));
    }
    conn.prepare_cached("SELECT token, node, until, version FROM scheduler")?.query_row([], |row| {
        // A term that ends further ahead than any is one of before the clock was put back.
        let leads = (1..=millis(LONGEST)).contains(&(row.get::<_, i64>(2)? - now()));
        Ok((leads.then_some((row.get(0)?, row.get(1)?)), row.get::<_, i64>(3)?.unsigned_abs()))
    })
}

/// Longest term.
const LONGEST: Duration = Duration::from_secs(60);

/// Returns the answer where it can be given without a write.
pub(crate) fn look(conn: &Connection, scheduler: &SchedulerName) -> rusqlite::Result<Option<Leading>> {
    let (leader, _) = leader(conn)?;
    Ok(leader.filter(|(token, _)| *token != scheduler.token).map(|(_, node)| Leading::Theirs { node }))
}

pub(crate) fn lead(step: &mut Step<'_>, scheduler: &SchedulerName, term: Duration) -> rusqlite::Result<Leading> {
    step.conn.execute_batch(SCHEMA)?;
    let (leader, version) = leader(step.conn)?;
    if let Some((_, node)) = leader.filter(|(token, _)| *token != scheduler.token) {
        return Ok(Leading::Theirs { node });
    }
    let until = now() + millis(term.min(LONGEST));
    let lead = "UPDATE scheduler SET token = ?1, node = ?2, until = ?3";
    step.conn.prepare_cached(lead)?.execute(params![scheduler.token, scheduler.node, until])?;
    Ok(Leading::Ours { version })
}

pub(crate) fn resign(step: &mut Step<'_>, scheduler: &SchedulerName) -> rusqlite::Result<()> {
    if has_tables(step.conn)? {
        step.conn.execute("UPDATE scheduler SET until = 0 WHERE token = ?1", [&scheduler.token])?;
    }
    Ok(())
}

pub(crate) fn fire(step: &mut Step<'_>, firing: &Firing) -> rusqlite::Result<Fired> {
    let (leader, _) = leader(step.conn)?;
    if leader.is_none_or(|(token, _)| token != firing.scheduler.token) {
        return Ok(Fired::NotLeading);
    }
    let mut known = step.conn.prepare_cached("SELECT since, last, paused_by IS NOT NULL FROM schedules WHERE name = ?1")?;
    let known = known.query_row([&firing.name], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, bool>(2)?)));
    let Some((since, last, is_paused)) = known.optional()? else { return Ok(Fired::Changed) };
    let due = floor(firing.due);
    if last.is_some_and(|last| last >= due) {
        return Ok(Fired::Already);
    }
    if is_paused || since != floor(firing.since) {
        return Ok(Fired::Changed);
    }
    queues::publish(step, firing.message.as_slice())?;
    let note = "UPDATE schedules SET last = ?2, sent = ?3, fired = fired + 1 WHERE name = ?1";
    step.conn.prepare_cached(note)?.execute(params![firing.name, due, floor(firing.at)])?;
    Ok(Fired::Done)
}

pub(crate) fn book(conn: &Connection) -> rusqlite::Result<ScheduleBook> {
    if !has_tables(conn)? {
        return Ok(ScheduleBook::default());
    }
    let (leader, _) = leader(conn)?;
    let mut all = conn.prepare_cached("SELECT name, spec, since, last, sent, fired, paused_by, paused_at FROM schedules ORDER BY name")?;
    let rows = all.query_map([], |row| {
        let by: Option<String> = row.get(6)?;
        Ok(ScheduleRow {
            name: row.get(0)?,
            spec: row.get(1)?,
            since: time(row.get(2)?),
            last: row.get::<_, Option<i64>>(3)?.map(time),
            sent: row.get::<_, Option<i64>>(4)?.map(time),
            fired: row.get::<_, i64>(5)?.unsigned_abs(),
            paused: by.zip(row.get::<_, Option<i64>>(7)?.map(time)),
        })
    })?;
    Ok(ScheduleBook { leader: leader.map(|(_, node)| node), rows: rows.collect::<rusqlite::Result<_>>()? })
}

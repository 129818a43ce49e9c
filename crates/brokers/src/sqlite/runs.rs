//! Notes of who runs which task, for brokers that may lend a message to two. Their table is made
//! when the first note is: a file of before has none.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::{
    queues::{millis, now},
    writer::Step,
};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS runs(id TEXT PRIMARY KEY, worker TEXT NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;";

fn has_table(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'runs'")?.exists([])
}

pub(crate) fn note(step: &mut Step<'_>, worker: &str, ids: &[String], time: Duration) -> rusqlite::Result<Vec<bool>> {
    step.conn.execute_batch(SCHEMA)?;
    let now = now();
    let until = now.saturating_add(millis(time));
    step.conn.prepare_cached("DELETE FROM runs WHERE until <= ?1")?.execute([now])?;
    let note = "INSERT INTO runs(id, worker, until) VALUES (?1, ?2, ?3) ON CONFLICT(id) DO UPDATE SET until = ?3 WHERE worker = ?2";
    let mut note = step.conn.prepare_cached(note)?;
    ids.iter().map(|id| Ok(note.execute(params![id, worker, until])? > 0)).collect()
}

pub(crate) fn forget(step: &mut Step<'_>, worker: &str, ids: &[String]) -> rusqlite::Result<()> {
    if !has_table(step.conn)? {
        return Ok(());
    }
    let mut forget = step.conn.prepare_cached("DELETE FROM runs WHERE id = ?1 AND worker = ?2")?;
    ids.iter().try_for_each(|id| forget.execute([id.as_str(), worker]).map(drop))
}

//! Removes what has expired, a bit at a time.

use rusqlite::Connection;

use super::{queues::now, shared::forgotten};

/// Milliseconds for which a broadcast is kept: it is there for those who listen now.
const BUS: i64 = 60_000;
/// The most of a table at a time, so that nobody waits long.
const MOST: i64 = 2_000;

pub(crate) fn sweep(conn: &Connection) -> rusqlite::Result<()> {
    let now = now();
    let old = "DELETE FROM bus WHERE id IN (SELECT id FROM bus WHERE at < ?1 ORDER BY id LIMIT ?2)";
    conn.execute(old, [now - BUS, MOST])?;
    let expired = "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE expires <= ?1 LIMIT ?2)";
    conn.execute(expired, [now, MOST])?;
    let parts = "DELETE FROM chord_parts WHERE group_id IN (SELECT group_id FROM chords WHERE expires <= ?1 LIMIT ?2)";
    conn.execute(parts, [now, 100])?;
    let chords = "DELETE FROM chords WHERE group_id IN (SELECT group_id FROM chords WHERE expires <= ?1 LIMIT ?2)";
    conn.execute(chords, [now, 100])?;
    // A bucket that is empty is as good as none.
    conn.execute("DELETE FROM rates WHERE next < ?1", [now * 1000])?;
    conn.execute("DELETE FROM revoked WHERE at <= ?1", [forgotten()])?;
    Ok(())
}

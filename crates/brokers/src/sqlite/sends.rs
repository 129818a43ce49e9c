//! Notes of what is sent once under a key. Their table is made when the first note is: a file of
//! before has none.

use rusqlite::{OptionalExtension, params};

use super::{
    queues::{millis, now},
    writer::Step,
};
use crate::send_notes::{NotedEnd, NotedSend, SendNote};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS sends(key TEXT PRIMARY KEY, digest TEXT NOT NULL, id TEXT NOT NULL, \
    sender TEXT NOT NULL, held INTEGER NOT NULL, sent INTEGER NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID; \
    CREATE INDEX IF NOT EXISTS sends_until ON sends(until);";

pub(crate) fn note(step: &mut Step<'_>, note: &SendNote) -> rusqlite::Result<NotedSend> {
    step.conn.execute_batch(SCHEMA)?;
    let now = now();
    step.conn.prepare_cached("DELETE FROM sends WHERE until <= ?1")?.execute([now])?;
    let known = step
        .conn
        .prepare_cached("SELECT digest, id, sender, held, sent FROM sends WHERE key = ?1")?
        .query_row([&note.key], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, i64>(3)?,
                row.get::<_, bool>(4)?,
            ))
        })
        .optional()?;
    let held = now.saturating_add(millis(note.hold));
    let Some((digest, id, sender, until, sent)) = known else {
        step.conn
            .prepare_cached("INSERT INTO sends(key, digest, id, sender, held, sent, until) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)")?
            .execute(params![note.key, note.digest, note.id, note.by, held, now.saturating_add(millis(note.keep))])?;
        return Ok(NotedSend::First);
    };
    if digest != note.digest {
        return Ok(NotedSend::Other);
    }
    if sent {
        return Ok(NotedSend::Sent { id });
    }
    // A time of hold that is longer than any may be is of a clock that was put back.
    if sender != note.by && until > now && until <= held {
        return Ok(NotedSend::Underway { id });
    }
    step.conn.prepare_cached("UPDATE sends SET sender = ?2, held = ?3 WHERE key = ?1")?.execute(params![note.key, note.by, held])?;
    Ok(NotedSend::Unfinished { id })
}

pub(crate) fn end(step: &mut Step<'_>, note: &SendNote, ending: NotedEnd) -> rusqlite::Result<()> {
    step.conn.execute_batch(SCHEMA)?;
    let end = match ending {
        NotedEnd::Sent => "UPDATE sends SET sent = 1, sender = '' WHERE key = ?1 AND digest = ?2 AND ?3 <> ''",
        NotedEnd::NotSent => "DELETE FROM sends WHERE key = ?1 AND digest = ?2 AND sender = ?3 AND NOT sent",
        NotedEnd::Unknown => "UPDATE sends SET held = 0 WHERE key = ?1 AND digest = ?2 AND sender = ?3 AND NOT sent",
    };
    step.conn.prepare_cached(end)?.execute([&note.key, &note.digest, &note.by]).map(drop)
}

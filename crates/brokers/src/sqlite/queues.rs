//! Messages in the file: each function is one step, within a transaction or (with a bare
//! connection) a look.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_celery::{Limits, crashes_of};
use longshore_core::Receipt;
use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Step;
use crate::{
    crash::forgiven,
    halves::DeadLetter,
    message::{Claimed, End, Ended, Finish, Outgoing},
    names,
    results::PartState,
    rotation::Rotation,
    sqlite::results as documents,
};

/// Returns a duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Returns a time as the file holds it. One that is not a whole millisecond is rounded up, so that
/// nothing is run before it.
pub(crate) fn stamp(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    millis(since).saturating_add((!since.subsec_nanos().is_multiple_of(1_000_000)).into())
}

/// Returns a time as the file holds it, cut to the millisecond.
pub(crate) fn floor(at: SystemTime) -> i64 {
    millis(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn now() -> i64 {
    floor(SystemTime::now())
}

pub(crate) fn time(stamp: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(stamp.try_into().unwrap_or(0))
}

/// Makes a receipt, which names a message and one lending of it.
fn receipt(id: i64, lent: i64) -> Receipt {
    Receipt((id.cast_unsigned() << 16) | (lent.cast_unsigned() & 0xffff))
}

fn named(receipt: Receipt) -> (i64, i64) {
    ((receipt.0 >> 16).cast_signed(), (receipt.0 & 0xffff).cast_signed())
}

/// Held under this receipt (?1, ?2) by this owner (?3).
macro_rules! ours {
    () => {
        "id = ?1 AND owner = ?3 AND (lent & 65535) = ?2"
    };
}

pub(crate) fn publish(step: &mut Step<'_>, batch: &[Outgoing]) -> rusqlite::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let now = now();
    let mut insert = step.conn.prepare_cached("INSERT INTO messages(queue, priority, due, sent, raw) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for message in batch {
        step.name_queue(&message.queue)?;
        let due = message.due.map(stamp).filter(|due| *due > now);
        insert.execute(params![&*message.queue, message.priority.min(9), due, now, message.raw])?;
    }
    step.wake = true;
    Ok(())
}

/// Says why one of these messages is not sent: no worker would read it, and each copy that a file
/// makes of it holds up all who write. Every message in a file is of ours.
pub(crate) fn too_large(batch: &[Outgoing]) -> Option<String> {
    let bytes = batch.iter().map(|message| message.raw.len()).find(|bytes| *bytes > Limits::MESSAGE)?;
    Some(format!("a message of {bytes} bytes; workers accept {}", Limits::MESSAGE))
}

/// Returns those of these queues that are not paused.
fn open(conn: &Connection, order: Vec<Arc<str>>) -> rusqlite::Result<Vec<Arc<str>>> {
    let mut paused = conn.prepare_cached("SELECT queue FROM paused")?;
    let paused = paused.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(order.into_iter().filter(|queue| !paused.iter().any(|name| **name == **queue)).collect())
}

/// Returns the best priority that waits in a queue.
fn head(conn: &Connection, queue: &str) -> rusqlite::Result<Option<u8>> {
    let mut head =
        conn.prepare_cached("SELECT priority FROM messages WHERE queue = ?1 AND owner IS NULL AND due IS NULL ORDER BY priority LIMIT 1")?;
    head.query_row([queue], |row| row.get(0)).optional()
}

/// Finding of an idle consumer.
pub(crate) enum Look {
    /// There may be something: claim.
    Something,
    /// There is nothing before that time, if any.
    Nothing(Option<SystemTime>),
}

/// Looks whether there is something to claim, without the lock of a writer.
pub(crate) fn look(conn: &Connection, order: Vec<Arc<str>>) -> rusqlite::Result<Look> {
    for queue in open(conn, order)? {
        if head(conn, &queue)?.is_some() {
            return Ok(Look::Something);
        }
    }
    let next =
        conn.prepare_cached("SELECT min(due) FROM messages WHERE owner IS NULL AND due IS NOT NULL")?.query_row([], |row| row.get(0))?;
    Ok(match next {
        Some(due) if due <= now() => Look::Something,
        due => Look::Nothing(due.map(time)),
    })
}

/// Claims by priority, within it by turns; in strict order the first queue that has something.
pub(crate) fn claim(step: &mut Step<'_>, owner: i64, turns: &Rotation, room: usize) -> rusqlite::Result<Vec<Claimed>> {
    let (conn, now) = (step.conn, now());
    conn.prepare_cached("UPDATE messages SET due = NULL WHERE owner IS NULL AND due <= ?1")?.execute([now])?;
    let (mut heads, is_strict) = (Vec::new(), turns.is_strict());
    for queue in open(conn, turns.order())? {
        let head = head(conn, &queue)?;
        heads.push((queue, head));
    }
    let mut take = conn.prepare_cached(
        "UPDATE messages SET owner = ?1, lent = lent + 1, held_since = ?2 WHERE id IN (
             SELECT id FROM messages WHERE queue = ?3 AND priority = ?4 AND owner IS NULL AND due IS NULL ORDER BY place, id LIMIT ?5)
         RETURNING id, place, lent, crashes, raw",
    )?;
    let mut claimed = Vec::new();
    while claimed.len() < room {
        let mut full = heads.iter_mut().filter(|(_, head)| head.is_some());
        let next = if is_strict { full.next() } else { full.min_by_key(|(_, head)| *head) };
        let Some((queue, head_now)) = next else { break };
        let rows =
            take.query_map(params![owner, now, &**queue, *head_now, i64::try_from(room - claimed.len()).unwrap_or(i64::MAX)], |row| {
                let (id, place, lent): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let raw: Vec<u8> = row.get(4)?;
                let message = Claimed {
                    receipt: receipt(id, lent),
                    queue: Arc::clone(queue),
                    crashes: crashes_of(&raw).max(row.get(3)?),
                    raw,
                    redelivered: lent > 1,
                    given: false,
                };
                Ok((place, id, message))
            })?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        rows.sort_unstable_by_key(|(place, id, _)| (*place, *id));
        if !rows.is_empty() {
            turns.served(queue);
        }
        claimed.extend(rows.into_iter().map(|(.., message)| message));
        *head_now = head(conn, queue)?;
    }
    Ok(claimed)
}

pub(crate) fn load(conn: &Connection, owner: i64, receipts: &[Receipt]) -> rusqlite::Result<Vec<Option<Vec<u8>>>> {
    let mut load = conn.prepare_cached(concat!("SELECT raw FROM messages WHERE ", ours!()))?;
    let one = |receipt: &Receipt| {
        let (id, lent) = named(*receipt);
        load.query_row([id, lent, owner], |row| row.get(0)).optional()
    };
    receipts.iter().map(one).collect()
}

/// Accuses these, and no others of this owner.
pub(crate) fn accuse(conn: &Connection, owner: i64, running: &[Receipt]) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE messages SET accused = 0 WHERE owner = ?1 AND accused = 1")?.execute([owner])?;
    let mut accuse = conn.prepare_cached(concat!("UPDATE messages SET accused = 1 WHERE ", ours!()))?;
    running.iter().map(|receipt| named(*receipt)).try_for_each(|(id, lent)| accuse.execute([id, lent, owner]).map(drop))
}

/// Ends messages. What the file can never take of one is no concern of the others.
pub(crate) fn finish_all(step: &mut Step<'_>, owner: i64, batch: &[Finish]) -> rusqlite::Result<Vec<Ended>> {
    let one = |one: &Finish| {
        let too_large = || {
            let (size, most) = (one.largest(), step.place.most());
            (size > most).then(|| format!("{}: {size} bytes are more than it can hold in one value ({most})", step.place.path.display()))
        };
        let unread = || Some(format!("{}: {}", step.place.path.display(), self::too_large(&one.publish)?));
        if let Some(reason) = names::refused_among("", &one.publish).or_else(unread).or_else(too_large) {
            return Ok(Ended::Impossible { reason });
        }
        let ended = step.apart(|step| finish(step, owner, one))?;
        Ok(ended.unwrap_or_else(|reason| Ended::Impossible { reason }))
    };
    batch.iter().map(one).collect()
}

fn finish(step: &mut Step<'_>, owner: i64, finish: &Finish) -> rusqlite::Result<Ended> {
    let (id, lent) = named(finish.receipt);
    let conn = step.conn;
    if finish.end == End::Ack && finish.part.is_none() {
        // All in one transaction: the order within it is nobody's business.
        if conn.prepare_cached(concat!("DELETE FROM messages WHERE ", ours!()))?.execute([id, lent, owner])? == 0 {
            return Ok(Ended::Refused);
        }
    } else if !conn.prepare_cached(concat!("SELECT 1 FROM messages WHERE ", ours!()))?.exists([id, lent, owner])? {
        return Ok(Ended::Refused);
    }
    publish(step, &finish.publish)?;
    documents::store(step, &finish.results)?;
    if let Some(part) = &finish.part {
        if let ours @ PartState::Ours { .. } = documents::part(conn, part)? {
            return Ok(Ended::Complete(ours));
        }
        if finish.end == End::Ack {
            conn.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
        }
    }
    match &finish.end {
        End::Ack | End::Keep => {}
        End::Back { front: true } => {
            let back = "UPDATE messages SET owner = NULL, held_since = NULL, accused = 0, place = 0 WHERE id = ?1";
            conn.prepare_cached(back)?.execute([id])?;
            step.wake = true;
        }
        End::Back { front: false } => {
            let back = "INSERT INTO messages(queue, priority, sent, crashes, lent, raw) SELECT queue, priority, ?2, crashes, lent, raw FROM messages WHERE id = ?1";
            conn.prepare_cached(back)?.execute([id, now()])?;
            conn.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
            step.wake = true;
        }
        // All of them are kept, so that none pushes another out.
        End::Dead { reason } | End::Junk { reason } => {
            let crashes = conn.prepare_cached("SELECT crashes FROM messages WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
            bury(conn, id, crashes, reason)?;
        }
    }
    Ok(Ended::Done)
}

/// Makes a dead letter of a message.
pub(crate) fn bury(conn: &Connection, id: i64, crashes: u32, reason: &str) -> rusqlite::Result<()> {
    let insert =
        "INSERT INTO dead(queue, priority, at, reason, crashes, raw) SELECT queue, priority, ?2, ?3, ?4, raw FROM messages WHERE id = ?1";
    conn.prepare_cached(insert)?.execute(params![id, now(), reason, crashes])?;
    conn.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
    Ok(())
}

pub(crate) fn dead(conn: &Connection, queue: Option<&str>) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut dead =
        conn.prepare_cached("SELECT id, queue, at, reason, crashes, raw FROM dead WHERE ?1 IS NULL OR queue = ?1 ORDER BY id DESC")?;
    let letters = dead.query_map([queue], |row| {
        Ok(DeadLetter {
            key: row.get::<_, i64>(0)?.to_string(),
            queue: row.get(1)?,
            at: time(row.get(2)?),
            reason: row.get(3)?,
            crashes: row.get(4)?,
            raw: row.get(5)?,
        })
    })?;
    letters.collect()
}

/// Puts dead letters back into their queues, or throws them away.
pub(crate) fn settle_dead(step: &mut Step<'_>, keys: &[String], retry: bool) -> rusqlite::Result<u64> {
    let mut count = 0;
    for key in keys.iter().filter_map(|key| key.parse::<i64>().ok()) {
        if retry {
            let raw: Option<Vec<u8>> =
                step.conn.prepare_cached("SELECT raw FROM dead WHERE id = ?1")?.query_row([key], |row| row.get(0)).optional()?;
            let Some(raw) = raw else { continue };
            let back = "INSERT INTO messages(queue, priority, sent, lent, raw) SELECT queue, priority, ?2, 1, ?3 FROM dead WHERE id = ?1";
            step.conn.prepare_cached(back)?.execute(params![key, now(), forgiven(&raw)])?;
            step.wake = true;
        }
        count += step.conn.prepare_cached("DELETE FROM dead WHERE id = ?1")?.execute([key])? as u64;
    }
    Ok(count)
}

pub(crate) fn purge(conn: &Connection, queue: &str) -> rusqlite::Result<u64> {
    conn.execute("DELETE FROM messages WHERE queue = ?1 AND owner IS NULL", [queue]).map(|count| count as u64)
}

pub(crate) fn transfer(step: &mut Step<'_>, from: &str, to: &str) -> rusqlite::Result<u64> {
    if from == to {
        return Ok(0);
    }
    let moved = "INSERT INTO messages(queue, priority, due, sent, crashes, lent, raw)
        SELECT ?2, priority, due, sent, crashes, lent, raw FROM messages WHERE queue = ?1 AND owner IS NULL ORDER BY priority, place, id";
    let count = step.conn.execute(moved, [from, to])?;
    step.conn.execute("INSERT OR IGNORE INTO queues(name) VALUES (?1)", [to])?;
    step.wake = true;
    purge(step.conn, from)?;
    Ok(count as u64)
}

pub(crate) fn pause(step: &mut Step<'_>, queue: &str, by: Option<&str>) -> rusqlite::Result<()> {
    match by {
        Some(by) => step.conn.execute("INSERT OR REPLACE INTO paused(queue, by, since) VALUES (?1, ?2, ?3)", params![queue, by, now()])?,
        None => step.conn.execute("DELETE FROM paused WHERE queue = ?1", [queue])?,
    };
    step.wake = true;
    Ok(())
}

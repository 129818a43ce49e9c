//! Owners of messages: showing that we live, and taking from the dead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, params};

use super::{
    life::{self, Identity},
    queues::{millis, now},
    writer::Step,
};
use crate::{crash::after_crash, lease::Lease};

/// A consumer, as the file knows it. Dropping it is dying.
pub(crate) struct Owner {
    /// Its row; 0 before it has one, -1 when it has left. Changed by the writer's thread alone.
    number: AtomicI64,
    pub(crate) node: String,
    pub(crate) lease: Duration,
    /// Lease, which says when it was last renewed.
    pub(crate) renewal: Arc<Lease>,
}

const LEFT: i64 = -1;

impl Owner {
    pub(crate) fn new(node: String, lease: Duration) -> Arc<Self> {
        let lease = lease.max(Duration::from_millis(30));
        Arc::new(Self { number: AtomicI64::new(0), node, lease, renewal: Arc::new(Lease::new(lease)) })
    }

    pub(crate) fn number(&self) -> i64 {
        self.number.load(Ordering::Acquire)
    }
}

/// Returns the number to claim under: a new one, if the old one was declared dead (what it held is
/// not ours any more). `None`: it has left.
pub(crate) fn registered(step: &mut Step<'_>, owner: &Arc<Owner>) -> rusqlite::Result<Option<i64>> {
    let number = owner.number();
    if number == LEFT {
        return Ok(None);
    }
    if number > 0 && step.conn.prepare_cached("SELECT 1 FROM owners WHERE number = ?1")?.exists([number])? {
        return Ok(Some(number));
    }
    let who = life::me();
    let mut insert =
        step.conn.prepare_cached("INSERT INTO owners(node, space, pid, started, lease, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let number = insert.insert(params![owner.node, who.space, who.pid, who.started, millis(owner.lease), now()])?;
    match owner.number() {
        0 => step.keeper.keep(owner),
        _ => owner.renewal.lose(),
    }
    owner.number.store(number, Ordering::Release);
    Ok(Some(number))
}

/// Gives back what is held, to the front, blaming nobody.
pub(crate) fn leave(step: &mut Step<'_>, owner: &Owner) -> rusqlite::Result<()> {
    let number = owner.number.swap(LEFT, Ordering::AcqRel);
    if number > 0 {
        let back = "UPDATE messages SET owner = NULL, held_since = NULL, accused = 0, place = 0 WHERE owner = ?1";
        step.wake |= step.conn.execute(back, [number])? > 0;
        step.conn.execute("DELETE FROM owners WHERE number = ?1", [number])?;
    }
    Ok(())
}

/// Shows that these live; under a new number, if they were declared dead.
pub(crate) fn beat(step: &mut Step<'_>, owners: &[Arc<Owner>]) -> rusqlite::Result<()> {
    for owner in owners {
        if let Some(number) = registered(step, owner)? {
            step.conn.prepare_cached("UPDATE owners SET beat = beat + 1 WHERE number = ?1")?.execute([number])?;
        }
    }
    Ok(())
}

/// A row of the table.
pub(crate) struct Row {
    pub(crate) number: i64,
    pub(crate) beat: i64,
    pub(crate) lease: Duration,
    pub(crate) who: Identity,
}

pub(crate) fn all(conn: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut all = conn.prepare_cached("SELECT number, beat, lease, space, pid, started FROM owners")?;
    let rows = all.query_map([], |row| {
        Ok(Row {
            number: row.get(0)?,
            beat: row.get(1)?,
            lease: Duration::from_millis(row.get::<_, i64>(2)?.try_into().unwrap_or(0)),
            who: Identity { space: row.get(3)?, pid: row.get(4)?, started: row.get(5)? },
        })
    })?;
    rows.collect()
}

/// Takes everything from a dead owner. Whether there was anything.
pub(crate) fn rescue(conn: &Connection, number: i64) -> rusqlite::Result<bool> {
    let mut held = conn.prepare_cached("SELECT id, crashes, accused, due > ?2 FROM messages WHERE owner = ?1")?;
    let messages = held.query_map([number, now()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?, row.get::<_, bool>(2)?, row.get::<_, Option<bool>>(3)?.unwrap_or(false)))
    })?;
    let messages = messages.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut back =
        conn.prepare_cached("UPDATE messages SET owner = NULL, held_since = NULL, accused = 0, place = 0, crashes = ?2 WHERE id = ?1")?;
    for &(id, crashes, accused, ahead) in &messages {
        back.execute(params![id, after_crash(crashes, accused, ahead)])?;
    }
    conn.prepare_cached("DELETE FROM owners WHERE number = ?1")?.execute([number])?;
    Ok(!messages.is_empty())
}

//! The one thread that writes. Whatever waits for it is done in one transaction; nobody is told
//! before the commit.
//!
//! It also renews the leases of our consumers, looks for dead ones, and sweeps what has expired: it
//! is a thread of its own, so that no busy runtime keeps a lease from being renewed.

use std::{
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use longshore_core::ErrorKind;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    file::{self, FilePlace},
    life::{self, OwnerWatch},
    owners::{self, Owner},
    store::StoreShared,
    sweep,
};
use crate::{error::BrokerError, lease};

/// The largest group of one transaction.
const MOST: usize = 512;
/// Most steps that wait for a transaction to go along with.
const ALONG: usize = 32;
/// The longest time between two looks at the other owners where nothing wakes us when one ends.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two sweeps of what has expired, if anything is written at all.
const SWEEP: Duration = Duration::from_secs(10);
/// Delay with which a thread may come on a busy machine.
const LATE: Duration = Duration::from_millis(100);
/// Wait for the lock from which on it is likely that others had to wait, too.
const SLOW: Duration = Duration::from_millis(500);

/// Means for doing a step.
pub(crate) struct Step<'a> {
    pub(crate) conn: &'a Connection,
    /// Set it, and after the commit those who wait for messages, results and broadcasts look, in
    /// all processes.
    pub(crate) wake: bool,
    /// The queue whose name was written last in this transaction.
    named: Option<Arc<str>>,
    /// Others had to wait for the lock too, and could not show that they live.
    slow: bool,
    /// Something was refused when it was done together with others: each part that can be undone by
    /// itself is.
    careful: bool,
    pub(crate) place: &'a FilePlace,
    pub(crate) keeper: &'a mut Keeper,
}

impl Step<'_> {
    /// Writes the name of a queue, unless it was the last one in this transaction.
    pub(crate) fn name_queue(&mut self, queue: &Arc<str>) -> rusqlite::Result<()> {
        if self.named.as_ref() == Some(queue) {
            return Ok(());
        }
        self.conn.prepare_cached("INSERT OR IGNORE INTO queues(name) VALUES (?1)")?.execute([&**queue])?;
        // What is undone alone takes the name with it.
        self.named = (!self.careful).then(|| queue.clone());
        Ok(())
    }

    /// Does a part of a step. What the file can never take is no error of the step's: nothing of
    /// the part is done then, and the text says why.
    pub(crate) fn apart<T>(&mut self, part: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<Result<T, String>> {
        if !self.careful {
            return part(self).map(Ok);
        }
        self.conn.prepare_cached("SAVEPOINT part")?.execute([])?;
        let done = match part(self) {
            Err(error) if file::is_refusal(&error) => {
                self.conn.prepare_cached("ROLLBACK TO part")?.execute([])?;
                Err(file::explain(self.place, &error))
            }
            done => Ok(done?),
        };
        self.conn.prepare_cached("RELEASE part")?.execute([])?;
        Ok(done)
    }
}

/// Something to do in a transaction.
pub(crate) trait Op: Send {
    /// Does it; once more if nothing of it was done the first time.
    fn run(&mut self, step: &mut Step<'_>) -> rusqlite::Result<()>;
    /// It is committed, or nothing of it was done (or nobody knows).
    fn done(self: Box<Self>, result: Result<(), BrokerError>);
    /// Returns whether it goes along with the next transaction, and is no reason for one.
    fn goes_along(&self) -> bool {
        false
    }
}

/// A step that nobody waits for.
pub(crate) struct Along<F>(F);

impl<F: FnMut(&mut Step<'_>) -> rusqlite::Result<()> + Send + 'static> Along<F> {
    pub(crate) fn boxed(step: F) -> Box<dyn Op> {
        Box::new(Self(step))
    }
}

impl<F: FnMut(&mut Step<'_>) -> rusqlite::Result<()> + Send> Op for Along<F> {
    fn run(&mut self, step: &mut Step<'_>) -> rusqlite::Result<()> {
        (self.0)(step)
    }

    fn done(self: Box<Self>, _: Result<(), BrokerError>) {}

    fn goes_along(&self) -> bool {
        true
    }
}

pub(crate) struct Call<F, T> {
    step: F,
    /// Outcome of the step, or the reason why it is refused.
    value: Option<Result<T, String>>,
    reply: oneshot::Sender<Result<T, BrokerError>>,
}

impl<F, T> Call<F, T>
where
    F: FnMut(&mut Step<'_>) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
{
    pub(crate) fn boxed(step: F, reply: oneshot::Sender<Result<T, BrokerError>>) -> Box<dyn Op> {
        Box::new(Self { step, value: None, reply })
    }
}

impl<F, T> Op for Call<F, T>
where
    F: FnMut(&mut Step<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, step: &mut Step<'_>) -> rusqlite::Result<()> {
        self.value = Some(step.apart(&mut self.step)?);
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), BrokerError>) {
        let answer = match (result, self.value) {
            (Ok(()), Some(value)) => value.map_err(|message| BrokerError { kind: ErrorKind::Refused, message }),
            (Ok(()), None) => return,
            (Err(error), _) => Err(error),
        };
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }
}

/// Keeper of leases: renews ours, and watches those of others.
#[derive(Default)]
pub(crate) struct Keeper {
    ours: Vec<(Weak<Owner>, Instant)>,
    watch: OwnerWatch,
    next_look: Option<Instant>,
}

impl Keeper {
    /// Renews this owner's lease from now on, until it is dropped or has left.
    pub(crate) fn keep(&mut self, owner: &Arc<Owner>) {
        self.ours.push((Arc::downgrade(owner), Instant::now() + owner.lease / 3));
        self.next_look.get_or_insert_with(Instant::now);
    }

    /// Says that the file takes nothing now, and that it does again: to those who wait for it, and
    /// not to whoever gets the error.
    fn tell(&self, shared: &StoreShared, result: &Result<(), BrokerError>) {
        match result {
            Err(error) if matches!(error.kind, ErrorKind::Transient | ErrorKind::Unwritable) => {
                if !self.ours.is_empty() {
                    shared.is_unable(&error.message);
                }
            }
            Ok(()) => shared.is_able(),
            Err(_) => {}
        }
    }

    fn next(&mut self) -> Option<Instant> {
        self.ours.retain(|(owner, _)| owner.upgrade().is_some_and(|owner| owner.number() > 0));
        if self.ours.is_empty() {
            self.next_look = None;
        }
        self.ours.iter().map(|(_, next)| *next).chain(self.next_look).min()
    }

    /// Returns those of ours that are due to show that they live.
    fn beats(&mut self, now: Instant) -> Vec<Arc<Owner>> {
        let mut due = Vec::new();
        for (owner, next) in &mut self.ours {
            if *next <= now
                && let Some(owner) = owner.upgrade()
            {
                *next = now + owner.lease / 3;
                due.push(owner);
            }
        }
        due
    }

    /// Looks at all owners, if it is time; who is dead. Where the bell is heard, a process that
    /// ends is seen at once, and what is left is to see who stands still: at the beat of the
    /// shortest lease, and together with our own.
    fn look(&mut self, conn: &Connection, now: Instant, is_heard: bool) -> rusqlite::Result<Vec<i64>> {
        if self.next_look.is_none_or(|next| next > now) {
            return Ok(Vec::new());
        }
        let all = owners::all(conn)?;
        let shortest = all.iter().map(|owner| owner.lease / 3).min().unwrap_or(LOOK);
        let between = if is_heard { shortest } else { shortest.min(LOOK) }.max(Duration::from_millis(10));
        let next = now + between;
        let beat = self.ours.iter().map(|(_, beat)| *beat).filter(|beat| *beat <= next).max();
        self.next_look = Some(beat.unwrap_or(next));
        let ours: Vec<_> = self.ours.iter().filter_map(|(owner, _)| owner.upgrade()).map(|owner| owner.number()).collect();
        let others = all.iter().filter(|owner| !ours.contains(&owner.number));
        let leases: Vec<_> = others.map(|owner| (owner.number, owner.beat, owner.lease)).collect();
        let mut dead = self.watch.look(&leases, now, 2 * between + LATE);
        dead.extend(all.iter().filter(|owner| life::surely_dead(&owner.who)).map(|owner| owner.number));
        dead.sort_unstable();
        dead.dedup();
        Ok(dead)
    }
}

/// Runs until all senders are gone.
pub(crate) fn run(shared: &Arc<StoreShared>, mut conn: Connection, ops: &Receiver<Box<dyn Op>>) {
    file::work_for(shared);
    let (mut keeper, mut next_sweep) = (Keeper::default(), Instant::now() + SWEEP);
    let mut along: Vec<Box<dyn Op>> = Vec::new();
    loop {
        let mut group: Vec<Box<dyn Op>> = Vec::new();
        match keeper.next() {
            None => match ops.recv() {
                Ok(op) => group.push(op),
                Err(_) => break,
            },
            Some(next) => match ops.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(op) => group.push(op),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            },
        }
        // What waits already goes along: a commit costs about the same for many steps as for one.
        while group.len() < MOST
            && let Ok(op) = ops.try_recv()
        {
            group.push(op);
        }
        // Some steps are not worth a transaction of their own: they wait for one, until too many
        // do.
        along.extend(group.extract_if(.., |op| op.goes_along()));
        if let Err(error) = shared.poisoned() {
            along.clear();
            group.into_iter().for_each(|op| op.done(Err(error.clone())));
            keeper = Keeper::default();
            continue;
        }
        // Taken before the transaction, because a lease counts from when its renewal was asked for.
        let (now, asked) = (Instant::now(), lease::clock());
        let beats = keeper.beats(now);
        let dead = keeper.look(&conn, now, shared.bell.is_heard()).map_err(|error| shared.fault(&error)).unwrap_or_default();
        if group.is_empty() && beats.is_empty() && dead.is_empty() && along.len() < ALONG {
            continue;
        }
        group.append(&mut along);
        let sweep = now >= next_sweep;
        if sweep {
            next_sweep = now + SWEEP;
        }
        let result = transaction(shared, &mut conn, &mut keeper, false, |step| {
            owners::beat(step, &beats)?;
            // After a long wait for the lock others may only look dead: they could not show that
            // they live.
            if !step.slow {
                for number in dead {
                    step.wake |= owners::rescue(step.conn, number)?;
                }
            }
            if sweep {
                sweep::sweep(step.conn)?;
            }
            group.iter_mut().try_for_each(|op| op.run(step))
        });
        let renewed = || {
            let confirmed = lease::clock();
            beats.iter().for_each(|owner| owner.renewal.renewed(asked, confirmed));
        };
        if result.is_ok() {
            renewed();
        }
        keeper.tell(shared, &result);
        match result {
            // What one of them asks for is no concern of the others: each is tried alone.
            Err(error) if matches!(error.kind, ErrorKind::Refused | ErrorKind::Unwritable) => {
                if !beats.is_empty() && transaction(shared, &mut conn, &mut keeper, true, |step| owners::beat(step, &beats)).is_ok() {
                    renewed();
                }
                for mut op in group {
                    let result = transaction(shared, &mut conn, &mut keeper, true, |step| op.run(step));
                    op.done(result);
                }
            }
            result => group.into_iter().for_each(|op| op.done(result.clone())),
        }
    }
    // The last one to close a file tidies it up.
    drop(conn);
}

fn transaction(
    shared: &StoreShared,
    conn: &mut Connection,
    keeper: &mut Keeper,
    careful: bool,
    all: impl FnOnce(&mut Step<'_>) -> rusqlite::Result<()>,
) -> Result<(), BrokerError> {
    shared.still_there(conn)?;
    let begun = Instant::now();
    let begin = conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
    let slow = begin.is_err() || begun.elapsed() > SLOW;
    if slow {
        keeper.watch.reset();
    }
    begin.map_err(|error| shared.fault(&error))?;
    let mut step = Step { conn, wake: false, named: None, slow, careful, place: &shared.place, keeper };
    let done = all(&mut step).and_then(|()| step.conn.prepare_cached("COMMIT")?.execute([]));
    let wake = step.wake;
    if let Err(error) = done {
        let _ = conn.execute_batch("ROLLBACK");
        // Others cannot show either that they live.
        keeper.watch.reset();
        shared.still_there(conn)?;
        return Err(match shared.meaning(&error) {
            // What was begun is undone, so what is in the file is what was confirmed.
            (Some(kind), message) if conn.is_autocommit() => BrokerError { kind, message },
            (_, message) => shared.poison(message),
        });
    }
    // A file that was taken away takes all writes without an error.
    shared.still_there(conn)?;
    if wake {
        shared.changed.notify_waiters();
        shared.bell.ring();
    }
    Ok(())
}

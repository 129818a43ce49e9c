//! What events change in the tables. One thread writes; it also knows which workers are there.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    level_rows,
    levels::QueueLevel,
    state::{PastState, after},
    traffic::Traffic,
};
use crate::heard::HeardEvent;

/// Most steps of one task that are kept: its first one, and the last of the others.
const MOST_STEPS: i64 = 100;
/// Part of its bytes from which on the file is full, in percent.
const FULL: u64 = 90;
/// Time after which a worker whose events were late is believed that it runs nothing, in
/// milliseconds.
const CALM: i64 = 10_000;
/// Most workers that are known at once, as many as the roll has that says who is gone.
const MOST_WORKERS: usize = 10_000;

/// News for the history.
#[derive(Debug)]
pub(crate) enum Note {
    /// An event of a task.
    Task(std::sync::Arc<HeardEvent>),
    /// A worker is there.
    Beat {
        /// Its name.
        node: String,
        /// Its process.
        pid: Option<i64>,
        /// Number of tasks that it says it runs.
        active: Option<i64>,
        /// Time of arrival, in milliseconds since 1970.
        heard: i64,
    },
    /// A worker is gone: it said so, or was asked and did not answer.
    Gone {
        /// Its name.
        node: String,
        /// True where it said so itself.
        said: bool,
        /// Time of that, in milliseconds since 1970.
        heard: i64,
    },
    /// Number of messages that wait in all queues.
    Waiting(u64),
    /// Lengths and ages of queues.
    Levels(Vec<(String, QueueLevel)>),
    /// Number of events that were left out before they came here.
    LeftOut(u64),
    /// Somebody read nonsense: is the file sound?
    Check,
    /// Nothing more comes.
    End,
}

/// Limits of the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    pub(crate) tasks: u64,
    pub(crate) bytes: u64,
}

/// A worker, as far as its heartbeats say.
#[derive(Clone, Debug)]
struct AtWork {
    pid: Option<i64>,
    active: Option<i64>,
}

/// The tables and what has to be known beside them.
#[derive(Debug)]
pub(crate) struct Book {
    limits: RingLimits,
    tasks: u64,
    workers: BTreeMap<String, AtWork>,
    traffic: Traffic,
}

/// A task, as the tables have it.
struct Row {
    n: i64,
    state: PastState,
    worker: Option<String>,
    pid: Option<i64>,
    attempts: i64,
    steps: i64,
}

impl Book {
    /// Begins with what the tables hold.
    pub(crate) fn open(conn: &Connection, limits: RingLimits) -> rusqlite::Result<Self> {
        let tasks = conn.query_row("SELECT count(*) FROM tasks", [], |row| row.get::<_, i64>(0))?;
        Ok(Self { limits, tasks: u64::try_from(tasks).unwrap_or_default(), workers: BTreeMap::new(), traffic: Traffic::default() })
    }

    /// Returns workers that tasks are said to be at.
    pub(crate) fn holders(conn: &Connection) -> rusqlite::Result<Vec<String>> {
        let mut find = conn.prepare("SELECT DISTINCT worker FROM tasks WHERE state IN (1, 2) AND worker IS NOT NULL")?;
        find.query_map([], |row| row.get(0))?.collect()
    }

    /// Writes what has come, in one transaction, and makes room for it.
    pub(crate) fn write(&mut self, conn: &mut Connection, notes: &[Note], now: i64) -> rusqlite::Result<()> {
        // What is known beside the tables goes back with them where they cannot be written.
        let before = self.tasks;
        let mut workers = BTreeMap::new();
        let done = (|| {
            let all = conn.transaction()?;
            for note in notes {
                if let Note::Beat { node, .. } | Note::Gone { node, .. } = note
                    && !workers.contains_key(node)
                {
                    workers.insert(node.clone(), self.workers.get(node).cloned());
                }
                self.note(&all, note, now)?;
            }
            let running = self.workers.values().map(|worker| worker.active.unwrap_or(0)).sum();
            self.traffic.gauges(running, self.workers.len());
            self.traffic.write(&all, now)?;
            self.trim(&all)?;
            all.commit()
        })();
        if done.is_err() {
            self.tasks = before;
            for (node, worker) in workers {
                match worker {
                    Some(worker) => drop(self.workers.insert(node, worker)),
                    None => drop(self.workers.remove(&node)),
                }
            }
        }
        self.traffic.forget();
        done
    }

    fn note(&mut self, conn: &Connection, note: &Note, now: i64) -> rusqlite::Result<()> {
        match note {
            Note::Task(event) => self.task(conn, event),
            Note::Beat { node, pid, active, heard } => self.beat(conn, node, *pid, *active, *heard),
            Note::Gone { node, said, heard } => self.gone(conn, node, *said, *heard),
            Note::Waiting(count) => {
                self.traffic.waiting(*count);
                Ok(())
            }
            Note::Levels(queues) => level_rows::write(conn, queues, now),
            Note::LeftOut(count) => {
                self.traffic.left_out(*count);
                Ok(())
            }
            Note::Check | Note::End => Ok(()),
        }
    }

    fn task(&mut self, conn: &Connection, event: &HeardEvent) -> rusqlite::Result<()> {
        let Some(id) = event.id.as_deref().filter(|id| !id.is_empty()) else { return Ok(()) };
        self.traffic.event(event);
        let before = find(conn, id)?;
        let Some(state) = after(&event.kind, event.requeue, before.as_ref().map(|row| row.state)) else { return Ok(()) };
        // A client that sends is no worker.
        let at_worker = (event.kind != "task-sent").then_some(event.worker.as_str());
        let taken_over = before.as_ref().is_some_and(|row| {
            at_worker.is_some()
                && row.worker.is_some()
                && row.worker.as_deref() != at_worker
                && matches!(row.state, PastState::Lost | PastState::Unheard)
        });
        let row = match before {
            Some(row) => row,
            None => self.insert(conn, id, event)?,
        };
        if taken_over {
            let from = format!("from {}", row.worker.as_deref().unwrap_or_default());
            step(conn, &row, "taken-over", at_worker, (event.heard_ms, event.timestamp), Some(&from))?;
        }
        let says = event.says();
        step(
            conn,
            &row,
            &event.kind,
            Some(&event.worker),
            (event.heard_ms, event.timestamp),
            Some(says.as_str()).filter(|text| !text.is_empty()),
        )?;
        let attempts = row.attempts + i64::from(event.kind == "task-started");
        update(conn, &row, event, state, at_worker, attempts)?;
        describe(conn, row.n, event)
    }

    fn insert(&mut self, conn: &Connection, id: &str, event: &HeardEvent) -> rusqlite::Result<Row> {
        let mut insert = conn.prepare_cached("INSERT INTO tasks(id, state, heard) VALUES (?1, 0, ?2)")?;
        insert.execute(params![id, event.heard_ms])?;
        self.tasks += 1;
        Ok(Row { n: conn.last_insert_rowid(), state: PastState::Waiting, worker: None, pid: None, attempts: 0, steps: 0 })
    }

    /// Notes that a worker is there: with another process than before, what that one had is lost;
    /// with the same one, it was not.
    fn beat(&mut self, conn: &Connection, node: &str, pid: Option<i64>, active: Option<i64>, heard: i64) -> rusqlite::Result<()> {
        let known = self.workers.get(node);
        if known.is_none() && self.workers.len() >= MOST_WORKERS {
            // Nobody would say that this one is gone.
            return Ok(());
        }
        let is_same = known.is_some_and(|worker| worker.pid == pid);
        let was_idle = is_same && known.is_some_and(|worker| worker.active == Some(0));
        // One that is asked for says nothing of what runs.
        let active = active.or_else(|| known.filter(|_| is_same).and_then(|worker| worker.active));
        self.workers.insert(node.to_owned(), AtWork { pid, active });
        if !is_same {
            let rows = held(conn, "state IN (1, 2) AND pid IS NOT ?2", params![node, pid])?;
            change(conn, &rows, PastState::Lost, ("lost", "its worker was started anew"), heard)?;
            let rows = held(conn, "state = 8 AND pid IS ?2 AND was IS NOT NULL", params![node, pid])?;
            for row in rows {
                let was: i64 = conn.query_row("SELECT was FROM tasks WHERE n = ?1", [row.n], |row| row.get(0))?;
                change(conn, &[row], PastState::of_number(was), ("found", "its worker is heard again"), heard)?;
            }
        }
        if was_idle && active == Some(0) {
            let rows = held(conn, "state = 2 AND heard < ?2", params![node, heard - CALM])?;
            change(conn, &rows, PastState::Unheard, ("unheard", "its worker runs nothing any more"), heard)?;
        }
        Ok(())
    }

    /// Notes that a worker is gone. One that says so has handed back what it had not begun.
    fn gone(&mut self, conn: &Connection, node: &str, said: bool, heard: i64) -> rusqlite::Result<()> {
        self.workers.remove(node);
        if said {
            let rows = held(conn, "state = 1", params![node])?;
            change(conn, &rows, PastState::Waiting, ("back", "its worker went, and handed it back"), heard)?;
        }
        let rows = held(conn, "state IN (1, 2)", params![node])?;
        let why = if said { "its worker went before it ended" } else { "its worker has not been heard any more" };
        change(conn, &rows, PastState::Lost, ("lost", why), heard)
    }

    /// Takes out the oldest where there are too many, or where they are too large.
    fn trim(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut surplus = self.tasks.saturating_sub(self.limits.tasks);
        let (all, used) = super::file::sizes(conn)?;
        if used > self.limits.bytes / 100 * FULL {
            surplus = surplus.max((self.tasks / 20).max(1));
        }
        let surplus = surplus.min(self.tasks);
        if surplus > 0 {
            let oldest = "SELECT n FROM tasks ORDER BY n LIMIT ?1";
            for table in ["steps WHERE task", "texts WHERE n", "tasks WHERE n"] {
                conn.execute(&format!("DELETE FROM {table} IN ({oldest})"), [surplus.cast_signed()])?;
            }
            self.tasks -= surplus;
        }
        if all > self.limits.bytes {
            conn.execute_batch("PRAGMA incremental_vacuum(2000)")?;
        }
        Ok(())
    }

    /// Makes room in a file that takes nothing more.
    pub(crate) fn shrink(&mut self, conn: &mut Connection) -> rusqlite::Result<()> {
        let all = conn.transaction()?;
        let most = std::mem::replace(&mut self.limits.tasks, self.tasks / 4 * 3);
        let done = self.trim(&all);
        self.limits.tasks = most;
        done?;
        all.commit()
    }
}

fn find(conn: &Connection, id: &str) -> rusqlite::Result<Option<Row>> {
    let mut find = conn.prepare_cached("SELECT n, state, worker, pid, attempts, steps FROM tasks WHERE id = ?1")?;
    find.query_row([id], row_of).optional()
}

fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let state = PastState::of_number(row.get(1)?);
    Ok(Row { n: row.get(0)?, state, worker: row.get(2)?, pid: row.get(3)?, attempts: row.get(4)?, steps: row.get(5)? })
}

/// Returns tasks of the worker ?1 of which this is true.
fn held(conn: &Connection, which: &str, params: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Row>> {
    let mut find = conn.prepare_cached(&format!(
        "SELECT n, state, worker, pid, attempts, steps FROM tasks WHERE state IN (1, 2, 8) AND worker = ?1 AND {which}"
    ))?;
    find.query_map(params, row_of)?.collect()
}

/// Changes the state of tasks of which no event told.
fn change(conn: &Connection, rows: &[Row], state: PastState, (kind, why): (&str, &str), heard: i64) -> rusqlite::Result<()> {
    for row in rows {
        step(conn, row, kind, row.worker.as_deref(), (heard, heard as f64 / 1e3), Some(why))?;
        let was = (state == PastState::Lost).then(|| row.state.number());
        let mut update = conn.prepare_cached("UPDATE tasks SET state = ?2, was = ?3, heard = ?4 WHERE n = ?1")?;
        update.execute(params![row.n, state.number(), was, heard])?;
    }
    Ok(())
}

/// Writes a step of a task; beyond [`MOST_STEPS`] the second one goes.
fn step(
    conn: &Connection,
    row: &Row,
    kind: &str,
    worker: Option<&str>,
    (heard, at): (i64, f64),
    text: Option<&str>,
) -> rusqlite::Result<()> {
    let mut insert = conn.prepare_cached("INSERT INTO steps(task, kind, worker, heard, at, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    insert.execute(params![row.n, kind, worker, heard, at, text])?;
    let mut count = conn.prepare_cached("UPDATE tasks SET steps = steps + 1 WHERE n = ?1")?;
    count.execute([row.n])?;
    if row.steps >= MOST_STEPS {
        let second = "SELECT n FROM steps WHERE task = ?1 ORDER BY n LIMIT 1 OFFSET 1";
        conn.prepare_cached(&format!("DELETE FROM steps WHERE n = ({second})"))?.execute([row.n])?;
    }
    Ok(())
}

fn update(conn: &Connection, row: &Row, event: &HeardEvent, state: PastState, worker: Option<&str>, attempts: i64) -> rusqlite::Result<()> {
    let at = |kind: &str| (event.kind == kind).then_some(event.timestamp);
    let has_ended = matches!(event.kind.as_str(), "task-succeeded" | "task-failed" | "task-revoked" | "task-rejected");
    let error = event.error.as_deref().and_then(|error| error.lines().next());
    // What is tried again has no end yet, and what succeeds no error any more.
    let mut update = conn.prepare_cached(
        "UPDATE tasks SET state = ?2, was = NULL, heard = ?3, name = coalesce(?4, name), queue = coalesce(?5, queue), worker = coalesce(?6, worker),
             pid = coalesce(?7, pid), sent = coalesce(?8, sent), received = coalesce(?9, received), started = coalesce(?10, started),
             ended = CASE WHEN ?11 IS NOT NULL THEN ?11 WHEN ?2 IN (0, 1, 2, 3) THEN NULL ELSE ended END,
             took = CASE WHEN ?12 IS NOT NULL THEN ?12
                         WHEN ?11 IS NOT NULL AND started IS NOT NULL AND state = 2 THEN max(0, ?11 - started) WHEN ?2 = 2 THEN NULL ELSE took END,
             attempts = ?13, error = CASE WHEN ?2 = 4 THEN NULL ELSE coalesce(?14, error) END, clock = ?15
         WHERE n = ?1",
    )?;
    update.execute(params![
        row.n,
        state.number(),
        event.heard_ms,
        event.task,
        event.queue,
        worker,
        worker.and(event.pid).or(row.pid),
        at("task-sent"),
        at("task-received"),
        at("task-started"),
        has_ended.then_some(event.timestamp),
        event.runtime,
        attempts,
        error,
        event.clock,
    ])?;
    Ok(())
}

/// Keeps what lists need not read.
fn describe(conn: &Connection, n: i64, event: &HeardEvent) -> rusqlite::Result<()> {
    let HeardEvent { args, kwargs, result, error, traceback, root, parent, eta, expires, exchange, routing_key, .. } = event;
    if [args, kwargs, result, error, traceback, root, parent, eta, expires, exchange, routing_key].iter().all(|text| text.is_none()) {
        return Ok(());
    }
    let mut write = conn.prepare_cached(
        "INSERT INTO texts(n, args, kwargs, result, error, traceback, root, parent, eta, expires, exchange, routing_key)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT(n) DO UPDATE SET args = coalesce(excluded.args, args), kwargs = coalesce(excluded.kwargs, kwargs),
             result = coalesce(excluded.result, result), error = coalesce(excluded.error, error),
             traceback = CASE WHEN excluded.error IS NULL THEN traceback ELSE excluded.traceback END, root = coalesce(excluded.root, root),
             parent = coalesce(excluded.parent, parent), eta = coalesce(excluded.eta, eta), expires = coalesce(excluded.expires, expires),
             exchange = coalesce(excluded.exchange, exchange), routing_key = coalesce(excluded.routing_key, routing_key)",
    )?;
    write.execute(params![n, args, kwargs, result, error, traceback, root, parent, eta, expires, exchange, routing_key])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_known_within_bounds_and_one_that_goes_leaves_room() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = super::super::file::open(&dir.path().join("history.db"), 1 << 26, false);
        let Ok(mut file) = file else { panic!("a fresh file is opened") };
        let mut book = Book::open(&file.conn, RingLimits { tasks: 10, bytes: 1 << 26 }).unwrap();
        let beat = |number: usize| Note::Beat { node: format!("{number}@h"), pid: Some(1), active: Some(1), heard: 1 };
        let beats: Vec<Note> = (0..MOST_WORKERS + 5).map(beat).collect();
        book.write(&mut file.conn, &beats, 1).unwrap();
        assert_eq!(book.workers.len(), MOST_WORKERS);
        let gone = Note::Gone { node: "7@h".to_owned(), said: true, heard: 2 };
        book.write(&mut file.conn, &[gone, beat(MOST_WORKERS), beat(MOST_WORKERS + 1)], 2).unwrap();
        let knows = |number: usize| book.workers.contains_key(&format!("{number}@h"));
        assert_eq!([7, MOST_WORKERS, MOST_WORKERS + 1].map(knows), [false, true, false]);
    }

    #[test]
    fn a_restart_of_a_worker_is_known_though_the_file_was_full_when_it_was_told() {
        let dir = tempfile::TempDir::new().unwrap();
        let Ok(mut file) = super::super::file::open(&dir.path().join("history.db"), 1 << 26, false) else {
            panic!("a fresh file is opened")
        };
        let mut book = Book::open(&file.conn, RingLimits { tasks: 10, bytes: 1 << 26 }).unwrap();
        let beat = |pid: i64| Note::Beat { node: "w@h".to_owned(), pid: Some(pid), active: Some(1), heard: 1 };
        let task = |id: &str, pid: i64, more: &str| {
            let event =
                HeardEvent { kind: "task-started".to_owned(), id: Some(id.to_owned()), worker: "w@h".to_owned(), ..HeardEvent::default() };
            Note::Task(std::sync::Arc::new(HeardEvent { pid: Some(pid), args: Some(more.to_owned()), ..event }))
        };
        book.write(&mut file.conn, &[beat(1), task("held", 1, "")], 1).unwrap();
        // The file takes not one page more.
        let pages: i64 = file.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        let most = |conn: &Connection, pages: i64| conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
        most(&file.conn, pages);
        let batch = [beat(2), task("new", 2, &"x".repeat(100_000))];
        let full = book.write(&mut file.conn, &batch, 2).unwrap_err();
        assert_eq!(full.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        most(&file.conn, 1 << 16);
        book.write(&mut file.conn, &batch, 3).unwrap();
        assert_eq!(find(&file.conn, "held").unwrap().unwrap().state, PastState::Lost);
        assert_eq!(find(&file.conn, "new").unwrap().unwrap().state, PastState::Started);
    }
}

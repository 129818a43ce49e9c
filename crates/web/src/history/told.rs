//! Remembered tasks in the words of Celery's events: the members that Celery's own tools have of a
//! task, and a search that sorts and skips.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::{
    matching::{Conditions, FROM_BOTH, Matching, word, word_sql},
    state::PastState,
};
use crate::heard::now_ms;

/// Most children that are named.
const MOST_CHILDREN: i64 = 50;

/// Search for tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToldQuery {
    /// Name, worker and state in Celery's word, in any case of letters.
    pub(crate) task: Option<String>,
    pub(crate) worker: Option<String>,
    pub(crate) state: Option<String>,
    /// They were received at this time of the local clock (`2026-11-21 12:00`) or later, and not
    /// after the second one; those whose time is not known are meant, too.
    pub(crate) received: [Option<String>; 2],
    /// Words that have to be there.
    pub(crate) matching: Option<Matching>,
    /// Order, and whether it is turned round; none: the latest news first.
    pub(crate) sort: Option<(SortKey, bool)>,
    pub(crate) offset: i64,
    pub(crate) limit: i64,
    /// Arguments and results are neither told nor looked into.
    pub(crate) hide_args: bool,
}

/// Member by which tasks are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortKey {
    Name,
    State,
    Received,
    Started,
}

/// A task with the members that Celery's events give it. Times are seconds since 1970. What is not
/// kept here (`expires`, `exchange`, `clock`) is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ToldTask {
    pub(crate) uuid: String,
    pub(crate) name: Option<String>,
    pub(crate) state: String,
    pub(crate) received: Option<f64>,
    pub(crate) sent: Option<f64>,
    pub(crate) started: Option<f64>,
    pub(crate) rejected: Option<f64>,
    pub(crate) succeeded: Option<f64>,
    pub(crate) failed: Option<f64>,
    pub(crate) retried: Option<f64>,
    pub(crate) revoked: Option<f64>,
    pub(crate) args: Option<String>,
    pub(crate) kwargs: Option<String>,
    pub(crate) eta: Option<String>,
    pub(crate) expires: Option<String>,
    pub(crate) retries: i64,
    pub(crate) worker: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) exception: Option<String>,
    pub(crate) timestamp: Option<f64>,
    pub(crate) runtime: Option<f64>,
    pub(crate) traceback: Option<String>,
    pub(crate) exchange: Option<String>,
    pub(crate) routing_key: Option<String>,
    pub(crate) clock: Option<i64>,
    pub(crate) client: Option<String>,
    pub(crate) root: Option<String>,
    pub(crate) root_id: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) parent_id: Option<String>,
    pub(crate) children: Vec<String>,
}

/// Returns the conditions of a search.
fn conditions(query: &ToldQuery) -> Conditions {
    let mut own = Conditions::default();
    let state = word_sql();
    for (column, text) in [("tasks.name", &query.task), ("tasks.worker", &query.worker), (state.as_str(), &query.state)] {
        if let Some(text) = text {
            let text = own.value(text.clone());
            own.sql.push(format!("{column} = {text} COLLATE NOCASE"));
        }
    }
    for (way, time) in [">=", "<="].into_iter().zip(&query.received) {
        if let Some(time) = time {
            let time = own.value(time.clone());
            // Without a zone a time is the local clock's.
            own.sql.push(format!("(tasks.received IS NULL OR tasks.received {way} CAST(strftime('%s', {time}, 'utc') AS REAL))"));
        }
    }
    if let Some(matching) = &query.matching {
        let matching = own.matching(matching, query.hide_args, now_ms());
        own.sql.push(matching);
    }
    own
}

const COLUMNS: &str = "tasks.n, tasks.id, tasks.state, name, queue, worker, sent, received, started, took, args, kwargs, result, texts.error, traceback, \
                       eta, root, parent";

/// Looks for tasks. Returns them in their order, and how many more there are.
pub(super) fn find(conn: &Connection, query: &ToldQuery) -> rusqlite::Result<(Vec<ToldTask>, i64)> {
    let conditions = conditions(query);
    let sql = conditions.sql();
    let state = word_sql();
    let (by, down) = match query.sort {
        // News of the same millisecond come in the order in which tasks were first heard of.
        None => ("tasks.heard", true),
        Some((SortKey::Name, down)) => ("lower(tasks.name)", down),
        Some((SortKey::State, down)) => (state.as_str(), down),
        Some((SortKey::Received, down)) => ("tasks.received", down),
        Some((SortKey::Started, down)) => ("tasks.started", down),
    };
    let (way, last) = (if down { "DESC" } else { "ASC" }, if query.sort.is_none() { "tasks.n" } else { "tasks.id" });
    let values = conditions.values();
    let matched: i64 = conn.prepare_cached(&format!("SELECT count(*) {FROM_BOTH} {sql}"))?.query_row(&values[..], |row| row.get(0))?;
    let (limit, offset) = (query.limit.max(0), query.offset.max(0));
    let sql = format!("SELECT {COLUMNS} {FROM_BOTH} {sql} ORDER BY {by} {way}, {last} {way} LIMIT {limit} OFFSET {offset}");
    let mut find = conn.prepare_cached(&sql)?;
    let mut rows = find.query(&values[..])?;
    let mut tasks = Vec::new();
    while let Some(row) = rows.next()? {
        tasks.push(read(conn, row, query.hide_args)?);
    }
    let rest = matched.saturating_sub(offset).max(0) - tasks.len() as i64;
    Ok((tasks, rest.max(0)))
}

/// Reads one task.
pub(super) fn one(conn: &Connection, id: &str, hide_args: bool) -> rusqlite::Result<Option<ToldTask>> {
    let mut find = conn.prepare_cached(&format!("SELECT {COLUMNS} {FROM_BOTH} WHERE tasks.id = ?1"))?;
    find.query_row([id], |row| read(conn, row, hide_args)).optional()
}

/// Returns the names of tasks that are remembered, in their order.
pub(super) fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut find = conn.prepare_cached("SELECT DISTINCT name FROM tasks WHERE name IS NOT NULL ORDER BY name")?;
    find.query_map([], |row| row.get(0))?.collect()
}

fn read(conn: &Connection, row: &rusqlite::Row<'_>, hide_args: bool) -> rusqlite::Result<ToldTask> {
    let (n, id, state): (i64, String, PastState) = (row.get(0)?, row.get(1)?, PastState::of_number(row.get(2)?));
    let shown = |text: Option<String>| text.filter(|_| !hide_args);
    let steps = Steps::read(conn, n)?;
    let (root, parent): (Option<String>, Option<String>) = (row.get(16)?, row.get(17)?);
    let has_failed = steps.times.contains_key("task-failed") || steps.times.contains_key("task-retried");
    let at = |kind: &str| steps.times.get(kind).copied();
    let args: Option<String> = row.get(10)?;
    // Kwargs that are empty are not kept; where there are arguments, somebody told of both.
    let kwargs = row.get::<_, Option<String>>(11)?.or_else(|| args.as_ref().map(|_| "{}".to_owned()));
    Ok(ToldTask {
        name: row.get(3)?,
        state: word(state).to_owned(),
        received: row.get(7)?,
        sent: row.get(6)?,
        started: row.get(8)?,
        rejected: at("task-rejected"),
        succeeded: at("task-succeeded"),
        failed: at("task-failed"),
        retried: at("task-retried"),
        revoked: at("task-revoked"),
        args: shown(args),
        kwargs: shown(kwargs),
        eta: row.get(15)?,
        retries: (steps.retried - i64::from(state == PastState::Retry)).max(0),
        worker: row.get(5)?,
        result: shown(row.get(12)?),
        exception: row.get::<_, Option<String>>(13)?.filter(|_| has_failed),
        timestamp: steps.last.or_else(|| at("task-sent")),
        runtime: row.get::<_, Option<f64>>(9)?.filter(|_| state == PastState::Success),
        traceback: shown(row.get(14)?),
        routing_key: row.get(4)?,
        client: steps.client,
        root: root.clone(),
        root_id: root,
        parent: parent.clone(),
        parent_id: parent,
        children: children(conn, &id)?,
        uuid: id,
        ..ToldTask::default()
    })
}

/// Steps of one task, together.
#[derive(Default)]
struct Steps {
    /// Time of the last step of each kind.
    times: BTreeMap<String, f64>,
    /// Time of the last event of a worker.
    last: Option<f64>,
    retried: i64,
    client: Option<String>,
}

impl Steps {
    fn read(conn: &Connection, task: i64) -> rusqlite::Result<Self> {
        let mut own = Self::default();
        let mut find = conn.prepare_cached("SELECT kind, at, worker FROM steps WHERE task = ?1 ORDER BY n")?;
        let mut rows = find.query([task])?;
        while let Some(row) = rows.next()? {
            let (kind, at): (String, f64) = (row.get(0)?, row.get(1)?);
            match kind.as_str() {
                "task-sent" => own.client = row.get(2)?,
                "task-retried" => own.retried += 1,
                _ => {}
            }
            if kind.starts_with("task-") {
                // Senders tell of it after they have sent it, sometimes when it has ended already.
                if kind != "task-sent" {
                    own.last = Some(own.last.map_or(at, |last| last.max(at)));
                }
                own.times.insert(kind, at);
            }
        }
        Ok(own)
    }
}

fn children(conn: &Connection, id: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!(
        "SELECT tasks.id FROM texts JOIN tasks ON tasks.n = texts.n WHERE texts.parent = ?1 ORDER BY tasks.n LIMIT {MOST_CHILDREN}"
    );
    let mut find = conn.prepare_cached(&sql)?;
    find.query_map([id], |row| row.get(0))?.collect()
}

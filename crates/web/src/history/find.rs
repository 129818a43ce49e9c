//! Search among remembered tasks, page by page.

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::{
    matching::{Conditions, MatchField, Matching, NamedColumn, stands},
    state::PastState,
};

/// Search for tasks; all of it has to be true.
#[derive(Clone, Debug, Default)]
pub(crate) struct PastQuery {
    /// They stand so; none: in any way.
    pub(crate) states: Vec<PastState>,
    /// Their ids, or what ids begin with.
    pub(crate) ids: Vec<String>,
    /// A search line.
    pub(crate) matching: Option<Matching>,
    /// Name, queue and worker; `*` stands for any text.
    pub(crate) task: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) worker: Option<String>,
    /// Text in the error.
    pub(crate) error: Option<String>,
    /// Their last event is not older than these seconds.
    pub(crate) since: Option<i64>,
    /// They took at least these seconds.
    pub(crate) took: Option<f64>,
    /// Their order; none: those first heard of last come first.
    pub(crate) sort: Option<PastSort>,
    /// Where the page before ended: they were first heard of before this one; in another order, so
    /// many come before it.
    pub(crate) before: Option<i64>,
    /// Most tasks of a page.
    pub(crate) most: usize,
    /// Nobody wants to know how many match: zero is answered.
    pub(crate) leaves_counts: bool,
}

/// Order of tasks; those that have nothing there come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastSort {
    column: &'static str,
    is_down: bool,
}

impl PastSort {
    /// Words for orders, and the columns that they are of.
    const ALL: [(&str, &str); 11] = [
        ("task", "name"),
        ("id", "id"),
        ("state", "state"),
        ("queue", "queue"),
        ("worker", "worker"),
        ("heard", "heard"),
        ("received", "received"),
        ("started", "started"),
        ("took", "took"),
        ("starts", "attempts"),
        ("error", "error"),
    ];

    /// Reads `took`, or `-took` for the other way round.
    pub(crate) fn of(word: &str) -> Option<Self> {
        let (name, is_down) = word.strip_prefix('-').map_or((word, false), |name| (name, true));
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, column)| Self { column, is_down })
    }

    /// Returns the words that [`of`](Self::of) reads.
    pub(crate) fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(|(word, _)| word)
    }
}

/// A remembered task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PastTask {
    /// The order in which it was first heard of.
    pub(crate) n: i64,
    pub(crate) id: String,
    pub(crate) state: &'static str,
    pub(crate) task: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) worker: Option<String>,
    /// Arrival of its last event, in seconds since 1970.
    pub(crate) heard: f64,
    pub(crate) sent: Option<f64>,
    pub(crate) received: Option<f64>,
    pub(crate) started: Option<f64>,
    pub(crate) ended: Option<f64>,
    pub(crate) took_seconds: Option<f64>,
    pub(crate) attempts: i64,
    pub(crate) error: Option<String>,
}

/// One page of what was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct PastPage {
    /// Those first heard of last come first.
    pub(crate) tasks: Vec<PastTask>,
    /// Number of all that match, on this page and others.
    pub(crate) matched: i64,
    /// Number of all that are remembered, by their state.
    pub(crate) by_state: Vec<(&'static str, i64)>,
    /// Place at which the next page begins.
    pub(crate) next: Option<i64>,
}

/// Columns of a task, in the order of [`read`].
pub(super) const COLUMNS: &str = "n, id, state, name, queue, worker, heard, sent, received, started, ended, took, attempts, error";

/// Reads a task.
pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<PastTask> {
    Ok(PastTask {
        n: row.get(0)?,
        id: row.get(1)?,
        state: PastState::of_number(row.get(2)?).word(),
        task: row.get(3)?,
        queue: row.get(4)?,
        worker: row.get(5)?,
        heard: row.get::<_, i64>(6)? as f64 / 1e3,
        sent: row.get(7)?,
        received: row.get(8)?,
        started: row.get(9)?,
        ended: row.get(10)?,
        took_seconds: row.get(11)?,
        attempts: row.get(12)?,
        error: row.get(13)?,
    })
}

/// Returns the columns with the name of their table, for whoever reads two.
pub(super) fn qualified() -> String {
    COLUMNS.split(", ").map(|column| format!("tasks.{column}")).collect::<Vec<_>>().join(", ")
}

fn conditions(query: &PastQuery, now: i64) -> Conditions {
    let mut own = Conditions::default();
    if !query.states.is_empty() {
        own.sql.push(stands(&query.states));
    }
    if !query.ids.is_empty() {
        let any: Vec<String> = query.ids.iter().map(|id| own.id(id)).collect();
        own.sql.push(format!("({})", any.join(" OR ")));
    }
    let named = [(NamedColumn::Task, &query.task), (NamedColumn::Queue, &query.queue), (NamedColumn::Worker, &query.worker)];
    for (column, pattern) in named.into_iter().filter_map(|(column, pattern)| Some((column, pattern.as_ref()?))) {
        let named = own.named(column, pattern);
        own.sql.push(named);
    }
    let error = query.error.as_ref().map(|error| Matching::Word(Some(MatchField::Error), error.clone()));
    for matching in error.iter().chain(&query.matching) {
        // Who may not see arguments may not search in them: the search line was refused then.
        let matching = own.matching(matching, false, now);
        own.sql.push(matching);
    }
    if let Some(since) = query.since {
        own.add("tasks.heard >=", now.saturating_sub(since.saturating_mul(1_000)));
    }
    if let Some(took) = query.took {
        own.add("tasks.took >=", took);
    }
    own
}

/// Names that somebody may look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownNames {
    pub(crate) tasks: Vec<String>,
    pub(crate) queues: Vec<String>,
    pub(crate) workers: Vec<String>,
}

/// Most of the latest tasks that are looked at for names, and most names of each kind.
const LATEST: usize = 5_000;
const MOST_KNOWN: usize = 100;

/// Returns names of the latest tasks, each once.
pub(super) fn known(conn: &Connection) -> rusqlite::Result<KnownNames> {
    let of = |column: &str| -> rusqlite::Result<Vec<String>> {
        let latest = format!("SELECT {column} AS name FROM tasks ORDER BY n DESC LIMIT {LATEST}");
        let sql = format!("SELECT DISTINCT name FROM ({latest}) WHERE name IS NOT NULL ORDER BY name LIMIT {MOST_KNOWN}");
        conn.prepare_cached(&sql)?.query_map([], |row| row.get(0))?.collect()
    };
    Ok(KnownNames { tasks: of("name")?, queues: of("queue")?, workers: of("worker")? })
}

/// Looks for tasks.
pub(super) fn find(conn: &Connection, query: &PastQuery, now: i64) -> rusqlite::Result<PastPage> {
    let mut conditions = conditions(query, now);
    let most = query.most.max(1);
    let by_state = if query.leaves_counts { Vec::new() } else { counts(conn)? };
    let only_states = conditions.values().is_empty() && query.matching.is_none();
    let (mut tasks, matched) = if query.leaves_counts || only_states {
        let of_states = |(state, _): &&(PastState, i64)| query.states.is_empty() || query.states.contains(state);
        let matched = by_state.iter().filter(of_states).map(|(_, count)| count).sum();
        (some(conn, query, &mut conditions, most + 1)?, matched)
    } else {
        counted(conn, query, &mut conditions, most + 1)?
    };
    let has_more = tasks.len() > most;
    tasks.truncate(most);
    let skip = query.before.unwrap_or(0).max(0);
    let next = tasks.last().filter(|_| has_more).map(|task| if query.sort.is_some() { skip + most as i64 } else { task.n });
    let by_state = by_state.into_iter().map(|(state, count)| (state.word(), count)).collect();
    Ok(PastPage { tasks, matched, by_state, next })
}

/// Finds the first tasks of a page, and looks no further.
fn some(conn: &Connection, query: &PastQuery, conditions: &mut Conditions, most: usize) -> rusqlite::Result<Vec<PastTask>> {
    let (order, skip) = match (query.sort, query.before) {
        (None, before) => {
            before.into_iter().for_each(|before| conditions.add("tasks.n <", before));
            ("tasks.n DESC".to_owned(), 0)
        }
        (Some(PastSort { column, is_down }), skip) => {
            let way = if is_down { "DESC" } else { "ASC" };
            (format!("tasks.{column} {way} NULLS LAST, tasks.n DESC"), skip.unwrap_or(0).max(0))
        }
    };
    let (columns, from, sql) = (qualified(), conditions.from(), conditions.sql());
    let mut find = conn.prepare_cached(&format!("SELECT {columns} {from} {sql} ORDER BY {order} LIMIT {most} OFFSET {skip}"))?;
    find.query_map(&conditions.values()[..], read)?.collect()
}

/// Finds the tasks of a page, and counts all that match: the tables are gone through once for both.
fn counted(conn: &Connection, query: &PastQuery, conditions: &mut Conditions, most: usize) -> rusqlite::Result<(Vec<PastTask>, i64)> {
    let (from, sql) = (conditions.from(), conditions.sql());
    let (key, order) = match query.sort {
        None => ("tasks.n".to_owned(), "n DESC".to_owned()),
        Some(PastSort { column, is_down }) => {
            (format!("tasks.{column}"), format!("key {} NULLS LAST, n DESC", if is_down { "DESC" } else { "ASC" }))
        }
    };
    let place = conditions.value(query.before);
    let page = match query.sort {
        None => format!("WHERE {place} IS NULL OR n < {place} ORDER BY {order} LIMIT {most}"),
        Some(_) => format!("ORDER BY {order} LIMIT {most} OFFSET max(coalesce({place}, 0), 0)"),
    };
    // The number comes in a row of its own, which is there also where the page is empty.
    let mut find = conn.prepare_cached(&format!(
        "WITH found AS MATERIALIZED (SELECT tasks.n AS n, {key} AS key {from} {sql})
         SELECT count(*), 1 FROM found UNION ALL SELECT * FROM (SELECT n, 0 FROM found {page})"
    ))?;
    let rows = find.query_map(&conditions.values()[..], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut one = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE n = ?1"))?;
    let (mut tasks, mut matched) = (Vec::new(), 0);
    for row in rows {
        match row? {
            (count, true) => matched = count,
            // What was forgotten meanwhile is left out.
            (n, false) => tasks.extend(one.query_row([n], read).optional()?),
        }
    }
    Ok((tasks, matched))
}

/// Counts all by their state.
fn counts(conn: &Connection) -> rusqlite::Result<Vec<(PastState, i64)>> {
    let mut by_state = conn.prepare_cached("SELECT state, count(*) FROM tasks GROUP BY state")?;
    by_state.query_map([], |row| Ok((PastState::of_number(row.get(0)?), row.get(1)?)))?.collect()
}

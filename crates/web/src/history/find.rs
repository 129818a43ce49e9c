//! Search among remembered tasks, page by page.

use rusqlite::{Connection, ToSql};
use serde::Serialize;

use super::state::PastState;

/// Search for tasks; all of it has to be true.
#[derive(Clone, Debug, Default)]
pub(crate) struct PastQuery {
    /// They stand so; none: in any way.
    pub(crate) states: Vec<PastState>,
    /// Their ids, or what ids begin with.
    pub(crate) ids: Vec<String>,
    /// Name, queue and worker; with `*` at the end, what those begin with.
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

/// A condition in SQL, with what it is about.
#[derive(Default)]
struct Conditions {
    sql: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn add(&mut self, sql: &str, value: impl ToSql + 'static) {
        self.values.push(Box::new(value));
        self.sql.push(sql.replace('?', &format!("?{}", self.values.len())));
    }

    /// Adds that a column is this, or begins so where there is a `*` at the end.
    fn named(&mut self, column: &str, pattern: Option<&String>) {
        match pattern.map(|pattern| pattern.strip_suffix('*').ok_or(pattern)) {
            Some(Ok(beginning)) => self.add(&format!("substr({column}, 1, length(?)) = ?"), beginning.to_owned()),
            Some(Err(name)) => self.add(&format!("{column} = ?"), name.clone()),
            None => {}
        }
    }

    fn of(query: &PastQuery, now: i64) -> Self {
        let mut own = Self::default();
        if !query.states.is_empty() {
            let numbers: Vec<String> = query.states.iter().map(|state| state.number().to_string()).collect();
            own.sql.push(format!("state IN ({})", numbers.join(", ")));
        }
        if !query.ids.is_empty() {
            let before = own.sql.len();
            for id in &query.ids {
                own.add("id >= ?", id.clone());
                let last = own.sql.pop().unwrap_or_default();
                // All texts that begin so lie between it and it with the last character behind it.
                own.add("id <= ?", format!("{id}\u{10ffff}"));
                let end = own.sql.pop().unwrap_or_default();
                own.sql.push(format!("({last} AND {end})"));
            }
            let any = own.sql.split_off(before).join(" OR ");
            own.sql.push(format!("({any})"));
        }
        own.named("name", query.task.as_ref());
        own.named("queue", query.queue.as_ref());
        own.named("worker", query.worker.as_ref());
        if let Some(error) = &query.error {
            own.add("error LIKE '%' || ? || '%' ESCAPE '\\'", escaped(error));
        }
        if let Some(since) = query.since {
            own.add("heard >= ?", now.saturating_sub(since.saturating_mul(1_000)));
        }
        if let Some(took) = query.took {
            own.add("took >= ?", took);
        }
        own
    }

    fn sql(&self) -> String {
        if self.sql.is_empty() { String::new() } else { format!("WHERE {}", self.sql.join(" AND ")) }
    }

    fn values(&self) -> Vec<&dyn ToSql> {
        self.values.iter().map(|value| &**value).collect()
    }
}

/// Takes the meaning from characters that mean something in a pattern.
pub(super) fn escaped(text: &str) -> String {
    text.chars().flat_map(|character| matches!(character, '%' | '_' | '\\').then_some('\\').into_iter().chain([character])).collect()
}

/// Looks for tasks.
pub(super) fn find(conn: &Connection, query: &PastQuery, now: i64) -> rusqlite::Result<PastPage> {
    let mut conditions = Conditions::of(query, now);
    let (matched, by_state) = if query.leaves_counts { (0, Vec::new()) } else { counts(conn, query, &conditions)? };
    let most = query.most.max(1);
    let (order, skip) = match (query.sort, query.before) {
        (None, before) => {
            before.into_iter().for_each(|before| conditions.add("n < ?", before));
            ("n DESC".to_owned(), 0)
        }
        (Some(PastSort { column, is_down }), skip) => {
            let way = if is_down { "DESC" } else { "ASC" };
            (format!("{column} {way} NULLS LAST, n DESC"), skip.unwrap_or(0).max(0))
        }
    };
    let sql = format!("SELECT {COLUMNS} FROM tasks {} ORDER BY {order} LIMIT {} OFFSET {skip}", conditions.sql(), most + 1);
    let mut find = conn.prepare_cached(&sql)?;
    let tasks: rusqlite::Result<Vec<PastTask>> = find.query_map(&conditions.values()[..], read)?.collect();
    let mut tasks = tasks?;
    let has_more = tasks.len() > most;
    tasks.truncate(most);
    let next = tasks.last().filter(|_| has_more).map(|task| if query.sort.is_some() { skip + most as i64 } else { task.n });
    Ok(PastPage { tasks, matched, by_state, next })
}

/// Tasks by their state.
type ByState = Vec<(&'static str, i64)>;

/// Counts those that match, and all by their state.
fn counts(conn: &Connection, query: &PastQuery, conditions: &Conditions) -> rusqlite::Result<(i64, ByState)> {
    let mut by_state = conn.prepare_cached("SELECT state, count(*) FROM tasks GROUP BY state")?;
    let by_state: rusqlite::Result<Vec<(i64, i64)>> = by_state.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect();
    let by_state = by_state?;
    let of_states = |states: &[PastState]| {
        by_state
            .iter()
            .filter(|(state, _)| states.is_empty() || states.contains(&PastState::of_number(*state)))
            .map(|(_, count)| count)
            .sum()
    };
    let only_states = conditions.values.is_empty();
    let matched = match only_states {
        true => of_states(&query.states),
        false => conn
            .prepare_cached(&format!("SELECT count(*) FROM tasks {}", conditions.sql()))?
            .query_row(&conditions.values()[..], |row| row.get(0))?,
    };
    let by_state = by_state.into_iter().map(|(state, count)| (PastState::of_number(state).word(), count)).collect();
    Ok((matched, by_state))
}

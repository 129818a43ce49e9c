//! What needs attention: tasks that failed lately, and tasks whose worker is gone.

use rusqlite::Connection;

use super::state::PastState;

/// Most tasks that are looked at, the latest first: a page asks each second.
const LATEST: usize = 10_000;
/// Most kinds of failures, and most workers.
const MOST_KINDS: usize = 1_000;
const MOST_WORKERS: usize = 20;

/// Tasks that failed with one error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailedTasks {
    pub(crate) task: Option<String>,
    /// The first line of their error.
    pub(crate) error: String,
    pub(crate) count: i64,
}

/// Tasks that one worker had when it was lost, and that nobody has told of since.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LostTasks {
    pub(crate) worker: String,
    pub(crate) count: i64,
    /// When the last of them was lost, in seconds since 1970.
    pub(crate) heard: f64,
}

/// What needs attention.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TroubledTasks {
    /// The most frequent first.
    pub(crate) failed: Vec<FailedTasks>,
    /// The worker that was lost last comes first.
    pub(crate) lost: Vec<LostTasks>,
}

/// Reads failures since this time, and all lost tasks.
pub(super) fn read(conn: &Connection, since: i64) -> rusqlite::Result<TroubledTasks> {
    let number = PastState::number;
    let latest =
        format!("SELECT name, error, heard FROM tasks WHERE state = {} ORDER BY n DESC LIMIT {LATEST}", number(PastState::Failure));
    let mut failed = conn.prepare_cached(&format!(
        "SELECT name, coalesce(error, ''), count(*) AS count FROM ({latest}) WHERE heard >= ?1
         GROUP BY 1, 2 ORDER BY count DESC, 2 LIMIT {MOST_KINDS}"
    ))?;
    let failed = failed.query_map([since], |row| Ok(FailedTasks { task: row.get(0)?, error: row.get(1)?, count: row.get(2)? }))?;
    // A search for lost tasks finds those whose end was not heard, too: the numbers are the same.
    let lost = number(PastState::Lost);
    let latest = format!(
        "SELECT worker, state, heard FROM tasks WHERE state IN ({lost}, {}) AND worker IS NOT NULL ORDER BY n DESC LIMIT {LATEST}",
        number(PastState::Unheard)
    );
    let mut gone = conn.prepare_cached(&format!(
        "SELECT worker, count(*), max(heard) FILTER (WHERE state = {lost}) AS last FROM ({latest})
         GROUP BY worker HAVING last IS NOT NULL ORDER BY last DESC LIMIT {MOST_WORKERS}"
    ))?;
    let lost =
        gone.query_map([], |row| Ok(LostTasks { worker: row.get(0)?, count: row.get(1)?, heard: row.get::<_, i64>(2)? as f64 / 1e3 }))?;
    Ok(TroubledTasks { failed: failed.collect::<rusqlite::Result<_>>()?, lost: lost.collect::<rusqlite::Result<_>>()? })
}

//! One remembered task: its steps with the times between them, and its relatives.

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::find::{self, COLUMNS, PastTask};

/// Most children that are named.
const MOST_CHILDREN: i64 = 50;

/// A step in a task's life.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PastStep {
    /// The event's kind, or `lost`, `found`, `taken-over`, `back`, `unheard`.
    pub(crate) kind: String,
    /// Its word for people: `started (2)`.
    pub(crate) word: String,
    pub(crate) worker: Option<String>,
    /// Time that the event says, in seconds since 1970.
    pub(crate) at: f64,
    /// Time of its arrival here.
    pub(crate) heard: f64,
    /// Time from the step before to this one, by the events' times; `None` for the first, and where
    /// clocks differ so that it would lie before.
    pub(crate) after_seconds: Option<f64>,
    pub(crate) text: Option<String>,
}

/// A task that belongs to another one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Relative {
    pub(crate) id: String,
    pub(crate) task: Option<String>,
    pub(crate) state: Option<&'static str>,
}

/// All that is remembered of a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Timeline {
    #[serde(flatten)]
    pub(crate) task: PastTask,
    pub(crate) steps: Vec<PastStep>,
    /// Number of steps that were left out after the first one.
    pub(crate) steps_left_out: i64,
    pub(crate) args: Option<String>,
    pub(crate) kwargs: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) error_text: Option<String>,
    pub(crate) traceback: Option<String>,
    pub(crate) eta: Option<String>,
    pub(crate) expires: Option<String>,
    /// Exchange and routing key that it was sent with, where its sender tells.
    pub(crate) exchange: Option<String>,
    pub(crate) routing_key: Option<String>,
    /// Logical clock of its last event.
    pub(crate) clock: Option<i64>,
    pub(crate) root: Option<Relative>,
    pub(crate) parent: Option<Relative>,
    pub(crate) children: Vec<Relative>,
    /// Number of children that are not named here.
    pub(crate) more_children: i64,
    /// Gaps in what is known of it, and why.
    pub(crate) unknown: Vec<&'static str>,
}

impl Timeline {
    /// Takes arguments and results out of its steps too, which a history may hold from a time when
    /// they were not hidden.
    pub(crate) fn without_args(mut self) -> Self {
        for step in &mut self.steps {
            step.text.take_if(|_| matches!(step.kind.as_str(), "task-sent" | "task-received" | "task-succeeded"));
        }
        self
    }
}

/// Reads it.
pub(super) fn read(conn: &Connection, id: &str) -> rusqlite::Result<Option<Timeline>> {
    let found = conn
        .prepare_cached(&format!("SELECT {COLUMNS}, steps, clock FROM tasks WHERE id = ?1"))?
        .query_row([id], |row| Ok((find::read(row)?, row.get::<_, i64>(14)?, row.get(15)?)));
    let Some((task, count, clock)) = found.optional()? else { return Ok(None) };
    let mut timeline = Timeline {
        steps: steps(conn, task.n)?,
        steps_left_out: 0,
        args: None,
        kwargs: None,
        result: None,
        error_text: None,
        traceback: None,
        eta: None,
        expires: None,
        exchange: None,
        routing_key: None,
        clock,
        root: None,
        parent: None,
        children: children(conn, id)?,
        more_children: 0,
        unknown: Vec::new(),
        task,
    };
    timeline.steps_left_out = (count - timeline.steps.len() as i64).max(0);
    let all: i64 = conn.prepare_cached("SELECT count(*) FROM texts WHERE parent = ?1")?.query_row([id], |row| row.get(0))?;
    timeline.more_children = (all - timeline.children.len() as i64).max(0);
    texts(conn, &mut timeline)?;
    timeline.unknown = unknown(&timeline.steps, &timeline.task);
    Ok(Some(timeline))
}

fn texts(conn: &Connection, timeline: &mut Timeline) -> rusqlite::Result<()> {
    let mut read = conn.prepare_cached(
        "SELECT args, kwargs, result, error, traceback, eta, root, parent, expires, exchange, routing_key FROM texts WHERE n = ?1",
    )?;
    let mut rows = read.query([timeline.task.n])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    (timeline.args, timeline.kwargs, timeline.result) = (row.get(0)?, row.get(1)?, row.get(2)?);
    (timeline.error_text, timeline.traceback, timeline.eta) = (row.get(3)?, row.get(4)?, row.get(5)?);
    // What it succeeded after is no error of its own any more: its steps tell of that.
    if timeline.task.error.is_none() {
        (timeline.error_text, timeline.traceback) = (None, None);
    }
    let (root, parent): (Option<String>, Option<String>) = (row.get(6)?, row.get(7)?);
    (timeline.expires, timeline.exchange, timeline.routing_key) = (row.get(8)?, row.get(9)?, row.get(10)?);
    // The first of its tree is its own root.
    timeline.root = root.filter(|root| *root != timeline.task.id).map(|root| relative(conn, root)).transpose()?;
    timeline.parent = parent.map(|parent| relative(conn, parent)).transpose()?;
    Ok(())
}

fn relative(conn: &Connection, id: String) -> rusqlite::Result<Relative> {
    let known = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?1"))?.query_row([&id], find::read).optional()?;
    Ok(match known {
        Some(task) => Relative { id, task: task.task, state: Some(task.state) },
        None => Relative { id, task: None, state: None },
    })
}

fn children(conn: &Connection, id: &str) -> rusqlite::Result<Vec<Relative>> {
    let columns = find::qualified();
    let mut find = conn.prepare_cached(&format!(
        "SELECT {columns} FROM texts JOIN tasks ON tasks.n = texts.n WHERE texts.parent = ?1 ORDER BY tasks.n LIMIT {MOST_CHILDREN}"
    ))?;
    let children = find.query_map([id], find::read)?;
    children.map(|task| task.map(|task| Relative { id: task.id, task: task.task, state: Some(task.state) })).collect()
}

fn steps(conn: &Connection, task: i64) -> rusqlite::Result<Vec<PastStep>> {
    let mut read = conn.prepare_cached("SELECT kind, worker, at, heard, text FROM steps WHERE task = ?1 ORDER BY n")?;
    let rows = read.query_map([task], |row| {
        let heard = row.get::<_, i64>(3)? as f64 / 1e3;
        Ok(PastStep {
            kind: row.get(0)?,
            word: String::new(),
            worker: row.get(1)?,
            at: row.get(2)?,
            heard,
            after_seconds: None,
            text: row.get(4)?,
        })
    })?;
    let mut steps: Vec<PastStep> = rows.collect::<rusqlite::Result<_>>()?;
    name(&mut steps);
    Ok(steps)
}

/// Gives steps their words, and the times between them.
fn name(steps: &mut [PastStep]) {
    let mut started = 0;
    let mut before: Option<f64> = None;
    for step in steps {
        started += u32::from(step.kind == "task-started");
        let word = step.kind.strip_prefix("task-").unwrap_or(&step.kind).replace('-', " ");
        step.word = if step.kind == "task-started" && started > 1 { format!("{word} ({started})") } else { word };
        step.after_seconds = before.map(|before| step.at - before).filter(|after| *after >= 0.0);
        before = Some(step.at);
    }
}

/// Says what is not known, and why.
fn unknown(steps: &[PastStep], task: &PastTask) -> Vec<&'static str> {
    let has = |kind: &str| steps.iter().any(|step| step.kind == kind);
    let mut unknown = Vec::new();
    if !has("task-sent") {
        unknown.push("When it was sent is not known: its sender tells nothing of that (Celery: task_send_sent_event).");
    }
    if !has("task-received") && !has("task-sent") {
        unknown.push("Its beginning is not known: events were off, or were left out, or this history was not yet kept.");
    }
    if task.ended.is_some() && !has("task-started") && has("task-succeeded") {
        unknown.push("When it started is not known: that event was not heard.");
    }
    if task.queue.is_none() {
        unknown.push("Its queue is not known: Celery's workers do not tell it in their events.");
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_words_and_times_between_them_and_clocks_that_differ_none() {
        let step = |kind: &str, at: f64| PastStep {
            kind: kind.to_owned(),
            word: String::new(),
            worker: None,
            at,
            heard: 0.0,
            after_seconds: None,
            text: None,
        };
        let mut steps = [
            step("task-received", 10.0),
            step("task-started", 10.5),
            step("task-retried", 9.0),
            step("task-started", 12.0),
            step("taken-over", 12.0),
        ];
        name(&mut steps);
        let shown: Vec<(&str, Option<f64>)> = steps.iter().map(|step| (step.word.as_str(), step.after_seconds)).collect();
        assert_eq!(
            shown,
            [("received", None), ("started", Some(0.5)), ("retried", None), ("started (2)", Some(3.0)), ("taken over", Some(0.0))]
        );
    }
}

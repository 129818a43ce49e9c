//! `tasks list` and `tasks show`.

use std::{io::Write, sync::Arc, time::SystemTime};

use longshore_celery::{State, repr};
use serde_json::{Value as Json, json};

use super::which::{Row, Which, each};
use crate::{
    commands::why::unknown,
    queue::{
        Fault, Place,
        show::{cut, plain, time, whereabouts},
        wait,
    },
    units::{show_count, show_duration},
};

/// So much of a message or a result is shown.
const SHOWN: usize = 4000;

pub(super) async fn list(which: &Which, limit: usize, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let seen = which.look(place, limit).await?;
    if place.json {
        seen.rows.iter().try_for_each(|row| writeln!(out, "{}", json(row)))?;
    } else {
        table(&seen.rows, which.is_all(), out)?;
    }
    out.flush()?;
    if seen.matched > seen.rows.len() {
        eprintln!("longshore: {} of {} (-n shows more)", show_count(seen.rows.len() as u64), show_count(seen.matched as u64));
    }
    for note in seen.notes() {
        eprintln!("longshore: {}", plain(&note));
    }
    // Of ids that were asked for, each is wanted.
    for id in which.ids.iter().filter(|id| !seen.rows.iter().any(|row| row.id == **id)) {
        eprintln!("longshore: {id}: not among them, or {}", unknown().message);
    }
    Ok(if seen.rows.is_empty() && !which.ids.is_empty() { 9 } else { 0 })
}

fn table(rows: &[Row], all: bool, out: &mut dyn Write) -> Result<(), Fault> {
    if rows.is_empty() {
        let none = if all { "no tasks yet: `longshore call NAME` sends one" } else { "no such tasks" };
        return Ok(writeln!(out, "{none}")?);
    }
    let now = SystemTime::now();
    let width = |least: usize, of: &dyn Fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0).max(least);
    let chars = |text: &Option<String>| text.as_ref().map_or(1, |text| text.chars().count());
    let (ids, tasks, queues) =
        (width(2, &|row| row.id.chars().count()), width(4, &|row| chars(&row.task)), width(5, &|row| chars(&row.queue)));
    writeln!(out, "{:<ids$}  {:<8} {:<tasks$}  {:<queues$}  {:>8}  WHAT", "ID", "STATE", "TASK", "QUEUE", "AGE")?;
    for row in rows {
        let age = row.at.map_or_else(|| "–".to_owned(), |at| show_duration(now.duration_since(at).unwrap_or_default()));
        let shown = |text: &Option<String>| text.as_deref().map_or_else(|| "–".to_owned(), plain);
        let line = format!(
            "{:<ids$}  {:<8} {:<tasks$}  {:<queues$}  {age:>8}  {}",
            plain(&row.id),
            row.standing.word(),
            shown(&row.task),
            shown(&row.queue),
            plain(&row.what())
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn json(row: &Row) -> Json {
    let mut document = json!({
        "id": row.id,
        "state": row.standing.word(),
        "task": row.task,
        "queue": row.queue,
        "worker": row.worker,
        "at": row.at.map(time),
        "args": row.args,
        "error": row.error,
    });
    if let Some(stored) = row.stored.as_ref().filter(|stored| stored.state == State::Success) {
        document["result"] = serde_json::from_slice(&stored.result.to_json()).unwrap_or(Json::Null);
    }
    document
}

pub(super) async fn show(id: &str, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let Some(row) = each(std::slice::from_ref(&id.to_owned()), place).await?.pop() else { return Err(unknown()) };
    if place.json {
        let mut document = json(&row);
        if let Some(stored) = &row.stored {
            document["stored"] = wait::document(id, stored);
        }
        let raw = row.found.as_ref().map(|found| &found.raw).or(row.letter.as_ref().map(|letter| &letter.raw));
        if let Some(raw) = raw {
            document["message"] = String::from_utf8_lossy(raw).into_owned().into();
        }
        writeln!(out, "{document}")?;
        return Ok(0);
    }
    writeln!(out, "{}[{}] {}", plain(row.task.as_deref().unwrap_or("task")), plain(id), plain(row.args.as_deref().unwrap_or_default()))?;
    let at = row.at.map(|at| format!(" since {}", time(at))).filter(|_| !row.standing.has_ended()).unwrap_or_default();
    writeln!(out, "  state    {}{at}", row.standing.word())?;
    if let Some(found) = &row.found {
        let states = place.broker().queues(&[Arc::from(found.queue.as_str())]).await?;
        let state = states.iter().find(|state| state.name == found.queue);
        writeln!(out, "  where    it {}", whereabouts(found, state, SystemTime::now()))?;
    }
    if let Some(at) = &row.at_worker {
        writeln!(out, "  where    it {at}")?;
    }
    for (name, value) in [("queue", &row.queue), ("worker", &row.worker)] {
        if let Some(value) = value {
            writeln!(out, "  {name:<7}  {}", plain(value))?;
        }
    }
    if let Some(letter) = &row.letter {
        writeln!(out, "  died     {}   crashes {}", time(letter.at), letter.crashes)?;
        writeln!(out, "  reason   {}", plain(&letter.reason))?;
    }
    if let Some(stored) = &row.stored {
        let done = stored.date_done.map(|at| format!(" at {}", time(at))).unwrap_or_default();
        writeln!(out, "  stored   {}{done}", stored.state)?;
        match stored.exception() {
            Some(error) => writeln!(out, "  error    {}", plain(&error.to_string()))?,
            None => writeln!(out, "  result   {}", plain(&cut(&repr(&stored.result), SHOWN)))?,
        }
        for (name, value) in [("group", &stored.group_id), ("parent", &stored.parent_id)] {
            if let Some(value) = value {
                writeln!(out, "  {name:<7}  {}", plain(value))?;
            }
        }
        if let Some(trace) = &stored.traceback {
            writeln!(out, "  traceback")?;
            trace.trim_end().lines().try_for_each(|line| writeln!(out, "    {}", plain(line)))?;
        }
    }
    let raw = row.found.as_ref().map(|found| &found.raw).or(row.letter.as_ref().map(|letter| &letter.raw));
    if let Some(raw) = raw {
        writeln!(out, "  message  {}", plain(&cut(&String::from_utf8_lossy(raw), SHOWN)))?;
    }
    Ok(0)
}

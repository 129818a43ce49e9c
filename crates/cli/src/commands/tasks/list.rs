//! `tasks list` and `tasks show`.

use std::{io::Write, time::SystemTime};

use longshore_celery::repr;
use longshore_ops::tasks::{self, TaskInfo};

use super::which::{Which, notes};
use crate::{
    commands::why::unknown,
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{at_worker, cut, json_line, plain, time, whereabouts},
    },
    units::{show_count, show_duration},
};

/// Most characters of a message or a result that are shown.
const SHOWN: usize = 4000;

pub(super) async fn list(which: &Which, limit: usize, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let request = which.request(limit);
    let list = tasks::list(&place.client, &request).await?;
    if place.json {
        list.tasks.iter().try_for_each(|task| json_line(out, task))?;
    } else {
        table(&list.tasks, request.is_all(), out)?;
    }
    out.flush()?;
    if list.matched > list.tasks.len() {
        eprintln!("longshore: {} of {} (-n shows more)", show_count(list.tasks.len() as u64), show_count(list.matched as u64));
    }
    for note in notes(&list) {
        eprintln!("longshore: {}", plain(&note));
    }
    // Of ids that were asked for, each is wanted.
    for id in which.ids.iter().filter(|id| !list.tasks.iter().any(|task| task.id == **id)) {
        eprintln!("longshore: {id}: not among them, or {}", unknown(place).message);
    }
    Ok(if list.tasks.is_empty() && !which.ids.is_empty() { Exit::Unknown } else { Exit::Done })
}

fn table(rows: &[TaskInfo], all: bool, out: &mut dyn Write) -> Result<(), Fault> {
    if rows.is_empty() {
        let none = if all { "no tasks yet: `longshore call NAME` sends one" } else { "no such tasks" };
        return Ok(writeln!(out, "{none}")?);
    }
    let now = SystemTime::now();
    let width = |least: usize, of: &dyn Fn(&TaskInfo) -> usize| rows.iter().map(of).max().unwrap_or(0).max(least);
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

pub(super) async fn show(id: &str, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let detail = tasks::show(&place.client, id).await?;
    if place.json {
        json_line(out, &detail)?;
        return Ok(Exit::Done);
    }
    let row = &detail.info;
    writeln!(out, "{}[{}] {}", plain(row.task.as_deref().unwrap_or("task")), plain(id), plain(row.args.as_deref().unwrap_or_default()))?;
    // When a task ended the line of its stored result says.
    let at = row.at.map(|at| format!(" since {}", time(at))).filter(|_| !row.standing.has_ended()).unwrap_or_default();
    writeln!(out, "  state    {}{at}", row.standing.word())?;
    if let Some(found) = &row.found {
        writeln!(out, "  where    it {}", whereabouts(found, detail.queue_state.as_ref(), SystemTime::now()))?;
    }
    if let Some(at) = &row.at_worker {
        writeln!(out, "  where    it {}", at_worker(at))?;
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
            // Results may be megabytes long, and come from programs that write what they like.
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
    if let Some(message) = &detail.message {
        writeln!(out, "  message  {}", plain(&cut(message, SHOWN)))?;
    }
    Ok(Exit::Done)
}

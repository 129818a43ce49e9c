//! `tasks retry` and `tasks cancel`.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use longshore_brokers::{Key, Stored};
use longshore_celery::{Exception, State, TaskResult, Value, control::Request};
use longshore_worker::Signature;
use serde_json::json;

use super::which::{LONGEST, Row, Standing, Which, each};
use crate::{
    commands::{dead::put_back, queues::tasks, why::unknown},
    queue::{
        Fault, Place,
        remote::{PATIENCE, ask},
        show::{plain, whereabouts},
    },
    units::show_count,
};

/// The most that are changed by one command; the rest by the next.
const MOST: usize = 10_000;
/// So many results are read in one step.
const AT_ONCE: usize = 500;

/// The rows that are meant: of ids each one, else those that stand so.
async fn meant(which: &Which, standing: &[Standing], verb: &str, yes: bool, place: &Place) -> Result<Option<Vec<Row>>, Fault> {
    if !which.ids.is_empty() {
        return Ok(Some(each(&which.ids, place).await?));
    }
    let mut which = which.clone();
    match which.state.iter().find(|state| !standing.contains(state)) {
        Some(state) => {
            let words: Vec<_> = standing.iter().map(|state| state.word()).collect();
            let (state, words) = (state.word(), words.join(", "));
            return Err(Fault::usage(format!("--state {state}: to {verb} are tasks that are {words}")));
        }
        None if which.state.is_empty() => which.state = standing.to_vec(),
        None => {}
    }
    let seen = which.look(place, MOST).await?;
    for note in seen.notes() {
        eprintln!("longshore: {}", plain(&note));
    }
    let count = seen.rows.len() as u64;
    let of = if seen.matched > seen.rows.len() { format!(" (of {})", show_count(seen.matched as u64)) } else { String::new() };
    if count > 0 && !place.confirm(&format!("{verb} {} {}{of}?", show_count(count), tasks(count)), yes)? {
        return Ok(None);
    }
    Ok(Some(seen.rows))
}

/// Says what became of one task.
fn said(place: &Place, out: &mut dyn Write, id: &str, done: &str, more: &str) -> Result<(), Fault> {
    match place.json {
        true => writeln!(out, "{}", json!({ "id": id, done.replace(' ', "_"): true }))?,
        false => writeln!(out, "{}  {done}{}", plain(id), plain(more))?,
    }
    Ok(())
}

/// What could not be done, on stderr; the exit code.
fn refuse(worst: &mut u8, code: u8, id: &str, why: &str) {
    *worst = (*worst).max(code);
    eprintln!("longshore: {}: {}", plain(id), plain(why));
}

pub(super) async fn retry(which: &Which, yes: bool, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let Some(rows) = meant(which, &[Standing::Dead, Standing::Failure, Standing::Revoked], "retry", yes, place).await? else {
        return Ok(0);
    };
    let (mut worst, mut count) = (0, 0_u64);
    for row in &rows {
        match again(row, place).await? {
            Ok(more) => {
                count += 1;
                said(place, out, &row.id, "sent again", &more)?;
            }
            Err(why) => refuse(&mut worst, 1, &row.id, &why),
        }
    }
    finish(which, &rows, count, "sent again", worst, place, out)
}

/// Sends a task again, or says why not.
async fn again(row: &Row, place: &Place) -> Result<Result<String, String>, Fault> {
    let to_queue = row.queue.as_ref().map(|queue| format!(" to queue {queue}")).unwrap_or_default();
    if let Some(letter) = &row.letter {
        let back = put_back(std::slice::from_ref(letter), place).await?;
        return Ok(if back == 1 { Ok(to_queue) } else { Err("somebody else was faster".to_owned()) });
    }
    if let Some(found) = &row.found {
        return Ok(Err(format!("it {}", whereabouts(found, None, SystemTime::now()))));
    }
    let Some(stored) = row.stored.as_ref().filter(|_| row.standing.has_ended()) else {
        return Ok(Err("its result is no end: it may still run somewhere".to_owned()));
    };
    if row.standing == Standing::Success {
        return Ok(Err("it has succeeded; `longshore call` runs it once more under another id".to_owned()));
    }
    let extended = stored.extended.as_ref().and_then(|extended| Some((extended, extended.name.as_ref()?, extended.args.as_list()?)));
    let Some((extended, name, args)) = extended else {
        return Ok(Err(
            "its result does not keep its name and arguments; send it anew with `longshore call` (workers with --result-extended keep them)".to_owned()
        ));
    };
    let mut signature: Signature = Signature::named(name.as_str());
    if row.standing != Standing::Revoked {
        signature = signature.task_id(&row.id);
    }
    for arg in args {
        signature = signature.arg(arg);
    }
    for (key, value) in extended.kwargs.as_map().into_iter().flat_map(|kwargs| kwargs.iter()) {
        signature = signature.kwarg(key, value);
    }
    if let Some(queue) = &extended.queue {
        signature = signature.queue(queue);
    }
    if row.standing == Standing::Revoked {
        // Its own id is called off for hours.
        let answer = place.client.send(signature).await?;
        return Ok(Ok(format!("{to_queue} as {}", answer.id())));
    }
    let before = again_from_now([row.id.clone()], place).await?;
    if let Err(error) = place.client.send(signature).await {
        // As it was: nobody shall wait for what was not sent.
        place.client.results().store(&before).await?;
        return Err(error.into());
    }
    Ok(Ok(to_queue))
}

fn document(id: String, doc: Vec<u8>) -> Stored {
    Stored { key: Key::Task(id), doc, expires: Some(Duration::from_secs(86_400)), keep_success: true }
}

/// Whoever looks for these sees that it is not over. Gives what was stored before, for the case that nothing comes of it.
pub(in crate::commands) async fn again_from_now(ids: impl IntoIterator<Item = String>, place: &Place) -> Result<Vec<Stored>, Fault> {
    let ids: Vec<String> = ids.into_iter().collect();
    let (mut before, mut again) = (Vec::new(), Vec::new());
    for ids in ids.chunks(AT_ONCE) {
        let keys: Vec<Key> = ids.iter().cloned().map(Key::Task).collect();
        let documents = place.client.results().get(&keys).await?;
        for (id, doc) in ids.iter().zip(documents) {
            // What cannot be read says nothing that would have to be taken back.
            let Some((doc, stored)) = doc.and_then(|doc| TaskResult::decode(&doc, LONGEST).ok().map(|stored| (doc, stored))) else {
                continue;
            };
            if stored.state.is_ready() {
                again.push(document(id.clone(), TaskResult { state: State::Retry, date_done: None, ..stored }.encode()));
                before.push(document(id.clone(), doc));
            }
        }
    }
    if !again.is_empty() {
        place.client.results().store(&again).await?;
    }
    Ok(before)
}

pub(super) async fn cancel(which: &Which, signal: Option<&str>, yes: bool, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let alive = [Standing::Started, Standing::Held, Standing::Waiting, Standing::Retry, Standing::Later];
    let Some(rows) = meant(which, &alive, "cancel", yes, place).await? else { return Ok(0) };
    let mut worst = 0;
    let (mut off, mut documents) = (Vec::new(), Vec::new());
    for row in &rows {
        if row.standing == Standing::Dead {
            refuse(&mut worst, 1, &row.id, "it is a dead letter, which nobody runs (longshore dead purge)");
            continue;
        }
        if row.standing.has_ended() {
            refuse(&mut worst, 1, &row.id, &format!("it has ended: {}", row.standing.word()));
            continue;
        }
        if matches!(row.standing, Standing::Waiting | Standing::Retry | Standing::Later) {
            let known = row.stored.clone().unwrap_or_else(|| TaskResult { task_id: row.id.clone(), ..TaskResult::default() });
            let revoked = TaskResult {
                state: State::Revoked,
                result: Exception::revoked("revoked").to_value(),
                traceback: None,
                children: Value::List(Vec::new()),
                date_done: Some(SystemTime::now()),
                ..known
            };
            documents.push(document(row.id.clone(), revoked.encode()));
        }
        off.push(row);
    }
    // Also what nobody knows: a message that was given to a worker is in no queue.
    let mut ids: Vec<String> = off.iter().map(|row| row.id.clone()).collect();
    ids.extend(which.ids.iter().filter(|id| !rows.iter().any(|row| row.id == **id)).cloned());
    if !ids.is_empty() {
        place.broker().revoke(&ids).await?;
        place.client.results().store(&documents).await?;
        let named: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut request = Request::new("revoke").argument("task_id", named);
        if let Some(signal) = signal {
            request = request.argument("terminate", true).argument("signal", signal);
        }
        ask(place.broker(), request, PATIENCE).await?;
    }
    for row in &off {
        let held = matches!(row.standing, Standing::Held | Standing::Started);
        let by = row.worker.as_deref().unwrap_or("a worker");
        let more = match signal {
            None if held => format!("; {by} has it: if it runs already, it goes on (--terminate ends it)"),
            Some(signal) if held => format!("; {by} was told to end it with {signal}"),
            _ => String::new(),
        };
        said(place, out, &row.id, "called off", &more)?;
    }
    finish(which, &rows, off.len() as u64, "called off", worst, place, out)
}

/// The sum of a filter, and the ids that nobody knows.
fn finish(which: &Which, rows: &[Row], count: u64, done: &str, worst: u8, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    let mut worst = worst;
    if which.ids.is_empty() && !place.json {
        writeln!(out, "{} {} {done}", show_count(count), tasks(count))?;
    }
    out.flush()?;
    for id in which.ids.iter().filter(|id| !rows.iter().any(|row| row.id == **id)) {
        refuse(&mut worst, 9, id, &unknown().message);
    }
    Ok(worst)
}

//! `tasks retry` and `tasks cancel`.

use std::{io::Write, time::SystemTime};

use longshore_ops::tasks::{self, CancelRefusal, CancelRequest, RetryDone, RetryRefusal, TaskInfo, TaskStanding, each};
use serde_json::json;

use super::which::{Which, notes};
use crate::{
    commands::{queues::tasks as word, why::unknown},
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{plain, whereabouts},
    },
    units::show_count,
};

/// Most tasks that are changed by one command; the rest by the next.
const MOST: usize = 10_000;

/// Finds the tasks that are meant: of ids each one, else those that stand so.
async fn meant(which: &Which, standing: &[TaskStanding], verb: &str, yes: bool, place: &Place) -> Result<Option<Vec<TaskInfo>>, Fault> {
    if !which.ids.is_empty() {
        return Ok(Some(each(&place.client, &which.ids).await?));
    }
    if let Some(state) = which.state.iter().find(|state| !standing.contains(state)) {
        let words: Vec<_> = standing.iter().map(|state| state.word()).collect();
        let (state, words) = (state.word(), words.join(", "));
        return Err(Fault::usage(format!("--state {state}: to {verb} are tasks that are {words}")));
    }
    let mut request = which.request(MOST);
    if request.standing.is_empty() {
        request.standing = standing.to_vec();
    }
    let list = tasks::list(&place.client, &request).await?;
    for note in notes(&list) {
        eprintln!("longshore: {}", plain(&note));
    }
    let count = list.tasks.len() as u64;
    let of = if list.matched > list.tasks.len() { format!(" (of {})", show_count(list.matched as u64)) } else { String::new() };
    if count > 0 && !place.confirm(&format!("{verb} {} {}{of}?", show_count(count), word(count)), yes)? {
        return Ok(None);
    }
    Ok(Some(list.tasks))
}

/// Says what became of one task.
fn said(place: &Place, out: &mut dyn Write, id: &str, done: &str, more: &str) -> Result<(), Fault> {
    match place.json {
        true => writeln!(out, "{}", json!({ "id": id, done.replace(' ', "_"): true }))?,
        false => writeln!(out, "{}  {done}{}", plain(id), plain(more))?,
    }
    Ok(())
}

/// Says on stderr what could not be done, and keeps the exit code.
fn refuse(worst: &mut Exit, exit: Exit, id: &str, why: &str) {
    *worst = worst.or(exit);
    eprintln!("longshore: {}: {}", plain(id), plain(why));
}

pub(super) async fn retry(which: &Which, yes: bool, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let again = [TaskStanding::Dead, TaskStanding::Failure, TaskStanding::Revoked];
    let Some(found) = meant(which, &again, "retry", yes, place).await? else { return Ok(Exit::Done) };
    let (mut worst, mut count) = (Exit::Done, 0_u64);
    // One after the other, so that each is told as it is done.
    for task in &found {
        match tasks::retry(&place.client, task).await? {
            RetryDone::Sent { queue, new_id } => {
                count += 1;
                let queue = queue.map(|queue| format!(" to queue {queue}")).unwrap_or_default();
                let new_id = new_id.map(|id| format!(" as {id}")).unwrap_or_default();
                said(place, out, &task.id, "sent again", &format!("{queue}{new_id}"))?;
            }
            RetryDone::Refused(why) => refuse(&mut worst, Exit::Failed, &task.id, &why_not_again(&why)),
            _ => {}
        }
    }
    finish(which, &found, count, "sent again", worst, place, out)
}

/// Returns why a task was not sent again, for people.
fn why_not_again(why: &RetryRefusal) -> String {
    match why {
        RetryRefusal::InBroker(found) => format!("it {}", whereabouts(found, None, SystemTime::now())),
        RetryRefusal::NoEnd => "its result is no end: it may still run somewhere".to_owned(),
        RetryRefusal::Succeeded => "it has succeeded; `longshore call` runs it once more under another id".to_owned(),
        RetryRefusal::NoArguments => {
            "its message was not kept (by a worker of Celery's, or too many came after it: `?kept_messages=` of Redis); \
             send it anew with `longshore call`"
                .to_owned()
        }
        RetryRefusal::TooLate => "somebody else was faster".to_owned(),
        _ => "it cannot be sent again".to_owned(),
    }
}

pub(super) async fn cancel(which: &Which, signal: Option<&str>, yes: bool, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let alive = [TaskStanding::Started, TaskStanding::Held, TaskStanding::Waiting, TaskStanding::Retry, TaskStanding::Later];
    let Some(found) = meant(which, &alive, "cancel", yes, place).await? else { return Ok(Exit::Done) };
    // Also what nobody knows: a message that was given to a worker is in no queue.
    let mut request = CancelRequest::of(found, &which.ids);
    request.signal = signal.map(str::to_owned);
    let done = tasks::cancel(&place.client, &request).await?;
    let mut worst = Exit::Done;
    for refused in &done.refused {
        refuse(&mut worst, Exit::Failed, &refused.id, why_not_off(refused.why));
    }
    for task in &done.called_off {
        let held = matches!(task.standing, TaskStanding::Held | TaskStanding::Started);
        let by = task.worker.as_deref().unwrap_or("a worker");
        let more = match signal {
            None if held => format!("; {by} has it: if it runs already, it goes on (--terminate ends it)"),
            Some(signal) if held => format!("; {by} was told to end it with {signal}"),
            _ => String::new(),
        };
        said(place, out, &task.id, "called off", &more)?;
    }
    finish(which, &request.tasks, done.called_off.len() as u64, "called off", worst, place, out)
}

/// Returns why a task was not called off, for people.
fn why_not_off(why: CancelRefusal) -> &'static str {
    match why {
        CancelRefusal::Dead => "it is a dead letter, which nobody runs (longshore dead purge)",
        CancelRefusal::Success => "it has ended: success",
        CancelRefusal::Failure => "it has ended: failure",
        CancelRefusal::Revoked => "it has ended: revoked",
        _ => "it cannot be called off",
    }
}

/// Says the sum of a filter, and the ids that nobody knows.
fn finish(
    which: &Which,
    found: &[TaskInfo],
    count: u64,
    done: &str,
    worst: Exit,
    place: &Place,
    out: &mut dyn Write,
) -> Result<Exit, Fault> {
    let mut worst = worst;
    if which.ids.is_empty() && !place.json {
        writeln!(out, "{} {} {done}", show_count(count), word(count))?;
    }
    out.flush()?;
    for id in which.ids.iter().filter(|id| !found.iter().any(|task| task.id == **id)) {
        refuse(&mut worst, Exit::Unknown, id, &unknown(place).message);
    }
    Ok(worst)
}

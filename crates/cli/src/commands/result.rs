//! `longshore result`: look up, or wait for, the results of tasks.

use std::{
    collections::HashMap,
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use longshore_brokers::Found;
use longshore_celery::{State, TaskResult};
use longshore_ops::{TaskAtWorker, tasks::ResultInfo, tasks_at_workers};
use longshore_worker::ClientError;
use serde_json::json;

use super::why::unknown;
use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{at_worker, json_line, whereabouts},
        wait,
    },
    units,
};

/// `longshore result`: 0 success, 1 failure, 8 not ready (in time), 9 id unknown; of several ids
/// the largest.
#[derive(Args, Clone, Debug)]
pub struct ResultArgs {
    /// Ids of tasks
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// Wait for them, for so long at most, all together [for ever]
    #[arg(short = 'w', long, value_name = "DUR", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = patience)]
    pub wait: Option<Patience>,
    /// Also show the traceback of a failure
    #[arg(long)]
    pub traceback: bool,
}

/// Time that somebody waits; without one, for ever.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Option<Duration>);

/// Reads how long somebody waits; nothing is for ever.
pub(super) fn patience(text: &str) -> Result<Patience, String> {
    if text.is_empty() { Ok(Patience(None)) } else { units::duration(text).map(|limit| Patience(Some(limit))) }
}

/// Everything that results and broker know of a task.
struct Look {
    stored: Option<TaskResult>,
    found: Vec<Found>,
}

impl Look {
    async fn at(id: &str, place: &Place) -> Result<Self, Fault> {
        let answer = place.client.result(id);
        let mut stored = answer.stored().await?;
        let mut found = Vec::new();
        if !stored.as_ref().is_some_and(|stored| stored.state.is_ready()) {
            // Where the broker lets nobody look, the result backend alone knows.
            if let Some(inspect) = &place.connected().inspect {
                found = inspect.find(id).await?;
            }
            if found.is_empty() {
                // It may have ended between the two looks.
                stored = answer.stored().await?;
            }
        }
        Ok(Self { stored, found })
    }

    fn is_unknown(&self) -> bool {
        self.stored.is_none() && self.found.is_empty()
    }

    fn is_ready(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.state.is_ready())
    }
}

/// Runs the command.
///
/// # Errors
/// The backend's, and those of `out`.
pub async fn run(args: &ResultArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    // One limit for all of them together.
    let until = args.wait.and_then(|Patience(limit)| Instant::now().checked_add(limit?));
    let mut worst = Exit::Done;
    let several = args.ids.len() > 1;
    let mut known = None;
    for (n, id) in args.ids.iter().enumerate() {
        let mut look = Look::at(id, place).await?;
        if look.is_unknown() {
            if known.is_none() {
                known = Some(known_of(&args.ids[n..], place).await?);
            }
            // It may have ended since, or been sent by another that was waited for.
            look = Look::at(id, place).await?;
        }
        let known = known.as_ref().and_then(|known| known.get(id));
        if look.is_unknown() && known.is_none() {
            worst = worst.or(Exit::Unknown);
            tell(several, id, &unknown(place).message);
            continue;
        }
        let asked = Asked { id, at: known.and_then(Option::as_ref), until, several, args, place };
        match asked.answer(look, out).await {
            Ok(exit) => worst = worst.or(exit),
            Err(Fault { exit: exit @ (Exit::Failed | Exit::NotReady | Exit::Unknown), message }) => {
                worst = worst.or(exit);
                tell(several, id, &message);
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(worst)
}

/// Those of the ids that somebody knows, with what workers say of those that nobody else knows. All
/// are asked for at once: where nobody answers, that takes its time.
async fn known_of(ids: &[String], place: &Place) -> Result<HashMap<String, Option<TaskAtWorker>>, Fault> {
    let (mut known, mut missing) = (HashMap::new(), Vec::new());
    for id in ids {
        match Look::at(id, place).await {
            Ok(look) if look.is_unknown() => missing.push(id.as_str()),
            // What goes wrong is told when it is its turn.
            _ => drop(known.insert(id.clone(), None)),
        }
    }
    let at = tasks_at_workers(&place.client, &missing).await?;
    known.extend(at.into_iter().map(|(id, at)| (id, Some(at))));
    Ok(known)
}

fn tell(several: bool, id: &str, message: &str) {
    eprintln!("longshore: {}{message}", if several { format!("{id}: ") } else { String::new() });
}

/// An id that was asked for, and that somebody knows.
struct Asked<'a> {
    id: &'a str,
    /// A worker's account of it, if nobody else knows it.
    at: Option<&'a TaskAtWorker>,
    until: Option<Instant>,
    several: bool,
    args: &'a ResultArgs,
    place: &'a Place,
}

impl Asked<'_> {
    async fn answer(&self, mut look: Look, out: &mut dyn Write) -> Result<Exit, Fault> {
        let Self { id, until, several, args, place, .. } = *self;
        let answer = place.client.result(id);
        if !look.is_ready() {
            let Some(Patience(limit)) = args.wait else { return self.not_ready(&look, out) };
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match wait::result(place, &answer, left).await {
                Ok(_) | Err(ClientError::Remote(_)) => look.stored = answer.stored().await?,
                Err(ClientError::TimedOut { id, .. }) => {
                    return Err(ClientError::TimedOut { id, waited: limit.unwrap_or_default() }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(stored) = look.stored else { return Err(unknown(place)) };
        if place.json {
            json_line(out, &ResultInfo::of(id, &stored))?;
            return Ok(if stored.state == State::Success { Exit::Done } else { Exit::Failed });
        }
        if stored.state == State::Success {
            if several {
                write!(out, "{id}  ")?;
            }
            wait::print(&stored.result, false, out)?;
            return Ok(Exit::Done);
        }
        Err(Fault::new(Exit::Failed, wait::failure(id, &stored, args.traceback)))
    }

    fn not_ready(&self, look: &Look, out: &mut dyn Write) -> Result<Exit, Fault> {
        let state = look.stored.as_ref().map_or(State::Pending, |stored| stored.state.clone());
        if self.place.json {
            writeln!(out, "{}", json!({ "task_id": self.id, "status": state.as_str() }))?;
            return Ok(Exit::NotReady);
        }
        let place = look.found.first().map(|found| whereabouts(found, None, SystemTime::now()));
        let place = place.or_else(|| self.at.filter(|_| look.stored.is_none()).map(at_worker));
        Err(Fault::new(Exit::NotReady, place.map_or_else(|| format!("not ready: {state}"), |place| format!("not ready: it {place}"))))
    }
}

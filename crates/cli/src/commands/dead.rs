//! `longshore dead`: list, show, retry, purge.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use longshore_ops::dead::{DeadInfo, DeadRequest, dropped, list, purge, retry};

use super::queues::tasks;
use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{brief, cut, json_line, plain, time},
    },
    units::{self, show_count, show_duration},
};

/// `longshore dead …`
#[derive(Subcommand, Clone, Debug)]
pub enum DeadCommand {
    /// All of them, the latest first (the default)
    List {
        /// The dead letters.
        #[command(flatten)]
        which: Which,
    },
    /// One, with its message
    Show {
        /// Its task's id
        id: String,
    },
    /// Put them back into their queues, with their crashes forgotten
    Retry {
        /// The dead letters.
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
    /// Throw them away
    Purge {
        /// The dead letters.
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short = 'y', long, visible_alias = "force")]
        yes: bool,
    },
}

/// Choice of dead letters: those for which all of it is true.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Ids of tasks
    ids: Vec<String>,
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of this task
    #[arg(long)]
    task: Option<String>,
    /// With this text in the reason
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Not older than this
    #[arg(long, value_name = "DUR", value_parser = units::duration)]
    since: Option<Duration>,
}

impl From<Which> for DeadRequest {
    fn from(which: Which) -> Self {
        let Which { ids, queue, task, error, since } = which;
        let mut request = Self::default();
        (request.ids, request.queue, request.task, request.error, request.since) = (ids, queue, task, error, since);
        request
    }
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(command: Option<DeadCommand>, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    match command.unwrap_or(DeadCommand::List { which: Which::default() }) {
        DeadCommand::List { which } => {
            let unlisted = place.broker().unlisted().filter(|_| which.queue.is_none() && !place.quiet);
            let found = list(&place.client, &which.into()).await?;
            say_what_was_dropped(place, &found).await?;
            if let Some(why) = unlisted {
                eprintln!("longshore: {why}");
            }
            if place.json {
                found.iter().try_for_each(|dead| json_line(out, dead))?;
            } else {
                table(&found, out)?;
            }
        }
        DeadCommand::Show { id } => {
            for dead in list(&place.client, &DeadRequest::one(id)).await? {
                if place.json {
                    json_line(out, &dead)?;
                    continue;
                }
                let letter = &dead.letter;
                writeln!(out, "{}", brief(&dead.message))?;
                writeln!(out, "  queue    {}", plain(&letter.queue))?;
                writeln!(out, "  died     {}   crashes {}", time(letter.at), letter.crashes)?;
                writeln!(out, "  reason   {}", plain(&letter.reason))?;
                writeln!(out, "  message  {}", plain(&cut(&String::from_utf8_lossy(&letter.raw), 4000)))?;
            }
        }
        DeadCommand::Retry { which, yes } => return bury(place, which, yes, true, out).await,
        DeadCommand::Purge { which, yes } => return bury(place, which, yes, false, out).await,
    }
    Ok(Exit::Done)
}

/// A list that is not whole says so.
async fn say_what_was_dropped(place: &Place, found: &[DeadInfo]) -> Result<(), Fault> {
    if place.quiet {
        return Ok(());
    }
    for fewer in dropped(&place.client, found).await? {
        let (dropped, kept) = (show_count(fewer.dropped), show_count(fewer.kept));
        eprintln!("longshore: {dropped} older dead letters of {} were dropped; the latest {kept} are kept", plain(&fewer.queue));
    }
    Ok(())
}

async fn bury(place: &Place, which: Which, yes: bool, again: bool, out: &mut dyn Write) -> Result<Exit, Fault> {
    let found = list(&place.client, &which.into()).await?;
    let count = found.len() as u64;
    let back = if count == 1 { "back in its queue" } else { "back in their queues" };
    let (verb, said) = if again { ("retry", back) } else { ("throw away", "thrown away") };
    if count > 0 && !place.confirm(&format!("{verb} {} {}?", show_count(count), tasks(count)), yes)? {
        return Ok(Exit::Done);
    }
    let done = if again { retry(&place.client, &found).await? } else { purge(&place.client, &found).await? };
    match place.json {
        true => json_line(out, &done)?,
        false => writeln!(out, "{} {} {said}", show_count(done.count()), tasks(done.count()))?,
    }
    Ok(Exit::Done)
}

fn table(found: &[DeadInfo], out: &mut dyn Write) -> std::io::Result<()> {
    if found.is_empty() {
        return writeln!(out, "no dead letters");
    }
    let now = SystemTime::now();
    let wide = found.iter().map(|dead| dead.message.task.chars().count()).max().unwrap_or(0).max(4);
    writeln!(out, "{:<36}  {:<wide$}  {:<10}  {:>8}  REASON", "ID", "TASK", "QUEUE", "AGE")?;
    for dead in found {
        let age = show_duration(now.duration_since(dead.letter.at).unwrap_or_default());
        // What cannot be read has no id, but can be named all the same.
        let [id, task, queue, reason] = [dead.id(), &dead.message.task, &dead.letter.queue, &dead.letter.reason].map(plain);
        writeln!(out, "{id:<36}  {task:<wide$}  {queue:<10}  {age:>8}  {}", cut(&reason, 120))?;
    }
    Ok(())
}

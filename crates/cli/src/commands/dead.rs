//! `longshore dead`: list, show, retry, purge.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use longshore_brokers::DeadLetter;
use serde_json::{Value as Json, json};

use super::queues::tasks;
use crate::{
    queue::{
        Fault, Place,
        show::{Brief, cut, plain, time},
    },
    units::{self, show_count, show_duration},
};

/// `longshore dead …`
#[derive(Subcommand, Clone, Debug)]
pub enum DeadCommand {
    /// All of them, the latest first (the default)
    List {
        /// Which ones.
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
        /// Which ones.
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
    /// Throw them away
    Purge {
        /// Which ones.
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short = 'y', long, visible_alias = "force")]
        yes: bool,
    },
}

/// Which dead letters: those for which all of it is true.
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

impl Which {
    fn matches(&self, letter: &DeadLetter, brief: &Brief, now: SystemTime) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| *id == brief.id || *id == letter.key))
            && self.task.as_ref().is_none_or(|task| *task == brief.task)
            && self.error.as_ref().is_none_or(|text| letter.reason.contains(text.as_str()))
            && self.since.is_none_or(|since| now.duration_since(letter.at).unwrap_or_default() <= since)
    }

    async fn find(&self, place: &Place) -> Result<Vec<(DeadLetter, Brief)>, Fault> {
        let now = SystemTime::now();
        let letters = place.broker().dead(self.queue.as_deref()).await?;
        let all = letters.into_iter().map(|letter| {
            let brief = Brief::of(&letter.raw);
            (letter, brief)
        });
        let found: Vec<_> = all.filter(|(letter, brief)| self.matches(letter, brief, now)).collect();
        for id in &self.ids {
            if !found.iter().any(|(letter, brief)| *id == brief.id || *id == letter.key) {
                return Err(Fault { code: 9, message: format!("no dead letter of task {id}") });
            }
        }
        Ok(found)
    }
}

/// Runs the command.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(command: Option<DeadCommand>, place: &Place, out: &mut dyn Write) -> Result<u8, Fault> {
    match command.unwrap_or(DeadCommand::List { which: Which::default() }) {
        DeadCommand::List { which } => {
            let found = which.find(place).await?;
            if place.json {
                found.iter().try_for_each(|(letter, brief)| writeln!(out, "{}", json(letter, brief)))?;
            } else {
                table(&found, out)?;
            }
        }
        DeadCommand::Show { id } => {
            let which = Which { ids: vec![id], ..Which::default() };
            for (letter, brief) in which.find(place).await? {
                if place.json {
                    writeln!(out, "{}", json(&letter, &brief))?;
                    continue;
                }
                writeln!(out, "{}", brief.text())?;
                writeln!(out, "  queue    {}", plain(&letter.queue))?;
                writeln!(out, "  died     {}   crashes {}", time(letter.at), letter.crashes)?;
                writeln!(out, "  reason   {}", plain(&letter.reason))?;
                writeln!(out, "  message  {}", plain(&cut(&String::from_utf8_lossy(&letter.raw), 4000)))?;
            }
        }
        DeadCommand::Retry { which, yes } => return bury(place, &which, yes, true, out).await,
        DeadCommand::Purge { which, yes } => return bury(place, &which, yes, false, out).await,
    }
    Ok(0)
}

async fn bury(place: &Place, which: &Which, yes: bool, retry: bool, out: &mut dyn Write) -> Result<u8, Fault> {
    let found = which.find(place).await?;
    let count = found.len() as u64;
    let back = if count == 1 { "back in its queue" } else { "back in their queues" };
    let (verb, done) = if retry { ("retry", back) } else { ("throw away", "thrown away") };
    if count > 0 && !place.confirm(&format!("{verb} {} {}?", show_count(count), tasks(count)), yes)? {
        return Ok(0);
    }
    let letters: Vec<DeadLetter> = found.into_iter().map(|(letter, _)| letter).collect();
    let buried = if letters.is_empty() { 0 } else { place.broker().bury(&letters, retry).await? };
    match place.json {
        true => writeln!(out, "{}", json!({ if retry { "retried" } else { "purged" }: buried }))?,
        false => writeln!(out, "{} {} {done}", show_count(buried), tasks(buried))?,
    }
    Ok(0)
}

fn json(letter: &DeadLetter, brief: &Brief) -> Json {
    json!({
        "id": brief.id,
        "task": brief.task,
        "queue": letter.queue,
        "at": time(letter.at),
        "reason": letter.reason,
        "crashes": letter.crashes,
        "message": String::from_utf8_lossy(&letter.raw),
    })
}

fn table(found: &[(DeadLetter, Brief)], out: &mut dyn Write) -> std::io::Result<()> {
    if found.is_empty() {
        return writeln!(out, "no dead letters");
    }
    let now = SystemTime::now();
    let wide = found.iter().map(|(_, brief)| brief.task.chars().count()).max().unwrap_or(0).max(4);
    writeln!(out, "{:<36}  {:<wide$}  {:<10}  {:>8}  REASON", "ID", "TASK", "QUEUE", "AGE")?;
    for (letter, brief) in found {
        let age = show_duration(now.duration_since(letter.at).unwrap_or_default());
        let [id, task, queue, reason] = [&brief.id, &brief.task, &letter.queue, &letter.reason].map(|text| plain(text));
        writeln!(out, "{id:<36}  {task:<wide$}  {queue:<10}  {age:>8}  {}", cut(&reason, 120))?;
    }
    Ok(())
}

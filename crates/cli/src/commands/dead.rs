//! `longshore dead`: list, show, retry, purge.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use longshore_brokers::DeadLetter;
use serde_json::{Value as Json, json};

use super::{queues::tasks, tasks::again_from_now};
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
            say_what_was_dropped(place, &found).await?;
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

/// A list that is not whole says so.
async fn say_what_was_dropped(place: &Place, found: &[(DeadLetter, Brief)]) -> Result<(), Fault> {
    let names: BTreeSet<Arc<str>> = found.iter().map(|(letter, _)| Arc::from(letter.queue.as_str())).collect();
    if names.is_empty() || place.quiet {
        return Ok(());
    }
    for state in place.broker().queues(&names.into_iter().collect::<Vec<_>>()).await? {
        if state.dead_dropped > 0 {
            let (dropped, kept) = (show_count(state.dead_dropped), show_count(state.dead));
            eprintln!("longshore: {dropped} older dead letters of {} were dropped; the latest {kept} are kept", plain(&state.name));
        }
    }
    Ok(())
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
    let buried = match (letters.is_empty(), retry) {
        (true, _) => 0,
        (false, true) => put_back(&letters, place).await?,
        (false, false) => place.broker().bury(&letters, false).await?,
    };
    match place.json {
        true => writeln!(out, "{}", json!({ if retry { "retried" } else { "purged" }: buried }))?,
        false => writeln!(out, "{} {} {done}", show_count(buried), tasks(buried))?,
    }
    Ok(0)
}

/// Puts letters back into their queues. Before that, whoever looks for their results sees that it is not over.
pub(super) async fn put_back(letters: &[DeadLetter], place: &Place) -> Result<u64, Fault> {
    let ids = letters.iter().map(|letter| Brief::of(&letter.raw).id).filter(|id| !id.is_empty());
    let before = again_from_now(ids, place).await?;
    match place.broker().bury(letters, true).await {
        Ok(back) => Ok(back),
        Err(error) => {
            // As it was: nobody shall wait for what was not sent.
            place.client.results().store(&before).await?;
            Err(error.into())
        }
    }
}

fn json(letter: &DeadLetter, brief: &Brief) -> Json {
    json!({
        "key": letter.key,
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
        // What cannot be read has no id, but can be named all the same.
        let id = if brief.id.is_empty() { &letter.key } else { &brief.id };
        let [id, task, queue, reason] = [id, &brief.task, &letter.queue, &letter.reason].map(|text| plain(text));
        writeln!(out, "{id:<36}  {task:<wide$}  {queue:<10}  {age:>8}  {}", cut(&reason, 120))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_cannot_be_read_has_a_name_all_the_same() {
        let letter = DeadLetter {
            key: "17".to_owned(),
            queue: "q".to_owned(),
            at: SystemTime::now(),
            reason: "no task".to_owned(),
            crashes: 0,
            raw: b"nonsense".to_vec(),
        };
        let brief = Brief::of(&letter.raw);
        let document = json(&letter, &brief);
        assert_eq!((document["key"].as_str(), document["id"].as_str()), (Some("17"), Some("")));
        let which = Which { ids: vec!["17".to_owned()], ..Which::default() };
        assert!(which.matches(&letter, &brief, SystemTime::now()));
        let mut out = Vec::new();
        table(&[(letter, brief)], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("17 ") && line.ends_with("no task")), "{text}");
    }
}
